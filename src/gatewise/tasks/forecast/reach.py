"""Checks that forecasts are finite and close to the range of the data."""

from __future__ import annotations

import numpy as np

from gatewise.data.moments import extremes
from gatewise.data.windows import Batch, Windows
from gatewise.errors import DataError, caution

Array = np.ndarray

_TIMES = 10  # a forecast this many ranges outside the observed range gives a warning
_FAR = 10.0  # a covariate this many standard deviations from its training mean is named in messages


def warn_if_far(windows: Windows, batch: Batch, values: Array) -> None:
    """Warns of forecasts far outside the range of the training part and of the context: more than ten times
    the width of that range.

    Args:
        values: N×K×(1 + Q) forecasts of the batch's windows, in the data's units.

    Raises:
        DataError: a forecast is not finite.
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
            f"the forecast of {name} is not finite, because its values, its covariates or the model's "
            f"weights are too large{why}: check the values, or fit again"
        )
    worst = most[at] if most[at] - high[at] > low[at] - least[at] else least[at]
    caution(
        f"the forecast of {name} reaches {worst:.6g}, far outside the range {low[at]:.6g} to "
        f"{high[at]:.6g} of its training part and context{why}; this is so for {int(far.sum())} of "
        f"{len(far)} forecasts"
    )


def _covariate(windows: Windows, batch: Batch, at: int) -> str:
    """A note for messages about the covariate that is farthest from its training values; "" if none is far."""
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
    return f" ({name!r} is {value:.6g} there, and was from {low:.6g} to {high:.6g} in training)"
