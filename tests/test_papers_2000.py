"""Gers, Schmidhuber & Cummins 2000: the grammar, the networks and their gradient, and what is learned."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from gatewise.errors import OptionError, ShapeError
from papers.gers_2000 import experiment
from papers.gers_2000.experiment import ROWS, Outcome, Trial, error_free, find, summary
from papers.gers_2000.grammar import LEGAL, SYMBOLS, walk
from papers.gers_2000.network import BLOCKS, SIZE, Design, Networks
from papers.lstm_1997.tasks import ReberString

pytestmark = pytest.mark.usefixtures("one_thread")

DESIGNS = {
    "reset": Design(reset=True),
    "standard": Design(),
    "state decay": Design(keep=0.9),
    "forget": Design(forget=True),
}
each_design = pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)


# The grammar --------------------------------------------------------------------------------------


def strings_of(symbols, places):
    """One stream's whole strings, each as text and its legal next symbols."""
    ends = np.flatnonzero(places == 0)
    text = "".join(SYMBOLS[s] for s in symbols)
    cuts = [0, *(ends + 1)]
    return [(text[a:b], LEGAL[places[a:b]]) for a, b in pairwise(cuts)]


def test_streams_are_strings_of_the_embedded_grammar():
    """Each string has the legal symbols that the 1997 task finds for the same string; after its end only B is legal."""
    symbols, places = walk(np.random.default_rng(0), np.zeros(50, int), 401)
    assert symbols.shape == places.shape == (401, 50)
    found = [s for k in range(50) for s in strings_of(symbols[:, k], places[:, k])]
    known = {}
    rng = np.random.default_rng(1)
    for _ in range(4000):
        string = ReberString(rng)
        known[string.text] = string.legal
    compared = 0
    for text, legal in found:
        assert text[0] == "B"
        assert text[-1] == "E"
        assert text[1] == text[-2]
        assert text[1] in "TP"
        np.testing.assert_array_equal(legal[-1], [s == "B" for s in SYMBOLS])
        if text in known:
            np.testing.assert_array_equal(legal[:-1], known[text])
            compared += 1
    assert compared > 0.9 * len(found)
    assert abs(np.mean([len(text) for text, _ in found]) - 11.9) < 0.3
    first = np.mean([text[1] == "T" for text, _ in found])
    assert 0.45 < first < 0.55


def test_walks_go_on_where_they_were():
    """A place and a coin decide all: the table of eight is eight single steps, and every step is legal."""
    rng = np.random.default_rng(2)
    place = np.zeros(3, int)
    for steps in (1, 7, 8, 9, 30):
        symbols, places = walk(rng, place, steps)
        before = np.concatenate([place[None], places[:-1]])
        assert symbols.shape == (steps, 3)
        assert LEGAL[before, symbols].all()
        place = places[-1]


# The networks -------------------------------------------------------------------------------------


@pytest.mark.short
def test_weights_are_counted_as_in_the_paper():
    assert Design(forget=True).weights == 424
    assert Design().weights == 360
    for design in DESIGNS.values():
        networks = Networks(design, 3, np.random.default_rng(0))
        counted = networks.hidden[..., 0].size + networks.output[..., 0].size
        assert (
            counted - BLOCKS * SIZE == design.weights
        )  # the cells' column of the one is not counted
        assert not networks.hidden[design.gates :, -1].any()
    np.testing.assert_array_equal(
        networks.hidden[:12, -1, 1],
        [-0.5, -1, -1.5, -2, -0.5, -1, -1.5, -2, 0.5, 1, 1.5, 2],
    )
    assert 0.19 < abs(networks.hidden[:, :-1]).max() <= 0.2


def by_hand(design, hidden, output, symbols):
    """The outputs of one network over one stream, unit by unit from the paper's equations."""
    h, s = np.zeros(8), np.zeros(8)
    outputs = []
    for symbol in symbols:
        seen = np.concatenate([np.eye(7)[symbol], h, [1]])

        def logistic(z):
            return 1 / (1 + np.exp(-z))

        for block in range(4):
            y_in = logistic(hidden[block] @ seen)
            y_out = logistic(hidden[4 + block] @ seen)
            y_forget = logistic(hidden[8 + block] @ seen) if design.forget else design.keep
            for v in range(2):
                j = 2 * block + v
                g = 4 * logistic(hidden[design.gates + j] @ seen) - 2
                s[j] = y_forget * s[j] + y_in * g
                h[j] = y_out * (2 * logistic(s[j]) - 1)
        outputs.append(logistic(output @ np.concatenate([np.eye(7)[symbol], h, [1]])))
    return np.array(outputs)


