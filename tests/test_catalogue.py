"""Every built-in cell against its paper in NumPy, torch's layers and ONNX Runtime."""

import functools
import itertools
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import gatewise as gw
from catalogue_steps import PAPERS, gradients, network
from gatewise.errors import OptionError, ShapeError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

BACKENDS = ("reference", "cpu", "auto")
OF_UNITS = ("gru", "gru_2014", "mgu", "mingru", "minlstm", "lem")  # h itself is in the equations
FED_LATE = ("gru_2014", "mgu", "lem")  # a gate is fed with a value of the step itself
OF_INPUT = ("mingru", "minlstm")  # nothing is fed back
# T, B, I, H; the third has more units than any vector has doubles, and a rest
SIZES = {
    "least": (1, 1, 1, 1),
    "odd": (5, 3, 2, 3),
    "wide": (3, 2, 5, 17),
    "no steps": (0, 2, 2, 3),
}
BOTH_WAYS = dict(num_layers=2, bidirectional=True)
close = functools.partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def layer_of(name, inputs, hidden, backend="auto", dtype=torch.float64, **options):
    """The same weights whenever it is called with the same sizes."""
    torch.manual_seed(11)
    return gw.Recurrent(name, inputs, hidden, dtype=dtype, backend=backend, **options)


def arrays(layer):
    return {name: value.numpy() for name, value in layer.state_dict().items()}


def drawn(layer, T, B, seed=2):
    """An input and initial states; a normaliser, which the cell divides by, is positive."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(T, B, layer.input_size, generator=generator, dtype=torch.float64)
    stack = layer.num_layers * (1 + layer.bidirectional)
    states = []
    for name, size in zip(layer.cell.state, layer.config.state_sizes, strict=True):
        s = 2 * torch.rand(stack, B, size, generator=generator, dtype=torch.float64) - 1
        states.append(1.5 + s if name == "n" else s)
    return x, tuple(states)


def called(layer, x, states, **options):
    """Output and final states in one tuple."""
    output, final = layer(x, states if len(states) > 1 else states[0], **options)
    return output, *((final,) if isinstance(final, torch.Tensor) else final)


def expected(layer, x, states, lengths=None):
    found = network(layer.cell.name, arrays(layer), x.numpy(), [s.numpy() for s in states], lengths)
    return tuple(map(torch.from_numpy, found))


def set_weights(layer, change):
    """``change`` is given a dict of the layer's weights, to alter in place or to return anew."""
    weights = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.load_state_dict(change(weights) or weights)


def gate_rows(layer, gate):
    k = layer.cell.gates.index(gate)
    return slice(k * layer.hidden_size, (k + 1) * layer.hidden_size)


def test_every_cell_has_its_paper_and_its_layout():
    assert list(gw.CELLS) == [cell.name for cell in gw.CELLS.values()]
    assert set(gw.CELLS) == set(PAPERS)
    for name, (gates, state, params, _) in PAPERS.items():
        found = gw.CELLS[name]
        assert (name, found.gates, found.state, found.params) == (name, gates, state, params)


@pytest.mark.pairwise
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", PAPERS)
def test_values_are_the_papers(name, size, backend):
    T, B, inputs, hidden = size
    layer = layer_of(name, inputs, hidden, backend)
    x, states = drawn(layer, T, B)
    apart = torch.stack([x, -x], -1).transpose(0, 1).contiguous().transpose(0, 1)[..., 0]
    assert torch.equal(apart, x)
    assert x.numel() < 2 or not apart.is_contiguous()
    zeros = tuple(map(torch.zeros_like, states))
    for given, start, learning in itertools.product((x, apart), (states, zeros), (False, True)):
        with torch.set_grad_enabled(learning):
            found = called(layer, given, start)
        close(tuple(t.detach() for t in found), expected(layer, x, start))
    with torch.no_grad():
        close(layer(x)[0], expected(layer, x, zeros)[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PAPERS)
def test_values_of_a_stack_both_ways_with_lengths(name, backend):
    lengths = [3, 0, 6, 1]
    for options in ({}, dict(bias=False)):
        layer = layer_of(name, 2, 3, backend, **BOTH_WAYS, **options)
        x, states = drawn(layer, 6, 4)
        close(called(layer, x, states), expected(layer, x, states))
        found = called(layer, x, states, lengths=lengths)
        close(found, expected(layer, x, states, lengths))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in PAPERS if name not in OF_UNITS])
