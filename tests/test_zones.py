"""Time zones: any zone, from any container, is read on its wall clock and written back in it."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from pathlib import Path
from typing import Any

import dateutil.tz
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewise.data import zones
from gatewise.data.panel import Panel
from gatewise.data.table import load, times
from gatewise.errors import DataError, OptionError
from gatewise.tasks.forecast import output

HOUR = dt.timedelta(hours=1)


def continued(data: Any, steps: int, **options: Any) -> tuple[Panel, Any]:
    """The panel in a table with columns t and y, and the times after it as a forecast has them."""
    panel = Panel.from_table(data, target="y", time="t", **options)
    after = panel.timeline.times(panel.steps_from(slice(None), panel.lengths, steps).ravel())
    return panel, output.table({"t": after, "forecast": np.zeros(steps)}, data, panel)["t"]


def frame(stamps: Any) -> pd.DataFrame:
    return pd.DataFrame({"t": stamps, "y": np.arange(float(len(stamps)))})


def in_utc(column: Any) -> pd.DatetimeIndex:
    """A column of any container as pandas' stamps in UTC."""
    if isinstance(column, pa.ChunkedArray):
        column = column.to_pandas()
    values = column if isinstance(column, pd.Series) else column.to_list()
    return pd.DatetimeIndex(pd.to_datetime(values, utc=True))


@pytest.mark.slow
@pytest.mark.parametrize("freq", ["h", "D", "MS"])
def test_every_zone_goes_in_and_comes_out(freq: str) -> None:
    for zone in sorted(zoneinfo.available_timezones() - {"localtime", "Factory"}):
        if freq == "MS" and zone in ("America/Havana", "Cuba"):
            continue  # pandas cannot make a midnight that comes twice
        stamps = pd.date_range("2024-01-01", periods=44, freq=freq, tz=zone)
        panel, after = continued(frame(stamps[:40]), 4)
        assert panel.timeline.zone in (zone, "UTC")
        assert after.dtype == stamps.dtype
        assert after.tolist() == stamps[40:].tolist(), zone


@pytest.mark.parametrize(
    "zone", ["America/New_York", "America/Los_Angeles", "Etc/GMT-1", "EST5EDT"]
)
def test_a_zone_whose_name_has_more_than_letters(zone: str) -> None:
    for freq, name in (("h", "1h"), ("D", "1D"), ("B", "1B"), ("W-MON", "1W"), ("MS", "1MS")):
        stamps = pd.date_range("2024-01-01", periods=110, freq=freq, tz=zone)
        panel, after = continued(frame(stamps[:100]), 10)
        assert (panel.timeline.name, panel.timeline.zone) == (name, zone)
        assert after.tolist() == stamps[100:].tolist()


OFFSETS = {
    "datetime": dt.timezone(HOUR),
    "half an hour": dt.timezone(dt.timedelta(hours=5, minutes=30)),
    "behind": dt.timezone(-dt.timedelta(hours=3, minutes=30)),
    "dateutil": dateutil.tz.tzoffset(None, 3600),
    "far": dt.timezone(-dt.timedelta(hours=13)),
}
CONTAINERS = [
    "pandas",
    "objects",
    "datetimes",
    "arrow in pandas",
    "pyarrow",
    "polars",
    "parquet",
    "csv",
    "dict",
]


