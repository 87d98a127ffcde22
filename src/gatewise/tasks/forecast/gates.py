"""What a page of gates shows of forecasts: the window that was read, the forecast, and what really followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gatewise.data.panel import Panel
from gatewise.data.windows import Windows
from gatewise.errors import OptionError
from gatewise.gates.page.shown import InputEdit, Shown, steps_from, with_numbers
from gatewise.gates.page.strips import Strip, lines
from gatewise.gates.picture import stamps
from gatewise.models.forecaster import ForecasterShape
from gatewise.nn.trace import Trace
from gatewise.tasks.forecast.output import quantile_name

Array = np.ndarray


def shown(
    windows: Windows,
    chosen: Array,
    traces: Mapping[str, Trace],
    forecast: Array,
    forecaster: Any,
    steps: int,
) -> Shown:
    """The windows ``chosen``, their traces and their forecasts, N×K×(1 + Q), for a page.

    Only the last ``steps`` patches are shown.
    """
    shape, targets = forecaster.shape_, forecaster.target_
    panel = windows.panel
    channel, series, origin = windows.place(chosen)
    patches = shape.context // shape.patch
    first = first_shown(shape, steps)
    context = windows.contexts(chosen, shape.context)[:, first * shape.patch :]
    futures = windows.futures(chosen)
    starts = panel.starts[series] + origin - shape.context
    places = starts[:, None] + shape.patch * np.arange(first, patches)
    labels, strips, predictions, names = [], [], [], []
    for k in range(len(chosen)):
        target = targets[channel[k]]
        words = [] if panel.series is None else [str(panel.labels[series[k]])[:48]]
        labels.append(" · ".join(words + ([target] if len(targets) > 1 or not words else [])))
        strip = lines(target, {target: context[k]}, per_step=shape.patch)
        if shape.patch > 1:
            strip = strip.with_note(f"a step of the network reads {shape.patch} values")
        strips.append(strip)
        predictions.append(_forecast(forecast[k], futures[k], forecaster.quantiles_))
        names.append(stamps(np.asarray(panel.timeline.times(places[k]))))
    shown = {name: steps_from(trace, first) for name, trace in traces.items()}
    begins = [first] * len(chosen)
    return Shown(shown, labels, strips, predictions, step_labels=names, begins=begins)


def first_shown(shape: ForecasterShape, steps: int) -> int:
    """The first patch that is shown if only the last ``steps`` are."""
    return max(0, shape.context // shape.patch - steps)


def with_values(
    windows: Windows, index: int, edits: Sequence[InputEdit], shape: ForecasterShape, steps: int
) -> Panel:
    """The panel in which values of one window have other numbers.

    Args:
        edits: their places are those of the strip of :func:`shown`.

    Raises:
        OptionError: a place is before the series' first row.
    """
    channel, series, origin = (int(each[0]) for each in windows.place(np.array([index])))
    panel = windows.panel
    row = origin - shape.context + first_shown(shape, steps) * shape.patch
    begin = int(panel.offsets[series])
    before = [edit.at for edit in edits if row + edit.at < 0]
    if before:
        raise OptionError(
            f"the series has no value at place {before[0]} of the window: it begins at place {-row}"
        )
    moved = [replace(edit, at=begin + row + edit.at, line=0) for edit in edits]
    target = panel.target.copy()
    target[channel] = with_numbers(target[channel][:, None], moved)[:, 0]
    return replace(panel, target=target)


def _forecast(values: Array, actual: Array, quantiles: Any) -> Strip:
    """The forecast K×(1 + Q) and the actual values, NaN where they are not known."""
    found = {"forecast": values[:, 0]}
    if np.isfinite(actual).any():
        found["actual"] = actual
    found |= {quantile_name(level): values[:, 1 + k] for k, level in enumerate(quantiles)}
    return lines("forecast", found, over_steps=False).with_note("the steps after the window")