@each_design
@pytest.mark.parametrize("count", [1, 3])
def test_outputs_are_those_of_the_equations(design, count):
    """In training (nothing learned: rate 0) and, weights fixed, on the core."""
    rng = np.random.default_rng(3)
    networks = Networks(design, count, rng, np.float64)
    networks.hidden[:, :-1] *= 8  # far from linear
    networks.output *= 5
    symbols, places = walk(rng, np.zeros(count, int), 9)  # ends before the second string
    found = [
        networks.learn(s, LEGAL[p].T, np.zeros(count)) for s, p in zip(symbols, places, strict=True)
    ]
    for k in range(count):
        expected = by_hand(design, networks.hidden[..., k], networks.output[..., k], symbols[:, k])
        assert expected.std(0).min() > 0.01
        np.testing.assert_allclose(np.array(found)[:, :, k], expected, rtol=1e-10)
        begins = np.zeros((9, 1), bool)
        fixed, _ = networks.fixed(k).outputs(symbols[:, k : k + 1], None, begins)
        np.testing.assert_allclose(fixed.detach()[:, 0], expected, rtol=1e-10)


@each_design
def test_the_gradient_carried_forward_is_the_one_that_the_core_takes_back(design):
    """With a rate so small that the weights stay, what the steps add up to is the truncated gradient
    of the whole stream's error, which the core finds for the design's cell going back in time."""
    rng, steps, rate = np.random.default_rng(4), 25, 1e-9
    networks = Networks(design, 2, rng, np.float64)
    networks.hidden[:, :-1] *= 5
    before = networks.hidden.copy(), networks.output.copy()
    symbols, places = walk(rng, np.zeros(2, int), steps)
    begins = np.concatenate([np.zeros((1, 2), int), places[:-1]]) == 0
    assert begins[1:].any()
    fixed = [networks.fixed(k) for k in range(2)]
    for t in range(steps):
        if design.reset:
            networks.reset(begins[t])
        networks.learn(symbols[t], LEGAL[places[t]].T, np.full(2, rate))
    for k, network in enumerate(fixed):
        network._output.requires_grad_()
        found, _ = network.outputs(symbols[:, k : k + 1], None, begins[:, k : k + 1])
        (0.5 * (found[:, 0] - torch.from_numpy(LEGAL[places[:, k]])) ** 2).sum().backward()
        layer, forget = network.layer, 4 if design.forget else 0
        rows = torch.cat([layer.weight_ih_l0.grad, layer.weight_hh_l0.grad], 1)
        rows = torch.cat([rows, layer.bias_ih_l0.grad[:, None]], 1).numpy()
        i, f, g, o = np.split(rows, np.cumsum([4, forget, 8]))
        g[:, -1] = 0
        expected = np.concatenate([i, o, f, g])
        change = (before[0] - networks.hidden)[..., k] / rate
        np.testing.assert_allclose(change, expected, rtol=1e-4, atol=2e-6)
        assert abs(expected).max(1).min() > 1e-4  # every unit learns
        change = (before[1] - networks.output)[..., k] / rate
        np.testing.assert_allclose(change, network._output.grad, rtol=1e-4, atol=2e-6)


@pytest.mark.short
@each_design
def test_networks_side_by_side_do_not_touch_each_other(design):
    """One alone, with its own rate and resets, is what it is among others; those kept go on as they were."""
    rng = np.random.default_rng(5)
    networks = Networks(design, 3, rng)
    alone = Networks(design, 3, rng)
    for name in ("hidden", "output"):
        getattr(alone, name)[:] = getattr(networks, name)
    alone.drop(np.array([0, 2]))
    assert alone.count == 1
    symbols, places = walk(rng, np.zeros(3, int), 30)
    rate = np.array([0.5, 0.3, 0.0], np.float32)
    first = networks.output[..., 2].copy()
    for t in range(30):
        if t == 11:
            networks.reset(np.array([False, True, True]))
            alone.reset(np.array([True]))
        if t == 20:
            networks.drop(np.array([0]))
            symbols, places, rate = symbols[:, 1:], places[:, 1:], rate[1:]
        found = networks.learn(symbols[t], LEGAL[places[t]].T, rate)
        k = 1 if t < 20 else 0
        one = alone.learn(symbols[t, k : k + 1], LEGAL[places[t, k : k + 1]].T, rate[k : k + 1])
        np.testing.assert_allclose(found[:, k], one[:, 0], rtol=1e-5)
    assert abs(networks.output[..., 0] - alone.output[..., 0]).max() < 1e-5
    np.testing.assert_array_equal(networks.output[..., 1], first)  # of rate 0


