"""Convolutional recurrent layers, against the paper's equations with convolutions written by hand."""

import copy
import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gatewise as gw
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.convolution import ConvLSTM, ConvRecurrent

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = dict(rtol=1e-10, atol=1e-11)
DOUBLE = dict(dtype=torch.float64)


@gw.cell(gates="z n", state="h q", params="k", feedback="h q")
def two_fed(a, s, p):
    z = gw.sigmoid(a.z)
    q = gw.tanh(a.n.x + z * a.n.h) + p.k
    return dict(z=z, q=q, h=z * s.h + (1 - z) * q * 0.5)


@gw.cell(gates="n")
def from_input_alone(a, s):
    return dict(h=gw.tanh(a.n.x) + 0.5 * s.h)


@gw.cell(gates="n", params="k")
def gain_traced(a, s, p):
    gain = gw.exp(p.k)
    return dict(gain=gain, one=gw.maximum(1.0, 0.5), h=gain * gw.tanh(a.n))


@gw.cell(gates="r n")
def fed_late(a, s):
    return dict(h=gw.tanh(a.n.recurrent(gw.sigmoid(a.r) * s.h)))


@gw.cell(gates="i n", state="h q", feedback={"h": "i n", "q": "i"})
def fed_in_part(a, s):
    q = gw.sigmoid(a.i)
    return dict(q=q, h=gw.tanh(a.n))


