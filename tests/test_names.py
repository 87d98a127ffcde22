"""Columns by their names: of whatever type, in an index, equal to one of ours, or a text such as NA."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import gatewise as gw
from gatewise.cli import main
from gatewise.data.panel import Panel
from gatewise.data.table import load, name_of, names_of, times
from gatewise.errors import DataError, OptionError
from gatewise.tasks.forecast import output

QUICK = dict(steps=1, hidden=2)


def days(count: int = 60, **columns: Any) -> pd.DataFrame:
    level = 100 + 10 * np.sin(np.arange(count) * 2 * np.pi / 7)
    return pd.DataFrame({"date": pd.date_range("2024-01-01", periods=count), "y": level, **columns})


def panel_of(source: Any, **roles: Any) -> Panel:
    return Panel.from_table(source, **({"target": "y"} | roles))


def after(source: Any, panel: Panel, steps: int = 2) -> Any:
    """The names and times of a forecast's table."""
    columns: dict[str, Any] = {}
    if panel.series is not None:
        columns[panel.series] = np.repeat(panel.labels, steps)
    columns["step" if panel.time is None else panel.time] = panel.timeline.times(
        panel.steps_from(slice(None), panel.lengths, steps).ravel()
    )
    return output.table({**columns, "forecast": np.zeros(steps * len(panel.names))}, source, panel)


# ------------------------------------------------------------------------------ the index


@pytest.mark.parametrize("time", [None, "date"])
def test_an_index_of_stamps_is_the_time(time: str | None) -> None:
    data = days()
    model = gw.Forecaster(3, "y", time, **QUICK).fit(data.set_index("date"))
    assert model.season_ == 7
    wanted = gw.Forecaster(3, "y", "date", **QUICK).fit(data).predict(data)
    pd.testing.assert_frame_equal(model.predict(data.set_index("date")), wanted)
    assert wanted["date"].tolist() == pd.date_range("2024-03-01", periods=3).tolist()
    assert len(model.backtest(data.set_index("date"), windows=2).actual) == 2


def test_an_index_without_a_name_is_called_time() -> None:
    data = days().set_index("date").rename_axis(None)
    assert after(data, panel_of(data)).columns.tolist() == ["time", "forecast"]
    texts = data.set_axis(data.index.astype(str))
    assert panel_of(texts).timeline.name == "1D"
    plain = data.set_axis([f"row {k}" for k in range(60)])
    assert panel_of(plain).time is None
    assert panel_of(data.reset_index(drop=True)[5:]).time is None


@pytest.mark.parametrize(
    ("freq", "name"), [("M", "1MS"), ("Q-DEC", "1QS"), ("W-SUN", "1W"), ("Y-DEC", "1YS")]
)
def test_periods_are_their_starts_and_come_out_as_periods(freq: str, name: str) -> None:
    periods = pd.period_range("2001-01", periods=62, freq=freq)
    data = days().set_index(periods[:60])
    panel = panel_of(data)
    assert panel.timeline.name == name
    assert after(data, panel)["time"].tolist() == periods[60:].tolist()
    column = days().assign(date=periods[:60])
    assert after(column, panel_of(column, time="date"))["date"].dtype == periods.dtype


def test_levels_of_an_index_are_columns() -> None:
    two = pd.concat([days(id="a"), days(id="b")])
    indexed = two.set_index(["id", "date"])
    for time in (None, "date"):
        panel = panel_of(indexed, series="id", time=time)
        assert (panel.names, panel.timeline.name) == (["a", "b"], "1D")
        np.testing.assert_array_equal(panel.target, panel_of(two, series="id", time="date").target)
    assert after(indexed, panel).columns.tolist() == ["id", "date", "forecast"]
    twice = days(seen=pd.date_range("2025-01-01", periods=60)).set_index(["date", "seen"])
    with pytest.raises(DataError, match="several levels of times, 'date' and 'seen': name one"):
        panel_of(twice)
    with pytest.raises(DataError, match="both a column and an index named 'y': rename one"):
        panel_of(days().set_index("date").rename_axis("y"))


