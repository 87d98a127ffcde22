"""Self-attention and hybrid blocks, against torch's own modules put together by hand."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gatewise as gw
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.hybrid import ORDERS, HybridBlock, SelfAttention
from gatewise.nn.stack import Stack

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = dict(rtol=1e-9, atol=1e-10)
DOUBLE = dict(dtype=torch.float64)


def torchs_attention(layer):
    its = nn.MultiheadAttention(layer.size, layer.heads, batch_first=True, **DOUBLE)
    its.load_state_dict(layer.state_dict(), strict=True)
    return its


def attended(its, x, causal):
    """torch's module on B×T×D."""
    steps = x.shape[1]
    later = torch.ones(steps, steps, dtype=torch.bool).triu(1) if causal else None
    return its(x, x, x, attn_mask=later, need_weights=False)[0]


def with_biases(module):
    """Biases that start at zero, and gains at one, moved from there so that they are seen."""
    torch.manual_seed(11)
    with torch.no_grad():
        for p in module.parameters():
            if p.dim() == 1:
                p.add_(torch.randn_like(p) * 0.3)
    return module


@pytest.mark.pairwise
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("steps", "batch", "heads"), [(5, 3, 2), (1, 1, 1), (4, 1, 6), (7, 2, 3)])
def test_self_attention_is_torchs(steps, batch, heads, causal, batch_first):
    torch.manual_seed(0)
    layer = with_biases(SelfAttention(6, heads, causal, batch_first=batch_first, **DOUBLE))
    its = torchs_attention(layer)
    x = torch.randn(steps, batch, 12, **DOUBLE)[..., ::2].requires_grad_()
    expected = attended(its, x.transpose(0, 1), causal)
    found = layer(x.transpose(0, 1) if batch_first else x)
    torch.testing.assert_close(found if batch_first else found.transpose(0, 1), expected, **EXACT)
    seed = torch.randn_like(expected)
    grads = torch.autograd.grad(
        found, [x, *layer.parameters()], seed if batch_first else seed.transpose(0, 1)
    )
    expected = torch.autograd.grad(expected, [x, *its.parameters()], seed)
    torch.testing.assert_close(grads, expected, **EXACT)
    torch.testing.assert_close(layer(x[:, 0]), attended(its, x[None, :, 0], causal)[0], **EXACT)


