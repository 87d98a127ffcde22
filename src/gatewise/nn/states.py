"""The states that a call of a recurrent layer starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatewise.backends.contract import check_tensor
from gatewise.cells.language import Cell
from gatewise.errors import ShapeError
from gatewise.nn import sentences
from gatewise.nn.checks import check_layout, shape_of
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
    for name, state, shape in zip(names, given, shapes, strict=True):
        expected = shape if batched else (shape[0], shape[2])
        if state.shape != expected:
            raise ShapeError(
                f"the initial state {name} has the shape {shape_of(state)}, expected {expected} "
                f"({sentences.of_states(given, batched, shapes)})"
            )
        check_state(f"the initial state {name}", state, expected, x)
    return given if batched else tuple(state.unsqueeze(1) for state in given)


def check_state(called: str, state: Tensor, shape: tuple[int, ...], x: Tensor) -> None:
    """Raises ShapeError unless the state has that shape, and the type and device of the input."""
    if state.device != x.device:
        raise ShapeError(
            f"{called} is on '{state.device}', the input is on '{x.device}' "
            f"({sentences.of_device(x.device, state.device, 'hidden')})"
        )
    check_tensor(called, state, shape, x)


def states_given(cell: Cell, hx: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
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
        check_layout("hx", state)
    if len(given) != len(cell.state):
        raise ShapeError(
            f"{cell.name} has the states ({', '.join(cell.state)}); {len(given)} were given"
        )
    return given


def _learned(layer: Recurrent, name: str, x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The same for each sequence, L·D×B×(P or H)."""
    each = [parameter_beside(layer, f"initial_{name}{s}", x, dtype) for s in layer._expected]
    return torch.stack(each).unsqueeze(1).expand(-1, x.shape[1], -1)
