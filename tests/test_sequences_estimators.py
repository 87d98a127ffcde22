"""Classifier and regressor of sequences: what they compute, learn, refuse, keep and give back."""

from __future__ import annotations

import datetime as dt
import pickle
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from sklearn.exceptions import NotFittedError

import gatewise as gw
from gatewise import Classifier, Regressor
from gatewise.errors import DataError, GatewiseError, OptionError, TrainingError
from gatewise.models.sequence import SequenceNetwork, StepNorm
from gatewise.tasks.load import load
from gatewise.tasks.sequences.recipe import members_for, noise_for, recipe_for, validation_for
from gatewise.train import loop

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = dict(hidden=6, epochs=3, batch=16, members=1)


def waves(count=60, inputs=2, seed=0, ragged=True):
    """Noisy rising or falling lines and their slopes; the label is the slope's sign."""
    rng = np.random.default_rng(seed)
    slope = rng.uniform(-1, 1, count)
    lengths = rng.integers(3, 9, count) if ragged else np.full(count, 7)
    X = [
        5 + 40 * rng.normal(0, 0.1, (n, inputs)) + s * np.arange(n)[:, None] * [10] * inputs
        for n, s in zip(lengths, slope, strict=True)
    ]
    return X if ragged else np.stack(X), np.where(slope > 0, "up", "down"), slope * 100


NORM = ("running_mean", "running_var", "weight", "bias")


