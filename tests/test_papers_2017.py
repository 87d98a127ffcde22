"""Greff et al. 2017: the chorales, nine cells by hand, a training's mechanics, and the ranking."""

import json
import math
import os
import re
import tarfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from gatewise.errors import DataError, OptionError
from papers.greff_2017 import experiment
from papers.greff_2017.chorales import FILE, Chorales, batches, padded, read
from papers.greff_2017.experiment import (
    IGNORANCE,
    PROTOCOLS,
    VARIANTS,
    Found,
    Predictor,
    Protocol,
    Run,
    compare,
    nll,
    protocol,
    ranking,
    train,
    welch,
)

pytestmark = pytest.mark.usefixtures("one_thread")

each_variant = pytest.mark.parametrize("name", VARIANTS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(lengths, seed=0):
    """Chorales that are no music: chords of random keys, some of them silent."""
    generator = seeded(seed)
    return [(torch.rand(n, 88, generator=generator) < 0.04).float() for n in lengths]


def data_path():
    """The chorales beside the project, or None: they are not distributed with it."""
    places = [Path(__file__).parents[2] / "shared/data/jsb_chorales.tar.xz"]
    if folder := os.environ.get("GATEWISE_DATA"):
        places.insert(0, Path(folder) / "jsb_chorales" / FILE)
    return next((place for place in places if place.is_file()), None)


needs_data = pytest.mark.skipif(
    data_path() is None, reason="the JSB chorales are not here: set GATEWISE_DATA to their folder"
)


# The model by hand --------------------------------------------------------------------------------


def loss_by_hand(name, weights, roll):
    """The sum over a chorale's steps of -log p(next step), from the paper's equations with one switch
    for each variant; ``weights`` as the layer has them, gates in the order i, f, g, o."""
    gates = {"nig": "fgo", "nfg": "igo", "nog": "ifg", "cifg": "fgo"}.get(name, "ifgo")
    w, u, b = (np.split(weights[key], len(gates)) for key in ("weight_ih", "weight_hh", "bias_ih"))
    W, U, B = (dict(zip(gates, parts, strict=True)) for parts in (w, u, b))
    H = len(B["g"])
    y, c, before = np.zeros(H), np.zeros(H), np.zeros(3 * H)

    def logistic(z):
        return 1 / (1 + np.exp(-z))

    total = 0.0
    for x, following in pairwise(roll):

        def net(gate, seen, x=x, y=y, before=before):
            value = W[gate] @ x + U[gate][:, :H] @ y + B[gate]
            if gate != "g" and name != "np":
                value = value + weights["p" + gate] * seen
            if gate != "g" and name == "fgr":
                value = value + U[gate][:, H:] @ before
            return value

        f = 1.0 if name == "nfg" else logistic(net("f", c))
        i = 1.0 if name == "nig" else 1 - f if name == "cifg" else logistic(net("i", c))
        z = net("g", None)
        new = i * (z if name == "niaf" else np.tanh(z)) + f * c
        o = 1.0 if name == "nog" else logistic(net("o", new))
        y = o * (new if name == "noaf" else np.tanh(new))
        c = new
        if name == "fgr":
            before = np.concatenate([i, f, o])
        p = logistic(weights["output"] @ y + weights["output_bias"])
        total -= (following * np.log(p) + (1 - following) * np.log(1 - p)).sum()
    return total


def arrays(model):
    """The model's weights by their short names."""
    found = {key: p.detach().numpy().copy() for key, p in model.named_parameters()}
    short = {"output.weight": "output", "output.bias": "output_bias"}
    return {
        short.get(key, key.removeprefix("layer.").removesuffix("_l0")): v
        for key, v in found.items()
    }


def large(name, units, seed=1):
    """A model in float64 whose gates are far from linear."""
    model = Predictor(name, units, seeded(seed), torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return model


@each_variant
@pytest.mark.parametrize(("steps", "units"), [(2, 1), (14, 5)])
def test_the_loss_and_its_gradient_are_those_of_the_equations(name, steps, units):
    """One chorale; the gradient along random directions beside the difference of the loss by hand."""
    model = large(name, units)
    roll = drawn([steps])[0].double()
    loss = model.loss(roll[:-1, None], roll[1:, None], torch.tensor([steps - 1]))
    weights = arrays(model)
    np.testing.assert_allclose(loss.item(), loss_by_hand(name, weights, roll.numpy()), rtol=1e-10)
    loss.backward()
    rng = np.random.default_rng(2)
    keys = [key for key, p in model.named_parameters() if p.requires_grad]
    learned = [p for p in model.parameters() if p.requires_grad]
    assert len(keys) == len(weights) - 1  # not the layer's second bias
    short = dict(zip((key for key, _ in model.named_parameters()), weights, strict=True))
    for key, parameter in zip(keys, learned, strict=True):
        way, step = rng.normal(size=parameter.shape), 1e-6
        ends = []
        for sign in (1, -1):
            moved = weights | {short[key]: weights[short[key]] + sign * step * way}
            ends.append(loss_by_hand(name, moved, roll.numpy()))
        expected = (ends[0] - ends[1]) / (2 * step)
        found = (parameter.grad.numpy() * way).sum()
        np.testing.assert_allclose(
            found, expected, rtol=1e-5, atol=1e-6 * abs(loss.item()), err_msg=key
        )


@pytest.mark.short
@each_variant
def test_chorales_side_by_side_are_each_alone(name):
    """Padding counts nowhere: the sum of the losses, and nats a step over all steps."""
    model, rolls = large(name, 3).float(), drawn([5, 2, 17, 9])
    alone = [model.loss(*padded([roll])).item() for roll in rolls]
    together = model.loss(*padded(rolls)).item()
    np.testing.assert_allclose(together, sum(alone), rtol=1e-5)
    np.testing.assert_allclose(nll(model, rolls), sum(alone) / (4 + 1 + 16 + 8), rtol=1e-5)
    model.loss(*padded(rolls)).backward()
    whole = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    for roll in rolls:
        model.loss(*padded([roll])).backward()
    each = [p.grad for p in model.parameters() if p.requires_grad]
    torch.testing.assert_close(whole, each, rtol=1e-4, atol=1e-4)


@pytest.mark.short
@pytest.mark.parametrize("units", [1, 7])
def test_weights_are_counted_as_in_the_paper(units):
    H = units
    outputs, gate = 88 * H + 88, 88 * H + H * H + H  # one bias a gate
    expected = {
        "peephole": 4 * gate + 3 * H,
        "nig": 3 * gate + 2 * H,
        "nfg": 3 * gate + 2 * H,
        "nog": 3 * gate + 2 * H,
        "niaf": 4 * gate + 3 * H,
        "noaf": 4 * gate + 3 * H,
        "cifg": 3 * gate + 2 * H,
        "np": 4 * gate,
        "fgr": 4 * gate + 3 * H + 9 * H * H,
    }
    for name, count in expected.items():
        model = Predictor(name, H, seeded())
        assert model.weights == count + outputs, name
        assert not model.layer.bias_hh_l0.any()
        if name != "fgr":  # whose restricted connections are stored with zeros
            learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert learned == model.weights


# Data ---------------------------------------------------------------------------------------------

SMALL = {
    "train": [[[60, 64], [], [21, 108]], [[50], [51]]],
    "valid": [[[60], [61]]],
    "test": [[[62], [63], [64]]],
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "jsb_chorales" / FILE
    path.parent.mkdir()
    path.write_text(json.dumps(SMALL))
    return path


def test_the_file_its_folders_and_its_archive_are_read_alike(file, tmp_path):
    archive = tmp_path / "chorales.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(file, f"somewhere/{FILE}")
    for path in (file, file.parent, tmp_path, archive):
        data = read(path)
        assert [len(data.train), len(data.valid), len(data.test)] == [2, 1, 1]
        first = data.train[0]
        assert first.shape == (3, 88)
        assert first.nonzero().tolist() == [[0, 39], [0, 43], [2, 0], [2, 87]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": [], "test": []}, "has ['train', 'test'], expected the splits train, valid, test"),
        ([], "has list, expected the splits"),
        (SMALL | {"test": [[[60], [61]], [[60], [20, 61]]]}, "chorale test 1 has the note 20 at step 1, "
            "expected 21 to 108"),
        (SMALL | {"valid": [[[60]]]}, "chorale valid 0 has 1 steps, expected at least 2"),
    ],
)  # fmt: skip
def test_what_is_no_data_is_refused(tmp_path, content, message):
    path = tmp_path / FILE
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=re.escape(message)):
        read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=f"no {FILE} at .*give the file, or a folder or archive"):
        read(tmp_path / "none")
    archive = tmp_path / "other.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(__file__, "other.py")
    with pytest.raises(DataError, match=f"other.tar has no {FILE}"):
        read(archive)


