"""Forecasts of tables of any kind: finite or refused, and the same whatever does not change the data."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gatewise as gw
from gatewise.errors import GatewiseError, GatewiseWarning

pytestmark = pytest.mark.usefixtures("one_thread")

HORIZON, CONTEXT = 3, 12
ZONES = (None, "UTC", "Europe/Berlin", "America/New_York", "Etc/GMT-1", "EST5EDT", "Asia/Kathmandu")
CONSTANT = ("UTC", "Etc/GMT-1", "Asia/Kathmandu")
FREQUENCIES = ("h", "15min", "D", "B", "W-SUN", "MS", "ME", "BME", "QE-DEC", "YS")
NAMES = ("y", "forecast ", "NA", "value, in °C", "0", "q")
TYPES = ("float64", "float32", "int64", "Float64", "Int32")


@dataclass(frozen=True)
class Case:
    """A table of two series, and how it is written."""

    time: str  # what the times are: stamps, text, integers or rows
    zone: str | None
    freq: str
    gaps: bool
    dtype: str
    name: str
    factor: float
    shift: float
    covariate: bool
    seed: int

    def frame(self) -> pd.DataFrame:
        rng = np.random.default_rng(self.seed)
        parts = []
        for name, count, level in (("NA", 60, 50.0), ("b", 75, 900.0)):
            steps = np.arange(count)
            y = level * (1 + 0.1 * np.sin(steps * 2 * np.pi / 7)) + rng.normal(0, level / 50, count)
            part = pd.DataFrame({"id": name, "t": self.times(count), self.name: y * 100})
            if self.covariate:
                part["wind"] = rng.normal(3, 1, count)
            kept = np.ones(count, bool)
            if self.gaps:
                kept[rng.choice(np.arange(1, count - 1), 5, replace=False)] = False
            parts.append(part[kept])
        whole = pd.concat(parts, ignore_index=True)
        moved = whole[self.name].round() * self.factor + self.shift
        whole[self.name] = moved.astype(self.dtype if "loat" in self.dtype else "float64")
        if "nt" in self.dtype and self.factor == 1 and self.shift == 0:
            whole[self.name] = moved.round().astype(self.dtype)
        return whole.drop(columns="t") if self.time == "rows" else whole

    def times(self, count: int) -> Any:
        if self.time in ("integers", "rows"):
            return np.arange(count) * 5 + 100
        # text has offsets, which for days must not change
        zone = self.zone if self.time == "stamps" or self.zone in CONSTANT else None
        stamps = pd.date_range("2021-03-01", periods=count, freq=self.freq, tz=zone)
        return stamps if self.time == "stamps" else stamps.astype(str)

    def model(self) -> gw.Forecaster:
        return gw.Forecaster(
            HORIZON,
            self.name,
            None if self.time == "rows" else "t",
            series="id",
            past="wind" if self.covariate else (),
            gaps="mask" if self.gaps else "error",
            freq=self.freq if self.time in ("stamps", "text") else None,
            context=CONTEXT,
            hidden=4,
            steps=2,
            batch=8,
        )


CASES = st.builds(
    Case,
    time=st.sampled_from(("stamps", "text", "integers", "rows")),
    zone=st.sampled_from(ZONES),
    freq=st.sampled_from(FREQUENCIES),
    gaps=st.booleans(),
    dtype=st.sampled_from(TYPES),
    name=st.sampled_from(NAMES),
    factor=st.sampled_from((1.0, 1e-6, 1e8, -2.5)),
    shift=st.sampled_from((0.0, 0.0, 1e5, -7.0)),
    covariate=st.booleans(),
    seed=st.integers(0, 5),
    # near 1e5 float32 has steps of .008, so that a series of .005 would be constant
).filter(lambda case: (case.dtype, case.factor, case.shift) != ("float32", 1e-6, 1e5))


def containers(frame: pd.DataFrame, folder: Path) -> dict[str, Callable[[], Any]]:
    def written(name: str, write: str) -> str:
        getattr(frame, write)(folder / name, index=False)
        return str(folder / name)

    return {
        "polars": lambda: pl.from_pandas(frame),
        "arrow": lambda: pa.Table.from_pandas(frame, preserve_index=False),
        "CSV": lambda: written("table.csv", "to_csv"),
        "Parquet": lambda: written("table.parquet", "to_parquet"),
    }


def numbers(forecast: Any) -> np.ndarray:
    """The forecast and quantiles, whatever the container."""
    frame = forecast.to_pandas() if hasattr(forecast, "to_pandas") else forecast
    return frame[["forecast", "q0.1", "q0.5", "q0.9"]].to_numpy(np.float64)


def check(case: Case, folder: Path) -> None:
    frame = case.frame()
    try:
        model = case.model().fit(frame)
        ours = numbers(model.predict(frame))
    except GatewiseError as error:
        # gaps in rows that nothing counts cannot be seen; everything else here is sound
        raise AssertionError(f"refused: {error}") from error
    assert np.isfinite(ours).all()
    assert (np.diff(ours[:, 1:], axis=1) >= 0).all()
    np.testing.assert_array_equal(ours[:, 0], ours[:, 2])
    same(model, mixed(frame, case.seed), ours, case, "rows of the series mixed")
    if case.time != "rows":
        recent = frame.groupby("id", sort=False).tail(CONTEXT + 9)
        same(model, recent, ours, case, "only the recent history")
    for kind, write in containers(frame, folder).items():
        if kind == "CSV" and case.time == "stamps" and case.zone is not None:
            continue  # text has offsets, and not their zone's name: another table
        same(model, write(), ours, case, kind)
    again = replace(case, factor=case.factor * 3.0, shift=case.shift * 3.0 + 11 * abs(case.factor))
    if case.dtype == "float64" and case.factor > 0:
        moved = again.model().fit(again.frame())
        theirs = numbers(moved.predict(again.frame()))
        expected = ours * 3 + 11 * abs(case.factor)
        spread = np.ptp(frame[case.name])
        np.testing.assert_allclose(theirs, expected, atol=3e-4 * spread, rtol=0)


def same(model: gw.Forecaster, table: Any, ours: np.ndarray, case: Case, what: str) -> None:
    spread = np.ptp(ours)
    theirs = numbers(model.predict(table))
    np.testing.assert_allclose(
        theirs, ours, rtol=1e-6, atol=1e-7 * spread, err_msg=f"{what}: {case}"
    )


def mixed(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows of both series shuffled into each other, each series' own in order, the first one first."""
    codes = (frame.id == "b").to_numpy()
    places = np.r_[False, np.random.default_rng(seed).permutation(codes[1:])]
    rows = np.empty(len(frame), np.int64)
    rows[~places], rows[places] = np.flatnonzero(~codes), np.flatnonzero(codes)
    return frame.iloc[rows]


def quietly(case: Case, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GatewiseWarning)
        check(case, folder)


SHARED = dict(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(max_examples=12, **SHARED)
@given(case=CASES)
def test_a_forecast_is_finite_and_of_the_data_alone(case, tmp_path):
    quietly(case, tmp_path)


@pytest.mark.slow
@settings(max_examples=300, **SHARED)
@given(case=CASES)
def test_a_forecast_is_finite_and_of_the_data_alone_in_many_cases(case, tmp_path):
    quietly(case, tmp_path)