def convolved_by_torch(z, weights, filters):
    """What the recurrent layer reads of one sequence, T×I."""
    mean, variance = z.mean(0), z.var(0, correction=0)
    z = torch.cat([z, (z - mean) / (variance + 0.01).sqrt()], 1)
    found = []
    for k, width in enumerate((9, 19, 39)):
        kernel = weights[f"convolutions.of_width.{k}.weight"]
        assert kernel.shape[2] == width
        padded = F.pad(z, (0, 0, width // 2, width // 2)).unfold(0, width, 1)  # T×2I×width
        found.append(torch.einsum("tiw,fiw->tf", padded, kernel))
    norm = {name: weights[f"convolutions.norm.{name}"] for name in NORM}
    found = F.batch_norm(torch.cat(found, 1), *norm.values()).relu()
    assert found.shape == (len(z), filters)
    return torch.cat([found, z], 1)


def by_torch(model, X):
    """The network's outputs by torch's layers, each sequence alone, from X as it was given."""
    members = [member_by_torch(model, k, X) for k in range(model.shape_.members)]
    return torch.stack(members).mean(0)


def member_by_torch(model, k, X):
    """The outputs of one member."""
    shape, weights = model.shape_, model.network_.members[k].state_dict()
    lstm = torch.nn.LSTM(
        2 * shape.inputs + shape.filters if shape.filters else shape.inputs,
        shape.hidden,
        shape.layers,
        batch_first=True,
        bidirectional=shape.bidirectional,
    )
    head = "recurrent."
    lstm.load_state_dict({k[len(head) :]: v for k, v in weights.items() if k.startswith(head)})
    outputs = []
    for x in X:
        x = np.asarray(x).reshape(len(x), -1)
        z = (x - model.input_scale_.location) / model.input_scale_.spread
        if model.missing == "mask":
            z = np.hstack([np.nan_to_num(z), np.isnan(z)])
        z = torch.tensor(z, dtype=torch.float32)
        if shape.filters:
            z = convolved_by_torch(z, weights, shape.filters)
        states, (h, _) = lstm(z[None])
        if shape.pooling == "last":
            pooled = torch.cat([h[-2, 0], h[-1, 0]]) if shape.bidirectional else h[-1, 0]
        elif shape.pooling == "mean":
            pooled = states[0].mean(0)
        elif shape.pooling == "mean_max":
            pooled = torch.cat([states[0].mean(0), states[0].amax(0)])
        else:
            u = F.linear(
                states[0], weights["attention.project.weight"], weights["attention.project.bias"]
            )
            share = (torch.tanh(u) @ weights["attention.score_weight"]).softmax(0)
            pooled = share @ states[0]
        outputs.append(F.linear(pooled, weights["head.weight"], weights["head.bias"]))
    return torch.stack(outputs)


READINGS = [
    dict(),
    dict(filters=0),
    dict(pooling="last", bidirectional=False, filters=5),
    dict(pooling="mean_max", bidirectional=False, missing="mask"),
    dict(pooling="last", bidirectional=False),
    dict(bidirectional=True, layers=2),
    dict(pooling="mean", layers=2, bidirectional=False),
    dict(pooling="mean", bidirectional=True),
    dict(pooling="attention", bidirectional=True),
    dict(missing="mask"),
    dict(members=3),
]


@pytest.mark.parametrize("options", READINGS, ids=str)
@pytest.mark.parametrize("ragged", [True, False])
def test_probabilities_are_those_of_torchs_layers(options, ragged):
    X, y, _ = waves(ragged=ragged)
    if "missing" in options:
        for k, x in enumerate(X):
            x[k % len(x), k % 2] = np.nan
    model = Classifier(**{**QUICK, **options}).fit(X, y)
    expected = by_torch(model, X).softmax(1).detach().numpy()
    assert np.ptp(expected[:, 0]) > 0.02  # they differ from one sequence to another
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-6)
    assert (model.predict(X) == np.array(["down", "up"])[expected.argmax(1)]).all()


@pytest.mark.parametrize("several", [False, True])
def test_numbers_are_in_the_targets_own_units(several):
    X, _, y = waves()
    y = np.stack([y, 7 - 3 * y], 1) if several else y
    model = Regressor(**QUICK).fit(X, y, validation=0.1)
    kept = np.setdiff1d(np.arange(60), model.held_out_)
    assert len(kept) == 54
    expected = by_torch(model, X).detach().numpy() * y[kept].std(0) + y[kept].mean(0)
    expected = expected if several else expected[:, 0]
    found = model.predict(X)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_members_differ_and_each_has_the_loss_of_one_alone(monkeypatch):
    """The loss is the mean over the members, so that each learns as if it were alone."""
    X, labels, _ = waves(24)
    options = dict(hidden=6, epochs=1, batch=99, noise=0, filters=0)
    alone = Classifier(**options, members=1).fit(X, labels)
    model = Classifier(**options, members=2).fit(X, labels)
    first, second = (each.state_dict() for each in model.network_.members)
    assert not any(torch.equal(first[name], second[name]) for name in first)
    # the first member of both models is drawn from the same seed
    for name, weight in alone.network_.members[0].state_dict().items():
        torch.testing.assert_close(first[name], weight, atol=1e-4, rtol=0)


def test_step_norm_is_torchs_over_the_real_steps_alone():
    torch.manual_seed(0)
    x, lengths = torch.randn(3, 5, 4), torch.tensor([5, 2, 3])
    inside = torch.arange(5) < lengths[:, None]
    ours, torchs = StepNorm(4), torch.nn.BatchNorm1d(4)
    found, expected = ours(x, lengths), torchs(x[inside])
    torch.testing.assert_close(found[inside], expected, rtol=0, atol=0)
    assert (found[~inside] == 0).all()
    torch.testing.assert_close(ours(x), torchs(x.reshape(-1, 4)).view_as(x), rtol=0, atol=0)
    assert torch.equal(ours.running_var, torchs.running_var)
    ours.eval()
    torchs.eval()
    torch.testing.assert_close(ours(x, lengths)[0], torchs(x[0]), rtol=0, atol=0)
    one = StepNorm(4)
    assert torch.equal(one(x[:1, :1]), x[:1, :1])  # a single step has no variance
    assert torch.equal(one.running_mean, torch.zeros(4))


def test_they_learn():
    X, labels, slope = waves(200)
    new, new_labels, new_slope = waves(100, seed=1)
    quick = dict(hidden=16, epochs=40, batch=32, learning_rate=0.01, members=1)
    assert Classifier(**quick).fit(X, labels).score(new, new_labels) > 0.9
    assert Regressor(**quick).fit(X, slope).score(new, new_slope) > 0.85


@pytest.mark.parametrize("cell", ["gru", "peephole", "slstm", "lstm_1997_truncated"])
def test_any_cell_reads(cell):
    X, labels, _ = waves(120)
    quick = dict(hidden=16, epochs=40, batch=32, learning_rate=0.01, members=1)
    assert Classifier(cell, **quick).fit(X, labels).score(X, labels) > 0.85


# Training -----------------------------------------------------------------------------------------


def test_the_first_loss_is_the_weighted_one_of_the_untrained_network(monkeypatch):
    """All samples in one batch: their losses by torch, before the first step."""
    X, labels, slope = waves(24)
    weight = np.linspace(0.0, 3.0, 24)  # the first counts nothing
    first = []

    original = loop.train

    def spied(task, training_data, run):
        torch.manual_seed(training_data.recipe.seed)
        first.append(task.build())
        return original(task, training_data, run)

    monkeypatch.setattr(loop, "train", spied)
    options = dict(hidden=6, epochs=2, batch=99, noise=0, seed=4, filters=0, members=1)
    model = Classifier(class_weight={"up": 2.0}, **options)
    model.fit(X, labels, sample_weight=weight, validation=0)
    trained, model.network_ = model.network_, first[0]
    each = F.cross_entropy(
        by_torch(model, X), torch.tensor(labels == "up").long(), reduction="none"
    )
    total = weight * np.where(labels == "up", 2.0, 1.0)
    expected = (each.detach().numpy() * total).sum() / total.sum()
    assert model.history_.train[0] == pytest.approx(expected, rel=1e-5)
    assert not torch.equal(trained.members[0].head.weight, model.network_.members[0].head.weight)
    model = Regressor(**options).fit(X, slope, sample_weight=weight, validation=0)
    model.network_ = first[1]
    mean = np.average(slope, weights=weight)
    spread = np.sqrt(np.average((slope - mean) ** 2, weights=weight))
    gap = (by_torch(model, X).detach().numpy()[:, 0] - (slope - mean) / spread) ** 2
    assert model.history_.train[0] == pytest.approx((gap * weight).sum() / weight.sum(), rel=1e-4)


def test_scales_are_the_weighted_ones_of_the_training_part():
    X, labels, _ = waves(40)
    weight = np.arange(40.0)
    model = Classifier(**QUICK).fit(X, labels, sample_weight=weight, validation=0.1)
    kept = np.setdiff1d(np.arange(1, 40), model.held_out_)
    assert len(kept) == 35
    steps = np.concatenate([X[k] for k in kept])
    counts = np.concatenate([np.full(len(X[k]), weight[k]) for k in kept])
    mean = np.average(steps, axis=0, weights=counts)
    np.testing.assert_allclose(model.input_scale_.location, mean)
    spread = np.sqrt(np.average((steps - mean) ** 2, axis=0, weights=counts))
    np.testing.assert_allclose(model.input_scale_.spread, spread)


def test_what_is_held_out_is_stratified_and_never_a_whole_class():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3, 1))
    y = np.repeat([0, 1, 2], [60, 39, 1])
    model = Classifier(**QUICK).fit(X, y, validation=0.2)
    assert np.bincount(y[model.held_out_]).tolist() == [12, 8]
    y[-10:] = np.arange(10, 20)  # ten classes of one sample
    held = Classifier(**QUICK, seed=1).fit(X, y, validation=0.5).held_out_
    assert set(y) == set(np.delete(y, held))
    assert Classifier(**QUICK).fit(X, y, validation=0).held_out_.tolist() == []


