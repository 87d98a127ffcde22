"""Windows on a panel, made when asked for: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gatewise.data.panel import Panel

Array = np.ndarray


@dataclass(frozen=True)
class Scaling:
    """Location and scale of every column in every series: target V×S, past Cp×S, known Ck×S; and of the
    static columns over the series, Cs."""

    target: tuple[Array, Array]
    past: tuple[Array, Array]
    known: tuple[Array, Array]
    static: tuple[Array, Array]

    @classmethod
    def fit(cls, panel: Panel, rows: Array) -> Scaling:
        """Mean and standard deviation of the observed values in each series' first ``rows`` rows."""

        def moments(table: Array) -> tuple[Array, Array]:
            return _moments(table, panel.offsets[:-1], rows)

        spread = panel.static.std(0)
        return cls(
            moments(panel.target),
            moments(panel.past_values),
            moments(panel.known_values),
            (panel.static.mean(0), np.where(spread > 0, spread, 1.0)),
        )


def _moments(table: Array, starts: Array, rows: Array) -> tuple[Array, Array]:
    loc, scale = np.zeros((len(table), len(starts))), np.ones((len(table), len(starts)))
    for column, values in enumerate(table):
        for s, (start, count) in enumerate(zip(starts, rows, strict=True)):
            part = values[start : start + count]
            part = part[~np.isnan(part)]
            if len(part):
                loc[column, s] = part.mean()
                scale[column, s] = part.std() or 1.0
    return loc, scale


class Batch(NamedTuple):
    """B windows. L context, K horizon; unobserved values are 0 and marked so; all values are scaled."""

    target: Tensor  # B×L
    observed: Tensor  # B×L, 1 where the target is known
    past: Tensor  # B×L×Cp
    known: Tensor  # B×(L+K)×Ck
    calendar: Tensor  # B×K×Kc, the calendar's features over the horizon
    static: Tensor  # B×Cs
    future: Tensor  # B×K, what is to be forecast
    future_observed: Tensor  # B×K
    series: Tensor  # B
    channel: Tensor  # B, which target column
    origin: Tensor  # B, row of the series at which the horizon begins


class Windows(Dataset):
    """Every window of a panel whose horizon begins at one of a series' given rows.

    Args:
        first, last: for each series, the first and last such row (both included); last < first: none.
        stride: rows between one window and the next.
        calendar: which of the timeline's calendar features are given.
        future_known: Ck×S×K values of the known covariates beyond the panel, for forecasting.
    """

    def __init__(
        self,
        panel: Panel,
        scaling: Scaling,
        context: int,
        horizon: int,
        first: Array,
        last: Array,
        stride: int = 1,
        future_known: Array | None = None,
        calendar: Sequence[int] = (),
    ) -> None:
        self.panel, self.scaling = panel, scaling
        self.context, self.horizon, self.stride = context, horizon, stride
        self.first = np.asarray(first, np.int64)
        self.future_known = future_known
        self.calendar = list(calendar)
        self._table = self._calendar_table()
        counts = np.maximum((np.asarray(last, np.int64) - self.first) // stride + 1, 0)
        self.bounds = np.concatenate([[0], np.cumsum(np.tile(counts, len(panel.target)))])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def place(self, indices: Array) -> tuple[Array, Array, Array]:
        """Channel, series and origin of each window."""
        block = np.searchsorted(self.bounds, indices, side="right") - 1
        channel, series = np.divmod(block, len(self.first))
        origin = self.first[series] + (indices - self.bounds[block]) * self.stride
        return channel, series, origin

    def __getitem__(self, indices: Array) -> Batch:
        channel, series, origin = self.place(np.atleast_1d(np.asarray(indices, np.int64)))
        panel, scaling = self.panel, self.scaling
        base = (panel.offsets[series] + origin)[:, None]
        back, ahead = base + np.arange(-self.context, 0), base + np.arange(self.horizon)
        inside = ahead < panel.offsets[series + 1][:, None]
        ahead = np.where(inside, ahead, 0)

        def scaled(values: Array, loc: Array, scale: Array) -> tuple[Tensor, Tensor]:
            values = (values - loc[:, None]) / scale[:, None]
            seen = ~np.isnan(values)
            filled = np.where(seen, values, 0.0).astype(np.float32)
            return torch.from_numpy(filled), torch.from_numpy(seen.astype(np.float32))

        loc, scale = (part[channel, series] for part in scaling.target)
        target, observed = scaled(panel.target[channel[:, None], back], loc, scale)
        future = np.where(inside, panel.target[channel[:, None], ahead], np.nan)
        future_target, future_observed = scaled(future, loc, scale)
        past = [
            scaled(column[back], scaling.past[0][k, series], scaling.past[1][k, series])[0]
            for k, column in enumerate(panel.past_values)
        ]
        known = []
        for k, column in enumerate(panel.known_values):
            beyond = np.nan if self.future_known is None else self.future_known[k, series]
            values = np.concatenate([column[back], np.where(inside, column[ahead], beyond)], 1)
            known.append(
                scaled(values, scaling.known[0][k, series], scaling.known[1][k, series])[0]
            )
        static = (panel.static[series] - scaling.static[0]) / scaling.static[1]
        steps = (panel.starts[series] + origin)[:, None] + np.arange(self.horizon)
        return Batch(
            target,
            observed,
            torch.stack(past, -1) if past else torch.zeros(*target.shape, 0),
            torch.stack(known, -1)
            if known
            else torch.zeros(len(series), self.context + self.horizon, 0),
            torch.from_numpy(self._calendar(steps)),
            torch.from_numpy(static.astype(np.float32)),
            future_target,
            future_observed,
            *(torch.from_numpy(each) for each in (series, channel, origin)),
        )

    def _calendar(self, steps: Array) -> Array:
        """The calendar's features at ``steps``, looked up where a table of them all is small."""
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
