"""The report of a fit: one self-contained page."""

from __future__ import annotations

import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gatewise.errors import need
from gatewise.gates.picture import gate_map
from gatewise.tasks.forecast.backtest import Backtest
from gatewise.tasks.forecast.files import write_whole
from gatewise.tasks.forecast.forecaster import Forecaster

INK, MODEL, NAIVE, LAST, HELD = "#334155", "#0f766e", "#c2740c", "#94a3b8", "#fef3c7"
_COLOURS = {"gatewise": MODEL, "seasonal naive": NAIVE, "last value": LAST}
_SHOWN = 6  # forecasts pictured


def write(forecaster: Forecaster, data: Any, backtest: Backtest | None, folder: Path) -> Path:
    """Write ``report.html`` and ``gates.png`` to ``folder``; gives the report's path."""
    panel = forecaster._panel(data, fitted=True)
    trace, values = forecaster.trace(data)
    gates = gate_map(
        trace,
        values=values,
        title=f"{panel.targets[0]}: the LSTM over {forecaster.shape_.context} steps, "
        f"{forecaster.shape_.patch} a patch",
    )
    pictures = {"data": _svg(_data(forecaster, panel)), "losses": _svg(_losses(forecaster))}
    if backtest is not None:
        pictures["windows"] = _svg(_windows(backtest))
        pictures["steps"] = _svg(_by_step(backtest))
    pictures["gates"] = _svg(gates)
    page = _page(forecaster, panel, backtest, pictures)
    image = io.BytesIO()
    gates.savefig(image, format="png", dpi=130)
    write_whole(folder, {"report.html": page.encode(), "gates.png": image.getvalue()})
    return folder / "report.html"


def _page(
    forecaster: Forecaster, panel: Any, backtest: Backtest | None, pictures: dict[str, str]
) -> str:
    jinja2 = need("jinja2", "tasks")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gatewise.tasks.forecast", "."), autoescape=True
    )
    rows = np.diff(panel.offsets)
    trained = sum(forecaster.trained_.values()) - int(panel.starts.sum())
    seen = sum(forecaster.seen_.values()) - int(panel.starts.sum())
    facts = {
        "rows": f"{int(rows.sum()):,}",
        "series": f"{len(panel.names):,}",
        "targets": ", ".join(panel.targets),
        "step": panel.timeline.name,
        "missing": f"{np.isnan(panel.target).mean():.1%}",
        "training rows": f"{trained:,}",
        "validation rows": f"{seen - trained:,}",
        "test rows": f"{int(rows.sum()) - seen:,}",
    }
    shape, history = forecaster.shape_, forecaster.history_
    model = {
        "horizon": shape.horizon,
        "context": f"{shape.context} ({shape.context // shape.patch} patches of {shape.patch})",
        "hidden units": f"{shape.hidden} × {shape.layers}",
        "parameters": f"{sum(p.numel() for p in forecaster.network_.parameters()):,}",
        "rounds": f"{len(history.validation)}, kept {history.best + 1}",
        "fitted in": f"{history.seconds:.1f} s",
        "seed": forecaster.seed,
        "versions": f"gatewise {version('gatewise')}, torch {torch.__version__}",
    }
    table = None if backtest is None else backtest.scores
    return str(
        environment.get_template("report.html.j2").render(
            verdict=_verdict(backtest),
            facts=facts,
            model=model,
            scores=table,
            best=None if table is None else _best(table),
            levels=forecaster.quantiles,
            windows=0 if backtest is None else len(backtest.actual),
            pictures=pictures,
        )
    )


def _verdict(backtest: Backtest | None) -> str:
    if backtest is None:
        return "No rows were held out, so there are no scores."
    table = {name: row["scaled MAE"] for name, row in backtest.scores.items()}
    ours = table.pop("gatewise")
    name, naive = min(table.items(), key=lambda item: item[1])
    share = abs(1 - ours / naive)
    if backtest.beats_naive:
        return f"On held-out data the error is {share:.0%} below that of the best naive forecast ({name})."
    return f"The model does not beat the naive forecasts: its error is {share:.0%} above {name}'s."


def _best(table: dict[str, dict[str, float]]) -> dict[str, str]:
    """For each score the forecast that has the least; coverage has no least."""
    columns = [c for c in table["gatewise"] if c not in ("coverage", "scaled pinball")]
    return {c: min(table, key=lambda name: table[name][c]) for c in columns}


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    figures = need("matplotlib.figure", "tasks")
    figure = figures.Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=8)
    return figure, axes


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    written = buffer.getvalue()
    return written[written.index("<svg") :]


