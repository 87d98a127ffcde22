"""Classifier and regressor of series in a long table: reading, splitting, scores, files and the command line."""

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
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_absolute_error, roc_auc_score

import gatewise as gw
from gatewise.cli import main
from gatewise.data.sequences import Sequences
from gatewise.data.sources.series import SeriesTable, digests
from gatewise.errors import DataError, OptionError
from gatewise.tasks.sequences import baselines, scoring
from gatewise.train.run import Run
from gatewise.train.training import Training

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = dict(hidden=6, epochs=4, batch=16, learning_rate=0.02, members=1)
ROLES = dict(series="id", time="t")


def table(count: int = 40, seed: int = 0, shuffled: bool = True) -> pd.DataFrame:
    """Rising and falling series of 4 to 9 steps, their rows in any order."""
    rng = np.random.default_rng(seed)
    parts = []
    for k in range(count):
        steps, slope = rng.integers(4, 10), rng.uniform(-1, 1)
        t = np.arange(steps)
        parts.append(
            pd.DataFrame(
                dict(
                    id=f"s{k}",
                    t=t,
                    a=5 + slope * t + rng.normal(0, 0.1, steps),
                    b=rng.normal(0, 1, steps),
                    word="x",
                    way="up" if slope > 0 else "down",
                    slope=slope,
                )
            )
        )
    whole = pd.concat(parts, ignore_index=True)
    return whole.sample(frac=1, random_state=1).reset_index(drop=True) if shuffled else whole


def classifier(**options) -> gw.Classifier:
    return gw.Classifier(**{**ROLES, "label": "way", "channels": ["a", "b"], **QUICK, **options})


def regressor(**options) -> gw.Regressor:
    return gw.Regressor(**{**ROLES, "target": "slope", "channels": ["a", "b"], **QUICK, **options})


QUIET = Run(quiet=True)


@pytest.fixture(scope="module")
def fitted() -> gw.Classifier:
    return classifier(epochs=30).fit(table(), run=QUIET)


# ---------------------------------------------------------------------------------------- reading


def by_hand(data: pd.DataFrame) -> tuple[list[str], list[np.ndarray], list[str]]:
    names = list(dict.fromkeys(data["id"]))
    parts = [data[data["id"] == name].sort_values("t") for name in names]
    return names, [part[["a", "b"]].to_numpy() for part in parts], [p["way"].iloc[0] for p in parts]


@pytest.mark.parametrize("kind", ["pandas", "polars", "csv", "parquet"])
def test_rows_of_a_series_are_sorted_by_time(kind, tmp_path):
    data = table(9)
    if kind == "csv":
        data.to_csv(given := tmp_path / "a.csv", index=False)
    elif kind == "parquet":
        data.to_parquet(given := tmp_path / "a.parquet")
    else:
        given = pl.from_pandas(data) if kind == "polars" else data
    found = SeriesTable("id", "t", "way", (), ("a", "b")).read(given)
    names, values, labels = by_hand(data)
    assert found.labels.tolist() == names
    assert found.known_target.tolist() == labels
    for k, expected in enumerate(values):
        np.testing.assert_array_equal(found.sequences.values[found.sequences.rows(k)], expected)


def test_channels_are_the_numeric_columns_without_another_role():
    source = SeriesTable("id", "t", "way")
    assert source.read(table(5)).channels == ("a", "b", "slope")
    assert SeriesTable("id", "t", None, ("slope",)).read(table(5)).channels == ("a", "b")
    assert SeriesTable("id", None, "way").read(table(5, shuffled=False)).channels[0] == "t"


def test_a_table_gives_what_arrays_give():
    data = table(40)
    _, X, y = by_hand(data)
    ours = classifier().fit(data, test=0, run=QUIET)
    theirs = gw.Classifier(**QUICK).fit(X, y)
    assert ours.held_out_.tolist() == theirs.held_out_.tolist()
    found = ours.predict(data)
    assert found.columns.tolist() == ["id", "prediction", "probability_down", "probability_up"]
    np.testing.assert_array_equal(
        found[["probability_down", "probability_up"]], theirs.predict_proba(X)
    )
    assert (found["prediction"] == theirs.predict(X)).all()
    assert regressor().fit(data, run=QUIET).predict(data).columns.tolist() == ["id", "prediction"]
    several = regressor(target=["slope", "b"], channels="a")
    with pytest.raises(DataError, match="column 'b' differs within series"):
        several.fit(data, run=QUIET)


