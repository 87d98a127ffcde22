"""The figures of a forecaster's report."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from gatewise.errors import need
from gatewise.gates.picture import gate_map, stamps
from gatewise.ink import INK, MUTED, RULE, quiet
from gatewise.nn.trace import Trace
from gatewise.report.pictures import (
    LAST,
    MODEL,
    NAIVE,
    TEST,
    VALIDATION,
    label_ends,
    line,
    new_figure,
    new_figure_rows,
)
from gatewise.report.words import joined_names, shortened
from gatewise.tasks.forecast.backtest import Backtest
from gatewise.tasks.forecast.summary import DataSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray

_COLOURS = {"gatewise": MODEL, "seasonal naive": NAIVE, "last value": LAST}
_SHOWN = 6  # forecasts drawn
TARGETS_SHOWN = 3  # targets drawn
_POINTS = 1200  # a longer series is drawn as the mean and range of this many parts


def interval_words(levels: tuple[float, ...]) -> str:
    return f"{100 * levels[0]:g}% to {100 * levels[-1]:g}% quantile"


def forecast_picture(backtest: Backtest, window: int, axis: Axes | None = None) -> Figure:
    """A figure of one window of a backtest: the end of its context, the actual values, the forecast and its
    interval.

    Args:
        axis: the axis to draw on. Without it a new figure with labelled lines is made.
    """
    if axis is not None:
        _draw_window(backtest, window, axis)
        return axis.get_figure(root=True)  # type: ignore[return-value]
    figure, axis = new_figure(8, 3)
    _draw_window(backtest, window, axis)
    ends = {
        "measured": (backtest.actual[window], INK),
        "forecast": (backtest.point[window], MODEL),
        "seasonal naive": (backtest.seasonal_naive[window], NAIVE),
    }
    label_ends(axis, {n: (backtest.actual.shape[1], v, c) for n, (v, c) in ends.items()})
    return figure


def window_figure(backtest: Backtest, window: int) -> Figure:
    figure, axis = new_figure(4.5, 2.15)
    _draw_window(backtest, window, axis)
    if len(set(zip(backtest.series, backtest.target, strict=True))) == 1:
        axis.set_title("", loc="left")  # the heading of the page has the name
    return figure


def _draw_window(backtest: Backtest, window: int, axis: Axes) -> None:
    steps = backtest.actual.shape[1]
    before = backtest.context[window][-max(3 * steps // 2, 24) :]
    ahead = np.arange(1, steps + 1)
    quiet(axis)
    axis.axvline(0.5, color=RULE, lw=1, zorder=0)
    if len(backtest.levels) > 1:
        low, high = backtest.quantiles[window][:, [0, -1]].T
        label = interval_words(backtest.levels)
        if steps > 1:
            axis.fill_between(ahead, low, high, color=MODEL, alpha=0.18, lw=0, label=label)
        else:
            axis.vlines(ahead, low, high, color=MODEL, alpha=0.3, lw=6, label=label)
    naive = backtest.seasonal_naive[window]
    dots = dict(marker="o", ms=4.5) if steps == 1 else {}
    line(axis, ahead, naive, color=NAIVE, lw=0.9, alpha=0.65, label="seasonal naive", **dots)
    measured = np.concatenate([before, backtest.actual[window]])
    places = np.arange(1 - len(before), steps + 1)
    line(axis, places, measured, color=INK, lw=0.9, label="measured")
    line(axis, ahead, backtest.point[window], color=MODEL, lw=1.7, label="forecast", **dots)
    axis.set_xlim(places[0] - 0.5, steps + 0.5)
    axis.locator_params(axis="y", nbins=4)
    at = sorted({1, steps})
    axis.set_xticks(at, stamps(backtest.times[window, [k - 1 for k in at]]))
    if steps > 1:
        axis.get_xticklabels()[-1].set_horizontalalignment("right")
    name = joined_names(backtest.series[window], backtest.target[window])
    axis.set_title(shortened(name), loc="left", fontsize=8.5, color=INK, parse_math=False)


def chosen_windows(backtest: Backtest) -> list[int]:
    """The indices of the windows to draw, spread over the series and over the dates of each series."""
    seen = np.flatnonzero(np.isfinite(backtest.actual).any(1))
    seen = seen if len(seen) else np.arange(len(backtest.actual))
    groups: dict[tuple[str, str], list[int]] = {}
    for k in seen:
        groups.setdefault((str(backtest.series[k]), str(backtest.target[k])), []).append(int(k))
    members, count = list(groups.values()), min(_SHOWN, len(seen))
    if len(members) >= count:
        picks = np.linspace(0, len(members) - 1, count).round().astype(int)
        spread = np.linspace(0, 1, count)
        return [
            members[g][round(share * (len(members[g]) - 1))]
            for g, share in zip(picks, spread, strict=True)
        ]
    share, more = divmod(count, len(members))
    places = [np.linspace(0, len(g) - 1, share + (k < more)) for k, g in enumerate(members)]
    return sorted({g[round(k)] for g, at in zip(members, places, strict=True) for k in at})


def data_figure(summary: DataSummary) -> Figure:
    """A figure of the first series, with one axis for each target and the parts of the split."""
    shown = min(len(summary.targets), TARGETS_SHOWN)
    figure, axes = new_figure_rows(9, 1.35 * shown + 0.75, shown)
    times = summary.times
    ends = [*summary.splits, len(times)]
    for axis, target, values in zip(axes, summary.targets, summary.values, strict=False):
        _overview(axis, times, values)
        axis.margins(x=0.005)
        axis.locator_params(axis="y", nbins=4)
        axis.set_title(
            shortened(joined_names(summary.name, target)),
            loc="left",
            fontsize=8.5,
            color=INK,
            parse_math=False,
        )
        for start, end, colour, text in zip(
            ends[:2], ends[1:], (VALIDATION, TEST), ("validation", "test"), strict=True
        ):
            if start >= end:
                continue
            span = times[start], times[end - 1] if end == len(times) else times[end]
            axis.axvspan(*span, color=colour, lw=0, zorder=0)
            if axis is axes[0]:
                axis.annotate(text, (span[0], 1), (2, 3), xycoords=("data", "axes fraction"),
                              textcoords="offset points", fontsize=7.5, color=MUTED)  # fmt: skip
        axis.tick_params(labelbottom=axis is axes[-1])
        _dated(axis, times)
    return figure


def _overview(axis: Axes, times: Array, values: Array) -> None:
    """Draws a series as a line; a long series as the mean and range of many parts."""
    size = -(-len(values) // _POINTS)
    if size == 1:
        line(axis, times, values, color=INK, lw=0.9)
        return
    parts = np.pad(values, (0, -len(values) % size), constant_values=np.nan).reshape(-1, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # parts without a value stay NaN
        mean, low, high = np.nanmean(parts, 1), np.nanmin(parts, 1), np.nanmax(parts, 1)
    starts = times[::size]
    axis.fill_between(starts, low, high, color=INK, alpha=0.22, lw=0)
    line(axis, starts, mean, color=INK, lw=0.8)


def _dated(axis: Axes, times: Array) -> None:
    if times.dtype.kind != "M":
        axis.locator_params(axis="x", nbins=8, integer=True)
        return
    dates = need("matplotlib.dates", "tasks")
    locator = dates.AutoDateLocator(minticks=4, maxticks=9)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    axis.xaxis.get_offset_text().set(color=MUTED, fontsize=7.5)


def step_figure(backtest: Backtest) -> Figure:
    figure, axis = new_figure(4.5, 2.4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a step without actual values stays NaN
        errors = backtest.by_step()
    steps = backtest.actual.shape[1]
    ahead = np.arange(1, steps + 1)
    for name, values in reversed(errors.items()):
        width = 1.9 if name == "gatewise" else 1.2
        line(axis, ahead, values, color=_COLOURS[name], lw=width)
    axis.set_ylim(bottom=0)
    axis.set_xlim(1, steps)
    axis.locator_params(axis="x", nbins=7, integer=True)
    axis.locator_params(axis="y", nbins=5)
    axis.set_xlabel("steps ahead", fontsize=8, color=MUTED)
    label_ends(axis, {name: (steps, v, _COLOURS[name]) for name, v in errors.items()})
    return figure


def gates_figure(
    forecaster: Any,
    trace: Trace,
    values: Array,
    summary: DataSummary,
    title: str | None = None,
) -> Figure:
    shape = forecaster.shape_
    times = summary.times[-shape.context :: shape.patch]
    return gate_map(trace, values=values, step_labels=times, title=title)
