"""The picture of an alignment: which symbols of the source the attention read for each symbol of a translation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gatewise.ink import INK, RULE
from gatewise.report.pictures import MODEL, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray

MOST = 40  # symbols that are drawn of each text


def alignment_figure(source: Sequence[str], into: Sequence[str], weights: Array) -> Figure:
    """The attention weights as squares, whose area is the weight.

    Args:
        source: T symbols, from left to right.
        into: S symbols, from top to bottom.
        weights: S×T.
    """
    source, into, weights = source[:MOST], into[:MOST], weights[:MOST, :MOST]
    wide, high = len(source), len(into)
    figure, axis = new_figure(1.3 + 0.27 * max(wide, 4), 0.9 + 0.24 * max(high, 3))
    row, column = np.nonzero(weights > 0.02)
    axis.hlines(np.arange(high), -0.5, wide - 0.5, color=RULE, lw=0.5, zorder=0)
    axis.vlines(np.arange(wide), -0.5, high - 0.5, color=RULE, lw=0.5, zorder=0)
    areas = 150 * weights[row, column]
    axis.scatter(column, row, areas, color=MODEL, marker="s", linewidths=0)
    axis.set_xlim(-0.6, wide - 0.4)
    axis.set_ylim(high - 0.4, -0.6)
    axis.xaxis.tick_top()
    axis.set_xticks(range(wide), [_shown(each) for each in source], rotation=60, ha="left")
    axis.set_yticks(range(high), [_shown(each) for each in into])
    axis.tick_params(length=0, labelsize=8, labelcolor=INK)
    for side in axis.spines.values():
        side.set_visible(False)
    return figure


def _shown(symbol: str) -> str:
    """The symbol as a label; a dollar sign would start mathematics."""
    return symbol.strip().replace("$", r"\$") or "␣"
