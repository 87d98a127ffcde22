"""The memory horizon and time scales from gradients: against whole Jacobians, and on networks that copy."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import gatewise as gw
from gatewise.errors import BackendError, DataError, OptionError
from gatewise.gates.directions import Place, directions
from gatewise.gates.horizon import memory_horizon
from gatewise.gates.time_scale import gradient_time_scale

STEPS, LENGTHS = 7, torch.tensor([7, 4, 1])


def layer(name="lstm", **options):
    torch.manual_seed(0)
    return gw.Recurrent(name, 3, 4, batch_first=True, dtype=torch.float64, **options)


def by_jacobian(module, x, lengths, *states):
    """‖∂h_t/∂x_{t-k}‖ of each layer and direction by autograd, one row of the Jacobian after the other."""
    squares, number = {}, np.zeros(STEPS)
    for b, length in enumerate(lengths.tolist()):
        number[:length] += 1
        own = x[b : b + 1, :length].detach().requires_grad_()
        state = tuple(s[:, b : b + 1].contiguous() for s in states) or None
        trace = module(own, state, trace=True)[2]
        for layer, of_layer in enumerate(trace["h"]):
            for direction, h in enumerate(of_layer):
                t = 0 if direction else length - 1
                of_place = squares.setdefault((layer, direction), np.zeros(STEPS))
                for unit in h[0, t].flatten():
                    row = torch.autograd.grad(unit, own, retain_graph=True)[0][0].flatten(1)
                    lags = (
                        row.square().sum(1)[: t + 1].flip(0)
                        if not direction
                        else row.square().sum(1)
                    )
                    of_place[:length] += lags.numpy()
    return {place: np.sqrt(each / number) for place, each in squares.items()}, number


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lstm", dict(num_layers=2, bidirectional=True)),
        ("gru_2014", dict(num_layers=2)),
        ("lstm", dict(num_layers=2, proj_size=2, layer_norm=True, learn_initial=True)),
        ("lem", dict(bidirectional=True, zoneout=0.2)),
    ],
)
def test_norms_are_those_of_the_whole_jacobian(name, options):
    module = layer(name, **options)
    x = torch.randn(3, STEPS, 3, dtype=torch.float64)
    module.eval()
    found = memory_horizon(module, x, lengths=LENGTHS)
    expected, number = by_jacobian(module, x, LENGTHS)
    assert [place[1:] for place in found] == list(expected)
    for place, horizon in found.items():
        assert horizon.norm == pytest.approx(expected[place[1:]], rel=1e-9), place
        assert horizon.sequences.tolist() == number.tolist() == [3, 2, 2, 2, 1, 1, 1]
        assert horizon.exact
    sampled = memory_horizon(module, x, lengths=LENGTHS, samples=400)[Place("model", 0, 0)]
    assert not sampled.exact
    assert sampled.norm == pytest.approx(found[Place("model", 0, 0)].norm, rel=0.15)


class Reader(nn.Module):
    """Symbols → embedding → a recurrent layer that gets a PackedSequence or a state → a head."""

    def __init__(self, rnn):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(9, 3).double(), rnn, nn.Linear(4, 2).double()

    def forward(self, x, lengths=None, state=None):
        x = self.embed(x)
        if lengths is not None:
            x = pack_padded_sequence(x.transpose(0, 1), lengths)
        h = self.rnn(x, state)[1][0]
        return self.head(h[-1])


def test_the_layers_of_a_model_of_torchs_on_the_inputs_that_they_get():
    torch.manual_seed(1)
    x = torch.randint(9, (3, STEPS))
    packed = Reader(nn.LSTM(3, 4, dtype=torch.float64, dropout=0.5, num_layers=2)).train()
    own = gw.convert(packed.rnn).eval()
    own.batch_first = True
    embedded = packed.embed(x).detach()
    found = memory_horizon(packed, x, lengths=LENGTHS)
    expected = by_jacobian(own, embedded, LENGTHS)[0]
    for place, horizon in found.items():
        assert horizon.norm == pytest.approx(expected[place[1:]], rel=1e-9)
    assert list(found) == [Place("rnn", 0, 0), Place("rnn", 1, 0)]
    assert packed.training
    assert packed.rnn.training
    assert all(weight.grad is None and weight.requires_grad for weight in packed.parameters())

    given = Reader(layer(num_layers=1))
    state = tuple(torch.randn(1, 3, 4, dtype=torch.float64) for _ in range(2))
    whole = torch.full((3,), STEPS)
    (found,) = memory_horizon(given, x, state=state).values()
    expected = by_jacobian(given.rnn, given.embed(x), whole, *state)[0]
    assert found.norm == pytest.approx(expected[0, 0], rel=1e-9)


def images(**options):
    torch.manual_seed(0)
    return gw.ConvLSTM(1, 2, (3, 1), batch_first=True, dtype=torch.float64, **options)


def matrix_memory(**options):
    torch.manual_seed(0)
    of = gw.MLSTM(3, 4, 2, batch_first=True, dtype=torch.float64, **options)
    return drawn(of)


def drawn(module):
    for weight in module.parameters():
        nn.init.normal_(weight)
    return module


OTHERS = {
    "images": (lambda: images(peephole=True), (1, 3, 2)),
    "images, both directions": (lambda: images(num_layers=2, bidirectional=True), (1, 3, 2)),
    "images of one size": (lambda: images(peephole=True, size=(2, 3), bias=False), (1, 2, 3)),
    "matrix memory": (matrix_memory, (3,)),
    "matrix memory, exp": (lambda: matrix_memory(forget="exp", chunk=2, bias=False), (3,)),
}


@pytest.mark.parametrize(("make", "shape"), OTHERS.values(), ids=OTHERS)
def test_norms_of_images_and_of_a_matrix_memory_are_those_of_the_whole_jacobian(make, shape):
    module, x = drawn(make()), torch.randn(3, STEPS, *shape, dtype=torch.float64)
    found = memory_horizon(module, x, lengths=LENGTHS)
    expected = by_jacobian(module, x, LENGTHS)[0]
    assert [place[1:] for place in found] == list(expected)
    for place, horizon in found.items():
        assert horizon.norm == pytest.approx(expected[place[1:]], rel=1e-9), place
        assert horizon.exact
    module.batch_first = False
    (again, *_) = memory_horizon(module, x.transpose(0, 1), lengths=LENGTHS).values()
    assert again.norm == pytest.approx(expected[0, 0], rel=1e-9)


class Loop(nn.Module):
    """A step cell over the steps of a sequence, from a state that is not zero."""

    def __init__(self, cell, state):
        super().__init__()
        self.cell, self.state = cell, state

    def forward(self, x):
        state, states = self.state, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            states.append(state)
        return states


CELLS_OF_A_STEP = {
    "LSTMCell": lambda: nn.LSTMCell(3, 4, dtype=torch.float64),
    "GRUCell": lambda: gw.GRUCell(3, 4, dtype=torch.float64),
    "normalised": lambda: gw.RecurrentCell(
        "slstm", 3, 4, layer_norm=True, backend="reference", dtype=torch.float64
    ),
}


@pytest.mark.parametrize("make", CELLS_OF_A_STEP.values(), ids=CELLS_OF_A_STEP)
def test_a_loop_over_a_step_cell_has_a_horizon_and_time_scales(make):
    torch.manual_seed(0)
    cell = drawn(make())
    count = len(cell.cell.state) if isinstance(cell, gw.RecurrentCell) else 2
    start = [torch.rand(2, 4, dtype=torch.float64) + 0.5 for _ in range(count)]
    loop = Loop(cell, tuple(start) if count > 1 else start[0])
    x = torch.randn(2, STEPS, 3, dtype=torch.float64, requires_grad=True)
    states = [s if isinstance(s, tuple) else (s,) for s in loop(x)]
    lengths = [STEPS, 5]
    squares, scales = np.zeros((2, STEPS)), np.zeros((2, STEPS, 4))
    for b, length in enumerate(lengths):
        k = min(1, count - 1)  # c, or h
        for j in range(4):
            h = torch.autograd.grad(states[length - 1][0][b, j], x, retain_graph=True)[0]
            squares[b, :length] += h[b, :length].square().sum(1).flip(0).numpy()
            last = states[length - 1][k]
            each = torch.autograd.grad(
                last[b, j], [s[k] for s in states[:length]], retain_graph=True
            )
            scales[b, :length] += torch.stack([g[b] for g in each]).square().flip(0).numpy()
    number = np.array([2] * 5 + [1] * 2)
    (place, found), *others = memory_horizon(loop, x.detach(), lengths=lengths).items()
    assert (place, others) == (Place("cell", 0, 0), [])
    assert found.norm == pytest.approx(np.sqrt(squares.sum(0) / number), rel=1e-9)

    alone = gradient_time_scale(loop, x.detach(), lengths=[STEPS, 0])[place]
    state = list(alone)[min(1, count - 1)]
    left = np.log(scales[0] ** 0.5)
    assert (left > np.log(1e-6)).all(), "the test's units forget too fast"
    assert alone[state] == pytest.approx(-(STEPS - 1) / left[-1], rel=1e-9)


def test_time_scales_of_images_are_those_of_autograd():
    module, x = drawn(images()), torch.randn(1, 4, 1, 3, 2, dtype=torch.float64)
    trace = module(x, trace=True)[2]
    c = trace.c[0][0][:, 0].detach().requires_grad_()
    state = trace.o[0][0][:, 0].detach() * torch.tanh(c), c
    for t in range(1, 4):
        state = module(x[:, t : t + 1], tuple(s[None] for s in state))[1]
        state = tuple(s[0] for s in state)
    torch.testing.assert_close(state[1], trace.c[0][0][:, 3])
    squares = sum(
        torch.autograd.grad(unit, c, retain_graph=True)[0].square() for unit in state[1].flatten()
    )
    expected = (-3 / squares.sqrt().log()).flatten().numpy()
    found = gradient_time_scale(module, x)[Place("model", 0, 0)]
    assert found["c"] == pytest.approx(expected, rel=1e-9)
    assert found["c"].shape == (12,)


def test_time_scales_of_a_matrix_memory_are_those_of_the_papers_recursion():
    """Beck et al. 2024, equations 19 and 22 to 26, without the stabiliser."""
    module, x = matrix_memory(), torch.randn(1, 6, 3, dtype=torch.float64)
    with torch.no_grad():
        module.bias[-2:] = torch.tensor([1.0, 4.0])
    _, k, v, _, i, f = (x[0] @ module.weight.T).split([4, 4, 4, 4, 2, 2], 1)
    _, k_bias, v_bias, _, i_bias, f_bias = module.bias.split([4, 4, 4, 4, 2, 2])
    k, v, i = k / 2**0.5 + k_bias, v + v_bias, (i + i_bias).exp()
    f = torch.sigmoid(f + f_bias)
    for head, units in enumerate((slice(0, 2), slice(2, 4))):
        memory, memories = torch.zeros(2, 2, dtype=torch.float64), []
        for t in range(6):
            memory = f[t, head] * memory + i[t, head] * torch.outer(v[t, units], k[t, units])
            memories.append(memory)
        slope = torch.autograd.grad(memories[-1][1, 0], memories[0])[0]
        assert slope.count_nonzero() == 1
        expected = (-5 / slope[1, 0].log()).item()
        found = gradient_time_scale(module, x)[Place("model", 0, 0)]
        assert set(found) == {"C", "n"}
        assert found["C"][head] == pytest.approx(expected, rel=1e-9)


def test_two_layers_as_the_directions_of_one():
    """The names and numbers are those of a layer with two directions, and the names those of its trace."""
    pair = gw.Bidirectional(layer(), layer())
    whole = layer(bidirectional=True)
    for name, weight in whole.named_parameters():
        of = pair.backward_layer.layer if name.endswith("_reverse") else pair.forward_layer
        drawn(nn.ParameterList([weight]))
        getattr(of, name.removesuffix("_reverse")).data = weight.data
    x = torch.randn(3, STEPS, 3, dtype=torch.float64)
    for measure in (memory_horizon, gradient_time_scale):
        ours, theirs = (measure(model, x, lengths=LENGTHS) for model in (pair, whole))
        assert list(ours) == list(theirs) == [Place("model", 0, 0), Place("model", 0, 1)]
        for place, found in ours.items():
            one, other = found, theirs[place]
            if measure is memory_horizon:
                one, other = dict(norm=one.norm), dict(norm=other.norm)
            for name in one:
                assert one[name] == pytest.approx(other[name], rel=1e-9)
    backward = Place("model", 0, 1)
    for as_read in (False, True):
        reader = gw.Reversed(pair.backward_layer.layer, as_read=as_read)
        (found,) = memory_horizon(reader, x, lengths=LENGTHS).values()
        assert found.norm == pytest.approx(
            memory_horizon(whole, x, lengths=LENGTHS)[backward].norm, rel=1e-9
        )


class Mixed(nn.Module):
    """All kinds of recurrent modules."""

    def __init__(self):
        super().__init__()
        stack = gw.Stack(gw.MLSTM(3, 3, batch_first=True), layer().float())
        self.stack, self.both = stack, gw.Bidirectional(stack, copy.deepcopy(stack))
        self.hybrid = gw.HybridBlock(8, 2, batch_first=True)
        self.loop, self.torchs = Loop(nn.GRUCell(8, 2), None), nn.RNN(2, 2, batch_first=True)
        self.images = gw.ConvLSTM(1, 1, 1, batch_first=True)

    def forward(self, x):
        x = self.hybrid(self.both(x)[0])[0]
        x = self.torchs(torch.stack(self.loop(x), 1))[0]
        return self.images(x[:, :, None, None])[0]


def test_all_kinds_of_modules_have_the_names_of_their_traces():
    model, x = Mixed(), torch.randn(2, 4, 3)
    del model.stack
    traces = gw.trace(model, x)
    expected = [each.place for each in directions(traces)]
    assert {place.module for place in expected} == {
        *("both.0", "both.1", "hybrid.recurrent", "loop.cell", "torchs", "images")
    }
    assert set(memory_horizon(model, x)) == set(expected) == set(gradient_time_scale(model, x))


def test_a_reset_ends_the_memory():
    module = drawn(layer(num_layers=2, bidirectional=True))
    x = torch.randn(2, STEPS, 3, dtype=torch.float64)
    reset = torch.zeros(2, STEPS, dtype=torch.bool)
    reset[:, 4] = True
    found = memory_horizon(module, x, reset=reset, modules="model")
    ahead, back = (found[Place("model", 0, direction)] for direction in (0, 1))
    assert [bool(norm) for norm in ahead.norm] == [True] * 3 + [False] * 4
    assert [bool(norm) for norm in back.norm] == [True] * 4 + [False] * 3
    pieces = memory_horizon(module, x[:, 4:])[Place("model", 0, 0)]
    assert ahead.norm[:3] == pytest.approx(pieces.norm, rel=1e-9)
    scales = gradient_time_scale(module, x, reset=reset)[Place("model", 0, 0)]["c"]
    short = gradient_time_scale(module, x[:, 4:])[Place("model", 0, 0)]["c"]
    assert scales == pytest.approx(short, rel=1e-9)


def test_a_step_cell_whose_state_is_changed_has_no_memory_to_follow():
    class Changing(Loop):
        def forward(self, x):
            state = None
            for t, step in enumerate(x.unbind(1)):
                state = self.cell(step, state)
                state = 0.5 * state if t == 2 else state
            return state

    cell, x = nn.GRUCell(3, 4), torch.randn(2, 5, 3)
    for measure in (memory_horizon, gradient_time_scale):
        with pytest.raises(OptionError, match="'cell' is a step cell, and its call 4 gets a state"):
            measure(Changing(cell, None), x)

    class Twice(Loop):
        def forward(self, x):
            return super().forward(x[:, :3]), super().forward(x)

    (found,) = memory_horizon(Twice(cell, None), x).values()
    (expected,) = memory_horizon(Loop(cell, None), x[:, :3]).values()
    assert found.norm.tolist() == expected.norm.tolist()


class Doubled(nn.LSTM):
    def forward(self, input, hx=None):
        output, state = super().forward(2 * input, hx)
        return 2 * output, state


class DoubledCell(nn.LSTMCell):
    def forward(self, input, hx=None):
        return super().forward(2 * input, hx)


class Named(nn.LSTM):
    pass


def test_a_class_that_computes_something_else_has_no_horizon():
    x = torch.randn(2, 5, 3)
    for model, name in (
        (Doubled(3, 4, batch_first=True), "model"),
        (Loop(DoubledCell(3, 4), None), "cell"),
    ):
        with pytest.raises(BackendError, match=f"'{name}' is a Doubled.* computes something else"):
            memory_horizon(model, x)
    named = Named(3, 4, batch_first=True, num_layers=2, dropout=0.5).train()
    assert len(memory_horizon(named, x)) == 2
    assert named.training


def test_a_shift_register_reaches_exactly_to_its_end():
    """Unit j holds the input of j steps ago: with N + 1 units the horizon is N."""
    register = gw.Recurrent("rnn_relu", 1, 6, batch_first=True)
    with torch.no_grad():
        for weight in register.parameters():
            weight.zero_()
        register.weight_ih_l0[0] = 1
        register.weight_hh_l0[range(1, 6), range(5)] = 1
    (found,) = memory_horizon(register, torch.rand(2, 15, 1)).values()
    assert found.norm.tolist() == [1] * 6 + [0] * 9
    assert found.reach() == found.reach(0.01) == 5
    assert found.mean_lag == 2.5
    assert found.table()["lag"].tolist() == list(range(15))
    assert repr(found).startswith("<horizon of 5 steps")


@pytest.mark.parametrize(("name", "delay"), [("lstm", 5), ("gru", 3)])
def test_a_network_that_was_trained_to_copy_has_the_horizon_of_its_delay(name, delay):
    torch.manual_seed(0)
    rnn, head = gw.Recurrent(name, 1, 24, batch_first=True), nn.Linear(24, 1)
    weights = [*rnn.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-2)
    for _ in range(350):
        x = torch.randn(16, 25, 1).sign()
        loss = ((head(rnn(x)[0]) - torch.roll(x, delay, 1))[:, delay:] ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    assert loss < 0.05
    (found,) = memory_horizon(rnn, torch.randn(64, 25, 1).sign()).values()
    assert abs(found.reach() - delay) <= 1
    (before,) = memory_horizon(layer(name).float(), torch.randn(64, 25, 3)).values()
    assert before.reach() < delay - 1


def test_planted_units_have_their_time_scales_from_gradients():
    """f = .5, .9, .99 without recurrence, and what passes on to another unit counts."""
    module = gw.LSTM(2, 3, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
        held = torch.tensor([0.5, 0.9, 0.99])
        for suffix in ("", "_reverse"):
            getattr(module, f"bias_ih_l0{suffix}")[3:6] = torch.log(held / (1 - held))
    x, lengths = torch.randn(2, 150, 2), torch.tensor([150, 90])
    for scales in gradient_time_scale(module, x, lengths=lengths).values():
        assert scales["c"] == pytest.approx([1.4427, 9.4912, 99.4992], rel=1e-3)
    with torch.no_grad():
        module.weight_hh_l0[8, 0] = 8.0  # unit 2 reads unit 0
    found = gradient_time_scale(module, x, lengths=lengths)
    assert found[Place("model", 0, 0)]["c"][0] > 3
    assert found[Place("model", 0, 1)]["c"][0] == pytest.approx(1.4427, rel=1e-3)


def test_time_scales_are_those_of_a_loop_over_a_step_cell():
    """∂c_t/∂c_{t-k} of the upper layer's reverse direction, in double precision."""
    torch.manual_seed(0)
    module = gw.LSTM(3, 4, 2, batch_first=True, bidirectional=True, dtype=torch.float64)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(2)
    x = torch.randn(1, 6, 3, dtype=torch.float64)
    trace = module(x, trace=True)[2]
    below = torch.cat(trace["h"][0], 2).detach()[0].flip(0)
    cell = nn.LSTMCell(8, 4, dtype=torch.float64)
    for name, weight in cell.named_parameters():
        weight.data = getattr(module, f"{name}_l1_reverse").detach()
    state, states = None, []
    for step in below:
        state = cell(step[None], state)
        states.append(state[1])
    rows = [torch.autograd.grad(states[-1][0, j], states[0], retain_graph=True) for j in range(4)]
    norm = torch.stack([row[0][0] for row in rows]).square().sum(0).sqrt()
    found = gradient_time_scale(module, x)[Place("model", 1, 1)]["c"]
    assert found == pytest.approx((-5 / norm.log()).numpy(), rel=1e-9)
    sampled = gradient_time_scale(module, x, samples=500)[Place("model", 1, 1)]["c"]
    assert sampled == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize("name", gw.CELLS)