def contained(kind: str, data: pd.DataFrame, folder: Path) -> Any:
    """The data in another container; None where that has no such type."""
    if kind == "objects":
        return data.assign(t=data["t"].astype(object))
    if kind == "datetimes":
        return {"t": [stamp.to_pydatetime() for stamp in data["t"]], "y": data["y"].to_numpy()}
    if kind == "dict":
        return {"t": data["t"], "y": data["y"].to_numpy()}
    if kind == "csv":
        data.to_csv(folder / "t.csv", index=False)
        return folder / "t.csv"
    arrow = pa.Table.from_pandas(data)
    if kind == "arrow in pandas":
        return data.assign(t=data["t"].astype(pd.ArrowDtype(arrow.schema.field("t").type)))
    if kind == "parquet":
        pq.write_table(arrow, folder / "t.parquet")
        return folder / "t.parquet"
    if kind == "polars":
        try:
            return pl.from_arrow(arrow)
        except pl.exceptions.PolarsError:  # of +05:30 and -13:00
            return None
    return data if kind == "pandas" else arrow


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_fixed_offset_is_a_wall_clock(kind: str, offset: str, tmp_path: Path) -> None:
    tz = OFFSETS[offset]
    for freq in ("D", "B", "MS", "h"):
        stamps = pd.date_range("2024-01-01", periods=44, freq=freq, tz=tz)
        data = contained(kind, frame(stamps[:40]), tmp_path)
        if data is None:
            continue
        panel, after = continued(data, 4)
        wanted = stamps[40:].tz_convert("UTC")
        assert in_utc(after).tolist() == wanted.tolist()
        if isinstance(data, (pd.DataFrame, pa.Table, pl.DataFrame)) and kind != "objects":
            field = data["t"]
            assert getattr(after, "type", None) == getattr(field, "type", None)
            assert getattr(after, "dtype", None) == getattr(field, "dtype", None)
        if freq == "h":  # the calendar is the offset's: hour 0 is midnight there
            midnight = panel.timeline.steps(np.array([stamps[0].tz_convert(None)], "M8[us]"))
            assert panel.timeline.calendar(midnight)[0, :2].tolist() == [0, 1]


def test_what_polars_has_no_type_for_comes_out_as_text(tmp_path: Path) -> None:
    stamps = pd.date_range("2024-01-01", periods=40, freq="D", tz=OFFSETS["half an hour"])
    frame(stamps).to_csv(tmp_path / "t.csv", index=False)
    assert continued(tmp_path / "t.csv", 2)[1].to_list() == [
        "2024-02-10T00:00:00+05:30",
        "2024-02-11T00:00:00+05:30",
    ]
    whole = pd.date_range("2024-01-01", periods=40, freq="D", tz=OFFSETS["datetime"])
    frame(whole).to_csv(tmp_path / "t.csv", index=False)
    after = continued(tmp_path / "t.csv", 2)[1]
    assert after.dtype == pl.Datetime("us", "Etc/GMT-1")
    assert after.dt.hour().to_list() == [0, 0]


def test_texts_of_several_offsets_are_in_utc_and_days_are_refused(tmp_path: Path) -> None:
    hours = pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin")
    path = tmp_path / "t.csv"
    frame(hours).to_csv(path, index=False)
    found = times(load(path), "t")
    assert (found.zone, found.mixed) == ("UTC", ("UTC+01:00", "UTC+02:00"))
    panel, after = continued(path, 2)
    assert panel.timeline.name == "1h"
    assert in_utc(after)[0] == hours[-1] + HOUR
    days = pd.date_range("2024-03-20", periods=40, freq="D", tz="Europe/Berlin")
    frame(days).to_csv(path, index=False)
    with pytest.raises(
        DataError, match=r"offsets \+01:00 and \+02:00, so they were converted to UTC. If da"
    ):
        continued(path, 2)


def test_python_datetimes_of_one_zone_and_of_two() -> None:
    berlin, tokyo = zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("Asia/Tokyo")
    one = [dt.datetime(2024, 3, day, tzinfo=berlin) for day in range(25, 32)]
    one += [dt.datetime(2024, 4, 1, tzinfo=berlin)]
    panel, _ = continued({"t": one, "y": np.arange(8.0)}, 1)
    assert (panel.timeline.zone, panel.timeline.name) == ("Europe/Berlin", "1D")
    two = [dt.datetime(2024, 1, 1, tzinfo=berlin), dt.datetime(2024, 1, 2, tzinfo=tokyo)]
    assert times(load({"t": two}), "t").mixed == ("UTC+01:00", "UTC+09:00")
    with pytest.raises(DataError, match=r"row 2: .* has no time zone, unlike the times before it"):
        times(
            load(pd.DataFrame({"t": pd.Series([one[0], dt.datetime(2024, 1, 2)], dtype=object)})),
            "t",
        )


