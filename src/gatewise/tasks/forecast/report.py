"""The report of a fit: one self-contained page."""

from __future__ import annotations

import math
import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gatewise.data.panel import Panel
from gatewise.data.zones import to_wall
from gatewise.errors import need
from gatewise.gates.picture import gate_map, stamps
from gatewise.ink import INK, MUTED, RULE, quiet
from gatewise.nn.trace import Trace
from gatewise.report.page import render
from gatewise.report.pictures import (
    LAST,
    MODEL,
    NAIVE,
    TEST,
    VALIDATION,
    figure_of,
    figure_rows,
    label_ends,
    line,
    losses_figure,
    saved,
    svg,
)
from gatewise.report.scores import NAMES
from gatewise.report.words import called, counted, duration, listed, percent, short, shown_number
from gatewise.tasks.forecast.backtest import DECISIVE, Backtest
from gatewise.whole import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray

_COLOURS = {"gatewise": MODEL, "seasonal naive": NAIVE, "last value": LAST}
_SHOWN = 6  # forecasts pictured
_TARGETS = 3  # targets pictured
_POINTS = 1200  # of a series pictured; a longer one is drawn as mean and range of this many parts


@dataclass(frozen=True)
class DataSummary:
    """What the report says of the data, and its first series.

    Attributes:
        rows, series: how many.
        targets: their names.
        step: the name of the timeline's step.
        zone: the time zone of all stamps here, or None.
        first, last: the first and last stamp of all series.
        missing: the share of targets that have no value.
        parts: rows in training, validation and test.
        name: the first series' name, "" where there is one without.
        times: N, the first series' stamps.
        values: V×N, its targets.
        splits: its rows at which validation and test begin.
    """

    rows: int
    series: int
    targets: tuple[str, ...]
    step: str
    zone: str | None
    first: Any
    last: Any
    missing: float
    parts: tuple[int, int, int]
    name: str
    times: Array
    values: Array
    splits: tuple[int, int]

    @classmethod
    def of(cls, trained: Mapping[str, int], seen: Mapping[str, int], panel: Panel) -> DataSummary:
        """The summary of the panel that a forecaster was fitted to.

        Args:
            trained, seen: each series' first step behind the training part, and behind what was seen.
        """
        rows, zone = panel.lengths, panel.timeline.zone
        splits = np.array(
            [
                [part.get(name, start) - start for part in (trained, seen)]
                for name, start in zip(panel.names, panel.starts, strict=True)
            ]
        ).clip(0, rows[:, None])
        learned, known = (int(part) for part in splits.sum(0))
        ends = np.array([panel.starts.min(), (panel.starts + rows).max() - 1])
        first, last = to_wall(panel.timeline.times(ends), zone)
        times = panel.timeline.times(panel.starts[0] + np.arange(rows[0]))
        return cls(
            rows=int(rows.sum()),
            series=len(panel.names),
            targets=panel.targets,
            step=panel.timeline.name,
            zone=zone,
            first=first,
            last=last,
            missing=float(np.isnan(panel.target).mean()),
            parts=(learned, known - learned, int(rows.sum()) - known),
            name=panel.names[0],
            times=to_wall(times, zone),
            values=panel.target[:, : rows[0]],
            splits=(int(splits[0, 0]), int(splits[0, 1])),
        )


def write(
    forecaster: Any,
    backtest: Backtest | None,
    trace: Trace,
    trace_values: Array,
    summary: DataSummary,
    folder: Path,
) -> Path:
    """Write ``report.html`` and ``gates.png`` to ``folder``, of what ``report`` takes; gives the report's path."""
    page = report(forecaster, backtest, trace, trace_values, summary)
    title = f"{short(called(summary.name, summary.targets[0]))}: the LSTM's gates"
    gates = saved(_gates(forecaster, trace, trace_values, summary, title), format="png", dpi=130)
    # the page last: where it stands, the report is complete
    write_whole(folder, {"gates.png": gates, "report.html": page.encode()})
    return folder / "report.html"


