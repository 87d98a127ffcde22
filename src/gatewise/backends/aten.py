"""The backend ``aten``: torch's own LSTM, GRU and simple RNN, by oneDNN or ATen on the CPU and cuDNN on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gatewise.backends.contract import (
    LACKED_BY_FIXED_LAYERS,
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

# torch's functions for whole sequences.
_FUNCTIONS: Mapping[Cell, str] = {
    lstm: "lstm",
    gru: "gru",
    rnn_tanh: "rnn_tanh",
    rnn_relu: "rnn_relu",
}

# torch's functions for one step. They take the input, the state or states, the weights and the biases.
STEPS: Mapping[Cell, str] = {
    lstm: "lstm_cell",
    gru: "gru_cell",
    rnn_tanh: "rnn_tanh_cell",
    rnn_relu: "rnn_relu_cell",
}

_LACKING: Mapping[str, str] = {
    **LACKED_BY_FIXED_LAYERS,
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
    """Whether oneDNN computes in ``dtype`` on this processor. Otherwise torch uses ATen."""
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
    # cuDNN has no backward pass outside of its training mode
    training = spec.device.type == "cuda" and spec.differentiated
    output, *new = whole(spec.cell, (x,), states, flat, (bias, 1, 0.0, training, False, False))
    return output, tuple(s[0] for s in new)


def has(cell: Cell, proj_size: int) -> bool:
    """Whether torch has an operator for the cell with a projection of this size (0 for none). During an
    ONNX export, ONNX must have it too."""
    return cell in _FUNCTIONS and (not proj_size or (cell == lstm and not exports_onnx()))


def whole(
    cell: Cell,
    input: Sequence[Tensor],
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    options: Sequence[Any],
) -> tuple[Tensor, ...]:
    """The output and the final states of torch's operator for stacked layers.

    Args:
        cell: a cell of ``_FUNCTIONS``.
        input: T×B×I, or B×T×I if batch first; or the packed values and the batch sizes.
        states: L·D×B×… each.
        weights: the weights of all layers and directions in torch's order.
        options: bias, num_layers, dropout, training, bidirectional, and batch_first unless the input is
            packed.
    """
    name = _function(cell)
    function = getattr(torch, name)
    initial = tuple(states) if name == "lstm" else states[0]
    if not input[0].is_cuda:
        return function(*input, initial, weights, *options)
    with warnings.catch_warnings():
        # torch warns that cuDNN copies weights which are not contiguous in memory
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
        return function(*input, initial, weights, *options)


@constant
def _function(cell: Cell) -> str:
    """The name of torch's function. Here, because torch.compile cannot trace a dictionary of cells."""
    return _FUNCTIONS[cell]


def _ragged(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, lengths: Tensor
) -> Outcome:
    """The outcome for sequences of different lengths, by one call over the padded batch.

    torch's packed sequences take 5 to 50 times as long. In the reversed direction each sequence is
    reversed within its length first. The final states are those at the sequences' ends.
    """
    steps, batch = x.shape[:2]
    valid = valid_steps(steps, lengths)
    x = torch.where(valid[..., None], x, 0)
    order = _reversed_order(steps, lengths) if spec.reverse else None
    if order is not None:
        x = x[order, torch.arange(batch, device=x.device)]
    if _function(spec.cell) in ("lstm", "rnn_relu"):
        x, weights = _hold_state(spec, x, weights, valid)
    output, new = _run(spec, x, state, weights)
    last = output[(lengths - 1).clamp(min=0), torch.arange(batch, device=x.device)]
    ended = torch.where((lengths > 0)[:, None], last, state[0])
    if order is not None:
        output = output[order, torch.arange(batch, device=x.device)]
    return Outcome(torch.where(valid[..., None], output, 0), (ended, *new[1:]))


def _reversed_order(steps: int, lengths: Tensor) -> Tensor:
    """T×B: the index of each step when each sequence is reversed within its length. Padding stays."""
    t = torch.arange(steps, device=lengths.device)[:, None]
    return torch.where(t < lengths, lengths - 1 - t, t)


def _hold_state(spec: Spec, x: Tensor, weights: Weights, valid: Tensor) -> tuple[Tensor, Weights]:
    """The input and the weights with one more feature, which is 1 in the padding and 0 elsewhere.

    In the padding its weights close the LSTM's input gate and open its forget gate. So the cell state does
    not change there, and its final value is that of each sequence's last step (torch returns c for the
    last step of the batch only). The weights of a rectified unit make its state zero there, because it
    could overflow otherwise.
    """
    off = -torch.finfo(weights.input.dtype).max / 2
    is_lstm = _function(spec.cell) == "lstm"
    gates = [-_SATURATED, _SATURATED, 0, -_SATURATED] if is_lstm else [off]
    column = weights.input.new_tensor(gates).repeat_interleave(spec.hidden_size)[:, None]
    padding = (~valid)[..., None].to(x.dtype)
    held = weights._replace(input=torch.cat([weights.input, column], 1))
    return torch.cat([x, padding], -1), held
