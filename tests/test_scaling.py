"""Location and scale of columns: what hardly varies, what is missing, what is huge or tiny."""

import numpy as np
import pytest

from gatewise.data.moments import moments, rounding
from gatewise.data.panel import Panel
from gatewise.data.scaling import Moments, Scaling, seasonal_error
from gatewise.data.sequences import Scale
from gatewise.data.windows import Windows, least_observed

NAN = float("nan")
WAVE = 7 * np.sin(np.arange(50))


def one(values) -> tuple[float, float, int]:
    location, deviation, count = moments(np.asarray(values, np.float64)[None])
    return float(location[0]), float(deviation[0]), int(count[0])


@pytest.mark.parametrize(
    "values",
    [
        np.full(200, 4.35),
        np.full(200, 0.1) * 3,
        np.where(np.arange(200) % 2, 0.3, 0.1 + 0.2),
        1e9 / 7 * (1 + 2e-16 * np.arange(5)),
        np.full(200, 4.35, np.float32) * (1 + 1.2e-7 * (np.arange(200) % 3)).astype(np.float32),
        np.full(50, -1e-200),
    ],
    ids=["constant", "product", "sum", "large", "float32", "tiny"],
)
def test_what_varies_by_rounding_alone_has_no_deviation(values):
    location, deviation, _ = one(values)
    assert deviation == 0
    assert location == pytest.approx(float(np.mean(values, dtype=np.float64)), rel=1e-6)
    beside = np.random.default_rng(0).normal(
        size=len(values)
    )  # columns are summed otherwise than one
    columns = np.stack([np.asarray(values, np.float64), beside], 1)
    for given in (columns, columns[:, :1], np.repeat(columns, 40, 0)):
        assert Scale.of(given, np.ones(len(given))).spread[0] == 1.0


@pytest.mark.parametrize(
    "values",
    [
        1e15 + np.round(WAVE),
        8e6 + np.arange(4.0),
        np.float32(52.5) + np.float32(1e-3) * np.arange(9, dtype=np.float32),
        4.35 + 1e-9 * WAVE,
        1e-160 * WAVE,
        1e150 * WAVE / 7,
        np.array([0.0, 5e-324 * 100]),
    ],
    ids=["offset", "whole", "float32", "small", "tiny", "huge", "subnormal"],
)
def test_what_varies_by_more_keeps_its_deviation(values):
    largest = float(np.abs(values).max())
    exact = float(np.std((np.asarray(values, np.longdouble)) / largest)) * largest
    location, deviation, _ = one(values)
    assert deviation == pytest.approx(exact, rel=1e-6 if largest > 1e-300 else 0.1)
    assert abs(location) <= largest


def test_moments_look_at_observed_values_alone():
    location, deviation, count = moments(np.array([[1, NAN, 3], [NAN, NAN, NAN], [5, NAN, NAN]]))
    np.testing.assert_array_equal(location, [2, NAN, 5])
    np.testing.assert_array_equal(deviation, [1, 0, 0])
    np.testing.assert_array_equal(count, [2, 0, 1])


def test_rounding_of_nothing_is_nothing():
    assert rounding(np.array([NAN, NAN])) == 0
    assert rounding(np.zeros((3, 0))).tolist() == [0, 0, 0]


def test_a_season_that_repeats_exactly_measures_nothing():
    assert np.isnan(seasonal_error(np.tile([0.1, 0.2, 0.3], 9), 3))
    assert np.isnan(seasonal_error(np.tile([0.1, 0.2, 0.3], 9) + 1e-17, 3))
    assert np.isnan(seasonal_error(np.array([1.0, 2.0]), 3))
    assert seasonal_error(np.array([1.0, 2, NAN, 4]), 1) == 1.0


def panel(rows: dict[str, int], start: int = 0, **columns) -> Panel:
    """Series a and b of numbers that say where they stand."""
    names = [name for name, count in rows.items() for _ in range(count)]
    step = np.concatenate([start + np.arange(count) for count in rows.values()])
    level = np.array([{"a": 100.0, "b": 1e6, "new": -5.0}[name] for name in names])
    table = dict(id=names, t=step, y=level + step % 7, price=level / 10 + step % 3)
    table |= {name: np.asarray(values) for name, values in columns.items()}
    return Panel.from_table(table, target="y", time="t", series="id", known="price")


def test_scaling_is_of_the_named_series_whatever_rows_are_given():
    fitted = Scaling.learn(panel({"a": 70, "b": 70}), np.array([42, 42]), 7)
    for rows in ({"b": 20, "a": 9}, {"a": 3, "b": 70}):
        given = panel(rows, start=30)
        again = fitted.of(given)
        order = [fitted.names.index(name) for name in given.names]
        for kind in ("target", "known"):
            ours, theirs = getattr(again, kind), getattr(fitted, kind)
            np.testing.assert_array_equal(ours.location, theirs.location[:, order])
            np.testing.assert_array_equal(ours.scale, theirs.scale[:, order])
        np.testing.assert_array_equal(again.seasonal_error, fitted.seasonal_error[:, order])


