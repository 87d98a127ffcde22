"""The states that a call of a recurrent layer starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatewise.backends.contract import check_tensor
from gatewise.cells.language import Cell
from gatewise.errors import ShapeError
from gatewise.nn.checks import shape_of
from gatewise.nn.parameters import parameter_beside
from gatewise.nn.sequences import State

if TYPE_CHECKING:
    from gatewise.nn.recurrent import Recurrent


def initial_states(
    layer: Recurrent, hx: State | None, x: Tensor, batched: bool, dtype: torch.dtype | None = None
) -> tuple[Tensor, ...]:
    """L·D×B×(P or H) for each state of the cell: those given, else the learned ones, else zero.

    Args:
        x: T×B×…, for its size, type and device.
        batched: whether the caller's states have a dimension B.
        dtype: what autocast asks for.

    Raises:
        ShapeError: a state does not fit; the message has both shapes.
    """
    names = layer.cell.state
    batch, stack = x.shape[1], layer.num_layers * (1 + layer.bidirectional)
    shapes = [(stack, batch, size) for size in layer._state_sizes()]
    if hx is None and layer.learn_initial:
        return tuple(
            x.new_zeros(shape) if name in layer.cell.together else _learned(layer, name, x, dtype)
            for name, shape in zip(names, shapes, strict=True)
        )
    if hx is None:
        return tuple(x.new_zeros(shape) for shape in shapes)
    given = states_given(layer.cell, hx)
    states = given
    if not batched:
        states = tuple(s.unsqueeze(1) if s.dim() == 2 else s for s in given)
    for name, state, shape in zip(names, states, shapes, strict=True):
        if state.shape != shape:
            found = shape_of(given[names.index(name)])
            expected = shape if batched else (shape[0], shape[2])
            raise ShapeError(f"the initial state {name} has the shape {found}, expected {expected}")
        check_tensor(f"the initial state {name}", state, shape, x)
    return states


def states_given(cell: Cell, hx: State) -> tuple[Tensor, ...]:
    """One tensor for each state of the cell.

    Raises:
        ShapeError: there are more or fewer.
    """
    if not isinstance(hx, Tensor | Sequence):
        raise ShapeError(f"hx is a {type(hx).__name__}, expected {cell.name}'s states as tensors")
    given = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    for state in given:
        if not isinstance(state, Tensor):
            raise ShapeError(
                f"hx has a {type(state).__name__} where {cell.name}'s states "
                f"({', '.join(cell.state)}) are tensors"
            )
    if len(given) != len(cell.state):
        raise ShapeError(
            f"{cell.name} has the states ({', '.join(cell.state)}); {len(given)} were given"
        )
    return given


def _learned(layer: Recurrent, name: str, x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The same for each sequence, L·D×B×(P or H)."""
    each = [parameter_beside(layer, f"initial_{name}{s}", x, dtype) for s in layer._expected]
    return torch.stack(each).unsqueeze(1).expand(-1, x.shape[1], -1)
