"""How layers begin: which gates are meant, and the numbers that their papers state."""

import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import gatewise as gw
from cells import OWN_CELLS
from gatewise import exp, sigmoid, tanh
from gatewise.errors import OptionError
from gatewise.nn import init

pytestmark = pytest.mark.usefixtures("one_thread")


@gw.cell(gates="i f g", state="h c", feedback={"h": "i g"}, shared_gates="i")
def shared_input(a, s):
    i, f = sigmoid(a.i), sigmoid(a.f)
    c = f * s.c + i * tanh(a.g)
    return dict(c=c, h=tanh(c))


@gw.cell(gates="w g keep", state="h c")
def shut_to_write(a, s):
    """An input gate that is open where its pre-activation is low, and a growing forget gate."""
    c = sigmoid(a.keep) * s.c + (1 - sigmoid(a.w)) * tanh(a.g)
    return dict(c=c, h=c)


@gw.cell(gates="f g")
def growing(a, s):
    """No forget gate: it multiplies by what has no bound."""
    return dict(h=exp(a.f) * s.h + tanh(a.g))


@gw.cell(gates="c f z", state="h c z")
def named_alike(a, s):
    """Gates and states with each other's names."""
    z = sigmoid(a.f) * s.z + tanh(a.c)
    c = sigmoid(a.z) * s.c + z
    return dict(z=z, c=c, h=tanh(c))


# by the equations in the papers; the sign is that of the pre-activation that keeps, or lets in
FORGET = {
    "lstm": {"f": 1},
    "peephole": {"f": 1},
    "coupled": {"f": 1},
    "nig": {"f": 1},
    "fgr": {"f": 1},
    "gru": {"z": 1},
    "gru_2014": {"z": 1},
    "mgu": {"f": -1},
    "mingru": {"z": -1},
    "minlstm": {"f": 1},
    "slstm": {"f": 1},
    "lem": {"d": -1, "e": -1},
}
INPUT = {
    "lstm": {"i": 1},
    "peephole": {"i": 1},
    "fgr": {"i": 1},
    "minlstm": {"i": 1},
    "slstm": {"i": 1},
}
OWN_FORGET = {
    "stabilised": {"f": 1},
    "both_fed_back": {"f": 1},
    "fed_late": {"z": 1},
    "two_fed_late": {"d": -1},
}


@pytest.mark.parametrize("name", FORGET)
def test_the_gates_of_the_catalogue(name):
    assert init.forget_gates(gw.CELLS[name]) == FORGET[name]
    assert init.input_gates(gw.CELLS[name]) == INPUT.get(name, {})


def test_the_gates_of_users_cells():
    for name, gates in OWN_FORGET.items():
        assert init.forget_gates(OWN_CELLS[name]) == gates
    assert init.forget_gates(shut_to_write) == {"keep": 1}
    assert init.input_gates(shut_to_write) == {"w": -1}
    assert init.forget_gates(named_alike) == {"f": 1, "z": 1}
    assert init.input_gates(named_alike) == {}
    init.forget_gates(named_alike).clear()  # a copy
    assert init.forget_gates(named_alike)
    with torch.inference_mode():
        assert init.forget_gates(gw.cell(gates="q")(lambda a, s: dict(h=sigmoid(a.q) * s.h)))


@pytest.mark.parametrize("name", ["rnn_tanh", "lstm_1997", "lstm_1997_truncated", "nfg", growing])
def test_a_cell_without_a_forget_gate(name):
    layer = gw.Recurrent(name, 3, 6)
    own = layer.cell.name
    for function in (init.forget_bias_, init.chrono_):
        with pytest.raises(OptionError, match=rf"the cell {own} has no forget gate: none of its"):
            function(layer, 5)


def changed(function, layer, *given):
    """A layer's parameters before and after, and which of them are not as they were."""
    before = {n: p.detach().clone() for n, p in layer.named_parameters()}
    assert function(layer, *given) is layer
    after = {n: p.detach() for n, p in layer.named_parameters()}
    assert all(p.requires_grad and p.grad_fn is None for p in layer.parameters())
    return before, after, {n for n in before if not torch.equal(before[n], after[n])}


