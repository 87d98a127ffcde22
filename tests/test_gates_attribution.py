"""Attributions: they add up, are those of the papers' own recursions, and find a planted cue; in every cell."""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatewise as gw
from gatewise.errors import DataError, GatewiseWarning, OptionError, ShapeError
from gatewise.gates import (
    clamp,
    contextual_contributions,
    contextual_decomposition,
    gradient_times_input,
    integrated_gradients,
    layerwise_relevance,
    occlusion,
)
from gatewise.models.sequence import POOLINGS, SequenceNetwork, SequenceShape
from gatewise.models.text import TextNetwork, TextShape

LENGTHS = torch.tensor([6, 3, 5])
METHODS = (
    layerwise_relevance,
    contextual_contributions,
    gradient_times_input,
    integrated_gradients,
    occlusion,
)
OPTIONS = {
    "stacked": dict(num_layers=2, bidirectional=True),
    "projected": dict(proj_size=2),
    "normalised": dict(layer_norm=True, zoneout=0.2),
    "highway": dict(num_layers=2, connect="highway", bidirectional=True, recurrent_dropout=0.5),
    "residual": dict(num_layers=3, connect="residual", learn_initial=True, dropout=0.5),
}


class Reader(nn.Module):
    """The mean of a recurrent layer's outputs over the steps, and a linear head."""

    def __init__(self, rnn, width, outputs=2):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(width, outputs)

    def forward(self, x, lengths=None):
        given = {} if lengths is None else dict(lengths=lengths)
        return self.head(self.rnn(x, **given)[0].mean(1))


class Packed(Reader):
    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].sum(1))


class Last(Reader):
    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Words(Last):
    def __init__(self):
        super().__init__(gw.GRU(3, 4, batch_first=True), 4)
        self.words = nn.Embedding(9, 3)

    def forward(self, words):
        return super().forward(self.words(words))


def drawn(model, deviation=0.6):
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=deviation)
    return model


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def check_sums(model, *inputs, **options):
    relevance = layerwise_relevance(model, *inputs, **options)
    parts = contextual_decomposition(model, *inputs, phrase=[1, 2], **options)
    for gap in (relevance.gap, parts.gap):
        assert gap.abs().max() < 1e-5
    assert relevance.values.abs().max() > 1e-4
    assert parts.beta.abs().min() > 1e-6
    return relevance


@pytest.mark.parametrize("cell", gw.CELLS)
def test_relevance_is_conserved_and_beta_and_gamma_are_the_output_in_every_cell(cell):
    of = gw.Recurrent(cell, 3, 4, batch_first=True, bidirectional=True)
    found = check_sums(drawn(Reader(of, 8)), torch.randn(3, 6, 3), lengths=LENGTHS)
    assert (found.values[torch.arange(6) >= LENGTHS[:, None]] == 0).all()
    assert set(found.apart) == {"rnn: initial state", "rnn", "head"}
    assert (found.apart["rnn: initial state"] == 0).all()
    assert (found.apart["head"] != 0).all()


@pytest.mark.parametrize("options", OPTIONS)
def test_relevance_is_conserved_with_every_option(options):
    of = gw.LSTM(3, 3, batch_first=True, **OPTIONS[options])
    model = drawn(Reader(of, of.output_size)).train()
    relevance = check_sums(model, torch.randn(3, 6, 3), lengths=LENGTHS)
    assert (relevance.apart["rnn: initial state"] != 0).all() == of.learn_initial
    assert all(module.training for module in model.modules())


def step_values(of, x):
    """The gates, states and candidates of an LSTM over x, T×I, in NumPy."""
    weights = [p.detach().numpy() for p in of.parameters()]
    W, U, b = weights[0], weights[1], weights[2] + weights[3]
    h = c = np.zeros(of.hidden_size)
    steps = []
    for row in x.numpy():
        z = np.split(W @ row + U @ h + b, 4)
        i, f, o = (1 / (1 + np.exp(-z[k])) for k in (0, 1, 3))
        g, before, fed = np.tanh(z[2]), c, h
        c = f * c + i * g
        h = o * np.tanh(c)
        steps.append(dict(i=i, f=f, o=o, g=g, z=z[2], c=c, before=before, fed=fed, h=h))
    return np.split(W, 4), np.split(U, 4), np.split(b, 4), steps


