"""Every figure, drawn in one place from its data, and the same data as CSV."""

import csv
import io

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from proofs.ledger import Figure, Matrix, Series

matplotlib.use("svg")

# Okabe and Ito's colours, told apart with any colour vision; lines also differ in their dashes, points in their marks.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE = {
    "font.size": 10,
    "font.family": "sans-serif",
    "svg.hashsalt": "refimpl",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "mathtext.fontset": "stix",
    "axes.axisbelow": True,
}


def svg(figure: Figure) -> str:
    """The figure as an SVG document; the same data gives the same text."""
    with pyplot.rc_context(_STYLE):
        curves = [part for part in figure.parts if isinstance(part, Series)]
        matrices = [part for part in figure.parts if isinstance(part, Matrix)]
        panels = len(matrices) + bool(curves)
        columns = panels if panels < 4 else 2  # more beside each other are too small to read
        rows = -(-panels // columns)
        width = max(8.4 if _legend_outside(curves) else 6.4, 3.4 * columns)
        canvas = pyplot.figure(figsize=(width, 4.0 * rows), layout="constrained")
        axes = [canvas.add_subplot(rows, columns, 1 + index) for index in range(panels)]
        if curves:
            _curves(axes.pop(0), figure, curves)
        signed = any(np.nanmin(matrix.values) < 0 for matrix in matrices)  # of one figure all in the same colours
        for axis, matrix in zip(axes, matrices, strict=True):
            _matrix(canvas, axis, matrix, signed)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None})
        pyplot.close(canvas)
    return text.getvalue()


def _legend_outside(curves: list[Series]) -> bool:
    return len(curves) > 4  # inside, so long a legend would cover some of them


def _curves(axis: pyplot.Axes, figure: Figure, curves: list[Series]) -> None:
    for index, curve in enumerate(curves):
        colour, mark = COLOURS[index % len(COLOURS)], MARKS[index % len(MARKS)]
        dash = (
            DASHES[index // len(COLOURS) % len(DASHES)] if len(curves) > len(COLOURS) else DASHES[index % len(DASHES)]
        )
        x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
        if curve.style == "points":
            axis.errorbar(x, y, curve.spread, fmt=mark, ms=5, color=colour, label=curve.title, capsize=2, lw=1)
            continue
        if curve.style == "steps":
            axis.step(x, y, where="mid", color=colour, label=curve.title)
        else:
            axis.plot(x, y, dash, color=colour, lw=1.8, label=curve.title)
        if curve.spread is not None:
            spread = np.asarray(curve.spread, float)
            axis.fill_between(x, y - spread, y + spread, color=colour, alpha=0.2, lw=0)
    axis.set(xlabel=figure.x_label, ylabel=figure.y_label, xscale=figure.x_scale, yscale=figure.y_scale)
    if all(np.all(np.asarray(curve.x, float) % 1 == 0) for curve in curves) and figure.x_scale == "linear":
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for scale, one in ((figure.x_scale, axis.xaxis), (figure.y_scale, axis.yaxis)):
        low, high = sorted(one.get_view_interval())
        if scale == "log" and high < 100 * low:  # powers of ten alone would leave one label or none
            one.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 8 * low else MaxNLocator(6))
            one.set_major_formatter("{x:g}")
            one.set_minor_formatter(NullFormatter())
    if _legend_outside(curves):
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    elif len(curves) > 1 or curves[0].title:
        axis.legend(fontsize=8, frameon=False)


def _matrix(canvas: pyplot.Figure, axis: pyplot.Axes, matrix: Matrix, signed: bool) -> None:
    values = np.asarray(matrix.values, float)
    largest = float(np.nanmax(np.abs(values))) or 1.0
    image = axis.imshow(
        values,
        cmap="RdBu_r" if signed else "cividis",
        vmin=-largest if signed else None,
        vmax=largest if signed else None,
        aspect="auto" if values.shape[0] != values.shape[1] else "equal",
    )
    axis.set_title(matrix.title, fontsize=10)
    axis.set(xlabel=matrix.columns, ylabel=matrix.rows)
    axis.grid(visible=False)
    canvas.colorbar(image, ax=axis, shrink=0.8)


def data(figure: Figure) -> str:
    """The figure's numbers as CSV: curves as ``part, x, y, spread``, matrices as ``part, row, column, value``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for kind, header in ((Series, ("part", "x", "y", "spread")), (Matrix, ("part", "row", "column", "value"))):
        found = [part for part in figure.parts if isinstance(part, kind)]
        if found:
            writer.writerow(header)
        for part in found:
            writer.writerows(_rows(part))
    return text.getvalue()


def _rows(part: Series | Matrix) -> list[tuple[object, ...]]:
    if isinstance(part, Series):
        spread = part.spread if part.spread is not None else [""] * len(part.x)
        return [(part.title, *row) for row in zip(part.x, part.y, spread, strict=True)]
    values = np.asarray(part.values)
    return [(part.title, *index, values[index]) for index in np.ndindex(*values.shape)]