def test_values_of_a_projected_cell(name, backend):
    layer = layer_of(name, 2, 5, backend, proj_size=3, **BOTH_WAYS)
    x, states = drawn(layer, 4, 3)
    close(called(layer, x, states), expected(layer, x, states))


# T, B, I, H, the layer's options and the lengths
LEARNT = {
    "least": ((1, 1, 1, 1), {}, None),
    "odd": ((4, 3, 2, 3), {}, None),
    "wide": ((2, 1, 1, 9), {}, None),
    "both ways": ((3, 3, 1, 2), BOTH_WAYS, [2, 0, 3]),
}


def seeds(shapes):
    """One fixed gradient for each result."""
    rng = np.random.default_rng(5)
    return [rng.standard_normal(shape) for shape in shapes]


@functools.cache
def papers_gradients(name, kind):
    """Of a loss of the output and all final states: to every weight, the input and every state."""
    (T, B, inputs, hidden), options, lengths = LEARNT[kind]
    layer = layer_of(name, inputs, hidden, **options)
    x, states = drawn(layer, T, B)
    weights = arrays(layer)
    given = {str(k): s.numpy() for k, s in enumerate(states)}
    factors = seeds([s.shape for s in expected(layer, x, states)])

    def loss(at):
        ends = network(name, {w: at[w] for w in weights}, at["x"], [at[s] for s in given], lengths)
        return sum((end * factor).sum() for end, factor in zip(ends, factors, strict=True))

    found = gradients(loss, {**weights, "x": x.numpy(), **given})
    return {key: torch.from_numpy(value) for key, value in found.items()}


@pytest.mark.quick("lstm-odd-reference")
@pytest.mark.pairwise
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "kind",
    # the backends' own tests have other sizes
    [
        pytest.param(kind, marks=pytest.mark.slow if kind in ("least", "wide") else ())
        for kind in LEARNT
    ],
)
@pytest.mark.parametrize("name", PAPERS)
def test_gradients_are_the_papers(name, kind, backend):
    (T, B, inputs, hidden), options, lengths = LEARNT[kind]
    layer = layer_of(name, inputs, hidden, backend, **options)
    x, states = drawn(layer, T, B)
    leaves = [t.requires_grad_() for t in (x, *states)]
    ends = called(layer, x, states, lengths=lengths)
    factors = map(torch.from_numpy, seeds([end.shape for end in ends]))
    loss = sum((end * factor).sum() for end, factor in zip(ends, factors, strict=True))
    names = [*dict(layer.named_parameters()), "x", *map(str, range(len(states)))]
    wanted = [*layer.parameters(), *leaves]
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    close(dict(zip(names, found, strict=True)), papers_gradients(name, kind))


def test_the_complex_step_is_a_gradient():
    """Against what central differences give of the same NumPy function."""
    exact = papers_gradients("slstm", "odd")
    (T, B, inputs, hidden), _, _ = LEARNT["odd"]
    layer = layer_of("slstm", inputs, hidden)
    x, states = drawn(layer, T, B)
    factors = seeds([s.shape for s in expected(layer, x, states)])
    for name, place in (("weight_ih_l0", (4, 1)), ("weight_hh_l0", (2, 0)), ("bias_hh_l0", (9,))):
        losses = []
        for step in (1e-5, -1e-5):
            moved = arrays(layer)
            moved[name] = moved[name].copy()
            moved[name][place] += step
            ends = network("slstm", moved, x.numpy(), [s.numpy() for s in states])
            losses.append(sum((e * f).sum() for e, f in zip(ends, factors, strict=True)))
        assert exact[name][place] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6)
        assert abs(exact[name][place]) > 1e-3