def test_relevance_is_that_of_the_papers_recursion():
    """Arras et al. 2017, section 2: the rules of LRP-all from the last step to the first, without stabiliser."""
    model = drawn(Last(gw.LSTM(3, 5, batch_first=True), 5)).double()
    x = torch.randn(1, 7, 3, dtype=torch.float64)
    W, U, _, steps = step_values(model.rnn, x[0])
    of_h = steps[-1]["h"] * model.head.weight[1].detach().numpy()
    of_c, expected = np.zeros(5), []
    for step, row in zip(reversed(steps), reversed(x[0].numpy()), strict=True):
        of_c = of_c + of_h
        of_g = step["i"] * step["g"] / step["c"] * of_c
        share = of_g / step["z"]
        expected.append(row * (share @ W[2]))
        of_h = step["fed"] * (share @ U[2])
        of_c = step["f"] * step["before"] / step["c"] * of_c
    found = layerwise_relevance(model, x, target=1)
    np.testing.assert_allclose(found.values[0], expected[::-1], atol=1e-12)


@pytest.mark.parametrize("features", [None, [0, 2]], ids=["steps", "features"])
def test_decomposition_is_that_of_the_papers_recursion(features):
    """Murdoch et al. 2018, equations 9 to 26; the product of biases as in the authors' program."""
    model = drawn(Last(gw.LSTM(3, 5, batch_first=True), 5)).double()
    x = torch.randn(1, 7, 3, dtype=torch.float64)
    W, U, b, steps = step_values(model.rnn, x[0])

    def three(f, rel, rest, bias):
        of_rel = (f(rel + bias) - f(bias) + f(rel + rest + bias) - f(rest + bias)) / 2
        of_rest = (f(rest + bias) - f(bias) + f(rel + rest + bias) - f(rel + bias)) / 2
        return of_rel, of_rest, f(bias)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    h, rest_h, c, rest_c = np.zeros((4, 5))
    for t, (row, step) in enumerate(zip(x[0].numpy(), steps, strict=True)):
        inside = (t in (2, 3)) * np.isin(range(3), range(3) if features is None else features)
        gates = []
        for k, f in enumerate((sigmoid, sigmoid, np.tanh)):
            rel, rest = (
                U[k] @ h + W[k] @ (inside * row),
                U[k] @ rest_h + W[k] @ (~inside * row),
            )
            gates.append(three(f, rel, rest, b[k]))
        (i, rest_i, bias_i), (f, rest_f, bias_f), (g, rest_g, bias_g) = gates
        new = i * (g + bias_g) + bias_i * g + inside.all() * bias_i * bias_g
        rest = rest_i * (g + rest_g + bias_g) + (i + bias_i) * rest_g
        rest += (not inside.all()) * bias_i * bias_g
        rest += (f + rest_f + bias_f) * rest_c + rest_f * c
        c, rest_c = new + (f + bias_f) * c, rest
        of_c, of_rest, _ = three(np.tanh, c, rest_c, 0)
        h, rest_h = step["o"] * of_c, step["o"] * of_rest
    found = contextual_decomposition(model, x, phrase=[2, 3], features=features, target=0)
    weight, bias = model.head.weight[0].detach().numpy(), model.head.bias[0].item()
    np.testing.assert_allclose(found.beta, [weight @ h], atol=1e-12)
    np.testing.assert_allclose(found.gamma, [weight @ rest_h + bias], atol=1e-12)


def test_of_a_linear_model_all_methods_give_the_addends():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    addends = x * model[1].weight.view(4, 3)
    for method in METHODS:
        found = method(model, x)
        torch.testing.assert_close(found.steps, addends.sum(2).detach())
        if method is not contextual_contributions:
            torch.testing.assert_close(found.values, addends.detach())
    found = layerwise_relevance(model, x)
    torch.testing.assert_close(found.apart["1"], model[1].bias.detach().expand(2))