def convolved(x, weight, bias):
    """Same convolution as a sum over the kernel's places: out[y, x] = Σ w[dy, dx] in[y+dy, x+dx]."""
    height, width = x.shape[-2:]
    k, m = weight.shape[-2:]
    padded = F.pad(x, (m // 2, m // 2, k // 2, k // 2))
    total = 0
    for dy, dx in itertools.product(range(k), range(m)):
        shifted = padded[..., dy : dy + height, dx : dx + width]
        total = total + torch.einsum("bchw,oc->bohw", shifted, weight[..., dy, dx])
    return total if bias is None else total + bias[:, None, None]


def shi_equation_3(layer, suffix, x, h, c, reverse=False):
    """The paper's equations, a step at a time; outputs in the order of time, and the last h and c."""
    get = lambda name: getattr(layer, name + suffix, None)  # noqa: E731
    wci, wcf, wco = (get(name) for name in ("pi", "pf", "po"))
    if wci is None:
        wci = wcf = wco = torch.zeros(())
    elif wci.dim() == 1:
        wci, wcf, wco = (w[:, None, None] for w in (wci, wcf, wco))
    outputs = [None] * len(x)
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        sums = convolved(x[t], get("weight_ih"), get("bias_ih"))
        sums = sums + convolved(h, get("weight_hh"), get("bias_hh"))
        xi, xf, xc, xo = sums.chunk(4, 1)
        i = torch.sigmoid(xi + wci * c)
        f = torch.sigmoid(xf + wcf * c)
        c = f * c + i * torch.tanh(xc)
        o = torch.sigmoid(xo + wco * c)
        h = o * torch.tanh(c)
        outputs[t] = h
    return torch.stack(outputs), h, c


SHAPES = {  # T, B, h, w, kernel
    "plain": (4, 3, 5, 4, 3),
    "one step": (1, 2, 3, 3, 3),
    "one sequence": (3, 1, 2, 5, (3, 5)),
    "one pixel": (3, 2, 1, 1, 3),
    "a line": (2, 2, 1, 7, (1, 3)),
    "kernel beyond the image": (2, 1, 2, 3, 7),
}


@pytest.mark.pairwise
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("peephole", [None, "channel", "pixel"])
@pytest.mark.parametrize("bias", [True, False])
def test_conv_lstm_is_the_papers(shape, peephole, bias):
    steps, batch, height, width, kernel = shape
    torch.manual_seed(0)
    size = (height, width) if peephole == "pixel" else None
    layer = ConvLSTM(
        2, 3, kernel, 2, bias, bidirectional=True, size=size,
        peephole=peephole is not None, **DOUBLE,
    )  # fmt: skip
    x = torch.randn(steps, batch, 2, height, width, **DOUBLE, requires_grad=True)
    h, c = (torch.randn(4, batch, 3, height, width, **DOUBLE, requires_grad=True) for _ in "hc")
    output, (h_n, c_n) = layer(x, (h, c))
    below, ends = x, []
    for k in range(2):
        ways = []
        for d, suffix in enumerate((f"_l{k}", f"_l{k}_reverse")):
            y, *end = shi_equation_3(layer, suffix, below, h[2 * k + d], c[2 * k + d], bool(d))
            ways.append(y)
            ends.append(end)
        below = torch.cat(ways, 2)
    expected = [below, *(torch.stack(each) for each in zip(*ends, strict=True))]
    torch.testing.assert_close([output, h_n, c_n], expected, **EXACT)
    leaves = [x, h, c, *layer.parameters()]
    seeds = [torch.randn_like(e) for e in expected]
    found = torch.autograd.grad((output, h_n, c_n), leaves, seeds)
    torch.testing.assert_close(found, torch.autograd.grad(expected, leaves, seeds), **EXACT)


def pixel_wise(layer, plain):
    """The 1×1 layer's weights in a plain layer."""
    plain.load_state_dict(
        {name: value.flatten(1) if "weight" in name else value.flatten()
         for name, value in layer.state_dict().items()},
        strict=False,
    )  # fmt: skip
    return plain


def as_rows(x):
    """…×B×C×h×w as …×(B·h·w)×C: each pixel a sequence of its own."""
    return x.movedim(-3, -1).flatten(-4, -2)


@pytest.mark.parametrize("options", [{}, dict(num_layers=2, bidirectional=True)])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_a_kernel_of_one_pixel_is_torchs_layer_on_each(cell, options):
    torch.manual_seed(0)
    layer = ConvRecurrent(cell, 2, 3, 1, **options, **DOUBLE)
    theirs = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}[cell](2, 3, **options, **DOUBLE)
    pixel_wise(layer, theirs)
    x = torch.randn(5, 2, 2, 3, 4, **DOUBLE, requires_grad=True)
    output, final = layer(x)
    expected, end = theirs(as_rows(x))
    torch.testing.assert_close(as_rows(output), expected, **EXACT)
    for a, b in zip(*(s if isinstance(s, tuple) else (s,) for s in (final, end)), strict=True):
        torch.testing.assert_close(as_rows(a), b, **EXACT)
    seed = torch.randn_like(output)
    found = torch.autograd.grad(output, [x, *layer.parameters()], seed)
    theirs_found = torch.autograd.grad(expected, [x, *theirs.parameters()], as_rows(seed))
    for a, b in zip(found, theirs_found, strict=True):
        torch.testing.assert_close(a.reshape(b.shape), b, **EXACT)


@pytest.mark.parametrize("cell", ["rnn_relu", "peephole", "mingru", two_fed, from_input_alone])
def test_any_cell_is_the_plain_layers_on_each_pixel(cell):
    torch.manual_seed(0)
    layer = ConvRecurrent(cell, 2, 3, 1, 2, bidirectional=True, **DOUBLE)
    plain = gw.Recurrent(cell, 2, 3, 2, bidirectional=True, backend="reference", **DOUBLE)
    pixel_wise(layer, plain)
    if "bias_hh_l0" in plain.state_dict() and "bias_hh_l0" not in layer.state_dict():
        for name, value in plain.named_parameters():
            if "bias_hh" in name:
                value.detach().zero_()
    x = torch.randn(4, 2, 2, 3, 1, **DOUBLE)
    lengths, reset = torch.tensor([4, 2]), torch.rand(4, 2) < 0.4
    output, _, trace = layer(x, lengths=lengths, reset=reset, trace=True)
    each = dict(lengths=lengths.repeat_interleave(3), reset=reset.repeat_interleave(3, 1))
    expected, _, plain_trace = plain(as_rows(x), **each, trace=True)
    torch.testing.assert_close(as_rows(output), expected, **EXACT)
    assert trace.names == plain_trace.names
    for name, k, d in itertools.product(trace, range(2), range(2)):
        found = as_rows(trace[name][k][d].transpose(0, 1)).transpose(0, 1)
        torch.testing.assert_close(found, plain_trace[name][k][d], **EXACT)


def test_the_gradient_of_two_fed_back_states_by_differences():
    layer = ConvRecurrent(two_fed, 1, 2, 3, size=(2, 3), **DOUBLE)
    x = torch.randn(2, 1, 1, 2, 3, **DOUBLE, requires_grad=True)
    h, q = (torch.randn(1, 1, 2, 2, 3, **DOUBLE, requires_grad=True) for _ in "hq")

    def run(x, h, q, *weights):
        named = dict(zip(dict(layer.named_parameters()), weights, strict=True))
        output, state = torch.func.functional_call(layer, named, (x, (h, q)))
        return output, *state

    assert torch.autograd.gradcheck(run, (x, h, q, *layer.parameters()))


def tensors(state):
    return [state] if isinstance(state, torch.Tensor) else list(state)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "peephole"])
