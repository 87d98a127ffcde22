"""scikit-learn's conventions: its own checks, pipelines, cross-validation and searches."""

from __future__ import annotations

import io
import re

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator

import gatewise as gw
import pages
from gatewise import Classifier, Regressor
from gatewise.errors import OptionError

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = dict(hidden=8, epochs=4, batch=16, members=1)

# What the checks of scikit-learn cannot have of a network, and why.
EQUIVALENCE = {
    "check_sample_weight_equivalence_on_dense_data": "which samples are held out and which stand in "
    "one batch depends on how many there are, so a weight of 2 is not the sample twice"
}


def checked(estimator, expected):
    """The checks' results: names of those passed, failed as expected, and skipped."""
    results = check_estimator(
        estimator, expected_failed_checks=expected, on_skip=None, on_fail="raise"
    )
    return {
        status: {each["check_name"] for each in results if each["status"] == status}
        for status in ("passed", "xfail", "skipped")
    }


@pytest.mark.filterwarnings("ignore")  # what the checks provoke, among it sklearn's own
@pytest.mark.parametrize(
    ("kind", "options", "failing"),
    [
        (
            Classifier,
            dict(hidden=8, epochs=5, learning_rate=0.1, members=1, filters=0),
            EQUIVALENCE,
        ),
        pytest.param(
            *(Regressor, dict(hidden=8, epochs=10, members=1), EQUIVALENCE), marks=pytest.mark.slow
        ),
        pytest.param(Classifier, {}, EQUIVALENCE, marks=pytest.mark.slow),
        pytest.param(Regressor, {}, EQUIVALENCE, marks=pytest.mark.slow),
    ],
)
def test_scikit_learns_checks_pass_but_one(kind, options, failing):
    result = checked(kind(**options), failing)
    assert len(result["passed"]) > 45
    assert result["xfail"] == set(failing)
    assert result["skipped"] <= {"check_array_api_input"}


@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_where_all_samples_are_one_batch_a_weight_is_so_many_samples(kind):
    X, y, _ = sequences()
    y = y if kind is Classifier else X[:, 0, 0]
    weight = np.arange(60) % 3
    options = dict(
        hidden=8, epochs=30, batch=1000, learning_rate=0.01, noise=0, members=1, filters=0
    )
    weighted = kind(**options).fit(X, y, sample_weight=weight, validation=0)
    repeated = kind(**options).fit(np.repeat(X, weight, 0), np.repeat(y, weight), validation=0)
    plain = kind(**options).fit(X, y, validation=0)

    def given(model):
        return model.predict_proba(X) if kind is Classifier else model.predict(X)

    np.testing.assert_allclose(given(weighted), given(repeated), rtol=1e-3, atol=1e-4)
    assert abs(given(weighted) - given(plain)).max() > 0.02


