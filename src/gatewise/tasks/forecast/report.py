"""The report of a forecaster: one self-contained page."""

from __future__ import annotations

import math
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gatewise.atomic import write_atomically
from gatewise.data.zones import to_wall
from gatewise.gates.picture import stamps
from gatewise.nn.trace import Trace
from gatewise.report.page import render
from gatewise.report.pictures import (
    image_bytes,
    losses_figure,
    svg,
)
from gatewise.report.scores import NAMES
from gatewise.report.words import (
    duration,
    format_number,
    joined_names,
    name_list,
    percent,
    shortened,
    with_unit,
)
from gatewise.tasks.forecast.backtest import MAIN_SCORE, Backtest
from gatewise.tasks.forecast.pictures import (
    TARGETS_SHOWN,
    chosen_windows,
    data_figure,
    gates_figure,
    interval_words,
    step_figure,
    window_figure,
)
from gatewise.tasks.forecast.summary import DataSummary

Array = np.ndarray


def write(
    forecaster: Any,
    backtest: Backtest | None,
    trace: Trace,
    trace_values: Array,
    summary: DataSummary,
    folder: Path,
) -> Path:
    """Writes ``report.html`` and ``gates.png`` to ``folder`` and returns the path of the report. The other
    arguments are those of ``report``."""
    page = report(forecaster, backtest, trace, trace_values, summary)
    title = f"{shortened(joined_names(summary.name, summary.targets[0]))}: the LSTM's gates"
    gates = image_bytes(
        gates_figure(forecaster, trace, trace_values, summary, title), format="png", dpi=130
    )
    # report.html is written last, so that its presence means that the report is complete
    write_atomically(folder, {"gates.png": gates, "report.html": page.encode()})
    return folder / "report.html"


def report(
    forecaster: Any,
    backtest: Backtest | None,
    trace: Trace,
    trace_values: Array,
    data_summary: DataSummary,
) -> str:
    """The page as self-contained HTML.

    Args:
        forecaster: a fitted forecaster.
        backtest: the backtest on the test part. Without it the page has no scores.
        trace, trace_values: the result of ``forecaster.trace``, for the last window of the first series.
    """
    shape, summary = forecaster.shape_, data_summary
    pictures = {
        "data": svg(data_figure(summary), "The data and its split"),
        "losses": svg(losses_figure(forecaster.history_), "Losses by round"),
        "gates": svg(
            gates_figure(forecaster, trace, trace_values, summary), "Gates by step and unit"
        ),
    }
    held_out: dict[str, Any] = {}
    if backtest is not None:
        if backtest.times.dtype.kind == "M":
            wall = to_wall(backtest.times.ravel(), summary.zone).reshape(backtest.times.shape)
            backtest = replace(backtest, times=wall)
        held_out = _held_out(backtest)
        if shape.horizon > 1:
            pictures["steps"] = svg(step_figure(backtest), "Error by step of the horizon")
    several = f"{summary.series:,} series" if summary.series > 1 else shortened(summary.name)
    under = [f"{with_unit(shape.horizon, 'step')} of {summary.step} ahead", several]
    patches = f"{shape.context // shape.patch} patches of {shape.patch}"
    reads = f"{with_unit(shape.context, 'step')}{f', {patches}' if shape.patch > 1 else ''}"
    return render(
        "forecast.html.j2",
        heading=f"Forecast of {name_list(summary.targets)}",
        under=" · ".join(part for part in under if part),
        verdict=_verdict(backtest),
        won=backtest is not None and backtest.beats_naive,
        warnings=forecaster.history_.warnings,
        headline=_headline(forecaster, backtest),
        split=_split_text(summary),
        gates=f"The gates and states of the LSTM's first layer while it read the last window of the first "
        f"series ({reads}). Each row of a map is a unit and each column a step of the LSTM. All maps "
        f"have the units in the same order, with similar units next to each other. The input gate "
        f"controls what enters the cell, the forget gate what stays in it, the output gate what leaves it.",
        data=_data_facts(summary),
        model=_model_facts(forecaster),
        pictures=pictures,
        **held_out,
    )


# ------------------------------------------------------------------------------------- the text


def _verdict(backtest: Backtest | None) -> str:
    if backtest is None:
        return "There is no test part, so the model has not been tested."
    table = {name: row[MAIN_SCORE] for name, row in backtest.scores.items()}
    ours = table.pop("gatewise")
    table = {name: value for name, value in table.items() if math.isfinite(value)}
    if not table or not math.isfinite(ours):
        return "The test part has no actual values, so the forecasts cannot be scored."
    name, naive = min(table.items(), key=lambda item: item[1])
    where = f"over {with_unit(len(backtest.actual), 'test window')}"
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
    """The numbers at the top of the page: for each heading a value, and a value to compare it with or None."""
    shown: dict[str, tuple[str, str | None]] = {}
    if backtest is not None:
        scores = backtest.scores
        ours = scores["gatewise"]
        naive = "; ".join(
            f"{name} {format_number(row[MAIN_SCORE])}"
            for name, row in scores.items()
            if name != "gatewise"
        )
        shown["Scaled MAE"] = format_number(ours[MAIN_SCORE]), naive
        if len(backtest.levels) > 1:
            shown["Coverage"] = f"{ours['coverage']:.0%}", f"nominal {_nominal(backtest.levels)}"
    parameters = sum(p.numel() for p in forecaster.network_.parameters())
    shown["Parameters"] = f"{parameters:,}", None
    shown["Fitted in"] = duration(forecaster.history_.seconds), None
    return shown