def test_the_explained_output():
    linear = nn.Linear(3, 2)
    x = torch.randn(2, 4, 3)
    found = gradient_times_input(linear, x, target=(-1, 1)).values
    torch.testing.assert_close(found[:, 3], (x[:, 3] * linear.weight[1]).detach())
    assert (found[:, :3] == 0).all()

    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    rows = model[1].weight.detach().view(2, 4, 3)
    by_index = gradient_times_input(model, x, target=[1, 0])
    torch.testing.assert_close(by_index.values, x * rows[[1, 0]])
    greatest = gradient_times_input(model, x)
    torch.testing.assert_close(greatest.values, x * rows[model(x).argmax(1)])
    torch.testing.assert_close(greatest.output, model(x).amax(1).detach())


def with_cue(count, steps=12):
    """Sequences of noise with a cue in the first feature of one step: inputs, cues, and the cues' steps."""
    x = torch.randn(count, steps, 3) / 2
    x[..., 0] = 0
    cue = (torch.rand(count) + 0.5) * (2 * torch.randint(0, 2, (count,)) - 1)
    at = torch.randint(0, steps, (count,))
    x[torch.arange(count), at, 0] = cue
    return x, cue, at


@pytest.mark.parametrize("cell", ["lstm", "slstm"])
def test_a_planted_cue_is_ranked_first(cell):
    model = Last(gw.Recurrent(cell, 3, 8, batch_first=True), 8, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        x, cue, _ = with_cue(32)
        loss = F.mse_loss(model(x)[:, 0], cue)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.03, "the cue was not learned"
    x, _, at = with_cue(200)
    for method in METHODS:
        found = method(model, x)
        assert (found.top()[:, 0] == at).float().mean() >= 0.95, method.__name__
        if method in (layerwise_relevance, integrated_gradients):
            assert found.gap.abs().max() < (1e-5 if method is layerwise_relevance else 1e-3)


def test_integrated_gradients_add_up_between_any_two_inputs():
    model = drawn(Reader(gw.LSTM(3, 4, 2, batch_first=True), 4), 2.0)
    x, baseline = 3 * torch.randn(2, 2, 6, 3)
    found = integrated_gradients(model, x, baseline=baseline, target=1)
    with torch.no_grad():
        difference = model(x)[:, 1] - model(baseline)[:, 1]
    torch.testing.assert_close(found.steps.sum(1), difference, atol=1e-3, rtol=0)
    assert found.gap.abs().max() < 1e-3
    assert difference.abs().min() > 0.1


def test_integrated_gradients_say_that_they_do_not_add_up():
    class Jump(nn.Module):
        def forward(self, x):
            return (x + 5 * (x > 0.3)).sum((1, 2))

    with pytest.warns(GatewiseWarning, match="do not add up"):
        found = integrated_gradients(Jump(), torch.ones(2, 3, 1))
    assert (found.gap.abs() > 1).all()


def test_occlusion_is_what_the_output_loses():
    model = Reader(gw.GRU(3, 4, batch_first=True), 4)
    x = torch.randn(2, 5, 3)
    with torch.no_grad():
        loss = {}
        for name, where in dict(one=(2, slice(1, 2)), both=(slice(2, 4), slice(None))).items():
            other = x.clone()
            other[:, *where] = 7.0
            loss[name] = model(x)[:, 0] - model(other)[:, 0]
    options = dict(target=0, baseline=7.0)
    found = occlusion(model, x, **options)
    torch.testing.assert_close(found.values[:, 2, 1], loss["one"])
    found = occlusion(model, x, window=2, features=False, **options)
    assert found.values.shape == (2, 5)
    torch.testing.assert_close(found.values[:, 2:4], (loss["both"] / 2)[:, None].expand(-1, 2))


def test_words_are_attributed_at_their_embedding():
    model = drawn(Words()).train()
    words = torch.randint(0, 9, (3, 5))
    for method in METHODS:
        found = method(model, words)
        assert found.steps.shape == (3, 5)
        assert found.values.shape == (
            (3, 5) if method is contextual_contributions else (3, 5, 3)
        ) or (method is occlusion and found.values.shape == (3, 5))
    alone = Last(model.rnn, 4)
    alone.head = model.head
    with torch.no_grad():
        direct = layerwise_relevance(alone, model.words(words)).values
    torch.testing.assert_close(layerwise_relevance(model, words).values, direct)
    check_sums(model, words)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_networks_of_classifiers(pooling):
    shape = SequenceShape(3, 2, 4, 2, True, 0.2, pooling, 4, 1)
    network = SequenceNetwork("gru", shape)
    check_sums(network, torch.randn(3, 6, 3), lengths=LENGTHS)


def test_the_network_of_texts_and_torchs_layers_in_a_packed_sequence():
    texts = TextNetwork("lstm", TextShape(20, 2, 4, 3, 2, 0.1, 0.1, 0.1))
    check_sums(drawn(texts), torch.randint(1, 20, (3, 6)), lengths=LENGTHS)
    packed = Packed(nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True), 8)
    found = check_sums(packed, torch.randn(3, 6, 3), LENGTHS)
    ours = layerwise_relevance(gw.convert(packed), *[torch.zeros(3, 6, 3), LENGTHS])
    assert (ours.values == 0).all()
    assert (found.values[1, 3:] == 0).all()