@pytest.mark.parametrize("name", ["lstm", "gru", "mingru", "lem", "slstm", "minlstm"])
def test_forget_bias(name):
    layer = gw.Recurrent(name, 3, 6, num_layers=2, bidirectional=True)
    before, after, names = changed(init.forget_bias_, layer, 1.5)
    assert names == {n for n in before if n.startswith("bias")}
    gates = layer.cell.gates
    for n in names:
        for gate, old, new in zip(
            gates, *(of[n].chunk(len(gates)) for of in (before, after)), strict=True
        ):
            if gate in FORGET[name]:
                value = 1.5 * FORGET[name][gate] if "ih" in n else 0
                assert (new == value).all()
            else:
                assert torch.equal(new, old)


@pytest.mark.parametrize("name", FORGET)
def test_forget_bias_keeps_a_state(name):
    """Whatever the sign: with a great value and the input gates shut, a state stays as it was."""
    layer = gw.Recurrent(name, 3, 6)
    gates = layer.cell.gates
    shut = {gates.index(gate): -40.0 * sign for gate, sign in INPUT.get(name, {}).items()}
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        for k, value in shut.items():
            layer.bias_ih_l0[6 * k : 6 * k + 6] = value
    x = torch.zeros(30, 1, 3)
    start = [torch.full((1, 1, 6), 0.7) for _ in layer.cell.state]

    def left():
        end = layer(x, tuple(start) if len(start) > 1 else start[0])[1]
        each = end if isinstance(end, tuple) else (end,)
        return [bool(torch.allclose(s, start[0], atol=1e-4)) for s in each]

    assert not any(left()) or name in ("minlstm", "slstm")  # which keep what nothing is added to
    init.forget_bias_(layer, 40.0)
    assert any(left())


@pytest.mark.parametrize("name", ["lstm", "gru", "mgu", "slstm", "coupled", "minlstm"])
def test_chrono(name):
    """b_f = log u, u from U(1, T - 1), of each unit; b_i = -b_f."""
    torch.manual_seed(0)
    layer = gw.Recurrent(name, 3, 400, num_layers=2, dtype=torch.float64)
    before, after, names = changed(init.chrono_, layer, 100)
    gates = layer.cell.gates

    def part(n, gate):
        return after[n].chunk(len(gates))[gates.index(gate)]

    seen = []
    for k in range(2):
        ((forget, sign),) = FORGET[name].items()
        kept = sign * part(f"bias_ih_l{k}", forget)
        u = kept.exp()
        assert 1 <= u.min() < 3
        assert 97 < u.max() <= 99
        assert abs(u.mean() - 50) < 5 * 98 / math.sqrt(12 * 400)
        assert abs((u < 25.5).double().mean() - 0.25) < 0.11
        for gate in INPUT.get(name, {}):
            assert torch.equal(part(f"bias_ih_l{k}", gate), -kept)
        for gate in gates:
            mine = gate in FORGET[name] or gate in INPUT.get(name, {})
            own = f"bias_hh_l{k}"
            if own in after:
                old = before[own].chunk(len(gates))[gates.index(gate)]
                assert torch.equal(part(own, gate), torch.zeros_like(old) if mine else old)
        seen.append(kept)
    assert not torch.equal(*seen)
    assert all(n.startswith("bias") for n in names)