def test_each_sequence_alone_and_in_a_batch(cell, batch_first):
    torch.manual_seed(0)
    layer = ConvRecurrent(
        cell, 2, 3, 3, 2, batch_first=batch_first, bidirectional=True, **DOUBLE
    )  # fmt: skip
    lengths = [3, 0, 5, 1]
    x = torch.randn(4, 5, 2, 3, 4, **DOUBLE)
    hx = tuple(torch.randn(4, 4, 3, 3, 4, **DOUBLE) for _ in layer.cell.state)
    spoilt = x.clone()
    for b, n in enumerate(lengths):
        spoilt[b, n:] = torch.nan
    given = spoilt if batch_first else spoilt.transpose(0, 1)  # the latter is not contiguous
    output, final = layer(given, hx if len(hx) > 1 else hx[0], lengths=lengths)
    output = output if batch_first else output.transpose(0, 1)
    seed = torch.randn_like(output)
    found = torch.autograd.grad((output * seed).sum(), list(layer.parameters()))
    total = 0
    for b, n in enumerate(lengths):
        start = tuple(s[:, b] for s in hx)
        alone, end = layer(x[b, :n], start if len(start) > 1 else start[0])
        torch.testing.assert_close(output[b, :n], alone, **EXACT)
        torch.testing.assert_close([s[:, b] for s in tensors(final)], tensors(end), **EXACT)
        assert not output[b, n:].any()
        total = total + (alone * seed[b, :n]).sum()
    torch.testing.assert_close(found, torch.autograd.grad(total, list(layer.parameters())), **EXACT)


def test_chunks_with_the_state_carried():
    layer = ConvLSTM(2, 3, 3, 2, peephole=True, **DOUBLE)
    x = torch.randn(6, 2, 2, 3, 3, **DOUBLE)
    whole, final = layer(x)
    state, outputs = None, []
    for chunk in (x[:1], x[1:4], x[4:4], x[4:]):
        output, state = layer(chunk, state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs), whole, **EXACT)
    torch.testing.assert_close(state, final, **EXACT)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, (6, 4)])
def test_reset_equals_pieces(lengths, batch_first):
    layer = ConvRecurrent("gru", 1, 2, 3, bidirectional=True, batch_first=batch_first, **DOUBLE)
    x = torch.randn(6, 2, 1, 2, 3, **DOUBLE)
    reset = torch.zeros(6, 2, dtype=torch.bool)
    reset[[0, 2, 3], 0] = True
    reset[[3, 5], 1] = True
    given, marks = (x.transpose(0, 1), reset.T) if batch_first else (x, reset)
    output, final = layer(given, lengths=lengths, reset=marks)
    output = output.transpose(0, 1) if batch_first else output
    for b, length in enumerate(lengths or (6, 6)):
        cuts = [0, *(t for t in range(1, length) if reset[t, b]), length]
        for begin, end in itertools.pairwise(cuts):
            alone, last = layer(x[begin:end, b])
            torch.testing.assert_close(output[begin:end, b], alone, **EXACT)
            if begin == 0:
                torch.testing.assert_close(final[1, b], last[1], **EXACT)
            if end == length:
                torch.testing.assert_close(final[0, b], last[0], **EXACT)


