"""Frequencies: pandas' names and offsets mean here what they mean there, and anchors are checked."""

from __future__ import annotations

import datetime as dt
import json
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gatewise.data import frequency
from gatewise.data.panel import Panel
from gatewise.data.timeline import OffGridError, Timeline
from gatewise.errors import OptionError

MONTHS, DAYS = frequency.MONTH_NAMES, frequency.WEEKDAYS
NAMES = [
    *(f"W-{day}" for day in DAYS),
    *(f"{unit}-{month}" for unit in ("QE", "QS", "YE", "YS") for month in MONTHS),
    *(f"{unit}-{month}" for unit in ("BQE", "BQS", "BYE", "BYS") for month in MONTHS[::3]),
    *("2W-MON", "3W-FRI", "2QE-NOV", "2YE-JUN", "2BME", "3BMS", "LWOM-FRI", "LWOM-MON"),
    *("h", "min", "s", "ms", "us", "D", "B", "MS", "ME", "BME", "BMS", "2h", "90min", "2D", "2ME"),
    *(f"WOM-{week}{day}" for week in (1, 2, 3, 4) for day in DAYS[::2]),
]
NAMED_ONLY = ["bh", "2B", "3B"]  # their steps are not found from the times


def micro(stamps: pd.DatetimeIndex) -> np.ndarray:
    return stamps.to_numpy().astype("M8[us]")


@pytest.mark.parametrize("name", [*NAMES, *NAMED_ONLY])
@pytest.mark.parametrize("start", ["2021-01-05", "2019-11-30 09:00"])
def test_pandas_names_and_offsets_go_on_as_pandas_does(name: str, start: str) -> None:
    stamps = pd.date_range(start, periods=60, freq=name)
    given, after = micro(stamps[:40]), micro(stamps[40:])
    ways: list[Any] = [name, stamps.freq]
    if not name.startswith(("LWOM", "2B", "3B")):  # pandas calls a last Friday WOM-4FRI
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a future pandas, which infers an offset
            ways.append(pd.infer_freq(stamps))
    grids = [Timeline.parse(way, given) for way in ways]
    grids += [] if name in NAMED_ONLY else [Timeline.infer(given)]
    for grid in grids:
        steps = grid.steps(given)
        assert np.diff(steps).tolist() == [1] * 39
        np.testing.assert_array_equal(grid.times(steps[-1] + np.arange(1, 21)), after)
        assert Timeline.from_json(json.loads(json.dumps(grid.to_json()))) == grid
        assert Timeline.parse(grid.name, given) == grid
        assert Timeline.parse(grid.name).name == grid.name


def test_working_month_ends_are_found_with_their_gaps_and_seasons() -> None:
    stamps = micro(pd.date_range("2020-01-01", periods=60, freq="BME"))
    grid = Timeline.infer(np.delete(stamps, [7, 20]))
    assert (grid.name, grid.season, grid.calendar_names[0]) == ("1BME", 12, "month_of_year_sin")
    assert np.diff(grid.steps(np.delete(stamps, [7, 20]))).max() == 2
    assert Timeline.parse("M", stamps).name == "1BME"
    assert Timeline.infer(micro(pd.date_range("2020-01-01", periods=9, freq="28D"))).name == "4W"
    with pytest.raises(
        OffGridError, match=r"2024-08-31 .* the nearest times on it are 2024-08-30 and 2024-09-30"
    ):
        grid.steps(np.array(["2024-08-31"], "M8[us]"))


def test_hours_of_working_days() -> None:
    stamps = pd.date_range(
        "2024-01-01 08:00", periods=100, freq=pd.offsets.BusinessHour(start="08:00")
    )
    grid = Timeline.parse("bh", micro(stamps[:50]))
    assert (grid.name, grid.season) == ("1bh", 9)
    np.testing.assert_array_equal(
        grid.times(grid.steps(micro(stamps[:50]))[-1:] + 1), micro(stamps[50:51])
    )
    for wrong in ("2024-01-06T10", "2024-01-08T07", "2024-01-08T20", "2024-01-08T10:30"):
        with pytest.raises(OffGridError):
            grid.steps(np.array([wrong], "M8[us]"))