def test_batches_shift_by_one_step_and_follow_the_order():
    rolls = drawn([4, 2, 6])
    (x, following, lengths), (last, _, _) = batches(rolls, 2, [2, 0, 1])
    assert lengths.tolist() == [5, 3]
    assert torch.equal(x[:, 0], rolls[2][:-1])
    assert torch.equal(following[:3, 1], rolls[0][1:])
    assert not x[3:, 1].any()
    assert not following[3:, 1].any()
    assert torch.equal(last[:, 0], rolls[1][:-1])


# Training -----------------------------------------------------------------------------------------


def small(seed=3):
    return Chorales(drawn([9, 5, 7], seed), drawn([6], seed + 1), drawn([8], seed + 2))


def plain_descent(parameters, rate):
    return torch.optim.SGD(parameters, rate)


@pytest.mark.short
def test_a_training_is_its_steps():
    """Plain descent by torch, written out once more: the same losses after each epoch."""
    data, how = small(), Protocol(plain_descent, (0.01,), 2, None, 3, 3)
    run = train("np", 4, data, how, 0.01, 5, 3)
    generator = seeded(5)
    model = Predictor("np", 4, generator)
    valid = []
    for _ in range(3):
        order = torch.randperm(3, generator=generator).tolist()
        for part in (order[:2], order[2:]):
            x, following, lengths = padded([data.train[k] for k in part])
            loss = model.loss(x, following, lengths) / len(part)
            learned = [p for p in model.parameters() if p.requires_grad]
            for p, g in zip(learned, torch.autograd.grad(loss, learned), strict=True):
                p.data -= 0.01 * g
        valid.append(nll(model, data.valid))
    assert run.best == 3
    assert run.epochs == 3
    np.testing.assert_allclose(run.valid, valid[-1], rtol=1e-5)
    assert valid[0] > valid[1] > valid[2]
    np.testing.assert_allclose(run.test, nll(model, data.test), rtol=1e-5)


