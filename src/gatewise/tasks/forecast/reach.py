"""Whether forecasts are finite, and stay where the data has been."""

from __future__ import annotations

import numpy as np

from gatewise.data.moments import extremes
from gatewise.data.windows import Batch, Windows
from gatewise.errors import DataError, caution

Array = np.ndarray

_TIMES = 10  # so many spans of what was seen are no forecast any more
_FAR = 10.0  # so many deviations from where a covariate was in training


def say_far(windows: Windows, batch: Batch, values: Array) -> None:
    """Warn of a forecast that leaves the range of the training part and of its own context by ten times
    that range.

    Args:
        values: N×K×(1 + Q) forecasts of the batch's windows, in the data's units.

    Raises:
        DataError: one is not finite.
    """
    channel, series = batch.channel.numpy(), batch.series.numpy()
    units = windows.scaling.target
    context = batch.target.numpy() * batch.scale.numpy()[:, None] + batch.location.numpy()[:, None]
    low, high = extremes(np.where(batch.observed.numpy() > 0, context, np.nan))
    low, high = np.fmin(low, units.low[channel, series]), np.fmax(high, units.high[channel, series])
    span = np.maximum(high - low, batch.scale.numpy())
    least, most = values.min((1, 2)), values.max((1, 2))
    finite = np.isfinite(values).all((1, 2))
    far = (least < low - _TIMES * span) | (most > high + _TIMES * span)
    if finite.all() and not far.any():
        return
    at = int(np.argmin(finite)) if not finite.all() else int(np.argmax(far))
    name = windows.panel.listed([series[at]])
    why = _covariate(windows, batch, at)
    if not finite[at]:
        raise DataError(
            f"the forecast of {name} is not finite: its values, its covariates or the model's weights "
            f"are too large to compute with{why}"
        )
    worst = most[at] if most[at] - high[at] > low[at] - least[at] else least[at]
    caution(
        f"the forecast of {name} goes to {worst:.6g}, far from the {low[at]:.6g} to {high[at]:.6g} of its "
        f"training part and context{why}; {int(far.sum())} of {len(far)} forecasts are like that"
    )


def _covariate(windows: Windows, batch: Batch, at: int) -> str:
    """What a message says of the covariate that is farthest from where it was in training."""
    kinds = (("past", batch.past, windows.panel.past), ("known", batch.known, windows.panel.known))
    columns = [
        (float(values[at, :, k].abs().max()), kind, k, name)
        for kind, values, names in kinds
        for k, name in enumerate(names)
    ]
    farthest = max(columns, default=(0.0, "", 0, ""))
    if not farthest[0] > _FAR:
        return ""
    _, kind, k, name = farthest
    units, s = getattr(windows.scaling, kind), int(batch.series[at])
    steps = getattr(batch, kind)[at, :, k]
    value = float(steps[steps.abs().argmax()]) * units.scale[k, s] + units.location[k, s]
    low, high = units.low[k, s], units.high[k, s]
    return f" ({name!r} is {value:.6g} there, and was {low:.6g} to {high:.6g} in training)"
