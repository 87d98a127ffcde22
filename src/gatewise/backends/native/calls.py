"""The engine of the CPU: calls of the C++ core on tensors, for the forward and the backward pass.

The layer has checked the tensors. Here they are only brought to the strides and dtypes that the core takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from gatewise.backends.contract import Masks, Weights, address_of
from gatewise.backends.engine import Arguments, computed_in
from gatewise.backends.native import cells
from gatewise.backends.native.cells import address
from gatewise.backends.native.factors import factors
from gatewise.backends.native.library import core
from gatewise.cells.language import Cell
from gatewise.emit.steps import layout

# As enum Storage in csrc/kernels.h.
STORAGES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
DTYPES = tuple(STORAGES)
# A contiguous tensor of another's shape, dtype and device. This takes half the time of Tensor.new_empty.
_empty = partial(torch.empty_like, memory_format=torch.contiguous_format)
_zeros = partial(torch.zeros_like, memory_format=torch.contiguous_format)


def unusable(cell: Cell) -> str | None:
    """Why the core cannot run the cell, as the end of the sentence "it ...", or None."""
    return cells.unusable(cell)


def _native(given: Arguments) -> Any:
    """The core's call object for these arguments. Only its sizes are set."""
    steps, batch, inputs = given.x.shape
    return core().Call(
        *(address(given.cell), STORAGES[given.x.dtype], steps, batch, inputs, given.hidden_size),
        *(given.proj_size, given.reverse, torch.get_num_threads(), factors(given.x.dtype)),
    )


def _dense(tensor: Tensor) -> Tensor:
    """The tensor, with a last dimension that is contiguous."""
    if tensor.is_contiguous() or tensor.shape[-1] <= 1 or tensor.stride(-1) == 1:
        return tensor
    return tensor.contiguous()


def _steps(tensor: Tensor) -> tuple[int, int, int]:
    step, row, *_ = tensor.stride()
    return address_of(tensor), step, row


_NOTHING = (0, 0, 0)  # in place of the result of _steps


def _rows(tensor: Tensor) -> tuple[int, int]:
    return address_of(tensor), tensor.stride(0)


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None else address_of(tensor) for tensor in tensors]


class _Call:
    """A call of the core with the tensors that both passes read. It keeps these tensors alive."""

    def __init__(self, given: Arguments) -> None:
        x, masks = given.x, given.masks
        self.x = _dense(x)
        listed = given.weights.listed(given.cell)
        self.weights = [None if w is None else w.contiguous() for w in listed]
        self.state = [_dense(s) for s in given.state]
        self.native = call = _native(given)
        call.x(_steps(self.x))
        call.weights(_addresses(self.weights))
        call.state([_rows(s) for s in self.state])
        self.kept: list[Tensor] = []
        if masks.lengths is not None:
            call.lengths(address_of(self._keep(masks.lengths.to(torch.int64).contiguous())))
        if masks.reset is not None:
            reset = self._keep(masks.reset.contiguous())
            call.reset(_steps(reset))
        if masks.recurrent is not None:
            call.recurrent_factor(_rows(self._keep(_dense(masks.recurrent.to(x.dtype)))))
        if masks.zoneout is not None:
            steps, batch = x.shape[:2]
            whole = [z.to(x.dtype).expand(steps, batch, z.shape[-1]) for z in masks.zoneout]
            call.zoneout([_steps(self._keep(_dense(z))) for z in whole])

    def _keep(self, tensor: Tensor) -> Tensor:
        self.kept.append(tensor)
        return tensor


def stream(
    cell: Cell,
    states: Sequence[Sequence[Tensor]],
    weights: Sequence[Weights],
    zoneout: tuple[Tensor, ...] | None,
) -> _Stream:
    """A stream through stacked layers: see ``contract.WholeNetworks``."""
    calls = []
    for state, of_layer in zip(states, weights, strict=True):
        batch, width = state[0].shape
        like = state[0].new_empty(1, batch, of_layer.input.shape[1])
        masks = Masks(zoneout=zoneout)
        one = _Call(Arguments(cell, False, like, tuple(state), of_layer, masks))
        one.native.final_state([_rows(s) for s in one.state])
        one.native.output((0, batch * width, width))
        calls.append(one)
    return _Stream(calls)