def report(
    forecaster: Any,
    backtest: Backtest | None,
    trace: Trace,
    trace_values: Array,
    data_summary: DataSummary,
) -> str:
    """The page, as HTML that needs nothing beside itself.

    Args:
        forecaster: a fitted one.
        backtest: of held-out data; without one there are no scores.
        trace, trace_values: as ``forecaster.trace`` gives them, of the first series' last window.
    """
    shape, summary = forecaster.shape_, data_summary
    pictures = {
        "data": svg(_data(summary), "The data and its split"),
        "losses": svg(losses_figure(forecaster.history_), "Losses by round"),
        "gates": svg(_gates(forecaster, trace, trace_values, summary), "Gates by step and unit"),
    }
    held_out: dict[str, Any] = {}
    if backtest is not None:
        if backtest.times.dtype.kind == "M":
            wall = to_wall(backtest.times.ravel(), summary.zone).reshape(backtest.times.shape)
            backtest = replace(backtest, times=wall)
        held_out = _held_out(backtest)
        if shape.horizon > 1:
            pictures["steps"] = svg(_by_step(backtest), "Error by step of the horizon")
    several = f"{summary.series:,} series" if summary.series > 1 else short(summary.name)
    under = [f"{counted(shape.horizon, 'step')} of {summary.step} ahead", several]
    patches = f"{shape.context // shape.patch} patches of {shape.patch}"
    reads = f"{counted(shape.context, 'step')}{f', {patches}' if shape.patch > 1 else ''}"
    return render(
        "forecast.html.j2",
        heading=f"Forecast of {listed(summary.targets)}",
        under=" · ".join(part for part in under if part),
        verdict=_verdict(backtest),
        won=backtest is not None and backtest.beats_naive,
        headline=_headline(forecaster, backtest),
        split=_split_text(summary),
        gates=f"What each unit of the LSTM's first layer did as it read the last window of the "
        f"first series ({reads}). Each row of a map is a unit, in the same order in all, like "
        f"beside like; each column a step of the LSTM. The input gate lets in, the forget gate "
        f"keeps, the output gate shows.",
        data=_data_facts(summary),
        model=_model_facts(forecaster),
        pictures=pictures,
        **held_out,
    )


# ------------------------------------------------------------------------------------- the text


def _verdict(backtest: Backtest | None) -> str:
    if backtest is None:
        return "No rows were held out, so the model has not been tested."
    table = {name: row[DECISIVE] for name, row in backtest.scores.items()}
    ours = table.pop("gatewise")
    table = {name: value for name, value in table.items() if math.isfinite(value)}
    if not table or not math.isfinite(ours):
        return "The held-out rows have no values to score a forecast by."
    name, naive = min(table.items(), key=lambda item: item[1])
    where = f"over {counted(len(backtest.actual), 'held-out window')}"
    if backtest.beats_naive:
        return (
            f"The model beats the naive forecasts: its scaled MAE is {percent(1 - ours / naive)} "
            f"below that of the better one ({name}), {where}."
        )
    if ours == naive or naive == 0:
        how = "equal to" if ours == naive else "above zero, which is"
    else:
        how = f"{percent(ours / naive - 1)} above"
    return f"The model does not beat the naive forecasts: its scaled MAE is {how} that of {name}, {where}."


def _headline(forecaster: Any, backtest: Backtest | None) -> dict[str, tuple[str, str | None]]:
    """The figures at the top: each a value and what to read it beside."""
    shown: dict[str, tuple[str, str | None]] = {}
    if backtest is not None:
        scores = backtest.scores
        ours = scores["gatewise"]
        naive = "; ".join(
            f"{name} {shown_number(row[DECISIVE])}"
            for name, row in scores.items()
            if name != "gatewise"
        )
        shown["Scaled MAE"] = shown_number(ours[DECISIVE]), naive
        if len(backtest.levels) > 1:
            shown["Coverage"] = f"{ours['coverage']:.0%}", f"nominal {_nominal(backtest.levels)}"
    parameters = sum(p.numel() for p in forecaster.network_.parameters())
    shown["Parameters"] = f"{parameters:,}", None
    shown["Fitted in"] = duration(forecaster.history_.seconds), None
    return shown