def test_a_future_table_with_an_index() -> None:
    data = days(promo=1.0)
    model = gw.Forecaster(2, "y", known="promo", **QUICK).fit(data.set_index("date"))
    ahead = pd.DataFrame({"promo": [0.0, 1.0]}, pd.date_range("2024-03-01", periods=2))
    found = model.predict(data.set_index("date"), future=ahead)
    assert found["date"].tolist() == ahead.index.tolist()
    with pytest.raises(
        OptionError, match="time step is 1D, which needs a time column: name it with time="
    ):
        model.predict(data)


# ------------------------------------------------------------------------------ names of any type


def test_names_are_known_by_their_text() -> None:
    assert names_of("a") == ("a",)
    assert names_of(0) == names_of(np.int64(0)) == names_of([0]) == ("0",)
    assert names_of(("a", 1)) == names_of(np.array(["a", "1"])) == ("a", "1")
    assert names_of(None) == ()
    assert name_of(("date", "")) == "date"
    assert names_of([("a", "b")]) == ("('a', 'b')",)


def test_whole_numbers_as_names(tmp_path: Path) -> None:
    data = days(known=np.arange(60.0))
    numbered = data.set_axis([0, 1, 2], axis=1)
    model = gw.Forecaster(2, 1, 0, past=[2], **QUICK).fit(numbered)
    found = model.predict(numbered)
    assert found.columns[0] == 0
    named = gw.Forecaster(2, "y", "date", past=["known"], **QUICK).fit(data).predict(data)
    np.testing.assert_array_equal(found["forecast"], named["forecast"])
    model.save(tmp_path / "m")
    pd.testing.assert_frame_equal(gw.load(tmp_path / "m").predict(numbered), found)
    with pytest.raises(DataError, match="2 columns named '0'"):
        panel_of(pd.DataFrame({0: [1.0], "0": [2.0], "y": 1.0}))


def test_columns_in_levels() -> None:
    data = days()
    levels = pd.DataFrame(
        {("date", ""): data["date"], ("y", "a"): data["y"], ("y", "b"): -data["y"]}
    )
    for time in ("date", ("date", "")):
        panel = panel_of(levels, target=[("y", "b")], time=time)
        assert panel.target[0].tolist() == (-data["y"]).tolist()
        assert after(levels, panel).columns.tolist() == [("date", ""), "forecast"]
    indexed = levels.set_index(("date", ""))
    assert panel_of(indexed, target=[("y", "a")]).timeline.name == "1D"


@pytest.mark.parametrize("name", ["", " the date ", "target", "time", "series", "step", "y hat"])
def test_names_that_are_no_trouble(name: str, tmp_path: Path) -> None:
    data = days().rename(columns={"date": name})
    found = after(data, panel_of(data, time=name))
    assert found.columns.tolist() == [name, "forecast"]
    data.to_csv(tmp_path / "t.csv", index=False)
    assert panel_of(tmp_path / "t.csv", time=name).timeline.name == "1D"


@pytest.mark.parametrize(
    ("column", "name", "options"),
    [
        ("date", "forecast", {}),
        ("date", "q0.1", {}),
        ("id", "q0.25", {"quantiles": [0.25, 0.5]}),
        ("id", "forecast", {}),
        ("date", "target", {"target": ["y", "z"]}),
        ("id", "step", {"time": None}),
    ],
)
def test_names_of_ours_are_refused_before_work(column: str, name: str, options: dict) -> None:
    data = days(id="a", z=1.0).rename(columns={column: name})
    roles = {"target": "y", "time": "date", "series": "id"}
    roles |= {role: name for role, held in roles.items() if held == column}
    model = gw.Forecaster(3, **(roles | options), **QUICK)
    with pytest.raises(
        OptionError, match=f"column has the name '{name}', which a column of the forecast has too"
    ):
        model.fit(data)


def test_a_target_may_be_called_forecast() -> None:
    data = days().rename(columns={"y": "forecast"})
    found = gw.Forecaster(2, "forecast", "date", **QUICK).fit(data).predict(data)
    assert found.columns.tolist() == ["date", "forecast", "q0.1", "q0.5", "q0.9"]