class _Stream:
    """The core's stream. It keeps the tensors that the core reads alive."""

    def __init__(self, calls: Sequence[_Call]) -> None:
        self._calls = calls
        native = core().Stream([one.native for one in calls])
        self.step: Callable[[Any], Any] = native.step
        self.resize: Callable[[int], None] = native.resize


def activations_like(given: Arguments) -> Tensor:
    """An uninitialised tensor for the saved activations. The arguments may be fake tensors."""
    steps, batch, inputs = given.x.shape
    there = tuple([w is not None for w in given.weights.listed(given.cell)])
    # the sizes in a graph may be symbolic; int() makes these constant
    sizes = int(inputs), int(given.hidden_size), int(given.proj_size)
    kind = address(given.cell), given.x.dtype
    per_row, fixed = _activation_sizes(*kind, *sizes, there, given.masks.recurrent is not None)
    count = (steps + 1) * batch * per_row + fixed
    return given.x.new_empty(count, dtype=computed_in(given.x.dtype))


def _kept_activations(call: _Call) -> Any:
    """An uninitialised tensor for the saved activations. A large one is in memory that the core reuses."""
    x, (per_row, fixed) = call.x, call.native.activations_size()
    count, dtype = (x.shape[0] + 1) * x.shape[1] * per_row + fixed, computed_in(x.dtype)
    return core().activations(x, count, dtype, dtype == torch.float64)


@lru_cache(maxsize=1024)
def _activation_sizes(
    cell: int,
    dtype: torch.dtype,
    inputs: int,
    units: int,
    projection: int,
    weights: tuple[bool, ...],
    recurrent_factor: bool,
) -> tuple[int, int]:
    """The number of saved values per sequence and step, and the number of further values.

    ``weights`` says which weights the call has."""
    call = core().Call(cell, STORAGES[dtype], 1, 1, inputs, units, projection, False, 1, 0)
    call.weights([int(there) for there in weights])
    if recurrent_factor:
        call.recurrent_factor((1, 0))
    per_row, fixed = call.activations_size()
    return per_row, fixed


def forward(given: Arguments) -> list[Tensor]:
    """The output and the final states."""
    return _run(given, _Call(given))


def forward_saving(given: Arguments) -> list[Any]:
    """The output, the final states and the saved activations."""
    call = _Call(given)
    activations = _kept_activations(call)
    call.native.activations(activations.data_ptr())
    return [*_run(given, call), activations]


def forward_saving_history(given: Arguments) -> list[Any]:
    """The output, the final states, the saved activations, the history of the states and the pre-activations.

    The history has each state but the first after each step; the first state is the output. The
    pre-activations are those that the equations read, in the order of ``layout`` and in the dtype of the
    computation. Each is T×B×H, and zero in the padding.
    """
    call, shape = _Call(given), (*given.x.shape[:2], given.hidden_size)
    make = given.x.new_empty if given.masks.lengths is None else given.x.new_zeros
    history = [make(shape) for _ in given.state[1:]]
    dtype = computed_in(given.x.dtype)
    pre_activations = [make(shape, dtype=dtype) for _ in layout(given.cell).accumulators]
    activations = _kept_activations(call)
    call.native.activations(activations.data_ptr())
    call.native.history([_NOTHING, *map(_steps, history)])
    call.native.pre_activations([*map(_steps, pre_activations)])
    return [*_run(given, call), activations, *history, *pre_activations]


def _run(given: Arguments, call: _Call) -> list[Tensor]:
    x, state = given.x, given.state
    output = x.new_empty(*x.shape[:2], state[0].shape[1])
    final = [_empty(s) for s in state]
    call.native.output(_steps(output))
    call.native.final_state([_rows(s) for s in final])
    call.native.forward()
    return [output, *final]