def test_chrono_for_two_steps_and_with_the_seed():
    layer = init.chrono_(gw.LSTM(3, 6), 2)
    assert not layer.bias_ih_l0[:12].any()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(init.chrono_(gw.LSTM(3, 6), 10).bias_ih_l0[6:12].detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_shared_gates_take_the_first_of_their_block():
    layer = gw.Recurrent(shared_input, 3, 6, block_size=3, bidirectional=True)
    init.chrono_(layer, 50)
    for bias in (layer.bias_ih_l0, layer.bias_ih_l0_reverse):
        assert bias.shape == (2 + 6 + 6,)
        assert torch.equal(bias[:2], -bias[2:8:3])
        assert bias[2:8].unique().numel() == 6
    init.forget_bias_(layer, 2)
    assert (layer.bias_ih_l0[2:8] == 2).all()
    assert not layer.bias_hh_l0[2:8].any()


def is_orthogonal(matrix, gain=1.0, tolerance=1e-5):
    n, m = matrix.shape
    gram = matrix @ matrix.T if n <= m else matrix.T @ matrix
    eye = torch.eye(min(n, m), dtype=matrix.dtype)
    return bool((gram - gain**2 * eye).abs().max() < tolerance)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (dict(cell="lstm", bidirectional=True, num_layers=2), (6, 6)),
        (dict(cell="lstm", proj_size=4), (6, 4)),
        (dict(cell=OWN_CELLS["both_fed_back"]), (6, 12)),
        (dict(cell="gru", dtype=torch.float64), (6, 6)),
    ],
)
def test_orthogonal(options, shape):
    layer = gw.Recurrent(input_size=3, hidden_size=6, **options)
    _, after, names = changed(init.orthogonal_, layer, 1.3)
    assert names == {n for n in after if "weight_hh" in n}
    tolerance = 1e-12 if "dtype" in options else 1e-5
    matrices = [gate for n in sorted(names) for gate in after[n].split(6)]
    for matrix in matrices:
        assert matrix.shape == shape
        assert is_orthogonal(matrix, 1.3, tolerance)
    assert len(torch.stack(matrices).unique(dim=0)) == len(matrices)


def test_orthogonal_where_weights_are_structured():
    heads = init.orthogonal_(gw.LSTM(3, 6, recurrent_blocks=2))
    for block in heads.weight_hh_l0.detach().split(3):
        assert is_orthogonal(block)
    greff = init.orthogonal_(gw.Recurrent("fgr", 3, 6)).weight_hh_l0.detach()
    for k, gate in enumerate("ifgo"):
        rows = greff[6 * k : 6 * k + 6]
        assert is_orthogonal(rows[:, :6] if gate == "g" else rows)
    assert not greff[12:18, 6:].any()
    block = init.orthogonal_(gw.Recurrent("lstm_1997_truncated", 3, 6, block_size=3))
    for gate in block.weight_hh_l0.detach().split([2, 6, 2]):
        assert gate.shape[1] == 6 + 2 + 2
        assert is_orthogonal(gate)
    with pytest.raises(OptionError, match="mingru has none"):
        init.orthogonal_(gw.Recurrent("mingru", 3, 6))
    half = init.orthogonal_(gw.LSTM(3, 6, dtype=torch.bfloat16)).weight_hh_l0.detach()
    assert is_orthogonal(half[:6].float(), tolerance=0.02)


def test_xavier_input():
    torch.manual_seed(0)
    layer = gw.LSTM(40, 60, num_layers=2, bidirectional=True)
    _, after, names = changed(init.xavier_input_, layer)
    assert names == {n for n in after if "weight_ih" in n}
    for n in names:
        for gate in after[n].chunk(4):
            bound = math.sqrt(6 / sum(gate.shape))
            assert 0.99 * bound < gate.abs().max() <= bound
            assert abs(gate.std() - bound / math.sqrt(3)) < 0.03 * bound
    shared = gw.Recurrent(shared_input, 40, 60, block_size=20)
    init.xavier_input_(shared)
    assert shared.weight_ih_l0[:3].abs().max() > math.sqrt(6 / 100)  # three rows: fewer, larger


def test_keras():
    """Glorot's bound with all gates' columns, one orthogonal matrix of all gates, biases 0 and 1."""
    torch.manual_seed(0)
    layer = gw.LSTM(40, 30, num_layers=2, bidirectional=True, layer_norm=True)
    _, after, names = changed(init.keras_, layer)
    assert names == {n for n in after if not n.startswith("norm")}
    for n, value in after.items():
        if "weight_ih" in n:
            bound = math.sqrt(6 / sum(value.shape))
            assert value.shape[0] == 120
            assert 0.99 * bound < value.abs().max() <= bound
            assert abs(value.std() - bound / math.sqrt(3)) < 0.03 * bound
        elif "weight_hh" in n:
            np.testing.assert_allclose(value.T @ value, np.eye(30), atol=1e-5)
        elif "bias" in n:
            expected = torch.zeros(120)
            expected[30:60] = 1.0 if "bias_ih" in n else 0.0
            assert torch.equal(value, expected)
    gru = init.keras_(gw.GRU(3, 6))
    assert not gru.bias_ih_l0.any()
    assert not gru.bias_hh_l0.any()
    bare = init.keras_(gw.LSTM(3, 6, bias=False))
    torch.testing.assert_close(bare.weight_hh_l0.T @ bare.weight_hh_l0, torch.eye(6))
    alone = init.keras_(gw.Recurrent("mingru", 3, 6))
    assert not alone.bias_ih_l0.any()