def swapped(layer, rows, others):
    """The layer, with these two gates' weights in each other's place."""

    def change(weights):
        for key, value in weights.items():
            if key.startswith(("weight_ih", "weight_hh", "bias_")):
                kept = value.clone()
                value[rows], value[others] = kept[others], kept[rows]

    set_weights(layer, change)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [n for n, each in PAPERS.items() if len(each.gates) > 1])
def test_swapped_gates_are_seen(name, backend):
    """The comparisons above can fail: any two gates change places, and the output is another."""
    for pair in itertools.combinations(PAPERS[name].gates, 2):
        layer = layer_of(name, 2, 3, backend)
        x, states = drawn(layer, 5, 3)
        true = expected(layer, x, states)[0]
        swapped(layer, *(gate_rows(layer, gate) for gate in pair))
        assert (called(layer, x, states)[0] - true).abs().max() > 1e-3, pair
        close(called(layer, x, states), expected(layer, x, states))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [n for n, each in PAPERS.items() if each.params])
def test_swapped_peepholes_are_seen(name, backend):
    for first, second in itertools.combinations(PAPERS[name].params, 2):
        layer = layer_of(name, 2, 3, backend)
        x, states = drawn(layer, 5, 3)
        true = expected(layer, x, states)[0]
        one, other = first + "_l0", second + "_l0"
        set_weights(layer, lambda w, a=one, b=other: {**w, a: w[b], b: w[a]})
        assert (called(layer, x, states)[0] - true).abs().max() > 1e-3, (first, second)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PAPERS)
def test_one_number_moved_is_seen(name, backend):
    """Of every tensor of weights one number, by a hundredth."""
    layer = layer_of(name, 2, 3, backend)
    x, states = drawn(layer, 4, 2)
    true = expected(layer, x, states)
    for key, value in layer.state_dict().items():
        if not value.numel():
            continue
        other = layer_of(name, 2, 3, backend)
        with torch.no_grad():
            other.get_parameter(key).view(-1)[0] += 0.01
        moved = called(other, x, states)
        assert max((a - b).abs().max() for a, b in zip(moved, true, strict=True)) > 1e-6, key


# What is known of the cells among themselves


def opened(layer, gate):
    """The layer, with a gate that is one whatever comes: sigmoid(1000) is 1 in every precision."""

    def change(weights):
        rows = gate_rows(layer, gate)
        for key, value in weights.items():
            if key.startswith(("weight_ih", "weight_hh", "bias_")):
                value[rows] = 1000.0 if key.startswith("bias_ih") else 0.0
            elif key.startswith(f"p{gate}_"):
                value.zero_()

    set_weights(layer, change)


def as_lesser(layer, lesser):
    """What ``lesser`` has of the layer's weights, gate by gate and peephole by peephole."""
    rows = [gate_rows(layer, gate) for gate in lesser.cell.gates]
    weights = layer.state_dict()
    found = {}
    for key, value in lesser.state_dict().items():
        kept = weights[key]
        if not key.startswith("p"):
            kept = torch.cat([kept[each] for each in rows])
        found[key] = kept[:, : value.shape[1]] if key.startswith("weight_hh") else kept
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "gate"), [("nig", "i"), ("nfg", "f"), ("nog", "o")])
def test_a_cell_without_a_gate_is_one_with_the_gate_open(name, gate, backend):
    whole, lesser = layer_of("peephole", 2, 3, backend), layer_of(name, 2, 3, backend)
    opened(whole, gate)
    lesser.load_state_dict(as_lesser(whole, lesser))
    x, states = drawn(whole, 6, 3)
    # to multiply by one is exact; what is left is the order in which a product of other sizes is summed
    rounding = dict(rtol=0, atol=4e-15)
    torch.testing.assert_close(called(lesser, x, states), called(whole, x, states), **rounding)


