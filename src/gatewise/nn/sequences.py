"""Layouts of a batch of sequences: the caller's, and the T×B×… that layers run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from gatewise.backends.contract import valid_steps
from gatewise.errors import ShapeError
from gatewise.nn import sentences
from gatewise.nn.checks import check_layout, not_a_tensor, shape_of

State = Tensor | tuple[Tensor, ...]


def check_width(input: Tensor, size: int, called: str = "input_size", layer: str = "RNN") -> None:
    """Raises ShapeError unless the input is T×B×size or T×size.

    ``called`` is the name of the size among the layer's arguments, ``layer`` the name of its class."""
    if not isinstance(input, Tensor):
        raise not_a_tensor(input)
    check_layout("input", input)
    if input.dim() not in (2, 3):
        raise ShapeError(
            f"input must have 2 or 3 dimensions, not the shape {shape_of(input)} "
            f"({sentences.of_dimensions(layer, input.dim())})"
        )
    if input.shape[-1] != size:
        raise ShapeError(
            f"input has the shape {shape_of(input)}: its last dimension must be {called}={size} "
            f"({sentences.of_width(size, input.shape[-1])})"
        )


def check_packed_width(packed: PackedSequence, size: int, rows: int) -> None:
    """Raises ShapeError unless the packed values are N×size. ``rows`` is the number of the input weights'
    rows."""
    check_layout("input.data", packed.data)
    if packed.data.dim() != 2 or packed.data.shape[-1] != size:
        raise ShapeError(
            f"the packed input's data has the shape {shape_of(packed.data)}: its last dimension must be "
            f"input_size={size} ({sentences.of_packed_width(packed.data, size, rows)})"
        )


def as_time_major(input: Tensor, batch_first: bool) -> Tensor:
    """The input as T×B×…, with B = 1 for a single sequence, T×I."""
    if input.dim() == 2:
        return input.unsqueeze(1)
    return input.transpose(0, 1) if batch_first else input


def as_batch_first(input: Tensor, batch_first: bool) -> Tensor:
    """The input as B×T×…, with B = 1 for a single sequence, T×I."""
    if input.dim() == 2:
        return input.unsqueeze(0)
    return input if batch_first else input.transpose(0, 1)


def laid_out(x: Tensor, input: Tensor, batch_first: bool) -> Tensor:
    """B×T×… in the layout of ``input``."""
    if input.dim() == 2:
        return x.squeeze(0)
    return x if batch_first else x.transpose(0, 1)


def cleared(x: Tensor, lengths: Tensor | None) -> Tensor:
    """B×T×… with zeros beyond the lengths."""
    if lengths is None:
        return x
    return torch.where(valid_steps(x.shape[1], lengths).T[..., None], x, 0)


def packed_as(packed: PackedSequence, output: Tensor, lengths: Tensor) -> PackedSequence:
    """The output, T×B×…, packed in the same order as the input."""
    if packed.sorted_indices is None:
        return pack_padded_sequence(output, lengths)
    in_order = output.index_select(1, packed.sorted_indices)
    data = pack_padded_sequence(in_order, lengths[packed.sorted_indices.cpu()]).data
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)


def stacked(states: Sequence[Tensor], batched: bool = True) -> Tensor:
    """The states of all layers and directions, B×… each, as one tensor L·D×B×… (L·D×… for a single sequence).

    It is a new tensor also for one layer and direction, because a view could not be detached or changed
    in place.
    """
    return torch.stack(list(states) if batched else [state.squeeze(0) for state in states])


def reset_reversed(reset: Tensor, lengths: Tensor | None) -> Tensor:
    """The resets, T×B, for the reversed direction. It meets a reset before step t + 1 when it goes on to t."""
    steps = reset.shape[0]
    if lengths is None:
        lengths = torch.full((1,), steps, device=reset.device)
    after = torch.arange(1, steps + 1, device=reset.device).clamp(max=steps - 1)
    return reset[after] & valid_steps(steps, lengths - 1)