@pytest.mark.parametrize(
    ("freq", "name"),
    [
        (pd.offsets.MonthEnd(), "1ME"),
        (pd.offsets.Day(2), "2D"),
        (pd.offsets.BusinessDay(), "1B"),
        (pd.offsets.BMonthEnd(2), "2BME"),
        (pd.offsets.Week(), "1W"),
        (pd.Timedelta("15min"), "15min"),
        (pd.Timedelta(1500, "ns"), "1500ns"),
        (dt.timedelta(hours=1), "1h"),
        (np.timedelta64(5, "m"), "5min"),
        (np.timedelta64(1, "M"), "1MS"),
        (pd.DateOffset(months=3), "1QS"),
        (pd.DateOffset(days=7), "1W"),
        (2 * pd.DateOffset(hours=2), "4h"),
        (np.int64(3), "3"),
        (np.array("h"), "1h"),
        ("1h30min", "90min"),
        ("1mo", "1MS"),
        ("BM", "1BME"),
        ("BA", "1BYE"),
        ("AS", "1YS"),
        ("L", "1ms"),
        ("1B", "1B"),
    ],
)
def test_what_is_a_frequency(freq: Any, name: str) -> None:
    assert Timeline.parse(freq).name == name
    assert frequency.read(frequency.spelled(freq)) == frequency.read(freq)


@pytest.mark.parametrize(
    ("freq", "message"),
    [
        (True, "freq=True is not a frequency: give a text such as '15min', a pandas offset or"),
        (1.5, "freq=1.5 is not a frequency"),
        (pd.offsets.Easter(), "Easter.* is not a frequency"),
        (pd.offsets.SemiMonthEnd(), "freq='SME-15' is not a frequency"),
        (pd.offsets.CustomBusinessDay(), "freq='C' is not a frequency"),
        (pd.DateOffset(months=1, days=1), "is not a frequency"),
        (np.timedelta64(5), r"has no unit: give np.timedelta64\(1, 'h'\)"),
        (dt.timedelta(0), "must be a positive time step"),
        (dt.timedelta(hours=-1), "must be a positive time step"),
        ("99999999999h", "is too long: give a step of at most 100 years"),
        ("5000Y", "is too long"),
        ("999999999999999999999h", "is not a frequency"),
        ("2bh", "is not a frequency"),
        ("", "is not a frequency"),
    ],
)
def test_what_is_none(freq: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Timeline.parse(freq)


@pytest.mark.parametrize(
    ("freq", "start", "message"),
    [
        ("W-SUN", "2024-01-01", "times that fall on a MON, such as 2024-01-01: give freq='W-MON'"),
        ("2W-TUE", "2024-01-01", "times that fall on a MON"),
        (pd.offsets.Week(weekday=6), "2024-01-01", "times that fall on a MON"),
        (
            "QE-DEC",
            "2024-02-29",
            "times that fall in FEB, such as 2024-02-29: give a frequency with that month",
        ),
        ("Q-DEC", "2024-02-29", "times that fall in FEB"),
        ("YE-DEC", "2024-06-30", "times that fall in JUN"),
        ("BYS-JAN", "2024-02-01", "times that fall in FEB"),
    ],
)
def test_anchors_are_checked_against_the_times(freq: Any, start: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Timeline.parse(freq, np.array([start], "M8[us]"))
    with pytest.raises(OptionError, match=message):
        Panel.from_table(
            {"t": np.array([start], "M8[us]"), "y": [1.0]}, target="y", time="t", freq=freq
        )


def test_anchors_are_those_of_the_wall_clock() -> None:
    mondays = pd.date_range("2024-01-01", periods=5, freq="W-MON", tz="Asia/Tokyo")
    utc = micro(mondays.tz_convert(None))  # Sundays
    assert Timeline.parse("W-MON", utc, "Asia/Tokyo").name == "1W"
    with pytest.raises(OptionError, match="fall on a MON, such as 2024-01-01 Asia/Tokyo"):
        Timeline.parse("W-SUN", utc, "Asia/Tokyo")


def test_quarters_and_years_of_periods() -> None:
    """pandas' Q-DEC names the period that ends in December, and a period's stamp is its start."""
    for freq, name in (("Q-DEC", "1QS"), ("Q-JAN", "1QS"), ("Y-DEC", "1YS"), ("Y-MAR", "1YS")):
        starts = micro(pd.period_range("2020", periods=5, freq=freq).start_time)
        assert Timeline.parse(freq, starts).name == name
        ends = micro(pd.period_range("2020", periods=5, freq=freq).end_time.normalize())
        assert Timeline.parse(freq, ends).name == name.replace("S", "E")


def test_steps_that_no_stamp_can_hold_are_refused() -> None:
    years = Timeline.parse("100Y", np.array(["2024-01-01"], "M8[us]"))
    assert years.times(np.array([79])).tolist() == [dt.datetime(9924, 1, 1)]
    with pytest.raises(
        ValueError, match="is outside the range of timestamps, which end in the year 9999"
    ):
        years.times(np.array([80]))
    for freq, step in (("h", 2**40), ("B", 2**32), ("bh", 2**33), ("1ns", 2**63 - 1), ("1", 2**62)):
        with pytest.raises(ValueError, match="is outside the range of timestamps"):
            Timeline.parse(freq).times(np.array([0, step]))
