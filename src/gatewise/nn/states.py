"""The states that a call of a recurrent layer starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from gatewise.backends.contract import check_tensor
from gatewise.cells.language import Cell
from gatewise.errors import ShapeError, StateTypeError
from gatewise.nn import sentences
from gatewise.nn.checks import check_input, check_layout, shape_of
from gatewise.nn.parameters import parameter_beside
from gatewise.nn.sequences import State

if TYPE_CHECKING:
    from gatewise.nn.recurrent import Recurrent


class Weighted(Protocol):
    """A layer or cell, of which the shapes of the weights are asked, by their names' ends."""

    @property
    def _expected(self) -> Mapping[str, Mapping[str, Any]]: ...


def initial_states(
    layer: Recurrent,
    hx: State | None,
    x: Tensor,
    batched: bool,
    dtype: torch.dtype | None = None,
    packed: bool = False,
) -> tuple[Tensor, ...]:
    """L·D×B×(P or H) for each state of the cell: those given, else the learned ones, else zero.

    Args:
        x: T×B×…, for its size, type and device.
        batched: whether the caller's states have a dimension B.
        dtype: what autocast asks for.
        packed: whether the caller's input is a PackedSequence.

    Raises:
        ShapeError: a state does not fit; the message has both shapes.
    """
    names = layer.cell.state
    batch, stack = x.shape[1], layer.num_layers * (1 + layer.bidirectional)
    shapes = [(stack, batch, size) for size in layer._state_sizes()]
    if hx is None and layer.learn_initial:
        return tuple(
            x.new_zeros(shape)
            if name in layer.cell.coupled_states
            else _learned(layer, name, x, dtype)
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
                f"({sentences.of_states(given, batched, shapes, packed)})"
            )
        check_state(layer, f"the initial state {name}", state, expected, x, dtype)
    return given if batched else tuple(state.unsqueeze(1) for state in given)


def check_state(
    layer: Weighted,
    called: str,
    state: Tensor,
    shape: tuple[int, ...],
    x: Tensor,
    dtype: torch.dtype | None,
) -> None:
    """Raises ShapeError unless the state has that shape, and the type and device of the input; of an
    input that is not of the weights' type the error is, as torch's, about the input."""
    if state.device != x.device:
        raise ShapeError(
            f"{called} is on '{state.device}', the input is on '{x.device}' "
            f"({sentences.of_device(x.device, state.device, 'hidden')})"
        )
    if state.dtype != x.dtype:
        if dtype is None:
            check_input(x, getattr(layer, "weight_ih" + next(iter(layer._expected))))
        raise ShapeError(
            f"{called} is {state.dtype}, the input is {x.dtype}; give its .to({x.dtype}) "
            f"({sentences.of_product(state.dtype, x.dtype)})"
        )
    check_tensor(called, state, shape, x)


def states_given(
    cell: Cell, hx: Tensor | Sequence[Tensor], single: bool = False
) -> tuple[Tensor, ...]:
    """One tensor for each state of the cell; ``single`` says that they are of one step.

    Raises:
        StateTypeError: they are no tensors.
        ShapeError: there are more or fewer.
    """
    operator = f"{cell.name}_cell" if single else cell.name
    names = ", ".join(cell.state)
    if not isinstance(hx, Tensor | Sequence):
        why = f" ({sentences.of_kind(operator, hx)})" if single else ""
        raise StateTypeError(
            f"hx is a {type(hx).__name__}, expected {cell.name}'s states ({names}) as tensors{why}"
        )
    given = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    for state in given:
        if not isinstance(state, Tensor):
            raise StateTypeError(
                f"hx has a {type(state).__name__} where {cell.name}'s states ({names}) are tensors"
            )
        check_layout("hx", state)
    if len(given) != len(cell.state):
        why = sentences.of_number(operator) if len(cell.state) == 2 else ""
        if single and isinstance(hx, Tensor):
            raise StateTypeError(
                f"{cell.name} has the states ({names}); one tensor was given, expected a tuple of "
                f"{len(cell.state)} ({sentences.of_kind(operator, hx)})"
            )
        raise ShapeError(
            f"{cell.name} has the states ({names}); {len(given)} were given"
            f"{f' ({why})' if why else ''}"
        )
    return given


def _learned(layer: Recurrent, name: str, x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The same for each sequence, L·D×B×(P or H)."""
    each = [parameter_beside(layer, f"initial_{name}{s}", x, dtype) for s in layer._expected]
    return torch.stack(each).unsqueeze(1).expand(-1, x.shape[1], -1)
