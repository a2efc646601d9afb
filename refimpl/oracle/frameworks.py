"""Where a candidate computes: arrays in, arrays out, and its own derivative.

Neither JAX nor PyTorch is imported unless it is asked for by name.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from refimpl.oracle.spec import Arguments
from refimpl.oracle.structure import map_named, named_leaves
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves, tree_map

Candidate = Callable[..., Any]
Differentiated = tuple[Any, Any]  # the output, and the cotangents of the named arguments


class Framework(Protocol):
    """How a candidate's framework takes arrays, gives them back and differentiates."""

    def to_framework(self, leaf: Array, dtype: str) -> Any:
        """An array of this framework, a copy of `leaf`: in `dtype`, or a mask or integers as they are."""

    def to_numpy(self, leaf: Any) -> tuple[Array, str]:
        """A copy of the values as a NumPy array (bfloat16 as float32), and the name of the dtype that they had."""

    def differentiate(
        self, candidate: Candidate, arguments: Arguments, names: Sequence[str], cotangent: Any
    ) -> Differentiated | None:
        """The candidate's output and the cotangents of the arguments `names`; None if it cannot be differentiated."""


class NumPy:
    """Candidates on NumPy arrays, or that return any object with DLPack; differentiated by a pullback of their own."""

    def __init__(self, vjp: Candidate | None = None) -> None:
        self.vjp = vjp

    def to_framework(self, leaf: Array, dtype: str) -> Any:
        if leaf.dtype.kind in "iub":
            return leaf.copy()
        if dtype == "bfloat16":
            try:
                import ml_dtypes
            except ImportError as error:
                raise ValueError("dtype: bfloat16 for a NumPy candidate needs ml_dtypes (extra bench)") from error
            return np.array(leaf, dtype=ml_dtypes.bfloat16)
        return np.array(leaf, dtype=dtype)

    def to_numpy(self, leaf: Any) -> tuple[Array, str]:
        if not isinstance(leaf, np.ndarray | np.generic) and hasattr(leaf, "__dlpack__"):
            leaf = np.from_dlpack(leaf)
        return _widen(np.array(leaf))

    def differentiate(
        self, candidate: Candidate, arguments: Arguments, names: Sequence[str], cotangent: Any
    ) -> Differentiated | None:
        if self.vjp is None:
            return None
        output, pullback = self.vjp(**arguments)
        pulled = pullback(cotangent)
        is_positional = isinstance(pulled, tuple | list) and not hasattr(pulled, "_fields")
        if is_positional and len(pulled) == len(names):
            return output, dict(zip(names, pulled, strict=True))
        return output, pulled


class Jax:
    """Candidates in JAX, differentiated by ``jax.vjp``. Turns on JAX's 64-bit mode, without which float64 is not."""

    def __init__(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        self.jax = jax

    def to_framework(self, leaf: Array, dtype: str) -> Any:
        return self.jax.numpy.array(leaf, dtype=None if leaf.dtype.kind in "iub" else dtype)

    def to_numpy(self, leaf: Any) -> tuple[Array, str]:
        return _widen(np.array(leaf))

    def differentiate(
        self, candidate: Candidate, arguments: Arguments, names: Sequence[str], cotangent: Any
    ) -> Differentiated | None:
        def of_differentiable(varied: Arguments) -> Any:
            return candidate(**{name: varied.get(name, value) for name, value in arguments.items()})

        output, pullback = self.jax.vjp(of_differentiable, {name: arguments[name] for name in names})
        return output, pullback(_like_output(cotangent, output))[0]


class Torch:
    """Candidates in PyTorch, differentiated by ``torch.autograd``."""

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def to_framework(self, leaf: Array, dtype: str) -> Any:
        copied = self.torch.tensor(np.array(leaf))
        return copied if leaf.dtype.kind in "iub" else copied.to(getattr(self.torch, dtype))

    def to_numpy(self, leaf: Any) -> tuple[Array, str]:
        if not isinstance(leaf, self.torch.Tensor):
            return _widen(np.array(leaf))
        leaf = leaf.detach().cpu()
        name = str(leaf.dtype).removeprefix("torch.")
        return (leaf.float() if name == "bfloat16" else leaf).numpy().copy(), name

    def differentiate(
        self, candidate: Candidate, arguments: Arguments, names: Sequence[str], cotangent: Any
    ) -> Differentiated | None:
        varied = {name: tree_map(lambda leaf: leaf.clone().requires_grad_(), arguments[name]) for name in names}
        output = candidate(**{**arguments, **varied})
        outputs = list(leaves(output))
        if not any(getattr(one, "requires_grad", False) for one in outputs):
            return None
        cotangents = leaves(_like_output(cotangent, output))
        pairs = [(one, to) for one, to in zip(outputs, cotangents, strict=True) if one.requires_grad]
        found = iter(
            self.torch.autograd.grad(
                [one for one, _ in pairs],
                list(leaves(varied)),
                [to for _, to in pairs],
                allow_unused=True,
                materialize_grads=True,
            )
        )
        return output, {name: tree_map(lambda leaf: next(found), tree) for name, tree in varied.items()}


def _like_output(cotangent: Any, output: Any) -> Any:
    """The cotangents in the candidate's own tree: by name if the names are the reference's, else by position."""
    given, names = named_leaves(cotangent, "output"), list(named_leaves(output, "output"))
    if set(names) != set(given):
        given = dict(zip(names, given.values(), strict=True))
    return map_named(lambda name, leaf: given[name], output, "output")


def _widen(array: Array) -> tuple[Array, str]:
    name = array.dtype.name
    return (array.astype(np.float32) if name == "bfloat16" else array), name


def choose_framework(name: str | None, vjp: Candidate | None = None) -> Framework:
    """The framework of this name: None or ``numpy``, ``jax``, ``torch``.

    Raises
    ------
    ValueError
        For an unknown name, or one that is not installed.
    """
    if name in (None, "numpy"):
        return NumPy(vjp)
    if name not in ("jax", "torch"):
        raise ValueError(f"framework: expected numpy, jax or torch, got {name!r}")
    if vjp is not None:
        raise ValueError(f"vjp: {name} differentiates the candidate itself")
    try:
        return Jax() if name == "jax" else Torch()
    except ImportError as error:
        raise ValueError(f"framework: {name} is not installed ({error})") from error