def spoilt(**changes) -> pd.DataFrame:
    """The table with the value of one row changed: column to (row, value)."""
    data = table(12, shuffled=False).astype(object)
    for column, (row, value) in changes.items():
        data.loc[row, column] = value
    return data


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            spoilt(way=(1, "flat")),
            {},
            r"'way' differs within series 's0': .* in row 1 and 'flat' in row 2",
        ),
        (spoilt(way=(1, None)), {}, "column 'way', row 2: the value is missing"),
        (spoilt(a=(1, "x")), {}, "column 'a', row 2: 'x' is not a number"),
        (
            spoilt(a=(1, None)),
            {},
            "column 'a', series 's0', step 2, row 2: the value is missing. Fill missing values",
        ),
        (spoilt(t=(1, 0)), {}, "column 't', series 's0': row 1 and row 2 have the same time"),
        (spoilt(t=(1, "noon")), {}, "column 't', row 1: '0' is not a time"),
        (spoilt(id=(1, None)), {}, "column 'id', row 2: the value is missing"),
        (table(12), dict(label="ways"), "no column 'ways' .did you mean 'way'.."),
        (table(12), dict(channels=["a", "c"]), "no column 'c'"),
        (table(12), dict(series="time"), "no column 'time'"),
        (table(12).assign(way="up"), {}, "column 'way' has only the class 'up' in 10 series"),
        (
            table(12).assign(way=0.5),
            {},
            "column 'way' holds .*; labels must be texts, integers or categories; for numbers use fit regress",
        ),
        (
            table(12)[["id", "t", "way", "word"]],
            dict(channels=None),
            "has no numeric column beside",
        ),
        ("nothing.csv", {}, "no file nothing.csv"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_tables_that_cannot_be_used(data, options, message):
    with pytest.raises(DataError, match=message):
        classifier(**options).fit(data, run=QUIET)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        (dict(label=None), {}, "name it with label="),
        (dict(series=None), {}, "is an option for tables, but without series="),
        (dict(label="t"), {}, "'t' is given as time and as label"),
        (dict(channels=["a", "way"]), {}, "'way' is given as label and as channels"),
        ({}, dict(y=[1]), "leave y"),
        (
            {},
            dict(test="nothing.csv"),
            "test must be a share below 1, a number, or a file that exists",
        ),
        ({}, dict(validation=1.0), "validation must be"),
        ({}, dict(validation=-1), "validation must be"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used(options, given, message):
    with pytest.raises(OptionError, match=message):
        classifier(**options).fit(table(12), run=QUIET, **given)
    with pytest.raises(OptionError, match="name them with target="):
        regressor(target=None).fit(table(12), run=QUIET)


def test_missing_values_are_masked_where_it_is_asked_for():
    data = table(40)
    data.loc[::7, "a"] = None
    model = classifier(missing="mask").fit(data, run=QUIET)
    assert model.shape_.inputs == 4
    assert np.isfinite(model.predict(data)[["probability_up"]]).all().all()


# ------------------------------------------------------------------------------- parts of the data


def test_a_model_of_tables_is_scored_by_evaluate(fitted):
    with pytest.raises(OptionError, match=r"evaluate\(table\) gives its scores"):
        fitted.score(table(), table()["way"])


def test_a_class_of_one_series_is_not_in_the_test_part():
    data = table()
    names = list(dict.fromkeys(data["id"]))[:12]
    data.loc[data["id"].isin(names), "way"] = "only " + data["id"].astype(str)
    for seed in (0, 1, 2):
        model = classifier(epochs=1, seed=seed).fit(data, run=QUIET)
        assert set(model.classes_) == set(data["way"])


def test_the_test_part_does_not_reach_the_model(fitted):
    data = table()
    left = ~np.isin(
        digests(SeriesTable("id", "t", "way", (), ("a", "b")).read(data).sequences), fitted.seen_
    )
    assert left.sum() == 6  # 0.15 of 40
    names = list(dict.fromkeys(data["id"]))
    held = [name for name, out in zip(names, left, strict=True) if out]
    other = data.copy()
    other.loc[other["id"].isin(held), "a"] = 1e6
    again = classifier(epochs=30).fit(other, run=QUIET)
    left, right = fitted.network_.state_dict(), again.network_.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_evaluate_scores_the_series_that_were_held_out(fitted):
    data = table()
    found = fitted.evaluate(data)
    assert found.n == 6
    assert "left out of the scores: 34 sequences" in found.notes[0]
    assert found.notes[1] == "the scores rest on 6 sequences only"
    predictions = fitted.predict(data).set_index("id")
    read = SeriesTable("id", "t", "way", (), ("a", "b")).read(data)
    names = read.labels[~np.isin(digests(read.sequences), fitted.seen_)]
    truth = data.drop_duplicates("id").set_index("id").loc[names, "way"]
    ours = predictions.loc[names]
    assert found.scores["accuracy"] == accuracy_score(truth, ours["prediction"])
    assert found.scores["f1_macro"] == f1_score(truth, ours["prediction"], average="macro")
    assert found.scores["auroc"] == roc_auc_score(truth == "up", ours["probability_up"])
    p = ours[["probability_down", "probability_up"]].to_numpy()
    assert found.scores["nll"] == pytest.approx(log_loss(truth, p, labels=["down", "up"]))
    assert set(found.baseline) == {"majority class", "linear model"}
    with pytest.raises(DataError, match="was trained on all of these"):
        fitted.evaluate(data[~data["id"].isin(names)])


def test_parts_by_number_and_by_file(tmp_path):
    data = table()
    table(10, seed=5).to_csv(tmp_path / "more.csv", index=False)
    model = classifier().fit(data, validation=5, test=7, run=QUIET)
    assert (len(model.held_out_), model.evaluate(data).n) == (5, 7)
    model = classifier().fit(data, validation=tmp_path / "more.csv", test=0, run=QUIET)
    assert model.held_out_.tolist() == list(range(40, 50))
    scale = np.concatenate(by_hand(data)[1])
    np.testing.assert_allclose(model.input_scale_.location, scale.mean(0))
    with pytest.raises(DataError, match="test=39 of 40 series leaves 1"):
        classifier().fit(data, test=39, run=QUIET)
    with pytest.raises(OptionError, match="test= is for tables"):
        gw.Classifier().fit(np.zeros((4, 3, 1)), [0, 1, 0, 1], test=1)


def test_a_class_that_was_never_learned_is_named(fitted):
    strange = table(4, seed=9).assign(way="flat")
    with pytest.raises(DataError, match=r"series 's\d' has the class 'flat'.*'down', 'up'"):
        fitted.evaluate(strange)


# ---------------------------------------------------------------------------------- scores by hand


def test_scores_of_classes_by_hand():
    truth = np.array([0, 0, 1, 2])
    p = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    found = scoring.of_classes(truth, p)
    assert found["accuracy"] == 0.75
    assert found["f1_macro"] == pytest.approx(f1_score(truth, p.argmax(1), average="macro"))
    assert found["nll"] == pytest.approx(-np.log([0.8, 0.3, 0.8, 0.6]).mean())
    assert found["auroc"] == pytest.approx(
        np.mean([roc_auc_score(truth == k, p[:, k]) for k in range(3)])
    )
    # confidences .8 .8 (both right) and .6 .6 (one right), in two bins
    assert found["ece"] == pytest.approx((abs(2 - 1.6) + abs(1 - 1.2)) / 4)
    assert np.isnan(scoring.of_classes(np.array([0, 0]), p[:2, :2])["auroc"])


def test_scores_of_numbers_by_hand():
    found = scoring.of_numbers(np.array([[1.0], [3.0], [5.0]]), np.array([[1.0], [2.0], [7.0]]))
    assert found == pytest.approx(
        {"mae": 1.0, "mse": 5 / 3, "rmse": (5 / 3) ** 0.5, "r2": 1 - 5 / 8}
    )
    assert found["mae"] == mean_absolute_error([1, 3, 5], [1, 2, 7])
    assert np.isnan(scoring.of_numbers(np.ones((1, 1)), np.ones((1, 1)))["r2"])


def test_the_linear_model_is_scikit_learns_on_plain_features():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, 2)) for n in rng.integers(3, 9, 60)]
    sequences = Sequences.listed(parts)
    plain = baselines.features(sequences)
    by_hand = [
        np.r_[x.mean(0), x.std(0), x.min(0), x.max(0), x[0], x[-1], np.log(len(x))] for x in parts
    ]
    np.testing.assert_allclose(plain, by_hand)
    y = (plain[:, 0] + 0.1 * rng.normal(size=60) > 0).astype(int)
    model = baselines.logistic(plain, y, np.ones(60), 2)
    scaled = (plain - plain.mean(0)) / plain.std(0)
    theirs = LogisticRegression(max_iter=300).fit(scaled, y).predict_proba(scaled)
    np.testing.assert_allclose(scoring.softmax(model.outputs(plain)), theirs, atol=1e-6)
    np.testing.assert_allclose(model.prior, np.bincount(y) / 60)
    numbers = plain[:, :1] * 3 + plain[:, -1:]
    fit = baselines.ridge(plain, numbers, np.ones(60))
    assert np.abs(fit.outputs(plain) - numbers).max() < 0.5
    np.testing.assert_allclose(fit.prior, numbers.mean(0))