def test_the_weights_kept_are_those_with_the_least_validation_loss():
    X, labels, _ = waves(80, seed=3)
    labels[::4] = "up"  # so that there is nothing more to learn at some point
    model = Classifier(
        hidden=8, epochs=60, batch=16, learning_rate=0.05, patience=4, seed=2, noise=0,
        filters=0, pooling="last", bidirectional=False, members=1,
    )  # fmt: skip
    losses = model.fit(X, labels, validation=0.1).history_.validation
    best = model.history_.best
    assert best == np.argmin(losses)
    assert len(losses) == best + 1 + 4 < 60
    held = model.held_out_
    p = model.predict_proba([X[k] for k in held])[np.arange(len(held)), (labels == "up")[held] * 1]
    assert -np.log(p).mean() == pytest.approx(losses[best], rel=1e-4)


def test_without_a_held_out_part_all_epochs_are_run():
    X, labels, _ = waves(30)
    history = Classifier(**QUICK).fit(X, labels, validation=0).history_
    assert (len(history.train), history.validation, history.best) == (3, [], 2)


@pytest.mark.parametrize("epochs", [1, 2, 3, 9, 10, 11, 20])
def test_few_steps_are_enough(epochs):
    X, labels, _ = waves(30)
    model = Classifier(hidden=4, epochs=epochs, batch=99, members=1).fit(X, labels)
    assert len(model.history_.train) == epochs
    assert epochs == 1 or model.history_.train[-1] < model.history_.train[0]


def test_each_epoch_passes_over_every_sample_once():
    from gatewise.tasks.sequences.training import ShuffledBatches

    passes = ShuffledBatches(np.arange(100, 137), 16, seed=1)
    first = list(passes)
    assert [len(batch) for batch in first] == [13, 12, 12]
    assert sorted(np.concatenate(first)) == list(range(100, 137))
    assert all((a == b).all() for a, b in zip(first, passes, strict=True))
    passes.set_epoch(1)
    assert any((a != b).any() for a, b in zip(first, passes, strict=True))


def test_the_seed_makes_the_model_and_a_refit_starts_afresh():
    X, labels, _ = waves()
    model = Classifier(**QUICK, dropout=0.3, layers=2)
    first = model.fit(X, labels).predict_proba(X)
    before = torch.get_rng_state()
    model.fit(X[:30], labels[:30])
    assert (model.fit(X, labels).predict_proba(X) == first).all()
    assert torch.equal(torch.get_rng_state(), before)
    other = Classifier(**QUICK, dropout=0.3, layers=2, seed=1).fit(X, labels)
    assert not np.allclose(other.predict_proba(X), first)