def test_self_attention_starts_as_torchs():
    torch.manual_seed(4)
    layer = SelfAttention(6, 2)
    torch.manual_seed(4)
    its = nn.MultiheadAttention(6, 2)
    assert list(layer.state_dict()) == list(its.state_dict())
    for ours, theirs in zip(layer.parameters(), its.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    layer.reset_parameters()
    assert not torch.equal(layer.in_proj_weight, its.in_proj_weight)
    assert not layer.out_proj.bias.any()


def spoil(x, lengths):
    spoilt = x.clone()
    for b, n in enumerate(lengths):
        spoilt[b, n:] = torch.nan
    return spoilt


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_of_each_sequence_alone_and_in_a_batch(causal, batch_first):
    layer = with_biases(SelfAttention(6, 2, causal, batch_first=batch_first, **DOUBLE))
    its = torchs_attention(layer)
    lengths = [3, 0, 5, 1]
    x = torch.randn(4, 5, 6, **DOUBLE)
    given = spoil(x, lengths)
    output = layer(given if batch_first else given.transpose(0, 1), lengths=lengths)
    output = output if batch_first else output.transpose(0, 1)
    grads = torch.autograd.grad((output**2).sum(), list(layer.parameters()))
    total = 0
    for b, n in enumerate(lengths):
        assert not output[b, n:].any()
        if n:
            alone = attended(its, x[b : b + 1, :n], causal)[0]
            torch.testing.assert_close(output[b, :n], alone, **EXACT)
            total = total + (alone**2).sum()
    torch.testing.assert_close(grads, torch.autograd.grad(total, list(its.parameters())), **EXACT)


def pieces(reset, lengths):
    """(sequence, begin, end) between resets."""
    for b, n in enumerate(lengths):
        cuts = [0, *(t for t in range(1, n) if reset[t, b]), n]
        yield from ((b, begin, end) for begin, end in itertools.pairwise(cuts) if n)


def resets():
    reset = torch.zeros(6, 3, dtype=torch.bool)
    reset[[0, 2, 3], 0] = True
    reset[[3, 5], 1] = True  # one beyond its end
    return reset


@pytest.mark.parametrize("lengths", [(6, 6, 6), (6, 4, 0)])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_keeps_to_the_piece(causal, lengths):
    layer = with_biases(SelfAttention(6, 2, causal, **DOUBLE))
    its = torchs_attention(layer)
    x = torch.randn(3, 6, 6, **DOUBLE)
    reset = resets()
    given = spoil(x, lengths).transpose(0, 1)
    output = layer(given, lengths=lengths, reset=reset)
    grads = torch.autograd.grad((output**2).sum(), list(layer.parameters()))
    total = 0
    for b, begin, end in pieces(reset, lengths):
        alone = attended(its, x[b : b + 1, begin:end], causal)[0]
        torch.testing.assert_close(output[begin:end, b], alone, **EXACT)
        total = total + (alone**2).sum()
    torch.testing.assert_close(grads, torch.autograd.grad(total, list(its.parameters())), **EXACT)


def test_self_attention_runs_torchs_kernel(monkeypatch):
    calls, own = [], F.scaled_dot_product_attention

    def seen(q, k, v, mask, **options):
        calls.append((None if mask is None else tuple(mask.shape), options))
        assert mask is None or mask.any(-1).all()  # not every kernel gives zero for an empty row
        return own(q, k, v, mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", seen)
    x = torch.randn(5, 2, 6)
    SelfAttention(6, 2, causal=True, dropout=0.25)(x, lengths=(5, 2))
    SelfAttention(6, 2, dropout=0.25).eval()(x, lengths=(5, 0))
    SelfAttention(6, 2, causal=True)(x, lengths=(5, 0), reset=torch.zeros(5, 2, dtype=torch.bool))
    assert calls == [
        (None, dict(dropout_p=0.25, is_causal=True)),
        ((2, 1, 1, 5), dict(dropout_p=0.0, is_causal=False)),
        ((2, 1, 5, 5), dict(dropout_p=0.0, is_causal=False)),
    ]


def nothing_later(layer, x):
    """How much an output depends on inputs later than itself, and on its own and earlier."""
    jacobian = torch.autograd.functional.jacobian(
        lambda x: out.sum(-1) if isinstance(out := layer(x), torch.Tensor) else out[0].sum(-1), x
    )
    of = jacobian.abs().sum(-1)  # T×T: which output, which input
    return of.triu(1).max(), of.tril()[torch.ones_like(of).tril().bool()].min()


@pytest.mark.parametrize("order", ORDERS)
def test_a_causal_layer_does_not_see_what_is_to_come(order):
    x = torch.randn(5, 6, **DOUBLE)
    block = with_biases(HybridBlock(6, 2, order=order, causal=True, **DOUBLE))
    for layer in (block, block.attention):
        later, before = nothing_later(layer, x)
        assert later == 0
        assert before > 1e-6
    open_block = HybridBlock(6, 2, order=order, **DOUBLE)
    assert nothing_later(open_block, x)[0] > 1e-6


class ByHand(nn.Module):
    """The block in torch's own modules, B×T×D; one sequence at a time has no padding."""

    def __init__(self, block, recurrent):
        super().__init__()
        self.recurrent, self.order, self.causal = recurrent, block.order, block.attention.causal
        self.attention = torchs_attention(block.attention)
        self.norms = [nn.LayerNorm(6, **DOUBLE) for _ in range(3)]
        self.up = nn.Linear(6, block.feed_forward[1].out_features, **DOUBLE)
        self.down = nn.Linear(self.up.out_features, 6, **DOUBLE)
        mine = [*block.norms, block.feed_forward[0]]
        for its, own in zip([*self.norms[: len(mine) - 1], self.norms[2]], mine, strict=True):
            its.load_state_dict(own.state_dict())
        self.up.load_state_dict(block.feed_forward[1].state_dict())
        self.down.load_state_dict(block.feed_forward[4].state_dict())
        recurrent.load_state_dict(block.recurrent.state_dict())

    def forward(self, x):
        attention = lambda n: attended(self.attention, n, self.causal)  # noqa: E731
        first, second, third = self.norms
        if self.order == "recurrence-first":
            y, state = self.recurrent(first(x))
            x = x + y
            x = x + attention(second(x))
        elif self.order == "attention-first":
            x = x + attention(first(x))
            y, state = self.recurrent(second(x))
            x = x + y
        else:
            n = first(x)
            y, state = self.recurrent(n)
            x = x + y + attention(n)
        return x + self.down(F.gelu(self.up(third(x)))), state

    def weights(self):
        used = self.norms if self.order != "parallel" else self.norms[::2]
        modules = [self.recurrent, self.attention, *used, self.up, self.down]
        return [p for module in modules for p in module.parameters()]


def weights_of(block):
    """The block's, in the same order."""
    up, down = block.feed_forward[1], block.feed_forward[4]
    norms = [*block.norms, block.feed_forward[0]]
    modules = [block.recurrent, block.attention, *norms, up, down]
    return [p for module in modules for p in module.parameters()]


def tensors(state):
    return [state] if isinstance(state, torch.Tensor) else list(state)


RECURRENT = {
    "lstm": (lambda: "lstm", lambda: nn.LSTM(6, 6, batch_first=True, **DOUBLE)),
    "cell": (lambda: gw.CELLS["gru"], lambda: nn.GRU(6, 6, batch_first=True, **DOUBLE)),
    "module": (
        lambda: gw.LSTM(6, 8, proj_size=6, batch_first=True, **DOUBLE),
        lambda: nn.LSTM(6, 8, proj_size=6, batch_first=True, **DOUBLE),
    ),
    "both ways": (
        lambda: gw.GRU(6, 3, 2, bidirectional=True, **DOUBLE),
        lambda: nn.GRU(6, 3, 2, bidirectional=True, batch_first=True, **DOUBLE),
    ),
}


def made(order, kind, causal=False, **options):
    torch.manual_seed(0)
    ours, theirs = RECURRENT[kind]
    block = with_biases(HybridBlock(6, 2, ours(), order, causal, **options, **DOUBLE))
    return block, ByHand(block, theirs())


@pytest.mark.pairwise
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("order", ORDERS)
def test_a_block_is_its_parts_in_order(order, kind, batch_first):
    causal = kind != "both ways"
    block, by_hand = made(order, kind, causal, batch_first=batch_first, feed_forward=7)
    for steps, batch in ((5, 3), (1, 1)):
        x = torch.randn(batch, steps, 6, **DOUBLE, requires_grad=True)
        output, state, trace = block(x if batch_first else x.transpose(0, 1), trace=True)
        output = output if batch_first else output.transpose(0, 1)
        expected, end = by_hand(x)
        ends = [output, *tensors(state)], [expected, *tensors(end)]
        torch.testing.assert_close(*ends, **EXACT)
        seeds = [torch.randn_like(e) for e in ends[0]]
        grads = torch.autograd.grad(ends[0], [x, *weights_of(block)], seeds)
        theirs = torch.autograd.grad(ends[1], [x, *by_hand.weights()], seeds)
        torch.testing.assert_close(grads, theirs, **EXACT)
        assert trace.h[0][0].shape[:2] == (batch, steps)
        single, state = block(x[0])
        torch.testing.assert_close(single, expected[0], **EXACT)
        torch.testing.assert_close(tensors(state), [s[:, 0] for s in tensors(end)], **EXACT)


@pytest.mark.pairwise
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "both ways"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("with_reset", [False, True])
def test_each_sequence_and_piece_alone_and_in_a_batch(order, kind, batch_first, with_reset):
    block, by_hand = made(order, kind, batch_first=batch_first)
    lengths = (6, 4, 0)
    x = torch.randn(3, 6, 6, **DOUBLE)
    reset = resets() if with_reset else torch.zeros(6, 3, dtype=torch.bool)
    given = spoil(x, lengths)
    given, marks = (given, reset.T) if batch_first else (given.transpose(0, 1), reset)
    output, state = block(given, lengths=lengths, reset=marks if with_reset else None)
    output = output if batch_first else output.transpose(0, 1)
    grads = torch.autograd.grad((output**2).sum(), weights_of(block))
    total = 0
    for b, begin, end in pieces(reset, lengths):
        alone, last = by_hand(x[b : b + 1, begin:end])
        torch.testing.assert_close(output[b, begin:end], alone[0], **EXACT)
        total = total + (alone**2).sum()
        if begin == 0 and end == lengths[b]:
            for mine, its in zip(tensors(state), tensors(last), strict=True):
                torch.testing.assert_close(mine[:, b], its[:, 0], **EXACT)
    assert not output[2].any()
    assert not output[1, 4:].any()
    torch.testing.assert_close(grads, torch.autograd.grad(total, by_hand.weights()), **EXACT)
    if with_reset:
        single, _ = block(x[0], reset=reset[:, 0])
        torch.testing.assert_close(single, output[0], **EXACT)


def test_blocks_in_a_stack():
    blocks = [with_biases(HybridBlock(6, 2, order=order, **DOUBLE)) for order in ORDERS]
    stack = Stack(gw.GRU(3, 6, **DOUBLE), *blocks)
    x = torch.randn(5, 2, 3, **DOUBLE)
    output, states, traces = stack(x, lengths=[5, 2], trace=True)
    y = stack.layers[0](x, lengths=[5, 2])[0]
    for block in blocks:
        y, _ = block(y, lengths=[5, 2])
    torch.testing.assert_close(output, y, **EXACT)
    assert [len(tensors(s)) for s in states] == [1, 2, 2, 2]
    assert all(set(t.names) == set("ifgcoh") for t in traces[1:])


@pytest.mark.parametrize("order", ORDERS)
def test_dropout_in_training_only(order):
    block = with_biases(HybridBlock(6, 2, order=order, dropout=1.0, **DOUBLE))
    x = torch.randn(4, 2, 6, **DOUBLE)
    assert torch.equal(block(x)[0], x)  # every part's output is dropped, the way round is not
    block.eval()
    expected, _ = ByHand(block, nn.LSTM(6, 6, batch_first=True, **DOUBLE))(x.transpose(0, 1))
    torch.testing.assert_close(block(x)[0].transpose(0, 1), expected, **EXACT)


def test_no_steps_and_no_sequences():
    for causal in (False, True):
        block = HybridBlock(6, 2, causal=causal)
        for shape in ((0, 2, 6), (3, 0, 6), (0, 0, 6)):
            output, (h, _) = block(torch.randn(shape), lengths=torch.zeros(shape[1], dtype=int))
            assert output.shape == shape
            assert h.shape == (1, shape[1], 6)


@pytest.mark.parametrize("input_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", ORDERS)
def test_autocast(order, input_type):
    block = HybridBlock(6, 2, order=order)
    x = torch.randn(4, 2, 6)
    expected, _ = block(x, lengths=[4, 2])
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = block(x.to(input_type), lengths=[4, 2])
    output.float().sum().backward()
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in block.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelfAttention(6, 4), "size must be a multiple of heads=4, not 6"),
        (lambda: SelfAttention(6, 0), "heads must be a positive integer, not 0"),
        (lambda: SelfAttention(6, 2, causal='no'), "causal must be True or False, not 'no'"),
        (lambda: SelfAttention(6, 2, dropout=2), "dropout must be a probability from 0 to 1, not 2"),
        (lambda: HybridBlock(6, 2, order="paralel"), "order must be one of 'recurrence-first', 'attention-first', "
            "'parallel', not 'paralel' (did you mean 'parallel'?)"),
        (lambda: HybridBlock(6, 2, "lstn"), "no cell 'lstn' (did you mean 'lstm'?)"),
        (lambda: HybridBlock(6, 2, gw.GRU(6, 4)), "the recurrent layer has 6 inputs and 4 outputs; both "
            "must be size=6"),
        (lambda: HybridBlock(6, 2, gw.GRU(6, 3, bidirectional=True), causal=True), "causal=True needs a "
            "recurrent layer with one direction, and the given one is bidirectional"),
        (lambda: HybridBlock(6, 2, gw.GRU(6, 6), backend="aten"), "backend='aten' cannot be given with a "
            "layer: the given recurrent layer has backend='auto'"),
        (lambda: HybridBlock(6, 2, feed_forward=0), "feed_forward must be a positive integer, not 0"),
        (lambda: HybridBlock(6, 2, batch_first='no'), "batch_first must be True or False, not 'no'"),
    ],
)  # fmt: skip
def test_options_out_of_range(make, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        make()


X = torch.zeros(5, 2, 6)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((X[0, 0],), {}, "input must have 2 or 3 dimensions, not the shape (6,)"),
        ((X[..., :5],), {}, "input has the shape (5, 2, 5): its last dimension must be size=6"),
        ((X.double(),), {}, "input is torch.float64, the layer's weights are torch.float32"),
        ((X,), dict(lengths=[5, 6]), "length 6 of sequence 1 is not in 0…5"),
        ((X,), dict(reset=torch.zeros(2, 5, dtype=torch.bool)), "reset has the shape (2, 5), expected (5, 2)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [SelfAttention, HybridBlock])
def test_shapes_that_do_not_fit(make, given, options, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        make(6, 2)(*given, **options)


def test_a_block_does_not_go_on_from_a_state():
    block = HybridBlock(6, 2)
    _, state = block(torch.randn(3, 2, 6))
    with pytest.raises(
        ShapeError, match="hx must be None for a HybridBlock: it cannot continue from a state"
    ):
        block(torch.randn(3, 2, 6), state)


def test_the_recurrence_keeps_its_backend():
    block = HybridBlock(6, 2, backend="reference")
    assert block.recurrent.explain_backend(X).startswith("reference")
    assert repr(block).startswith("HybridBlock(\n  order='recurrence-first', batch_first=False")


@pytest.mark.parametrize("causal", [False, True])
def test_the_weights_of_self_attention_are_torchs(causal):
    ours, torchs = gw.SelfAttention(8, 2, causal), nn.MultiheadAttention(8, 2)
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(6, 3, 8)
    before = torch.ones(6, 6).triu(1).bool() if causal else None
    beyond = torch.arange(6) >= torch.tensor([6, 2, 4])[:, None]
    y, weights = ours(x, lengths=[6, 2, 4], need_weights=True)
    options = dict(attn_mask=before, key_padding_mask=beyond, average_attn_weights=False)
    expected, of_torch = torchs(x, x, x, **options)
    torch.testing.assert_close(weights, of_torch * ~beyond[:, None, :, None])
    torch.testing.assert_close(y, expected * ~beyond.T[..., None])
    torch.testing.assert_close(ours(x[:2, 1], need_weights=True)[1], weights[1, :, :2, :2])


def test_weights_of_self_attention_in_halves():
    """A product of queries and keys beyond float16's 65,504, and what is left of it within."""
    layer = gw.SelfAttention(8, 2)
    for rows in layer.in_proj_weight.detach().split(8)[:2]:
        nn.init.eye_(rows)
    x = torch.zeros(3, 1, 8)
    x[0] = 160.0  # 4 · 160² = 102,400, half of it where it is scaled
    y, weights = layer.half()(x.half(), need_weights=True)
    assert y.isfinite().all()
    assert weights.isfinite().all()
