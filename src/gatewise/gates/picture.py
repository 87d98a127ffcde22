"""One sequence's gates as heat maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from gatewise.errors import need
from gatewise.nn.trace import Trace

# Values that a sigmoid bounds are shown from 0 to 1, all others about 0.
_OPEN, _SIGNED = "viridis", "RdBu_r"


def gate_map(
    trace: Trace,
    *,
    layer: int = 0,
    direction: int = 0,
    sequence: int = 0,
    values: np.ndarray | None = None,
    title: str = "",
) -> Any:
    """A matplotlib Figure with a heat map, units × steps, of each traced value of one sequence.

    The units stand in the same order in every map: by their mean cell state (or last traced value).

    Args:
        values: the series itself, drawn above the maps; any number of values for each step.
    """
    figures = need("matplotlib.figure", "tasks")
    maps = {n: trace[n][layer][direction][sequence].detach().cpu().numpy().T for n in trace.names}
    order = np.argsort(maps.get("c", list(maps.values())[-1]).mean(1))
    above = [] if values is None else [0.8]
    figure = figures.Figure(
        figsize=(9, 1.25 * (len(maps) + len(above)) + 0.6), layout="constrained"
    )
    axes = np.atleast_1d(
        figure.subplots(
            len(maps) + len(above), 1, height_ratios=[*above, *[1.0] * len(maps)], squeeze=True
        )
    )
    steps = next(iter(maps.values())).shape[1]
    if values is not None:
        per_step = len(values) / steps
        axes[0].plot((np.arange(len(values)) + 0.5) / per_step - 0.5, values, color="#334155", lw=1)
        axes[0].set_xlim(-0.5, steps - 0.5)
        axes[0].set_ylabel("series")
        axes[0].spines[["top", "right"]].set_visible(False)
        axes[0].tick_params(labelbottom=False)
    for axis, (name, value) in zip(axes[len(above) :], maps.items(), strict=True):
        signed = bool((value < 0).any())
        bound = float(np.abs(value).max()) or 1.0
        picture = axis.imshow(
            value[order],
            aspect="auto",
            interpolation="nearest",
            cmap=_SIGNED if signed else _OPEN,
            vmin=-bound if signed else 0,
            vmax=bound if signed else 1,
        )
        axis.set_ylabel(name, rotation=0, labelpad=14, va="center", fontsize=12)
        axis.set_yticks([])
        axis.tick_params(labelbottom=axis is axes[-1])
        figure.colorbar(picture, ax=axis, pad=0.01, aspect=8)
    axes[-1].set_xlabel("step")
    figure.suptitle(title, fontsize=11)
    return figure
