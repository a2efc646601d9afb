"""Each kind of finding, the smallest input that shows it, the file and the snippet that show it again."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from refimpl import oracle
from refimpl.oracle.spec import find_spec
from refimpl.primitives import activations, layers, normalization
from tests.oracle import plants
from tests.oracle.plants import Plant

ROOT = Path(__file__).parents[2]
SOFTMAX = "primitives/softmax"
PLANTS = {(plant.spec, plant.name): plant for plant in plants.by_hand()}


def judged(plant: Plant, n: int = 60, **options: Any) -> oracle.Report:
    return oracle.compare(
        plant.candidate, plant.spec, dtype=plant.dtype, vjp=plant.vjp, max_examples=n, seed=0, **options
    )


@pytest.mark.parametrize(
    "plant", [plant for plant in PLANTS.values() if plant.finding], ids=lambda plant: plant.finding
)
def test_each_kind_of_finding(plant: Plant) -> None:
    report = judged(plant)
    assert plant.finding in {finding.kind for finding in report.findings}
    assert not report.passes
    assert report.verdict == "FAILS"
    assert plant.finding in str(report)


def test_an_inaccurate_gradient() -> None:
    report = judged(PLANTS["primitives/linear", "gradient of the weight missing"])
    (finding,) = report.findings
    assert (finding.kind, finding.quantity) == ("inaccurate", "gradient of weight")
    assert report.gradients_judged


def test_a_relation_that_fails() -> None:
    even = oracle.Relation("f(-x) = f(x)", lambda given: {"x": -given["x"]}, lambda output, given: output)
    spec = oracle.Spec("test/even", activations.tanh, find_spec(SOFTMAX).arguments, relations=(even,))
    (finding,) = oracle.compare(activations.tanh, spec, dtype="float32", max_examples=30, seed=0).findings
    assert finding.kind == "relation"
    assert finding.message.startswith("f(-x) = f(x): output is off by")
    assert finding.arguments["x"].size == 1


def test_a_gradient_is_differentiated_code_that_may_give_another_output() -> None:
    def vjp(**arguments: Any) -> Any:
        output, pullback = layers.linear_vjp(**arguments)
        return 2 * output, pullback

    report = oracle.compare(layers.linear, "primitives/linear", dtype="float64", vjp=vjp, max_examples=20, seed=0)
    assert report.findings[0].message.startswith("differentiated: output is off by")


def test_an_exception_in_the_derivative() -> None:
    def vjp(**arguments: Any) -> Any:
        raise RuntimeError("no derivative\nfor you")

    report = oracle.compare(layers.linear, "primitives/linear", dtype="float64", vjp=vjp, max_examples=5, seed=0)
    assert [(one.kind, one.quantity) for one in report.findings] == [("exception", "gradient")]
    assert "RuntimeError: no derivative for you" in str(report)


def test_a_missing_gradient_is_a_wrong_structure() -> None:
    def vjp(**arguments: Any) -> Any:
        output, pullback = layers.linear_vjp(**arguments)
        return output, lambda cotangent: pullback(cotangent)[:1]

    report = oracle.compare(layers.linear, "primitives/linear", dtype="float64", vjp=vjp, max_examples=5, seed=0)
    assert report.findings[0].kind == "wrong structure"
    assert "gradient of weight" in report.findings[0].message


def test_gradients_may_come_by_name() -> None:
    def vjp(**arguments: Any) -> Any:
        output, pullback = layers.linear_vjp(**arguments)
        names = [name for name in ("x", "weight", "bias") if arguments[name] is not None]
        return output, lambda cotangent: dict(reversed(list(zip(names, pullback(cotangent), strict=True))))

    report = oracle.compare(layers.linear, "primitives/linear", dtype="float32", vjp=vjp, max_examples=20, seed=0)
    assert report.passes
    assert report.gradients_judged


def test_infinities_are_no_finding_where_the_truth_has_them() -> None:
    """In float16 a large cube overflows; the reference's own does."""
    spec = find_spec("primitives/gelu_tanh")
    report = oracle.compare(spec.reference, spec, dtype="float16", vjp=spec.vjp, max_examples=60, seed=0)
    assert not report.findings


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_smallest_failing_input(dtype: str) -> None:
    """Wrong for three and more entries: three remain, in one row."""

    def wrong(x: Any) -> Any:
        output = normalization.softmax(x)
        return output * x.dtype.type(1.25) if x.shape[-1] >= 3 else output

    report = oracle.compare(wrong, SOFTMAX, dtype=dtype, max_examples=100, seed=3)
    x = report.findings[0].arguments["x"]
    assert x.shape == (3,)


def test_a_large_failing_input_is_not_printed() -> None:
    """Hypothesis would warn of it, and warnings are errors here."""
    spec = find_spec("linear_attention/linear_self_attention")

    def wrong(**arguments: Any) -> Any:
        output = spec.reference(**arguments)
        return 2 * output if output.size > 300 else output

    report = oracle.compare(wrong, spec, dtype="float32", max_examples=60, seed=0)
    assert report.findings[0].kind == "inaccurate"
    assert "tokens of shape (" in str(report)