def test_levels_that_differ_late_have_columns_of_their_own() -> None:
    assert output.quantile_name(0.1) == "q0.1"
    model = gw.Forecaster(2, "y", "date", quantiles=[0.1, 0.10000001, 0.9], **QUICK).fit(days())
    assert model.predict(days()).columns.tolist()[2:] == ["q0.1", "q0.10000001", "q0.9"]


# ------------------------------------------------------------------------------ texts that are names

LIKE_MISSING = ["NA", "None", "null", "nan", "NaN", "N/A", "007", "x"]


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow", "csv", "parquet", "dict"])
def test_a_text_such_as_na_is_a_name(kind: str, tmp_path: Path) -> None:
    data = pd.concat([days(9, id=name, region=name) for name in LIKE_MISSING])
    source: Any = {"polars": pl.DataFrame, "pyarrow": pa.Table.from_pandas}.get(kind, lambda d: d)(
        data
    )
    if kind == "dict":
        source = {name: data[name].to_numpy() for name in data}
    if kind in ("csv", "parquet"):
        source = tmp_path / f"t.{kind}"
        data.to_csv(source, index=False) if kind == "csv" else data.to_parquet(source)
    panel = panel_of(source, time="date", series="id", static="region")
    assert panel.names == LIKE_MISSING
    assert panel.static_labels == {"region": sorted(LIKE_MISSING)}
    np.testing.assert_array_equal(panel.static.sum(1), 1)
    again = panel_of(
        source, time="date", series="id", static="region", static_labels=panel.static_labels
    )
    np.testing.assert_array_equal(again.static, panel.static)


def test_static_labels_that_are_all_na_and_numbers_that_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    days(9, id="a", region="NA").to_csv(path, index=False)
    assert panel_of(path, time="date", series="id", static="region").static_labels == {
        "region": ["NA"]
    }
    two = pd.concat([days(9, id="a", size="1.5"), days(9, id="b", size="NA")])
    two.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"'size', series 'b', row 10 .*: the value is missing"):
        panel_of(path, time="date", series="id", static="size")
    path.write_text("id,y\nNA,1\n,2\n")
    with pytest.raises(
        DataError, match=r"column 'id', row 2 \(line 3 of t.csv\): the value is missing"
    ):
        panel_of(path, series="id")


@pytest.mark.parametrize(
    "dtype",
    ["category", "string", "string[pyarrow]", "object", "str", pd.ArrowDtype(pa.string()), bytes],
)
def test_names_of_every_type_of_pandas(dtype: Any) -> None:
    data = pd.concat([days(9, id="NA"), days(9, id="b")], ignore_index=True)
    encoded = [name.encode() for name in data["id"]]
    column = pd.Series(encoded, dtype=object) if dtype is bytes else data["id"].astype(dtype)
    data["id"] = column
    panel = panel_of(data, time="date", series="id")
    assert panel.names == ["NA", "b"]
    found = after(data, panel)["id"]
    assert found.tolist() == ["NA", "NA", "b", "b"]
    if str(column.dtype) != "object":
        assert found.dtype == column.dtype


def test_names_of_every_type_of_polars_and_pyarrow() -> None:
    data = pl.DataFrame(pd.concat([days(9, id="NA"), days(9, id="b")]))
    for dtype in (pl.String, pl.Categorical, pl.Enum(["b", "NA", "c"]), pl.Binary):
        typed = data.with_columns(pl.col("id").cast(dtype))
        panel = panel_of(typed, time="date", series="id")
        assert panel.names == ["NA", "b"]
        assert after(typed, panel)["id"].dtype == dtype
    arrow = data.to_arrow()
    typed = arrow.set_column(
        2, "id", arrow["id"].cast(pa.string()).combine_chunks().dictionary_encode()
    )
    panel = panel_of(typed, time="date", series="id")
    assert panel.names == ["NA", "b"]
    assert after(typed, panel)["id"].to_pylist() == ["NA", "NA", "b", "b"]


# ------------------------------------------------------------------------------ dates in digits

MONTHS = pd.date_range("2015-01-01", periods=120, freq="MS")
DIGITS = {
    "%Y%m": MONTHS.year * 100 + MONTHS.month,
    "%Y%m%d": MONTHS.strftime("%Y%m%d").astype(int),
    "%Y%m%d%H": MONTHS.strftime("%Y%m%d%H").astype(int),
    "%Y%m%d%H%M%S": MONTHS.strftime("%Y%m%d%H%M%S").astype(int),
    "%Y%j": MONTHS.strftime("%Y%j").astype(int),
}


