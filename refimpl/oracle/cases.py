"""Single cases: arguments of one call, with the judgement of what somebody makes of them."""

import json
import pathlib
import zipfile
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from refimpl.oracle.frameworks import Candidate, choose_framework
from refimpl.oracle.judge import Judge
from refimpl.oracle.judgement import (
    Expected,
    Finding,
    GradientCall,
    candidate_arguments,
    expect,
    gate,
    outputs_of,
    receive,
)
from refimpl.oracle.precision import check_dtype
from refimpl.oracle.spec import Arguments, Spec, examples, find_spec
from refimpl.oracle.structure import flatten, parse_json, unflatten
from refimpl.primitives.checks import check_integer, check_number
from refimpl.primitives.trees import tree_map

_DESCRIPTION = "__case__"


@dataclass(frozen=True)
class Case:
    """The arguments of one call, and the judgement of its output and gradients.

    Parameters
    ----------
    spec : what is called.
    dtype : the precision to compute in.
    drawn : the arguments, before rounding to it.
    framework : None or ``numpy``, ``jax``, ``torch``.
    factor : how many times the reference's own error is allowed.
    seed : of the cotangent and of the inputs one unit in the last place away.
    """

    spec: Spec
    dtype: str
    drawn: Arguments
    framework: str | None = None
    factor: float = 4.0
    seed: int = 0

    @property
    def arguments(self) -> Arguments:
        """Fresh arguments, the arrays in the framework and precision to compute in."""
        return candidate_arguments(self._expected, self._adapter)

    @property
    def cotangent(self) -> Any:
        """What to pull back: an array like the output, or a tree of them."""
        call, _ = self._gradients
        return tree_map(lambda leaf: self._adapter.to_framework(leaf, self.dtype), call.cotangent)

    def judge(self, output: Any) -> None:
        """Raise ``AssertionError``, with the gate's message, unless this output is right."""
        self._judge(output, "output", self._expected)

    def judge_gradients(self, gradients: Any) -> None:
        """The same of the cotangents of all real array arguments: a dict by argument, or a tuple in their order."""
        call, expected = self._gradients
        if isinstance(gradients, tuple | list) and not hasattr(gradients, "_fields"):
            if len(gradients) != len(call.names):
                raise AssertionError(f"{self}: expected gradients of {', '.join(call.names)}, got {len(gradients)}")
            gradients = dict(zip(call.names, gradients, strict=True))
        self._judge(gradients, "gradient of", expected)

    def check(self, candidate: Candidate, vjp: Candidate | None = None) -> None:
        """Call the candidate, differentiate it where that is possible, and judge all that :func:`compare` judges.

        Parameters
        ----------
        candidate : takes :attr:`arguments`.
        vjp : a NumPy candidate's own ``(**arguments) -> (output, pullback)``.
        """
        adapter = choose_framework(self.framework, vjp)
        judge = Judge(candidate, self.spec, self.dtype, adapter, True, self.factor, self.seed)
        self._raise(judge(self.drawn, self.spec.relations).findings)

    def __str__(self) -> str:
        return f"{self.spec.name} in {self.dtype}"

    @cached_property
    def _adapter(self) -> Any:
        return choose_framework(self.framework)

    @cached_property
    def _expected(self) -> Expected:
        return expect(outputs_of(self.spec.reference), self.drawn, self.dtype, self.seed)

    @cached_property
    def _gradients(self) -> tuple[GradientCall, Expected]:
        if self.spec.vjp is None:
            raise ValueError(f"{self.spec.name}: has no gradient to compare with")
        call = GradientCall(self.spec, self._expected, np.random.default_rng(self.seed))
        return call, expect(call.gradients, self.drawn, self.dtype, self.seed, others=call.others)

    def _judge(self, tree: Any, prefix: str, expected: Expected) -> None:
        with np.errstate(all="ignore"):
            given, findings = receive(tree, prefix, expected, self._adapter)
            self._raise(findings if given is None else gate(given, expected, self.factor)[1])

    def _raise(self, findings: list[Finding]) -> None:
        if findings:
            raise AssertionError(f"{self}: " + "; ".join(f"{one.kind}: {one.message}" for one in findings))


def cases(
    spec: Spec | str,
    n: int,
    *,
    dtype: str = "float64",
    seed: int = 0,
    framework: str | None = None,
    factor: float = 4.0,
) -> list[Case]:
    """Cases for ``pytest.mark.parametrize``: the same ones for the same seed.

    ::

        @pytest.mark.parametrize("case", oracle.cases("primitives/softmax", 20, dtype="float32"))
        def test_softmax(case):
            case.judge(my_softmax(**case.arguments))

    Parameters
    ----------
    spec : what is called, or its name.
    n : how many cases.
    dtype : ``float64``, ``float32``, ``float16`` or ``bfloat16``.
    seed : of the inputs.
    framework : whose arrays the arguments are: None for NumPy, ``jax`` or ``torch``.
    factor : how many times the reference's own error is allowed.

    Raises
    ------
    ValueError
        For an unknown spec, dtype or framework.
    """
    spec = find_spec(spec) if isinstance(spec, str) else spec
    if check_dtype(dtype) not in spec.dtypes:
        raise ValueError(f"dtype: {spec.name} is judged in {', '.join(spec.dtypes)}, got {dtype!r}")
    choose_framework(framework)
    factor = check_number("factor", factor, "[1, inf)")
    drawn = examples(spec, check_integer("n", n, 1), check_integer("seed", seed, 0))
    return [Case(spec, dtype, arguments, framework, factor) for arguments in drawn]


def save_case(path: str | pathlib.Path, case: Case) -> pathlib.Path:
    """Write a case to an ``.npz`` file without pickle; :func:`load_case` reads it back."""
    structure, arrays = flatten(case.drawn)
    description = {
        "spec": case.spec.name,
        "dtype": case.dtype,
        "factor": case.factor,
        "seed": case.seed,
        "structure": structure,
    }
    path = pathlib.Path(path)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_DESCRIPTION: np.array(json.dumps(description))}, **arrays)
    return path


def load_case(path: str | pathlib.Path, framework: str | None = None) -> Case:
    """The case that :func:`save_case` wrote, to be computed in this framework.

    Raises
    ------
    ValueError
        If the file is not such a file.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        description = parse_json(str(arrays.pop(_DESCRIPTION)))
        arguments = unflatten(description["structure"], arrays)
        return Case(
            find_spec(description["spec"]),
            check_dtype(description["dtype"]),
            {str(name): value for name, value in arguments.items()},
            framework,
            check_number("factor", description["factor"], "[1, inf)"),
            check_integer("seed", description["seed"], 0),
        )
    except (OSError, KeyError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a saved case ({error})") from error
