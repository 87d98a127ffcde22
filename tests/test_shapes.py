"""The shapes in the annotations of public functions, against calls with tensors."""

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import gatewise as gw
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
    lengths = [2, 5, 1, 0, 2] if batch_first else torch.tensor([5, 2])
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