@pytest.mark.parametrize("form", DIGITS)
@pytest.mark.parametrize("kind", ["int64", "float64", "Int64", "str", "object"])
def test_dates_in_digits_are_refused_and_read_by_their_format(
    form: str, kind: str, tmp_path: Path
) -> None:
    data = pd.DataFrame({"t": pd.Series(DIGITS[form]).astype(kind), "y": np.arange(120.0)})
    for gaps in ("error", "mask"):
        with pytest.raises(DataError, match=rf"column 't', row 1: .* time_format.*'{form}'"):
            panel_of(data, time="t", gaps=gaps)
    panel = panel_of(data, time="t", time_format=form)
    assert panel.timeline.name == "1MS"
    found = after(data, panel)["t"]
    assert found.tolist() == [pd.Timestamp("2025-01-01"), pd.Timestamp("2025-02-01")]
    data.to_csv(tmp_path / "t.csv", index=False)
    assert panel_of(tmp_path / "t.csv", time="t", time_format=form).timeline == panel.timeline


def test_quarters_and_weeks_in_digits_are_refused() -> None:
    for numbers, what in (
        (MONTHS[::3].year * 10 + MONTHS[::3].quarter, "20151 reads as a year and a quarter"),
        ([202451, 202452, 202501, 202502], "202451 reads as a year and a week"),
    ):
        data = {"t": np.asarray(numbers), "y": np.arange(float(len(numbers)))}
        with pytest.raises(
            DataError, match=f"{what}: give dates, such as the first day of each period"
        ):
            panel_of(data, time="t")


@pytest.mark.parametrize(
    "numbers",
    [
        range(2015, 2055),
        range(1, 41),
        range(201501, 201541),  # no year has 40 months
        range(0, 400_000, 10_000),
        range(1_704_067_200, 1_704_067_200 + 40 * 3600, 3600),  # seconds since 1970
        [20240131, 20240132, 20240133],
        range(20241, 20281),
    ],
)
def test_numbers_that_are_no_dates_are_counted(numbers: Any) -> None:
    data = {"t": np.array(numbers), "y": np.arange(float(len(numbers)))}
    step = numbers[1] - numbers[0]
    panel = panel_of(data, time="t")
    assert panel.timeline.times(panel.steps_from(slice(None), panel.lengths, 2)).tolist() == [
        [numbers[-1] + step, numbers[-1] + 2 * step]
    ]


def test_numbers_that_read_as_dates_are_counted_where_freq_says_so() -> None:
    data = {"t": np.arange(201501, 201513), "y": np.arange(12.0)}
    for freq in (1, "1"):
        panel = panel_of(data, time="t", freq=freq)
        assert panel.timeline.times(panel.steps_from(slice(None), panel.lengths, 1)).tolist() == [
            [201513]
        ]
    assert panel_of(data, time="t", timeline=panel.timeline).timeline == panel.timeline


@pytest.mark.parametrize("number", [2**64 - 1, 2**62, -(2**63), 1e300, np.inf, 1e17])
def test_numbers_that_are_too_large_for_a_time(number: Any) -> None:
    with pytest.raises(
        DataError, match=r"column 't', row 2: .* (is too large for a time|is not a time)"
    ):
        panel_of(pd.DataFrame({"t": [1, number], "y": [1.0, 2.0]}), time="t")


# ------------------------------------------------------------------------------ formats


@pytest.mark.parametrize(
    "form", ["%d/%m/%Y", "%b %d, %Y", "%d.%m.%y", "%Y-%m-%d %H", "%d/%m/%Y %I %p", "%A %d %B %Y"]
)
def test_any_format_of_strptime(form: str) -> None:
    stamps = pd.date_range("2023-12-25", periods=14)
    found = times(load({"t": np.array(stamps.strftime(form))}), "t", form)
    assert found.values.tolist() == stamps.to_pydatetime().tolist()


