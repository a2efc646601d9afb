r"""Read-arithmetic-write: one layer does it for any causal map of time steps, and the four operators are instances."""

from functools import cache, partial
from typing import Any

import numpy as np

from proofs.incontext.learning_algorithms.operators import ROUNDOFF, STRENGTH, at_rest, ratio
from proofs.ledger import Control, Evidence, claim
from proofs.properties import for_all
from proofs.symbolic import array, block, blocks, vanishes
from refimpl.incontext.learning_algorithms import (
    ATTENTION_STRENGTH,
    ReadArithmeticWrite,
    raw,
    raw_layer,
    transformer_layer,
)
from refimpl.oracle.spec import Arguments
from refimpl.oracle.specs.incontext.learning_algorithms.operators import PADS, positions, raw_arguments
from refimpl.primitives import column_operators
from refimpl.primitives.numbers import Array

ONE = blocks([[1]])


@cache
def sums_of_blocks() -> Evidence:
    """The layer with sums, in the limit of large attention, for all sizes: maps with sets of none to three columns."""
    differences = []
    maps: list[list[list[int]]] = [[[], [0], [0, 1, 2]], [[0], [], [1]], [[0], [0, 1], [0, 2]], [[], [], []]]
    out, read, own = (blocks([[block(name)]]) for name in "OAW")
    for time_map in maps:
        content = [[block(f"{name}{j}") for j in range(3)] for name in "abc"]
        hidden = np.concatenate([blocks(content), blocks([[0, 0, 0]]), np.eye(3, dtype=int)]).astype(object)
        operator = ReadArithmeticWrite(time_map, [0], [1], [2], out, read, own, "sum")
        params = raw_layer(7, operator, [3], [4, 5, 6], STRENGTH)
        # ReLU, of which a proof knows that it is half its argument and something even; GeLU is that too (K2).
        written = transformer_layer(hidden, params, activation="relu")[:4]
        limit = np.array([[at_rest(entry) for entry in row] for row in written], dtype=object)
        differences.append(limit - raw(hidden, operator)[:4])
    return vanishes(differences, "layer of sums, in the limit")


@cache
def instances() -> Evidence:
    """``mov`` into empty rows and ``aff`` for all sizes, dot products and ``mul`` by entries."""
    differences: list[Any] = []
    for target in range(3):
        for source in range(target + 1):
            full = [block(f"a{j}") for j in range(3)]
            hidden = blocks([full, [0 if j == target else block(f"b{j}") for j in range(3)]])
            time_map = [[source] if j == target else [] for j in range(3)]
            moved = raw(hidden, ReadArithmeticWrite(time_map, [0], [1], [1], ONE, ONE, ONE, "sum"))
            differences.append(moved - column_operators.mov(hidden, source, target, [0], [1]))

    hidden = blocks([[block(f"{name}{j}") for j in range(2)] for name in "abc"])
    w1, w2, itself = blocks([[block("P")]]), blocks([[block("Q")]]), [[0], [1]]
    mapped = raw(hidden, ReadArithmeticWrite(itself, [0], [1], [2], ONE, w1, w2, "sum"))
    differences.append(mapped - column_operators.aff(hidden, [0], [1], [2], w1, w2))

    for a, b, c in ((1, 3, 1), (2, 1, 2), (2, 2, 2)):
        hidden = array("h", (a * b + b * c + a * c, 2))
        first, second, third = (rows.tolist() for rows in np.split(np.arange(len(hidden)), [a * b, a * b + b * c]))
        i, j, k = (index.reshape(-1) for index in np.indices((a, b, c)))
        # One product for each i, j, k, and sums of those over j.
        selected = ((a * b, i * b + j), (b * c, j * c + k), (a * c, i * c + k))
        read, own, out = (np.eye(n, dtype=object)[at] for n, at in selected)
        multiplied = raw(hidden, ReadArithmeticWrite(itself, first, second, third, out.T, read, own, "product"))
        differences.append(multiplied - column_operators.mul(hidden, a, b, c, first, second, third))
    return vanishes(differences, "instances")


