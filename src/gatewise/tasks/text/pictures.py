"""The picture of a text in which each symbol's background shows how much it surprised the model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from gatewise.errors import need
from gatewise.ink import INK, MUTED
from gatewise.report.pictures import NAIVE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray

WIDTH = 66  # characters of a row
MOST = 12.0  # bits of the darkest background


def surprise_figure(pieces: Sequence[str], bits: Array) -> Figure:
    """The text of some symbols, each on a background that is darker the less probable it was.

    Args:
        pieces: the text of each symbol; "\\n" for the end of a line.
        bits: the surprise of each symbol, minus the binary logarithm of its probability.
    """
    patches = need("matplotlib.patches", "tasks")
    places = _places(pieces)
    rows = max((row for _, row in places), default=0) + 1
    figure, axis = new_figure(8, 0.5 + 0.21 * rows)
    for piece, (column, row), each in zip(pieces, places, bits, strict=True):
        shown = "↵" if piece == "\n" else piece
        shade = float(np.clip(each / MOST, 0, 1))
        corner, width = (column, row - 0.5), max(len(shown), 1)
        axis.add_patch(patches.Rectangle(corner, width, 1, color=NAIVE, alpha=0.7 * shade, lw=0))
        for k, character in enumerate(shown):
            colour = MUTED if piece == "\n" else INK
            axis.text(column + k + 0.5, row, character, family="monospace", fontsize=8.5, color=colour,
                      ha="center", va="center", parse_math=False)  # fmt: skip
    axis.set(xlim=(0, WIDTH + 2), ylim=(rows - 0.5, -0.5), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_xlabel(
        f"orange: a symbol that the model did not expect, up to {MOST:.0f} bits",
        fontsize=8,
        color=MUTED,
        loc="left",
    )
    return figure


def _places(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """The column and row of each piece. A row ends at a newline, or before a piece that it has no room for."""
    found, column, row = [], 0, 0
    for piece, following in pairwise([*pieces, ""]):
        if piece != "\n" and column and column + len(piece) > WIDTH:
            column, row = 0, row + 1
        found.append((column, row))
        column += len(piece)
        if piece == "\n" and following:
            column, row = 0, row + 1
    return found