@pytest.mark.parametrize("lengths", [None, (4, 0, 2)])
def test_the_trace_holds_the_equations(lengths):
    layer = ConvLSTM(2, 3, 3, 2, peephole=True, bidirectional=True)
    x = torch.randn(4, 3, 2, 3, 2)
    plain, (h_n, c_n) = layer(x, lengths=lengths)
    output, _, trace = layer(x, lengths=lengths, trace=True)
    assert torch.equal(output, plain)
    assert set(trace.names) == {"i", "f", "g", "o", "c", "h"}
    assert (trace.lengths is None) == (lengths is None)
    valid = torch.arange(4)[None] < torch.tensor(lengths or [4] * 3)[:, None]
    for k, d in itertools.product(range(2), range(2)):
        i, f, g, o, c, h = (trace[name][k][d] for name in "ifgoch")
        assert i.shape == (3, 4, 3, 3, 2)
        before = torch.zeros_like(c)
        before[:, d ^ 1 : 4 - d] = c[:, d : 3 + d]
        inside = valid[..., None, None, None]
        torch.testing.assert_close(c, torch.where(inside, f * before + i * g, 0))
        torch.testing.assert_close(h, o * torch.tanh(c))
        assert all(not trace[name][k][d][~valid].any() for name in trace)
        for b, n in enumerate(lengths or [4] * 3):
            if n:
                last = 0 if d else n - 1
                torch.testing.assert_close(h[b, last], h_n[2 * k + d, b])
                torch.testing.assert_close(c[b, last], c_n[2 * k + d, b])
    assert torch.equal(torch.cat(trace.h[-1], 2).transpose(0, 1), output)


def test_what_rests_on_parameters_alone_is_traced_in_full():
    trace = ConvRecurrent(gain_traced, 1, 2, 3)(torch.randn(3, 2, 1, 4, 5), trace=True)[2]
    assert trace.gain[0][0].shape == trace.one[0][0].shape == (2, 3, 2, 4, 5)
    assert (trace.one[0][0] == 1).all()


def test_no_steps_and_no_sequences():
    layer = ConvLSTM(2, 3, 3, bidirectional=True)
    hx = tuple(torch.randn(2, 2, 3, 4, 5) for _ in "hc")
    output, final, trace = layer(torch.randn(0, 2, 2, 4, 5), hx, trace=True)
    assert output.shape == (0, 2, 6, 4, 5)
    assert trace.c[0][1].shape == (2, 0, 3, 4, 5)
    torch.testing.assert_close(final, hx, rtol=0, atol=0)
    assert layer(torch.randn(3, 0, 2, 4, 5))[0].shape == (3, 0, 6, 4, 5)


def test_the_input_convolutions_of_all_steps_are_one_call(monkeypatch):
    calls, conv2d = [], F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *a, **k: calls.append(len(x)) or conv2d(x, *a, **k))
    ConvLSTM(2, 3, 3)(torch.randn(5, 2, 2, 4, 4))
    assert calls == [10, 2, 2, 2, 2, 2]


def test_dropout_acts_between_layers_and_in_training_only():
    layer = ConvLSTM(2, 3, 3, 2, dropout=1.0, bias=False)
    x = torch.randn(3, 1, 2, 4, 4)
    assert layer(x, trace=True)[2].h[0][0].any()
    assert not layer(x)[0].any()
    assert layer.eval()(x)[0].any()


@pytest.mark.parametrize("input_type", [torch.float32, torch.bfloat16])
def test_autocast(input_type):
    layer = ConvLSTM(2, 3, 3, 2, peephole=True)
    x, hx = torch.randn(4, 2, 2, 5, 5), tuple(torch.randn(2, 2, 3, 5, 5) for _ in "hc")
    expected, _ = layer(x, hx)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(x.to(input_type), tuple(s.to(input_type) for s in hx), lengths=(4, 4))
    output.float().sum().backward()
    assert not torch.equal(output.float(), expected)
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.03)
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in layer.parameters())


