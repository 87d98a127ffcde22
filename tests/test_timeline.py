"""Timelines: steps and times are inverse, frequencies are found and named, calendars are right."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from gatewise.data.timeline import Integers, Months, OffGridError, Timeline
from gatewise.data.zones import from_wall, show, to_wall
from gatewise.errors import DataError, OptionError

MICRO = "datetime64[us]"


def stamps(*texts: str) -> np.ndarray:
    return np.array(texts, dtype=MICRO)


def dates(freq: str, periods: int = 40, start: str = "2023-11-30 06:00") -> np.ndarray:
    return pd.date_range(start, periods=periods, freq=freq).to_numpy().astype(MICRO)


# (pandas' frequency, our name, seasonal period)
FREQUENCIES = [
    ("250ms", "250ms", 240),
    ("s", "1s", 60),
    ("10s", "10s", 6),
    ("min", "1min", 60),
    ("5min", "5min", 288),
    ("15min", "15min", 96),
    ("h", "1h", 24),
    ("6h", "6h", 4),
    ("5h", "5h", 1),
    ("D", "1D", 7),
    ("2D", "2D", 1),
    ("B", "1B", 5),
    ("W", "1W", 52),
    ("2W", "2W", 26),
    ("28D", "4W", 13),
    ("MS", "1MS", 12),
    ("ME", "1ME", 12),
    ("2MS", "2MS", 6),
    ("QS", "1QS", 4),
    ("QE-NOV", "1QE", 4),
    ("YS", "1YS", 1),
    ("YE", "1YE", 1),
    ("2YS", "2YS", 1),
]


@pytest.mark.parametrize(("pandas_name", "name", "season"), FREQUENCIES)
def test_frequencies_are_found_named_and_inverted(pandas_name: str, name: str, season: int) -> None:
    given = dates(pandas_name)
    found = Timeline.infer(given)
    assert (found.name, found.season) == (name, season)
    steps = found.steps(given)
    assert np.diff(steps).tolist() == [1] * 39
    np.testing.assert_array_equal(found.times(steps), given)
    # Beyond the data the grid goes on as pandas' does.
    np.testing.assert_array_equal(
        found.times(steps[-1] + np.arange(30)), dates(pandas_name, 69)[39:]
    )
    assert Timeline.parse(name, given) == found
    assert Timeline.parse(Timeline.parse(name).name).name == name
    assert Timeline.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_integers() -> None:
    found = Timeline.infer(np.array([13, 18, 23, 33]))
    assert found == Integers(every=5, origin=3)
    assert found.steps(np.array([3, 13, 33])).tolist() == [0, 2, 6]
    assert found.times(np.array([6])).tolist() == [33]
    assert (found.name, found.season, found.calendar_names) == ("5", 1, [])
    assert Timeline.parse("5", np.array([13])) == found
    assert found.calendar(np.zeros((2, 3), dtype=int)).shape == (2, 3, 0)
    assert Timeline.from_json(found.to_json()) == found


def test_nanoseconds_where_they_are_needed() -> None:
    given = np.datetime64("2024-01-01", "ns") + np.arange(9) * np.timedelta64(1500, "ns")
    found = Timeline.infer(given)
    assert found.name == "1500ns"
    assert found.times(found.steps(given)).dtype == "M8[ns]"
    np.testing.assert_array_equal(found.times(found.steps(given)), given)
    coarse = np.datetime64("2024-01-01", "ns") + np.arange(9) * np.timedelta64(1, "h")
    assert Timeline.infer(coarse).times(np.array([0])).dtype == MICRO


def test_a_day_of_the_month_is_kept_and_clipped() -> None:
    given = stamps("2024-01-30", "2024-02-29", "2024-03-30", "2024-04-30")
    found = Timeline.infer(given)
    assert found.name == "1M-30"
    later = found.times(found.steps(given)[-1] + np.arange(1, 11))
    assert later[0] == np.datetime64("2024-05-30")
    assert later[9] == np.datetime64("2025-02-28")
    assert Timeline.parse("M-30").name == "1M-30"
    assert Timeline.infer(dates("MS", start="2024-01-01") + np.timedelta64(14, "D")).name == "1M-15"
    assert Timeline.infer(stamps("2023-02-28", "2024-02-28", "2025-02-28")).name == "1Y-28"


def test_month_ends_stay_month_ends() -> None:
    found = Timeline.infer(stamps("2023-11-30", "2023-12-31", "2024-01-31"))
    texts = found.times(found.steps(stamps("2024-01-31")) + np.arange(1, 4)).astype("M8[D]")
    assert texts.astype(str).tolist() == ["2024-02-29", "2024-03-31", "2024-04-30"]


@pytest.mark.parametrize("seed", range(20))
def test_any_grid_inverts_before_and_after_1970(seed: int) -> None:
    rng = np.random.default_rng(seed)
    freq = rng.choice(["7s", "13min", "3h", "D", "5D", "B", "W", "M", "5M-31", "Q-29", "Y", "37us"])
    start = np.datetime64(int(rng.integers(-(10**15), 10**15)), "us")
    grid = Timeline.parse(str(freq), np.array([start]))
    steps = np.sort(rng.integers(-2000, 2000, 100))
    given = grid.times(steps)
    np.testing.assert_array_equal(grid.steps(given), steps)
    assert (np.diff(given[np.diff(steps, prepend=steps[0] - 1) > 0]).astype(int) > 0).all()
    if freq not in ("B", "5M-31", "Q-29"):  # whose days the start need not be on
        assert grid.steps(np.array([start])).shape == (1,)
    for off in (1, -1):
        with pytest.raises(OffGridError, match="is not on the grid") as caught:
            grid.steps(np.concatenate([given[:7], given[7:8] + np.timedelta64(off, "us")]))
        assert caught.value.index == 7


def test_off_grid_messages_name_the_neighbours() -> None:
    hourly = Timeline.parse("h")
    with pytest.raises(OffGridError) as caught:
        hourly.steps(stamps("2024-01-01T10:00", "2024-01-01T10:30"))
    assert str(caught.value) == (
        "2024-01-01 10:30 is not on the grid of 1h; the nearest times on it are 2024-01-01 10:00 and "
        "2024-01-01 11:00"
    )
    with pytest.raises(OffGridError, match=r"2024-02-15 .* are 2024-01-31 and 2024-02-29"):
        Timeline.parse("ME").steps(stamps("2024-02-15"))
    with pytest.raises(OffGridError, match=r"2024-03-02 .* are 2024-03-01 and 2024-03-04"):
        Timeline.parse("B").steps(stamps("2024-03-02"))
    with pytest.raises(
        DataError, match="the times are integers, but the model's times are timestamps"
    ):
        hourly.steps(np.array([1]))
    with pytest.raises(
        DataError, match="the times are timestamps, but the model's times are integers"
    ):
        Integers(every=1).steps(stamps("2024-03-02"))


def test_off_grid_is_found_in_any_part_of_many_rows() -> None:
    given = dates("min", 700_000)
    given[600_001] += np.timedelta64(1, "s")
    with pytest.raises(OffGridError) as caught:
        Timeline.parse("min").steps(given)
    assert caught.value.index == 600_001


# ------------------------------------------------------------------------------ inference


def test_gaps_and_short_series_do_not_change_the_step() -> None:
    hours = dates("h", 50)
    holes = np.delete(hours, [5, 6, 20, 40])
    times = np.concatenate([holes, hours[[0, 3]], hours[[7]]])
    assert Timeline.infer(times, np.array([0, 46, 48, 49])).name == "1h"


def test_a_series_without_a_step_of_its_own_goes_by_the_others() -> None:
    hours = dates("h", 50)
    times = np.concatenate([hours[[0, 2, 5, 6, 9, 14]], hours])
    assert Timeline.infer(times, np.array([0, 6, 56])).name == "1h"


def test_business_days_need_a_weekend_that_is_skipped() -> None:
    week = stamps("2024-03-04", "2024-03-05", "2024-03-06", "2024-03-07", "2024-03-08")
    assert Timeline.infer(week).name == "1D"
    assert Timeline.infer(np.append(week, stamps("2024-03-11"))).name == "1B"
    assert Timeline.infer(np.append(week, stamps("2024-03-09", "2024-03-10"))).name == "1D"


def test_series_of_two_frequencies_are_both_named() -> None:
    times = np.concatenate([dates("h"), dates("D")])
    offsets = np.array([0, 40, 80])
    with pytest.raises(
        DataError, match=r"series 'a' has a row every 1h, series 'b' has .* every 1D"
    ):
        Timeline.infer(times, offsets, names=["a", "b"])
    times = np.concatenate([dates("MS"), dates("QS")])
    with pytest.raises(DataError, match=r"every 1M, series 'b' has a row every 1Q\."):
        Timeline.infer(times, offsets, names=["a", "b"])
    with pytest.raises(DataError, match=r"every 1, series 'b' has a row every 3\."):
        Timeline.infer(np.r_[0:40, 0:120:3], offsets, names=["a", "b"])


def test_one_row_has_no_frequency() -> None:
    with pytest.raises(DataError, match=r"no series has two rows.* give freq="):
        Timeline.infer(stamps("2024-01-01", "2024-01-02"), np.array([0, 1, 2]))


# ------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("h", "1h"),
        ("H", "1h"),
        ("60min", "1h"),
        ("24h", "1D"),
        ("7D", "1W"),
        ("T", "1min"),
        (" 15min ", "15min"),
        ("M", "1MS"),
        ("3ME", "1QE"),
        ("12M-15", "1Y-15"),
        ("4Q", "1YS"),
        ("A", "1YS"),
        ("90s", "90s"),
        ("1000us", "1ms"),
        ("3", "3"),
    ],
)
def test_parse(given: str, name: str) -> None:
    assert Timeline.parse(given).name == name


@pytest.mark.parametrize(
    "bad",
    ["", "x", "0h", "1.5h", "-1h", "M-32", "M-0", "MS-5", "h-3", "B-1", "hour", "W-MO", "WOM-5MON"],
)
def test_what_is_no_frequency(bad: str) -> None:
    with pytest.raises(
        OptionError, match=r"is not a frequency.*: give a number and one of s, min, h, D"
    ):
        Timeline.parse(bad)


def test_frequencies_that_do_not_go_with_the_times() -> None:
    with pytest.raises(OptionError, match="freq='h' does not fit times that are integers"):
        Timeline.parse("h", np.array([1, 2]))
    with pytest.raises(OptionError, match="freq='2' does not fit times that are timestamps"):
        Timeline.parse("2", stamps("2024-01-01"))


def test_months_take_the_day_from_the_times() -> None:
    assert Timeline.parse("M", stamps("2024-02-29", "2024-03-31")).name == "1ME"
    assert Timeline.parse("Q", stamps("2024-02-07")).name == "1Q-7"
    with pytest.raises(OffGridError):
        Timeline.parse("MS", stamps("2024-02-07")).steps(stamps("2024-02-07"))


def test_show_leaves_out_what_is_zero() -> None:
    assert show(np.datetime64("2024-01-01", "us")) == "2024-01-01"
    assert show(np.datetime64("2024-01-01T10:00", "us")) == "2024-01-01 10:00"
    assert show(np.datetime64("2024-01-01T10:00:30", "us")) == "2024-01-01 10:00:30"
    assert show(np.datetime64("2024-01-01T00:00:00.5", "ns")) == "2024-01-01 00:00:00.5"
    assert show(np.datetime64("2024-07-01T10:00", "us"), "Europe/Berlin") == (
        "2024-07-01 12:00 Europe/Berlin"
    )
    assert show(np.int64(7)) == "7"


# ------------------------------------------------------------------------------ the calendar


def test_the_calendar_against_pandas() -> None:
    rng = np.random.default_rng(0)
    for freq in ("7s", "10min", "h", "D", "B", "W"):
        grid = Timeline.parse(freq)
        steps = rng.integers(0, 3000, (3, 50))
        at = pd.DatetimeIndex(grid.times(steps.ravel()))
        phases = {
            "second_of_minute": at.second / 60,
            "minute_of_hour": (at.minute + at.second / 60) / 60,
            "hour_of_day": (at.hour + at.minute / 60 + at.second / 3600) / 24,
            "day_of_week": at.day_of_week / 7,
            "day_of_month": (at.day - 1) / at.days_in_month,
            "day_of_year": (at.day_of_year - 1) / 366,
        }
        features = grid.calendar(steps)
        assert features.dtype == np.float32
        assert features.shape == (3, 50, len(grid.calendar_names))
        for index, name in enumerate(grid.calendar_names):
            cycle, wave = name.rsplit("_", 1)
            wanted = getattr(np, wave)(2 * np.pi * np.asarray(phases[cycle])).reshape(3, 50)
            np.testing.assert_allclose(features[..., index], wanted, atol=2e-6)


@pytest.mark.parametrize(
    ("freq", "cycles"),
    [
        ("s", ["second_of_minute", "minute_of_hour", "hour_of_day", "day_of_week", "day_of_year"]),
        ("h", ["hour_of_day", "day_of_week", "day_of_year"]),
        ("D", ["day_of_week", "day_of_month", "day_of_year"]),
        ("B", ["day_of_week", "day_of_month", "day_of_year"]),
        ("W", ["day_of_month", "day_of_year"]),
        ("M", ["month_of_year"]),
        ("Q", ["month_of_year"]),
        ("Y", []),
        ("1", []),
    ],
)
def test_only_cycles_longer_than_the_step(freq: str, cycles: list[str]) -> None:
    names = Timeline.parse(freq).calendar_names
    assert names == [f"{cycle}_{wave}" for cycle in cycles for wave in ("sin", "cos")]


def test_months_of_the_year() -> None:
    grid = Timeline.parse("QE", stamps("2024-02-29"))
    steps = grid.steps(stamps("2024-02-29", "2024-05-31", "2024-11-30"))
    wanted = 2 * np.pi * np.array([1, 4, 10]) / 12
    np.testing.assert_allclose(
        grid.calendar(steps), np.stack([np.sin(wanted), np.cos(wanted)], -1), atol=1e-6
    )


# ------------------------------------------------------------------------------ time zones

BERLIN = "Europe/Berlin"


def in_berlin(freq: str, start: str = "2024-03-28", periods: int = 250) -> np.ndarray:
    local = pd.date_range(start, periods=periods, freq=freq, tz=BERLIN)
    return local.tz_convert("UTC").tz_localize(None).to_numpy().astype(MICRO)


@pytest.mark.parametrize("freq", ["h", "D", "B", "W", "MS", "ME"])
def test_steps_run_on_through_changes_of_the_clock(freq: str) -> None:
    given = in_berlin(freq)
    found = Timeline.infer(given, zone=BERLIN)
    assert found.name == f"1{freq}"
    assert found.zone == BERLIN
    steps = found.steps(given)
    assert np.diff(steps).tolist() == [1] * 249
    np.testing.assert_array_equal(found.times(steps), given)
    assert Timeline.from_json(found.to_json()) == found


def test_the_calendar_is_local() -> None:
    grid = Timeline.infer(in_berlin("h", start="2024-07-01"), zone=BERLIN)
    midnight = grid.steps(stamps("2024-06-30T22:00"))
    np.testing.assert_allclose(grid.calendar(midnight)[0, :4], [0, 1, 0, 1], atol=1e-6)
    assert grid.show(stamps("2024-06-30T22:00")[0]) == "2024-07-01 Europe/Berlin"


def test_a_midnight_that_the_clocks_skip() -> None:
    # São Paulo had no 2018-11-04 00:00: that day's stamp is its first moment, 01:00.
    days = pd.date_range("2018-11-01", periods=9)
    local = days.tz_localize("America/Sao_Paulo", nonexistent="shift_forward")
    given = local.tz_convert("UTC").tz_localize(None).to_numpy().astype(MICRO)
    grid = Timeline.infer(given, zone="America/Sao_Paulo")
    np.testing.assert_array_equal(grid.times(grid.steps(given)), given)


def test_wall_clocks_invert_and_keep_their_shape() -> None:
    utc = in_berlin("h").reshape(50, 5)
    wall = to_wall(utc.ravel(), BERLIN)
    assert wall[0] - utc.ravel()[0] == np.timedelta64(1, "h")
    back = from_wall(to_wall(in_berlin("D"), BERLIN).reshape(50, 5), BERLIN)
    np.testing.assert_array_equal(back.ravel(), in_berlin("D"))
    assert to_wall(utc, None) is utc


def test_times_of_any_shape() -> None:
    for grid in (Timeline.parse("D"), Months(every=1, zone=BERLIN), Integers(every=2)):
        steps = np.arange(6).reshape(2, 3)
        assert grid.times(steps).shape == (2, 3)
        np.testing.assert_array_equal(grid.times(steps).ravel(), grid.times(steps.ravel()))