def _held_out(backtest: Backtest) -> dict[str, Any]:
    """What the template needs to show forecasts and scores."""
    interval = len(backtest.levels) > 1
    table = backtest.scores
    columns: dict[str, str] = dict.fromkeys((c for c in NAMES if c in table["gatewise"]), "")
    if interval:
        columns["coverage"] = f"nominal {_nominal(backtest.levels)}"
    else:
        columns.pop("coverage", None)
    chosen = _chosen(backtest)
    kinds = {"series": set(backtest.series), "target": set(backtest.target)}
    several = [counted(len(names), kind) for kind, names in kinds.items() if len(names) > 1]
    windows = counted(len(backtest.actual), "window")
    shown = f"{counted(len(chosen), 'window')} of {len(backtest.actual):,}, spread evenly."
    pooled = " MAE and RMSE pool all of them in the data's units." if several else ""
    return dict(
        windows=[svg(_window(backtest, k), f"Forecast {n + 1}") for n, k in enumerate(chosen)],
        choice=shown.capitalize(),
        count=windows + (f" of {' and '.join(several)}" if several else ""),
        interval=_interval(backtest.levels) if interval else None,
        columns={NAMES[column]: (column, note) for column, note in columns.items()},
        scores={
            name: {column: _cell(row, column) for column in columns} for name, row in table.items()
        },
        best=_best(table),
        units="Scaled errors are over each series' standard deviation in the training part; MASE is "
        f"over seasonal naive's error there.{pooled}",
    )


def _cell(row: dict[str, float], column: str) -> str:
    if column not in row:
        return "–"
    return f"{row[column]:.1%}" if column == "coverage" else shown_number(row[column])


def _best(table: dict[str, dict[str, float]]) -> dict[str, str]:
    """For each error the forecast that has the least; coverage has no least."""
    best = {}
    for column in table["gatewise"]:
        known = {name: row[column] for name, row in table.items() if column in row}
        known = {name: value for name, value in known.items() if math.isfinite(value)}
        if len(known) > 1:
            best[column] = min(known, key=known.__getitem__)
    return best


def _split_text(summary: DataSummary) -> str:
    _, test = summary.splits
    held = test < len(summary.times)
    tested = "; the scores come from the test part" if held else ", and no test part was held out"
    which = (
        f" Shown: the first of {summary.series:,} series, {short(summary.name)}."
        if summary.series > 1
        else ""
    )
    targets = len(summary.targets)
    which += f" The first {_TARGETS} of {targets} targets are drawn." if targets > _TARGETS else ""
    return f"The model learned from the unshaded rows; the validation part chose its weights{tested}.{which}"


def _data_facts(summary: DataSummary) -> dict[str, str]:
    first, last = stamps(np.array([summary.first, summary.last]))
    parts = zip(("training", "validation", "test"), summary.parts, strict=True)
    return {
        "rows": f"{summary.rows:,}",
        "series": f"{summary.series:,}",
        "target" if len(summary.targets) == 1 else "targets": listed(summary.targets),
        "step": summary.step,
        "from": first,
        "to": last,
        **({"time zone": summary.zone} if summary.zone else {}),
        "missing values": f"{summary.missing:.1%}",
        **{f"{name} rows": f"{count:,} ({count / summary.rows:.0%})" for name, count in parts},
    }


