"""What a type checker knows of the public names: ``make check`` runs mypy on this file, a test runs its code."""

from typing import assert_type

import numpy as np
import torch
from torch import Tensor

import gatewise as gw

Pair = tuple[Tensor, Tensor]


def layers(x: Tensor) -> None:
    """T×B×4"""
    lstm = gw.LSTM(4, 4)
    y, (h, c) = lstm(x, lengths=[len(x)] * x.shape[1])
    assert_type(lstm(x), tuple[Tensor, Pair])
    assert_type((y, h, c), tuple[Tensor, Tensor, Tensor])
    assert_type(gw.GRU(4, 4)(x), Pair)
    assert_type(gw.RNN(4, 4)(x), Pair)
    assert_type(lstm(x, trace=True), tuple[Tensor, Pair, gw.Trace])
    assert_type(lstm(x, trace=True)[2].f, list[list[Tensor]])
    assert_type(gw.MLSTM(4, 4)(x), tuple[Tensor, gw.MLSTMState])
    assert_type(gw.Reversed(lstm)(x)[0], Tensor)
    assert_type(gw.Bidirectional(lstm, gw.LSTM(4, 4))(x)[0], Tensor)
    assert_type(gw.Stack(gw.LSTM(4, 4), gw.GRU(4, 4))(x)[0], Tensor)
    assert_type(gw.HybridBlock(4, 2)(x)[0], Tensor)
    packed = torch.nn.utils.rnn.pack_sequence([x[:, 0]])
    assert_type(lstm(packed)[0], torch.nn.utils.rnn.PackedSequence)
    images = x[..., None, None]
    assert_type(gw.ConvLSTM(4, 4, 1)(images), tuple[Tensor, Pair])
    assert_type(gw.ConvLSTM(4, 4, 1)(images, trace=True), tuple[Tensor, Pair, gw.Trace])


def steps(x: Tensor) -> None:
    """B×4"""
    h, c = gw.LSTMCell(4, 4)(x)
    assert_type((h, c), Pair)
    assert_type(gw.GRUCell(4, 4)(x, h), Tensor)
    assert_type(gw.RNNCell(4, 4)(x), Tensor)
    row = np.zeros((1, 4), np.float32)
    shape: tuple[int, ...] = gw.LSTM(4, 4).stream().step(row).shape
    assert shape == (1, 4)


def attention(x: Tensor) -> None:
    """T×B×4"""
    batch = x.transpose(0, 1)
    assert_type(gw.AdditiveAttention(4, 4, 4)(batch, batch), Pair)
    assert_type(gw.MultiplicativeAttention(4, 4)(batch, batch), tuple[Tensor, Tensor | None])
    assert_type(gw.AttentionPooling(4)(x), Tensor)
    assert_type(gw.AttentionPooling(4)(x, trace=True), Pair)
    assert_type(gw.SelfAttention(4, 2)(x), Tensor)
    assert_type(gw.SelfAttention(4, 2)(x, need_weights=True), Pair)


def models(x: Tensor) -> None:
    """T×B×4"""
    theirs = torch.nn.Sequential(torch.nn.LSTM(4, 4))
    assert_type(gw.convert(theirs), torch.nn.Sequential)
    assert_type(gw.trace(gw.LSTM(4, 4), x)["model"], gw.Trace)
    assert_type(gw.CELLS["lstm"], gw.Cell)
    assert_type(gw.__version__, str)
