"""The forecaster, end to end on small data: what it learns, keeps, refuses and gives back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import gatewise as gw
from gatewise.cli import main
from gatewise.data.scaling import seasonal_error
from gatewise.errors import DataError, OptionError, TrainingError
from gatewise.tasks.forecast import baselines
from gatewise.tasks.forecast.metrics import scores
from gatewise.tasks.forecast.training import Batches
from gatewise.train import checkpoint
from gatewise.train.run import Run
from gatewise.train.training import Training

QUICK = dict(steps=90, hidden=16, batch=64, context=72)


def quick(**options) -> gw.Forecaster:
    return gw.Forecaster(12, "load", "date", series="place", **{**QUICK, **options})


def run(folder: Path, **options) -> Run:
    return Run(folder, quiet=True, **options)


@pytest.fixture(scope="module")
def fitted(hourly, tmp_path_factory) -> gw.Forecaster:
    return quick().fit(hourly, run=run(tmp_path_factory.mktemp("fit")))


@pytest.mark.quick
def test_it_beats_the_last_value_and_comes_near_seasonal_naive(fitted, hourly):
    table = fitted.backtest(hourly).scores
    assert table["gatewise"]["scaled_mae"] < 0.5 * table["last value"]["scaled_mae"]
    assert table["gatewise"]["scaled_mae"] < table["seasonal naive"]["scaled_mae"]
    assert 0.5 < table["gatewise"]["coverage"] < 0.98


def test_prediction_has_the_horizon_after_each_series_and_rising_quantiles(fitted, hourly):
    table = fitted.predict(hourly)
    assert table.columns == ["place", "date", "forecast", "q0.1", "q0.5", "q0.9"]
    assert table["place"].to_list() == ["north"] * 12 + ["south"] * 12
    ends = hourly.group_by("place").agg(pl.col("date").max())
    for place, end in ends.iter_rows():
        dates = table.filter(pl.col("place") == place)["date"].to_list()
        assert dates == [end + k * (dates[1] - dates[0]) for k in range(1, 13)]
    assert (table["q0.1"] <= table["q0.5"]).all()
    assert (table["q0.5"] <= table["q0.9"]).all()


def test_a_pandas_table_gives_a_pandas_table(fitted, hourly):
    given = pd.DataFrame(hourly.to_dict(as_series=False))
    table = fitted.predict(given)
    assert isinstance(table, pd.DataFrame)
    np.testing.assert_allclose(table["forecast"], fitted.predict(hourly)["forecast"])


def test_a_forecast_wraps_the_callers_frame_once(fitted, hourly, monkeypatch):
    from gatewise.data import table

    wrapped = []
    original = table._given
    monkeypatch.setattr(table, "_given", lambda *a: wrapped.append(1) or original(*a))
    fitted.predict(hourly)
    assert len(wrapped) == 1


def test_a_trace_has_the_gates_over_the_last_window(fitted, hourly):
    trace = fitted.trace(hourly)
    assert trace.f[0][0].shape == (1, 72 // 24, 16)
    assert ((trace.f[0][0] > 0) & (trace.f[0][0] < 1)).all()
    changed = hourly.with_columns(
        load=pl.when(pl.int_range(pl.len()).over("place") < 1440 - 72)
        .then(pl.col("load").reverse())
        .otherwise("load")
    )
    assert torch.equal(fitted.trace(changed).f[0][0], trace.f[0][0])


def test_an_unseen_series_is_forecast_at_its_own_level(fitted, hourly):
    other = hourly.filter(pl.col("place") == "south").with_columns(
        pl.lit("east").alias("place"), pl.col("load") * 1000
    )
    ours = fitted.predict(other)["forecast"].to_numpy()
    known = fitted.predict(hourly.filter(pl.col("place") == "south"))["forecast"].to_numpy()
    np.testing.assert_allclose(ours, known * 1000, rtol=1e-4)


def test_the_same_seed_gives_the_same_model(fitted, hourly, tmp_path):
    again = quick().fit(hourly, run=run(tmp_path))
    assert again.predict(hourly).equals(fitted.predict(hourly))
    other = quick(seed=1).fit(hourly, run=run(tmp_path / "other"))
    assert not other.predict(hourly).equals(fitted.predict(hourly))


def test_the_test_part_does_not_reach_the_model(fitted, hourly, tmp_path):
    """Whatever stands in the held-out rows, the model and its scales are the same."""
    rows = 60 * 24
    held = int(0.15 * rows)
    place = pl.int_range(pl.len()).over("place")
    spoilt = hourly.with_columns(
        pl.when(place >= rows - held).then(pl.col("load") * 7 + 1).otherwise("load").alias("load")
    )
    other = quick().fit(spoilt, run=run(tmp_path))
    assert other.predict(hourly).equals(fitted.predict(hourly))


def test_saved_and_loaded_it_forecasts_the_same(fitted, hourly, tmp_path):
    folder = fitted.save(tmp_path / "model")
    assert len(list(folder.iterdir())) == 2
    loaded = gw.load(folder)
    assert loaded.predict(hourly).equals(fitted.predict(hourly))
    assert loaded.backtest(hourly).scores == fitted.backtest(hourly).scores


def test_covariates_of_every_kind(hourly, tmp_path):
    model = quick(past="wind", known="holiday", static="kind", conformal=True, calendar=True)
    model.fit(hourly, run=run(tmp_path))
    assert model.shape_.calendar == 4  # of the day and the week; sixty days hold no year twice
    with pytest.raises(DataError, match=r"known columns \(holiday\).*--future"):
        model.predict(hourly)
    last = hourly["date"].max()
    hours = [last + (k + 1) * (hourly["date"][1] - hourly["date"][0]) for k in range(12)]
    future = pl.DataFrame(
        {
            "place": ["north"] * 12 + ["south"] * 12,
            "date": hours * 2,
            "holiday": [0.0] * 24,
        }
    )
    quiet = model.predict(hourly, future=future)
    busy = model.predict(hourly, future=future.with_columns(holiday=pl.lit(1.0)))
    assert not np.allclose(quiet["forecast"], busy["forecast"])
    with pytest.raises(DataError, match=r"north|south"):
        model.predict(hourly, future=future.head(20))
    again = gw.load(model.save(tmp_path / "saved"))
    assert again.predict(hourly, future=future).equals(quiet)


def test_zoned_times_come_back_in_their_zone(hourly, tmp_path):
    one = hourly.filter(pl.col("place") == "north").with_columns(
        pl.col("date").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo")
    )
    model = gw.Forecaster(12, "load", "date", **{**QUICK, "steps": 9}).fit(one, run=run(tmp_path))
    dates = model.predict(one)["date"]
    assert dates.dtype == one["date"].dtype
    assert dates[0] - one["date"][-1] == one["date"][1] - one["date"][0]


def test_static_numbers_of_any_size_do_no_harm(fitted, hourly, tmp_path):
    large = hourly.with_columns(people=pl.when(pl.col("place") == "north").then(3e6).otherwise(9e6))
    model = quick(static="people").fit(large, run=run(tmp_path))
    ours = model.backtest(large).scores["gatewise"]["scaled_mae"]
    assert ours < 1.2 * fitted.backtest(hourly).scores["gatewise"]["scaled_mae"]


def test_two_processes_learn_what_one_does(hourly, tmp_path):
    """The command line under DDP over gloo, on the same global batches."""
    data = tmp_path / "data.csv"
    hourly.write_csv(data)
    losses = []
    for devices in ("1", "2"):
        out = tmp_path / devices
        line = ["fit", "forecast", str(data), "--time", "date"]
        line += ["--series", "place", "--target", "load", "--horizon", "12", "--context", "72"]
        line += ["--hidden", "16", "--steps", "27", "--batch", "64", "--dropout", "0"]
        line += ["--devices", devices, "--accelerator", "cpu", "--out", str(out), "--quiet"]
        if devices == "1":
            assert main(line) == 0
        else:
            command = [sys.executable, "-m", "gatewise", *line]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=240, env=environment, check=False
            )
            assert done.returncode == 0, done.stderr[-2000:]
        history = json.loads((out / "model.json").read_text())["learned"]["history"]
        losses.append([*history["validation"], *history["train"]])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_several_targets_share_one_model(hourly, tmp_path):
    one = hourly.filter(pl.col("place") == "north")
    model = gw.Forecaster(12, ["load", "wind"], "date", **QUICK).fit(one, run=run(tmp_path))
    table = model.predict(one)
    assert table["target"].to_list() == ["load"] * 12 + ["wind"] * 12
    assert abs(table["forecast"][:12].mean() - 10) < 3
    assert abs(table["forecast"][12:].mean()) < 1


def test_missing_values_are_masked_and_take_no_part(hourly, tmp_path):
    place = pl.int_range(pl.len()).over("place")
    holes = hourly.with_columns(pl.when(place % 17 == 3).then(None).otherwise("load").alias("load"))
    model = quick().fit(holes, run=run(tmp_path))
    backtest = model.backtest(holes)
    assert np.isnan(backtest.actual).any()
    assert np.isfinite(backtest.point).all()
    assert np.isfinite(list(backtest.scores["gatewise"].values())).all()


def test_conformal_calibration_brings_the_validation_part_to_its_level(hourly, tmp_path):
    model = quick(conformal=True).fit(hourly, test=0, run=run(tmp_path))
    model.seen_ = model.trained_  # look at the validation part itself
    coverage = model.backtest(hourly, windows=500, stride=1).scores["gatewise"]["coverage"]
    assert coverage == pytest.approx(0.8, abs=0.02)


def test_refitting_backtest_sees_only_the_past(hourly, monkeypatch):
    one = hourly.filter(pl.col("place") == "north")
    model = gw.Forecaster(12, "load", "date", **{**QUICK, "steps": 18}).fit(one)
    ends = []
    original = gw.Forecaster._training_data

    def spy(self, panel, split, *rest):
        ends.append(int(split.seen[0]))
        return original(self, panel, split, *rest)

    monkeypatch.setattr(gw.Forecaster, "_training_data", spy)
    backtest = model.backtest(one, windows=4, refit=2)
    assert backtest.origin.tolist() == [1440 - 12 * k for k in (4, 3, 2, 1)]
    assert ends == [1440 - 48, 1440 - 24]


def test_nothing_unseen_is_said(hourly, tmp_path):
    model = quick(steps=18).fit(hourly, test=0, run=run(tmp_path))
    with pytest.raises(DataError, match=r"seen all of this data.*refit=True"):
        model.backtest(hourly)


def cut(hourly, first: int, last: int | None = None):
    """Rows of each series."""
    rows = pl.int_range(pl.len()).over("place")
    return hourly.filter((rows >= first) & (rows < (last or 10**9)))


def test_a_validation_file_is_as_a_part_of_the_data(hourly, tmp_path):
    """The same rows in a file of their own, behind a context: the same windows, so the same model."""
    data, newer, newest = cut(hourly, 0, 1000), cut(hourly, 1000 - 72, 1200), cut(hourly, 1000)
    newer.sort("place", "date", descending=[True, False]).write_csv(tmp_path / "newer.csv")
    part = quick(steps=27).fit(cut(hourly, 0, 1200), validation=200, test=0, run=run(tmp_path))
    options = dict(validation=tmp_path / "newer.csv", test=0)
    model = quick(steps=27).fit(data, run=run(tmp_path), **options)
    assert model.history_.validation == part.history_.validation
    assert (model.trained_, model.seen_, model.validation_) == (part.trained_, part.seen_, 200)
    assert model.backtest(newest).origin.min() >= 200  # no date that validation has seen
    assert model.backtest(hourly, windows=2, refit=2).origin.tolist() == [1416, 1416, 1428, 1428]
    again = gw.load(model.save(tmp_path / "model"))
    assert again.predict(newest).equals(model.predict(newest))
    other = options | {"validation": cut(hourly, 1000 - 72, 1199)}
    with pytest.raises(OptionError, match="the values of the validation file differ"):
        quick(steps=27).fit(data, run=run(tmp_path, resume=True), **other)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda d: d, {}, OptionError, "give test=0, or a file with rows that are newer"),
        (
            lambda d: d.filter(pl.col("place") == "north"),
            {"test": 0},
            DataError,
            "the validation file has no row of 'south'",
        ),
        (
            lambda d: pl.concat([d, d.filter(place="north").with_columns(place=pl.lit("east"))]),
            {"test": 0},
            DataError,
            "that the data has not, of 'east'",
        ),
        (
            lambda d: cut(d, 0, 1000),
            {"test": 0},
            DataError,
            "the validation part has no usable window",
        ),
    ],
    ids=["a share for the test", "a series less", "a series more", "nothing newer"],
)
def test_validation_files_that_do_not_fit(hourly, tmp_path, change, options, error, message):
    data, newer = cut(hourly, 0, 1000), change(cut(hourly, 0, 1200))
    with pytest.raises(error, match=message):
        quick(steps=9).fit(data, validation=newer, **options, run=run(tmp_path))


@pytest.mark.usefixtures("each_round_saved")
def test_resuming_gives_what_an_uninterrupted_run_gives(fitted, hourly, tmp_path, monkeypatch):
    original = Training.training_step

    def killed(self, batch, index):
        if self.current_epoch == 5 and index == 3:
            raise KeyboardInterrupt
        return original(self, batch, index)

    monkeypatch.setattr(Training, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        quick().fit(hourly, run=run(tmp_path))
    monkeypatch.undo()
    resumed = quick().fit(hourly, run=run(tmp_path, resume=True))
    assert resumed.history_.validation == fitted.history_.validation
    assert resumed.predict(hourly).equals(fitted.predict(hourly))


def test_a_loss_that_is_not_a_number_stops_with_step_and_series(hourly, tmp_path, monkeypatch):
    from gatewise.tasks.forecast import forecaster

    original = forecaster.pinball
    calls = []

    def poisoned(*args):
        calls.append(1)
        loss = original(*args)
        return loss * float("nan") if len(calls) == 40 else loss

    monkeypatch.setattr(forecaster, "pinball", poisoned)
    with pytest.raises(
        TrainingError,
        match=r"nan at step \d+, in the window of series '(north|south)' .* at row \d+",
    ):
        quick().fit(hourly, run=run(tmp_path))
    assert (tmp_path / "checkpoints" / "last.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(horizon=0), "horizon must be a positive integer, not 0"),
        (dict(horizon=2.5), "horizon"),
        (dict(quantiles=[0.5, 0.5]), "quantiles must be different"),
        (dict(quantiles=[0, 0.5]), "between 0 and 1"),
        (dict(gaps="fill"), "gaps must be"),
        (dict(context=0), "context"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(OptionError, match=message):
        gw.Forecaster(**{"horizon": 3, "target": "y", **options})


def test_series_that_are_all_too_short_are_told_what_would_do(hourly):
    short = hourly.filter(pl.int_range(pl.len()).over("place") < 90)
    with pytest.raises(
        DataError,
        match=r"longest series has 90 rows, of which 12 for validation and 13 for the test are held out; "
        r"65 are left for training, but 84 are needed .*\. Give 19 more rows, or a context of at most 48$",
    ):
        quick().fit(short)
    quick(context=48, steps=9).fit(short)


def test_an_unfitted_forecaster_says_so(hourly, tmp_path):
    with pytest.raises(gw.GatewiseError, match="call fit first"):
        quick().predict(hourly)
    with pytest.raises(gw.GatewiseError, match="call fit first"):
        quick().save(tmp_path)


def test_checkpoints_keep_every_type(tmp_path):
    whole = {"a": (1, 2.5, None), 3: [torch.arange(4), {"b": torch.tensor(1.5)}], "c": "x"}
    checkpoint.SafeCheckpoints().save_checkpoint(whole, tmp_path / "x.safetensors")
    again = checkpoint.load(tmp_path / "x.safetensors")
    assert again["a"] == whole["a"]
    assert torch.equal(again[3][0], torch.arange(4))
    assert again[3][1]["b"] == 1.5


def test_batches_are_of_the_seed_and_epoch_alone_and_split_by_process(monkeypatch):
    whole = Batches(1000, 64, 5, seed=3)
    first = list(whole)
    assert all((a == b).all() for a, b in zip(first, whole, strict=True))
    whole.epoch = 1
    assert any((a != b).any() for a, b in zip(first, whole, strict=True))
    from gatewise.tasks.forecast import training

    shares = []
    for rank in range(2):
        monkeypatch.setattr(training, "rank_and_count", lambda rank=rank: (rank, 2))
        shares.append(list(Batches(1000, 64, 5, seed=3)))
    for k, batch in enumerate(first):
        assert sorted([*shares[0][k], *shares[1][k]]) == sorted(batch)


def test_validation_looks_at_all_windows_or_at_many_spread_evenly():
    from gatewise.tasks.forecast import training

    assert training.evenly_spread(100).tolist() == list(range(100))
    many = training.evenly_spread(3_000_000)
    assert len(many) == 20_480
    assert (many[0], many[-1]) == (0, 2_999_999)
    assert np.ptp(np.diff(many)) <= 1
    seen = np.concatenate(list(Batches(50_000, 2048, None, 0)))
    assert seen.tolist() == training.evenly_spread(50_000).tolist()


def test_naive_forecasts_by_hand():
    context = np.array([[1.0, 2, 3, 4, np.nan, 6]])
    assert baselines.last_value(context, 2).tolist() == [[6, 6]]
    assert baselines.seasonal(context, 3, 5).tolist() == [[4, 2, 6, 4, 2]]


def test_scores_by_hand():
    actual = np.array([[1.0, 2.0, np.nan], [4.0, 0.0, 2.0]])
    point = np.array([[2.0, 2.0, 9.0], [2.0, 0.0, 3.0]])
    spread = np.stack([point - 1, point + 1], -1)
    row = scores(actual, point, np.array([1.0, 2.0]), np.array([1.0, 4.0]), spread, [0.1, 0.9])
    assert row["mae"] == pytest.approx((1 + 0 + 2 + 0 + 1) / 5)
    assert row["mse"] == pytest.approx(6 / 5)
    assert row["rmse"] == pytest.approx((6 / 5) ** 0.5)
    assert row["scaled_mse"] == pytest.approx((1 + 0 + 1 + 0 + 0.25) / 5)
    assert row["scaled_mae"] == pytest.approx((1 + 0 + 1 + 0 + 0.5) / 5)
    assert row["mase"] == pytest.approx((1 + 0 + 0.5 + 0 + 0.25) / 5)
    assert row["smape"] == pytest.approx(200 * (1 / 3 + 0 + 2 / 6 + 0 + 1 / 5) / 5)
    assert row["coverage"] == pytest.approx(4 / 5)
    # truth less lower and upper quantile, by scale: (0, -2) (1, -1) | (1.5, .5) (.5, -.5) (0, -1)
    expected = (0 + 0.2 + 0.1 + 0.1 + 0.15 + 0.45 + 0.05 + 0.05 + 0 + 0.1) / 10
    assert row["scaled_pinball"] == pytest.approx(expected)
    # without the scale: (0, -2) (1, -1) | (3, 1) (1, -1) (0, -2)
    assert row["pinball"] == pytest.approx((0 + 0.2 + 0.1 + 0.1 + 0.3 + 0.9 + 0.1 + 0.1 + 0.2) / 10)
    assert seasonal_error(np.array([1.0, 5, 2, 9]), 2) == pytest.approx(2.5)