def test_the_majority_class_is_that_of_the_samples_whatever_the_class_weights():
    X, y = np.random.default_rng(0).normal(size=(30, 5)), np.repeat([1, 0], [20, 10])
    weight = np.where(y == 0, 0.5, 1.0)
    model = Classifier(hidden=2, epochs=1, class_weight="balanced").fit(X, y, weight)
    np.testing.assert_allclose(model.baseline_.prior, [0.2, 0.8])


def test_class_weights_move_the_border():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [180, 20])
    X = rng.normal(size=(200, 4, 1)) + 0.7 * y[:, None, None]
    options = dict(hidden=8, epochs=20, batch=32, members=1)
    shares = {
        str(weight): Classifier(**options, class_weight=weight).fit(X, y).predict(X).mean()
        for weight in (None, "balanced", {0: 1e-3, 1: 1.0})
    }
    assert shares["None"] < 0.1 < shares["balanced"] < shares["{0: 0.001, 1: 1.0}"]


def test_missing_values_can_tell():
    """The label is whether a value is missing, and nothing else."""
    rng = np.random.default_rng(0)
    X = rng.normal(3, 2, (160, 5, 2))
    y = np.arange(160) % 2
    X[y == 1, rng.integers(5, size=80), 1] = np.nan
    model = Classifier(
        hidden=8, epochs=30, batch=32, learning_rate=0.02, missing="mask", members=1
    ).fit(X, y)
    assert model.score(X, y) == 1
    np.testing.assert_allclose(model.input_scale_.location[1], 3, atol=0.4)
    nowhere = np.where([True, False], np.nan, X)  # a feature that is never known
    assert np.isfinite(model.fit(nowhere, y).predict_proba(nowhere)).all()


def test_a_loss_that_is_not_a_number_names_the_sample(monkeypatch):
    X, labels, _ = waves()

    def broken(model, outputs, target):
        return outputs.sum(1) / (target - 1)

    monkeypatch.setattr(Classifier, "element_loss", broken)
    with pytest.raises(
        TrainingError,
        match=r"at step 0, in sample \d+\. The checkpoint of the last round .* Try a lower learning_rate",
    ) as e:
        Classifier(**QUICK).fit(X, labels)
    assert labels[int(re.search(r"sample (\d+)", str(e.value))[1])] == "up"


