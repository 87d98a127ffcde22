"""The core's two calls, on tensors: a cell through time, and its gradient.

What is passed has been checked by the layer; here strides and types are brought to what the core
takes, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from gatewise.backends.contract import Masks, Weights
from gatewise.backends.engine import Arguments
from gatewise.backends.native import cells
from gatewise.backends.native.cells import address
from gatewise.backends.native.library import core
from gatewise.cells.language import Cell
from gatewise.emit.steps import layout

# As enum Storage in csrc/kernels.h.
STORAGES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
_COMPUTED_IN = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
}


DTYPES = tuple(STORAGES)
# Activations of so many numbers: mapping their pages anew takes longer than asking for kept ones.
_WORTH_KEEPING = 1 << 18


def unusable(cell: Cell) -> str | None:
    """Why the core cannot have the cell, as the end of the sentence "it ...", or None."""
    return cells.unusable(cell)


def _native(given: Arguments) -> Any:
    """A call of the core for these, with nothing but its sizes filled in."""
    steps, batch, inputs = given.x.shape
    return core().Call(
        *(address(given.cell), STORAGES[given.x.dtype], steps, batch, inputs, given.hidden_size),
        *(given.proj_size, given.reverse, torch.get_num_threads()),
    )


def _dense(tensor: Tensor) -> Tensor:
    """The tensor with its last dimension's numbers side by side."""
    if tensor.is_contiguous() or tensor.shape[-1] <= 1 or tensor.stride(-1) == 1:
        return tensor
    return tensor.contiguous()


def _steps(tensor: Tensor) -> tuple[int, int, int]:
    step, row, *_ = tensor.stride()
    return tensor.data_ptr(), step, row


def _rows(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.stride(0)


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


class _Call:
    """A call of the core with what both the forward and the backward pass read. It keeps alive what it
    points at."""

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
            call.lengths(self._keep(masks.lengths.to(torch.int64).contiguous()).data_ptr())
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
    """A stream through layers, see ``contract.WholeNetworks``."""
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
    """The core's stream, and what it points at."""

    def __init__(self, calls: Sequence[_Call]) -> None:
        self._calls = calls
        self.step: Callable[[Any], Any] = core().Stream([one.native for one in calls]).step


def activations_like(given: Arguments) -> Tensor:
    """Room for the saved activations of a run. Only its size matters, so the arguments may be fake tensors."""
    steps, batch, inputs = given.x.shape
    there = tuple([w is not None for w in given.weights.listed(given.cell)])
    # a graph's sizes may be symbols: these are fixed in it
    sizes = int(inputs), int(given.hidden_size), int(given.proj_size)
    kind = address(given.cell), given.x.dtype
    row, beside = _activation_sizes(*kind, *sizes, there, given.masks.recurrent is not None)
    numbers = (steps + 1) * batch * row + beside
    return given.x.new_empty(numbers, dtype=_COMPUTED_IN[given.x.dtype])


def _kept_activations(call: _Call) -> Any:
    """The same in memory of the core, which keeps the pages for later runs."""
    x, (row, beside) = call.x, call.native.activations_size()
    numbers, dtype = (x.shape[0] + 1) * x.shape[1] * row + beside, _COMPUTED_IN[x.dtype]
    if numbers < _WORTH_KEEPING:
        return x.new_empty(numbers, dtype=dtype)
    return core().activations(numbers, dtype == torch.float64)


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
    """Numbers for each sequence and step, and numbers beside these. ``weights`` says which there are."""
    call = core().Call(cell, STORAGES[dtype], 1, 1, inputs, units, projection, False, 1)
    call.weights([int(there) for there in weights])
    if recurrent_factor:
        call.recurrent_factor((1, 0))
    row, beside = call.activations_size()
    return row, beside


def forward(given: Arguments) -> list[Tensor]:
    """The output and each state at its end."""
    return _run(given, _Call(given))


def forward_saving(given: Arguments) -> list[Any]:
    """The same, and the saved activations."""
    call = _Call(given)
    activations = _kept_activations(call)
    call.native.activations(activations.data_ptr())
    return [*_run(given, call), activations]


def _run(given: Arguments, call: _Call) -> list[Tensor]:
    x, state = given.x, given.state
    output = x.new_empty(*x.shape[:2], state[0].shape[1])
    final = [s.new_empty(s.shape) for s in state]
    call.native.output(_steps(output))
    call.native.final_state([_rows(s) for s in final])
    call.native.forward()
    return [output, *final]


def traced(given: Arguments) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The output and the states, and every named value, each T×B×H."""
    x, cell, lengths = given.x, given.cell, given.masks.lengths
    (steps, batch, _), units = x.shape, given.hidden_size
    dtype = _COMPUTED_IN[x.dtype]
    lanes = core().vector_bytes() // dtype.itemsize
    padded = -(-units // lanes) * lanes
    make = torch.empty if lengths is None else torch.zeros
    values = make(len(cell.values), steps, batch, padded, dtype=dtype)
    call = _Call(given)
    call.native.trace(values.data_ptr())
    outcome = _run(given, call)
    if lengths is not None:
        order = torch.empty(batch, dtype=torch.int64)
        call.native.order(order.data_ptr())
        values = values.index_select(2, order.argsort())
    values = values[..., :units].to(x.dtype)
    return outcome, dict(zip(cell.values, values, strict=True))


@cache
def _gradient_of_weights(cell: Cell) -> Callable[..., Tensor]:
    """How room for a weight's gradient is made: where a part of a gate is used by no equation, the
    core has no row for it, and its gradient stays zero."""
    plan = layout(cell)
    whole = plan.from_input == plan.from_state == len(cell.gates)
    return Tensor.new_empty if whole else Tensor.new_zeros


def backward(
    given: Arguments, activations: Any, grads: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of x, the states and the weights, in that order; None where not ``wanted``.

    ``grads`` are those of the output and of the final states.
    """
    filled = _Call(given)
    call = filled.native
    call.activations(activations.data_ptr())
    kept = [None if g is None else _dense(g) for g in grads]
    if kept[0] is not None:
        call.grad_output(_steps(kept[0]))
    call.grad_final([(0, 0) if g is None else _rows(g) for g in kept[1:]])
    first = 1 + len(given.state)
    of_weights, tensors = _gradient_of_weights(given.cell), given.tensors()
    makes = [Tensor.new_empty] * first + [of_weights] * (len(tensors) - first)
    results = [
        make(t, t.shape) if want and t is not None else None  # faster than torch.empty
        for make, t, want in zip(makes, tensors, wanted, strict=True)
    ]
    if results[0] is not None:
        call.grad_x(_steps(results[0]))
    call.grad_state([(0, 0) if g is None else _rows(g) for g in results[1:first]])
    call.grad_weights(_addresses(results[first:]))
    call.backward()
    return results
