"""The shapes in the annotations of public functions, against calls with tensors."""

from functools import partial

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import gatewise as gw
from gatewise.nn.attention import AdditiveAttention, AttentionPooling, MultiplicativeAttention
from gatewise.nn.directions import Reversed
from gatewise.nn.mlstm import MLSTMState, chunkwise, recurrent
from shape_checks import checked, names


def test_a_wrong_shape_is_seen():
    Float = names()["Float"]

    def product(x: Float[Tensor, "T B"], y: Float[Tensor, " B"]) -> Float[Tensor, " T"]:
        return x @ y

    x, y = torch.randn(3, 2), torch.randn(2)
    assert checked(product)(x, y).shape == (3,)
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(product)(x, torch.randn(3))
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(product)(x.long(), y.long())


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_recurrent_layers_call(batch_first, trace):
    layer = gw.LSTM(3, 4, bidirectional=True, batch_first=batch_first)
    forward = checked(gw.Recurrent.forward)
    x, reset = torch.randn(5, 2, 3), torch.zeros(5, 2, dtype=torch.bool)
    lengths = [2, 2, 1, 0, 2] if batch_first else torch.tensor([5, 2])
    assert forward(layer, x, None, lengths, reset, trace)[0].shape == (5, 2, 8)
    assert forward(layer, x[:, 0])[0].shape == (5, 8)
    packed = pack_sequence([x[:, 0], x[:2, 1]])
    assert isinstance(forward(layer, packed)[0], PackedSequence)
    with pytest.raises(jaxtyping.TypeCheckError):
        forward(layer, x, reset=reset[:2])
    with pytest.raises(jaxtyping.TypeCheckError):
        forward(layer, x, lengths=torch.tensor([5.0, 2.0]))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_recurrent_cells_call(cell):
    step, forward = gw.RecurrentCell(cell, 3, 4), checked(gw.RecurrentCell.forward)
    state = forward(step, torch.randn(2, 3))
    forward(step, torch.randn(2, 3), state)
    forward(step, torch.randn(3))
    wrong = tuple(s[:1] for s in state) if isinstance(state, tuple) else state[:1]
    with pytest.raises(jaxtyping.TypeCheckError):
        forward(step, torch.randn(2, 3), wrong)


T, B, N, D = 5, 2, 3, 4
LAYOUTS = pytest.mark.parametrize(
    ("shape", "batch_first"),
    [((T, B), False), ((B, T), True), ((T,), False)],
    ids=["time-first", "batch-first", "single"],
)


@pytest.mark.parametrize("queries", [(B, 3), (B,)], ids=["some queries", "one query"])
@pytest.mark.parametrize("layer", [AdditiveAttention, MultiplicativeAttention])
def test_attention(layer, queries):
    attention = layer(N, D, 6) if layer is AdditiveAttention else layer(N, D)
    query, keys, values = torch.randn(*queries, N), torch.randn(B, T, D), torch.randn(B, T, 7)
    forward = checked(layer.forward)
    forward(attention, query, keys)
    context, weights = forward(attention, query, keys, values, lengths=[5, 3])
    assert (context.shape, weights.shape) == ((*queries, 7), (*queries, T))
    forward(attention, query, keys, values, mask=torch.ones(B, T, dtype=torch.bool))
    with pytest.raises(jaxtyping.TypeCheckError):
        forward(attention, query, keys, values[:, :3])


@LAYOUTS
def test_layers_of_one_width(shape, batch_first):
    x, reset = torch.randn(*shape, D), torch.zeros(*shape, dtype=torch.bool)
    lengths = [T, 3][: len(shape)]
    pool = AttentionPooling(D, batch_first=batch_first)
    checked(AttentionPooling.forward)(pool, x)
    checked(AttentionPooling.forward)(pool, x, lengths=lengths, trace=True)
    attention = gw.SelfAttention(D, 2, batch_first=batch_first)
    checked(gw.SelfAttention.forward)(attention, x, lengths, reset)
    checked(gw.SelfAttention.forward)(attention, x, need_weights=True)
    block = gw.HybridBlock(D, 2, batch_first=batch_first)
    checked(gw.HybridBlock.forward)(block, x, lengths=lengths, reset=reset)
    checked(gw.HybridBlock.forward)(block, x, trace=True)
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(gw.HybridBlock.forward)(block, x, reset=reset[1:])


@LAYOUTS
@pytest.mark.parametrize("trace", [False, True], ids=["plain", "traced"])
def test_recurrent_layers(shape, batch_first, trace):
    x, reset = torch.randn(*shape, N), torch.zeros(*shape, dtype=torch.bool)
    layers = [
        gw.MLSTM(N, D, batch_first=batch_first),
        gw.Stack(gw.LSTM(N, D, batch_first=batch_first), gw.GRU(D, 2, batch_first=batch_first)),
        Reversed(gw.GRU(N, D, batch_first=batch_first)),
        gw.Bidirectional(gw.MLSTM(N, D, batch_first=batch_first)),
    ]
    for layer in layers:
        given = dict(lengths=[T, 3][: len(shape)], reset=reset, trace=trace)
        output, *_ = checked(type(layer).forward)(layer, x, **given)
        assert output.shape[:-1] == shape
        with pytest.raises(jaxtyping.TypeCheckError):
            checked(type(layer).forward)(layer, x.long())


@pytest.mark.parametrize("form", [recurrent, partial(chunkwise, chunk=2)], ids=["steps", "chunks"])
def test_the_forms_of_the_mlstm(form):
    q, k, v = torch.randn(3, B, 2, T, 3)
    state = MLSTMState(torch.zeros(B, 2, 3, 3), torch.zeros(B, 2, 3), torch.zeros(B, 2))
    inner = getattr(form, "func", form)
    run = partial(checked(inner), **getattr(form, "keywords", {}))
    gates = torch.randn(2, B, 2, T)
    run(q, k, v, *gates, state)
    with pytest.raises(jaxtyping.TypeCheckError):
        run(q, k, v, gates[0], gates[1][..., 1:], state)