# Tests and trials ---------------------------------------------------------------------------------


class Scripted:
    """In a network's place: predicts rightly but for the k-th stream from its error on."""

    def __init__(self, errors):
        self.errors, self.seen = np.array(errors), 0

    def outputs(self, symbols, state, begins):
        rows = state[0][0, :, 0].numpy() if state else np.arange(len(self.errors))
        self.begins = begins
        truth = LEGAL[self.places[self.seen : self.seen + len(symbols)][:, rows]].copy()
        at = self.seen + np.arange(len(symbols))[:, None]
        truth[at == self.errors[rows]] += 0.49
        self.seen += len(symbols)
        return torch.from_numpy(truth), (torch.from_numpy(rows)[None, :, None],)


def test_a_test_counts_the_symbols_before_the_first_error(monkeypatch):
    errors = [0, 1, 63, 64, 100, 999, 1000, 5000]
    network = Scripted(errors)
    rng = np.random.default_rng(6)
    symbols, network.places = walk(rng, np.zeros(8, int), 1000)
    done = 0

    def walked(rng, place, steps):
        """The streams drawn before, those that are still going on."""
        nonlocal done
        rows = [k for k, e in enumerate(errors) if e >= done]
        part = slice(done, done + steps)
        done += steps
        return symbols[part][:, rows], network.places[part][:, rows]

    monkeypatch.setattr(experiment, "walk", walked)
    lengths = error_free(network, rng, np.zeros(8, int), longest=1000)
    np.testing.assert_array_equal(lengths, [0, 1, 63, 64, 100, 999, 1000, 1000])
    assert network.begins.shape[1] == 3  # those whose stream went on to the last part


@pytest.mark.short
@pytest.mark.parametrize("name", ["reset", "forget_decay"])
def test_a_trial_is_its_steps(name):
    """Streams, rates and resets of one network, written out once more, give the same weights."""
    trial = Trial(find(name), 1, seed=7, streams=60, longest=20)
    twin, design = Trial(find(name), 1, seed=7), find(name).design
    trial.run(30)
    assert trial.outcomes[0].streams == 60
    rng, networks = twin.rng, twin.training
    coins = iter(())
    streams = symbols = longest = 0
    while streams < 60:
        place, rate, length, right = np.zeros(1, int), np.float32(0.5), 0, True
        networks.reset(np.array([True]))
        while right and length < 20:
            if design.reset and place[0] == 0:
                networks.reset(np.array([True]))
            coin = next(coins, None)
            if coin is None:
                coins = iter(rng.integers(2, size=(256, 1)))
                coin = next(coins)
            symbol, place = experiment.advance(place, coin)
            found = networks.learn(symbol, LEGAL[place].T, np.array([rate]))
            rate *= np.float32(design.decay)
            right = bool((abs(found - LEGAL[place].T) < 0.49).all())
            length += right
        streams, symbols = streams + 1, symbols + length
        if length > longest:
            longest = length
            error_free(networks.fixed(0), rng, np.zeros(10, int), longest=20)
    outcome = trial.outcomes[0]
    assert (outcome.symbols, outcome.longest) == (symbols, longest)
    assert longest > 0
    assert trial.training.count == 0  # given up after 60


def test_a_network_that_predicts_all_is_perfect_and_leaves(monkeypatch):
    monkeypatch.setattr(experiment, "WITHIN", 1.1)  # every prediction is right
    trial = Trial(ROWS["forget"], 3, seed=0, longest=50)
    outcomes = trial.run(30)
    assert outcomes == [Outcome(True, 1, 50, 50.0, 1, 50)] * 3
    assert trial.ticks == 50
    found = summary(outcomes)
    assert (found["perfect"], found["streams"], found["symbols"]) == (1.0, 1.0, 50.0)
    assert found["rest_length"] is None