def without_peepholes(weights):
    for key, value in weights.items():
        if key.startswith("p"):
            value.zero_()


def without_gate_recurrence(weights):
    weights["weight_hh_l0"][:, weights["pi_l0"].numel() :] = 0


def without_feedback_of_gates(weights):
    weights["weight_hh_l0"][:, weights["weight_hh_l0"].shape[0] // 3 :] = 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "change", "plain"),
    [
        ("peephole", without_peepholes, "lstm"),
        ("cifg", without_peepholes, "coupled"),
        ("fgr", without_gate_recurrence, "peephole"),
        ("lstm_1997_truncated", without_feedback_of_gates, "lstm_1997"),
        ("np", lambda weights: None, "lstm"),
    ],
)
def test_a_cell_less_what_it_adds_is_the_plain_one(name, change, plain, backend):
    layer, lesser = layer_of(name, 2, 3, backend), layer_of(plain, 2, 3, backend)
    x, states = drawn(layer, 6, 3)
    if name == "lstm_1997_truncated":  # y is h, cut
        states = (states[0], states[1], states[0], *states[3:])
    given = states[: len(lesser.cell.state)]
    lesser.load_state_dict(as_lesser(layer, lesser))
    if name != "np":
        assert (called(layer, x, states)[0] - called(lesser, x, given)[0]).abs().max() > 1e-3
    set_weights(layer, change)
    found = called(layer, x, states)[: 1 + len(given)]
    close(found, called(lesser, x, given))


@pytest.mark.parametrize("name", ["nig", "nfg", "nog", "cifg"])
def test_three_gates_have_three_quarters_of_the_weights(name):
    def sizes(of):
        return {k: v.numel() for k, v in layer_of(of, 5, 7).state_dict().items() if k[0] != "p"}

    assert {k: 4 * n for k, n in sizes(name).items()} == {k: 3 * n for k, n in sizes("np").items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_full_gate_recurrence_goes_to_the_gates_alone(backend):
    """Nine of its twelve further matrices are in use; g's three change nothing and have no gradient."""
    layer = layer_of("fgr", 2, 3, backend)
    x, states = drawn(layer, 5, 3)
    ends = called(layer, x, states)
    torch.autograd.backward(ends, [torch.ones_like(end) for end in ends])
    rows = gate_rows(layer, "g")
    gradient = layer.weight_hh_l0.grad
    assert not gradient[rows, 3:].any()
    assert gradient[rows, :3].all()
    assert all(gradient[gate_rows(layer, gate)].all() for gate in "ifo")
    with torch.no_grad():
        layer.weight_hh_l0[rows, 3:] = 7.0
    assert all(map(torch.equal, called(layer, x, states), ends))


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_the_reset_stands_matters_unless_it_is_open(backend):
    layers = [layer_of(name, 2, 3, backend) for name in ("gru", "gru_2014")]
    x, states = drawn(layers[0], 6, 3)
    before, after = (called(layer, x, states)[0] for layer in layers)
    assert (before - after).abs().max() > 1e-3
    for layer in layers:
        opened(layer, "r")
    close(*(called(layer, x, states) for layer in layers))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_error_of_1997_stays_as_it_is(backend):
    """The constant error carousel: nothing that comes back through it grows or shrinks."""
    shares = {}
    for name in ("lstm_1997", "lstm_1997_truncated"):
        layer = layer_of(name, 2, 3, backend)
        x, states = drawn(layer, 9, 3)
        first = states[1].requires_grad_()
        final = called(layer, x, states)[2]
        (shares[name],) = torch.autograd.grad(final.sum(), first)
    assert torch.equal(shares["lstm_1997_truncated"], torch.ones(1, 3, 3, dtype=torch.float64))
    assert (shares["lstm_1997"] - 1).abs().max() > 1e-3


@pytest.mark.pairwise
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 3e-4)])
@pytest.mark.parametrize("shift", [1000.0, -1000.0])
def test_the_scale_of_the_exponential_gate_cancels(shift, dtype, tolerance, backend):
    """exp(1000) is beyond every float, exp(-1000) below; h is the same, whatever all input gates share."""
    layer = layer_of("slstm", 2, 3, backend, dtype)
    x = drawn(layer, 30, 3)[0].to(dtype)
    with torch.no_grad():
        output, (_, _, _, m) = layer(x)
        layer.bias_ih_l0[gate_rows(layer, "i")] += shift
        again, (_, _, _, moved) = layer(x)
    assert output.abs().max() > 0.1
    torch.testing.assert_close(again, output, rtol=tolerance, atol=tolerance)
    assert (m.abs() < 100).all()
    assert (moved.sign() * moved.abs().clamp(max=900) == shift * 0.9).all()


