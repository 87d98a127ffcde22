"""The sequence estimators on real data, each beside a plain model; docs/scikit-learn.md has the table."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_digits
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gatewise import Classifier, Regressor

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def folder(name):
    """Where the data set is; it is not distributed with the project."""
    place = Path(os.environ.get("GATEWISE_DATA", "~/.cache/gatewise/data")).expanduser() / name
    if not place.is_dir():
        pytest.skip(f"no {name} here: set GATEWISE_DATA to the folder that has it")
    return place


# the recurrent layer alone, as the printed scores had it
ALONE = dict(
    pooling="last", filters=0, members=1, bidirectional=False, noise=0, batch=32, learning_rate=4e-3
)


def plain(model):
    return make_pipeline(SimpleImputer(), StandardScaler(), model)


def test_digits_read_row_by_row(capsys):
    """Eight rows of eight pixels, five folds, accuracy; logistic regression sees all 64 at once."""
    digits = load_digits()
    options = ALONE | dict(bidirectional=True, dropout=0.3, learning_rate=0.01, epochs=30)
    ours = cross_val_score(Classifier(**options), digits.images, digits.target)
    theirs = cross_val_score(plain(LogisticRegression(max_iter=1000)), digits.data, digits.target)
    with capsys.disabled():
        print(f"\ndigits {ours.mean():.3f} {theirs.mean():.3f}")
    assert ours.mean() > theirs.mean() + 0.01


def actions(place):
    """567 sequences of 20 joints, T×60, about their first frame's middle; action and subject."""
    X, y, subject = [], [], []
    for file in sorted(place.glob("*_skeleton.txt")):
        joints = np.loadtxt(file)[:, :3].reshape(-1, 20, 3) / [1, 1, 4]
        X.append((joints - joints[:1].mean(1, keepdims=True)).reshape(-1, 60))
        action, person = re.match(r"a(\d+)_s(\d+)", file.name).groups()
        y.append(int(action))
        subject.append(int(person))
    return X, np.array(y), np.array(subject)


def test_actions_of_people_never_seen(capsys):
    """MSR Action3D, subjects 1, 3, 5, 7, 9 to learn from, 20 actions, accuracy; logistic regression
    sees each coordinate's mean and deviation."""
    X, y, subject = actions(folder("msraction3d"))
    assert (len(X), (subject % 2).sum()) == (567, 292)
    learned, new = np.flatnonzero(subject % 2 == 1), np.flatnonzero(subject % 2 == 0)
    part, rest = [X[k] for k in learned], [X[k] for k in new]
    options = ALONE | dict(bidirectional=True, dropout=0.3, pooling="attention", epochs=100)
    scores = [
        Classifier(**options, seed=seed).fit(part, y[learned], validation=0.1).score(rest, y[new])
        for seed in range(3)
    ]
    features = np.array([np.concatenate([x.mean(0), x.std(0)]) for x in X])
    other = plain(LogisticRegression(max_iter=3000)).fit(features[learned], y[learned])
    theirs = other.score(features[new], y[new])
    with capsys.disabled():
        print("\nactions", *(f"{score:.3f}" for score in scores), f"{theirs:.3f}")
    assert np.mean(scores) > theirs - 0.02
    assert np.mean(scores) > 0.65


def stays(place):
    """3,996 stays × 48 hours × 37 variables, NaN where nothing was measured, and who died."""
    files = {int(file.stem): file for file in (place / "set-a").glob("*.txt")}
    types = {"Value": pl.Float64}
    table = pl.concat(
        pl.read_csv(file, schema_overrides=types).with_columns(stay=pl.lit(k))
        for k, file in files.items()
    )
    still = ("RecordID", "Age", "Gender", "Height", "ICUType")
    table = table.filter(
        pl.col("Parameter").is_not_null()
        & ~pl.col("Parameter").is_in(still)
        & (pl.col("Value") >= 0)
    ).with_columns(hour=pl.col("Time").str.slice(0, 2).cast(pl.Int64).clip(0, 47))
    hourly = table.group_by("stay", "hour", "Parameter").agg(pl.col("Value").mean())
    names, numbers = sorted(hourly["Parameter"].unique()), np.array(sorted(files))
    X = np.full((len(numbers), 48, len(names)), np.nan)
    at = np.searchsorted(numbers, hourly["stay"]), hourly["hour"].to_numpy()
    X[(*at, np.searchsorted(names, hourly["Parameter"].to_numpy().astype(str)))] = hourly["Value"]
    outcomes = pl.read_csv(place / "Outcomes-a.txt")
    died = dict(zip(outcomes["RecordID"], outcomes["In-hospital_death"], strict=True))
    return X, np.array([died[k] for k in numbers]), names


def summary(X):
    """Each variable's mean and share of hours without a value."""
    gone = np.isnan(X)
    counts = (~gone).sum(1)
    mean = np.where(counts, np.nansum(X, 1) / np.maximum(counts, 1), np.nan)
    return np.concatenate([mean, gone.mean(1)], 1)


def test_stays_in_intensive_care(capsys):
    """PhysioNet 2012, set a, five folds. Death in hospital, area under the ROC curve; and the mean heart
    rate of the second day from the first, R². Plain models see means and shares missing."""
    X, died, names = stays(folder("physionet2012"))
    assert (X.shape, died.sum()) == ((3996, 48, 37), 554)
    shared = ALONE | dict(missing="mask", hidden=32, batch=64)
    net = Classifier("gru", **shared | dict(pooling="mean", dropout=0.5, epochs=12))
    ours = cross_val_score(net, X, died, scoring="roc_auc").mean()
    logistic = plain(LogisticRegression(max_iter=2000, C=0.01))
    theirs = cross_val_score(logistic, summary(X), died, scoring="roc_auc").mean()
    rate = X[:, 24:, names.index("HR")]
    known = ~np.isnan(rate).all(1)
    first, mean = X[known, :24], np.nanmean(rate[known], 1)
    net = Regressor(**shared | dict(dropout=0.3, epochs=15))
    r2 = cross_val_score(net, first, mean).mean()
    ridge = cross_val_score(plain(RidgeCV(np.logspace(-1, 4, 8))), summary(first), mean).mean()
    with capsys.disabled():
        print(f"\nstays {ours:.3f} {theirs:.3f}, heart rate {r2:.3f} {ridge:.3f}")
    assert ours > max(0.79, theirs - 0.01)  # Che et al. 2016, table 2: LSTM .8025, GRU .8195
    assert r2 > ridge + 0.03
