"""Stacks of unlike layers, against torch's modules put together by hand."""

import copy
import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import gatewise as gw
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.hybrid import HybridBlock
from gatewise.nn.stack import Stack

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = dict(rtol=1e-10, atol=1e-12)
DOUBLE = dict(dtype=torch.float64)


def pairs(batch_first=False):
    """Ours and torch's layers: 3 → 6 → 6 (both ways) → 6."""
    torch.manual_seed(3)
    sizes = dict(batch_first=batch_first, **DOUBLE)
    ours = [
        gw.LSTM(6, 6, **sizes),
        gw.GRU(6, 3, bidirectional=True, **sizes),
        gw.RNN(6, 6, num_layers=2, **sizes),
    ]
    theirs = [
        nn.LSTM(6, 6, **sizes),
        nn.GRU(6, 3, bidirectional=True, **sizes),
        nn.RNN(6, 6, num_layers=2, **sizes),
    ]
    for mine, its in zip(ours, theirs, strict=True):
        its.load_state_dict(mine.state_dict())
    return ours, theirs


def flat(states):
    return [t for s in states for t in ([s] if isinstance(s, torch.Tensor) else s)]


def by_hand(stack, theirs, x, hx=(None, None, None)):
    states = []
    for k, (layer, state) in enumerate(zip(theirs, hx, strict=True)):
        y, end = layer(x, state)
        if stack.highway:
            g = 1 / (1 + torch.exp(-(x @ stack.highways[k].weight.T + stack.highways[k].bias)))
            y = g * y + (1 - g) * x
        elif stack.residual:
            y = y + x
        x = y
        states.append(end)
    return x, tuple(states)


WAYS = {"plain": {}, "residual": dict(residual=True), "highway": dict(highway=True)}


@pytest.mark.pairwise
@pytest.mark.parametrize("given_state", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("steps", "batch"), [(5, 3), (1, 1), (0, 2)])
def test_values_and_gradients_by_hand(steps, batch, way, batch_first, given_state):
    ours, theirs = pairs(batch_first)
    stack = Stack(*ours, **way)
    x = torch.randn(steps, batch, 12, **DOUBLE)[..., ::2].requires_grad_()
    assert not x.is_contiguous() or not x.numel()
    hx = (None, None, None)
    if given_state:
        one = lambda n, h: torch.randn(n, batch, h, **DOUBLE, requires_grad=True)  # noqa: E731
        hx = ((one(1, 6), one(1, 6)), None, one(2, 6))
    input = x.transpose(0, 1) if batch_first else x
    found = stack(input, hx) if given_state else stack(input)
    if steps:
        expected = by_hand(stack, theirs, input, hx)
    else:  # torch's layers take no empty sequence; the states are what they were
        zero = lambda n, h: torch.zeros(n, batch, h, **DOUBLE)  # noqa: E731
        start = hx if given_state else ((zero(1, 6), zero(1, 6)), None, zero(2, 6))
        expected = input, (start[0], zero(2, 3), start[2])
    assert isinstance(found[1], tuple)
    assert [type(s) for s in found[1]] == [type(s) for s in expected[1]]
    ends = [[output, *flat(states)] for output, states in (found, expected)]
    torch.testing.assert_close(*ends, **EXACT)
    if not steps:
        return
    seeds = [torch.randn_like(e) for e in ends[0]]
    gates = list(stack.highways.parameters())
    for layers, end in ((ours, ends[0]), (theirs, ends[1])):
        weights = [p for layer in layers for p in layer.parameters()]
        leaves = [x, *weights, *gates, *(flat(s for s in hx if s is not None))]
        end[:] = torch.autograd.grad(end, leaves, seeds)
    torch.testing.assert_close(*ends, **EXACT)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_each_sequence_alone_and_in_a_batch(way, batch_first):
    ours, theirs = pairs(batch_first)
    stack = Stack(*ours, **way)
    lengths = [4, 0, 7, 1]
    x = torch.randn(4, 7, 6, **DOUBLE)
    spoilt = x.clone()
    for b, n in enumerate(lengths):
        spoilt[b, n:] = torch.nan
    given = spoilt if batch_first else spoilt.transpose(0, 1)
    output, states, traces = stack(given, lengths=lengths, trace=True)
    output = output if batch_first else output.transpose(0, 1)
    grads = torch.autograd.grad((output**2).sum(), list(stack.parameters()))
    assert len(traces) == 3
    assert traces[0].names != traces[1].names
    assert traces[1].z[0][1].shape == (4, 7, 3)
    total = 0
    for b, n in enumerate(lengths):
        assert not output[b, n:].any()
        if n == 0:
            assert not any(s[:, b].any() for s in flat(states))
            continue
        alone, end = by_hand(stack, theirs, x[b, :n])
        torch.testing.assert_close(output[b, :n], alone, **EXACT)
        torch.testing.assert_close([s[:, b] for s in flat(states)], flat(end), **EXACT)
        total = total + (alone**2).sum()
    weights = [p for layer in theirs for p in layer.parameters()]
    expected = torch.autograd.grad(total, [*weights, *stack.highways.parameters()])
    torch.testing.assert_close(grads, expected, **EXACT)
    single, end = stack(spoilt[0], lengths=[4])
    torch.testing.assert_close(single, output[0], **EXACT)
    torch.testing.assert_close(flat(end), [s[:, 0] for s in flat(states)], **EXACT)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_reset_equals_pieces(way):
    ours, theirs = pairs()
    stack = Stack(*ours, **way)
    x = torch.randn(6, 2, 6, **DOUBLE)
    reset = torch.zeros(6, 2, dtype=torch.bool)
    reset[2, 0] = reset[5, 0] = reset[3, 1] = True
    output, _ = stack(x, reset=reset)
    for b in range(2):
        cuts = [0, *reset[:, b].nonzero().flatten().tolist(), 6]
        for begin, end in itertools.pairwise(cuts):
            alone, _ = by_hand(stack, theirs, x[begin:end, b])
            torch.testing.assert_close(output[begin:end, b], alone, **EXACT)