class Named(dt.tzinfo):
    """A zone that has a name as pytz's have, and the clocks of another or of a fixed offset."""

    def __init__(self, zone: str | None, clocks: dt.tzinfo) -> None:
        self.zone, self.clocks = zone, clocks

    def utcoffset(self, at: dt.datetime | None) -> dt.timedelta | None:
        return self.clocks.utcoffset(at)

    def dst(self, at: dt.datetime | None) -> dt.timedelta | None:
        return dt.timedelta(0)


def test_zones_by_their_objects() -> None:
    new_york = zoneinfo.ZoneInfo("America/New_York")
    assert zones.of_tzinfo(new_york) == "America/New_York"
    assert zones.of_tzinfo(Named("America/New_York", new_york)) == "America/New_York"
    assert zones.of_tzinfo(Named(None, dt.timezone(HOUR))) == "UTC+01:00"
    assert zones.of_tzinfo(Named(None, new_york)) is None
    assert zones.of_tzinfo(dateutil.tz.gettz("America/New_York")) == "America/New_York"
    assert zones.of_tzinfo(dateutil.tz.tzutc()) == zones.of_tzinfo(dt.UTC) == "UTC"
    assert zones.of_tzinfo(dt.timezone(dt.timedelta(seconds=3630))) == "UTC+01:00:30"
    for text in ("+01:00", "+0100", "+01", "UTC+01:00", "GMT+01:00"):
        assert zones.known(text) == "UTC+01:00", text
    assert (zones.known("Mars/Base"), zones.known("Z"), zones.known("-00:00")) == (
        None,
        "UTC",
        "UTC",
    )
    assert (zones.iana("UTC-03:00"), zones.iana("UTC+05:30")) == ("Etc/GMT+3", None)


def test_a_zone_without_a_name_is_refused_where_its_clocks_change() -> None:
    stamps = pd.date_range("2024-01-01", periods=3, tz=Named("no such place", dt.timezone(HOUR)))
    assert times(load(frame(stamps)), "t").zone == "UTC+01:00"
    rules = dateutil.tz.tzrange("EST", -5 * HOUR, "EDT", -4 * HOUR)
    winter = [dt.datetime(2024, 1, day, tzinfo=rules) for day in (1, 2, 3)]
    found = times(load({"t": winter}), "t")  # texts and objects are known by their offsets alone
    assert found.zone == "UTC-05:00"


@pytest.mark.parametrize(
    ("zone", "wall", "utc"),
    [
        ("Europe/Berlin", "2024-03-31T02:30", "2024-03-31T01:30"),  # an hour is skipped
        ("Australia/Lord_Howe", "2024-10-06T02:15", "2024-10-05T15:45"),  # half an hour is
        ("Pacific/Apia", "2011-12-30T05:00", "2011-12-30T15:00"),  # a day is
        ("Europe/Berlin", "2024-10-27T02:30", "2024-10-27T00:30"),  # the earlier of two
        ("UTC+05:30", "2024-01-01T00:00", "2023-12-31T18:30"),
        ("UTC-00:30", "2024-01-01T00:00", "2024-01-01T00:30"),
    ],
)
def test_wall_clocks_that_skip_and_repeat(zone: str, wall: str, utc: str) -> None:
    found = zones.from_wall(np.array([wall], "M8[us]"), zone)
    assert found.tolist() == [np.datetime64(utc, "us").item()]


