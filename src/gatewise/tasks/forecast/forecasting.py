"""Forecasts of windows: in the data's units, calibrated, cut off at bounds, NaN where too little was observed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gatewise.data.panel import Panel
from gatewise.data.windows import Batch, Windows, least_observed
from gatewise.errors import DataError, caution
from gatewise.tasks.forecast.intervals import ordered, widened
from gatewise.tasks.forecast.reach import say_far
from gatewise.tasks.forecast.training import spread

Array = np.ndarray


@dataclass(frozen=True)
class Forecasting:
    """What forecasts are made by: a network on its device, its levels, and each quantile's offset."""

    network: nn.Module
    device: torch.device
    context: int
    levels: Sequence[float]
    offsets: Array
    minimum: float | None
    maximum: float | None

    def forecast(self, windows: Windows, indices: Array) -> Array:
        """N×K×(1 + Q) in the data's units, the quantiles in rising order; NaN where too little of the
        context was observed.

        Raises:
            DataError: no window can be forecast, or a forecast is not finite.
        """
        parts, blind = [], []
        for chosen in _chunks(indices):
            batch = windows[chosen]
            with torch.no_grad():
                values = self.network(moved(batch, self.device)).double().cpu().numpy()
            values[..., 1:] += self.offsets
            values = ordered(values, self.levels)
            location, scale = batch.location.numpy(), batch.scale.numpy()
            with np.errstate(over="ignore"):
                values = values * scale[:, None, None] + location[:, None, None]
            missing = batch.observed.sum(1).numpy() < least_observed(self.context)
            missing |= _unscaled(windows, batch)
            far = np.where(missing[:, None, None], location[:, None, None], values)
            say_far(windows, batch, far)
            values = self._bounded(values)
            values[missing] = np.nan
            parts.append(values)
            blind.append(batch.series.numpy()[missing])
        self._say_blind(windows.panel, np.unique(np.concatenate(blind)), parts)
        return np.concatenate(parts)

    def _bounded(self, values: Array) -> Array:
        """The values, those beyond the minimum or the maximum replaced by it."""
        lower = -np.inf if self.minimum is None else self.minimum
        upper = np.inf if self.maximum is None else self.maximum
        return values.clip(lower, upper)  # NumPy below 2.1 refuses to clip at None and None

    def _say_blind(self, panel: Panel, series: Array, parts: list[Array]) -> None:
        """Warn of series that cannot be forecast, or raise where none can."""
        if not series.size:
            return
        said = (
            f"{panel.listed(series)}: of the last {self.context} steps at least "
            f"{least_observed(self.context)} values must be observed, and of a series that fit "
            f"did not see two that differ"
        )
        if all(np.isnan(part).all() for part in parts):
            raise DataError(f"there is nothing to forecast from in {said}")
        caution(f"the forecast is NaN for {said}")


def _unscaled(windows: Windows, batch: Batch) -> Array:
    """Whether a window is of a series without a scale, and is flat, so that it has none either."""
    usual = windows.scaling.target.scale[batch.channel.numpy(), batch.series.numpy()]
    return np.isnan(usual) & ~(batch.target != 0).any(1).numpy()


def calibrated(network: nn.Module, windows: Windows, levels: Sequence[float]) -> Array:
    """K×Q: by how many of a window's deviations each quantile must move, so that the interval between
    it and its counterpart has its coverage on ``windows``."""
    gaps = []
    with torch.no_grad():
        for chosen in _chunks(spread(len(windows))):
            batch = windows[chosen]
            gap = batch.future[..., None] - network(batch)[..., 1:]
            seen = batch.future_observed[..., None].bool()
            gaps.append(torch.where(seen, gap, torch.nan).double().numpy())
    return widened(np.concatenate(gaps), levels)


def observed_by_step(windows: Windows) -> Array:
    """K: how many values of each step of the horizon the calibration would go by."""
    parts = _chunks(spread(len(windows)))
    return np.asarray(sum((~np.isnan(windows.futures(part))).sum(0) for part in parts))


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return batch if device.type == "cpu" else Batch(*(part.to(device) for part in batch))


def _chunks(indices: Array) -> Iterator[Array]:
    for start in range(0, len(indices), 1024):
        yield indices[start : start + 1024]