# Few samples and many ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "epochs", "batch", "validation", "noise"),
    [
        (1, 400, 16, 0, 0.2),
        (40, 134, 16, 0, 0.2),
        (499, 20, 16, 0, 0.2),
        (500, 20, 16, 0.1, 0),
        (20_000, 20, 128, 0.1, 0),
        (10_000_000, 20, 256, 0.1, 0),
    ],
)
def test_the_recipe_follows_from_the_number_of_samples(samples, epochs, batch, validation, noise):
    options = Classifier().checked()
    recipe = recipe_for(options, samples)
    assert (recipe.rounds, recipe.batch) == (epochs, batch)
    assert recipe.steps == epochs * -(-samples // batch)
    assert (validation_for(samples), noise_for(options, samples)) == (validation, noise)
    assert members_for(options, samples) == (3 if samples < 500 else 1)


def test_what_is_given_stands_in_the_recipe():
    options = Regressor(epochs=3, batch=7, noise=0.4, members=2).checked()
    for samples in (40, 20_000):
        recipe = recipe_for(options, samples)
        assert (recipe.rounds, recipe.batch, noise_for(options, samples)) == (3, 7, 0.4)
        assert members_for(options, samples) == 2
    assert recipe_for(Classifier(batch=1000).checked(), 40).rounds == 400


def test_all_of_a_small_set_is_learned_from_and_a_tenth_of_a_large_one_is_held_out():
    X, labels, _ = waves(500)
    quick = dict(hidden=6, epochs=3, batch=99, members=1)
    assert len(Classifier(**quick).fit(X[:499], labels[:499]).held_out_) == 0
    model = Classifier(**quick).fit(X, labels)
    assert len(model.held_out_) == 50
    assert len(model.history_.validation) == 3


def test_noise_is_added_to_values_in_training_alone(monkeypatch):
    X, labels, _ = waves()
    X[0][0, 0] = np.nan
    read = {True: [], False: []}
    forward = SequenceNetwork.forward

    def spied(self, x, lengths=None, trace=False):
        read[self.training].append((x.detach().clone(), lengths))
        return forward(self, x, lengths, trace)

    monkeypatch.setattr(SequenceNetwork, "forward", spied)
    once = dict(hidden=4, epochs=1, batch=99, missing="mask", members=1)
    plain = Classifier(**once, noise=0).fit(X, labels, validation=0.5)
    noisy = Classifier(**once, noise=0.3).fit(X, labels, validation=0.5)
    assert plain.input_scale_.location.tolist() == noisy.input_scale_.location.tolist()
    (exact, lengths), (rough, _) = read[True]
    added = rough - exact
    inside = torch.arange(exact.shape[1]) < lengths[:, None]
    assert (added[~inside] == 0).all()
    assert (added[..., 2:] == 0).all()  # which values are missing
    assert added[inside][:, :2].std() == pytest.approx(0.3, rel=0.15)
    (checked, _), (checked_beside_noise, _) = read[False]
    assert torch.equal(checked, checked_beside_noise)


def saws(count, seed):
    """Noise of 24 steps with a rising or a falling saw of 8 steps at a random place, and which."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(0, 0.3, (count, 24, 1)), np.arange(count) % 2
    for x, label, at in zip(X, y, rng.integers(0, 16, count), strict=True):
        x[at : at + 8, 0] += np.linspace(0, 2, 8)[:: 1 if label else -1]
    return X, y


def test_forty_samples_are_enough_for_the_defaults():
    X, y = saws(40, seed=0)
    new, new_y = saws(200, seed=1)
    assert Classifier().fit(X, y).score(new, new_y) > 0.95


# What X may be ------------------------------------------------------------------------------------


def test_every_form_of_the_same_sequences_is_read_alike():
    X, labels, _ = waves(ragged=False)
    # without filters, whose normalisation makes more of the rounding to float32
    model = Classifier(**QUICK, filters=0).fit(X, labels)
    expected = model.predict_proba(X)
    objects = np.empty(60, object)
    objects[:] = list(X)
    for form in (X.tolist(), list(X), objects, torch.tensor(X), [torch.tensor(x) for x in X],
                 np.asfortranarray(X), X.astype(np.float32)):  # fmt: skip
        found = Classifier(**QUICK, filters=0).fit(form, labels).predict_proba(form)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert model.n_features_in_ == 2
        assert model.steps_ is None
    shorter = model.predict_proba(X[:, :4])  # T is free
    np.testing.assert_allclose(shorter, by_torch(model, X[:, :4]).softmax(1).detach(), atol=1e-6)


def test_a_sequence_gives_the_same_alone_and_among_others():
    X, labels, _ = waves()
    model = Classifier(**QUICK, bidirectional=True).fit(X, labels)
    alone = np.concatenate([model.predict_proba([x]) for x in X])
    np.testing.assert_allclose(model.predict_proba(X), alone, rtol=1e-12)
    assert sorted({len(x) for x in X}) == [3, 4, 5, 6, 7, 8]


def test_a_table_has_a_column_for_each_step():
    X, labels, _ = waves(inputs=1, ragged=False)
    table = pd.DataFrame(X[..., 0], columns=[f"t{k}" for k in range(7)])
    model = Classifier(**QUICK).fit(table, labels)
    assert (model.n_features_in_, model.steps_) == (7, 7)
    assert model.feature_names_in_.tolist() == list(table.columns)
    expected = Classifier(**QUICK).fit(X, labels).predict_proba(X)
    np.testing.assert_allclose(model.predict_proba(table), expected)
    np.testing.assert_allclose(model.predict_proba(X), expected)
    with pytest.raises(DataError, match="X has 6 features, but Classifier is expecting 7"):
        Classifier(**QUICK).fit(X[..., 0], labels).predict(X[:, :6, 0])
    with pytest.raises(DataError, match="feature names"):
        model.predict(table.rename(columns={"t0": "x"}))
    model.fit(X, labels)
    assert (model.n_features_in_, model.steps_) == (1, None)
    assert not hasattr(model, "feature_names_in_")
    assert model.predict(X[:, :6, 0]).shape == (60,)


def spoilt(value, sample=3, step=1, feature=1):
    X, _, _ = waves()
    X[sample][step, feature] = value
    return X


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (spoilt(np.nan), "X holds NaN at sample 3, step 1, feature 1: fill missing values, or give "
            "missing='mask'"),
        (spoilt(-np.inf, 59, 2, 0), "X holds -inf (inf) at sample 59, step 2, feature 0"),
        (spoilt(1e200), "column 1 holds numbers whose squares"),
        ([*waves()[0][:59], np.ones((2, 3))], "sample 59 of X has the shape (2, 3); expected T×2 "
            "with at least one step"),
        ([*waves()[0][:59], np.ones((0, 2))], "sample 59 of X has the shape (0, 2)"),
        ([*waves()[0][:59], np.ones((2, 2, 2))], "sample 59 of X has the shape (2, 2, 2)"),
        ([*waves()[0][:59], np.full((2, 2), "a")], "sample 59 of X has the dtype <U1, expected numbers: "
            "give float arrays"),
        ([*waves()[0][:59], [[1], [1, 2]]], "sample 59 of X is not an array T×I"),
        (np.ones((60, 0, 2)), "at least one step"),
        (np.ones((60, 2, 2, 2)), "X has the shape (60, 2, 2, 2); expected N×T×I"),
        (np.ones(60), "Expected 2D array, got 1D array"),
        (np.ones((50, 3, 2)), "X has 50 samples and y has 60"),
        ([], "Expected 2D array"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used_is_named(X, message):
    with pytest.raises(DataError, match=re.escape(message)):
        Classifier(**QUICK).fit(X, waves()[1])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed"),
        (["a"] * 60, "y has only the class 'a' in its 60 samples"),
        (np.linspace(0, 1, 60), "Unknown label type: continuous"),
    ],
)
def test_labels_that_cannot_be_used_are_named(y, message):
    with pytest.raises(DataError, match=re.escape(message).replace("'a'", r".*'a'.*")):
        Classifier(**QUICK).fit(waves()[0], y)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (
            np.ones((60, 1)),
            "sample_weight has the shape (60, 1); expected 60 finite non-negative numbers, one for "
            "each sample",
        ),
        (
            np.where(np.arange(60) < 3, 1.0, -2.0),
            "sample_weight is -2 for sample 3; expected 60 finite non-negative numbers",
        ),
        (np.full(60, np.nan), "sample_weight is nan for sample 0; expected 60 finite"),
        (np.zeros(60), "sample_weight is zero for every sample"),
    ],
)
def test_weights_that_cannot_be_used_are_named(weight, message):
    for kind, y in ((Classifier, waves()[1]), (Regressor, waves()[2])):
        with pytest.raises(DataError, match=re.escape(message)):
            kind(**QUICK).fit(waves()[0], y, sample_weight=weight)


def test_targets_that_cannot_be_used_are_named():
    X, _, y = waves()
    with pytest.raises(DataError, match="y contains NaN"):
        Regressor(**QUICK).fit(X, np.where(np.arange(60) == 5, np.nan, y))
    with pytest.raises(DataError, match="X has 60 samples and y has 59"):
        Regressor(**QUICK).fit(X, y[1:])
    with pytest.raises(DataError, match=r"n_samples = 1 .*leaves no sample for training"):
        Regressor(**QUICK).fit(X[:1], y[:1], validation=0.1)


def test_another_width_is_refused():
    X, labels, _ = waves()
    model = Classifier(**QUICK).fit(X, labels)
    for other in ([x[:, :1] for x in X], np.ones((3, 4, 1)), np.ones((3, 4))):
        with pytest.raises(DataError, match="X has 1 features, but Classifier is expecting 2"):
            model.predict(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(cell="lstmm"), "no cell 'lstmm' (did you mean 'lstm'?)"),
        (dict(cell=3), "cell must be a cell"),
        (dict(hidden=0), "hidden must be a positive integer, not 0"),
        (dict(layers=1.5), "layers must be an integer from 1 to 1000, not 1.5"),
        (dict(epochs=True), "epochs must be a positive integer, not True"),
        (dict(patience="x"), "patience must be a positive integer, not 'x'"),
        (dict(batch=0), "batch must be a positive integer, not 0"),
        (dict(filters=-1), "filters must be a non-negative integer, not -1"),
        (dict(noise=-0.1), "noise must be a number from 0 on, not -0.1"),
        (dict(seed=-1), "seed must be "),
        (dict(dropout=1.1), "dropout must be a probability from 0 to 1, not 1.1"),
        (dict(learning_rate=0), "learning_rate must be a number above 0, not 0"),
        (dict(bidirectional="no"), "bidirectional must be True or False, not 'no'"),
        (dict(missing="drop"), "missing must be one of 'error', 'mask', not 'drop'"),
        (
            dict(pooling="max"),
            "pooling must be one of 'mean_max', 'mean', 'last', 'attention', not 'max'",
        ),
        (dict(class_weight="even"), "class_weight='even'"),
    ],
)
def test_bad_options_are_named_by_fit(options, message):
    X, labels, _ = waves()
    with pytest.raises(OptionError, match=re.escape(message)):
        Classifier(**options).fit(X, labels)


# What is kept -------------------------------------------------------------------------------------


@gw.cell(gates="f n")
def leaky(a, s):
    """A user's own."""
    f = gw.sigmoid(a.f)
    return dict(f=f, h=f * s.h + (1 - f) * gw.tanh(a.n))


KEPT = [
    (Classifier, dict(), lambda s: np.where(s > 0, "up", "down")),
    (Classifier, dict(cell=leaky, class_weight={1: 2.0, 0: 1.0}), lambda s: (s > 0) * 1),
    (Classifier, dict(hidden=np.int64(5), missing="mask"), lambda s: s > 0),
    (Classifier, dict(class_weight="balanced"), lambda s: np.round(s / 60)),
    (Regressor, dict(pooling="attention", filters=0), lambda s: s),
    (Regressor, dict(layers=2, dropout=np.float64(0.1)), lambda s: np.stack([s, -s], 1)),
]


@pytest.mark.parametrize(("kind", "options", "target"), KEPT)
def test_saved_and_loaded_it_predicts_the_same(kind, options, target, tmp_path):
    X, _, slope = waves(inputs=1)
    model = kind(**{**QUICK, **options}).fit(X, target(slope))
    folder = model.save(tmp_path / "model")
    assert len(list(folder.iterdir())) == 2
    loaded = load(folder)
    assert type(loaded) is kind
    assert loaded.get_params() == model.get_params()
    found, expected = loaded.predict(X), model.predict(X)
    assert found.dtype == expected.dtype
    assert (found == expected).all()
    assert vars(loaded).keys() == vars(model).keys()
    assert (loaded.held_out_ == model.held_out_).all()
    assert loaded.history_ == model.history_
    (copy,) = pickle.loads(pickle.dumps([model]))
    assert (copy.predict(X) == expected).all()


def test_a_tables_names_are_saved(tmp_path):
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 3)), columns=["a", "b", "c"])
    model = Regressor(**QUICK).fit(table, np.arange(20.0))
    loaded = load(model.save(tmp_path))
    assert loaded.feature_names_in_.tolist() == ["a", "b", "c"]
    assert (loaded.predict(table) == model.predict(table)).all()
    with pytest.raises(DataError, match="feature names"):
        loaded.predict(table[["a", "c", "b"]])


