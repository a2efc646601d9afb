"""Test vectors for implementations in other languages: inputs, true outputs, gradients and the error allowed of each.

A folder holds ``manifest.json`` and one safetensors file for each spec and dtype. In a file, the tensors of case 0 are
named

- ``0/input/<path>`` in the dtype to compute in; integers as I64, masks and flags as BOOL, numbers as F64 scalars (an
  argument that is text stands in the manifest);
- ``0/output/<name>`` in F64, the truth, with ``0/allowed/<name>``: the largest absolute error that passes;
- ``0/cotangent/<name>``, ``0/gradient/<path>`` and ``0/allowed/gradient of <path>``, where there is a pullback.

Outputs that no implementation in this precision can be judged by are left out. Somebody's results are a second folder
of files with the same names that hold ``0/output/<name>`` and, if they have gradients, ``0/gradient/<path>``.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from refimpl.oracle.judgement import MORE_DRAWS, Expected, GradientCall, expect, outputs_of
from refimpl.oracle.precision import check_dtype
from refimpl.oracle.spec import Arguments, Spec, examples
from refimpl.oracle.structure import named_leaves, parse_json
from refimpl.primitives.checks import check_integer
from refimpl.primitives.numbers import Array

FORMAT = 1
FACTOR = 4.0
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 64 * 2**20
LARGEST_FILE = 2**30

_TO_SAFETENSORS = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "bool": "BOOL"}


def write(
    directory: str | pathlib.Path, chosen: Sequence[Spec], dtypes: Sequence[str], *, seed: int = 0, n_cases: int = 8
) -> list[pathlib.Path]:
    """Write vectors for these specs and dtypes; the same seed gives the same bytes. Returns the files written.

    Parameters
    ----------
    directory : created if need be; a manifest that is there already is an error.
    chosen : the specs.
    dtypes : of ``float64``, ``float32`` and ``float16``.
    seed, n_cases : of the inputs, and how many for each spec and dtype.

    Raises
    ------
    ValueError
        For a dtype that has no vectors, or a folder that already holds some.
    OSError
        If the folder cannot be written.
    """
    for dtype in dtypes:
        if check_dtype(dtype) not in _TO_SAFETENSORS:
            raise ValueError(f"dtype: expected float64, float32 or float16, got {dtype!r}")
    check_integer("n_cases", n_cases, 1)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / MANIFEST).exists():
        raise ValueError(f"{directory}: holds vectors already")
    files, written = [], []
    for spec in chosen:
        for dtype in (one for one in dtypes if one in spec.dtypes):
            cases = [_case(spec, arguments, dtype, seed) for arguments in examples(spec, n_cases, seed)]
            tensors = {
                f"{index}/{name}": tensor
                for index, (_, found) in enumerate(cases)
                for name, tensor in sorted(found.items())
            }
            path = directory / f"{spec.name.replace('/', '.')}.{dtype}.safetensors"
            content = _serialize(tensors)
            path.write_bytes(content)
            written.append(path)
            files.append(
                {
                    "file": path.name,
                    "spec": spec.name,
                    "dtype": dtype,
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "cases": [
                        {"text": text, "tensors": {name: _described(t) for name, t in sorted(found.items())}}
                        for text, found in cases
                    ],
                }
            )
    manifest = {"format": FORMAT, "generator": "refimpl", "licence": "MIT", "seed": seed, "files": files}
    path = directory / MANIFEST
    path.write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n")
    return [*written, path]


def _described(tensor: Array) -> list[Any]:
    return [_TO_SAFETENSORS[tensor.dtype.name], list(tensor.shape)]


def _case(spec: Spec, arguments: Arguments, dtype: str, seed: int) -> tuple[dict[str, str], dict[str, Array]]:
    """The arguments that are text, by path, and all tensors of a case."""
    with np.errstate(all="ignore"):
        expected = expect(outputs_of(spec.reference), arguments, dtype, seed, MORE_DRAWS)
        inputs = named_leaves(expected.arguments)
        text = {path: leaf for path, leaf in inputs.items() if isinstance(leaf, str)}
        tensors = {f"input/{path}": _input(leaf, dtype) for path, leaf in inputs.items() if path not in text}
        tensors |= _judged(expected, "output")
        if spec.vjp is not None:
            call = GradientCall(spec, expected, np.random.default_rng(seed))
            named = named_leaves(call.cotangent, "output")
            tensors |= {f"cotangent/{name}": np.asarray(leaf, dtype) for name, leaf in named.items()}
            tensors |= _judged(
                expect(call.gradients, expected.arguments, dtype, seed, MORE_DRAWS, call.others), "gradient"
            )
    return text, tensors


def _input(leaf: Any, dtype: str) -> Array:
    array = np.asarray(leaf)
    if isinstance(leaf, float):
        return array
    return array.astype({"f": dtype, "i": "int64", "u": "int64", "b": "bool"}[array.dtype.kind])


def _judged(expected: Expected, kind: str) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for name, truth in expected.truth.items():
        bound = expected.comparison(name, truth, FACTOR)
        if bound.ill_conditioned or not np.all(np.isfinite(truth)):
            continue
        tensors[f"{kind}/{name.removeprefix('gradient of ')}"] = np.asarray(truth, np.float64)
        tensors[f"allowed/{name}"] = np.asarray(bound.bound, np.float64)
    return tensors


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ValueError("vectors need the extra `vectors`: pip install refimpl[vectors]") from error
    return safetensors


def _serialize(tensors: dict[str, Array]) -> bytes:
    plain = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    return bytes(_library().numpy.save(plain))


def read(path: pathlib.Path, sha256: str | None = None) -> dict[str, Array]:
    """The tensors of a safetensors file.

    Raises
    ------
    ValueError
        If the file is not there, no regular file, too large, truncated, no safetensors file, has a dtype without
        vectors, or another digest than `sha256`.
    """
    library = _library()
    content = _content(path, LARGEST_FILE)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path}: altered: its SHA-256 is not the manifest's")
    try:
        tensors: dict[str, Array] = library.numpy.load(content)
    except Exception as error:  # a parser of foreign bytes: whatever it raises, the file is refused
        raise ValueError(f"{path}: no safetensors file ({_one_line(error)})") from error
    for name, tensor in tensors.items():
        if tensor.dtype.name not in _TO_SAFETENSORS:
            raise ValueError(f"{path}: tensor {name!r:.80} has dtype {tensor.dtype.name}")
    return tensors


def _content(path: pathlib.Path, largest: int) -> bytes:
    try:
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        if path.stat().st_size > largest:
            raise ValueError(f"{path}: larger than {largest} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _manifest(directory: pathlib.Path) -> list[dict[str, Any]]:
    """What the manifest says of each file."""
    path = directory / MANIFEST
    content = _content(path, LARGEST_MANIFEST)
    try:
        manifest = parse_json(content)
    except ValueError as error:
        raise ValueError(f"{path}: {_one_line(error)}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT}")
    files = manifest.get("files")
    if not isinstance(files, list) or not files:
        raise ValueError(f"{path}: lists no files")
    for entry in files:
        if not (
            isinstance(entry, dict)
            and all(isinstance(entry.get(key), str) for key in ("file", "spec", "dtype", "sha256"))
            and isinstance(entry.get("cases"), list)
            and all(isinstance(case, dict) and isinstance(case.get("tensors"), dict) for case in entry["cases"])
        ):
            raise ValueError(f"{path}: malformed entry {entry!r:.80}")
        name = entry["file"]
        plain = name.isprintable() and pathlib.PurePath(name).name == name and not set(name) & set("\\:")
        if not plain or (directory / name).is_symlink():
            raise ValueError(f"{path}: file {name!r:.80} is not a plain name in the folder")
    return files


def verify(directory: str | pathlib.Path, outputs: str | pathlib.Path | None = None) -> Iterator[tuple[str, str, str]]:
    """Check the vectors in a folder, and the results of a second one against them.

    Yields for each file its name, what is wrong, which is empty if nothing is, and what was looked at. Wrong is a
    result that is missing, misshapen or off by more than is allowed.

    Raises
    ------
    ValueError
        If the folder or a file of it cannot be trusted at all: no manifest, a malformed one, a path out of the folder,
        no safetensors file, a digest that differs, tensors that the manifest does not describe.
    """
    directory = pathlib.Path(directory)
    for entry in _manifest(directory):
        path = directory / entry["file"]
        tensors = read(path, entry["sha256"])
        described = {
            f"{index}/{name}": what
            for index, case in enumerate(entry["cases"])
            for name, what in case["tensors"].items()
        }
        if {name: _described(tensor) for name, tensor in tensors.items()} != described:
            raise ValueError(f"{path}: its tensors are not those that the manifest describes")
        wanted = _judged_tensors(path, tensors)
        if outputs is None:
            yield entry["file"], "", f"{len(entry['cases'])} cases"
            continue
        results = pathlib.Path(outputs) / entry["file"]
        if not results.exists():
            yield entry["file"], "no results", ""
            continue
        given = read(results)
        with_gradients = any("/gradient/" in name for name in given)
        judged = {name: pair for name, pair in wanted.items() if with_gradients or "/output/" in name}
        left_out = len(wanted) - len(judged)
        looked_at = f"{len(judged)} results" + (f", {left_out} gradients not given" if left_out else "")
        yield entry["file"], _judge(judged, given), looked_at


def _judged_tensors(path: pathlib.Path, tensors: dict[str, Array]) -> dict[str, tuple[Array, float]]:
    """The outputs and gradients by name, each with the error allowed."""
    found = {}
    for name, truth in sorted(tensors.items(), key=lambda item: "/gradient/" in item[0]):  # outputs first
        case, _, rest = name.partition("/")
        kind, _, quantity = rest.partition("/")
        if kind not in ("output", "gradient"):
            continue
        allowed = tensors.get(f"{case}/allowed/{'gradient of ' if kind == 'gradient' else ''}{quantity}")
        if allowed is None or allowed.shape != () or not allowed >= 0:
            raise ValueError(f"{path}: no allowed error of {name!r:.80}")
        found[name] = (truth, float(allowed))
    return found


def _judge(judged: dict[str, tuple[Array, float]], given: dict[str, Array]) -> str:
    """What is wrong with these results: the first thing."""
    for name, (truth, allowed) in judged.items():
        if name not in given:
            return f"{name} is missing"
        if given[name].shape != truth.shape:
            return f"{name} has shape {given[name].shape}, expected {truth.shape}"
        error = float(np.max(np.abs(given[name].astype(np.float64) - truth), initial=0.0))
        if not error <= allowed:
            return f"{name} is off by {error:.2e}, allowed {allowed:.2e}"
    return ""