def test_every_cell_has_a_horizon_and_time_scales(name):
    cell, module = gw.CELLS[name], layer(name).float()
    x = torch.randn(2, 4, 3)
    (horizon,) = memory_horizon(module, x).values()
    assert horizon.norm[0] > 0
    (scales,) = gradient_time_scale(module, x).values()
    stopped = {"y", "y_i", "y_o"} if name == "lstm_1997_truncated" else set()
    assert set(scales) == set(cell.state) - stopped
    assert not any(np.isnan(scale).any() for scale in scales.values())


def test_bad_input_gives_no_number():
    module, x = layer().float(), torch.randn(2, 5, 3)
    with pytest.raises(OptionError, match="this Linear has no recurrent module"):
        memory_horizon(nn.Linear(3, 3), x)
    with pytest.raises(
        OptionError, match=r"no recurrent module 'modl' in this Recurrent .did you mean 'model'"
    ):
        memory_horizon(module, x, modules="modl")
    with pytest.raises(OptionError, match=r"expected a torch.nn.Module, not int"):
        memory_horizon(3, x)
    with pytest.raises(OptionError, match="samples must be a positive integer, not 0"):
        memory_horizon(module, x, samples=0)
    for share in (0, 1.5, float("nan"), "half"):
        with pytest.raises(OptionError, match="share must be a number above 0 and at most 1"):
            memory_horizon(module, x)["model", 0, 0].reach(share)
    with pytest.raises(DataError, match="have no steps"):
        memory_horizon(module, x, lengths=[0, 0])
    with pytest.raises(DataError, match="fewer than two steps"):
        gradient_time_scale(module, x[:, :1])
    idle = nn.ModuleDict({"used": module, "idle": layer()})
    idle.forward = lambda x: module(x)
    with pytest.raises(OptionError, match="did not call idle: leave it out with modules="):
        memory_horizon(idle, x)
    assert list(memory_horizon(idle, x, modules="used")) == [Place("used", 0, 0)]
    x[0, 2] = math.inf
    with pytest.raises(
        DataError, match=r"gradient of the output of model, layer 0 .* is not finite"
    ):
        memory_horizon(module, x)
    with torch.no_grad():
        module.weight_ih_l0.zero_()
    with pytest.raises(DataError, match="with respect to its input is zero: look at the weights"):
        memory_horizon(module, torch.randn(2, 5, 3))
