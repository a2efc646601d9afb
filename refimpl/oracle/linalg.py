r"""Linear algebra in ``longdouble``, for the truth of functions that call LAPACK, which has no such precision.

Decompositions start from LAPACK's in float64 and are refined by rotations (Jacobi), which keeps LAPACK's order and
signs: where those are arbitrary, truth and baseline make the same choice.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.primitives.numbers import Array

EPSILON = np.finfo(np.longdouble).eps
MAX_SWEEPS = 30

# NumPy's records of results, which have no public name.
_RESULT = {f.__name__: type(f(np.eye(1))) for f in (np.linalg.eigh, np.linalg.svd, np.linalg.qr)}


class LosesDigits(TypeError):
    """An operation would round to float64."""


def _each_matrix(function: Callable[..., Any], *stacks: Array) -> Any:
    """`function` on corresponding matrices of stacks; a tuple of stacks if it gives a tuple."""
    batch = np.broadcast_shapes(*(stack.shape[:-2] for stack in stacks))
    flat = [np.broadcast_to(s, batch + s.shape[-2:]).reshape(-1, *s.shape[-2:]) for s in stacks]
    results = [function(*matrices) for matrices in zip(*flat, strict=True)]
    if isinstance(results[0], tuple):
        return tuple(np.stack(part).reshape(batch + np.shape(part[0])) for part in zip(*results, strict=True))
    return np.stack(results).reshape(batch + np.shape(results[0]))


def _eliminate(a: Array, b: Array) -> tuple[Array, Array, int]:
    """Gaussian elimination with partial pivoting: the triangle, the right-hand side and the sign of the permutation."""
    a, b, sign = a.copy(), b.copy(), 1
    for k in range(len(a)):
        pivot = k + int(np.argmax(np.abs(a[k:, k])))
        if a[pivot, k] == 0:
            raise np.linalg.LinAlgError("Singular matrix")
        if pivot != k:
            a[[k, pivot]], b[[k, pivot]], sign = a[[pivot, k]], b[[pivot, k]], -sign
        factors = a[k + 1 :, k : k + 1] / a[k, k]
        a[k + 1 :, k:] -= factors * a[k, k:]
        b[k + 1 :] -= factors * b[k]
    return a, b, sign


def _solve_one(a: Array, b: Array) -> Array:
    triangle, x, _ = _eliminate(a, b)
    for k in reversed(range(len(a))):
        x[k] = (x[k] - triangle[k, k + 1 :] @ x[k + 1 :]) / triangle[k, k]
    return x


def solve(a: Array, b: Array) -> Array:
    a, b = np.asarray(a, np.longdouble), np.asarray(b, np.longdouble)
    if b.ndim == 1:
        return np.asarray(_each_matrix(_solve_one, a, b[:, None])[..., 0])
    return np.asarray(_each_matrix(_solve_one, a, b))


def inv(a: Array) -> Array:
    return solve(a, np.eye(a.shape[-1], dtype=np.longdouble))


def slogdet(a: Array) -> Any:
    def one(matrix: Array) -> tuple[Array, Array]:
        try:
            triangle, _, sign = _eliminate(matrix, np.zeros((len(matrix), 0), np.longdouble))
        except np.linalg.LinAlgError:
            return np.longdouble(0), -np.longdouble(np.inf)  # type: ignore[return-value]
        diagonal = np.diagonal(triangle)
        return sign * np.prod(np.sign(diagonal)), np.sum(np.log(np.abs(diagonal)))

    return _each_matrix(one, a)


def det(a: Array) -> Array:
    sign, logarithm = slogdet(a)
    return np.asarray(sign * np.exp(logarithm))


def cholesky(a: Array) -> Array:
    def one(matrix: Array) -> Array:
        lower = np.zeros_like(matrix)
        for k in range(len(matrix)):
            square = matrix[k, k] - lower[k, :k] @ lower[k, :k]
            if not square > 0:
                raise np.linalg.LinAlgError("Matrix is not positive definite")
            lower[k, k] = np.sqrt(square)
            lower[k + 1 :, k] = (matrix[k + 1 :, k] - lower[k + 1 :, :k] @ lower[k, :k]) / lower[k, k]
        return lower

    return np.asarray(_each_matrix(one, a))


def _orthonormal(vectors: Array) -> Array:
    """Columns that are orthonormal to float64 made so to longdouble, by a Newton step."""
    vectors = vectors.astype(np.longdouble)
    return vectors @ (3 * np.eye(vectors.shape[1], dtype=np.longdouble) - vectors.T @ vectors) / 2


def _rotation(p: Any, q: Any, pq: Any) -> tuple[Any, Any]:
    """Cosine and sine that make the symmetric matrix [[p, pq], [pq, q]] diagonal, by the smaller angle."""
    tau = (q - p) / (2 * pq)
    t = (1 if tau >= 0 else -1) / (abs(tau) + np.sqrt(1 + tau * tau))
    c = 1 / np.sqrt(1 + t * t)
    return c, t * c


def _rotate(columns: Array, p: int, q: int, c: Any, s: Any) -> None:
    columns[:, p], columns[:, q] = c * columns[:, p] - s * columns[:, q], s * columns[:, p] + c * columns[:, q]


def _pairs(n: int) -> list[tuple[int, int]]:
    return [(p, q) for p in range(n) for q in range(p + 1, n)]


def _eigh_one(matrix: Array) -> tuple[Array, Array]:
    _, guess = np.linalg.eigh(matrix.astype(np.float64))
    vectors = _orthonormal(guess)
    matrix = (matrix + matrix.T) / 2
    matrix = vectors.T @ matrix @ vectors
    size = np.max(np.abs(matrix), initial=0)
    for _ in range(MAX_SWEEPS):
        rotated = False
        for p, q in _pairs(len(matrix)):
            if abs(matrix[p, q]) > EPSILON * min(size, np.sqrt(abs(matrix[p, p] * matrix[q, q])) + EPSILON * size):
                c, s = _rotation(matrix[p, p], matrix[q, q], matrix[p, q])
                _rotate(matrix, p, q, c, s)
                _rotate(matrix.T, p, q, c, s)
                _rotate(vectors, p, q, c, s)
                rotated = True
        if not rotated:
            break
    order = np.argsort(np.diagonal(matrix), kind="stable")
    vectors = vectors[:, order]
    vectors *= np.where(np.sum(vectors * guess, axis=0) < 0, -1, 1)
    return np.diagonal(matrix)[order], vectors


def eigh(a: Array, UPLO: str = "L") -> Any:
    return _RESULT["eigh"](*_each_matrix(_eigh_one, a))


def eigvalsh(a: Array, UPLO: str = "L") -> Array:
    return np.asarray(_each_matrix(_eigh_one, a)[0])


def _svd_one(matrix: Array) -> tuple[Array, Array, Array]:
    """The reduced decomposition, by one-sided rotations."""
    if matrix.shape[0] < matrix.shape[1]:
        left, values, right = _svd_one(matrix.T)
        return right.T, values, left.T
    guess_left, _, guess = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    right = _orthonormal(guess.T)
    left = matrix @ right
    size = np.sqrt(np.sum(left * left))
    for _ in range(MAX_SWEEPS):
        rotated = False
        for p, q in _pairs(left.shape[1]):
            pp, qq, pq = (left[:, i] @ left[:, j] for i, j in ((p, p), (q, q), (p, q)))
            if abs(pq) > EPSILON * (np.sqrt(pp * qq) + EPSILON * size * size):
                c, s = _rotation(pp, qq, pq)
                _rotate(left, p, q, c, s)
                _rotate(right, p, q, c, s)
                rotated = True
        if not rotated:
            break
    values = np.sqrt(np.sum(left * left, axis=0))
    order = np.argsort(-values, kind="stable")
    left, values, right = left[:, order], values[order], right[:, order]
    kept = values > 4 * EPSILON * size
    left = np.where(kept, left / np.where(kept, values, 1), guess_left)
    for k in np.flatnonzero(~kept):  # directions that the matrix says nothing of
        for _ in range(2):
            left[:, k] -= left[:, :k] @ (left[:, :k].T @ left[:, k])
        left[:, k] /= np.sqrt(left[:, k] @ left[:, k])
    signs = np.where(np.sum(right * guess.T, axis=0) < 0, -1, 1)
    return left * signs, values, (right * signs).T


def svd(a: Array, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:
    if not compute_uv:
        return np.asarray(_each_matrix(_svd_one, a)[1])
    if full_matrices and a.shape[-1] != a.shape[-2]:
        raise LosesDigits("numpy.linalg.svd: full matrices only in float64")
    return _RESULT["svd"](*_each_matrix(_svd_one, a))


def svdvals(x: Array) -> Array:
    return np.asarray(svd(x, compute_uv=False))


def pinv(a: Array, rcond: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Array:
    if rcond is None:
        rcond = 1e-15 if rtol is None else rtol
    left, values, right = _each_matrix(_svd_one, a)
    kept = values > rcond * np.max(values, axis=-1, keepdims=True, initial=0)
    inverse = np.where(kept, 1 / np.where(kept, values, 1), 0)
    return np.asarray(np.swapaxes(right, -1, -2) * inverse[..., None, :] @ np.swapaxes(left, -1, -2))


def lstsq(a: Array, b: Array, rcond: Any = None) -> Any:
    rcond = np.finfo(np.float64).eps * max(a.shape) if rcond is None else rcond
    values = svdvals(a)
    rank = int(np.sum(values > rcond * np.max(values, initial=0)))
    x = pinv(a, rcond) @ b
    left = b - a @ x
    residuals = np.sum(left * left, axis=0).reshape(-1)
    return x, residuals if rank == a.shape[1] < a.shape[0] else np.zeros(0, np.longdouble), rank, values


def qr(a: Array, mode: str = "reduced") -> Any:
    if mode != "reduced":
        raise LosesDigits(f"numpy.linalg.qr: mode {mode} only in float64")

    def one(matrix: Array) -> tuple[Array, Array]:
        guess, _ = np.linalg.qr(matrix.astype(np.float64))
        q = guess.astype(np.longdouble)
        for k in range(q.shape[1]):
            for _ in range(2):
                direction = matrix[:, k] - q[:, :k] @ (q[:, :k].T @ matrix[:, k])
                direction -= q[:, :k] @ (q[:, :k].T @ direction)
            length = np.sqrt(direction @ direction)
            if length > EPSILON * np.max(np.abs(matrix), initial=0):
                q[:, k] = direction / length * (1 if direction @ guess[:, k] >= 0 else -1)
        return q, np.triu(q.T @ matrix)

    return _RESULT["qr"](*_each_matrix(one, a))


def norm(x: Array, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    if ord not in (2, -2, "nuc") or (axis is None and x.ndim == 1) or isinstance(axis, int):
        return np.linalg.norm(x, ord, axis, keepdims)
    if axis not in (None, (-2, -1)):
        raise LosesDigits(f"numpy.linalg.norm: axis {axis} only in float64")
    values = svdvals(x)
    size = np.sum(values, axis=-1) if ord == "nuc" else values[..., 0 if ord == 2 else -1]
    return size[..., None, None] if keepdims else size


IMPLEMENTED: dict[Any, Callable[..., Any]] = {
    np.linalg.solve: solve,
    np.linalg.inv: inv,
    np.linalg.det: det,
    np.linalg.slogdet: slogdet,
    np.linalg.cholesky: cholesky,
    np.linalg.eigh: eigh,
    np.linalg.eigvalsh: eigvalsh,
    np.linalg.svd: svd,
    np.linalg.svdvals: svdvals,
    np.linalg.pinv: pinv,
    np.linalg.lstsq: lstsq,
    np.linalg.qr: qr,
    np.linalg.norm: norm,
}
