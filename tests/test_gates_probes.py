"""Probes: a planted label is read, and the controls show none."""

import sys

import numpy as np
import pytest
import torch

import gatewise as gw
from gatewise.errors import DataError, MissingExtraError, OptionError, ShapeError
from gatewise.gates.probes import probe
from gatewise.nn.trace import Trace

STEPS = 40


def sequences(number=120, seed=0):
    """Noise whose first step carries the label in channel 0, and the label."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(number, STEPS, 2, generator=generator)
    label = torch.randint(2, (number,), generator=generator)
    x[:, :, 0] = 0
    x[:, 0, 0] = 6.0 * (2 * label - 1)
    return x, label


def network(remembering):
    """An LSTM of four units; unit 2 keeps what channel 0 says, if ``remembering``."""
    torch.manual_seed(0)
    layer = gw.LSTM(2, 4, batch_first=True)
    if remembering:
        with torch.no_grad():
            layer.weight_hh_l0.zero_()
            layer.weight_ih_l0[10] = torch.tensor([1.0, 0.0])
            layer.bias_ih_l0[6] = 20.0
            for row in (2, 10):
                layer.bias_ih_l0[row] = layer.bias_hh_l0[row] = 0
    return layer


def traced(layer, x, lengths=None):
    with torch.no_grad():
        return layer(x, lengths=lengths, trace=True)[2]


def test_a_planted_label_is_read_and_an_untrained_network_shows_none():
    x, label = sequences()
    trained, untrained = traced(network(True), x), traced(network(False), x)
    found = probe({"rnn": trained}, label, untrained={"rnn": untrained})
    assert found.found
    assert found.score == 1
    assert found.metric == "accuracy"
    assert (found.examples, found.held_out) == (84, 36)
    assert found.untrained < 0.7
    assert found.shuffled.mean() == pytest.approx(0.5, abs=0.1)
    assert found.trivial < 0.65
    assert abs(found.weights[0]).argmax() == 2
    table = found.table()
    assert table["labels"].tolist() == ["true", "shuffled", "trivial", "untrained"]
    assert table["score"].tolist() == [1, found.shuffled.mean(), found.trivial, found.untrained]
    assert repr(found).startswith(
        "the label can be read from 'c' of rnn, layer 0: accuracy 1.000 on 36 held-out examples"
    )
    nothing = probe(untrained, label)
    assert not nothing.found
    assert nothing.untrained is None
    assert "cannot be read" in repr(nothing)


def test_a_number_at_every_step_is_read_by_ridge():
    """The running sum of the input, within the padded lengths; labels in the padding are wild."""
    torch.manual_seed(0)
    x = torch.randn(60, 25, 1)
    lengths = torch.randint(5, 26, (60,))
    label = x.cumsum(1)[..., 0].double()
    label[torch.arange(25) >= lengths[:, None]] = float("nan")
    layer = gw.Recurrent("nfg", 1, 3, batch_first=True)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.bias_ih_l0[:3] = 20.0
        layer.weight_ih_l0[3:6] = 0.01
    found = probe(traced(layer, x, lengths), label, shuffles=4)
    assert found.metric == "r2"
    assert found.found
    assert found.score > 0.99
    assert found.shuffled.max() < 0.1
    assert found.examples + found.held_out == int(lengths.sum())


def test_the_label_of_a_sequence_is_read_at_its_last_step_in_the_order_of_reading():
    c = torch.zeros(8, 5, 1)
    lengths = torch.tensor([5, 3, 4, 2, 1, 5, 3, 2])
    label = np.array(list("abababab"))
    for sequence, length in enumerate(lengths):
        c[sequence, length - 1] = 1.0 if sequence % 2 else -1.0
    backward = torch.zeros(8, 5, 1)
    backward[:, 0, 0] = torch.tensor([-1.0, 1.0] * 4)
    trace = Trace({"h": [[c, backward]]}, lengths)
    for direction in (0, 1):
        found = probe(trace, label, direction=direction, held_out=0.25, strength=1e-3)
        assert found.score == 1
    swapped = Trace({"h": [[backward, c]]}, lengths)
    assert probe(swapped, label, direction=1, held_out=0.25, strength=1e-3).score < 1


def test_labels_and_options_that_do_not_fit():
    x, label = sequences(10)
    trace = traced(network(True), x)
    for given, error, message in (
        (dict(labels=label[:9]), ShapeError, r"shape \(9,\); they must have \(10,\).*\(10, 40\)"),
        (dict(labels=torch.zeros(10, dtype=torch.int64)), DataError, "one class only, 0: give"),
        (dict(labels=torch.full((10,), torch.nan)), DataError, "a label of sequence 0 is infinite"),
        (dict(labels=label, value="cc"), OptionError, r"no 'cc' in this trace .did you mean 'c'"),
        (dict(labels=label, held_out=1), OptionError, "held_out=1 must be between 0 and 1"),
        (dict(labels=label, shuffles=0), OptionError, "shuffles=0 at least 1"),
        (dict(labels=label, held_out=0.01), DataError, "leave 10 to learn from and 0 to score"),
    ):
        with pytest.raises(error, match=message):
            probe(trace, given.pop("labels"), **given)


def test_the_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    x, label = sequences(10)
    wanted = r"package 'scikit-learn', which is not installed: pip install 'gatewise\[tasks\]'"
    with pytest.raises(MissingExtraError, match=wanted):
        probe(traced(network(True), x), label)