def test_what_is_left_of_a_stream_runs_on_the_core(monkeypatch):
    """Once the rate has fallen so far that nothing changes: 2710 symbols after its beginning."""
    monkeypatch.setattr(experiment, "WITHIN", 1.1)
    still = int(np.ceil(np.log(experiment.STILL / 0.5) / np.log(0.99)))
    trial = Trial(ROWS["forget_decay"], 1, seed=0, longest=4000)
    assert trial.run(60) == [Outcome(True, 1, 4000, 4000.0, 1, 4000)]
    assert abs(trial.ticks - still) <= 1


@each_design
def test_a_network_goes_on_on_the_core_where_it_was(design):
    rng = np.random.default_rng(8)
    networks = Networks(design, 2, rng, np.float64)
    networks.hidden[:, :-1] *= 5
    symbols, places = walk(rng, np.zeros(2, int), 30)
    begins = np.concatenate([np.zeros((1, 2), int), places[:-1]]) == 0
    found = []
    for t in range(30):
        if t == 13:
            fixed, state = networks.fixed(1), networks.carried(1)
        if design.reset:
            networks.reset(begins[t])
        rate = np.full(2, 0.5 if t < 13 else 0.0)
        found.append(networks.learn(symbols[t], LEGAL[places[t]].T, rate)[:, 1])
    expected, _ = fixed.outputs(symbols[13:, 1:], state, begins[13:, 1:])
    np.testing.assert_allclose(found[13:], expected.detach()[:, 0], rtol=1e-10)


def test_the_summary_is_by_best_test():
    outcomes = [
        Outcome(True, 10, 500, 100_000, 3, 9),
        Outcome(False, 20, 100, 1000.0, 1, 9),
        Outcome(False, 40, 300, 1000.5, 1, 9),
        Outcome(False, 60, 500, 10.0, 1, 9),
    ]
    found = summary(outcomes)
    assert (found["perfect"], found["good"], found["rest"]) == (0.25, 0.25, 0.5)
    assert (found["streams"], found["good_length"], found["rest_length"]) == (10, 1000.5, 505)
    assert (found["streams_of_others"], found["symbols_of_others"]) == (40, 300)


@pytest.mark.short
def test_rows_are_the_papers():
    assert [row.design.weights for row in ROWS.values()] == [360, 360, 360, 424, 424]
    for row in ROWS.values():
        assert row.paper.perfect + row.paper.good + row.paper.rest == pytest.approx(1)
    assert ROWS["forget_decay"].design == replace(ROWS["forget"].design, decay=0.99)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Design(forget=True, keep=0.9), OptionError, "keep=0.9 cannot be given with forget=True"),
        (lambda: Networks(Design(), 0, np.random.default_rng(0)), OptionError, "positive integer, not 0"),
        (lambda: Networks(Design(), 2.0, np.random.default_rng(0)), OptionError, "positive integer, not 2.0"),
        (lambda: find("forgets"), OptionError, "no row 'forgets' (did you mean 'forget'?)"),
        (lambda: fixed(Design()).outputs(np.zeros(3, int)), ShapeError, "shape (3,), expected T×n"),
        (lambda: fixed(Design(reset=True)).outputs(np.zeros((3, 1), int)), ShapeError, "begins is "
            "None, expected T×n booleans"),
    ],
)  # fmt: skip
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def fixed(design):
    return Networks(design, 1, np.random.default_rng(0)).fixed(0)


def test_with_forget_gates_streams_are_learned_and_without_them_not():
    """Table 2 in small: a hundred networks of a kind, each 150,000 symbols."""
    found = {}
    for name in ("standard", "forget"):
        trial = Trial(find(name), 100, seed=1)
        found[name] = summary(trial.run(ticks=150_000)), [o.best for o in trial.outcomes]
        assert trial.ticks == 150_000
    standard, forget = (found[name][0] for name in ("standard", "forget"))
    assert (
        standard["perfect"] + standard["good"] <= 0.02
    )  # the paper: 0.01, after many more symbols
    assert forget["perfect"] + forget["good"] >= 0.15  # the paper: 0.47
    assert np.median(found["forget"][1]) > 1.5 * np.median(found["standard"][1])
