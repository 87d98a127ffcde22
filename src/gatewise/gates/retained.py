"""What multiplies the old value of each state, evaluated on a trace."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gatewise.backends.operations import TORCH
from gatewise.cells.language import Cell, Value, topological
from gatewise.cells.retention import retention


def retained(cell: Cell, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each state the factor of its old value at each step, with the shape of the traced values.

    A state has no entry if its new value does not keep the old one, or if the factor is not a function of
    traced values.
    """
    found = {}
    for state, factor in retention(cell).items():
        value = None if factor is None else _evaluated(cell, factor, values)
        if value is not None and state in values:
            found[state] = value.expand(values[state].shape)
    return found


def _evaluated(cell: Cell, factor: Value, values: Mapping[str, Tensor]) -> Tensor | None:
    traced = {cell.values[name]: tensor for name, tensor in values.items() if name in cell.values}
    like = next(iter(values.values()))
    known: dict[Value, Tensor] = {}
    # what is traced needs no arguments
    for value in topological([factor], lambda v: () if v in traced else v.args):
        if value in traced:
            known[value] = traced[value]
        elif value.op == "constant":
            known[value] = like.new_tensor(value.number)
        elif value.op in TORCH:
            known[value] = TORCH[value.op](*(known[arg] for arg in value.args))
        else:
            return None
    return known[factor]