def test_dates_as_labels_are_saved(tmp_path):
    X, _, slope = waves()
    days = np.where(slope > 0, np.datetime64("2024-01-01"), np.datetime64("2025-01-01"))
    model = Classifier(**QUICK).fit(X, days)
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.classes_.dtype == model.classes_.dtype == days.dtype
    assert (again.predict(X) == model.predict(X)).all()


def test_the_trace_has_every_gate_of_every_step():
    X, labels, _ = waves()
    model = Classifier(**QUICK, filters=0).fit(X, labels)
    trace = model.trace(X[:5])
    assert trace.f[0][0].shape == (5, max(map(len, X[:5])), 6)
    assert trace.lengths.tolist() == [len(x) for x in X[:5]]
    weights = {k: v.numpy() for k, v in model.network_.members[0].recurrent.state_dict().items()}
    z = (X[2][0] - model.input_scale_.location) / model.input_scale_.spread
    a = weights["weight_ih_l0"] @ z + weights["bias_ih_l0"] + weights["bias_hh_l0"]
    np.testing.assert_allclose(trace.i[0][0][2, 0], 1 / (1 + np.exp(-a[:6])), rtol=1e-4)
    again = gw.trace(model, X[:5])["members.0.recurrent"]
    assert all(torch.equal(again[name][0][0], trace[name][0][0]) for name in trace)


