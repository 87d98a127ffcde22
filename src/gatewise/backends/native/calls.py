"""The core's two calls, on tensors: a cell through time, and its gradient.

What is passed has been checked by the layer; here strides and types are brought to what the core
takes, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gatewise.backends.contract import Masks
from gatewise.backends.engine import Given, Job, hidden_size
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
# Tapes of so many numbers: mapping their pages anew takes longer than asking for kept ones.
_WORTH_KEEPING = 1 << 18


def unusable(cell: Cell) -> str | None:
    """Why the core cannot have the cell, as the end of the sentence "it ...", or None."""
    return cells.unusable(cell)


def _native(job: Job, x: Tensor, weights: Sequence[Tensor | None]) -> Any:
    steps, batch, inputs = x.shape
    units = hidden_size(weights, job.cell)
    return core().Call(
        *(address(job.cell), STORAGES[x.dtype], steps, batch, inputs, units),
        *(job.proj_size, job.reverse, torch.get_num_threads()),
    )


def _dense(tensor: Tensor) -> Tensor:
    """The tensor with its last dimension's numbers side by side."""
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        return tensor.contiguous()
    return tensor


def _steps(tensor: Tensor) -> tuple[int, int, int]:
    return tensor.data_ptr(), tensor.stride(0), tensor.stride(1)


def _rows(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.stride(0)


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


class _Call:
    """A call filled in with what goes into both directions. It keeps alive what it points at."""

    def __init__(self, given: Given) -> None:
        job, x, state, weights, masks = given
        self.x = _dense(x)
        self.weights = [None if w is None else w.contiguous() for w in weights]
        self.state = [_dense(s) for s in state]
        self.native = call = _native(job, self.x, self.weights)
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
    job: Job,
    input_sizes: Sequence[int],
    states: Sequence[Sequence[Tensor]],
    weights: Sequence[Sequence[Tensor | None]],
    zoneout: tuple[Tensor, ...] | None,
) -> Any:
    """A core's stream through layers: for each its input size, its state (B×width; kept up to date
    in place) and its weights, which are packed here and not looked at again."""
    given = []
    for inputs, state, each in zip(input_sizes, states, weights, strict=True):
        batch = state[0].shape[0]
        like = state[0].new_empty(1, batch, inputs)
        one = _Call(Given(job, like, state, each, Masks(zoneout=zoneout)))
        one.native.final_state([_rows(s) for s in one.state])
        one.native.output((0, batch * state[0].shape[1], state[0].shape[1]))
        given.append(one)
    native = core().Stream([one.native for one in given])
    return native, given  # the zoneout shares must live as long


def tape_like(given: Given) -> Tensor:
    """An empty tape for a run; its size alone matters, so that what is given may be fake tensors."""
    return given.x.new_empty(_tape_numbers(given), dtype=_COMPUTED_IN[given.x.dtype])


def _kept_tape(given: Given) -> Any:
    """The same in memory of the core's, which keeps it for the next tape when it is let go."""
    numbers, dtype = _tape_numbers(given), _COMPUTED_IN[given.x.dtype]
    if numbers < _WORTH_KEEPING:
        return given.x.new_empty(numbers, dtype=dtype)
    return core().activations(numbers, dtype == torch.float64)


def _tape_numbers(given: Given) -> int:
    job, x, _, weights, masks = given
    steps, batch = x.shape[:2]
    units = hidden_size(weights, job.cell)
    call = core().Call(
        *(address(job.cell), STORAGES[x.dtype], 1, 1, x.shape[2], units),
        *(job.proj_size, job.reverse, 1),
    )
    call.weights([0 if w is None else 1 for w in weights])
    if masks.recurrent is not None:
        call.recurrent_factor((1, 0))
    row, beside = call.activations_size()
    return (steps + 1) * batch * row + beside


def forward(given: Given) -> list[Tensor]:
    """The output and each state at its end."""
    return _run(given, _Call(given))


def taped(given: Given) -> list[Any]:
    """The same, and the tape."""
    tape, call = _kept_tape(given), _Call(given)
    call.native.activations(tape.data_ptr())
    return [*_run(given, call), tape]


def _run(given: Given, call: _Call) -> list[Tensor]:
    x, state = given.x, given.state
    output = x.new_empty(*x.shape[:2], state[0].shape[1])
    final = [s.new_empty(s.shape) for s in state]
    call.native.output(_steps(output))
    call.native.final_state([_rows(s) for s in final])
    call.native.forward()
    return [output, *final]


def traced(given: Given) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The output and the states, and every named value, each T×B×H."""
    x, cell, lengths = given.x, given.job.cell, given.masks.lengths
    steps, batch = x.shape[:2]
    units = hidden_size(given.weights, cell)
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
    return torch.empty if whole else torch.zeros


def backward(
    given: Given, tape: Any, grads: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of x, the states and the weights, in that order; None where not ``wanted``.

    ``grads`` are those of the output and of the final states.
    """
    filled = _Call(given)
    call = filled.native
    call.activations(tape.data_ptr())
    kept = [None if g is None else _dense(g) for g in grads]
    if kept[0] is not None:
        call.grad_output(_steps(kept[0]))
    call.grad_final([(0, 0) if g is None else _rows(g) for g in kept[1:]])
    first = 1 + len(given.state)
    of_weights = _gradient_of_weights(given.job.cell)
    makes = [torch.empty] * first + [of_weights] * len(given.weights)
    results = [
        make(t.shape, dtype=t.dtype) if want and t is not None else None
        for make, t, want in zip(makes, given.tensors(), wanted, strict=True)
    ]
    if results[0] is not None:
        call.grad_x(_steps(results[0]))
    call.grad_state([(0, 0) if g is None else _rows(g) for g in results[1:first]])
    call.grad_weights(_addresses(results[first:]))
    call.backward()
    return results