@pytest.mark.parametrize(("clip", "low", "high"), [(0.25, 0.2499, 0.2501), (None, 1, 1e3)])
def test_the_gradient_is_clipped(monkeypatch, clip, low, high):
    """One step of rate 1 from the first weights: as long as the bound where there is one."""
    data, seen = Chorales(drawn([9]), drawn([6], 1), drawn([8], 2)), []
    monkeypatch.setattr(experiment, "nll", lambda model, rolls: seen.append(model) or 8.0)
    train("peephole", 4, data, Protocol(plain_descent, (1.0,), 1, clip, 1, 1), 1.0, 6, 1)
    before, after = Predictor("peephole", 4, seeded(6)), seen[0]
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    moved = math.sqrt(sum(float(((p - q).detach() ** 2).sum()) for p, q in pairs))
    assert low < moved < high


def test_a_run_ends_when_validation_gets_no_better(monkeypatch):
    losses = iter([9.0, 1.5, 8.0, 2.5, 8.5, 8.0, 8.1])  # validation, and test where it is best
    monkeypatch.setattr(experiment, "nll", lambda model, rolls: next(losses))
    how = Protocol(plain_descent, (0.01,), 3, None, 9, 9, patience=3)
    run = train("np", 2, small(), how, 0.01, 0, 9)
    assert (run.valid, run.test, run.best, run.epochs) == (8.0, 2.5, 2, 5)


IMPATIENT = replace(PROTOCOLS["adam"], patience=4)


@pytest.mark.parametrize(("loss", "epochs"), [(math.nan, 1), (math.inf, 1), (IGNORANCE + 1, 4)])
def test_a_run_that_knows_less_than_nothing_found_nothing(monkeypatch, loss, epochs):
    monkeypatch.setattr(experiment, "nll", lambda model, rolls: loss)
    run = train("np", 2, small(), IMPATIENT, 0.01, 0, 9)
    assert run.epochs == epochs
    assert run.valid == run.test == math.inf


def test_a_run_may_come_back(monkeypatch):
    losses = iter([100.0, 9.0, 1.5, math.nan])
    monkeypatch.setattr(experiment, "nll", lambda model, rolls: next(losses))
    run = train("np", 2, small(), IMPATIENT, 0.01, 0, 9)
    assert (run.valid, run.test, run.best, run.epochs) == (9.0, 1.5, 2, 3)


def test_ignorance_is_half_and_half():
    model = Predictor("np", 2, seeded())
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    np.testing.assert_allclose(nll(model, drawn([5, 3])), IGNORANCE, rtol=1e-6)


