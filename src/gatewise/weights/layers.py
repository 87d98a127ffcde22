"""A layer of gatewise from matrices, whatever file they came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gatewise.cells.language import Cell
from gatewise.errors import DataError
from gatewise.nn.directions import Bidirectional, Reversed
from gatewise.nn.layers import GRU, LSTM, RNN
from gatewise.nn.recurrent import Recurrent

Layer = Recurrent | Reversed | Bidirectional  # what a file's layer becomes


@dataclass(frozen=True)
class Part:
    """One direction of one layer.

    Attributes:
        cell: what it computes.
        tensors: its weights, by the names of :class:`Recurrent`'s parameters less the suffix, with the
            gates in the cell's order; ``initial_{state}`` where it starts from other states than zero.
    """

    cell: Cell
    tensors: Mapping[str, Tensor]


def recurrent(layers: Sequence[Sequence[Part]], batch_first: bool) -> Recurrent:
    """A layer in eval mode of these parts, all of one cell: for each layer its directions.

    Raises:
        DataError: tensors are of unlike types.
    """
    state = {
        f"{name}_l{k}{'_reverse' if direction else ''}": tensor
        for k, parts in enumerate(layers)
        for direction, part in enumerate(parts)
        for name, tensor in part.tensors.items()
    }
    dtypes = {str(tensor.dtype) for tensor in state.values()}
    if len(dtypes) > 1:
        raise DataError(
            f"the weights of one layer are of unlike types: {', '.join(sorted(dtypes))}"
        )
    first = layers[0][0]
    rows, input_size = first.tensors["weight_ih"].shape
    projection = first.tensors.get("weight_hr")
    layer = _of_cell(
        first.cell,
        input_size,
        rows // len(first.cell.gates),
        num_layers=len(layers),
        bias="bias_ih" in first.tensors,
        batch_first=batch_first,
        bidirectional=len(layers[0]) == 2,
        device="meta",  # nothing is drawn: who imports weights keeps his seed
        learn_initial=any(name.startswith("initial_") for name in first.tensors),
        **({} if projection is None else {"proj_size": projection.shape[0]}),
    )
    layer.load_state_dict(state, assign=True)
    return layer.eval()


def _of_cell(cell: Cell, input_size: int, hidden_size: int, **options: Any) -> Recurrent:
    """The layer that has the cell's name where there is one."""
    match cell.name:
        case "lstm":
            return LSTM(input_size, hidden_size, **options)
        case "gru":
            return GRU(input_size, hidden_size, **options)
        case "rnn_tanh" | "rnn_relu":
            options["nonlinearity"] = cell.name.removeprefix("rnn_")
            return RNN(input_size, hidden_size, **options)
    return Recurrent(cell, input_size, hidden_size, **options)


def gates_of(cell: Cell, blocks: Mapping[str, Tensor]) -> Tensor:
    """The rows of each gate, one on another, in the cell's order."""
    return torch.cat([blocks[gate] for gate in cell.gates])


def split_gates(tensor: Tensor, gates: str) -> dict[str, Tensor]:
    """The rows of each gate, which lie in the order of ``gates``."""
    names = gates.split()
    return dict(zip(names, tensor.chunk(len(names)), strict=True))