def test_the_saved_case_fails_again(tmp_path: Path) -> None:
    report = judged(PLANTS[SOFTMAX, "its logarithm"], save=tmp_path / "case.npz")
    with np.load(tmp_path / "case.npz", allow_pickle=False) as stored:
        assert "x" in stored.files
    case = oracle.load_case(tmp_path / "case.npz")
    assert case.spec is find_spec(SOFTMAX)
    assert case.dtype == "float32"
    assert case.seed == report.seed
    np.testing.assert_array_equal(case.arguments["x"], report.findings[0].arguments["x"].astype(np.float32))
    with pytest.raises(AssertionError, match="primitives/softmax in float32: inaccurate: output is off by"):
        case.check(PLANTS[SOFTMAX, "its logarithm"].candidate)
    case.check(normalization.softmax, normalization.softmax_vjp)


def test_the_snippet_runs_and_shows_the_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from refimpl.primitives import layers\n"
        "linear = layers.linear\n"
        "def pulled(**arguments):\n"
        "    output, pullback = layers.linear_vjp(**arguments)\n"
        "    return output, lambda cotangent: tuple(2 * found for found in pullback(cotangent))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = importlib.import_module("mine")
    report = oracle.compare(
        mine.linear, "primitives/linear", dtype="float32", vjp=mine.pulled, max_examples=10, seed=0,
        save=tmp_path / "case.npz",
    )  # fmt: skip
    snippet = report.snippet()
    assert "from mine import pulled" in snippet
    assert all(line in str(report) for line in snippet.splitlines())
    outcome = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 1
    assert "AssertionError: primitives/linear in float32: inaccurate: gradient of" in outcome.stderr


def test_nothing_to_save() -> None:
    report = oracle.compare(normalization.softmax, SOFTMAX, max_examples=3, seed=0)
    with pytest.raises(ValueError, match="save: nothing has failed"):
        report.save("nowhere.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"text"])
def test_no_saved_case(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "case.npz").write_bytes(content)
    with pytest.raises(ValueError, match="not a saved case"):
        oracle.load_case(tmp_path / "case.npz")


def test_a_case_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "case.npz", __case__=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a saved case"):
        oracle.load_case(tmp_path / "case.npz")


def test_too_little_decided_is_no_pass() -> None:
    """Where the reference has no digits left a candidate may return anything, and is told that nothing was decided."""
    hopeless = oracle.Spec("test/hopeless", _cancelled, find_spec(SOFTMAX).arguments)
    report = oracle.compare(_cancelled, hopeless, dtype="float32", max_examples=20, seed=0)
    assert not report.findings
    assert report.verdict == "UNDECIDED"
    assert not report.passes
    assert "nothing was decided about output" in str(report)


def _cancelled(x: Any) -> Any:
    large = x.dtype.type(1e9)
    return (x + large) - large


def _signed(x: Any) -> Any:
    """A sum that only knows what begins with exactly one."""
    if x[0] != 1:
        raise ValueError("x: expected 1 first")
    return np.sum(x)


def test_roundings_are_drawn_where_inputs_cannot_move() -> None:
    arguments = st.builds(
        lambda n, seed: {"x": np.concatenate([[1.0], np.random.default_rng(seed).standard_normal(n)])},
        st.integers(30, 60), st.integers(0, 1000),
    )  # fmt: skip
    spec = oracle.Spec("test/signed", _signed, arguments)
    report = oracle.compare(lambda x: np.add.accumulate(x)[-1], spec, dtype="float32", max_examples=200, seed=0)
    assert report.passes, report
    assert report.worst.baseline_error > 0


def test_the_same_seed_gives_the_same_report() -> None:
    first, second = (oracle.compare(normalization.softmax, SOFTMAX, max_examples=10, seed=5) for _ in range(2))
    assert str(first) == str(second)
    assert first.to_json() == second.to_json()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "dtype: expected one of float64, float32, float16, bfloat16, got 'float8'"),
        ({"framework": "tensorflow"}, "framework: expected numpy, jax or torch, got 'tensorflow'"),
        ({"max_examples": 0}, "max_examples"),
        ({"factor": 0.5}, "factor"),
        ({"seed": -1}, "seed"),
        ({"vjp": normalization.softmax_vjp, "framework": "torch"}, "vjp: torch differentiates the candidate itself"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oracle.compare(normalization.softmax, SOFTMAX, **options)


def test_a_spec_is_judged_in_its_own_precisions() -> None:
    with pytest.raises(ValueError, match="dtype: higher_order/bfgs is judged in float64, float32, got 'float16'"):
        oracle.compare(np.tanh, "higher_order/bfgs", dtype="float16")


def test_progress_and_early_end() -> None:
    seen: list[tuple[int, int]] = []
    oracle.compare(normalization.softmax, SOFTMAX, max_examples=7, seed=0, progress=lambda *done: seen.append(done))
    assert seen == [(index, 7) for index in range(1, 8)]
    seen.clear()
    oracle.compare(
        lambda x: x + 1, SOFTMAX, max_examples=100, seed=0, progress=lambda *done: seen.append(done)
    )  # fmt: skip
    assert seen[-1][0] < 20


class Foreign:
    """An array that only speaks DLPack."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_any_array_with_dlpack_is_accepted() -> None:
    report = oracle.compare(lambda x: Foreign(normalization.softmax(x)), SOFTMAX, dtype="float32", max_examples=10)
    assert report.passes