def test_vmap_and_copies():
    layer = ConvLSTM(2, 3, 3, peephole=True)
    x = torch.randn(2, 4, 3, 2, 5, 5)
    each = torch.func.vmap(lambda x: layer(x)[0])(x)
    torch.testing.assert_close(each, torch.stack([layer(one)[0] for one in x]))
    again = copy.deepcopy(layer)
    assert torch.equal(again(x[0])[0], layer(x[0])[0])
    assert repr(layer) == "ConvLSTM(2, 3, kernel_size=(3, 3))"
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "pi", "pf", "po"]
    assert list(layer.state_dict()) == [name + "_l0" for name in names]
    bound = (3 * 9) ** -0.5
    flat = torch.cat([p.flatten() for p in layer.parameters()]).abs()
    assert 0.95 * bound < flat.max() <= bound


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvLSTM(2, 3, 2), "kernel_size must be odd, not 2"),
        (lambda: ConvLSTM(2, 3, (3, 4)), "kernel_size must be odd, not (3, 4)"),
        (lambda: ConvLSTM(2, 3, (3, 3, 3)), "kernel_size must be a pair of integers"),
        (lambda: ConvLSTM(2, 3, "33"), "kernel_size must be a pair of integers"),
        (lambda: ConvLSTM(2, 3, -1), "the height in kernel_size must be a positive integer"),
        (lambda: ConvLSTM(0, 3, 3), "input_channels must be a positive integer, not 0"),
        (lambda: ConvLSTM(2, 3, 3, dropout=2), "dropout must be a probability from 0 to 1, not 2"),
        (lambda: ConvLSTM(2, 3, 3, peephole=2), "peephole must be True or False, not 2"),
        (lambda: ConvLSTM(2, 3, 3, 1, 2), "bias must be True or False, not 2"),
        (lambda: ConvLSTM(2, 3, 3, size=(4, 4)), "size=(4, 4) is the size of per-unit parameters, "
            "and lstm has none"),
        (lambda: ConvLSTM(2, 3, 3, size=(4, 0), peephole=True), "the width in size must be a positive integer"),
        (lambda: ConvRecurrent("lstn", 2, 3, 3), "no cell 'lstn' (did you mean 'lstm'?)"),
        (lambda: ConvRecurrent(fed_late, 2, 3, 3), "the recurrent input of fed_late's gates n is a value of the same"),
        (lambda: ConvRecurrent(fed_in_part, 2, 3, 3), "fed_in_part connects its state q to the gates i only"),
    ],
)  # fmt: skip
def test_options_out_of_range(make, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make()


X = torch.zeros(3, 2, 2, 4, 5)
ZERO = torch.zeros(1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((X[0, 0],), {}, "input must have 4 dimensions (T×I×h×w) or 5 (with B), not the shape (2, 4, 5)"),
        (([X],), {}, "input is a list, expected a tensor"),
        ((X[:, :, :1],), {}, "its third dimension from the end must be input_channels=2"),
        ((X[..., :0],), {}, "input has images of 4×0 pixels, expected at least 1×1"),
        ((X.double(),), {}, "input is torch.float64, the layer's weights are torch.float32"),
        ((X, ZERO), {}, "lstm has the states (h, c); 1 were given"),
        ((X, (ZERO, ZERO[..., :4])), {}, "state c has the shape (1, 2, 3, 4, 4), expected (1, 2, 3, 4, 5)"),
        ((X, (ZERO.double(), ZERO)), {}, "the initial state h is torch.float64, the input is"),
        ((X[:, 0], (ZERO, ZERO)), {}, "expected (1, 3, 4, 5)"),
        ((X,), dict(lengths=[3, 4]), "length 4 of sequence 1 is not in 0…3"),
        ((X,), dict(reset=torch.zeros(2, 3, dtype=torch.bool)), "reset has the shape (2, 3), expected (3, 2)"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit(given, options, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        ConvLSTM(2, 3, 3)(*given, **options)


def test_images_of_another_size_than_the_peepholes():
    layer = ConvLSTM(2, 3, 3, peephole=True, size=(4, 4))
    with pytest.raises(ShapeError, match=re.escape("images of 4×5 pixels, expected 4×4")):
        layer(X)
