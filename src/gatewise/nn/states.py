"""The initial states of a recurrent layer's call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gatewise.backends.contract import check_tensor
from gatewise.cells.language import Cell
from gatewise.errors import ShapeError, StateTypeError
from gatewise.nn import sentences
from gatewise.nn.checks import check_input, check_layout, shape_of
from gatewise.nn.config import LayerConfig
from gatewise.nn.sequences import State


def initial_states(
    config: LayerConfig,
    hx: State | None,
    x: Tensor,
    batched: bool,
    weight: Tensor,
    *,
    learned: Mapping[str, Sequence[Tensor]] | None = None,
    dtype: torch.dtype | None = None,
    packed: bool = False,
) -> tuple[Tensor, ...]:
    """L·D×B×(P or H) for each state of the cell: ``hx``, or the learned states, or zeros.

    Args:
        x: T×B×…; the states have its batch size, dtype and device.
        batched: whether the caller's states have a dimension B.
        weight: the layer's first input weight, for the message about an input of another dtype.
        learned: the learned states from ``parameters.learned_states``, or None.
        dtype: autocast's dtype, or None.
        packed: whether the caller's input is a PackedSequence.

    Raises:
        ShapeError: a state does not fit; the message has the shape and the expected shape.
    """
    names = config.cell.state
    batch, runs = x.shape[1], len(config.step_shapes)
    shapes = [(runs, batch, size) for size in config.state_sizes]
    if hx is None:
        vectors = learned or {}
        return tuple(
            _for_each_sequence(vectors[name], batch) if name in vectors else x.new_zeros(shape)
            for name, shape in zip(names, shapes, strict=True)
        )
    given = states_given(config.cell, hx)
    for name, state, shape in zip(names, given, shapes, strict=True):
        expected = shape if batched else (shape[0], shape[2])
        if state.shape != expected:
            raise ShapeError(
                f"the initial state {name} has the shape {shape_of(state)}, expected {expected} "
                f"({sentences.of_states(given, batched, shapes, packed)})"
            )
        check_state(f"the initial state {name}", state, expected, x, weight, dtype)
    return given if batched else tuple(state.unsqueeze(1) for state in given)


def states_of_runs(config: LayerConfig, states: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """The initial states, from ``initial_states``, of each layer and direction: B×(P or H) each."""
    return [tuple([s[k] for s in states]) for k in range(len(config.step_shapes))]


def zero_states(config: LayerConfig, x: Tensor) -> list[tuple[Tensor, ...]]:
    """Initial states of zero for each layer and direction. States of equal width are the same tensor."""
    batch, sizes = x.shape[1], config.state_sizes
    of_size = {size: x.new_zeros(batch, size) for size in dict.fromkeys(sizes)}
    return [tuple([of_size[size] for size in sizes])] * len(config.step_shapes)


def check_state(
    called: str,
    state: Tensor,
    shape: tuple[int, ...],
    x: Tensor,
    weight: Tensor,
    dtype: torch.dtype | None,
) -> None:
    """Raises ShapeError unless the state has that shape, and the dtype and device of the input.

    If the input does not have the weight's dtype, the message is about the input, as in torch."""
    if state.device != x.device:
        raise ShapeError(
            f"{called} is on '{state.device}', the input is on '{x.device}' "
            f"({sentences.of_device(x.device, state.device, 'hidden')})"
        )
    if state.dtype != x.dtype:
        if dtype is None:
            check_input(x, weight)
        raise ShapeError(
            f"{called} is {state.dtype}, the input is {x.dtype}; give its .to({x.dtype}) "
            f"({sentences.of_product(state.dtype, x.dtype)})"
        )
    check_tensor(called, state, shape, x)


def states_given(
    cell: Cell, hx: Tensor | Sequence[Tensor], single: bool = False
) -> tuple[Tensor, ...]:
    """The caller's ``hx`` as a tuple with a tensor for each state of the cell.

    ``single`` is whether the caller is a RecurrentCell, for the message.

    Raises:
        StateTypeError: ``hx`` has something other than tensors.
        ShapeError: the number of states is wrong.
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


def _for_each_sequence(vectors: Sequence[Tensor], batch: int) -> Tensor:
    """The learned states of all layers and directions, expanded to the batch: L·D×B×(P or H)."""
    return torch.stack(list(vectors)).unsqueeze(1).expand(-1, batch, -1)