def test_a_layer_of_images():
    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = (
                gw.ConvLSTM(1, 2, 3, batch_first=True, peephole=True),
                nn.Linear(2, 2),
            )

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1].mean((2, 3)))

    assert check_sums(drawn(Images()), torch.randn(2, 4, 1, 5, 5)).steps.shape == (2, 4)


def test_batch_normalisation_with_stored_statistics():
    class Normalised(Reader):
        def __init__(self):
            super().__init__(gw.LSTM(3, 4, batch_first=True), 4)
            self.norm = nn.BatchNorm1d(4)
            self.norm.running_mean.uniform_(-1, 1)
            self.norm.running_var.uniform_(0.5, 2)

        def forward(self, x):
            return self.head(self.norm(self.rnn(x)[0].mT).mT.mean(1))

    found = check_sums(drawn(Normalised()).eval(), torch.randn(2, 4, 3))
    assert (found.apart["norm"] != 0).all()


def test_a_stack_of_different_layers():
    stack = gw.Stack(
        gw.LSTM(3, 3, batch_first=True),
        gw.Bidirectional(gw.GRU(3, 3, batch_first=True), merge="sum"),
        highway=True,
    )
    check_sums(drawn(Reader(stack, 3)), torch.randn(2, 5, 3))


def test_a_users_own_cell_with_every_operation():
    @gw.cell(gates="i k v", state="h m", params="p")
    def mine(a, s, p):
        keep = gw.sigmoid(a.k.x + p.p * s.m)
        v = gw.maximum(gw.tanh(a.v), gw.minimum(a.v, 0.5)) - gw.relu(-a.i) / (1 + gw.exp(a.i))
        m = keep * s.m + (1 - keep) * v + gw.greater(a.i, 0) * gw.detach(v)
        return dict(keep=keep, v=v, m=m, h=gw.log(2 + gw.softplus(m)) * gw.tanh(m))

    of = gw.Recurrent(mine, 3, 4, batch_first=True, backend="reference")
    check_sums(drawn(Reader(of, 4)), torch.randn(3, 6, 3), lengths=LENGTHS)