def test_what_is_missing_takes_no_part_in_plain_features():
    x = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]])
    found = baselines.features(Sequences.listed([x]))[0]
    assert found[[0, 2, 4, 6, 8, 10]].tolist() == [2, 1, 1, 3, 1, 3]
    assert np.isnan(found[1:12:2]).all()


# -------------------------------------------------------------------------- files and resumed runs


def test_it_is_saved_and_loaded(fitted, tmp_path):
    again = gw.load(fitted.save(tmp_path / "model"))
    data = table()
    pd.testing.assert_frame_equal(again.predict(data), fitted.predict(data))
    assert again.evaluate(data).record() == fitted.evaluate(data).record()
    assert again.get_params() == {**fitted.get_params(), "channels": ("a", "b")}
    model = regressor().fit(data, run=QUIET)
    again = gw.load(model.save(tmp_path / "numbers"))
    assert again.evaluate(data).record() == model.evaluate(data).record()
    with pytest.raises(DataError, match="no column 'b'"):
        again.predict(data.drop(columns="b"))


def test_a_resumed_run_is_an_uninterrupted_one(tmp_path, monkeypatch):
    whole = classifier().fit(table(), run=QUIET)
    original = Training.training_step

    def step(self, batch, index):
        if (self.current_epoch, index) == (2, 1):
            raise KeyboardInterrupt
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            classifier().fit(table(), run=Run(tmp_path, quiet=True))
    resumed = classifier().fit(table(), run=Run(tmp_path, quiet=True, resume=True))
    assert resumed.history_.train == whole.history_.train
    left, right = resumed.network_.state_dict(), whole.network_.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    again = Run(tmp_path, quiet=True, resume=True)
    with pytest.raises(OptionError, match="pooling was 'mean_max' and is 'mean'"):
        classifier(pooling="mean").fit(table(), run=again)
    with pytest.raises(OptionError, match="the values of a differ"):
        classifier().fit(table().assign(a=lambda d: d["a"] + 1), run=again)
    swapped = table().assign(way=lambda d: d["way"].map({"up": "down", "down": "up"}))
    with pytest.raises(OptionError, match=r"test was None and is 0|values of what is learned"):
        classifier().fit(swapped, test=0, run=again)