def sequences(count=60, seed=0):
    """Three noisy features over six steps; the label is the sign of the first one's sum."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(count, 6, 3)) + rng.normal(size=(count, 1, 3))
    return X, np.where(X[..., 0].sum(1) > 0, "high", "low"), X[..., 0].sum(1)


OTHER = dict(
    cell="gru", hidden=3, layers=2, bidirectional=True, dropout=0.5, pooling="mean", missing="mask",
    epochs=7, batch=5, learning_rate=0.1, patience=2, seed=9, series="id", time="t", channels=("a", "b"),
    filters=4, noise=0.1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Classifier, OTHER | {"class_weight": {"high": 2.0}}),
        (Regressor, OTHER),
        (Regressor, dict(cell=gw.CELLS["lem"])),
    ],
)
def test_arguments_are_kept_as_given(kind, options):
    model = kind(**options)
    assert {k: v for k, v in model.get_params().items() if k in options} == options
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert kind().set_params(**options).get_params() == model.get_params()


def test_bad_arguments_wait_for_fit():
    X, y, _ = sequences()
    model = Classifier().set_params(hidden=-1)
    with pytest.raises(OptionError, match="hidden"):
        model.fit(X, y)


def test_tags_say_what_is_taken():
    tags = get_tags(Regressor(missing="mask"))
    assert tags.input_tags.three_d_array
    assert tags.input_tags.allow_nan
    assert tags.target_tags.multi_output
    assert not get_tags(Classifier()).input_tags.allow_nan
    assert get_tags(Classifier()).estimator_type == "classifier"


def doubled(X):
    return np.concatenate([X, X**2], -1)


def test_in_a_pipeline():
    X, y, _ = sequences()
    pipeline = make_pipeline(FunctionTransformer(doubled), Classifier(**QUICK))
    pipeline.fit(X, y, classifier__sample_weight=np.arange(60.0))
    alone = Classifier(**QUICK).fit(doubled(X), y, sample_weight=np.arange(60.0))
    assert (pipeline.predict_proba(X) == alone.predict_proba(doubled(X))).all()
    assert pipeline[-1].n_features_in_ == 6


def test_a_scaler_of_a_feature_makes_no_difference():
    X, _, y = sequences()
    scaled = make_pipeline(
        FunctionTransformer(lambda X: X * [1, 1e3, 1e-3] + 7), Regressor(**QUICK)
    )
    np.testing.assert_allclose(
        scaled.fit(X, y).predict(X),
        Regressor(**QUICK).fit(X, y).predict(X),
        rtol=1e-3,
        atol=1e-3,
    )


def ragged(X):
    return [x[: 3 + k % 4] for k, x in enumerate(X)]


@pytest.mark.parametrize("form", [np.asarray, torch.tensor, ragged])
def test_cross_validation_is_fits_on_parts(form):
    X, y, _ = sequences()
    X = form(X)
    folds = [(np.arange(20, 60), np.arange(20)), (np.arange(40), np.arange(40, 60))]
    scores = cross_val_score(Classifier(**QUICK), X, y, cv=folds, scoring="roc_auc")
    for score, (train, test) in zip(scores, folds, strict=True):
        part, rest = ([X[k] for k in chosen] for chosen in (train, test))
        model = Classifier(**QUICK).fit(part, y[train])
        assert score == pytest.approx(roc_auc_score(y[test], model.predict_proba(rest)[:, 1]))


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_grid_search_finds_the_learning_rate_that_learns(jobs):
    X, _, y = sequences(90)
    pipeline = Pipeline([("same", FunctionTransformer()), ("net", Regressor(**QUICK))])
    grid = {"net__learning_rate": [1e-6, 0.03], "net__hidden": np.array([4, 8])}
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=jobs, error_score="raise").fit(X, y)
    assert search.best_params_["net__learning_rate"] == 0.03
    assert search.best_score_ > 0.3
    low = search.cv_results_["mean_test_score"][
        search.cv_results_["param_net__learning_rate"] == 1e-6
    ]
    assert (low < 0.1).all()
    again = clone(pipeline).set_params(**search.best_params_).fit(X, y)
    np.testing.assert_allclose(search.predict(X), again.predict(X), rtol=1e-5, atol=1e-5)


def test_joblib_keeps_a_fitted_model():
    X, y, _ = sequences()
    model = Classifier(**QUICK).fit(X, y)
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    buffer.seek(0)
    assert (joblib.load(buffer).predict_proba(X) == model.predict_proba(X)).all()


def test_out_of_fold_probabilities_go_into_another_model():
    X, y, _ = sequences()
    p = cross_val_predict(Classifier(**QUICK), X, y, cv=3, method="predict_proba")
    np.testing.assert_allclose(p.sum(1), 1)
    assert LogisticRegression().fit(p, y).classes_.tolist() == ["high", "low"]


def test_the_pages_code_runs(tmp_path, monkeypatch):
    assert len(pages.blocks("scikit-learn.md")) == 5
    monkeypatch.chdir(tmp_path)
    names = pages.run("scikit-learn.md")
    assert (tmp_path / "runs/walks/model.json").exists()
    assert names["scores"].mean() > 0.6


# The forecaster -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        dict(target="load", past="wind", quantiles=[0.9, 0.1]),
        dict(target=["load", "wind"], known=("holiday",), static=["kind"], steps=9),
    ],
)
def test_the_forecaster_keeps_its_arguments_as_given(options):
    model = gw.Forecaster(12, time="date", **options)
    for name, value in options.items():
        assert model.get_params()[name] is value
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert copy.set_params(horizon=3).horizon == 3


def test_a_forecasters_argument_set_later_is_checked_by_fit(hourly):
    model = gw.Forecaster(12, "load", "date", series="place").set_params(quantiles=(0.5, 2))
    with pytest.raises(
        OptionError,
        match=r"quantiles must be different numbers between 0 and 1, .* not \(0\.5, 2\)",
    ):
        model.fit(hourly)


def test_an_unfitted_forecaster_is_so_to_scikit_learn_too(hourly):
    with pytest.raises(NotFittedError, match="call fit first"):
        gw.Forecaster(12, "load", "date", series="place").predict(hourly)


def test_what_the_forecaster_learns_ends_in_an_underscore(hourly):
    model = gw.Forecaster(
        12,
        "load",
        "date",
        series="place",
        past="wind",
        quantiles=(0.9, 0.1),
        steps=9,
        hidden=4,
        context=48,
    )
    given = set(vars(model))
    model.fit(hourly)
    assert given == set(model.get_params())
    assert all(re.fullmatch(r"[a-z]\w*_", name) for name in set(vars(model)) - given)
    assert (model.target_, model.past_, model.quantiles_) == (("load",), ("wind",), (0.1, 0.9))
    table = model.predict(hourly)
    assert table.columns[-2:] == ["q0.1", "q0.9"]
    assert (table["q0.1"] <= table["q0.9"]).all()
