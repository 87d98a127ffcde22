"""A layer as one operator of torch, for torch.jit.trace and the exporters to ONNX.

A layer that equals one of torch's is recorded as one operator for all layers and directions, as torch's
layer is. A layer with more options, such as highways between layers or lengths, is recorded layer by
layer, by the backend ``aten``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gatewise.backends import aten
from gatewise.nn.autocast import autocast_dtype, cast, cast_states
from gatewise.nn.checks import check_input
from gatewise.nn.config import LayerConfig
from gatewise.nn.sequences import State, as_time_major, check_packed_width, check_width

# Makes the initial states, L·D×B×width, from hx, the input T×B×… and whether the input has a dimension B.
Begin = Callable[..., tuple[Tensor, ...]]


class Layer(Protocol):
    """The attributes of a recurrent layer that this file uses."""

    config: LayerConfig
    backend: str
    batch_first: bool
    locked_dropout: bool
    training: bool
    dropout: float
    recurrent_dropout: float
    weight_drop: float
    zoneout: tuple[float, ...]


def is_torchs(layer: Layer) -> bool:
    """Whether the layer, with its present options, equals one of torch's layers."""
    drops = layer.recurrent_dropout or layer.weight_drop or layer.locked_dropout
    return (
        layer.config.plain
        and layer.backend in ("auto", "aten")
        and aten.has(layer.config.cell, layer.config.proj_size)
        and not (layer.config.layer_norm or any(layer.zoneout) or (layer.training and drops))
    )


def run_recorded(
    layer: Layer, input: Tensor | PackedSequence, hx: State | None, begin: Begin
) -> Any:
    """The layer's output and final state. The layer must fulfil ``is_torchs``."""
    values = input.data if isinstance(input, PackedSequence) else input
    if (dtype := autocast_dtype(values)) is None:
        return _run(layer, input, hx, begin, None)
    with torch.autocast(values.device.type, enabled=False):
        if isinstance(input, PackedSequence):
            input = input._replace(data=cast(input.data, dtype))
        else:
            input = cast(input, dtype)
        return _run(layer, input, cast_states(hx, dtype), begin, dtype)


def _run(
    layer: Layer,
    input: Tensor | PackedSequence,
    hx: State | None,
    begin: Begin,
    dtype: torch.dtype | None,
) -> Any:
    found = [getattr(layer, name) for name in layer.config.shapes]
    weights = found if dtype is None else [cast(weight, dtype) for weight in found]
    config = layer.config
    options = (config.bias, config.num_layers, layer.dropout, layer.training, config.bidirectional)
    if isinstance(input, PackedSequence):
        return _packed(layer, input, hx, begin, weights, options)
    check_width(input, layer.config.input_size)
    check_input(input, weights[0])
    batched = input.dim() == 3
    x = as_time_major(input, layer.batch_first)
    states = begin(hx, x, batched)
    first = batched and layer.batch_first
    given = input if batched else x
    output, *final = aten.whole(layer.config.cell, (given,), states, weights, (*options, first))
    if not batched:
        output, final = output.squeeze(1), [s.squeeze(1) for s in final]
    return output, tuple(final) if len(final) > 1 else final[0]


def _packed(
    layer: Layer,
    packed: PackedSequence,
    hx: State | None,
    begin: Begin,
    weights: list[Tensor],
    options: tuple[Any, ...],
) -> Any:
    check_packed_width(packed, layer.config.input_size, len(weights[0]))
    check_input(packed.data, weights[0])
    # the states must fit the number of sequences, which is that of the first step
    batch: Any = packed.batch_sizes[0]
    like = packed.data.new_empty(1, batch, 0)
    states = begin(hx, like, True, packed=True)
    if hx is not None and packed.sorted_indices is not None:
        states = tuple(s.index_select(1, packed.sorted_indices) for s in states)
    given = (packed.data, packed.batch_sizes)
    data, *final = aten.whole(layer.config.cell, given, states, weights, options)
    output = PackedSequence(
        data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
    )
    if packed.unsorted_indices is not None:
        final = [s.index_select(1, packed.unsorted_indices) for s in final]
    return output, tuple(final) if len(final) > 1 else final[0]
