"""The stored form of a layer's weights, and the full matrices that backends get.

A recurrent layer stores less than G·H×F weights in three cases: a recurrent input of the cell is
connected to some of the gates only; the units of a block share a gate (Hochreiter & Schmidhuber 1997); or
the gates of a block read only their own block (the heads of Beck et al. 2024, "xLSTM", section 2.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.cells.language import Cell, topological

_BY_ROW = ("weight_ih", "bias_ih", "bias_hh", "norm_ih", "norm_hh")


@dataclass(frozen=True)
class Structure:
    """The layout of one layer's stored weights, by gates (rows) and recurrent inputs (columns).

    Attributes:
        rows: for each gate the number of stored rows: one per unit, or one per block.
        columns: for each recurrent input the number of stored columns.
        widths: for each recurrent input the number of its values.
        connected: for each gate, whether each recurrent input is connected to it.
        units: H.
        blocks: ``recurrent_blocks``, the number of blocks that read only themselves.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    widths: tuple[int, ...]
    connected: tuple[tuple[bool, ...], ...]
    units: int
    blocks: int

    @property
    def plain(self) -> bool:
        """Whether the stored weights are the full matrices."""
        full = self.columns == self.widths and all(n == self.units for n in self.rows)
        return full and all(map(all, self.connected))

    def full(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights by name, with full matrices."""
        by_row = {name: self.full_rows(w) for name, w in stored.items() if name in _BY_ROW}
        return {**stored, **by_row, "weight_hh": self.full_recurrent(stored["weight_hh"])}

    def full_rows(self, stored: Tensor) -> Tensor:
        """A weight or bias with a row for each gate and unit: G·H or G·H×I."""
        if all(n == self.units for n in self.rows):
            return stored
        parts = zip(stored.split(self.rows), self.rows, strict=True)
        return torch.cat([_repeated(part, self.units // n) for part, n in parts])

    def full_recurrent(self, stored: Tensor) -> Tensor:
        """The recurrent weights, G·H×F. Weights that are not stored are constant zeros."""
        if self.plain or not self.columns or not self.units:
            return self.full_rows(stored)
        return torch.cat([torch.cat(parts, -1) for parts in self._full_parts(stored)])

    def _full_parts(self, stored: Tensor) -> Iterator[list[Tensor]]:
        """For each gate and each recurrent input the full weights, H×(its width)."""
        for parts, reached in zip(self._parts(stored), self.connected, strict=True):
            yield [
                self._full(part, k) if connected else stored.new_zeros(self.units, self.widths[k])
                for k, (part, connected) in enumerate(zip(parts, reached, strict=True))
            ]

    @torch.no_grad()
    def zero_unconnected(self, stored: Tensor) -> None:
        """Sets the stored weights without a connection to zero, in place. No backend reads them."""
        for parts, reached in zip(self._parts(stored), self.connected, strict=True):
            for part, connected in zip(parts, reached, strict=True):
                if not connected:
                    part.zero_()

    def dense(self) -> Iterator[tuple[slice, list[int]]]:
        """The rows and columns of each stored matrix: that of one gate in one block."""
        first = 0
        places = torch.arange(sum(self.columns)).split(self.columns)
        for n, reached in zip(self.rows, self.connected, strict=True):
            pairs = zip(places, reached, strict=True)
            columns = [int(c) for place, connected in pairs if connected for c in place]
            size = n // self.blocks
            for begin in range(first, first + n, size):
                yield slice(begin, begin + size), columns
            first += n

    def _parts(self, stored: Tensor) -> Iterator[Sequence[Tensor]]:
        """For each gate, views of its stored weights for each recurrent input."""
        for rows in stored.split(self.rows):
            yield rows.split(self.columns, -1)

    def _full(self, stored: Tensor, k: int) -> Tensor:
        """H×(width of the k-th recurrent input), from one gate's stored weights for it."""
        full = _block_diagonal(stored, self.blocks)
        block_size = self.widths[k] // (self.columns[k] * self.blocks)
        if (
            block_size > 1
        ):  # the values of a block are equal: read its first, multiply others by zero
            full = F.pad(full.unsqueeze(-1), (0, block_size - 1)).flatten(1)
        return _repeated(full, self.units // len(full))


def structure(
    cell: Cell, hidden_size: int, output_size: int, block_size: int, recurrent_blocks: int
) -> Structure:
    """How a layer of ``hidden_size`` units stores the weights of ``cell``.

    Args:
        output_size: the width of the first state, P or H.
        block_size: the number of units that share a row of each gate in ``cell.shared_gates``.
        recurrent_blocks: the number of blocks that read only themselves.
    """

    def columns(name: str) -> int:
        shared = widths[name] == hidden_size and _is_per_block(cell, name)
        return widths[name] // ((block_size if shared else 1) * recurrent_blocks)

    states: Sequence[str] = cell.feedback
    widths: Mapping[str, int] = {
        name: output_size if name == cell.state[0] else hidden_size for name in states
    }
    per_block = hidden_size // block_size
    return Structure(
        rows=tuple(per_block if gate in cell.shared_gates else hidden_size for gate in cell.gates),
        columns=tuple(columns(name) for name in states),
        widths=tuple(widths.values()),
        connected=tuple(tuple(gate in cell.connections[s] for s in states) for gate in cell.gates),
        units=hidden_size,
        blocks=recurrent_blocks,
    )


def _is_per_block(cell: Cell, state: str) -> bool:
    """Whether the state depends on shared gates only, so that all units of a block have the same value."""
    leaves = (node for node in topological((cell.values[state],)) if not node.args)
    return not cell.second_stage and all(
        leaf.op == "constant" or (leaf.op.startswith("gate") and leaf.name in cell.shared_gates)
        for leaf in leaves
    )


def _repeated(rows: Tensor, times: int) -> Tensor:
    return rows if times == 1 else rows.repeat_interleave(times, 0)


def _block_diagonal(rows: Tensor, blocks: int) -> Tensor:
    """n×(blocks·k): the block-diagonal matrix of ``rows``, n×k, divided into ``blocks``."""
    if blocks == 1:
        return rows
    n, k = rows.shape
    by_block = rows.view(blocks, n // blocks, k).permute(1, 2, 0)
    return torch.diag_embed(by_block).permute(2, 0, 3, 1).reshape(n, blocks * k)
