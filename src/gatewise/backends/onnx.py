"""ONNX's operators LSTM, GRU and RNN, which torch.onnx.export(dynamo=True) records instead of a loop.

The nodes are for any number of steps and sequences. Nothing is computed here: torch's exporter records the
node, and an ONNX runtime computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
)
from gatewise.cells.catalogue import gru, gru_2014, lstm, peephole, rnn_relu, rnn_tanh
from gatewise.cells.language import Cell


@dataclass(frozen=True)
class _Node:
    """An operator of ONNX.

    op: its name. gates: for each of its gates, in its order, the index of that gate in the cell.
    attributes: its attributes. peepholes: the per-unit parameters that are its peepholes."""

    op: str
    gates: tuple[int, ...]
    attributes: Mapping[str, int | list[str]] = field(default_factory=dict)
    peepholes: tuple[str, ...] = ()


_NODES: Mapping[Cell, _Node] = {
    lstm: _Node("LSTM", (0, 3, 1, 2)),
    peephole: _Node("LSTM", (0, 3, 1, 2), peepholes=("pi", "po", "pf")),
    gru: _Node("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    gru_2014: _Node("GRU", (1, 0, 2), {"linear_before_reset": 0}),
    rnn_tanh: _Node("RNN", (0,), {"activations": ["Tanh"]}),
    rnn_relu: _Node("RNN", (0,), {"activations": ["Relu"]}),
}

_LACKING: Mapping[str, str] = {
    **LACKED_BY_FIXED_LAYERS,
    "proj_size": "has no projection",
}


def supports(spec: Spec) -> str | None:
    if spec.cell not in _NODES:
        names = ", ".join(cell.name for cell in _NODES)
        return f"has fixed cells ({names}), not '{spec.cell.name}'"
    return lacking(spec, _LACKING)


def describe(spec: Spec) -> str:
    return f"ONNX's {_NODES[spec.cell].op}"


def forward(
    spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
) -> Outcome:
    node, lengths = _NODES[spec.cell], masks.lengths
    initial = [s[None] for s in state]
    inputs = [x, *_parameters(node, weights), None if lengths is None else lengths.int(), *initial]
    if node.peepholes:
        inputs.append(torch.cat([weights.per_unit[name] for name in node.peepholes])[None])
    steps, batch = x.shape[:2]
    shapes = [(steps, 1, batch, spec.hidden_size), *[(1, batch, spec.hidden_size)] * len(state)]
    attributes: dict[str, Any] = dict(node.attributes, hidden_size=spec.hidden_size)
    attributes["direction"] = "reverse" if spec.reverse else "forward"
    output, *final = torch.onnx.ops.symbolic_multi_out(
        node.op, inputs, attributes, dtypes=[x.dtype] * len(shapes), shapes=shapes
    )
    last = tuple(s[0] for s in final)
    if lengths is not None:  # runtimes may set the final state of an empty sequence to zero
        real = (lengths > 0)[:, None]
        last = tuple(torch.where(real, new, old) for new, old in zip(last, state, strict=True))
    return Outcome(output[:, 0], last)


def _parameters(node: _Node, weights: Weights) -> list[Tensor | None]:
    """The inputs W, R and B of the node, with the gates in its order."""

    def ordered(rows: Tensor) -> Tensor:
        parts = rows.chunk(len(node.gates))
        return torch.cat([parts[gate] for gate in node.gates])

    both = [weights.input_bias, weights.recurrent_bias]
    biases = [ordered(bias) for bias in both if bias is not None]
    return [
        ordered(weights.input)[None],
        ordered(weights.recurrent)[None],
        torch.cat(biases)[None] if biases else None,
    ]
