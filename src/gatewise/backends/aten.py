"""torch's own LSTM, GRU and simple RNN: oneDNN on the CPU where it has the cell, cuDNN on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gatewise.backends.contract import (
    Masks,
    Outcome,
    Spec,
    Weights,
    lacking,
    valid_steps,
)
from gatewise.backends.torch_private import ONEDNN_HAS, constant
from gatewise.backends.tracing import exports_onnx
from gatewise.cells.catalogue import gru, lstm, rnn_relu, rnn_tanh
from gatewise.cells.language import Cell

# torch's functions of whole sequences.
_FUNCTIONS: Mapping[Cell, str] = {
    lstm: "lstm",
    gru: "gru",
    rnn_tanh: "rnn_tanh",
    rnn_relu: "rnn_relu",
}

# torch's functions of one step: of the input, the state or states, the weights and the biases.
STEPS: Mapping[Cell, str] = {
    lstm: "lstm_cell",
    gru: "gru_cell",
    rnn_tanh: "rnn_tanh_cell",
    rnn_relu: "rnn_relu_cell",
}

_LACKING: Mapping[str, str] = {
    "trace": "does not give its gates out",
    "reset": "cannot reset its states within a sequence",
    "layer_norm": "has no layer normalisation",
    "recurrent": "has no recurrent dropout",
    "zoneout": "has no zoneout",
    "transformed": "has no rule for vmap, jvp and other transforms of torch.func",
}

# A pre-activation at which the sigmoid is exactly 0 or 1 in every floating dtype.
_SATURATED = 1e4


def supports(spec: Spec) -> str | None:
    if not has(spec.cell, 0):
        names = ", ".join(cell.name for cell in _FUNCTIONS)
        return f"has fixed cells ({names}), not '{spec.cell.name}'"
    if reason := lacking(spec, _LACKING):
        return reason
    if not has(spec.cell, spec.proj_size):
        if spec.cell == lstm:
            return "has no projection in ONNX (torch.jit.trace alone takes proj_size)"
        return "projects the LSTM's output only"
    return None


def describe(spec: Spec) -> str:
    has_lstm = spec.cell == lstm and not spec.proj_size and _onednn_has(spec.dtype)
    where = "cuDNN" if spec.device.type == "cuda" else "oneDNN" if has_lstm else "ATen"
    return f"torch's own {spec.cell.name} ({where})"


def _onednn_has(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in ``dtype`` on this processor; where not, torch uses ATen."""
    if not torch.backends.mkldnn.is_available():
        return False
    return ONEDNN_HAS[dtype]() if dtype in ONEDNN_HAS else dtype == torch.float32


def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    if not spec.recorded and x.shape[0] == 0:
        return Outcome(x.new_zeros(0, x.shape[1], spec.output_size), state)
    if masks.lengths is None:
        output, new = _run(spec, x.flip(0) if spec.reverse else x, state, weights)
        return Outcome(output.flip(0) if spec.reverse else output, new)
    return _ragged(spec, x, state, weights, masks.lengths)


def _run(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights
) -> tuple[Tensor, tuple[Tensor, ...]]:
    given = (weights.input, weights.recurrent, weights.input_bias, weights.recurrent_bias)
    flat = [w for w in (*given, weights.projection) if w is not None]
    states = [s[None].contiguous() for s in state]
    bias = weights.input_bias is not None
    # outside of its training mode cuDNN has no backward pass
    training = spec.device.type == "cuda" and spec.differentiated
    output, *new = whole(spec.cell, (x,), states, flat, (bias, 1, 0.0, training, False, False))
    return output, tuple(s[0] for s in new)


def has(cell: Cell, proj_size: int) -> bool:
    """Whether torch, and ONNX where it is exported to, has an operator of the cell with a projection of
    this size, or 0."""
    return cell in _FUNCTIONS and (not proj_size or (cell == lstm and not exports_onnx()))


def whole(
    cell: Cell,
    input: Sequence[Tensor],
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    options: Sequence[Any],
) -> tuple[Tensor, ...]:
    """torch's operator of a stack of layers; the output and the final states.

    Args:
        cell: one that torch has.
        input: T×B×I or, batch first, B×T×I; or packed values and batch sizes.
        states: each L·D×B×….
        weights: those of each layer and direction, in torch's order.
        options: bias, num_layers, dropout, training and bidirectional; batch_first if it isn't packed.
    """
    name = _function(cell)
    function = getattr(torch, name)
    initial = tuple(states) if name == "lstm" else states[0]
    if not input[0].is_cuda:
        return function(*input, initial, weights, *options)
    with warnings.catch_warnings():
        # cuDNN copies weights that do not lie in one piece: ours may be anywhere
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
        return function(*input, initial, weights, *options)


@constant
def _function(cell: Cell) -> str:
    """Its name: torch.compile and a strict export, which trace this, cannot look it up by a cell."""
    return _FUNCTIONS[cell]


def _ragged(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, lengths: Tensor
) -> Outcome:
    """Sequences of different lengths at the speed of the padded run.

    torch's packed sequences cost 5 to 50 times as much. Here the padded batch is run as it is, each
    reversed sequence turned round within its own length, and the state is taken where its sequence
    ends.
    """
    steps, batch = x.shape[:2]
    valid = valid_steps(steps, lengths)
    x = torch.where(valid[..., None], x, 0)
    within = _turned(steps, lengths) if spec.reverse else None
    if within is not None:
        x = x[within, torch.arange(batch, device=x.device)]
    if _function(spec.cell) in ("lstm", "rnn_relu"):
        x, weights = _hold_state(spec, x, weights, valid)
    output, new = _run(spec, x, state, weights)
    last = output[(lengths - 1).clamp(min=0), torch.arange(batch, device=x.device)]
    ended = torch.where((lengths > 0)[:, None], last, state[0])
    if within is not None:
        output = output[within, torch.arange(batch, device=x.device)]
    return Outcome(torch.where(valid[..., None], output, 0), (ended, *new[1:]))


def _turned(steps: int, lengths: Tensor) -> Tensor:
    """T×B: for each step the one it changes places with when its sequence is turned round."""
    t = torch.arange(steps, device=lengths.device)[:, None]
    return torch.where(t < lengths, lengths - 1 - t, t)


def _hold_state(spec: Spec, x: Tensor, weights: Weights, valid: Tensor) -> tuple[Tensor, Weights]:
    """Give the cell a further input, 1 in the padding, that acts on its gates there.

    It shuts the LSTM's i and opens its f: the cell state then comes out of the padding exactly as
    it went in, so that its final value is that of each sequence's own last step; torch gives c out
    at the end only. It shuts the rectified unit, whose state could else grow past the largest
    number.
    """
    shut = -torch.finfo(weights.input.dtype).max / 2
    is_lstm = _function(spec.cell) == "lstm"
    gates = [-_SATURATED, _SATURATED, 0, -_SATURATED] if is_lstm else [shut]
    column = weights.input.new_tensor(gates).repeat_interleave(spec.hidden_size)[:, None]
    padding = (~valid)[..., None].to(x.dtype)
    held = weights._replace(input=torch.cat([weights.input, column], 1))
    return torch.cat([x, padding], -1), held
