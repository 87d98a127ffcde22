"""Panels: any order of rows gives the same panel, and every fault is named with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from gatewise.data import Panel, Timeline
from gatewise.errors import DataError, OptionError

ROLES: dict[str, Any] = {"target": "y", "time": "ds", "series": "id"}


def frame(lengths: dict[Any, int], freq: str = "h", start: str = "2024-01-01") -> pd.DataFrame:
    """Series of these lengths, each a step later than the one before; y counts the rows."""
    parts = [
        pd.DataFrame(
            {
                "id": name,
                "ds": pd.date_range(start, periods=length + shift, freq=freq)[shift:],
                "size": 10.0 * shift,
                "region": "north" if shift % 2 else "south",
            }
        )
        for shift, (name, length) in enumerate(lengths.items())
    ]
    whole = pd.concat(parts, ignore_index=True)
    whole["y"] = np.arange(float(len(whole)))
    whole["promo"] = whole["y"] % 3
    return whole


def panel_of(source: Any, **changes: Any) -> Panel:
    return Panel.from_table(source, **(ROLES | changes))


def assert_same(one: Panel, other: Panel) -> None:
    """The same series with the same rows, in whatever order the series are."""
    assert sorted(one.names) == sorted(other.names)
    assert one.timeline == other.timeline
    for s, name in enumerate(one.names):
        t = other.names.index(name)
        assert one.starts[s] == other.starts[t]
        for column in ("target", "past_values", "known_values"):
            np.testing.assert_array_equal(
                getattr(one, column)[:, one.offsets[s] : one.offsets[s + 1]],
                getattr(other, column)[:, other.offsets[t] : other.offsets[t + 1]],
            )


def test_what_a_panel_holds() -> None:
    data = frame({"b": 3, "a": 4})
    data["y2"] = -data["y"]
    data.loc[1, "y"] = np.nan
    panel = panel_of(data, target=["y", "y2"], past=["size"], known="promo", static=["region"])
    assert panel.names == ["b", "a"]
    assert panel.labels.tolist() == ["b", "a"]
    assert panel.offsets.tolist() == [0, 3, 7]
    assert panel.lengths.tolist() == [3, 4]
    assert (panel.starts[1] - panel.starts[0], panel.timeline.name) == (1, "1h")
    assert panel.timeline.times(panel.starts)[0] == np.datetime64("2024-01-01")
    assert (panel.targets, panel.past, panel.known) == (("y", "y2"), ("size",), ("promo",))
    np.testing.assert_array_equal(panel.target[0], [0, np.nan, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(panel.target[1], -np.arange(7.0))
    np.testing.assert_array_equal(panel.past_values, [[0, 0, 0, 10, 10, 10, 10]])
    np.testing.assert_array_equal(panel.known_values, [[0, 1, 2, 0, 1, 2, 0]])
    assert panel.static_names == ("region=north", "region=south")
    np.testing.assert_array_equal(panel.static, [[0, 1], [1, 0]])


def test_a_single_series_without_series_or_time() -> None:
    panel = Panel.from_table({"y": [1.0, 2.0, np.nan]}, target="y")
    assert (panel.names, panel.starts.tolist(), panel.offsets.tolist()) == ([""], [0], [0, 3])
    assert (panel.timeline.name, panel.time, panel.series) == ("1", None, None)
    assert panel.past_values.shape == (0, 3)
    assert panel.static.shape == (1, 0)
    two = Panel.from_table({"y": [1.0, 2.0, 3.0], "id": [7, 9, 7]}, target="y", series="id")
    assert (two.names, two.labels.tolist()) == (["7", "9"], [7, 9])
    assert two.target.tolist() == [[1.0, 3.0, 2.0]]


def test_the_panel_is_its_own_copy() -> None:
    data = frame({"a": 5})
    panel = panel_of(data)
    data.loc[:, "y"] = -1.0
    assert panel.target.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_the_rows_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    freq = str(rng.choice(["h", "D", "B", "W", "MS", "ME", "QS"]))
    lengths = {f"s{index}": int(rng.integers(5, 40)) for index in range(rng.integers(2, 9))}
    data = frame(lengths, freq)
    data.loc[rng.random(len(data)) < 0.2, "y"] = np.nan
    roles = {"past": "size", "known": "promo", "static": "region"}
    wanted = panel_of(data, **roles)
    mixed = data.iloc[rng.permutation(len(data))].sort_values("ds", kind="stable")
    assert_same(panel_of(mixed, **roles), wanted)
    assert_same(panel_of(pl.DataFrame(mixed), **roles), wanted)


@pytest.mark.parametrize("seed", range(8))
def test_masked_gaps_put_every_row_at_its_time(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    data = frame({"a": 60, "b": 50, "c": 1})
    kept = data[(rng.random(len(data)) < 0.8) | (data["id"] == "c")]
    mixed = kept.sort_values("ds", kind="stable")
    panel = panel_of(mixed, known="promo", gaps="mask", freq="h")
    for s, name in enumerate(panel.names):
        own = kept[kept["id"] == name].set_index("ds")
        whole = own.reindex(pd.date_range(own.index[0], own.index[-1], freq="h"))
        rows = slice(panel.offsets[s], panel.offsets[s + 1])
        np.testing.assert_array_equal(panel.target[0, rows], whole["y"])
        np.testing.assert_array_equal(panel.known_values[0, rows], whole["promo"])
        first = panel.timeline.times(panel.starts[s : s + 1])[0]
        assert first == own.index[0].to_datetime64()


def test_files_give_the_panel_of_the_frame(tmp_path: Path) -> None:
    data = frame({"007": 30, "7": 20})
    data.to_csv(tmp_path / "t.csv", index=False)
    data.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        panel = panel_of(tmp_path / name, past="size", known="promo")
        assert panel.names == ["007", "7"]
        assert_same(panel, panel_of(data, past="size", known="promo"))


def test_time_zones_reach_the_timeline() -> None:
    data = frame({"a": 200})
    data["ds"] = data["ds"].dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin")
    panel = panel_of(data)
    assert panel.timeline.zone == "Europe/Berlin"
    utc = panel_of(data.assign(ds=data["ds"].dt.tz_convert("UTC")), timeline=panel.timeline)
    assert_same(panel, utc)
    with pytest.raises(
        DataError, match="'ds' has no time zone, but the time zone of the data of fit is Europe/B"
    ):
        panel_of(data.assign(ds=data["ds"].dt.tz_localize(None)), timeline=panel.timeline)


# ------------------------------------------------------------------------------- bad tables


def faulty(change: str) -> pd.DataFrame:
    data = frame({"a": 6, "b": 6})
    if change == "unsorted":
        return data.iloc[[0, 1, 3, 2, 4, 5, *range(6, 12)]]
    if change == "twice":
        return data.iloc[[0, 1, 1, *range(2, 12)]]
    if change == "off the grid":
        data.loc[8, "ds"] += pd.Timedelta("20min")
    if change == "gap":
        return data.drop(index=[8, 9])
    if change == "two gaps":
        return data.drop(index=[2, 8])
    if change == "far":
        data.loc[11, "ds"] = pd.Timestamp("2924-01-01")
    return data


FAULTS = {
    "unsorted": "series 'a', row 4: 2024-01-01 02:00 comes after 2024-01-01 03:00 of row 3: sort",
    "twice": "series 'a', row 3: the time 2024-01-01 01:00 occurs twice, also in row 2",
    "off the grid": "series 'b', row 9: 2024-01-01 03:20 is not on the grid of 1h; the nearest times on it are "
    "2024-01-01 03:00 and 2024-01-01 04:00; 1h is the most common step; give freq= if the step is another",
    "gap": "series 'b', row 9: 2 steps are missing between 2024-01-01 02:00 and 2024-01-01 05:00 "
    "(the step is 1h): give gaps='mask' (--gaps mask) to treat them as missing values",
    "two gaps": "series 'a', row 3: 1 step is missing between 2024-01-01 01:00 and 2024-01-01 "
    "03:00 (the step is 1h), the first of 2 gaps: give gaps='mask'",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_times_that_do_not_fit_are_named(fault: str) -> None:
    with pytest.raises(DataError) as caught:
        panel_of(faulty(fault))
    assert str(caught.value).startswith(FAULTS[fault])


def test_rows_are_those_of_the_table_where_series_are_mixed() -> None:
    mixed = faulty("off the grid").sort_values("ds", kind="stable")
    row = 1 + int(np.flatnonzero(mixed["ds"].dt.minute == 20)[0])
    with pytest.raises(DataError, match=rf"^series 'b', row {row}: 2024-01-01 03:20"):
        panel_of(mixed)


def test_a_single_series_is_not_named_and_a_csv_has_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    faulty("gap").iloc[4:].query("id == 'b'").to_csv(path, index=False)
    with pytest.raises(DataError, match=r"^row 3 \(line 4 of t.csv\): 2 steps are missing"):
        panel_of(path, series=None)


def test_a_mistyped_year_does_not_fill_the_memory() -> None:
    with pytest.raises(
        DataError, match=r"series 'b', row 12: 7\d{6} steps .* check that the times are correct"
    ):
        panel_of(faulty("far"), gaps="mask")


def test_series_of_two_frequencies() -> None:
    data = pd.concat([frame({"a": 30}), frame({"b": 30}, "D")])
    with pytest.raises(DataError, match="'a' has a row every 1h, series 'b' has a row every 1D"):
        panel_of(data)
    assert panel_of(data, freq="h", gaps="mask").lengths.tolist() == [30, 29 * 24 + 1]


def test_freq_is_held_to() -> None:
    with pytest.raises(DataError, match=r"row 2: 2024-01-01 01:00 is not on the grid of 1D.*-02$"):
        panel_of(frame({"a": 6}), freq="D")
    with pytest.raises(OptionError, match="freq='2' does not fit times that are timestamps"):
        panel_of(frame({"a": 6}), freq="2")
    with pytest.raises(OptionError, match="freq='h' needs a time column"):
        panel_of(frame({"a": 6}), freq="h", time=None)


def test_static_columns_must_be_constant_and_there() -> None:
    data = frame({"a": 5, "b": 5})
    data.loc[7, "size"] = 11.0
    with pytest.raises(
        DataError, match=r"column 'size', series 'b', row 8: .* that of row 6; a st"
    ):
        panel_of(data, static="size")
    data.loc[3, "region"] = "west"
    with pytest.raises(DataError, match="column 'region', series 'a', row 4: the value differs"):
        panel_of(data, static="region")
    data.loc[0, "size"] = np.nan
    with pytest.raises(DataError, match="column 'size', series 'a', row 1: the value is missing"):
        panel_of(data, static="size")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"past": "y"}, "column 'y' is given twice: as target and as past"),
        ({"known": ["promo", "promo"]}, "column 'promo' is given twice: as known and as known"),
        ({"static": ["id"]}, "column 'id' is given twice: as static and as series"),
        ({"target": ()}, "target must name at least one column"),
        ({"gaps": "fill"}, "gaps must be one of 'error', 'mask', not 'fill'"),
    ],
)
def test_options_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        panel_of(frame({"a": 5}), **changes)


def test_missing_columns_and_bad_values_are_named() -> None:
    with pytest.raises(DataError, match=r"no column 'prmo' \(did you mean 'promo'\?\)"):
        panel_of(frame({"a": 5}), known="prmo")
    with pytest.raises(DataError, match="column 'region', row 1: 'south' is not a number"):
        panel_of(frame({"a": 5}), past="region")
    data = frame({"a": 5})
    data.loc[2, "id"] = None
    with pytest.raises(DataError, match="column 'id', row 3: the value is missing"):
        panel_of(data)
    with pytest.raises(DataError, match="the table has no rows"):
        panel_of(frame({"a": 5}).iloc[:0])


def test_what_cannot_be_learnt_is_refused_at_fit_only() -> None:
    data = frame({"a": 5, "b": 5, "c": 5})
    panel_of(data).check_learnable()
    data.loc[5:9, "y"] = [7.0, np.nan, 7.0, 7.0, 7.0]
    panel = panel_of(data)
    with pytest.raises(
        DataError, match=r"series 'b', target 'y' is 7 in every row, so .*: leave the series out"
    ):
        panel.check_learnable()
    data.loc[0:4, "y"] = np.nan
    panel = panel_of(data)
    with pytest.raises(
        DataError, match=r"'a', target 'y' has no value, .*\(2 series are like this"
    ):
        panel.check_learnable()
    with pytest.raises(DataError, match=r"^target 'y' has no value"):
        Panel.from_table({"y": [np.nan, np.nan]}, target="y").check_learnable()


# ---------------------------------------------------------------------------------- predict


def test_the_grid_and_labels_of_the_fit_hold() -> None:
    fitted = panel_of(frame({"a": 5, "b": 5}), static=["region", "size"])
    data = frame({"x": 5}, "h", "2024-02-01 03:00").assign(region="east")
    held = {"timeline": fitted.timeline, "static_labels": fitted.static_labels}
    panel = panel_of(data, static=["region", "size"], **held)
    assert fitted.static_labels == {"region": ["north", "south"]}
    assert panel.static_names == fitted.static_names == ("region=north", "region=south", "size")
    assert panel.static.tolist() == [[0, 0, 0]]
    assert panel.starts[0] - fitted.starts[0] == 31 * 24 + 3
    with pytest.raises(DataError, match="row 1: 2024-02-01 03:30 is not on the grid of 1h"):
        panel_of(frame({"x": 5}, "h", "2024-02-01 03:30"), **held)
    with pytest.raises(DataError, match="23 steps are missing"):
        panel_of(frame({"x": 5}, "D"), **held)
    with pytest.raises(
        DataError, match="the times are integers, but the model's times are timestamps"
    ):
        panel_of(data.assign(ds=range(5)), **held)
    with pytest.raises(OptionError, match="the model's time step is 1h, which needs a time column"):
        panel_of(data, time=None, **held)


def test_labels_that_look_like_numbers_stay_labels(tmp_path: Path) -> None:
    data = frame({"a": 5, "b": 5}).assign(region=["01"] * 5 + ["x"] * 5)
    fitted = panel_of(data, static="region")
    path = tmp_path / "t.csv"
    data.iloc[:5].to_csv(path, index=False)
    panel = panel_of(path, static="region", static_labels=fitted.static_labels)
    assert panel.static.tolist() == [[1, 0]]


def test_crop_and_tail() -> None:
    data = frame({"a": 6, "b": 3})
    panel = panel_of(data, known="promo")
    tail = panel.tail(4)
    assert tail.lengths.tolist() == [4, 3]
    assert (tail.starts - panel.starts).tolist() == [2, 0]
    assert tail.target.tolist() == [[2, 3, 4, 5, 6, 7, 8]]
    kept = data.groupby("id").tail(4)
    assert_same(tail, panel_of(kept, known="promo"))
    head = panel.crop(np.array([0, 1]), np.array([2, 2]))
    assert head.target.tolist() == [[0, 1, 7]]
    assert (head.starts - panel.starts).tolist() == [0, 1]
    assert (panel.steps_from(slice(None), panel.lengths, 2) - panel.starts[:, None]).tolist() == [
        [6, 7],
        [3, 4],
    ]


# ----------------------------------------------------------------------------- the future table


@pytest.fixture
def history() -> Panel:
    return panel_of(frame({1: 6, 2: 3}), known=["promo", "size"])


def future(horizon: int = 3) -> pd.DataFrame:
    """The horizon after ``history``: series 1 ends at 05:00 and series 2 at 03:00."""
    ends = {1: "2024-01-01 06:00", 2: "2024-01-01 04:00"}
    parts = [
        pd.DataFrame({"id": name, "ds": pd.date_range(end, periods=horizon, freq="h")})
        for name, end in ends.items()
    ]
    whole = pd.concat(parts, ignore_index=True)
    whole["promo"] = np.arange(float(len(whole)))
    return whole.assign(size=-whole["promo"])


@pytest.mark.parametrize("seed", range(4))
def test_a_future_table_in_any_order(history: Panel, seed: int) -> None:
    table = future().sample(frac=1, random_state=seed)
    values = history.future_table(table, 3)
    assert values.tolist() == [[0, 1, 2, 3, 4, 5], [0, -1, -2, -3, -4, -5]]
    renamed = table.rename(columns={"id": "shop", "ds": "t"}).astype({"shop": str})
    np.testing.assert_array_equal(
        history.future_table(renamed, horizon=3, time="t", series="shop"), values
    )


def test_a_future_table_without_time() -> None:
    data = {"y": [1.0, 2.0, 3.0], "id": ["a", "b", "a"], "x": [0, 0, 0]}
    panel = Panel.from_table(data, target="y", series="id", known="x")
    table = {"id": ["b", "a", "b", "a"], "x": [1, 2, 3, 4]}
    assert panel.future_table(table, 2).tolist() == [[2, 4, 1, 3]]
    with pytest.raises(DataError, match=r"lacks series 'a', step 2: give each step of 1 to 2 once"):
        panel.future_table({"id": ["b", "a", "b"], "x": [1, 2, 3]}, 2)


FUTURE_FAULTS = {
    "lacks a step": (
        future().drop(index=4),
        "lacks series '2', 2024-01-01 05:00: give each step of 2024-01-01 04:00 to "
        "2024-01-01 06:00 once",
    ),
    "has a step twice": (future().iloc[[0, 1, 2, 2, 3, 4, 5]], "has twice series '1', .* 08:00"),
    "too long": (
        future(4),
        "series '1', row 4: 2024-01-01 09:00 is not in the horizon of 3 after the end of the data, 2024-",
    ),
    "lacks a series": (future().iloc[:3], "the future table lacks series '2': it must"),
    "has another series": (
        future().replace({"id": {2: 3}}),
        "has series '3', which is not in the data",
    ),
    "off the grid": (
        future().assign(ds=lambda t: t["ds"] + pd.Timedelta("1min")),
        "series '1', row 1: 2024-01-01 06:01 is not on the grid of 1h; .* 07:00$",
    ),
    "no value": (
        future().assign(size=[0, 1, 2, 3, np.nan, 5]),
        "future column 'size', series '2', row 5: the value is missing",
    ),
    "no column": (
        future().drop(columns="size"),
        "no column 'size' in the table; it has 'id', 'ds'",
    ),
}


@pytest.mark.parametrize("fault", FUTURE_FAULTS)
def test_future_tables_that_do_not_fit(history: Panel, fault: str) -> None:
    table, message = FUTURE_FAULTS[fault]
    with pytest.raises(DataError, match=message):
        history.future_table(table, 3)


def test_ten_thousand_series_are_not_ten_thousand_times_the_work() -> None:
    count = 10_000
    hours = np.datetime64("2024-01-01", "us") + np.arange(8) * np.timedelta64(1, "h")
    data = {
        "id": np.tile(np.arange(count), 8),
        "ds": np.repeat(hours, count),
        "y": np.arange(8.0 * count),
    }
    panel = Panel.from_table(data, **ROLES)
    assert panel.timeline == Timeline.parse("h")
    assert panel.target.reshape(count, 8)[77].tolist() == [77 + count * k for k in range(8)]