def test_before_fit_it_says_so(tmp_path):
    model = Classifier()
    for call in (model.predict, model.predict_proba, model.trace, model.save):
        with pytest.raises(NotFittedError, match="call fit first") as caught:
            call(tmp_path)
        assert isinstance(caught.value, GatewiseError)


def test_the_command_line_reads_tables_alone(tmp_path, capsys):
    from gatewise.cli import main

    X = np.random.default_rng(0).normal(size=(20, 4, 2))
    Classifier(hidden=4, epochs=1).fit(X, np.arange(20) % 2).save(tmp_path / "model")
    (tmp_path / "data.csv").write_text("date,x\n2024-01-01,1\n")
    code = main(["evaluate", str(tmp_path / "model"), str(tmp_path / "data.csv")])
    assert code == 2
    assert (
        f"{str(tmp_path / 'data.csv')!r} is a file, but this Classifier takes arrays: to fit it to a "
        "table, give series= (--series)" in capsys.readouterr().err
    )


# ------------------------------------------------------------------------------ frames in a list

FRAMES = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
}


def framed(X, names, order, kind="pandas"):
    """Each sequence as a frame with its columns in an order."""
    return [FRAMES[kind](pd.DataFrame(x, columns=names)[order]) for x in X]


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_are_matched_by_their_columns(kind, tmp_path):
    X, labels, _ = waves()
    X = [np.c_[x, x[:, :1] ** 2] for x in X]
    names = ["speed", "height", "depth"][: X[0].shape[1]]
    straight, turned = framed(X, names, names, kind), framed(X, names, names[::-1], kind)
    mixed = [turned[k] if k % 2 else straight[k] for k in range(len(X))]
    wanted = Classifier(**QUICK).fit(X, labels)
    for data in (straight, mixed):
        model = Classifier(**QUICK).fit(data, labels)
        assert model.feature_names_in_.tolist() == names
        for later in (straight, turned, mixed):
            assert (model.predict_proba(later) == wanted.predict_proba(X)).all()
    assert (model.trace(turned).h[0][0] == wanted.trace(X).h[0][0]).all()
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.feature_names_in_.tolist() == names
    assert (again.predict_proba(turned) == wanted.predict_proba(X)).all()


