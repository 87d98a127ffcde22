"""What a page of gates shows of forecasts: the window that was read, the forecast, and what really followed."""

from __future__ import annotations

from typing import Any

import numpy as np

from gatewise.data.windows import Windows
from gatewise.gates.page.shown import Shown
from gatewise.gates.page.strips import Strip, lines
from gatewise.gates.picture import stamps
from gatewise.nn.trace import Trace
from gatewise.tasks.forecast.output import quantile_name

Array = np.ndarray


def shown(
    windows: Windows, chosen: Array, trace: Trace, forecast: Array, forecaster: Any, steps: int
) -> Shown:
    """The windows ``chosen``, their trace and their forecasts, N×K×(1 + Q), for a page.

    Only the last ``steps`` patches are shown.
    """
    shape, targets = forecaster.shape_, forecaster.target_
    panel = windows.panel
    channel, series, origin = windows.place(chosen)
    patches = shape.context // shape.patch
    first = max(0, patches - steps)
    context = windows.contexts(chosen, shape.context)[:, first * shape.patch :]
    futures = windows.futures(chosen)
    starts = panel.starts[series] + origin - shape.context
    places = starts[:, None] + shape.patch * np.arange(first, patches)
    labels, strips, predictions, names = [], [], [], []
    for k in range(len(chosen)):
        target = targets[channel[k]]
        words = [] if panel.series is None else [str(panel.labels[series[k]])[:48]]
        labels.append(" · ".join(words + ([target] if len(targets) > 1 or not words else [])))
        strips.append(lines(target, {target: context[k]}, per_step=shape.patch))
        predictions.append(_forecast(forecast[k], futures[k], forecaster.quantiles_))
        names.append(stamps(np.asarray(panel.timeline.times(places[k]))))
    if first:
        trace = Trace(
            {n: [[each[:, first:] for each in both] for both in trace[n]] for n in trace.names},
            None,
        )
    return Shown(trace, labels, strips, predictions, names)


def _forecast(values: Array, actual: Array, quantiles: Any) -> Strip:
    """The forecast K×(1 + Q) and the actual values, NaN where they are not known."""
    found = {"forecast": values[:, 0]}
    if np.isfinite(actual).any():
        found["actual"] = actual
    found |= {quantile_name(level): values[:, 1 + k] for k, level in enumerate(quantiles)}
    return lines("forecast", found, over_steps=False).with_note("the steps after the window")