def _data(forecaster: Forecaster, panel: Any) -> Any:
    """The first series of each target (three at most), with the parts of the split."""
    shown = min(len(panel.targets), 3)
    figure, axes = _figure(9, 1.5 * shown + 0.5, shown)
    stop = int(panel.offsets[1])
    every = max(1, stop // 2000)
    times = panel.timeline.times(panel.starts[0] + np.arange(0, stop, every))
    name = panel.names[0]
    bounds = [forecaster.trained_.get(name), forecaster.seen_.get(name)]
    for axis, column, values in zip(axes[:, 0], panel.targets, panel.target, strict=False):
        axis.plot(times, values[:stop:every], color=INK, lw=0.8)
        label = f"{name} · {column}" if name else column
        axis.set_title(label, loc="left", fontsize=9)
        edges = [panel.timeline.times(np.array([b]))[0] for b in bounds if b is not None]
        for start, end, colour, text in zip(
            edges, [*edges[1:], times[-1]], ("#e0f2fe", HELD), ("validation", "test"), strict=False
        ):
            if start < end:
                axis.axvspan(start, end, color=colour, lw=0)
                axis.annotate(
                    text, (start, 0.03), xycoords=("data", "axes fraction"), fontsize=8, color=INK
                )
    return figure


def _losses(forecaster: Forecaster) -> Any:
    history = forecaster.history_
    figure, axes = _figure(5, 2.6)
    axis = axes[0, 0]
    for losses, colour, name in (
        (history.train, LAST, "training"),
        (history.validation, MODEL, "validation"),
    ):
        rounds = np.arange(1, len(losses) + 1)
        axis.plot(rounds, losses, color=colour, marker="o", ms=3)
        if losses:
            axis.annotate(name, (rounds[-1], losses[-1]), xytext=(4, 0), textcoords="offset points",
                          fontsize=8, color=colour)  # fmt: skip
    axis.axvline(history.best + 1, color=INK, lw=0.8, ls=":")
    axis.set_xlabel("round (dotted: the one kept)", fontsize=8)
    axis.set_ylabel("loss", fontsize=8)
    axis.margins(x=0.15)
    return figure


def _windows(backtest: Backtest) -> Any:
    """Held-out forecasts, spread over all windows, after the end of what each saw."""
    chosen = np.unique(np.linspace(0, len(backtest.actual) - 1, _SHOWN).astype(int))
    rows = -(-len(chosen) // 2)
    figure, axes = _figure(9, 2.1 * rows, rows, 2)
    for axis, k in zip(axes.flat, chosen, strict=False):
        forecast_picture(backtest, int(k), axis)
    for axis in axes.flat[len(chosen) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("steps from the forecast's origin", fontsize=8)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, fontsize=8, frameon=False)
    return figure


def forecast_picture(backtest: Backtest, window: int, axis: Any) -> None:
    """Draw one window of a backtest: the end of its context, the truth, the forecast, the interval."""
    steps = backtest.actual.shape[1]
    before = backtest.context[window][-2 * steps :]
    ahead = np.arange(1, steps + 1)
    axis.plot(np.arange(1 - len(before), 1), before, color=INK, lw=0.9, label="past")
    axis.plot(ahead, backtest.actual[window], color=INK, lw=1.1, ls=":", label="what came")
    axis.plot(
        ahead,
        backtest.seasonal_naive[window],
        color=NAIVE,
        lw=0.9,
        alpha=0.7,
        label="seasonal naive",
    )
    axis.plot(ahead, backtest.point[window], color=MODEL, lw=1.5, label="forecast")
    if len(backtest.levels) > 1:
        low, high = backtest.quantiles[window][:, [0, -1]].T
        levels = f"{backtest.levels[0]:.0%}–{backtest.levels[-1]:.0%}"
        axis.fill_between(ahead, low, high, color=MODEL, alpha=0.18, lw=0, label=levels)
    stamp = np.datetime_as_string(backtest.times[window, 0], "m").replace("T", " ").removesuffix(" 00:00") if (
        np.issubdtype(backtest.times.dtype, np.datetime64)
    ) else str(backtest.times[window, 0])  # fmt: skip
    parts = [backtest.series[window], backtest.target[window], f"from {stamp}"]
    axis.set_title(" · ".join(str(p) for p in parts if str(p)), loc="left", fontsize=8)


def _by_step(backtest: Backtest) -> Any:
    figure, axes = _figure(5, 2.6)
    axis = axes[0, 0]
    for name, values in backtest.by_step().items():
        axis.plot(np.arange(1, len(values) + 1), values, color=_COLOURS[name], label=name)
    axis.legend(fontsize=8, frameon=False)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("step of the horizon", fontsize=8)
    axis.set_ylabel("scaled MAE", fontsize=8)
    return figure