@pytest.mark.parametrize("name", OF_INPUT)
def test_cells_of_the_input_alone_have_nothing_fed_back(name):
    layer = layer_of(name, 2, 3)
    assert layer.weight_hh_l0.shape == (3 * len(PAPERS[name].gates), 0)
    assert "bias_hh_l0" not in layer.state_dict()
    assert layer.cell.feedback == ()


# torch's own layers


TORCHS = {
    "rnn_tanh": (nn.RNN, {}),
    "rnn_relu": (nn.RNN, dict(nonlinearity="relu")),
    "lstm": (nn.LSTM, {}),
    "lstm projected": (nn.LSTM, dict(proj_size=3)),
    "np": (nn.LSTM, {}),
    "np projected": (nn.LSTM, dict(proj_size=3)),
    "gru": (nn.GRU, {}),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TORCHS)
def test_values_and_gradients_are_torchs(name, backend):
    make, options = TORCHS[name]
    projected = {key: options[key] for key in options if key == "proj_size"}
    ours = layer_of(name.split()[0], 2, 5, backend, **BOTH_WAYS, **projected)
    theirs = make(2, 5, **BOTH_WAYS, **options).double()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    results = []
    for layer in (ours, theirs):
        x, states = drawn(ours, 7, 3)
        leaves = [t.requires_grad_() for t in (x, *states)]
        ends = called(layer, x, states)
        factors = map(torch.from_numpy, seeds([end.shape for end in ends]))
        loss = sum((end * factor).sum() for end, factor in zip(ends, factors, strict=True))
        results.append([*ends, *torch.autograd.grad(loss, [*leaves, *layer.parameters()])])
    close(*results)


# ONNX Runtime: its operators' gates, each one of the cell's, or one less it ("-f"), or always "open",
# or of no weight at all (""); peepholes in the operator's order; the operator's further attributes.
# Of its activations Affine(1, 0) is the identity, and a ScaledTanh the 1997 paper's squashing.