def test_frames_with_other_columns_are_refused_and_unnamed_ones_said():
    X, labels, _ = waves()
    names = ["speed", "height", "depth"][: X[0].shape[1]]
    data = framed(X, names, names)
    model = Classifier(**QUICK).fit(data, labels)
    other = [frame.rename(columns={names[0]: "v"}) for frame in data]
    with pytest.raises(
        DataError,
        match=f"sample 0 of X lacks the column '{names[0]}' and has an unexpected column 'v'",
    ):
        model.predict(other)
    with pytest.raises(DataError, match="sample 1 of X has an unexpected column 'more'"):
        model.predict([data[0], data[1].assign(more=1.0)])
    with pytest.raises(
        DataError,
        match="sample 1 of X is ndarray, but sample 0 is a data frame: give only data frames, or "
        "only arrays",
    ):
        model.predict([data[0], X[1]])
    with pytest.raises(DataError, match=r"sample 1 of X: column '.*', row 1: 'x' is not a number"):
        model.predict([data[0], data[1].astype(object).replace(data[1].iloc[0, 0], "x")])
    with pytest.warns(UserWarning, match="X does not have valid feature names, but Classifier was"):
        model.predict(X)
    with pytest.warns(UserWarning, match="X has feature names, but Classifier was fitted without"):
        Classifier(**QUICK).fit(X, labels).predict(data)
    nullable = [frame.astype("Float64") for frame in data]
    assert (model.predict_proba(nullable) == model.predict_proba(data)).all()


def test_a_series_of_arrays_is_a_list_of_them():
    X, labels, _ = waves()
    model = Classifier(**QUICK).fit(pd.Series(X), labels)
    assert (model.predict_proba(pd.Series(X)) == model.predict_proba(X)).all()
    with pytest.raises(DataError, match="X holds values that are not numbers"):
        Classifier(**QUICK).fit(pd.DataFrame({"walk": X}), labels)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ([b"a", b"b"], "y holds bytes, such as b'a' for sample 0"),
        (
            np.array([b"a", b"b"]),
            "y holds bytes; labels must be texts or numbers: decode the bytes",
        ),
        ([None, "b"], "y has no label for sample 0: None"),
        (["a", np.nan], "y has no label for sample 1: nan"),
        (pd.Series(["a", None], dtype="string"), "y has no label for sample 1"),
        (pd.Series([True, None], dtype="boolean"), "y has no label for sample 1"),
        (["a", 1], "y mixes texts and numbers, such as 'a' and 1"),
        ([dt.date(2024, 1, 1), dt.date(2024, 1, 2)], "y holds date, such as datetime.date"),
        (
            np.array([1, 2], "m8[D]"),
            r"y has the dtype timedelta64\[D\]; labels must be texts, numbers, bools or dates",
        ),
    ],
)
def test_labels_that_cannot_be(pair, message):
    X = np.zeros((8, 3, 1))
    labels = (
        pd.concat([pair] * 4)
        if isinstance(pair, pd.Series)
        else np.tile(pair, 4)
        if isinstance(pair, np.ndarray)
        else pair * 4
    )
    with pytest.raises(DataError, match=message):
        Classifier(**QUICK).fit(X, labels)


def test_values_beyond_single_precision_are_refused():
    X, labels, _ = waves()
    model = Classifier(**QUICK).fit(X, labels)
    with pytest.raises(DataError, match=r"feature 0 holds .*e\+\d+, too large relative to its"):
        model.predict([x * 1e300 for x in X])


def test_normalisation_over_processes_is_torchs():
    """In one process, whose sums are those of all; a run of two is tests/test_series_tables.py's."""
    torch.manual_seed(0)
    found, expected = StepNorm(5), torch.nn.BatchNorm1d(5)
    for rows in (40, 2, 17):
        x = torch.randn(rows, 5, requires_grad=True) * 3 + 2
        ours, theirs = found._in_all_processes(x), expected(x)
        torch.testing.assert_close(ours, theirs)
        seed = torch.randn(rows, 5)
        for a, b in zip(
            torch.autograd.grad(ours, (x, found.weight), seed, retain_graph=True),
            torch.autograd.grad(theirs, (x, expected.weight), seed),
            strict=True,
        ):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, msg=name)
    one = torch.ones(1, 5)
    assert torch.equal(found._in_all_processes(one), one)
