"""Heat maps of the gates of one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gatewise.errors import OptionError, ShapeError, need
from gatewise.ink import INK, MUTED, RULE, quiet
from gatewise.nn.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray

_CLOSED_TO_OPEN = ("#f6f8fa", "#b9d3df", "#5f97b5", "#235a86", "#0c2747")
_SIGNED = "BrBG"  # brown below 0, teal above
_SIGNED_NAMES = frozenset("gchn")  # results of tanh, and sums of them
_SUBJECTS = {
    "i": "input gate",
    "f": "forget gate",
    "g": "candidate",
    "o": "output gate",
    "c": "cell state",
    "h": "output",
    "r": "reset gate",
    "z": "update gate",
    "n": "candidate",
}
_TICKS = 6


def gate_map(
    trace: Trace,
    *,
    layer: int = 0,
    direction: int = 0,
    sequence: int = 0,
    values: Array | None = None,
    step_labels: Sequence[Any] | Array | None = None,
    title: str | None = None,
) -> Figure:
    """A heat map, units × steps, of each traced value of one sequence.

    The colours of values that can be negative are centred at 0; gates go from 0 (closed) to 1 (open). All
    maps have the units in the same order, with units of similar cell states next to each other. Values with
    another number of rows (an mLSTM's gates, one per head) keep their order.

    Args:
        values: the series itself, drawn above the maps; any number of values per step.
        step_labels: T names or times, one for each step; by default steps have numbers.

    Raises:
        OptionError: the trace has no such layer, direction or sequence, or the sequence has no steps.
        ShapeError: the number of ``step_labels`` is not T.
        MissingExtraError: matplotlib is not installed.
    """
    figures = need("matplotlib.figure", "tasks")
    maps = _maps(trace, layer, direction, sequence)
    units, steps = next(iter(maps.values())).shape
    if step_labels is not None and len(step_labels) != steps:
        raise ShapeError(
            f"there are {len(step_labels)} step_labels; there must be {steps}, one for each step"
        )
    above = values is not None
    heights = [0.8] * above + [1.0] * len(maps)
    figure = figures.Figure(figsize=(9, 1.18 * sum(heights) + 0.5), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.05, hspace=0.0)
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False, sharex=True)[:, 0]
    if values is not None:
        _series(axes[0], values, steps)
    order = _order(maps.get("c", list(maps.values())[-1]))
    for axis, (name, value) in zip(axes[above:], maps.items(), strict=True):
        _heat(figure, axis, name, value[order] if len(value) == len(order) else value)
    axes[-1].set_ylabel(f"{units} units", fontsize=7.5, color=MUTED)
    axes[-1].tick_params(labelbottom=True)
    _steps(axes[-1], steps, step_labels)
    if title is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK, parse_math=False)
    return figure


def _maps(trace: Trace, layer: int, direction: int, sequence: int) -> dict[str, Array]:
    """H×T for each name, without the padding of the sequence."""
    whole = trace[trace.names[0]]
    sizes = {"layer": (layer, len(whole)), "direction": (direction, len(whole[0]))}
    sizes["sequence"] = sequence, len(whole[0][0])
    for name, (given, size) in sizes.items():
        if not -size <= given < size:
            raise OptionError(f"{name}={given} does not exist: the trace has {size}")
    end = None if trace.lengths is None else int(trace.lengths[sequence])
    if end == 0 or not whole[0][0].shape[1]:
        raise OptionError(f"sequence={sequence} has no steps to show")
    return {
        name: trace[name][layer][direction][sequence, :end].detach().float().cpu().numpy().T
        for name in trace.names
    }


def _order(state: Array) -> Array:
    """The units, sorted by their angle in the plane of the two main components, so that neighbours are similar."""
    if min(state.shape) < 2 or not np.isfinite(state).all():
        return np.argsort(state.mean(1))
    left, size, _ = np.linalg.svd(state - state.mean(), full_matrices=False)
    angle = np.arctan2(left[:, 1] * size[1], left[:, 0] * size[0])
    order = np.argsort(angle)
    turns = np.diff(angle[order], append=angle[order[0]] + 2 * np.pi)
    return np.roll(order, -int(np.argmax(turns)) - 1)


def _series(axis: Axes, values: Array, steps: int) -> None:
    middle = (np.arange(len(values)) + 0.5) * steps / len(values) - 0.5
    axis.plot(middle, values, color=INK, lw=0.9)
    quiet(axis)
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(axis="x", length=0, labelbottom=False)
    axis.locator_params(axis="y", nbins=3)
    axis.margins(y=0.08)
    axis.set_title("the series", loc="left", fontsize=8, color=MUTED, pad=3)


def _heat(figure: Figure, axis: Axes, name: str, value: Array) -> None:
    colours: Any = need("matplotlib.colors", "tasks")
    most = float(np.nanmax(np.abs(value), initial=0)) or 1.0
    signed = name in _SIGNED_NAMES or bool((value < 0).any())
    bound = (
        1.0 if not signed and most <= 1 else float(np.nanpercentile(np.abs(value), 99.5)) or most
    )
    gates = colours.LinearSegmentedColormap.from_list("gates", _CLOSED_TO_OPEN)
    picture = axis.imshow(
        value,
        aspect="auto",
        interpolation="nearest",
        cmap=_SIGNED if signed else gates,
        vmin=-bound if signed else 0,
        vmax=bound,
    )
    subject = f"$\\bf{{{name}}}$   {_SUBJECTS[name]}" if name in _SUBJECTS else name
    axis.set_title(
        subject, loc="left", fontsize=8.5, color=INK, pad=3, parse_math=name in _SUBJECTS
    )
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    axis.tick_params(axis="x", length=0, labelbottom=False)
    ends = [-bound, 0, bound] if signed else [0, bound]
    bar = figure.colorbar(picture, ax=axis, pad=0.012, aspect=9, fraction=0.03, ticks=ends)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7, labelcolor=MUTED)
    bar.ax.set_yticklabels([f"{end:.2g}".replace("-", "−") for end in ends])


def _steps(axis: Axes, steps: int, labels: Sequence[Any] | Array | None) -> None:
    axis.set_xlim(-0.5, steps - 0.5)
    axis.tick_params(axis="x", labelsize=7.5, labelcolor=MUTED, color=RULE, length=3)
    at = np.arange(0, steps, -(-steps // _TICKS))
    if labels is None:
        axis.set_xlabel("step", fontsize=8, color=MUTED)
        axis.set_xticks(at, [str(k + 1) for k in at])
    else:
        axis.set_xticks(at, stamps(np.asarray(labels)[at]), parse_math=False)


def stamps(times: Array) -> list[str]:
    """Times as text: to the second or minute, or to the day where all times are midnight."""
    if times.dtype.kind != "M":
        return [str(time) for time in times]
    whole = bool((times == times.astype("datetime64[D]")).all())
    fine = not whole and bool((times != times.astype("datetime64[m]")).any())
    unit = "D" if whole else "s" if fine else "m"
    return [str(time).replace("T", " ") for time in times.astype(f"datetime64[{unit}]")]