ONNX = {
    "rnn_tanh": ("RNN", ["h"], [], {}),
    "rnn_relu": ("RNN", ["h"], [], dict(activations=["Relu"])),
    "lstm": ("LSTM", ["i", "o", "f", "g"], [], {}),
    "lstm_1997": ("LSTM", ["i", "o", "open", "g"], [], dict(
        activations=["Sigmoid", "ScaledTanh", "ScaledTanh"],
        activation_alpha=[2.0, 1.0], activation_beta=[0.5, 0.5])),
    "peephole": ("LSTM", ["i", "o", "f", "g"], ["i", "o", "f"], {}),
    "coupled": ("LSTM", ["-f", "o", "", "g"], [], dict(input_forget=1)),
    "nig": ("LSTM", ["open", "o", "f", "g"], ["", "o", "f"], {}),
    "nfg": ("LSTM", ["i", "o", "open", "g"], ["i", "o", ""], {}),
    "nog": ("LSTM", ["i", "open", "f", "g"], ["i", "", "f"], {}),
    "niaf": ("LSTM", ["i", "o", "f", "g"], ["i", "o", "f"], dict(
        activations=["Sigmoid", "Affine", "Tanh"], activation_alpha=[1.0], activation_beta=[0.0])),
    "noaf": ("LSTM", ["i", "o", "f", "g"], ["i", "o", "f"], dict(
        activations=["Sigmoid", "Tanh", "Affine"], activation_alpha=[1.0], activation_beta=[0.0])),
    "cifg": ("LSTM", ["-f", "o", "", "g"], ["-f", "o", ""], dict(input_forget=1)),
    "np": ("LSTM", ["i", "o", "f", "g"], [], {}),
    "gru": ("GRU", ["z", "r", "n"], [], dict(linear_before_reset=1)),
    "gru_2014": ("GRU", ["z", "r", "n"], [], dict(linear_before_reset=0)),
    "mgu": ("GRU", ["-f", "f", "n"], [], dict(linear_before_reset=0)),
    "mingru": ("GRU", ["-z", "", "n"], [], dict(
        activations=["Sigmoid", "Affine"], activation_alpha=[1.0], activation_beta=[0.0])),
}  # fmt: skip


def onnx_gates(layer, gates, kind, suffix):
    """One kind of weights as ONNX stacks it. A sigmoid of -x is one less the sigmoid of x."""
    hidden = layer.hidden_size
    weights = arrays(layer)
    if layer.cell.name in OF_INPUT and kind.endswith("hh"):  # the operator has them all the same
        rows = len(weights["weight_ih" + suffix])
        stacked = np.zeros((rows, hidden) if kind == "weight_hh" else rows, np.float32)
    else:
        stacked = weights[kind + suffix]
    parts = dict(zip(layer.cell.gates, np.split(stacked, len(layer.cell.gates)), strict=True))
    parts |= {f"-{gate}": -value for gate, value in parts.items()}
    parts[""] = np.zeros_like(stacked[:hidden])
    parts["open"] = np.full_like(parts[""], 100.0 if kind == "bias_ih" else 0.0)
    return np.concatenate([parts[gate] for gate in gates])


def onnx_peepholes(layer, gates, suffix):
    weights = {param[1:]: arrays(layer)[param + suffix] for param in layer.cell.params}
    weights |= {f"-{gate}": -value for gate, value in weights.items()}
    weights[""] = np.zeros(layer.hidden_size, np.float32)
    return np.concatenate([weights[gate] for gate in gates])


def onnx_session(layer, states):
    """The layer, bidirectional and of one layer, as an ONNX model of one operator.

    Its inputs are X T×B×I, the lengths and the initial states by the cell's names, its outputs the
    output T×D×B×H and the final states.
    """
    operator, gates, peepholes, attributes = ONNX[layer.cell.name]
    suffixes = ("_l0", "_l0_reverse")

    def both(kind):
        return np.stack([onnx_gates(layer, gates, kind, suffix) for suffix in suffixes])

    biases = np.concatenate([both("bias_ih"), both("bias_hh")], axis=1)
    constants = {"W": both("weight_ih"), "R": both("weight_hh"), "B": biases}
    if peepholes:
        constants["P"] = np.stack([onnx_peepholes(layer, peepholes, s) for s in suffixes])
    inputs = ["X", "W", "R", "B", "lengths", *states, *(["P"] if peepholes else [])]
    outputs = ["Y", *(f"{state}_n" for state in states)]
    for key in ("activations", "activation_alpha", "activation_beta"):
        if key in attributes:
            attributes = {**attributes, key: attributes[key] * 2}
    node = helper.make_node(
        operator, inputs, outputs,
        hidden_size=layer.hidden_size, direction="bidirectional", **attributes,
    )  # fmt: skip
    given = ("X", *states)
    graph = helper.make_graph(
        [node],
        layer.cell.name,
        [
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in given),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, [None]),
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * dims)
            for name, dims in zip(outputs, (4, 3, 3), strict=False)
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.mark.pairwise
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (6, 4, 2, 3), (4, 1, 5, 17)], ids=str)
@pytest.mark.parametrize("name", ONNX)
def test_values_are_those_of_onnx_runtime(name, size, backend):
    T, B, inputs, hidden = size
    layer = layer_of(name, inputs, hidden, backend, torch.float32, bidirectional=True)
    x, states = drawn(layer, T, B)
    x, states = x.float(), tuple(s.float() for s in states)
    lengths = np.array([T, *[1 + b for b in range(1, B)]], np.int32)
    found = called(layer, x, states, lengths=lengths.tolist())
    fed = {"X": x.numpy(), "lengths": lengths}
    fed |= {state: s.numpy() for state, s in zip(layer.cell.state, states, strict=True)}
    output, *final = map(torch.from_numpy, onnx_session(layer, layer.cell.state).run(None, fed))
    sides = output.transpose(1, 2).flatten(2)
    torch.testing.assert_close(found, (sides, *final), rtol=1e-5, atol=2e-6)


