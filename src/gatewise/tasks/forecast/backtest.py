"""A backtest: forecasts from past dates, with the actual values and naive forecasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gatewise.report.scores import MODEL, Evaluation
from gatewise.report.words import with_unit
from gatewise.tasks.forecast.metrics import scores
from gatewise.tasks.forecast.output import quantile_name

Array = np.ndarray

MAIN_SCORE = "scaled_mae"  # the score by which the model is compared with the naive forecasts


@dataclass(frozen=True)
class Backtest:
    """The forecasts and actual values of N windows with K steps each, in the data's units.

    Attributes:
        actual: N×K, the actual values, NaN where missing.
        point, last_value, seasonal_naive: N×K, the forecasts of the model and the two naive ones.
        quantiles: N×K×Q, at ``levels``.
        context: N×L, the past values that each forecast used.
        series, target: N, the names of series and target column.
        origin: N, the row of the series at which the horizon starts.
        times: N×K, the timestamps of the horizon; in UTC if the data has a time zone.
        scale, mase_scale: N, see :func:`gatewise.tasks.forecast.metrics.scores`.
        left_out: the number of windows that were left out, because they have too few observed values for a
            forecast or no actual value.
    """

    actual: Array
    point: Array
    quantiles: Array
    levels: tuple[float, ...]
    last_value: Array
    seasonal_naive: Array
    context: Array
    series: Array
    target: Array
    origin: Array
    times: Array
    scale: Array
    mase_scale: Array
    left_out: int = 0

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The scores of the model and of each naive forecast."""
        shared = (self.scale, self.mase_scale)
        return {
            MODEL: scores(self.actual, self.point, *shared, self.quantiles, self.levels),
            "last value": scores(self.actual, self.last_value, *shared),
            "seasonal naive": scores(self.actual, self.seasonal_naive, *shared),
        }

    @property
    def beats_naive(self) -> bool:
        """Whether the model's scaled MAE is lower than that of both naive forecasts."""
        table = self.scores
        ours = table[MODEL][MAIN_SCORE]
        return all(ours < row[MAIN_SCORE] for name, row in table.items() if name != MODEL)

    def by_step(self) -> dict[str, Array]:
        """The scaled MAE of each forecast at each of the K steps."""
        forecasts = {
            MODEL: self.point,
            "last value": self.last_value,
            "seasonal naive": self.seasonal_naive,
        }
        scale = self.scale[:, None]
        return {k: np.nanmean(np.abs(self.actual - v) / scale, 0) for k, v in forecasts.items()}

    def evaluation(self) -> Evaluation:
        """The scores as an Evaluation, with a note on windows that were left out."""
        rows = self.scores
        notes = (
            f"left out: {with_unit(self.left_out, 'window')} with too few observed values before the date to forecast "
            f"from, or no actual value after it",
        )
        return Evaluation(
            task="forecast",
            scores=rows.pop(MODEL),
            baseline=rows,
            n=len(self.actual),
            unit="windows",
            main_score=MAIN_SCORE,
            notes=notes if self.left_out else (),
            details=self,
        )

    def table(self) -> str:
        """The score table as text."""
        return self.evaluation().table()

    def columns(self) -> dict[str, Any]:
        """The columns of a long table with a row for each window and step."""
        steps = self.actual.shape[1]
        long = {
            "series": np.repeat(self.series, steps),
            "target": np.repeat(self.target, steps),
            "origin": np.repeat(self.origin, steps),
            "step": np.tile(np.arange(1, steps + 1), len(self.actual)),
            "time": self.times.ravel(),
            "actual": self.actual.ravel(),
            "forecast": self.point.ravel(),
        }
        for k, level in enumerate(self.levels):
            long[quantile_name(level)] = self.quantiles[..., k].ravel()
        return long

    @classmethod
    def joined(cls, parts: list[Backtest]) -> Backtest:
        """Several backtests as one."""
        whole = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in cls.__dataclass_fields__
            if name not in ("levels", "left_out")
        }
        left_out = sum(part.left_out for part in parts)
        return cls(levels=parts[0].levels, left_out=left_out, **whole)