def test_a_format_with_offsets() -> None:
    texts = ["01/02/2024 00:00 +0100", "02/02/2024 00:00 +0100"]
    found = times(load({"t": texts}), "t", "%d/%m/%Y %H:%M %z")
    assert (found.zone, found.values[0].item()) == ("UTC+01:00", dt.datetime(2024, 1, 31, 23))
    mixed = times(load({"t": [texts[0], "02/02/2024 00:00 +0200"]}), "t", "%d/%m/%Y %H:%M %z")
    assert (mixed.zone, mixed.mixed) == ("UTC", ("UTC+01:00", "UTC+02:00"))


def test_a_forecaster_reads_by_its_format(tmp_path: Path) -> None:
    data = days(promo=1.0)
    spelled = data.assign(date=data["date"].dt.strftime("%d/%m/%Y"))
    options = dict(known="promo", **QUICK)
    with pytest.raises(DataError, match=r"give time_format= \(--time-format\), such as '%d/%m/%Y'"):
        gw.Forecaster(2, "y", "date", **options).fit(spelled)
    model = gw.Forecaster(2, "y", "date", time_format="%d/%m/%Y", **options).fit(spelled)
    ahead = pd.DataFrame({"date": ["01/03/2024", "02/03/2024"], "promo": 0.0})
    found = model.predict(spelled, future=ahead)
    assert found["date"].tolist() == pd.to_datetime(["2024-03-01", "2024-03-02"]).tolist()
    wanted = gw.Forecaster(2, "y", "date", **options).fit(data)
    np.testing.assert_array_equal(model.predict(data, future=ahead)["forecast"], found["forecast"])
    points = wanted.backtest(data, windows=2).point
    assert (model.backtest(spelled, windows=2).point == points).all()
    model.save(tmp_path / "m")
    assert gw.load(tmp_path / "m").time_format == "%d/%m/%Y"
    assert gw.load(tmp_path / "m").predict(spelled, future=ahead).equals(found)


def test_an_offset_of_pandas_is_saved_as_its_name(tmp_path: Path) -> None:
    stamps = pd.date_range("2015-01-01", periods=60, freq="BME")
    data = days().assign(date=stamps)
    model = gw.Forecaster(2, "y", "date", freq=pd.offsets.BMonthEnd(), **QUICK).fit(data)
    found = model.predict(data)
    assert found["date"].tolist() == [pd.Timestamp("2020-01-31"), pd.Timestamp("2020-02-28")]
    model.save(tmp_path / "m")
    again = gw.load(tmp_path / "m")
    assert again.freq == "BME"
    pd.testing.assert_frame_equal(again.predict(data), found)


def test_the_command_line_takes_the_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "t.csv", str(tmp_path / "run")
    days().assign(date=lambda t: t["date"].dt.strftime("%d/%m/%Y")).to_csv(data, index=False)
    fit = ["fit", "forecast", str(data), "--target", "y", "--time", "date", "--horizon", "2"]
    fit += ["--steps", "1", "--hidden", "2", "--quiet", "--out", out]
    assert main(fit) == 2
    assert "give --time-format" in capsys.readouterr().err
    assert main([*fit, "--time-format", "%d/%m/%Y"]) == 0
    assert main(["evaluate", out, str(data), "--windows", "2"]) == 0
    assert main(["predict", out, str(data), "-o", str(tmp_path / "f.csv")]) == 0
    assert pd.read_csv(tmp_path / "f.csv")["date"].str[:10].tolist() == ["2024-03-01", "2024-03-02"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freq": "fortnight"}, "freq='fortnight' is not a frequency"),
        ({"freq": 1.5}, "freq=1.5 is not a frequency"),
        ({"time_format": "%d/%m"}, "time_format='%d/%m' is not a date format"),
        ({"time_format": 7}, "time_format=7 is not a date format"),
        ({"target": None}, "target must be the name of a column or a list of names, not None"),
        ({"target": ["y", None]}, "target must be the name"),
    ],
)
def test_what_is_no_option_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        gw.Forecaster(**({"horizon": 2, "target": "y"} | options))
    model = gw.Forecaster(2, "y", "date").set_params(**options)
    with pytest.raises(OptionError, match=message):
        model.fit(days())