# What is refused


@pytest.mark.parametrize("name", PAPERS)
def test_states_and_sizes_that_do_not_fit(name):
    layer = layer_of(name, 2, 3)
    x, states = drawn(layer, 4, 2)
    names = ", ".join(layer.cell.state)
    message = f"{name} has the states ({names}); {len(states) + 1} were given"
    with pytest.raises(ShapeError, match=re.escape(message)):
        layer(x, (*states, states[0]))
    wrong = (*states[:-1], states[-1][..., :2])
    message = f"{layer.cell.state[-1]} has the shape (1, 2, 2), expected (1, 2, 3)"
    with pytest.raises(ShapeError, match=re.escape(message)):
        called(layer, x, wrong)
    if name in OF_UNITS:
        why = (
            "the recurrent input of its gates . is a value"
            if name in FED_LATE
            else "its equations use the"
        )
        message = f"{name} cannot be projected: {why}.* proj_size=2"
        with pytest.raises(OptionError, match=message):
            layer_of(name, 2, 3, proj_size=2)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("LSTM_1997", "lstm_1997"),
        ("peepholes", "peephole"),
        ("gru2014", "gru_2014"),
        ("elm", "lem"),
    ],
)
def test_a_misspelt_cell(asked, meant):
    message = rf"no cell '{asked}' \(did you mean '{meant}'\?\); there are: {', '.join(gw.CELLS)}$"
    with pytest.raises(OptionError, match=message):
        gw.Recurrent(asked, 2, 3)


@pytest.mark.parametrize("name", sorted(set(gw.CELLS) - {"rnn_relu"}))
def test_halves_and_huge_inputs_stay_finite(name):
    """rnn_relu alone may grow without end."""
    layer = gw.Recurrent(name, 3, 5, dtype=torch.float16)
    assert layer(torch.randn(6, 2, 3).half())[0].isfinite().all()
    for backend in BACKENDS:
        layer = gw.Recurrent(name, 3, 5, backend=backend)
        x = (1e5 * torch.randn(6, 2, 3)).requires_grad_()
        output, _ = layer(x)
        output.sum().backward()
        assert output.isfinite().all()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_slstm_without_a_memory_begins_with_its_candidate(backend):
    """n = 0: h = o g, whatever c and m are."""
    layer, x = gw.Recurrent("slstm", 3, 5, backend=backend), torch.randn(1, 2, 3)
    zero = torch.zeros(1, 2, 5)
    with torch.no_grad():
        _, state, trace = layer(x, trace=True)
    torch.testing.assert_close(
        state[0], trace.o[0][0].transpose(0, 1) * trace.g[0][0].transpose(0, 1)
    )
    for m in (-4e4, 4e4, 1e30):
        other = layer(x, (zero, zero + 7, zero, zero + m))[1]
        torch.testing.assert_close(other[0], state[0])
