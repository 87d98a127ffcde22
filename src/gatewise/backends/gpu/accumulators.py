"""The numbers of a cell's accumulators and states, and weights' rows in the order of its accumulators.

loops.py says what an accumulator is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from gatewise.cells.language import Cell, topological
from gatewise.emit.steps import layout


@dataclass(frozen=True)
class Shape:
    """The constants of loops.py that a cell determines.

    Attributes:
        uses: for each state, whether the equations read it.
        of_input, of_state: the gate's position of each accumulator with an input part, and of each with a
            recurrent part.
    """

    NX: int
    NW: int
    NH: int
    NL: int
    STATES: int
    PARAMS: int
    SAVED: int
    FEEDBACK: tuple[int, ...]
    uses: tuple[bool, ...]
    values: int
    gates: int
    of_input: tuple[int, ...]
    of_state: tuple[int, ...]

    @property
    def accumulators(self) -> int:
        return self.NX + self.NW + self.NH + self.NL

    def counts(self) -> dict[str, int]:
        names = ("NX", "NW", "NH", "NL", "STATES", "PARAMS", "SAVED")
        return {name: getattr(self, name) for name in names}


@cache
def shape_of(cell: Cell) -> Shape:
    accumulators = layout(cell).accumulators
    parts = [a.part for a in accumulators]
    gates = [cell.gates.index(a.gate) for a in accumulators]
    read = {node.name for node in topological(cell.values.values()) if node.op == "state"}
    return Shape(
        NX=parts.count("gate.x"),
        NW=parts.count("gate"),
        NH=parts.count("gate.h"),
        NL=parts.count("recurrent"),
        STATES=len(cell.state),
        PARAMS=len(cell.params),
        SAVED=len(layout(cell).saved),
        FEEDBACK=tuple(cell.state.index(name) for name in cell.feedback),
        uses=tuple(name in read for name in cell.state),
        values=len(cell.values),
        gates=len(cell.gates),
        of_input=tuple(g for g, part in zip(gates, parts, strict=True) if part != "gate.h"),
        of_state=tuple(g for g, part in zip(gates, parts, strict=True) if part != "gate.x"),
    )


def rows(of: Tensor, gates: tuple[int, ...], H: int) -> Tensor:
    """From rows in the order of the cell's gates, H for each, those of ``gates``, one for each accumulator."""
    if gates == tuple(range(of.shape[0] // H)):
        return of.contiguous()
    each = of.split(H)
    return torch.cat([each[g] for g in gates]) if gates else of[:0]


def in_gates(found: Tensor, gates: tuple[int, ...], like: Tensor, H: int) -> Tensor:
    """The inverse of ``rows``: rows in the order of the cell's gates, zero for a gate without such an accumulator."""
    if gates == tuple(range(like.shape[0] // H)):
        return found
    each = dict(zip(gates, found.split(H) if gates else (), strict=True))
    every = range(like.shape[0] // H)
    if len(each) < len(every):
        each = dict.fromkeys(every, found.new_zeros(H, *like.shape[1:])) | each
    return torch.cat([each[g] for g in every])