def test_chunks_with_the_state_carried():
    stack = Stack(gw.LSTM(4, 4, **DOUBLE), gw.GRU(4, 4, **DOUBLE), highway=True)
    x = torch.randn(7, 2, 4, **DOUBLE)
    whole, final = stack(x)
    state, outputs = None, []
    for chunk in (x[:1], x[1:4], x[4:4], x[4:]):
        output, state = stack(chunk, state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs), whole, **EXACT)
    torch.testing.assert_close(flat(state), flat(final), **EXACT)


def test_layers_of_unlike_widths_and_stacks_of_stacks():
    first = gw.LSTM(3, 8, proj_size=2, bidirectional=True)
    stack = Stack(first, Stack(gw.GRU(4, 4), gw.RNN(4, 4), residual=True), HybridBlock(4, 2))
    assert (stack.input_size, stack.output_size) == (3, 4)
    output, states, traces = stack(torch.randn(5, 2, 3), trace=True)
    assert output.shape == (5, 2, 4)
    assert len(states) == len(traces) == 3
    assert len(states[1]) == len(traces[1]) == 2
    assert states[2][0].shape == (1, 2, 4)


def test_a_highway_begins_by_passing_its_input_on():
    stack = Stack(gw.GRU(4, 4), gw.GRU(4, 4), highway=True)
    for gate in stack.highways:
        assert (gate.bias == -1).all()
        assert gate.weight.any()
        nn.init.zeros_(gate.weight)
    x = torch.randn(3, 2, 4)
    y = stack.layers[0](x)[0]
    g = 1 / (1 + 2.718281828459045)
    y = g * y + (1 - g) * x
    y = g * stack.layers[1](y)[0] + (1 - g) * y
    torch.testing.assert_close(stack(x)[0], y)


def test_dropout_is_of_what_layers_read_from_each_other_and_in_training_only():
    torch.manual_seed(0)
    layers = [gw.RNN(4, 4, bias=False) for _ in range(3)]
    stack = Stack(*layers, dropout=1.0)
    x = torch.randn(3, 2, 4)
    assert not stack(x)[0].any()
    assert stack.eval()(x)[0].any()
    around = Stack(*layers, dropout=1.0, residual=True)
    torch.testing.assert_close(around(x)[0], x + layers[0](x)[0])
    half = Stack(nn_identity(1000), nn_identity(1000), dropout=0.5)
    kept = half(torch.ones(1, 3, 1000))[0]
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert abs((kept > 0).double().mean() - 0.5) < 0.05


class nn_identity(nn.Module):  # noqa: N801
    """A layer that is called like a recurrent one, and passes its input on."""

    def __init__(self, size):
        super().__init__()
        self.input_size = self.output_size = size

    def forward(self, input, hx=None, *, lengths=None, reset=None, trace=False):
        return (input, (), "traced") if trace else (input, ())


