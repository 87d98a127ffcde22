"""The mLSTM: the paper's equations by hand, the chunks against the steps, lengths, states, gradients."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from gatewise.errors import OptionError, ShapeError
from gatewise.nn.mlstm import MLSTM, MLSTMState, chunkwise, recurrent

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSE = dict(rtol=1e-10, atol=1e-10)
FORGETS = ("sigmoid", "exp")


def drawn(inputs=3, H=6, heads=2, gates=1.0, dtype=torch.float64, **options):
    """A layer with every weight drawn; the gates' pre-activations as large as ``gates``."""
    torch.manual_seed(4)
    layer = MLSTM(inputs, H, heads, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
            parameter[4 * H :] *= gates
    return layer


def start(layer, B, seed=0, spread=1.0):
    """An initial state that the memory could have."""
    generator = torch.Generator().manual_seed(seed)
    h, d = layer.heads, layer.hidden_size // layer.heads
    shapes = [(B, h, d, d), (B, h, d), (B, h)]
    C, n, m = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    dtype = torch.promote_types(layer.weight.dtype, torch.float32)
    return MLSTMState(*(t.to(dtype) for t in (C, n, spread * m)))


def results(run, layer, x, hx, **given):
    """Outputs and final state, and the gradient of all of x, hx and the parameters."""
    leaves = [x.detach().requires_grad_(), *(s.detach().requires_grad_() for s in hx)]
    output, state = run(leaves[0], MLSTMState(*leaves[1:]), **given)
    ends = [output, *state]
    generator = torch.Generator().manual_seed(9)
    seeds = [torch.randn(e.shape, generator=generator, dtype=torch.float64).to(e) for e in ends]
    leaves += list(layer.parameters())
    return [*ends, *torch.autograd.grad(ends, leaves, seeds)]


def by_steps(layer):
    """The layer with its memory by the specification."""

    def run(x, hx, lengths=None):
        assert lengths is None
        outputs = []
        for step in x.transpose(0, 1) if layer.batch_first else x:
            part = step[:, None] if layer.batch_first else step[None]
            output, hx = layer(part, hx)
            outputs.append(output)
        return torch.cat(outputs, 1 if layer.batch_first else 0), hx

    return run


def parts_by_hand(layer, x):
    """q, k, v, o, i, f of one step, split by head: equations 22 to 27, from the rows of the weight."""
    H, h = layer.hidden_size, layer.heads
    d = H // h
    W = layer.weight.detach().numpy()
    b = np.zeros(len(W)) if layer.bias is None else layer.bias.detach().numpy()
    cut = [0, H, 2 * H, 3 * H, 4 * H, 4 * H + h, 4 * H + 2 * h]
    (Wq, bq), (Wk, bk), (Wv, bv), (Wo, bo), (wi, bi), (wf, bf) = (
        (W[s:e], b[s:e]) for s, e in pairwise(cut)
    )
    q, k, v = x @ Wq.T + bq, x @ Wk.T / math.sqrt(d) + bk, x @ Wv.T + bv
    heads = [each.reshape(len(x), h, d) for each in (q, k, v)]
    return *heads, 1 / (1 + np.exp(-(x @ Wo.T + bo))), x @ wi.T + bi, x @ wf.T + bf


def as_in_the_paper(layer, x, C, n):
    """Equations 19 to 27 as they are printed, nothing stabilised."""
    outputs = []
    for x_t in x.numpy():
        q, k, v, o, i, f = parts_by_hand(layer, x_t)
        i, f = np.exp(i), 1 / (1 + np.exp(-f)) if layer.forget == "sigmoid" else np.exp(f)
        C = f[..., None, None] * C + i[..., None, None] * np.einsum("bhv,bhk->bhvk", v, k)
        n = f[..., None] * n + i[..., None] * k
        below = np.maximum(np.abs(np.einsum("bhk,bhk->bh", n, q)), 1)
        h = np.einsum("bhvk,bhk->bhv", C, q) / below[..., None]
        outputs.append(o * h.reshape(o.shape))
    return np.stack(outputs), C, n


def stabilised(layer, x, C, n, m):
    """The same with equations 15 to 17, C and n divided by exp(m)."""
    outputs = []
    for x_t in x.numpy():
        q, k, v, o, i, f = parts_by_hand(layer, x_t)
        log_f = -np.logaddexp(0, -f) if layer.forget == "sigmoid" else f
        new = np.maximum(log_f + m, i)
        i, f, m = np.exp(i - new), np.exp(log_f + m - new), new
        C = f[..., None, None] * C + i[..., None, None] * np.einsum("bhv,bhk->bhvk", v, k)
        n = f[..., None] * n + i[..., None] * k
        below = np.maximum(np.abs(np.einsum("bhk,bhk->bh", n, q)), np.exp(-m))
        h = np.einsum("bhvk,bhk->bhv", C, q) / below[..., None]
        outputs.append(o * h.reshape(o.shape))
    return np.stack(outputs), C, n, m


@pytest.mark.pairwise
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("forget", FORGETS)
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_the_papers_equations_by_hand(chunk, forget, bias):
    layer = drawn(chunk=chunk, forget=forget, bias=bias)
    x, hx = torch.randn(11, 2, 3, dtype=torch.float64), start(layer, 2)
    C, n, m = (s.numpy() for s in hx)
    unit = np.exp(m)[..., None]
    expected, C_end, n_end = as_in_the_paper(layer, x, unit[..., None] * C, unit * n)
    output, state = layer(x, hx)
    np.testing.assert_allclose(output.detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    end = state.m.detach().exp()[..., None]
    np.testing.assert_allclose((end[..., None] * state.C).detach().numpy(), C_end, rtol=1e-10)
    np.testing.assert_allclose((end * state.n).detach().numpy(), n_end, rtol=1e-10)


@pytest.mark.pairwise
@pytest.mark.parametrize("gates", [1.0, 80.0])
@pytest.mark.parametrize("forget", FORGETS)
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_the_stabilised_equations_by_hand(chunk, forget, gates):
    layer = drawn(chunk=chunk, forget=forget, gates=gates)
    x, hx = torch.randn(11, 2, 3, dtype=torch.float64), start(layer, 2)
    output, state = layer(x, hx)
    expected = stabilised(layer, x, *(s.numpy() for s in hx))
    for found, true in zip((output, *state), expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), true, rtol=1e-9, atol=1e-11)


SIZES = {
    "odd": dict(T=13, B=3),
    "one step": dict(T=1, B=2),
    "two steps": dict(T=2, B=1),
    "a whole chunk": dict(T=5, B=2),
    "a step more": dict(T=6, B=2),
    "no sequences": dict(T=6, B=0),
    "one unit a head": dict(T=7, B=2, H=3, heads=3),
    "one head": dict(T=12, B=2, heads=1, inputs=1),
}


@pytest.mark.pairwise
@pytest.mark.parametrize("gates", [1.0, 80.0])
@pytest.mark.parametrize("forget", FORGETS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
def test_chunks_are_the_steps(chunk, sizes, forget, gates):
    """Values and gradients, those of the states too."""
    T, B, *_ = sizes.values()
    kind = {k: v for k, v in sizes.items() if k not in "TB"}
    layer = drawn(chunk=chunk, forget=forget, gates=gates, **kind)
    x, hx = torch.randn(T, B, layer.input_size, dtype=torch.float64), start(layer, B)
    found = results(layer, layer, x, hx)
    expected = results(by_steps(layer), layer, x, hx)
    scale = gates**2  # the gradient of the gates' weights is as large as the others times this
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * scale)


def functions(B=2, h=2, T=9, d=3, gates=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(B, h, *shape, generator=generator, dtype=torch.float64).to(dtype)

    q, k, v = (draw(T, d) for _ in range(3))
    i, f = gates * draw(T), gates * draw(T)
    return q, k, v, i, torch.nn.functional.logsigmoid(f), MLSTMState(draw(d, d), draw(d), draw())


@pytest.mark.parametrize("form", [recurrent, lambda *a: chunkwise(*a, 2)], ids=["steps", "chunks"])
def test_first_and_second_derivatives(form):
    *parts, state = functions(B=1, h=1, T=3, d=2)
    leaves = [t.requires_grad_() for t in (*parts, *state)]

    def run(*given):
        output, new = form(*given[:5], MLSTMState(*given[5:]))
        return output, *new

    assert gradcheck(run, leaves)
    assert gradgradcheck(run, leaves, fast_mode=True)


HUGE = {
    "all +80": (80.0, 80.0),
    "all -80": (-80.0, -80.0),
    "in +80, forget -80": (80.0, -80.0),
    "in -80, forget +80": (-80.0, 80.0),
}


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("forget", FORGETS)
@pytest.mark.parametrize("level", [*HUGE.values(), None], ids=[*HUGE, "mixed"])
def test_huge_gates_overflow_nothing(level, forget, dtype):
    """Every number and gradient finite, and single precision near the double steps."""
    layer = drawn(chunk=16, forget=forget, gates=0.0 if level else 60.0, dtype=dtype)
    if level:
        with torch.no_grad():
            layer.bias[24:26], layer.bias[26:28] = level
    true = drawn(chunk=16, forget=forget)
    true.load_state_dict(layer.state_dict())
    x = torch.randn(50, 3, 3).to(dtype)
    hx = start(layer, 3)
    found = results(layer, layer, x, hx)
    assert all(t.isfinite().all() for t in found)
    expected = results(by_steps(true), true, x.double(), [s.double() for s in hx])
    for one, other in zip(found[:2], expected[:2], strict=True):
        # m counts in thousands where the forget gate is exp(80): its last place is 5e-4
        tolerance = 1e-9 if dtype == torch.float64 else 1e-2
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


def test_a_short_sum_keeps_its_digits_beside_a_long_one():
    """Forget gates of exp(-80) early in a chunk take nothing from the precision of later steps."""
    q, k, v, i, _, state = functions(T=32, dtype=torch.float32)
    log_f = torch.full_like(i, -1e-3)
    log_f[..., :20] = -80.0
    parts = (q, k, v, i, log_f)
    found, _ = chunkwise(*parts, state, 32)
    doubled = MLSTMState(*(s.double() for s in state))
    true, _ = recurrent(*(p.double() for p in parts), doubled)
    steps, _ = recurrent(*parts, state)
    error, of_steps = ((each.double() - true).abs().max() for each in (found, steps))
    assert error < max(4 * of_steps, 1e-6)


@pytest.mark.parametrize("form", [recurrent, lambda *a: chunkwise(*a, 4)], ids=["steps", "chunks"])
def test_nothing_read_of_nothing_is_zero(form):
    """exp(-m) is no number any more and n q is zero: 0 / 1 in the paper, and its gradient is finite."""
    q, k, v, i, log_f, state = functions(dtype=torch.float32)
    parts = [t.requires_grad_() for t in (torch.zeros_like(q), k, v, i + 500, log_f)]
    output, _ = form(*parts, state)
    assert not output.any()
    grads = torch.autograd.grad(output.sum(), parts)
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("ends", [(1, 6), (4, 8), (12,)])
def test_carried_over_pieces_it_is_the_whole(ends):
    layer = drawn(chunk=4)
    x, hx = torch.randn(13, 3, 3, dtype=torch.float64), start(layer, 3)
    whole = results(layer, layer, x, hx)

    def in_pieces(x, hx):
        outputs = []
        for piece in torch.tensor_split(x, ends):
            output, hx = layer(piece, hx)
            outputs.append(output)
        return torch.cat(outputs), hx

    torch.testing.assert_close(results(in_pieces, layer, x, hx), whole, **CLOSE)


@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize("lengths", [(9, 4, 0, 7), (8, 1, 3, 2), (0, 0, 0, 0)])
def test_lengths_are_each_sequence_alone(lengths, chunk):
    layer = drawn(chunk=chunk)
    x, hx = torch.randn(9, 4, 3, dtype=torch.float64), start(layer, 4)
    together = results(layer, layer, x, hx, lengths=lengths)

    def one_by_one(x, hx):
        outputs, states = [], []
        for b, length in enumerate(lengths):
            output, state = layer(x[:length, b : b + 1], MLSTMState(*(s[b : b + 1] for s in hx)))
            outputs.append(torch.nn.functional.pad(output, (0, 0, 0, 0, 0, 9 - length)))
            states.append(state)
        parts = (torch.cat(each) for each in zip(*states, strict=True))
        # no sequence has a step: the parameters are used, and get a gradient of zero
        used = sum((0 * p).sum() for p in layer.parameters()) + 0 * x.sum()
        return torch.cat(outputs, 1) + used, MLSTMState(*parts)

    torch.testing.assert_close(together, results(one_by_one, layer, x, hx), **CLOSE)
    for b, length in enumerate(lengths):
        assert not together[0][length:, b].any()
        if not length:
            for final, initial in zip(together[1:4], hx, strict=True):
                assert torch.equal(final[b], initial[b])


@pytest.mark.parametrize("T", [1, 7])
def test_nothing_in_the_padding_is_looked_at(T):
    layer = drawn(chunk=3)
    lengths = torch.tensor([T, T // 2, 0])
    x, hx = torch.randn(T, 3, 3, dtype=torch.float64), start(layer, 3)
    spoilt = x.clone()
    for b, length in enumerate(lengths):
        spoilt[length:, b] = torch.nan
    found = results(layer, layer, spoilt, hx, lengths=lengths)
    torch.testing.assert_close(found, results(layer, layer, x, hx, lengths=lengths), **CLOSE)


@pytest.mark.parametrize("forget", FORGETS)
def test_a_trace_has_what_the_equations_have(forget):
    layer, (T, B, H, heads) = drawn(forget=forget, batch_first=True), (5, 3, 6, 2)
    x = torch.randn(B, T, 3, dtype=torch.float64)
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[1, 2] = True
    given = dict(lengths=[5, 4, 0], reset=reset)
    y, state, trace = layer(x, trace=True, **given)
    plain = layer(x, **given)
    assert torch.equal(y, plain[0])
    assert all(map(torch.equal, state, plain[1]))
    assert set(trace.names) == {"q", "k", "v", "o", "f", "log_i", "read", "h"}
    assert trace.lengths.tolist() == [5, 4, 0]
    pre = x @ layer.weight.T + layer.bias
    q, k, v, o, i, f = pre.split([H] * 4 + [heads] * 2, -1)
    k = (k - layer.bias[H : 2 * H]) / math.sqrt(H // heads) + layer.bias[H : 2 * H]
    f = torch.sigmoid(f) if forget == "sigmoid" else torch.exp(f)
    f[1, 2] = 0  # nothing from before is kept
    wanted = dict(q=q, k=k, v=v, o=torch.sigmoid(o), f=f, log_i=i, h=y)
    for name, value in wanted.items():
        (found,) = trace[name][0]
        real = value.clone()
        real[1, 4:] = real[2] = 0
        torch.testing.assert_close(found, real, **CLOSE)
    torch.testing.assert_close(trace.o[0][0] * trace.read[0][0], y, **CLOSE)
    single = layer(x[0], trace=True)
    torch.testing.assert_close(single[2].f[0][0][0], f[0], **CLOSE)


def test_layouts():
    """Batch first, a strided input, a single sequence, the initial state left out: one truth."""
    layer = drawn(chunk=4)
    first = drawn(chunk=4, batch_first=True)
    first.load_state_dict(layer.state_dict())
    x = torch.randn(10, 18, 6, dtype=torch.float64)[:, ::6, ::2]
    assert not x.is_contiguous()
    hx = start(layer, 3)
    output, state = layer(x.contiguous(), hx)
    for found in (layer(x, hx), layer(x, tuple(hx))):
        torch.testing.assert_close(found, (output, state))
    turned, same = first(x.transpose(0, 1), hx)
    torch.testing.assert_close((turned.transpose(0, 1), same), (output, state))
    alone, last = layer(x[:, 1], tuple(s[1] for s in hx))
    torch.testing.assert_close(alone, output[:, 1])
    torch.testing.assert_close(last, MLSTMState(*(s[1] for s in state)))
    zeros = MLSTMState(*(torch.zeros_like(s) for s in hx))
    torch.testing.assert_close(layer(x), layer(x, zeros))
    with pytest.raises(ShapeError, match=r"lengths has the shape \(3,\), expected \(1,\)"):
        layer(x[:, 1], lengths=[1, 2, 3])


def test_no_steps_give_back_the_state():
    layer, x = drawn(), torch.randn(0, 2, 3, dtype=torch.float64)
    output, state = layer(x, hx := start(layer, 2), lengths=[0, 0])
    assert output.shape == (0, 2, 6)
    assert all(torch.equal(s, t) for s, t in zip(state, hx, strict=True))


class Counted(TorchDispatchMode):
    """How many operations torch is asked for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_a_sequence_is_worked_out_in_chunks():
    """The layer takes the chunks: a loop over 256 steps would be thousands of operations."""
    layer, x = drawn(chunk=64), torch.randn(256, 2, 3, dtype=torch.float64)
    with Counted() as counted:
        layer(x)[0].sum().backward()
    with Counted() as of_steps:
        by_steps(layer)(x, start(layer, 2))[0].sum().backward()
    assert counted.count < 600 < 5000 < of_steps.count


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_keep_their_memory_in_single_precision(dtype):
    layer = drawn(chunk=8, dtype=dtype)
    true = drawn(chunk=8)
    true.load_state_dict(layer.state_dict())
    x = torch.randn(20, 2, 3).to(dtype)
    output, state = layer(x)
    assert output.dtype == dtype
    assert all(s.dtype == torch.float32 for s in state)
    expected, _ = true(x.double())
    assert (output.double() - expected).abs().max() < 0.1 * expected.abs().max()
    again, _ = layer(x, state)
    assert again.dtype == dtype


def test_autocast_leaves_the_memory_in_single_precision():
    layer = drawn(chunk=8, dtype=torch.float32)
    x = torch.randn(20, 2, 3)
    expected, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = layer(x)
        from_half, _ = layer(x.bfloat16())
    assert output.dtype == torch.bfloat16
    assert all(s.dtype == torch.float32 for s in state)
    for found in (output, from_half):
        assert 0 < (found.float() - expected).abs().max() < 0.1 * expected.abs().max()


def test_compiled_as_a_whole():
    layer = drawn(chunk=4)
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found, expected = (run(x, lengths=torch.tensor([9, 4])) for run in (compiled, layer))
    torch.testing.assert_close(tuple(found[1]), tuple(expected[1]), **CLOSE)
    grads = [torch.autograd.grad(o.sin().sum(), layer.weight) for o, _ in (found, expected)]
    torch.testing.assert_close(*grads, **CLOSE)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # in torch's own jvp
def test_vmap_and_jvp_over_the_layer():
    layer = drawn(chunk=4)
    many = torch.randn(3, 9, 2, 3, dtype=torch.float64)
    together = torch.func.vmap(lambda x: layer(x)[0])(many)
    torch.testing.assert_close(together, torch.stack([layer(x)[0] for x in many]))
    along = torch.randn_like(many[0])
    _, tangent = torch.func.jvp(lambda x: layer(x)[0], (many[0],), (along,))
    nearby = [layer(many[0] + step * along)[0] for step in (1e-6, -1e-6)]
    torch.testing.assert_close(tangent, (nearby[0] - nearby[1]) / 2e-6, rtol=1e-5, atol=1e-7)


def test_how_it_begins():
    """The gates without regard to the input, the forget gates' biases spread from 3 to 6."""
    layer = MLSTM(5, 12, heads=4)
    assert not layer.weight[48:].any()
    assert layer.weight[:48].abs().max() <= 12**-0.5
    torch.testing.assert_close(layer.bias[52:], torch.tensor([3.0, 4.0, 5.0, 6.0]))
    assert 0 < layer.bias[48:52].abs().max() < 1
    layer(torch.randn(4, 2, 5))[0].square().sum().backward()
    assert layer.weight.grad[48:].abs().max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(input_size=0), "input_size must be a positive integer, not 0"),
        (dict(heads=2.0), "heads must be a positive integer, not 2.0"),
        (dict(chunk=0), "chunk must be a positive integer, not 0"),
        (dict(heads=4), "hidden_size=6 must be a multiple of heads=4, because each head has"),
        (dict(forget="tanh"), "forget must be one of 'sigmoid', 'exp', not 'tanh'"),
        (dict(batch_first=2), "batch_first must be True or False, not 2"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(OptionError) as raised:
        MLSTM(**(dict(input_size=3, hidden_size=6) | options))
    assert message in str(raised.value)


X = torch.zeros(5, 2, 3)
C, N, M = torch.zeros(2, 2, 3, 3), torch.zeros(2, 2, 3), torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            (torch.zeros(5, 2, 4),),
            "has the shape (5, 2, 4): its last dimension must be input_size=3",
        ),
        ((torch.zeros(3),), "input must have 2 or 3 dimensions, not the shape (3,)"),
        (([X],), "input is a list, expected a tensor; for sequences of different lengths give"),
        ((X.double(),), "input is torch.float64, the layer's weights are torch.float32"),
        ((X, C), "hx is a Tensor, expected a tuple of the three states C, n and m"),
        ((X, (C, N)), "hx is a tuple of 2, expected a tuple of the three states C, n and m"),
        ((X, (C, N[:1], M)), "the initial n has the shape (1, 2, 3), expected (2, 2, 3)"),
        (
            (X, (C[..., :2], N, M)),
            "the initial C has the shape (2, 2, 3, 2), expected (2, 2, 3, 3)",
        ),
        (
            (X, (C, N, M.double())),
            "initial m is torch.float64, the layer's memory is torch.float32",
        ),
        ((X[:, 0], (C, N, M)), "the initial C has the shape (2, 2, 3, 3), expected (2, 3, 3)"),
    ],
)
def test_what_does_not_fit(given, message):
    layer = drawn(dtype=torch.float32)
    with pytest.raises(ShapeError) as raised:
        layer(*given)
    assert message in str(raised.value)


def test_lengths_out_of_range():
    with pytest.raises(ShapeError, match=r"length 6 of sequence 1 is not in 0…5"):
        drawn(dtype=torch.float32)(X, lengths=[1, 6])


def test_it_says_what_it_is():
    assert repr(drawn(forget="exp", bias=False)) == "MLSTM(3, 6, heads=2, forget=exp, bias=False)"


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_reset_equals_pieces(chunk):
    layer = MLSTM(6, 8, heads=2, chunk=chunk).double()
    nn.init.normal_(layer.weight, std=0.5)  # gates that see the input
    x = torch.randn(20, 3, 6, dtype=torch.float64, requires_grad=True)
    reset, lengths = torch.zeros(20, 3, dtype=torch.bool), (20, 7, 0)
    reset[[0, 2, 3, 5, 14]] = True
    y, state = layer(x, lengths=lengths, reset=reset)
    (of_x,) = torch.autograd.grad(y.square().sum(), x)
    for b, n in enumerate(lengths[:2]):
        ends = [0, *(t for t in range(1, n) if reset[t, b]), n]
        pieces = [layer(x[i:j, b]) for i, j in pairwise(ends)]
        apart = torch.cat([piece for piece, _ in pieces])
        torch.testing.assert_close(y[:n, b], apart)
        (alone,) = torch.autograd.grad(apart.square().sum(), x)
        torch.testing.assert_close(of_x[:, b], alone[:, b])
        of_last = pieces[-1][1]  # exp(m) C is the paper's
        scale = torch.exp(state.m[b] - of_last.m)[:, None, None]
        torch.testing.assert_close(scale * state.C[b], of_last.C)
    assert of_x.isfinite().all()


@pytest.mark.parametrize("steps", [1, 9])
def test_a_reset_before_an_input_gate_that_is_shut(steps):
    layer = MLSTM(6, 8, heads=2)
    nn.init.constant_(layer.bias[32:34], -200.0)
    x = torch.randn(steps, 3, 6, requires_grad=True)
    layer(x, reset=torch.ones(steps, 3, dtype=torch.bool))[0].sum().backward()
    assert x.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_large_inputs_stay_finite_and_right(chunk):
    """Up to where a product of two components has no number in float32, and as in float64."""
    torch.manual_seed(0)
    layer = MLSTM(4, 8, 2, chunk=chunk)
    double = copy.deepcopy(layer).double()
    for power in (0, 6, 13, 16, 18):
        x = torch.randn(20, 2, 4) * 10.0**power
        (found, _), (exact, _) = layer(x), double(x.double())
        assert found.isfinite().all()
        gradient = torch.autograd.grad(found.sum() / 10.0**power, layer.weight)[0]
        assert gradient.isfinite().all()
        torch.testing.assert_close(
            found.double() / 10.0**power, exact / 10.0**power, rtol=1e-3, atol=1e-3
        )
