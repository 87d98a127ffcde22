"""Windows of a panel. They are made on demand, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gatewise.data.moments import moments
from gatewise.data.panel import Panel
from gatewise.data.scaling import Moments, Scaling, scaled

Array = np.ndarray

# Added to a window's variance, in units of its series' variance, so that a nearly constant window is not
# scaled up without limit.
_LEAST_VARIANCE = 1e-5
# The smallest deviation of a window in the weight of its loss, as a share of its series' deviation.
_FLAT = 0.05


def least_observed(context: int) -> int:
    """The number of values that a context must have for a forecast: a tenth of it, and at least two."""
    return max(2, -(-context // 10))


class Batch(NamedTuple):
    """B windows with contexts of L steps and horizons of K steps. Missing values are 0 and marked.

    The target is scaled per window: the observed context has mean 0 and deviation 1. The covariates are scaled
    per series.
    """

    target: Tensor  # B×L
    observed: Tensor  # B×L, 1 where the target is known
    past: Tensor  # B×L×Cp
    known: Tensor  # B×(L+K)×Ck
    calendar: Tensor  # B×K×Kc, the calendar's features over the horizon
    static: Tensor  # B×Cs
    future: Tensor  # B×K, what is to be forecast
    future_observed: Tensor  # B×K
    weight: Tensor  # B, in the loss
    location: Tensor  # B, float64: the data's value at 0 of the window's units
    scale: Tensor  # B, float64: the data's units per unit of the window
    series: Tensor  # B
    channel: Tensor  # B, which target column
    origin: Tensor  # B, row of the series at which the horizon begins


class Windows(Dataset):
    """All windows of a panel whose horizons start at the given rows of each series.

    Values of a context before the series' first row are missing.

    Args:
        scaling: of the panel's series, as ``Scaling.of`` gives it.
        first, last: the first and last such row of each series, both included; none if last < first.
        stride: the rows from one window to the next, one number or one for each series.
        calendar: the names of the timeline's calendar features that windows have.
        future_known: Ck×S×K values of the known covariates beyond the panel, for forecasting.
        scorable_only: leave out windows whose context has too few values for a forecast, or whose horizon has no
            value to compare with.

    Attributes:
        left_out: the number of windows that ``scorable_only`` left out.
    """

    def __init__(
        self,
        panel: Panel,
        scaling: Scaling,
        context: int,
        horizon: int,
        first: Array,
        last: Array,
        stride: int | Array = 1,
        future_known: Array | None = None,
        calendar: Sequence[int] = (),
        scorable_only: bool = False,
    ) -> None:
        self.panel, self.scaling = panel, scaling
        self.context, self.horizon = context, horizon
        self.first = np.asarray(first, np.int64)
        self.stride = np.broadcast_to(np.asarray(stride, np.int64), self.first.shape)
        self.future_known = future_known
        self.calendar = list(calendar)
        self._table = self._calendar_table()
        counts = np.maximum((np.asarray(last, np.int64) - self.first) // self.stride + 1, 0)
        self.bounds = np.concatenate([[0], np.cumsum(np.tile(counts, len(panel.target)))])
        self._kept = self._scorable() if scorable_only else None
        self.left_out = int(self.bounds[-1]) - len(self)

    def __len__(self) -> int:
        return int(self.bounds[-1]) if self._kept is None else len(self._kept)

    def place(self, indices: Array) -> tuple[Array, Array, Array]:
        """The channel, series and origin of each window."""
        if self._kept is not None:
            indices = self._kept[indices]
        block = np.searchsorted(self.bounds, indices, side="right") - 1
        channel, series = np.divmod(block, len(self.first))
        origin = self.first[series] + (indices - self.bounds[block]) * self.stride[series]
        return channel, series, origin

    def series(self) -> Array:
        """The series that have a window, in rising order."""
        if self._kept is None:
            counts = np.diff(self.bounds).reshape(-1, len(self.first)).sum(0)
            return np.flatnonzero(counts)
        return np.unique(self.place(np.arange(len(self)))[1])

    def contexts(self, indices: Array, length: int) -> Array:
        """N×length: the target before each window's origin, NaN before the series' first row."""
        channel, series, origin = self.place(indices)
        rows, inside = self._before(series, origin, length)
        return np.where(inside, self.panel.target[channel[:, None], rows], np.nan)

    def futures(self, indices: Array) -> Array:
        """N×K: the target over each window's horizon, NaN after the series' last row."""
        channel, series, origin = self.place(indices)
        rows, inside = self._ahead(series, origin)
        return np.where(inside, self.panel.target[channel[:, None], rows], np.nan)

    def __getitem__(self, indices: Array) -> Batch:
        indices = np.atleast_1d(np.asarray(indices, np.int64))
        channel, series, origin = self.place(indices)
        context = self.contexts(indices, self.context)
        location, scale, weight = self._units(context, channel, series)
        target, observed = scaled(context, location, scale)
        future, future_observed = scaled(self.futures(indices), location, scale)
        static = (self.panel.static[series] - self.scaling.static[0]) / self.scaling.static[1]
        steps = (self.panel.starts[series] + origin)[:, None] + np.arange(self.horizon)
        return Batch(
            target=_float(target),
            observed=_float(observed),
            past=self._past(series, origin),
            known=self._known(series, origin),
            calendar=torch.from_numpy(self._calendar(steps)),
            static=_float(static),
            future=_float(future),
            future_observed=_float(future_observed),
            weight=_float(weight),
            location=torch.from_numpy(location),
            scale=torch.from_numpy(scale),
            series=torch.from_numpy(series),
            channel=torch.from_numpy(channel),
            origin=torch.from_numpy(origin),
        )

    def _units(self, context: Array, channel: Array, series: Array) -> tuple[Array, Array, Array]:
        """Each window's location and scale in the data's units, and its weight in the loss."""
        location, deviation, _ = moments(context)
        usual = self.scaling.target.scale[channel, series]
        # a series that the model was not fitted to has only the window's scale
        usual = np.where(np.isnan(usual), np.where(deviation > 0, deviation, 1.0), usual)
        share = np.where(deviation > 0, np.sqrt((deviation / usual) ** 2 + _LEAST_VARIANCE), 1.0)
        return np.nan_to_num(location), usual * share, share / np.maximum(share, _FLAT)

    def _past(self, series: Array, origin: Array) -> Tensor:
        rows, inside = self._before(series, origin, self.context)
        columns = [np.where(inside, values[rows], np.nan) for values in self.panel.past_values]
        return self._stacked(columns, self.scaling.past, series, self.context)

    def _known(self, series: Array, origin: Array) -> Tensor:
        (back, inside), (ahead, within) = (
            self._before(series, origin, self.context),
            self._ahead(series, origin),
        )
        columns = []
        for k, values in enumerate(self.panel.known_values):
            beyond = np.nan if self.future_known is None else self.future_known[k, series]
            before = np.where(inside, values[back], np.nan)
            columns.append(np.concatenate([before, np.where(within, values[ahead], beyond)], 1))
        return self._stacked(columns, self.scaling.known, series, self.context + self.horizon)

    @staticmethod
    def _stacked(columns: list[Array], units: Moments, series: Array, steps: int) -> Tensor:
        """B×steps×C: the columns, scaled per series."""
        if not columns:
            return torch.zeros(len(series), steps, 0)
        return torch.stack(
            [
                _float(scaled(values, units.location[k, series], units.scale[k, series])[0])
                for k, values in enumerate(columns)
            ],
            -1,
        )

    def _before(self, series: Array, origin: Array, length: int) -> tuple[Array, Array]:
        """N×length: the panel's rows before each origin, and whether they belong to the series; 0 where they
        do not."""
        begin = self.panel.offsets[series][:, None]
        rows = begin + origin[:, None] + np.arange(-length, 0)
        inside = rows >= begin
        return np.where(inside, rows, 0), inside

    def _ahead(self, series: Array, origin: Array) -> tuple[Array, Array]:
        """N×K: the panel's rows from each origin on, and whether they belong to the series."""
        rows = (self.panel.offsets[series] + origin)[:, None] + np.arange(self.horizon)
        inside = rows < self.panel.offsets[series + 1][:, None]
        return np.where(inside, rows, 0), inside

    def _scorable(self) -> Array | None:
        """The windows that can be forecast and scored; None for all windows."""
        if not np.isnan(self.panel.target).any() and self.first.min() >= self.context:
            return None
        scorable = np.concatenate([np.zeros(0, bool), *self._observed_enough()])
        return None if scorable.all() else np.flatnonzero(scorable)

    def _observed_enough(self) -> Iterator[Array]:
        """For each channel and series, whether each of its windows can be forecast and scored."""
        least = least_observed(self.context)
        counts = np.diff(self.bounds)
        for channel, values in enumerate(self.panel.target):
            before = np.concatenate([[0], np.cumsum(~np.isnan(values))])
            for s, (begin, end) in enumerate(
                zip(self.panel.offsets[:-1], self.panel.offsets[1:], strict=True)
            ):
                number = counts[channel * len(self.first) + s]
                origin = begin + self.first[s] + self.stride[s] * np.arange(number)
                seen = before[origin] - before[np.maximum(origin - self.context, begin)]
                ahead = before[np.minimum(origin + self.horizon, end)] - before[origin]
                yield (seen >= least) & (ahead > 0)

    def _calendar(self, steps: Array) -> Array:
        """The calendar's features at ``steps``, from a table if a table of all of them is small."""
        if self._table is None:
            return self.panel.timeline.calendar(steps)[..., self.calendar]
        return self._table[steps - self.panel.starts.min()]

    def _calendar_table(self) -> Array | None:
        panel = self.panel
        if not self.calendar:
            return np.zeros((self._span(), 0), np.float32)
        if self._span() > 1_000_000:
            return None
        steps = panel.starts.min() + np.arange(self._span())
        return panel.timeline.calendar(steps)[:, self.calendar]

    def _span(self) -> int:
        panel = self.panel
        ends = panel.starts + np.diff(panel.offsets) + self.horizon
        return int(ends.max() - panel.starts.min())


def _float(values: Array) -> Tensor:
    with np.errstate(
        over="ignore"
    ):  # values beyond float32 become infinite, which gives no forecast
        return torch.from_numpy(values.astype(np.float32))