def test_a_new_series_has_the_medians_for_covariates_and_nothing_for_targets():
    fitted = Scaling.learn(panel({"a": 70, "b": 70}), np.array([70, 70]), 7)
    again = fitted.of(panel({"new": 20, "a": 20}))
    assert np.isnan(again.target.scale[0]).tolist() == [True, False]
    assert again.known.location[0, 0] == pytest.approx(fitted.known.location[0].mean())
    assert again.known.scale[0, 0] == pytest.approx(fitted.known.scale[0].mean())


def test_scaling_goes_through_arrays():
    fitted = Scaling.learn(panel({"a": 70, "b": 70}), np.array([42, 0]), 7)
    again = Scaling.from_arrays(fitted.names, fitted.arrays())
    for name, values in fitted.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], values)
    assert np.isnan(again.target.location[0]).tolist() == [False, True]


def test_medians_of_nothing_are_zero_and_one():
    empty = np.full((1, 2), NAN)
    location, scale = Moments(empty, empty, empty, empty).pooled()
    assert (location.tolist(), scale.tolist()) == ([0.0], [1.0])


def windows(given: Panel, first, last, rows=(42, 42), **options) -> Windows:
    scaling = Scaling.learn(panel({"a": 70, "b": 70}), np.array(rows), 7)
    return Windows(given, scaling.of(given), 21, 7, np.array(first), np.array(last), **options)


def test_a_window_comes_back_in_the_datas_units():
    given = panel({"a": 70, "new": 70})
    batch = windows(given, [42, 21], [42, 21])[np.arange(2)]
    for k, (name, origin) in enumerate((("a", 42), ("new", 21))):
        level = {"a": 100.0, "new": -5.0}[name]
        back = batch.target[k].double() * batch.scale[k] + batch.location[k]
        np.testing.assert_allclose(back, level + np.arange(origin - 21, origin) % 7, atol=1e-6)
        ahead = batch.future[k].double() * batch.scale[k] + batch.location[k]
        np.testing.assert_allclose(ahead, level + np.arange(origin, origin + 7) % 7, atol=1e-6)
    assert batch.target.double().mean(1).abs().max() < 1e-6
    np.testing.assert_allclose(batch.target.double().std(1, correction=0), 1, rtol=1e-4)
    assert batch.weight.tolist() == [1.0, 1.0]


def test_a_flat_window_has_its_series_scale():
    y = np.concatenate([np.arange(49) % 7 + 100.0, np.full(21, 104.35)])
    given = panel({"a": 70}, y=y)
    batch = windows(given, [70], [70])[np.array([0])]
    assert batch.scale.item() == pytest.approx(2.0)  # of 0 to 6
    assert batch.location.item() == pytest.approx(104.35)
    assert not batch.target.any()


def test_before_a_series_begins_nothing_was_observed():
    given = panel({"b": 30, "a": 12})
    batch = windows(given, [30, 12], [30, 12])[np.array([0, 1])]
    assert batch.observed.sum(1).tolist() == [21, 12]
    assert batch.observed[1, :9].sum() == 0
    assert batch.location.tolist()[1] == pytest.approx(100 + (np.arange(12) % 7).mean())


def test_windows_without_enough_to_see_or_to_judge_by_are_left_out_and_counted():
    y = np.arange(70.0) % 7
    y[20:40] = NAN
    given = panel({"a": 70}, y=y)
    every = windows(given, [21], [63])
    whole = windows(given, [21], [63], scorable_only=True)
    least = least_observed(21)
    assert least == 3
    expected = [
        origin
        for origin in range(21, 64)
        if (~np.isnan(y[origin - 21 : origin])).sum() >= least
        and (~np.isnan(y[origin : origin + 7])).any()
    ]
    assert whole.place(np.arange(len(whole)))[2].tolist() == expected
    assert whole.left_out == len(every) - len(expected) > 0
    assert (whole.series().tolist(), every.series().tolist()) == ([0], [0])


def test_each_series_may_have_a_stride_of_its_own():
    given = panel({"a": 70, "b": 50})
    chosen = windows(given, [21, 21], [63, 43], stride=np.array([21, 11]))
    _, series, origin = chosen.place(np.arange(len(chosen)))
    assert series.tolist() == [0, 0, 0, 1, 1, 1]
    assert origin.tolist() == [21, 42, 63, 21, 32, 43]
