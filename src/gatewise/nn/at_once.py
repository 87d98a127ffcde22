"""A module's whole call as one of the core, where that is all there is to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gatewise.backends.contract import in_double, in_memory
from gatewise.backends.native.network import Network
from gatewise.backends.registry import watched
from gatewise.nn.parameters import NAMES
from gatewise.nn.sequences import State

if TYPE_CHECKING:
    from gatewise.nn.recurrent import Recurrent
    from gatewise.nn.step import RecurrentCell


def run_at_once(
    layer: Recurrent,
    input: Tensor | PackedSequence,
    hx: State | None,
    lengths: Tensor | Sequence[int] | None,
    reset: Tensor | None,
) -> Any:
    """The core's run of all layers in one call; None where it is not for these, or not as simple.

    What decides is kept short: it is a good part of the time of a call of one step.
    """
    if (
        not layer._simple
        or watched()
        or torch.is_grad_enabled()
        or layer.backend not in ("auto", "cpu")
        or any(layer.zoneout)
        or (layer.training and (layer.dropout or layer.recurrent_dropout or layer.weight_drop))
        or not isinstance(input, Tensor)
    ):
        return None
    network = layer._network
    if network is None or network.dtype is not input.dtype:
        sizes = (layer.input_size, layer.hidden_size, layer.proj_size, layer.num_layers)
        network = layer._network = network_of(layer, (*sizes, layer.bidirectional), input)
        if network is None:
            return None
    given = (input, hx, layer._parameters, layer.batch_first, torch.get_num_threads())
    if lengths is None and reset is None:
        return network.run(*given)
    if not _fit(layer, input, lengths, reset):
        return None
    return network.run(
        *given,
        0 if lengths is None else lengths.data_ptr(),  # type: ignore[union-attr]
        None if reset is None else (reset.data_ptr(), *reset.stride()),
    )


def _fit(
    layer: Recurrent, input: Tensor, lengths: Tensor | Sequence[int] | None, reset: Tensor | None
) -> bool:
    """Whether the core can read these where they lie; it looks at the lengths' values itself."""
    shape, given = input.shape, [t for t in (lengths, reset) if t is not None]
    plain = in_memory(given) and all(t.is_cpu for t in given)  # type: ignore[union-attr]
    if not plain or input.dim() != 3:
        return False
    if isinstance(lengths, Tensor):
        batch = (shape[0 if layer.batch_first else 1],)
        if lengths.dtype != torch.int64 or lengths.shape != batch or not lengths.is_contiguous():
            return False
    if reset is None:
        return True
    return not layer.bidirectional and reset.dtype == torch.bool and reset.shape == shape[:-1]


def step_at_once(layer: RecurrentCell, input: Tensor, hx: State | None) -> Any:
    """The core's run of one step, B×I; None where it is not for this."""
    if (
        layer._structured
        or watched()
        or torch.is_grad_enabled()
        or layer.backend not in ("auto", "cpu")
    ):
        return None
    network = layer._network
    if network is None or network.dtype is not input.dtype:
        sizes = (layer.input_size, layer.hidden_size, 0, 1, False)
        network = layer._network = network_of(layer, sizes, input)
        if network is None:
            return None
    try:
        x = input[None]
        if isinstance(hx, Tensor):
            hx = hx[None]
        elif hx is not None:
            if not isinstance(hx, tuple | list):
                return None
            hx = tuple(s[None] for s in hx)
    except (TypeError, IndexError, RuntimeError):
        return None  # what is wrong with them is said where they are looked at one by one
    result = network.run(x, hx, layer._parameters, False, torch.get_num_threads())
    if result is None:
        return None
    after = result[1]  # its first dimension is taken off in place: a view could not be detached
    return after.squeeze_(0) if isinstance(after, Tensor) else tuple(s.squeeze_(0) for s in after)


def network_of(
    layer: Recurrent | RecurrentCell, sizes: tuple[int, int, int, int, bool], input: Tensor
) -> Network | None:
    """The core's side of this module; None where another backend runs it."""
    like = getattr(layer, "weight_ih" + next(iter(layer._expected)))
    if (
        not in_memory((input,))
        or input.is_nested
        or input.device != like.device
        or input.dtype != like.dtype
    ):
        return None
    if layer.layer_norm and in_double(layer.cell, layer.hidden_size, input.dtype):
        return None
    if not input.is_cpu or not layer.explain_backend(input).startswith("cpu:"):
        return None
    weights = [
        (name + suffix, shapes[name]) if name in shapes else (None, None)
        for suffix, shapes in layer._expected.items()
        for name in (*NAMES, *layer.cell.params)
    ]
    return Network(layer.cell, sizes, weights, input.dtype)
