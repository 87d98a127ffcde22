"""Forecasting: a table of series in, forecasts with quantiles out."""

from gatewise.tasks.forecast.backtest import Backtest
from gatewise.tasks.forecast.forecaster import Forecaster

__all__ = ["Backtest", "Forecaster"]
