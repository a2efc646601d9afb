"""An implementation in C++ reads the vectors, computes, and passes; with a mistake in it, it does not."""

import subprocess
from pathlib import Path

import pytest

from refimpl.oracle import find_spec, vectors

SOURCE = Path(__file__).parent / "consumer" / "attention.cpp"
NAMES = [f"primitives.softmax_attention.{dtype}.safetensors" for dtype in ("float64", "float32")]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vectors")
    vectors.write(directory, [find_spec("primitives/softmax_attention")], ["float64", "float32"], seed=1, n_cases=12)
    return directory


def problems_of(source: str, written: Path, tmp_path: Path) -> dict[str, str]:
    """Build the source, run it on the vectors, and say what is wrong with each file that it wrote."""
    (tmp_path / "attention.cpp").write_text(source)
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-o", "attention", "attention.cpp"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    subprocess.run([tmp_path / "attention", written, outputs], check=True, capture_output=True, timeout=60)
    return {name: problem for name, problem, _ in vectors.verify(written, outputs)}


def test_it_passes(written: Path, tmp_path: Path) -> None:
    assert problems_of(SOURCE.read_text(), written, tmp_path) == dict.fromkeys(NAMES, "")


def test_with_a_mistake_it_does_not(written: Path, tmp_path: Path) -> None:
    """Three mistakes: the mask, the exponential, and the scale in the gradient."""
    source = SOURCE.read_text()
    for right, wrong in (
        ("std::exp(weight - largest)", "std::exp2(weight - largest)"),
        ("to_weight - mean) * scale", "to_weight - mean)"),
        ("seen(i, j) ? score", "seen(i, j) || j == 0 ? score"),
    ):
        assert source.count(right) == 1
        source = source.replace(right, wrong)
    for problem in problems_of(source, written, tmp_path).values():
        assert "output/output is off by" in problem