def layer_error(case: Arguments, strength: float, apply: Any) -> float:
    """Over the bound. Sums of a few numbers round; what attention leaves to other columns is e^-N of each. A product
    adds its remainder, (2 epsilon M)^4 / 12 epsilon^2 (K1), and the roundoff of units that hold 2.6 (|u| + |v|) /
    epsilon."""
    hidden, time_map, rows_read, rows_self, rows_write, out, read, own, arithmetic = case.values()
    operator = ReadArithmeticWrite(time_map, rows_read, rows_self, rows_write, out, read, own, arithmetic)
    n_columns, m = hidden.shape[-1], len(read)
    averages = np.zeros((n_columns, n_columns))
    for i, earlier in enumerate(time_map):
        averages[list(earlier), i] = 1 / max(len(earlier), 1)
    size = np.abs(hidden)
    u = np.abs(read) @ (size[..., rows_read, :] @ averages)
    v = np.abs(own) @ size[..., rows_self, :]
    leaked = 2 * (n_columns + 1) * np.exp(-ATTENTION_STRENGTH) * np.max(size) * np.abs(read).sum(axis=1)[:, None]
    units = (3 * m + len(rows_read) + len(rows_self) + n_columns + 40) * ROUNDOFF
    exact = raw(hidden, operator)
    errors = []
    for epsilon in (1 / 16, 1e-3, 1e-4) if arithmetic == "product" else (1.0,):
        params = raw_layer(hidden.shape[-2], operator, PADS[:m], positions(hidden), strength, epsilon)
        written = apply(hidden, params)
        if arithmetic == "sum":
            allowed = units * (u + v) + leaked
        else:
            remainder = 4 / 3 * epsilon**2 * np.maximum(u, v) ** 4
            allowed = remainder + units * (2.6 * (u + v) / epsilon + u * v) + leaked * (1 + v)
        bound = 4 * ROUNDOFF * (u.max(initial=0) + np.zeros_like(hidden))  # of the scratch rows, cleared by a pair
        bound[..., rows_write, :] = np.abs(out) @ allowed + units * size[..., rows_write, :]
        errors.append(ratio(np.abs(written - exact), bound))
    return max(errors)


def summed_and_not_averaged(hidden: Array, params: Any) -> Array:
    """The layer with every value doubled, as if attention summed over two columns."""
    value = 2 * params.attention.value
    return transformer_layer(hidden, params._replace(attention=params.attention._replace(value=value)))


@claim(
    "learning_algorithms/K17",
    title="One layer reads, combines and writes for any causal map, and mov, aff and products are instances",
    source="Lemmas 2 and 3, Appendix C",
    statement=r"h_i'[w]\leftarrow W_o\Big(\big(W_a\tfrac1{|K(i)|}\sum_{k\in K(i)}h_k[r]\big)\star Wh_i[s]\Big),\ "
    r"\star\in\{+,\odot\}",
    method="symbolic",
    scope="the layer with sums for all sizes and weights in the limit of large N (blocks), at three columns and four "
    "maps; the instances mov and aff for all sizes (blocks), dot products and mul by entries at three shapes. In "
    "floats the layer with sums and with products at 200 hidden states of up to six columns, random maps of none to "
    "three columns each, epsilon from 1/16 to 10^-4, to the bounds of K1 and K4",
    uses=["learning_algorithms/K1", "learning_algorithms/K2"],
    control=[
        Control("the logit 2", strength=2.0),
        Control("no sink", apply=partial(transformer_layer, sink=False)),
        Control("values doubled", apply=summed_and_not_averaged),
    ],
)
def read_arithmetic_write(
    rng: np.random.Generator, strength: float = ATTENTION_STRENGTH, apply: Any = transformer_layer
) -> Evidence:
    in_floats = for_all(
        rng,
        raw_arguments(),
        lambda case: layer_error(case, strength, apply),
        1,
        examples=200,
        quantity="layer error over bound",
    )
    return sums_of_blocks() & instances() & in_floats
