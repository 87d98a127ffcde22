"""Forecasts made at past dates, beside the truth and the naive forecasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gatewise.report.scores import MODEL, Evaluation
from gatewise.tasks.forecast.metrics import scores
from gatewise.tasks.forecast.output import quantile_name

Array = np.ndarray

DECISIVE = "scaled_mae"  # the score by which the model is compared with the naive forecasts


@dataclass(frozen=True)
class Backtest:
    """N windows of K steps each, in the data's units; NaN where the truth is missing.

    Attributes:
        actual, point, last_value, seasonal_naive: N×K.
        quantiles: N×K×Q, at ``levels``.
        context: N×L, what each forecast saw.
        series, target: N, names; origin: N, the row of the series at which the horizon begins.
        times: N×K, the stamps of the horizon, in UTC where the data has a time zone.
        scale, mase_scale: N, see :func:`gatewise.tasks.forecast.metrics.scores`.
        left_out: how many more windows had too few observed values to be forecast, or none to compare with.
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
        """The score table: a row for the model and one for each naive forecast."""
        shared = (self.scale, self.mase_scale)
        return {
            MODEL: scores(self.actual, self.point, *shared, self.quantiles, self.levels),
            "last value": scores(self.actual, self.last_value, *shared),
            "seasonal naive": scores(self.actual, self.seasonal_naive, *shared),
        }

    @property
    def beats_naive(self) -> bool:
        """Whether the model's scaled MAE is below both naive forecasts'."""
        table = self.scores
        ours = table[MODEL][DECISIVE]
        return all(ours < row[DECISIVE] for name, row in table.items() if name != MODEL)

    def by_step(self) -> dict[str, Array]:
        """K: each forecast's scaled MAE at each step of the horizon."""
        forecasts = {
            MODEL: self.point,
            "last value": self.last_value,
            "seasonal naive": self.seasonal_naive,
        }
        scale = self.scale[:, None]
        return {k: np.nanmean(np.abs(self.actual - v) / scale, 0) for k, v in forecasts.items()}

    def evaluation(self) -> Evaluation:
        """The score table, with what is left out."""
        rows = self.scores
        notes = (
            f"{self.left_out} windows are left out: too little was observed before the date to forecast "
            f"from, or nothing after it to compare with",
        )
        return Evaluation(
            task="forecast",
            scores=rows.pop(MODEL),
            baseline=rows,
            n=len(self.actual),
            unit="windows",
            decisive=DECISIVE,
            notes=notes if self.left_out else (),
            details=self,
        )

    def table(self) -> str:
        """The score table as text."""
        return self.evaluation().table()

    def columns(self) -> dict[str, Any]:
        """Long form, a row for each window and step."""
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