def test_the_rate_is_the_best_of_validation_and_each_seed_is_run(monkeypatch):
    asked = []

    def trained(cell, units, data, how, rate, seed, epochs):
        asked.append((cell.name, rate, seed, epochs))
        return Run(rate, seed, abs(rate - 0.2), 8.0 + seed, 1, epochs, 0.0)

    monkeypatch.setattr(experiment, "train", trained)
    how, said = Protocol(plain_descent, (0.1, 0.3, 0.21), 1, None, 2, 7), []
    found = compare("cifg", 4, small(), how, 2, said.append)
    assert asked == [("cifg", r, 0, 2) for r in how.rates] + [("cifg", 0.21, s, 7) for s in (0, 1)]
    assert [run.test for run in found.runs] == [8.0, 9.0]
    assert len(said) == 5


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [(2.228, 10, 0.05), (12.706, 1, 0.05), (4.604, 4, 0.01), (1.812, 10, 0.10), (0.0, 6, 1.0)],
)
def test_welch_gives_students_table(t, freedom, p):
    """Two samples of equal deviation and size: ν is 2(n-1), or of one that does not vary: n-1."""
    if freedom % 2 == 0:
        n = freedom // 2 + 1
        one = np.arange(n, dtype=float)
        apart = t * np.sqrt(2 * one.var(ddof=1) / n)
        assert welch(one, one + apart) == pytest.approx(p, rel=2e-3)
    else:
        one = np.arange(freedom + 1.0)
        apart = t * np.sqrt(one.var(ddof=1) / len(one))
        assert welch(one - one.mean() + apart, [0.0, 0.0]) == pytest.approx(p, rel=2e-3)


def test_welch_where_nothing_can_be_said():
    assert welch([1.0], [2.0, 3.0]) is None
    assert welch([1.0, math.inf], [2.0, 3.0]) is None
    assert welch([1.0, 1.0], [1.0, 1.0]) == 1
    assert welch([1.0, 1.0], [2.0, 2.0]) == 0


def test_the_ranking_is_best_first():
    def found(*tests):
        runs = tuple(Run(0.1, s, t, t, 1, 1, 0.0) for s, t in enumerate(tests))
        return Found(7, (), runs)

    rows = ranking(
        {"peephole": found(8.5, 8.7), "noaf": found(9.0, math.inf), "np": found(8.4, 8.5)}
    )
    assert [row["variant"] for row in rows] == ["np", "peephole", "noaf"]
    assert rows[0]["mean"] == pytest.approx(8.45)
    assert rows[0]["more"] == pytest.approx(-0.15)
    assert rows[0]["spread"] == pytest.approx(np.sqrt(0.005))
    assert rows[0]["p"] == pytest.approx(welch([8.4, 8.5], [8.5, 8.7]))
    assert rows[2]["spread"] is None
    assert "p" not in ranking({"np": found(1.0)})[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: protocol("papers"), "no protocol 'papers' (did you mean 'paper'?)"),
        (lambda: compare("lstm", 2, small(), PROTOCOLS["adam"], 1, print), "no variant 'lstm'"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make()


# The chorales themselves --------------------------------------------------------------------------


@needs_data
def test_the_splits_are_the_published_ones():
    data = read(data_path())
    splits = (data.train, data.valid, data.test)
    assert [len(s) for s in splits] == [229, 76, 77]
    assert [sum(map(len, s)) for s in splits] == [13807, 4602, 4725]
    assert all(set(roll.unique().tolist()) == {0.0, 1.0} for s in splits for roll in s)
    assert max(int(roll.sum(1).max()) for s in splits for roll in s) == 4  # voices


@needs_data
def test_forgetting_and_the_output_activation_matter_most():
    """The paper's finding in small, by its protocol: without the forget gate or the output activation
    it gets worse; without peepholes or with coupled gates it is not significantly better."""
    data = read(data_path())
    how = replace(PROTOCOLS["paper"], rates=(1e-5, 1e-3), trying=3, epochs=8)
    names = ("peephole", "np", "cifg", "nfg", "noaf")
    rows = ranking({name: compare(name, 32, data, how, 3, lambda line: None) for name in names})
    by_name = {row["variant"]: row for row in rows}
    assert {row["variant"] for row in rows[-2:]} == {"nfg", "noaf"}
    assert 8.3 < by_name["peephole"]["mean"] < 9.5
    assert by_name["nfg"]["more"] > 0.1
    assert by_name["nfg"]["p"] < 0.05
    assert by_name["noaf"]["more"] > 0.1  # infinite where a run got nowhere
    for name in ("np", "cifg"):
        assert by_name[name]["more"] > 0 or by_name[name]["p"] > 0.05 / 8