# --------------------------------------------------------------------------------- the command line


@pytest.fixture
def csv(tmp_path) -> Path:
    table().to_csv(tmp_path / "data.csv", index=False)
    return tmp_path / "data.csv"


LINE = ["--series", "id", "--time", "t", "--channels", "a", "--channels", "b", "--hidden", "6"]
LINE += ["--epochs", "3", "--quiet"]


@pytest.mark.parametrize(
    ("task", "learned", "columns", "scores"),
    [
        (
            *("classify", ["--label", "way"], "id,prediction,probability_down,probability_up"),
            {"accuracy", "f1_macro", "auroc", "ece", "nll"},
        ),
        ("regress", ["--target", "slope"], "id,prediction", {"mae", "mse", "rmse", "r2"}),
    ],
    ids=["classify", "regress"],
)
def test_fit_resume_evaluate_and_predict(csv, tmp_path, capsys, task, learned, columns, scores):
    out = tmp_path / "run"
    assert main(["fit", task, str(csv), *LINE, *learned, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "Test part, 6 sequences" in said.out
    assert "The scores rest on 6 sequences only" in said.out
    assert "\nchannels  a, b\n" in said.out
    assert "The model " in said.out
    assert main(["fit", task, str(csv), *LINE, *learned, "--out", str(out), "--resume"]) == 0
    assert "is finished" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "linear model" in page
    assert "Gates over series" in page
    assert "://" not in page
    assert main(["evaluate", str(out), str(csv), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.out.count("\n") == 1
    assert (found["task"], found["n"], set(found["scores"])) == (task, 6, scores)
    assert all(set(row) == scores for row in found["baseline"].values())
    assert "Left out of the scores: 34 sequences" in said.err
    assert main(["predict", str(out), str(csv), "-o", str(tmp_path / "p.csv")]) == 0
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert (lines[0], len(lines)) == (columns, 41)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            ["evaluate", "{run}", "{csv}", "--windows", "3"],
            "--windows, which is an option of forecast",
        ),
        (
            ["predict", "{run}", "{csv}", "-o", "p.csv", "--future", "{csv}"],
            "--future, which is an option of forecast",
        ),
        (
            ["predict", "{run}", "{csv}", "-o", "p.csv", "--device", "warp"],
            "device must be a device of this",
        ),
        (["evaluate", "{run}", "{csv}", "--device", "cuda:99"], "not 'cuda:99'"),
        (["evaluate", "{run}", "{csv}", "--jsn"], "did you mean '--json'"),
        (
            ["fit", "classify", "{csv}", "--out", "x"],
            "the following arguments are required: --label, --series (or --text COLUMN for text) (",
        ),
        (["fit", "classify", "{csv}", "--out", "x", "--horizon", "3"], "is an option of forecast"),
        (["fit", "clasify", "{csv}"], "clasify"),
        (["predict", "{run}", "{csv}", "-o", "{csv}"], "--out is the same file as the data"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_the_command_line_refuses_by_name(fitted, csv, tmp_path, capsys, line, message):
    fitted.save(tmp_path / "run")
    places = {"run": tmp_path / "run", "csv": csv}
    assert main([part.format_map(places) for part in line]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "option", "column"), [("classify", "label", "way"), ("regress", "target", "slope")]
)
def test_two_processes_learn_what_one_does(task, option, column, tmp_path):
    """The command line under DDP over gloo. Batches of odd size are shared unequally."""
    data = tmp_path / "data.csv"
    table(47).to_csv(data, index=False)
    line = [
        sys.executable,
        "-m",
        "gatewise",
        "fit",
        task,
        str(data),
        "--series",
        "id",
        "--time",
        "t",
    ]
    line += [f"--{option}", column, "--channels", "a", "--channels", "b", "--validation", "0.2"]
    line += ["--hidden", "6", "--epochs", "3", "--batch", "11", "--dropout", "0", "--noise", "0"]
    learned, weights = [], []
    for devices in ("1", "2"):
        out = tmp_path / devices
        done = subprocess.run(
            [*line, "--devices", devices, "--accelerator", "cpu", "--out", str(out), "--quiet"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "Test part, 7 sequences" in done.stdout
        model = gw.load(out)
        learned.append([*model.history_.validation, *model.history_.train])
        weights.append(model.network_.state_dict())
        scores = model.evaluate_held_out(data, None).scores
        assert np.isfinite(list(scores.values())).all()
    np.testing.assert_allclose(learned[0], learned[1], rtol=1e-4)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-4)