@pytest.mark.parametrize(
    "function", [partial(init.chrono_, longest=9), init.keras_, init.orthogonal_]
)
def test_a_single_step_begins_as_a_layer_of_one(function):
    step, layer = gw.LSTMCell(3, 6), gw.LSTM(3, 6)
    for each in (step, layer):
        torch.nn.init.zeros_(each.bias_ih if each is step else each.bias_ih_l0)
        torch.manual_seed(5)
        assert function(each) is each
    changed_by_it = {
        init.orthogonal_: ["weight_hh"],
        init.keras_: ["weight_ih", "weight_hh", "bias_ih", "bias_hh"],
    }.get(function, ["bias_ih"])
    for name in changed_by_it:
        assert torch.equal(getattr(step, name), getattr(layer, name + "_l0"))


def test_convolutions():
    layer = gw.ConvLSTM(2, 6, 3, num_layers=2, bidirectional=True, peephole=True)
    _, after, names = changed(init.forget_bias_, layer, 2.0)
    assert names == {n for n in after if n.startswith("bias")}
    for n in names:
        assert (after[n][6:12] == (2.0 if "ih" in n else 0.0)).all()
    _, after, _ = changed(init.chrono_, layer, 20)
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        kept = after["bias_ih" + suffix][6:12]
        assert torch.equal(after["bias_ih" + suffix][:6], -kept)
        assert (kept >= 0).all()
        assert (kept <= math.log(19)).all()
    _, after, names = changed(init.xavier_input_, layer)
    assert names == {n for n in after if n.startswith("weight_ih")}
    for n in names:
        bound = math.sqrt(6 / (9 * (6 + after[n].shape[1])))
        assert after[n].abs().max() <= bound
        assert after[n].abs().max() > 0.9 * bound


X = torch.nn.utils.parametrizations


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: init.forget_bias_(gw.LSTM(3, 6, bias=False), 1), "forget_bias_ sets biases, and LSTM(3, "
            "6, bias=False) has bias=False"),
        (lambda: init.chrono_(gw.GRU(3, 6, bias=False), 9), "chrono_ sets biases, and GRU(3, 6, bias="),
        (lambda: init.forget_bias_(nn.LSTM(3, 6), 1), "takes a Recurrent, a RecurrentCell or a "
            "ConvRecurrent, not LSTM"),
        (lambda: init.orthogonal_(torch.zeros(3)), "orthogonal_ takes a Recurrent or a "
            "RecurrentCell, not Tensor"),
        (lambda: init.orthogonal_(gw.ConvLSTM(1, 2, 3)), "RecurrentCell, not ConvLSTM"),
        (lambda: init.keras_(gw.ConvLSTM(1, 2, 3)), "keras_ takes a Recurrent or a RecurrentCell, not "),
        (lambda: init.forget_bias_(gw.LSTM(3, 6), math.nan), "must be a finite number, not nan"),
        (lambda: init.forget_bias_(gw.LSTM(3, 6), "1"), "must be a finite number, not '1'"),
        (lambda: init.chrono_(gw.LSTM(3, 6), 1.5), "longest must be a number of steps, at least 2, not "
            "1.5"),
        (lambda: init.chrono_(gw.LSTM(3, 6), math.inf), "at least 2, not inf"),
        (lambda: init.chrono_(gw.LSTM(3, 6), True), "not True"),
        (lambda: init.keras_(gw.LSTM(3, 6, recurrent_blocks=2)), "keras_ needs plain recurrent weights, "
            "and LSTM(3, 6, recurrent_blocks=2) with the cell lstm stores them otherwise. Use xavier_input_"),
        (lambda: init.orthogonal_(X.weight_norm(gw.LSTM(3, 6), "weight_hh_l0")), "weight_hh_l0 is not a "
            "plain parameter: it is parametrized or pruned; initialise the layer before that"),
    ],
)  # fmt: skip
def test_what_is_refused(make, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make()