FREQUENCIES = [
    "h",
    "2h",
    "15min",
    "D",
    "2D",
    "B",
    "W-SUN",
    "W-WED",
    "MS",
    "ME",
    "BMS",
    "BME",
    "QE-NOV",
    "QS-FEB",
]
ZONES = [
    *(
        None,
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/Los_Angeles",
        "Etc/GMT-1",
        "EST5EDT",
    ),
    *("Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Chatham", "Africa/Casablanca"),
    *(dt.timezone(HOUR), dt.timezone(dt.timedelta(hours=5, minutes=30)), dt.timezone(-9.5 * HOUR)),
]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    zone=st.sampled_from(ZONES),
    freq=st.sampled_from(FREQUENCIES),
    kind=st.sampled_from(["pandas", "pyarrow", "polars", "objects", "dict", "arrow in pandas"]),
    start=st.dates(dt.date(1995, 1, 1), dt.date(2030, 1, 1)),
    hour=st.sampled_from([0, 0, 4, 12, 23]),
    named=st.booleans(),
)
def test_times_go_on_as_pandas_date_range_does(
    zone: Any, freq: str, kind: str, start: dt.date, hour: int, named: bool
) -> None:
    """Zone × frequency × container × clock changes, the frequency named or found."""
    begin = pd.Timestamp(start) + hour * HOUR
    stamps = pd.date_range(begin, periods=53, freq=freq, tz=zone)
    data = contained(kind, frame(stamps[:40]), Path())
    if data is None:
        return
    panel, after = continued(data, 13, **({"freq": freq} if named else {}))
    expected = stamps[40:] if zone is None else stamps[40:].tz_convert("UTC")
    found = pd.DatetimeIndex(after.to_pandas() if isinstance(data, pa.Table) else after.to_list())
    assert (found if zone is None else found.tz_convert("UTC")).tolist() == expected.tolist()
    wall = panel.timeline.times(panel.starts[0] + np.arange(40))
    assert (zones.to_wall(wall, panel.timeline.zone) == stamps[:40].tz_localize(None)).all()


@pytest.mark.parametrize(
    ("form", "freq"),
    [("%y%m%d", "D"), ("%y%m", "MS"), ("%Y%j", "D"), ("%d%m%Y", "D"), ("%m%d%y", "B")],
)
@pytest.mark.parametrize("gaps", ["error", "mask"])
def test_dates_in_digits_whose_year_is_short_or_last_are_refused_with_their_format(
    form, freq, gaps
):
    stamps = pd.date_range("2024-01-05", periods=90, freq=freq)
    frame = pd.DataFrame({"t": stamps.strftime(form).astype(int), "y": np.arange(90.0)})
    with pytest.raises(DataError, match=f"reads as a date: give time_format='{form}'"):
        Panel.from_table(frame, target="y", time="t", gaps=gaps)
    panel = Panel.from_table(frame, target="y", time="t", gaps=gaps, time_format=form)
    assert (panel.timeline.times(np.arange(90) + panel.starts[0]) == stamps.to_numpy()).all()


@pytest.mark.parametrize(
    "numbers",
    [np.arange(1, 91), 1200 + np.arange(90), 240101 + 7 * np.arange(90), 1012000 + np.arange(90)],
    ids=["small", "four digits", "six digits", "seven digits"],
)
def test_whole_numbers_in_even_steps_are_no_dates(numbers):
    panel = Panel.from_table({"t": numbers, "y": np.arange(90.0)}, target="y", time="t")
    assert panel.timeline.name == str(numbers[1] - numbers[0])


@pytest.mark.parametrize("name", ["t", None])
def test_an_index_is_read_by_the_format_that_is_given(name):
    days = pd.date_range("2024-01-01", periods=40, freq="D")
    frame = pd.DataFrame({"y": np.arange(40.0)}, index=days.strftime("%d/%m/%Y")).rename_axis(name)
    panel = Panel.from_table(frame, target="y", time_format="%d/%m/%Y")
    assert panel.timeline.name == "1D"
    assert panel.time == (name or "time")
    with pytest.raises(OptionError, match="needs a column of times"):
        Panel.from_table(frame.reset_index(drop=True), target="y", time_format="%d/%m/%Y")
