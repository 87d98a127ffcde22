"""Draws the flow of one LSTM cell: python docs/lstm/diagram.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch

COLOURS = {"f": "#235a86", "i": "#2a8f82", "g": "#c07a12", "o": "#7a4fa3"}
INK, MUTED, PAPER = "#1f2937", "#6b7280", "#f6f8fa"
TOP, MIDDLE, GATES, BUS = 4.2, 2.75, 1.35, 0.35  # heights of the cell state, products, gates, input
GATE_X = {"f": 1.9, "i": 3.4, "g": 4.6, "o": 6.4}
OUT = 7.7  # where h[t] turns right
LEFT, RIGHT = 0.4, 8.8


def line(axis: Axes, *points: tuple[float, float], colour: str = INK, width: float = 1.6) -> None:
    """A line through the points, without an arrow head."""
    xs, ys = zip(*points, strict=True)
    axis.plot(xs, ys, color=colour, lw=width, solid_capstyle="round", zorder=1)


def arrow(axis: Axes, *points: tuple[float, float], colour: str = INK, width: float = 1.6) -> None:
    """A line through the points; its last piece ends in an arrow head."""
    line(axis, *points[:-1], points[-2], colour=colour, width=width)
    style = dict(arrowstyle="-|>", color=colour, lw=width, shrinkA=0, shrinkB=0, mutation_scale=11)
    axis.annotate("", xy=points[-1], xytext=points[-2], arrowprops=style, zorder=1)


def box(axis: Axes, x: float, y: float, text: str, colour: str) -> None:
    """A function with weights: a gate or the candidate."""
    patch = FancyBboxPatch(
        (x - 0.36, y - 0.24), 0.72, 0.48, "round,pad=0,rounding_size=0.08", fc=colour, ec="none"
    )
    axis.add_patch(patch).set_zorder(3)
    axis.text(x, y, text, color="white", ha="center", va="center", fontsize=12, zorder=4)


def point(axis: Axes, x: float, y: float, text: str) -> None:
    """An operation on each unit by itself."""
    axis.add_patch(Circle((x, y), 0.21, fc="white", ec=INK, lw=1.4, zorder=3))
    axis.text(x, y, text, color=INK, ha="center", va="center", fontsize=12, zorder=4)


def label(axis: Axes, x: float, y: float, text: str, colour: str = INK, **options: str) -> None:
    where = dict(ha="center", va="center") | options
    axis.text(x, y, text, color=colour, fontsize=12, **where)


def draw(axis: Axes) -> None:
    axis.set(xlim=(-0.55, 9.75), ylim=(-0.75, 5.1), aspect="equal")
    axis.set_axis_off()
    frame = FancyBboxPatch(
        (LEFT + 0.45, -0.05), 7.5, 4.75, "round,pad=0,rounding_size=0.2", fc=PAPER, ec="#d1d5db"
    )
    axis.add_patch(frame).set_zorder(0)
    gates(axis)
    cell_state(axis)
    output(axis)


def gates(axis: Axes) -> None:
    """x[t] and h[t-1] go into all four functions."""
    line(axis, (LEFT, BUS), (GATE_X["o"], BUS))
    line(axis, (1.25, -0.4), (1.25, BUS))
    label(axis, 1.25, -0.58, "$x_t$")
    label(axis, LEFT - 0.12, BUS, "$h_{t-1}$", ha="right")
    names = {"f": r"$\sigma$", "i": r"$\sigma$", "g": "tanh", "o": r"$\sigma$"}
    for gate, x in GATE_X.items():
        arrow(axis, (x, BUS), (x, GATES - 0.24))
        box(axis, x, GATES, names[gate], COLOURS[gate])
    words = {"f": "forget gate", "i": "input gate", "g": "candidate", "o": "output gate"}
    for gate, x in GATE_X.items():
        axis.text(x + 0.1, 0.72, words[gate], color=COLOURS[gate], fontsize=8.5, va="center")


def cell_state(axis: Axes) -> None:
    """c[t] = f ⊙ c[t-1] + i ⊙ g, along the top."""
    arrow(axis, (LEFT, TOP), (RIGHT, TOP), width=2.4)
    label(axis, LEFT - 0.12, TOP, "$c_{t-1}$", ha="right")
    label(axis, RIGHT + 0.12, TOP, "$c_t$", ha="left")
    middle = (GATE_X["i"] + GATE_X["g"]) / 2
    arrow(axis, (GATE_X["f"], GATES + 0.24), (GATE_X["f"], TOP - 0.21), colour=COLOURS["f"])
    for gate, side in (("i", -0.21), ("g", 0.21)):
        x = GATE_X[gate]
        arrow(axis, (x, GATES + 0.24), (x, MIDDLE), (middle + side, MIDDLE), colour=COLOURS[gate])
        label(axis, x + 2.4 * side / 2, 2.1, f"${gate}_t$", COLOURS[gate])
    label(axis, GATE_X["f"] - 0.27, 2.1, "$f_t$", COLOURS["f"])
    arrow(axis, (middle, MIDDLE + 0.21), (middle, TOP - 0.21))
    point(axis, GATE_X["f"], TOP, r"$\odot$")
    point(axis, middle, MIDDLE, r"$\odot$")
    point(axis, middle, TOP, "+")
    small = dict(color=MUTED, fontsize=9, ha="center")
    axis.text(GATE_X["f"], TOP + 0.28, r"keep: $f_t \odot c_{t-1}$", **small)
    axis.text(middle, TOP + 0.28, r"add: $i_t \odot g_t$", **small)


def output(axis: Axes) -> None:
    """h[t] = o ⊙ tanh(c[t])."""
    x = GATE_X["o"]
    line(axis, (OUT, TOP), (OUT, 3.67))
    patch = FancyBboxPatch(
        (OUT - 0.36, 3.23), 0.72, 0.44, "round,pad=0,rounding_size=0.2", fc="white", ec=INK, lw=1.4
    )
    axis.add_patch(patch).set_zorder(3)
    axis.text(OUT, 3.45, "tanh", color=INK, ha="center", va="center", fontsize=10, zorder=4)
    arrow(axis, (OUT, 3.23), (OUT, MIDDLE + 0.21))
    arrow(axis, (x, GATES + 0.24), (x, MIDDLE), (OUT - 0.21, MIDDLE), colour=COLOURS["o"])
    label(axis, x - 0.27, 2.1, "$o_t$", COLOURS["o"])
    point(axis, OUT, MIDDLE, r"$\odot$")
    arrow(axis, (OUT, MIDDLE - 0.21), (OUT, BUS), (RIGHT, BUS))
    label(axis, RIGHT + 0.12, BUS, "$h_t$", ha="left")


def main(file: Path) -> None:
    plt.rcParams["svg.hashsalt"] = file.stem
    plt.rcParams["mathtext.fontset"] = "dejavuserif"
    figure, axis = plt.subplots(figsize=(8, 4.55), layout="constrained")
    draw(axis)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(__file__).parents[1] / "images" / "lstm" / "cell.svg")