def _held_out(backtest: Backtest) -> dict[str, Any]:
    """The values of the template for the forecasts and scores of the test part."""
    interval = len(backtest.levels) > 1
    table = backtest.scores
    columns: dict[str, str] = dict.fromkeys((c for c in NAMES if c in table["gatewise"]), "")
    if interval:
        columns["coverage"] = f"nominal {_nominal(backtest.levels)}"
    else:
        columns.pop("coverage", None)
    chosen = chosen_windows(backtest)
    kinds = {"series": set(backtest.series), "target": set(backtest.target)}
    several = [with_unit(len(names), kind) for kind, names in kinds.items() if len(names) > 1]
    windows = with_unit(len(backtest.actual), "window")
    shown = f"{with_unit(len(chosen), 'window')} of {len(backtest.actual):,}, spread evenly."
    pooled = " MAE and RMSE pool all of them in the data's units." if several else ""
    return dict(
        windows=[
            svg(window_figure(backtest, k), f"Forecast {n + 1}") for n, k in enumerate(chosen)
        ],
        choice=shown.capitalize(),
        count=windows + (f" of {' and '.join(several)}" if several else ""),
        interval=interval_words(backtest.levels) if interval else None,
        columns={NAMES[column]: (column, note) for column, note in columns.items()},
        scores={
            name: {column: _cell(row, column) for column in columns} for name, row in table.items()
        },
        best=_best(table),
        units=" ".join(
            [
                "Scaled errors are divided by each series' standard deviation in the training part, and MASE by the "
                f"seasonal naive error there.{pooled}",
                *backtest.evaluation().sentences,
            ]
        ),
    )


def _cell(row: dict[str, float], column: str) -> str:
    if column not in row:
        return "–"
    return f"{row[column]:.1%}" if column == "coverage" else format_number(row[column])


def _best(table: dict[str, dict[str, float]]) -> dict[str, str]:
    """The name of the forecast with the lowest value of each error."""
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
    tested = "; the scores come from the test part" if held else "; there is no test part"
    which = (
        f" Shown: the first of {summary.series:,} series, {shortened(summary.name)}."
        if summary.series > 1
        else ""
    )
    targets = len(summary.targets)
    which += (
        f" The first {TARGETS_SHOWN} of {targets} targets are drawn."
        if targets > TARGETS_SHOWN
        else ""
    )
    return (
        f"The model was trained on the unshaded rows; the validation part was used to choose its "
        f"weights{tested}.{which}"
    )


def _data_facts(summary: DataSummary) -> dict[str, str]:
    first, last = stamps(np.array([summary.first, summary.last]))
    parts = zip(("training", "validation", "test"), summary.parts, strict=True)
    return {
        "rows": f"{summary.rows:,}",
        "series": f"{summary.series:,}",
        "target" if len(summary.targets) == 1 else "targets": name_list(summary.targets),
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
    rounds = with_unit(len(history.validation), "round")
    return {
        "horizon": with_unit(shape.horizon, "step"),
        "context": with_unit(shape.context, "step"),
        "LSTM steps": f"{shape.context // shape.patch} patches of {shape.patch}",
        "season": with_unit(forecaster.season_, "step"),
        "hidden units": f"{shape.hidden} × {with_unit(shape.layers, 'layer')}",
        "parameters": f"{sum(p.numel() for p in forecaster.network_.parameters()):,}",
        "quantiles": ", ".join(f"{level:g}" for level in forecaster.quantiles_) or "none",
        "intervals": "conformal" if forecaster.conformal else "not calibrated",
        "covariates": name_list(inputs) if inputs else "none",
        "calendar features": "on" if forecaster.calendar else "off",
        "dropout": f"{shape.dropout:g}",
        "batch": f"{forecaster.batch:,}",
        "learning rate": f"{forecaster.learning_rate:g}",
        "training steps": f"{forecaster.steps:,}" if forecaster.steps else "chosen from the data",
        "training": f"{rounds}; the weights of round {history.best + 1} were kept",
        "fitted in": duration(history.seconds),
        "seed": str(forecaster.seed),
        "gatewise": version("gatewise"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _nominal(levels: tuple[float, ...]) -> str:
    return f"{100 * (levels[-1] - levels[0]):.3g}%"