def _model_facts(forecaster: Any) -> dict[str, str]:
    shape, history = forecaster.shape_, forecaster.history_
    inputs = [*forecaster.past_, *forecaster.known_, *forecaster.static_]
    rounds = counted(len(history.validation), "round")
    return {
        "horizon": counted(shape.horizon, "step"),
        "context": counted(shape.context, "step"),
        "LSTM steps": f"{shape.context // shape.patch} patches of {shape.patch}",
        "season": counted(forecaster.season_, "step"),
        "hidden units": f"{shape.hidden} × {counted(shape.layers, 'layer')}",
        "parameters": f"{sum(p.numel() for p in forecaster.network_.parameters()):,}",
        "quantiles": ", ".join(f"{level:g}" for level in forecaster.quantiles_) or "none",
        "intervals": "conformal" if forecaster.conformal else "as learned",
        "covariates": listed(inputs) if inputs else "none",
        "calendar": "seen" if forecaster.calendar else "not seen",
        "dropout": f"{shape.dropout:g}",
        "batch": f"{forecaster.batch:,}",
        "learning rate": f"{forecaster.learning_rate:g}",
        "training steps": f"{forecaster.steps:,}" if forecaster.steps else "chosen by the data",
        "training": f"{rounds}, number {history.best + 1} kept",
        "fitted in": duration(history.seconds),
        "seed": str(forecaster.seed),
        "gatewise": version("gatewise"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _interval(levels: tuple[float, ...]) -> str:
    return f"{100 * levels[0]:g}% to {100 * levels[-1]:g}% quantile"


def _nominal(levels: tuple[float, ...]) -> str:
    return f"{100 * (levels[-1] - levels[0]):.3g}%"


# --------------------------------------------------------------------------------- the pictures


def forecast_picture(backtest: Backtest, window: int, axis: Axes | None = None) -> Figure:
    """One window of a backtest: the end of its context, what came, the forecast, its interval.

    Args:
        axis: where to draw; a new figure of its own, its lines labelled, if not given.
    """
    if axis is not None:
        _draw_window(backtest, window, axis)
        return axis.get_figure(root=True)  # type: ignore[return-value]
    figure, axis = figure_of(8, 3)
    _draw_window(backtest, window, axis)
    ends = {
        "measured": (backtest.actual[window], INK),
        "forecast": (backtest.point[window], MODEL),
        "seasonal naive": (backtest.seasonal_naive[window], NAIVE),
    }
    label_ends(axis, {n: (backtest.actual.shape[1], v, c) for n, (v, c) in ends.items()})
    return figure


def _window(backtest: Backtest, window: int) -> Figure:
    figure, axis = figure_of(4.5, 2.15)
    _draw_window(backtest, window, axis)
    if len(set(zip(backtest.series, backtest.target, strict=True))) == 1:
        axis.set_title("", loc="left")  # the page's heading says it
    return figure


def _draw_window(backtest: Backtest, window: int, axis: Axes) -> None:
    steps = backtest.actual.shape[1]
    before = backtest.context[window][-max(3 * steps // 2, 24) :]
    ahead = np.arange(1, steps + 1)
    quiet(axis)
    axis.axvline(0.5, color=RULE, lw=1, zorder=0)
    if len(backtest.levels) > 1:
        low, high = backtest.quantiles[window][:, [0, -1]].T
        label = _interval(backtest.levels)
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
    name = called(backtest.series[window], backtest.target[window])
    axis.set_title(short(name), loc="left", fontsize=8.5, color=INK, parse_math=False)


def _chosen(backtest: Backtest) -> list[int]:
    """Windows to picture, spread over the series and, within each, over its dates."""
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


def _data(summary: DataSummary) -> Figure:
    """The first series of each target, with the parts of the split."""
    shown = min(len(summary.targets), _TARGETS)
    figure, axes = figure_rows(9, 1.35 * shown + 0.75, shown)
    times = summary.times
    ends = [*summary.splits, len(times)]
    for axis, target, values in zip(axes, summary.targets, summary.values, strict=False):
        _overview(axis, times, values)
        axis.margins(x=0.005)
        axis.locator_params(axis="y", nbins=4)
        axis.set_title(
            short(called(summary.name, target)),
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
    """A series as a line; a long one as the mean of many parts, within their range."""
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


def _by_step(backtest: Backtest) -> Figure:
    figure, axis = figure_of(4.5, 2.4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a step without a truth stays NaN
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


def _gates(
    forecaster: Any,
    trace: Trace,
    values: Array,
    summary: DataSummary,
    title: str | None = None,
) -> Figure:
    shape = forecaster.shape_
    times = summary.times[-shape.context :: shape.patch]
    return gate_map(trace, values=values, step_labels=times, title=title)