def test_other_modules_of_the_same_call():
    stack = Stack(gw.GRU(3, 4), nn_identity(4), highway=False)
    x = torch.randn(5, 2, 3)
    output, states, traces = stack(x, trace=True)
    torch.testing.assert_close(output, stack.layers[0](x)[0])
    assert states[1] == ()
    assert traces[1] == "traced"
    assert Stack(nn_identity(4), highway=True)(torch.ones(2, 1, 4))[0].eq(1).all()


PAGE = (Path(__file__).parents[1] / "docs" / "layers.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_has_examples():
    assert len(EXAMPLES) == 11


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_pages_examples_run(example):
    exec(compile(example, "docs/layers.md", "exec"), {})


def test_copies_and_words():
    stack = Stack(gw.GRU(4, 4), gw.LSTM(4, 4), highway=True, dropout=0.1).eval()
    x = torch.randn(3, 2, 4)
    again = Stack(gw.GRU(4, 4), gw.LSTM(4, 4), highway=True).eval()
    again.load_state_dict(stack.state_dict(), strict=True)
    for other in (again, copy.deepcopy(stack)):
        assert torch.equal(other(x)[0], stack(x)[0])
    assert "highway=True, dropout=0.1" in repr(stack)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_autocast(way):
    stack = Stack(gw.GRU(4, 4), gw.LSTM(4, 4), **way)
    x = torch.randn(3, 2, 4)
    expected = stack(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = stack(x, lengths=(3, 3))
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stack(), "a Stack must have at least one layer, and none was given"),
        (lambda: Stack(gw.LSTM(3, 4), gw.GRU(5, 4)), "layer 0 (LSTM) has output_size=4 and layer 1 "
            "(GRU) has input_size=5; they must be equal"),
        (lambda: Stack(gw.LSTM(3, 4, bidirectional=True), gw.GRU(4, 4)), "layer 0 (LSTM) has output_size=8"),
        (lambda: Stack(gw.LSTM(3, 4), gw.GRU(4, 4, batch_first=True)), "layer 1 has batch_first=True and "
            "layer 0 batch_first=False"),
        (lambda: Stack(gw.LSTM(4, 4), gw.GRU(4, 3), residual=True), "residual=True needs layers whose "
            "output is as wide as their input; layer 1 (GRU) has input_size=4 and output_size=3"),
        (lambda: Stack(gw.LSTM(3, 4), highway=True), "highway=True needs layers whose output is as wide as "
            "their input; layer 0 (LSTM) has input_size=3"),
        (lambda: Stack(gw.LSTM(4, 4), highway=True, residual=True), "exclude each other; give one of them"),
        (lambda: Stack(gw.LSTM(4, 4), dropout=-1), "dropout must be a probability from 0 to 1, not -1"),
        (lambda: Stack(gw.LSTM(4, 4), residual=2), "residual must be True or False, not 2"),
        (lambda: Stack(nn.Linear(4, 4)), "Linear has input_size=None and output_size=None"),
    ],
)  # fmt: skip
def test_options_out_of_range(make, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make()


X = torch.zeros(5, 2, 4)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((X[..., :3],), {}, "input has the shape (5, 2, 3): its last dimension must be input_size=4"),
        ((X[0, 0],), {}, "input must have 2 or 3 dimensions, not the shape (4,)"),
        ((nn.utils.rnn.pack_sequence([X[:, 0]]),), {}, "input is a PackedSequence, expected a tensor"),
        ((X, X), {}, "hx is a Tensor, expected a tuple or list of 2, with a state or None for each layer"),
        ((X, (None,)), {}, "hx is a tuple of 1, expected a tuple or list of 2, with a state or None for each layer"),
        ((X,), dict(lengths=[6, 1]), "length 6 of sequence 0 is not in 0…5"),
        ((X.double(),), {}, "input is torch.float64"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_shapes_that_do_not_fit(way, given, options, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        Stack(gw.LSTM(4, 4), gw.GRU(4, 4), **way)(*given, **options)


def test_an_xlstm():
    """sLSTM and mLSTM on each other (Beck et al. 2024)."""
    slstm, mlstm = gw.Recurrent("slstm", 4, 8, recurrent_blocks=2), gw.MLSTM(8, 8, heads=2)
    x, reset = torch.randn(5, 3, 4), torch.rand(5, 3) < 0.3
    options = dict(lengths=[5, 0, 2], reset=reset)
    y, states, (trace, other) = gw.Stack(slstm, mlstm)(x, trace=True, **options)
    middle, first = slstm(x, **options)
    expected, second = mlstm(middle, **options)
    torch.testing.assert_close((y, *states), (expected, first, second))
    torch.testing.assert_close(other.h[0][0].transpose(0, 1), expected)
    assert trace.h[0][0].shape == (3, 5, 8)