@pytest.mark.parametrize("make", [nn.LSTMCell, gw.GRUCell], ids=lambda c: c.__name__)
def test_a_loop_over_a_cell_of_one_step(make):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = make(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            state = None
            for t in range(x.shape[1]):
                state = self.cell(x[:, t], state)
            return self.head(state if isinstance(state, torch.Tensor) else state[0])

    loop = drawn(Loop())
    x = torch.randn(2, 5, 3)
    found = check_sums(loop, x)
    layer = Last((gw.LSTM if make is nn.LSTMCell else gw.GRU)(3, 4, batch_first=True), 4)
    with torch.no_grad():
        for one, other in zip(layer.parameters(), loop.parameters(), strict=True):
            one.copy_(other)
    torch.testing.assert_close(layerwise_relevance(layer, x).values, found.values)
    for phrase in ([0], [1, 3]):
        ours, theirs = (contextual_decomposition(m, x, phrase=phrase) for m in (loop, layer))
        torch.testing.assert_close(ours.beta, theirs.beta)


def test_in_a_phrase_of_the_only_step_the_biases_of_all_layers_are_its_part():
    model = drawn(Reader(gw.LSTM(3, 4, 2, batch_first=True, bidirectional=True), 8))
    found = contextual_decomposition(model, torch.randn(2, 1, 3), phrase=0, target=1)
    torch.testing.assert_close(found.gamma, model.head.bias[1].detach().double().expand(2))


def test_changes_in_place():
    class Changing(Reader):
        def forward(self, x):
            y = 2 * self.rnn(x)[0]
            y.mul_(1.5).add_(0.25).sub_(0.5)
            y.div_(2)
            return self.head(y[:, -1])

    class Plain(Reader):
        def forward(self, x):
            return self.head(((2 * self.rnn(x)[0]) * 1.5 + 0.25 - 0.5)[:, -1] / 2)

    changing, x = drawn(Changing(gw.GRU(3, 4, batch_first=True), 4)), torch.randn(2, 5, 3)
    plain = Plain(changing.rnn, 4)
    plain.head = changing.head
    found = check_sums(changing, x)
    torch.testing.assert_close(found.values, layerwise_relevance(plain, x).values)

    class OfView(Reader):
        def forward(self, x):
            y = self.rnn(x)[0]
            y[:, -1].mul_(2)
            return self.head(y[:, -1])

    for method in (layerwise_relevance, contextual_contributions):
        with pytest.raises(OptionError, match="no rule for 'mul_'"):
            method(OfView(changing.rnn, 4), x)


def test_parts_of_features():
    model = drawn(Reader(gw.LSTM(3, 4, batch_first=True), 4))
    x = torch.randn(2, 5, 3)
    whole = contextual_decomposition(model, x, phrase=[1, 3], features=[2, 0, 1])
    torch.testing.assert_close(whole.beta, contextual_decomposition(model, x, phrase=[1, 3]).beta)
    some = contextual_decomposition(model, x, phrase=[1, 3], features=[0, 2])
    assert some.gap.abs().max() < 1e-5
    assert (some.beta - whole.beta).abs().min() > 1e-4
    # a feature that is always 0 has no part; the phrase of the others has all but the product of biases
    x[..., 1] = 0
    assert (contextual_decomposition(model, x, phrase=[1], features=1).beta == 0).all()

    each = contextual_contributions(model, x, features=True)
    assert each.values.shape == (2, 5, 3)
    assert each.values[..., 1].abs().max() == 0
    for t, k in ((0, 0), (4, 2)):
        parts = contextual_decomposition(model, x, phrase=t, features=k)
        torch.testing.assert_close(each.values[:, t, k], parts.beta)
        assert parts.gap.abs().max() < 1e-5
    time_major = drawn(gw.GRU(3, 2))
    options = dict(target=lambda found: found[0][-1, :, 0], features=True)
    found = contextual_contributions(time_major, x.transpose(0, 1), **options)
    assert found.values.shape == (5, 2, 3)
    assert found.steps.shape == (2, 5)


def test_steps_come_first_where_the_model_has_them_first():
    of = drawn(gw.LSTM(3, 2))
    x = torch.randn(6, 3, 3)
    other = gw.LSTM(3, 2, batch_first=True)
    other.load_state_dict(of.state_dict())
    for method in METHODS:
        first = method(of, x, lengths=LENGTHS, target=lambda found: found[1][0][0, :, 0])
        last = method(
            other, x.transpose(0, 1), lengths=LENGTHS, target=lambda found: found[1][0][0, :, 0]
        )
        torch.testing.assert_close(first.steps, last.steps)


def test_an_attribution_within_an_intervention():
    model = Reader(gw.LSTM(3, 4, batch_first=True), 4)
    x = torch.randn(2, 5, 3)
    with clamp(model, "rnn", "i", to=0.0, steps=2):
        values = gradient_times_input(model, x).values
        assert (values[:, 1] != 0).any()
        with pytest.raises(OptionError, match="'rnn' has an intervention"):
            layerwise_relevance(model, x)
    assert gradient_times_input(model, x).gap.shape == (2,)


class Strange(Reader):
    def forward(self, x):
        return self.head(torch.cumsum(self.rnn(x)[0], 1)[:, -1])


class Memory(Reader):
    def __init__(self):
        super().__init__(gw.MLSTM(3, 4, batch_first=True), 4)


@pytest.mark.parametrize("method", [layerwise_relevance, contextual_contributions])
def test_a_module_without_a_rule_is_named(method):
    strange = Strange(gw.GRU(3, 4, batch_first=True), 4)
    x = torch.randn(2, 5, 3)
    message = r"has no rule for 'cumsum'.*the module 'model' \(Strange\).*integrated_gradients"
    with pytest.raises(OptionError, match=message):
        method(strange, x)
    with pytest.raises(OptionError, match=r"the module 'rnn' \(MLSTM\)"):
        method(Memory(), x)
    assert gradient_times_input(Memory(), x).values.shape == x.shape


READER = Reader(gw.GRU(3, 4, batch_first=True), 4)
BAD = {
    "expected a torch.nn.Module, not int": (3, dict()),
    "must be a tensor to attribute to, not list": (READER, dict(x=[1.0])),
    "target=(2,): the outputs of a sequence have the shape (2,)": (READER, dict(target=2)),
    "target= has an index that is not in 0…1": (READER, dict(target=[0, 5])),
    "must return one number for each sequence, B, not (2, 2)": (READER, dict(target=lambda y: y)),
    "the model returns a tuple": (gw.GRU(3, 4, batch_first=True), dict()),
    "give target= as the indices": (nn.Identity(), dict()),
    "it has 0 such calls (none)": (nn.Identity(), dict(x=torch.ones(2, 3, dtype=torch.int64))),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_explained(message):
    model, options = BAD[message]
    options = dict(options)
    x = options.pop("x", torch.randn(2, 5, 3))
    with pytest.raises(OptionError, match=re.escape(message)):
        gradient_times_input(model, x, **options)


def test_options_that_are_not_there():
    x = torch.randn(2, 5, 3)
    with pytest.raises(ShapeError, match="does not broadcast"):
        integrated_gradients(READER, x, baseline=torch.zeros(4))
    with pytest.raises(ShapeError, match="not finite"):
        occlusion(READER, x, baseline=float("nan"))
    with pytest.raises(OptionError, match="window must be from 1 to 5"):
        occlusion(READER, x, window=6)
    with pytest.raises(OptionError, match="tolerance must be"):
        integrated_gradients(READER, x, tolerance=0)
    with pytest.raises(OptionError, match="no step 5 for phrase: the input has 5 steps"):
        contextual_decomposition(READER, x, phrase=5)
    with pytest.raises(OptionError, match="no feature 3 for features: the input has 3 features"):
        contextual_decomposition(READER, x, phrase=1, features=[0, 3])
    with pytest.raises(OptionError, match="features has no feature; give at least one"):
        contextual_decomposition(READER, x, phrase=1, features=[])
    flat = nn.Sequential(nn.Flatten(), nn.Linear(5, 1))
    for method in (contextual_contributions, occlusion):
        with pytest.raises(OptionError, match="features=True needs an input of 3 dimensions"):
            method(flat, x[..., 0], features=True)
    with pytest.raises(OptionError, match="k must be from 1 to 5"):
        gradient_times_input(READER, x).top(6)
    with pytest.raises(OptionError, match="k must be from 1 to 5"):
        gradient_times_input(READER, x).top(1.5)
    with pytest.raises(OptionError, match="baseline must be a number or a tensor, not 'mean'"):
        occlusion(READER, x, baseline="mean")
    with pytest.raises(OptionError, match="target= must be an index, a tuple of indices"):
        gradient_times_input(READER, x, target="yes")
    with pytest.raises(ShapeError, match="3 outputs are explained"):
        gradient_times_input(READER, x, target=lambda y: y.sum() * torch.ones(3))


@pytest.mark.parametrize(
    "method",
    [
        gradient_times_input,
        integrated_gradients,
        occlusion,
        layerwise_relevance,
        contextual_contributions,
    ],
)
def test_input_that_is_not_finite_gives_no_contributions(method):
    x = torch.randn(3, 5, 3)
    x[1, 2, 0] = float("nan")
    with pytest.raises(
        DataError, match="output of sequence 1 is infinite or NaN; its input is at step 2"
    ):
        method(READER, x)
    broken = copy.deepcopy(READER)
    next(broken.parameters()).data.fill_(float("nan"))
    with pytest.raises(DataError, match="sequence 0 is infinite or NaN; look at the weights"):
        method(broken, torch.randn(3, 5, 3))
