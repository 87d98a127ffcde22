"""A layer of gatewise from matrices, for all importers."""

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

Layer = Recurrent | Reversed | Bidirectional  # the result of importing a layer


@dataclass(frozen=True)
class Part:
    """One direction of one layer.

    Attributes:
        cell: the cell.
        tensors: the weights, by the names of :class:`Recurrent`'s parameters without the suffix, with the
            gates in the cell's order; ``initial_{state}`` where an initial state is not zero.
    """

    cell: Cell
    tensors: Mapping[str, Tensor]


def recurrent(layers: Sequence[Sequence[Part]], batch_first: bool) -> Recurrent:
    """A layer in eval mode of these parts, which have one cell: for each layer its directions.

    Raises:
        DataError: the tensors have different dtypes.
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
            f"the weights of one layer have different dtypes: {', '.join(sorted(dtypes))}; they must be equal"
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
        device="meta",  # no weights are drawn, so that the import does not change the random state
        learn_initial=any(name.startswith("initial_") for name in first.tensors),
        **({} if projection is None else {"proj_size": projection.shape[0]}),
    )
    layer.load_state_dict(state, assign=True)
    return layer.eval()


def _of_cell(cell: Cell, input_size: int, hidden_size: int, **options: Any) -> Recurrent:
    """The layer class of the cell's name where there is one, else Recurrent."""
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
    """The rows of all gates, stacked in the cell's order."""
    return torch.cat([blocks[gate] for gate in cell.gates])


def split_gates(tensor: Tensor, gates: str) -> dict[str, Tensor]:
    """The rows of each gate by its name; ``gates`` is their order."""
    names = gates.split()
    return dict(zip(names, tensor.chunk(len(names)), strict=True))