def takes_recurrent_input(given: Arguments) -> bool:
    """Whether ``traced`` can be given the recurrent input."""
    cell, (of_weights, of_masks) = given.cell, (given.weights.norm_input, given.masks.recurrent)
    fed_back = cell.feedback == cell.state[:1] and not cell.second_stage
    whole = given.x.dtype in (torch.float32, torch.float64)
    return fed_back and whole and of_weights is None and of_masks is None


def traced(
    given: Arguments, recurrent_input: Tensor | None = None
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The output and the final states; and every named value, T×B×H.

    Args:
        recurrent_input: T×B×F, the recurrent input of each step if it is known; it is read in place of the
            state, and makes the products faster.
    """
    x, cell, lengths = given.x, given.cell, given.masks.lengths
    (steps, batch, _), units = x.shape, given.hidden_size
    dtype = computed_in(x.dtype)
    lanes = core().vector_bytes() // dtype.itemsize
    padded = -(-units // lanes) * lanes
    make = torch.empty if lengths is None else torch.zeros
    values = make(len(cell.values), steps, batch, padded, dtype=dtype)
    call = _Call(given)
    call.native.trace(values.data_ptr())
    if recurrent_input is not None:
        recurrent_input = _dense(recurrent_input)
        call.native.recurrent_input(_steps(recurrent_input))
    outcome = _run(given, call)
    if lengths is not None:
        order = torch.empty(batch, dtype=torch.int64)
        call.native.order(order.data_ptr())
        values = values.index_select(2, order.argsort())
    values = values[..., :units].to(x.dtype)
    return outcome, dict(zip(cell.values, values, strict=True))


@cache
def uses_every_part(cell: Cell) -> bool:
    """Whether the cell uses both parts of every gate. The core does not write the rows of unused parts in the
    gradients of weights."""
    plan = layout(cell)
    return plan.from_input == plan.from_state == len(cell.gates)


def backward(
    given: Arguments, activations: Any, grads: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of x, the states and the weights, in that order; None if not ``wanted``.

    ``grads`` are the gradients of the output and the final states.
    """
    return _backward(_Call(given), given, activations, grads, wanted)


def backward_of_history(
    given: Arguments,
    activations: Any,
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
    after: bool,
) -> tuple[list[Tensor | None], list[Tensor]]:
    """The gradients as from ``backward``; and, with ``after``, the whole gradient of each state after each
    step, T×B×H, zero in the padding.

    ``grads`` are the gradients of the results of ``forward_saving_history`` without the saved activations.
    """
    call, of_states, (steps, batch, _) = _Call(given), len(given.state), given.x.shape
    plain = grads[: 1 + of_states]
    rest = [None if g is None else _dense(g) for g in grads[1 + of_states :]]
    each = [_NOTHING if g is None else _steps(g) for g in rest]
    call.native.grad_history([_NOTHING, *each[: of_states - 1]])
    call.native.grad_pre_activations(each[of_states - 1 :])
    found: list[Tensor] = []
    if after:
        make = given.x.new_empty if given.masks.lengths is None else given.x.new_zeros
        found = [make(steps, batch, state.shape[1]) for state in given.state]
        call.native.grad_after([_steps(g) for g in found])
    return _backward(call, given, activations, plain, wanted), found


def _backward(
    filled: _Call,
    given: Arguments,
    activations: Any,
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    call = filled.native
    activations = activations.contiguous()
    call.activations(address_of(activations))
    kept = [None if g is None else _dense(g) for g in grads]
    if kept[0] is not None:
        call.grad_output(_steps(kept[0]))
    call.grad_final([(0, 0) if g is None else _rows(g) for g in kept[1:]])
    first, tensors = 1 + len(given.state), given.tensors()
    of_weights = _empty if uses_every_part(given.cell) else _zeros
    makes = [_empty] * first + [of_weights] * (len(tensors) - first)
    results = [
        make(t) if want and t is not None else None
        for make, t, want in zip(makes, tensors, wanted, strict=True)
    ]
    if results[0] is not None:
        call.grad_x(_steps(results[0]))
    call.grad_state([(0, 0) if g is None else _rows(g) for g in results[1:first]])
    call.grad_weights(_addresses(results[first:]))
    call.backward()
    return results
