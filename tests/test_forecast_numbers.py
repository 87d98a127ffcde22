"""No wrong number in silence: what a forecast rests on, and what is said where it rests on too little.

The kinds are those of public bug reports on other forecasters; their inputs are our own.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import gatewise as gw
from gatewise.errors import DataError, GatewiseWarning, OptionError
from gatewise.memory import check_network
from gatewise.tasks.forecast import baselines, sizes
from gatewise.tasks.forecast.intervals import check_enough, conformal_offsets, sorted_quantiles
from gatewise.tasks.forecast.metrics import scores

pytestmark = pytest.mark.usefixtures("one_thread")

NAN = float("nan")
SMALL = dict(hidden=8, batch=64, steps=45)


def days(count: int, start: str = "2024-01-01") -> pd.DatetimeIndex:
    return pd.date_range(start, periods=count, freq="D")


def week(count: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, count)
    return 100 + 10 * np.sin(np.arange(count) * 2 * np.pi / 7) + noise


def table(count: int, **columns) -> pd.DataFrame:
    return pd.DataFrame(dict(date=days(count), y=week(count)) | columns)


def quick(horizon: int = 7, **options) -> gw.Forecaster:
    return gw.Forecaster(horizon, "y", "date", **{**SMALL, **options})


# ------------------------------------------------------------------------------- scaling


@pytest.fixture(scope="module")
def warm():
    """Two years of a demand that follows a temperature, and the model of the first part."""
    count = 500
    rng = np.random.default_rng(1)
    temp = 15 + 10 * np.sin(np.arange(count) * 2 * np.pi / 365) + rng.normal(0, 2, count)
    rows = table(count, temp=temp, wind=rng.normal(3, 1, count))
    rows["y"] += 3 * temp
    model = quick(known="temp", past="wind", steps=90).fit(rows[:400])
    return model, rows


def at(rows: pd.DataFrame, origin: int, model: gw.Forecaster, history: int | None = None):
    past = rows[:origin] if history is None else rows[origin - history : origin]
    return model.predict(past, future=rows[origin : origin + 7][["date", "temp"]])


def test_a_forecast_is_the_same_however_much_history_is_given(warm, tmp_path):
    model, rows = warm
    context = model.shape_.context
    for origin in (300, 493):
        whole = at(rows, origin, model).iloc[:, 1:].to_numpy()
        for history in (context, context + 1, 2 * context):
            again = at(rows, origin, model, history).iloc[:, 1:].to_numpy()
            np.testing.assert_allclose(again, whole, rtol=1e-6)
        loaded = gw.load(model.save(tmp_path / "model"))
        np.testing.assert_allclose(
            at(rows, origin, loaded, context).iloc[:, 1:].to_numpy(), whole, rtol=1e-6
        )


def test_a_forecast_is_the_backtests_at_that_date(warm):
    model, rows = warm
    for table_given in (rows, rows[350:]):
        test = model.backtest(table_given, windows=5, stride=11)
        for point, quantiles, times in zip(test.point, test.quantiles, test.times, strict=True):
            origin = int((rows.date < pd.Timestamp(times[0])).sum())
            forecast = at(rows, origin, model)
            np.testing.assert_allclose(forecast.forecast, point, rtol=1e-6)
            np.testing.assert_allclose(forecast["q0.9"], quantiles[:, -1], rtol=1e-6)


def test_new_rows_alone_score_as_all_rows_do(warm):
    model, rows = warm
    whole, tail = (
        model.backtest(each, windows=6, stride=5).scores["gatewise"] for each in (rows, rows[380:])
    )
    assert whole == pytest.approx(tail, rel=1e-6)
    assert whole["scaled_mae"] * model.scaling_.target.scale[0, 0] == pytest.approx(whole["mae"])


def test_a_new_series_is_forecast_by_its_context_alone(warm):
    _, rows = warm
    panel = pd.concat([rows[:400].assign(id="a"), rows[:400].assign(id="b", temp=rows.temp + 5)])
    many = quick(known="temp", series="id", steps=9).fit(panel)
    future = rows[493:][["date", "temp"]].assign(id="c")
    new = rows[:493].assign(id="c")
    first = many.predict(new, future=future)
    again = many.predict(new.tail(many.shape_.context), future=future)
    np.testing.assert_allclose(first.forecast, again.forecast, rtol=1e-6)
    times = new.assign(y=new.y * 1e-3)
    np.testing.assert_allclose(
        many.predict(times, future=future).forecast, first.forecast * 1e-3, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("factor", "shift"), [(1e-6, 0), (-3.0, 7), (1e9, -4e12), (1.0, 1e12), (1e140, 0)]
)
def test_a_forecast_follows_an_affine_change_of_the_target(factor, shift):
    rows = table(150)
    moved = rows.assign(y=rows.y * factor + shift)
    ours, theirs = (quick(steps=18).fit(each).predict(each) for each in (rows, moved))
    found = (theirs.forecast - shift) / factor
    np.testing.assert_allclose(found, ours.forecast, rtol=1e-4 if factor > 0 else 0.05)


# ------------------------------------------------------------------- what hardly varies


@pytest.mark.parametrize("level", [4.35, 0.1 * 3, 20.0, 1e-12, -7e8])
@pytest.mark.parametrize("role", ["known", "past"])
def test_a_covariate_that_was_constant_moves_a_forecast_a_little(level, role):
    rows = table(150, price=level)
    model = quick(**{role: "price"}).fit(rows)
    if role == "known":
        still, moved = (
            model.predict(rows, future=pd.DataFrame(dict(date=days(7, "2024-05-30"), price=price)))
            for price in (level, level + 1)
        )
    else:
        still = model.predict(rows)
        moved = model.predict(rows.assign(price=np.r_[np.full(140, level), np.full(10, level + 1)]))
    assert 50 < still.forecast.min() < still.forecast.max() < 150
    assert np.abs(moved.forecast - still.forecast).max() < 60


def test_a_target_that_was_constant_in_training_is_in_its_own_units():
    flat = table(200, id="b", y=np.r_[np.full(150, 4.35), week(50) / 50])
    both = pd.concat([table(200, id="a"), flat])
    model = quick(series="id").fit(both)
    assert model.history_.validation[0] < 100
    assert model.scaling_.target.scale[0].tolist()[1] == 1.0
    assert model.backtest(both, windows=4).scores["gatewise"]["scaled_mae"] < 10


def test_a_forecast_far_from_everything_seen_is_said():
    rows = table(150, price=4.35)
    model = quick(known="price").fit(rows)
    future = pd.DataFrame(dict(date=days(7, "2024-05-30"), price=1e6))
    with pytest.warns(GatewiseWarning, match=r"the series reaches .*'price' is 1e\+06"):
        model.predict(rows, future=future)
    with pytest.raises(DataError, match="not finite"):
        model.predict(rows, future=future.assign(price=1e140))


def test_a_model_whose_weights_are_no_numbers_forecasts_nothing():
    rows = table(150)
    model = quick(steps=9).fit(rows)
    with torch.no_grad():
        model.network_.head.bias[3] = NAN
    for call in (model.predict, model.backtest):
        with pytest.raises(DataError, match="not finite"):
            call(rows)


# ------------------------------------------------- nothing to learn from, or to judge by


@pytest.fixture(scope="module")
def plain():
    rows = table(400)
    return quick(steps=90).fit(rows), rows


def test_a_context_with_too_little_to_see_is_refused(plain):
    model, rows = plain
    context, last = model.shape_.context, len(rows)
    nothing = rows.assign(y=rows.y.where(rows.index < last - context))
    one = nothing.copy()
    one.loc[last - 5, "y"] = 90.0
    for each in (nothing, one, rows.assign(y=NAN), rows.tail(3)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GatewiseWarning)
            with pytest.raises(
                DataError,
                match=r"too few values to forecast the series: .* at least 9 .* last 84 steps",
            ):
                model.predict(each)


def test_a_flat_context_has_an_interval_as_wide_as_the_series_varies(plain):
    model, rows = plain
    flat = rows.assign(y=rows.y.where(rows.index < len(rows) - model.shape_.context, 100.0))
    forecast = model.predict(flat)
    assert (forecast["q0.9"] - forecast["q0.1"]).min() > 0.5
    assert np.abs(forecast.forecast - 100).max() < 20


def test_one_series_without_a_context_is_nan_and_the_others_stay():
    both = pd.concat([table(200, id="a"), table(200, id="b", y=week(200, 1))])
    model = quick(series="id").fit(both)
    before = model.predict(both)
    gone = both.assign(y=both.y.where((both.id == "a") | (both.date < "2024-03-01")))
    with pytest.warns(GatewiseWarning, match="forecast is NaN for series 'b'"):
        after = model.predict(gone)
    assert after[after.id == "b"].iloc[:, 2:].isna().all(axis=None)
    np.testing.assert_allclose(
        after[after.id == "a"].forecast, before[before.id == "a"].forecast, rtol=1e-6
    )


@pytest.mark.parametrize("share", [(0.7, 0.85), (0.7, 1.0)])
def test_a_validation_part_without_observation_is_refused_before_training(share):
    rows = table(300)
    first, last = (int(300 * part) for part in share)
    gap = rows.assign(y=rows.y.where((rows.index < first) | (rows.index > last)))
    with pytest.raises(
        DataError, match=r"validation part has no usable window: .* at least 7 observed"
    ):
        quick().fit(gap)


def test_a_training_part_without_observation_is_refused():
    rows = table(300)
    with pytest.raises(
        DataError, match=r"training part has no usable window: .* at least 7 observed"
    ):
        quick().fit(rows.assign(y=rows.y.where(rows.index > 215)))


def test_a_test_part_without_observation_is_said_by_the_backtest():
    rows = table(300)
    model = quick(steps=9).fit(rows.assign(y=rows.y.where(rows.index < 255)))
    with pytest.raises(DataError, match="nothing to test on"):
        model.backtest(rows.assign(y=rows.y.where(rows.index < 255)))


def test_unobserved_windows_do_not_flatter_the_losses():
    rows = table(400)
    holes = rows.assign(y=rows.y.where((rows.index < 290) | (rows.index > 320)))
    model = quick().fit(holes)
    assert min(model.history_.validation) > 0.05


def test_windows_that_cannot_be_scored_are_counted():
    rows = table(400)
    model = quick(steps=9).fit(rows)
    gap = rows.assign(y=rows.y.where((rows.index < 345) | (rows.index > 360)))
    test = model.backtest(gap, windows=50, stride=1)
    assert test.left_out == 10
    assert len(test.actual) == 40
    assert "Left out: 10 windows with too few" in test.table()


def test_a_short_series_does_not_shorten_the_others_context():
    long = pd.concat([table(300, id=name, y=week(300, seed)) for seed, name in enumerate("ab")])
    short = table(50, id="short", y=week(50, 5))
    tiny = table(6, id="tiny", y=week(6, 6))
    alone = quick(series="id").fit(long)
    with pytest.warns(GatewiseWarning, match="series 'tiny': not used in the"):
        model = quick(series="id").fit(pd.concat([short, long, tiny]))
    assert model.shape_.context == alone.shape_.context > 50
    with pytest.warns(GatewiseWarning) as caught:
        forecast = model.predict(pd.concat([long, tiny, short]))
    said = " ".join(str(each.message) for each in caught)
    assert "series 'tiny', 'short': shorter than" in said
    assert "NaN for series 'tiny'" in said
    assert forecast.groupby("id").forecast.count().to_dict() == dict(a=7, b=7, short=7, tiny=0)
    truth = 100 + 10 * np.sin(np.arange(50, 57) * 2 * np.pi / 7)
    assert np.abs(forecast[forecast.id == "short"].forecast - truth).mean() < 5


def test_a_constant_series_is_named():
    both = pd.concat([table(200, id="a"), table(200, id="b", y=4.35)])
    with pytest.raises(DataError, match=r"series 'b', target 'y' is 4\.35 in every row"):
        quick(series="id").fit(both)


def test_a_season_longer_than_the_data_is_said():
    with pytest.raises(DataError, match="season=365 steps is longer"):
        quick(season=365).fit(table(300))
    fine = pd.DataFrame(dict(date=pd.date_range("2024", periods=150, freq="5min"), y=week(150)))
    with pytest.warns(GatewiseWarning, match="season of 288 steps is longer"):
        assert quick().fit(fine).season_ == 1


# ----------------------------------------------------------------------------- intervals


def test_quantiles_lie_on_their_side_of_the_point_which_is_the_median():
    forecast = np.array([[[5.0, 6, 7, 4, 9]], [[5.0, 1, 2, 3, 4]], [[5.0, 5, 5, 5, 5]]])
    found = sorted_quantiles(forecast, (0.1, 0.3, 0.5, 0.9))
    assert found.tolist() == [[[5, 4, 5, 5, 9]], [[5, 1, 2, 5, 5]], [[5, 5, 5, 5, 5]]]


@pytest.mark.parametrize(
    "options", [dict(), dict(conformal=True), dict(quantiles=(0.2, 0.45, 0.9))]
)
def test_no_interval_leaves_its_point_out(options):
    rows = table(150)
    test = quick(steps=3, **options).fit(rows).backtest(rows, windows=30, stride=1)
    levels = np.asarray(test.levels)
    point = test.point[..., None]
    assert (test.quantiles[..., levels < 0.5] <= point).all()
    assert (test.quantiles[..., levels > 0.5] >= point).all()
    assert (test.quantiles[..., levels == 0.5] == point).all()
    assert (np.diff(test.quantiles, axis=-1) >= 0).all()


@pytest.mark.parametrize(("number", "rank"), [(4, 4), (10, 9), (14, 12), (20, 17)], ids=str)
def test_the_offset_of_an_interval_is_the_gap_of_its_rank(number, rank):
    """Of N gaps the one of rank ceil(0.8 (N + 1)); a step without an actual value does not count."""
    gaps = np.full((number + 2, 1, 3), np.nan)
    above = np.random.default_rng(0).permutation(number) + 1.0
    gaps[:number, 0] = np.stack([above + 100, above, above], axis=1)  # all are above the interval
    found = conformal_offsets(gaps, [0.1, 0.5, 0.9])
    np.testing.assert_array_equal(found, [[-rank, 0, rank]])


def test_conformal_calibration_says_when_it_cannot():
    y = 100 + 10 * np.sin(np.arange(72) * 2 * np.pi / 12)
    y[52] = NAN
    months = pd.DataFrame(dict(date=pd.date_range("2018-01-01", periods=72, freq="MS"), y=y))
    with pytest.raises(DataError, match=r"needs at least 4 observed values .* step 5 has 0"):
        quick(12, conformal=True).fit(months)
    with pytest.raises(OptionError, match="two or more"):
        quick(conformal=True, quantiles=(0.5,))


@pytest.mark.parametrize(
    ("levels", "needed"), [((0.1, 0.9), 4), ((0.05, 0.95), 9), ((0.01, 0.5, 0.99), 49)]
)
def test_how_many_values_a_level_needs(levels, needed):
    check_enough(np.array([needed, needed + 1]), levels)
    with pytest.raises(DataError, match=f"needs at least {needed} .* step 2 has {needed - 1}"):
        check_enough(np.array([needed, needed - 1]), levels)


def test_an_interval_is_widened_to_the_rank_that_covers_it():
    gaps = np.stack([-np.arange(9.0) - 1, np.zeros(9)], -1)[:, None]  # truth below the lower end
    gaps = np.concatenate([gaps, np.full((1, 1, 2), NAN)])
    assert conformal_offsets(gaps, (0.1, 0.9)).tolist() == [
        [-8.0, 8.0]
    ]  # the ceil(10 * .8)th of nine
    assert conformal_offsets(gaps[:5], (0.1, 0.9)).tolist() == [
        [-5.0, 5.0]
    ]  # the ceil(6 * .8)th of five


# -------------------------------------------------------------------- seasons and sizes


@pytest.mark.parametrize(
    ("season", "context", "patch"),
    [
        (7, None, 7),
        (168, None, 168),
        (288, None, 144),
        (365, None, 73),
        (200, None, 100),
        (359, None, 120),
        (1, None, 1),
        (12, 6, 6),
        (24, 10, 8),
        (7, 3, 3),
    ],
)
def test_patches_cover_a_season(season, context, patch):
    assert sizes.patch_of(season, context) == patch


def test_the_context_covers_a_season_where_there_is_room():
    def chosen(rows, season, horizon=30):
        return sizes.context_for(
            None, season, sizes.patch_of(season, None), np.array([rows]), horizon
        )

    assert chosen(2000, 288) == 576
    assert chosen(1050, 365) == 365
    assert chosen(20_000, 288) == 14 * 144
    assert chosen(700, 7) == 14 * 7
    assert chosen(380, 365) == 73
    with pytest.warns(
        GatewiseWarning, match=r"context of 73 steps is shorter than a season of 365"
    ):
        sizes.warn_short_context(73, 365, np.array([380]))


def test_a_few_short_series_do_not_choose_the_context():
    lengths = np.array([10] * 30 + [500] * 4)
    assert sizes.context_for(None, 7, 7, lengths, 7) == 98


def test_five_minutes_have_a_seasonal_naive_forecast_of_the_day_before():
    count = 288 * 5
    y = np.arange(count, dtype=float) % 288
    rows = pd.DataFrame(dict(date=pd.date_range("2024", periods=count, freq="5min"), y=y))
    model = quick(12, steps=3, context=144).fit(rows)
    assert (model.season_, model.shape_.patch) == (288, 144)
    test = model.backtest(rows, windows=3)
    np.testing.assert_allclose(test.seasonal_naive, test.actual)


def test_a_phase_that_was_never_seen_has_the_last_value():
    context = np.array([[NAN, 2.0, NAN, NAN, 5.0, NAN]])
    assert baselines.seasonal(context, 3, 4).tolist() == [[5, 5, 5, 5]]
    assert baselines.seasonal(np.array([[1.0, 2, NAN, NAN, 5, NAN]]), 3, 3).tolist() == [[1, 5, 5]]
    # two rows, and more than a season ahead: the phases follow each other again
    two = np.array([[1.0, 2, 3, 4, 5, 6], [7, 8, 9, NAN, 11, 12]])
    assert baselines.seasonal(two, 3, 5).tolist() == [[4, 5, 6, 4, 5], [7, 11, 12, 7, 11]]


# ------------------------------------------------------------------ backtests and scores


def test_a_backtest_that_refits_keeps_its_context():
    rows = table(200)
    test = quick(5, steps=9).fit(rows).backtest(rows, windows=3, refit=True)
    assert test.context.shape == (3, quick(5, steps=9).fit(rows).shape_.context)
    assert np.isfinite(test.point).all()


def test_a_missing_forecast_is_never_left_out_of_a_score():
    actual, point = np.ones((2, 3)), np.ones((2, 3))
    point[1, 2] = NAN
    with pytest.raises(
        DataError, match=r"1 of 6 actual values have no forecast.* window 1 at step 3"
    ):
        scores(actual, point, np.ones(2), np.ones(2))
    actual[1, 2] = NAN
    assert scores(actual, point, np.ones(2), np.ones(2))["mae"] == 0


def test_another_table_without_time_is_told_how_rows_are_counted():
    rows = table(200).drop(columns="date")
    model = gw.Forecaster(7, "y", **SMALL).fit(rows)
    with pytest.raises(DataError, match="rows are counted from the first row"):
        model.backtest(rows[:150])


# ------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(seed=-1), "seed must be an integer from 0 .*, not -1"),
        (dict(seed=2**64), "seed must be"),
        (dict(target=None), "target must be the name of a column or a list of names, not None"),
        (dict(quantiles="0.9"), "quantiles must be different .* not '0.9'"),
        (dict(quantiles=None), "quantiles"),
        (dict(layers=1001), "layers must be an integer from 1 to 1000"),
        (dict(calendar="yes"), "calendar must be True or False"),
        (dict(minimum=3, maximum=3), "minimum=3.0 must be below maximum=3.0"),
        (dict(minimum=NAN), "minimum must be a finite number or None"),
        (dict(dropout=None), "dropout must be a probability"),
    ],
)
def test_options_that_cannot_be_used_are_refused_when_given(options, message):
    with pytest.raises(OptionError, match=message):
        gw.Forecaster(**{"horizon": 3, "target": "y", **options})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            dict(test="0.2"),
            "test must be a share below 1, a number, or a file that exists, not '0.2'",
        ),
        (dict(test=1.0), "test must be"),
        (dict(validation=None), "validation must be"),
        (dict(validation=0), "validation must not be 0"),
        (dict(test=True), "test must be"),
    ],
)
def test_parts_of_the_split_are_checked(parts, message):
    with pytest.raises(OptionError, match=message):
        quick().fit(table(100), **parts)


@pytest.mark.parametrize("given", [dict(stride=-5), dict(stride=2.5), dict(refit=1.5)], ids=repr)
def test_options_of_a_backtest_are_checked(plain, given):
    model, rows = plain
    with pytest.raises(OptionError, match=f"{next(iter(given))} must be"):
        model.backtest(rows, **given)


def test_numbers_of_numpy_are_taken_as_those_of_python(tmp_path):
    rows = table(120)
    plain_, theirs = (
        gw.Forecaster(kind(3), "y", "date", steps=kind(9), context=kind(14), quantiles=quantiles)
        for kind, quantiles in ((int, [0.1, 0.9]), (np.int64, np.array([0.9, 0.1])))
    )
    first = plain_.fit(rows, test=0.2).predict(rows)
    second = theirs.fit(rows, test=np.float64(0.2)).predict(rows)
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(gw.load(theirs.save(tmp_path / "model")).predict(rows), first)


def test_without_quantiles_there_is_a_point_and_with_one_there_is_one():
    rows = table(120)
    assert quick(steps=9, quantiles=()).fit(rows).predict(rows).columns.tolist() == [
        "date",
        "forecast",
    ]
    assert "q0.9" in quick(steps=9, quantiles=0.9).fit(rows).predict(rows)


def test_forecasts_stay_within_the_bounds_that_are_asked_for(tmp_path):
    rows = table(150)
    model = quick(minimum=98, maximum=np.float64(102)).fit(rows)
    for each in (model, gw.load(model.save(tmp_path / "model"))):
        found = each.predict(rows).iloc[:, 1:].to_numpy()
        assert found.min() == 98
        assert found.max() == 102


def test_a_network_that_no_memory_holds_is_refused():
    with pytest.raises(OptionError, match=r"hidden=1000000, layers=1.*weights.*GiB"):
        quick(hidden=10**6).fit(table(100))
    check_network(lambda: torch.nn.Linear(10, 10), "ten")


def test_a_future_table_that_nothing_is_taken_from_is_refused(plain):
    model, rows = plain
    with pytest.raises(DataError, match="no known columns"):
        model.predict(rows, future=rows.tail(7))


# ------------------------------------------------------------------------ fits that are stopped


def stopped(*_):
    raise KeyboardInterrupt


def test_a_fit_that_is_stopped_leaves_the_model_as_it_was(monkeypatch):
    from gatewise.train.training import Training

    rows = table(150)
    model = quick(steps=9).fit(rows)
    before = model.predict(rows)
    monkeypatch.setattr(Training, "training_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        model.fit(rows.assign(y=rows.y * 100 + 7))
    pd.testing.assert_frame_equal(model.predict(rows), before)


def test_a_target_that_varies_by_rounding_alone_is_constant():
    rows = table(200, y=4.35 + np.r_[np.zeros(199), 8.9e-16])
    with pytest.raises(DataError, match=r"is 4\.35 in every row, apart from rounding"):
        quick().fit(rows)
    both = pd.concat([table(200, id="a"), table(1, id="c")])
    with pytest.raises(DataError, match=r"series 'c', target 'y' has one row"):
        quick(series="id").fit(both)


def test_a_cells_own_error_is_not_taken_for_one_of_memory():
    def build():
        raise OptionError("a parameter has a name of the layer's own")

    with pytest.raises(OptionError, match="name of the layer's own"):
        check_network(build, "hidden=4")
