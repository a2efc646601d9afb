"""Test vectors: the same bytes for the same seed, judged results, and no file that is taken on trust."""

import contextlib
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from refimpl import cli
from refimpl.oracle import all_specs, find_spec, vectors
from refimpl.primitives import attention

SPEC = "primitives/linear_attention"
FILE = "primitives.linear_attention.float32.safetensors"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vectors")
    vectors.write(directory, [find_spec(SPEC)], ["float32"], n_cases=4)
    return directory


@pytest.fixture
def written(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "vectors"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which ``refimpl vectors verify`` exits with status 2."""
    with pytest.raises(SystemExit) as leaving:
        raise SystemExit(cli.main(["vectors", "verify", *map(str, arguments)]))
    captured = capsys.readouterr()
    assert leaving.value.code == 2, captured.out
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("refimpl: ")
    return captured.err


def results(directory: Path) -> dict[str, Any]:
    """What the reference computes from the inputs in the file, as somebody else would."""
    tensors = safetensors.numpy.load_file(directory / FILE)
    computed = {}
    for case in sorted({name.split("/")[0] for name in tensors}):
        given = {name.split("/", 2)[2]: x for name, x in tensors.items() if name.startswith(f"{case}/input/")}
        arguments = {name: given[name] for name in ("query", "key", "value")}
        arguments |= {"causal": bool(given["causal"]), "key_mask": given.get("key_mask")}
        output, pullback = attention.linear_attention_vjp(**arguments)
        computed[f"{case}/output/output"] = output
        found = pullback(tensors[f"{case}/cotangent/output"])
        computed |= {f"{case}/gradient/{name}": x for name, x in zip(("query", "key", "value"), found, strict=True)}
    return {name: np.ascontiguousarray(x) for name, x in computed.items()}


def save(directory: Path, tensors: dict[str, Any]) -> Path:
    directory.mkdir(exist_ok=True)
    safetensors.numpy.save_file(tensors, directory / FILE)
    return directory


def test_the_same_seed_gives_the_same_bytes(pristine: Path, tmp_path: Path) -> None:
    vectors.write(tmp_path / "again", [find_spec(SPEC)], ["float32"], n_cases=4)
    vectors.write(tmp_path / "other", [find_spec(SPEC)], ["float32"], n_cases=4, seed=1)
    for name in (FILE, vectors.MANIFEST):
        assert (tmp_path / "again" / name).read_bytes() == (pristine / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (pristine / name).read_bytes()


def test_the_manifest(pristine: Path) -> None:
    manifest = json.loads((pristine / vectors.MANIFEST).read_text())
    assert (manifest["format"], manifest["licence"], manifest["seed"]) == (1, "MIT", 0)
    (entry,) = manifest["files"]
    assert (entry["file"], entry["spec"], entry["dtype"]) == (FILE, SPEC, "float32")
    assert entry["sha256"] == hashlib.sha256((pristine / FILE).read_bytes()).hexdigest()
    tensors = safetensors.numpy.load_file(pristine / FILE)
    assert len(entry["cases"]) == 4
    for index, case in enumerate(entry["cases"]):
        for name, (dtype, shape) in case["tensors"].items():
            tensor = tensors[f"{index}/{name}"]
            assert list(tensor.shape) == shape
            assert {"F64": "float64", "F32": "float32", "BOOL": "bool"}[dtype] == tensor.dtype.name


def test_results_are_judged(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = results(written)
    assert cli.main(["vectors", "verify", str(written), "--outputs", str(save(tmp_path / "mine", right))]) == 0
    assert capsys.readouterr().out == f"{FILE}: ok, 16 results\n"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda found: found["3/output/output"].__imul__(1.001), "3/output/output is off by"),
        (lambda found: found["2/gradient/key"].__imul__(-1), "2/gradient/key is off by"),
        (lambda found: found["1/gradient/key"].fill(np.nan), "1/gradient/key is off by nan"),
        (lambda found: found.pop("3/gradient/value"), "3/gradient/value is missing"),
        (lambda found: found.update({"0/output/output": np.zeros((7,), np.float32)}), "has shape (7,), expected"),
    ],
)
def test_wrong_results(
    edit: Callable[[Any], Any], message: str, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results(written)
    edit(found)
    assert cli.main(["vectors", "verify", str(written), "--outputs", str(save(tmp_path / "mine", found))]) == 1
    assert message in capsys.readouterr().out


def test_outputs_alone_may_be_given(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = {name: x for name, x in results(written).items() if "/output/" in name}
    assert cli.main(["vectors", "verify", str(written), "--outputs", str(save(tmp_path / "mine", outputs))]) == 0
    assert "ok, 4 results, 12 gradients not given" in capsys.readouterr().out


def test_no_results(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vectors", "verify", str(written), "--outputs", str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"{FILE}: no results\n"


def test_specs_of_every_paper_have_vectors(tmp_path: Path) -> None:
    papers = {name.split("/")[0]: spec for name, spec in all_specs().items()}
    vectors.write(tmp_path, list(papers.values()), ["float64", "float32", "float16"], n_cases=1)
    assert all(problem == "" for _, problem, _ in vectors.verify(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "bfloat16"], "dtype: expected float64, float32 or float16, got 'bfloat16'"),
        (["--dtype", "int8"], "dtype: expected one of float64, float32, float16, bfloat16, got 'int8'"),
        (["--spec", "primitives/sofmax"], "no spec 'primitives/sofmax'; did you mean primitives/softmax"),
        (["--cases", "0"], "n_cases"),
        ([], "holds vectors already"),
    ],
)
def test_what_cannot_be_written(
    arguments: list[str], message: str, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        raise SystemExit(cli.main(["vectors", "write", str(written), *arguments]))
    assert leaving.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


# --- files that are refused ------------------------------------------------------------------------------------------


def rewrite_manifest(directory: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = directory / vectors.MANIFEST
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def replace(directory: Path, content: bytes) -> None:
    """Other content, with its digest in the manifest: what somebody does who means harm."""
    (directory / FILE).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    rewrite_manifest(directory, lambda manifest: manifest["files"][0].update(sha256=digest))


def header(tensors: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(tensors).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


HUGE = 2**62


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 64,
        header({}, length=HUGE),
        header({"0/output/output": {"dtype": "F32", "shape": [HUGE, HUGE], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"0/output/output": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}, b"\0" * 4),
        header({"0/output/output": {"dtype": "F32", "shape": [0, HUGE, HUGE], "data_offsets": [0, 0]}}),
        header({"0/output/output": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"0/output/output": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"\0" * 4),
        header({"0/output/output": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, b"\0" * 4),
        header({"0/output/output": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"0/output/output": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"0/output/output": {"dtype": "O", "shape": [4], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"0/output/output": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"nonsense": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"a\nb": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}}, b"\0" * 4),
        b"\x08\0\0\0\0\0\0\0[[[[[[[[",
    ],
    ids=range(17),
)
def test_a_hostile_file(content: bytes, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace(written, content)
    refused(capsys, written)
    shutil.copyfile(written / FILE, written.parent / FILE)
    refused(capsys, written, "--outputs", written.parent)


@pytest.mark.parametrize("name", ["0/allowed/output", "2/allowed/gradient of key"])
@pytest.mark.parametrize("value", [np.nan, -1.0, None, [1.0, 2.0]])
def test_a_file_that_allows_anything(name: str, value: Any, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = safetensors.numpy.load_file(written / FILE)
    case, _, rest = name.partition("/")

    def describe(manifest: dict[str, Any]) -> None:
        described = manifest["files"][0]["cases"][int(case)]["tensors"]
        if value is None:
            del described[rest]
        else:
            described[rest] = ["F64", list(np.shape(value))]

    if value is None:
        del tensors[name]
    else:
        tensors[name] = np.array(value)
    rewrite_manifest(written, describe)
    replace(written, safetensors.numpy.save(tensors))
    assert f"no allowed error of '{case}/" in refused(capsys, written)


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "C:x", "x\ny", "nul\0", "missing"],
)
def test_a_hostile_name(name: str, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(written / FILE, written.parent / "outside.safetensors")
    rewrite_manifest(written, lambda manifest: manifest["files"][0].update(file=name))
    refused(capsys, written)


def test_links_and_pipes(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (written / FILE).rename(written.parent / "elsewhere")
    (written / FILE).symlink_to(written.parent / "elsewhere")
    assert "is not a plain name in the folder" in refused(capsys, written)
    (written / FILE).unlink()
    os.mkfifo(written / FILE)
    assert "no such file" in refused(capsys, written)


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest.update(format=2),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest.update(files={}),
        lambda manifest: manifest["files"].append(None),
        lambda manifest: manifest["files"][0].pop("sha256"),
        lambda manifest: manifest["files"][0].update(sha256="0" * 64),
        lambda manifest: manifest["files"][0].update(sha256=None),
        lambda manifest: manifest["files"][0].update(cases=None),
        lambda manifest: manifest["files"][0]["cases"].pop(),
        lambda manifest: manifest["files"][0]["cases"].append({}),
        lambda manifest: manifest["files"][0]["cases"][0]["tensors"].popitem(),
        lambda manifest: manifest["files"][0]["cases"][0]["tensors"].update({"output/output": ["F64", [1]]}),
        lambda manifest: manifest["files"][0]["cases"][0]["tensors"].update({"output/output": None}),
    ],
)
def test_a_manifest_that_does_not_fit(
    edit: Callable[[Any], Any], written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_manifest(written, edit)
    refused(capsys, written)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"format": NaN}', b'{"format": 1, "format": 1}', b"\xff\xfe"]
)
def test_no_manifest(text: bytes, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (written / vectors.MANIFEST).write_bytes(text)
    refused(capsys, written)


def test_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "manifest.json: no such file" in refused(capsys, tmp_path / "nowhere")


@pytest.mark.parametrize("seed", range(4))
def test_any_change_of_a_byte_is_refused(seed: int, pristine: Path, tmp_path: Path) -> None:
    """Truncated at random and altered at random, with the digest made to fit: refused, or the same numbers."""
    draw = random.Random(seed)
    original = (pristine / FILE).read_bytes()
    length = int.from_bytes(original[:8], "little")
    Path(shutil.copytree(pristine, tmp_path / "v"))
    for _ in range(60):
        content = bytearray(original)
        if draw.random() < 0.3:
            del content[draw.randrange(len(content)) :]
        else:
            for _ in range(draw.choice((1, 1, 3))):
                content[draw.randrange(length + 8)] = draw.randrange(256)
        (tmp_path / "v" / FILE).write_bytes(content)
        if content != original:
            with pytest.raises(ValueError, match="altered"):
                list(vectors.verify(tmp_path / "v"))
        replace(tmp_path / "v", bytes(content))
        with contextlib.suppress(ValueError):  # anything else is a reader that can be broken
            list(vectors.verify(tmp_path / "v"))
        with contextlib.suppress(ValueError):
            list(vectors.verify(pristine, tmp_path / "v"))
