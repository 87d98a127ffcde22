"""A layer from weights in cuDNN's order.

Source: NVIDIA cuDNN, cudnnGetRNNWeightParams (linLayerID); Keras, backend/tensorflow/rnn.py, which
uses this layout for cuDNN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewise.cells.catalogue import find
from gatewise.errors import OptionError, ShapeError, unknown
from gatewise.nn.checks import checked_size
from gatewise.nn.recurrent import Recurrent
from gatewise.options import flag, integer
from gatewise.weights.checks import as_tensor
from gatewise.weights.layers import Part, recurrent

# torch's order of gates is cuDNN's: i f g o and r z n, which cuDNN calls i f c o and r i h.
_MODES = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}


def from_cudnn(
    weights: Any,
    mode: str,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    bias: bool = True,
    batch_first: bool = False,
    bidirectional: bool = False,
    proj_size: int = 0,
) -> Recurrent:
    """A layer in eval mode, from weights in cuDNN's order.

    The matrices come first. For each layer, and within it for each direction, these are the input matrices
    of all gates, their recurrent matrices, and the projection if there is one. The biases follow in the
    same order: those of all input matrices, then those of all recurrent ones. The gates are i, f, g, o for
    an LSTM and r, z, n for a GRU. A matrix has a row for each unit.

    Args:
        weights: one flat array (numpy or torch) with all numbers, or the list of these matrices and
            biases, each in any shape with the right number of values.
        mode: "LSTM", "GRU", "RNN_TANH" or "RNN_RELU", as in cuDNN and torch.
        input_size: I.
        hidden_size: H.
        num_layers: L.
        bias: whether there are biases, two for each gate.
        batch_first: whether the layer takes B×T×I instead of T×B×I.
        bidirectional: whether each layer has two directions.
        proj_size: P of an LSTM; 0 for no projection. NVIDIA does not document the projection's place in a
            flat array. Here it follows the other matrices of its layer, as its number (linLayerID 8)
            suggests.

    Raises:
        ShapeError: the number of weights is not that of such a layer. The message has both numbers.
        DataError: a weight is not finite, or not a floating-point number.
        OptionError: the mode is unknown, or a size is not valid.
    """
    if str(mode).upper() not in _MODES:
        raise unknown("mode of cuDNN", str(mode), _MODES)
    cell = find(_MODES[str(mode).upper()])
    input_size = checked_size("input_size", input_size)
    hidden_size = checked_size("hidden_size", hidden_size)
    num_layers = checked_size("num_layers", num_layers)
    bias, batch_first = flag("bias", bias), flag("batch_first", batch_first)
    bidirectional = flag("bidirectional", bidirectional)
    proj_size = integer("proj_size", proj_size, 0)
    if proj_size and (cell.name != "lstm" or proj_size >= hidden_size):
        raise OptionError(
            f"proj_size={proj_size} is not valid for {mode} with hidden_size={hidden_size}: it must be 0 "
            f"or, for an LSTM, a positive integer below hidden_size"
        )
    directions = 1 + bidirectional
    places = list(
        _places(cell.gates, input_size, hidden_size, num_layers, directions, bias, proj_size)
    )
    pieces: dict[tuple[int, int, str], list[Tensor]] = {}
    for (place, shape), piece in zip(places, _pieces(weights, places), strict=True):
        pieces.setdefault(place, []).append(piece.reshape(shape))
    tensors: dict[tuple[int, int], dict[str, Tensor]] = {}
    for (layer, direction, name), found in pieces.items():
        tensors.setdefault((layer, direction), {})[name] = torch.cat(found)
    parts = [
        [Part(cell, tensors[layer, direction]) for direction in range(directions)]
        for layer in range(num_layers)
    ]
    return recurrent(parts, batch_first)


_Place = tuple[tuple[int, int, str], tuple[int, ...]]


def _places(
    gates: Sequence[str],
    input_size: int,
    hidden_size: int,
    num_layers: int,
    directions: int,
    bias: bool,
    proj_size: int,
) -> Iterator[_Place]:
    """Each matrix and bias in cuDNN's order: the layer, direction and torch's name, and the shape."""
    width = proj_size or hidden_size
    both = [(layer, direction) for layer in range(num_layers) for direction in range(directions)]
    for layer, direction in both:
        size = width * directions if layer else input_size
        for name, columns in (("weight_ih", size), ("weight_hh", width)):
            for _ in gates:
                yield (layer, direction, name), (hidden_size, columns)
        if proj_size:
            yield (layer, direction, "weight_hr"), (proj_size, hidden_size)
    if bias:
        for layer, direction in both:
            for name in ("bias_ih", "bias_hh"):
                for _ in gates:
                    yield (layer, direction, name), (hidden_size,)


def _pieces(weights: Any, places: Sequence[_Place]) -> list[Tensor]:
    """The numbers of each matrix and bias, flat."""
    sizes = [math.prod(shape) for _, shape in places]
    if isinstance(weights, (Tensor, np.ndarray)):
        if weights.ndim != 1 or len(weights) != sum(sizes):
            raise ShapeError(
                f"the weights have the shape {tuple(weights.shape)}, expected ({sum(sizes)},): all "
                f"numbers of {len(places)} matrices and biases in one row"
            )
        return list(as_tensor("the array of weights", weights).split(sizes))
    given = list(weights)
    if len(given) != len(places):
        raise ShapeError(f"there are {len(given)} matrices and biases, expected {len(places)}")
    found = []
    for k, (each, ((layer, direction, name), shape)) in enumerate(zip(given, places, strict=True)):
        called = f"number {k} of the weights ({name} of layer {layer}, direction {direction})"
        tensor = as_tensor(called, each)
        if tensor.numel() != math.prod(shape):
            raise ShapeError(f"{called} has the shape {tuple(tensor.shape)}, expected {shape}")
        found.append(tensor.flatten())
    return found
