"""Forecasts of windows in the data's units: calibrated, clipped to bounds, NaN where too few values were observed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gatewise.data.panel import Panel
from gatewise.data.windows import Batch, Windows, least_observed
from gatewise.errors import DataError, caution
from gatewise.tasks.forecast.intervals import conformal_offsets, sorted_quantiles
from gatewise.tasks.forecast.reach import warn_if_far
from gatewise.tasks.forecast.training import evenly_spread

Array = np.ndarray


@dataclass(frozen=True)
class Forecasting:
    """A network on its device with everything that turns its outputs into forecasts.

    Attributes:
        context: L, the length of the contexts.
        levels: the quantiles' levels.
        offsets: K×Q, added to the quantiles; see :func:`calibrated_offsets`.
        minimum, maximum: the bounds of forecasts, or None.
    """

    network: nn.Module
    device: torch.device
    context: int
    levels: Sequence[float]
    offsets: Array
    minimum: float | None
    maximum: float | None

    def forecast(self, windows: Windows, indices: Array) -> Array:
        """N×K×(1 + Q) forecasts in the data's units: the point forecast, then the quantiles in rising order.

        A window with too few observed values gets NaN.

        Raises:
            DataError: no window can be forecast, or a forecast is not finite.
        """
        parts, not_forecast = [], []
        for chosen in _chunks(indices):
            batch = windows[chosen]
            with torch.no_grad():
                values = self.network(to_device(batch, self.device)).double().cpu().numpy()
            values[..., 1:] += self.offsets
            values = sorted_quantiles(values, self.levels)
            location, scale = batch.location.numpy(), batch.scale.numpy()
            with np.errstate(over="ignore"):
                values = values * scale[:, None, None] + location[:, None, None]
            missing = batch.observed.sum(1).numpy() < least_observed(self.context)
            missing |= _unscaled(windows, batch)
            far = np.where(missing[:, None, None], location[:, None, None], values)
            warn_if_far(windows, batch, far)
            values = self._bounded(values)
            values[missing] = np.nan
            parts.append(values)
            not_forecast.append(batch.series.numpy()[missing])
        self._warn_not_forecast(windows.panel, np.unique(np.concatenate(not_forecast)), parts)
        return np.concatenate(parts)

    def _bounded(self, values: Array) -> Array:
        """The values, clipped to the minimum and the maximum."""
        lower = -np.inf if self.minimum is None else self.minimum
        upper = np.inf if self.maximum is None else self.maximum
        return values.clip(lower, upper)  # NumPy below 2.1 refuses to clip at None and None

    def _warn_not_forecast(self, panel: Panel, series: Array, parts: list[Array]) -> None:
        """Warns of ``series`` that cannot be forecast; raises DataError if no series can be forecast."""
        if not series.size:
            return
        named = panel.listed(series)
        needed = (
            f"a forecast needs at least {least_observed(self.context)} observed values among the last "
            f"{self.context} steps; in a series that was not part of fit, two of them must differ"
        )
        if all(np.isnan(part).all() for part in parts):
            raise DataError(f"there are too few values to forecast {named}: {needed}")
        caution(f"the forecast is NaN for {named}: {needed}")


def _unscaled(windows: Windows, batch: Batch) -> Array:
    """Whether each window has no scale: its series has none, and its own values are constant."""
    usual = windows.scaling.target.scale[batch.channel.numpy(), batch.series.numpy()]
    return np.isnan(usual) & ~(batch.target != 0).any(1).numpy()


def calibrated_offsets(network: nn.Module, windows: Windows, levels: Sequence[float]) -> Array:
    """K×Q: the offset of each quantile, in window units, with which each interval has its nominal coverage on
    ``windows``."""
    gaps = []
    with torch.no_grad():
        for chosen in _chunks(evenly_spread(len(windows))):
            batch = windows[chosen]
            gap = batch.future[..., None] - network(batch)[..., 1:]
            seen = batch.future_observed[..., None].bool()
            gaps.append(torch.where(seen, gap, torch.nan).double().numpy())
    return conformal_offsets(np.concatenate(gaps), levels)


def observed_by_step(windows: Windows) -> Array:
    """K: for each step of the horizon the number of values that the calibration would use."""
    parts = _chunks(evenly_spread(len(windows)))
    return np.asarray(sum((~np.isnan(windows.futures(part))).sum(0) for part in parts))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``."""
    return batch if device.type == "cpu" else Batch(*(part.to(device) for part in batch))


def _chunks(indices: Array) -> Iterator[Array]:
    for start in range(0, len(indices), 1024):
        yield indices[start : start + 1024]
