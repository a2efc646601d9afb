"""Where a candidate computes: arrays in, arrays out, and its own derivative.

Neither JAX nor PyTorch is imported unless it is asked for by name.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from refimpl.oracle.spec import Arguments
from refimpl.primitives.numbers import Array
from refimpl.primitives.trees import leaves, tree_map

Candidate = Callable[..., Any]


class Framework(Protocol):
    """How a candidate's framework takes arrays, gives them back and differentiates."""

    def to_framework(self, leaf: Array, dtype: str) -> Any:
        """An array of this framework, a copy of `leaf` in `dtype`."""

    def to_numpy(self, leaf: Any) -> tuple[Array, str]:
        """The values as a NumPy array (bfloat16 as float32) and the name of the dtype that they had."""

    def gradients(
        self, candidate: Candidate, arguments: Arguments, names: Sequence[str], cotangent: Any
    ) -> dict[str, Any] | None:
        """The candidate's cotangents of the arguments `names`; None if it cannot be differentiated."""


class NumPy:
    """Candidates on NumPy arrays, or that return any object with DLPack; differentiated by a pullback of their own."""

    def __init__(self, vjp: Candidate | None = None) -> None:
        self.vjp = vjp

    def to_framework(self, leaf: Array, dtype: str) -> Any:
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
        return _widen(np.asarray(leaf))

    def gradients(
        self, candidate: Candidate, arguments: Arguments, names: Sequence[str], cotangent: Any
    ) -> dict[str, Any] | None:
        if self.vjp is None:
            return None
        _, pullback = self.vjp(**arguments)
        return dict(zip(names, pullback(cotangent), strict=True))


class Jax:
    """Candidates in JAX, differentiated by ``jax.vjp``. Turns on JAX's 64-bit mode, without which float64 is not."""

    def __init__(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        self.jax = jax

    def to_framework(self, leaf: Array, dtype: str) -> Any:
        return self.jax.numpy.array(np.asarray(leaf, np.float64), dtype=dtype)

    def to_numpy(self, leaf: Any) -> tuple[Array, str]:
        return _widen(np.asarray(leaf))

    def gradients(
        self, candidate: Candidate, arguments: Arguments, names: Sequence[str], cotangent: Any
    ) -> dict[str, Any] | None:
        fixed = {name: value for name, value in arguments.items() if name not in names}

        def of_differentiable(varied: Arguments) -> Any:
            return candidate(**{name: varied.get(name, fixed.get(name)) for name in arguments})

        _, pullback = self.jax.vjp(of_differentiable, {name: arguments[name] for name in names})
        return dict(pullback(cotangent)[0])


class Torch:
    """Candidates in PyTorch, differentiated by ``torch.autograd``."""

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def to_framework(self, leaf: Array, dtype: str) -> Any:
        return self.torch.tensor(np.array(leaf, np.float64)).to(getattr(self.torch, dtype))

    def to_numpy(self, leaf: Any) -> tuple[Array, str]:
        if not isinstance(leaf, self.torch.Tensor):
            return _widen(np.asarray(leaf))
        leaf = leaf.detach().cpu()
        name = str(leaf.dtype).removeprefix("torch.")
        return (leaf.float() if name == "bfloat16" else leaf).numpy(), name

    def gradients(
        self, candidate: Candidate, arguments: Arguments, names: Sequence[str], cotangent: Any
    ) -> dict[str, Any] | None:
        varied = {name: tree_map(lambda leaf: leaf.clone().requires_grad_(), arguments[name]) for name in names}
        outputs = list(leaves(candidate(**{**arguments, **varied})))
        inputs = list(leaves(varied))
        if not any(output.requires_grad for output in outputs):
            return None
        found = iter(
            self.torch.autograd.grad(
                outputs, inputs, list(leaves(cotangent)), allow_unused=True, materialize_grads=True
            )
        )
        return {name: tree_map(lambda leaf: next(found), tree) for name, tree in varied.items()}


def _widen(array: Array) -> tuple[Array, str]:
    name = array.dtype.name
    return (array.astype(np.float32) if name == "bfloat16" else array), name


def framework(name: str | None, vjp: Candidate | None) -> Framework:
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
    try:
        return Jax() if name == "jax" else Torch()
    except ImportError as error:
        raise ValueError(f"framework: {name} is not installed ({error})") from error
