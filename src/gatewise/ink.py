"""The colours and axis style of gatewise's pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The report's page replaces these colours by its own, light or dark.
INK, MUTED, RULE = "#1f2937", "#6b7280", "#d1d5db"


def quiet(axis: Axes) -> None:
    """Removes the parts of an axis that are not data."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(RULE)
    axis.tick_params(color=RULE, labelcolor=MUTED, labelsize=7.5, length=3)
