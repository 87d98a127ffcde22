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
from gatewise.backends.engine import Job, hidden_size
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


def _call(job: Job, x: Tensor, weights: Sequence[Tensor | None]) -> Any:
    steps, batch, inputs = x.shape
    units = hidden_size(weights, job.cell)
    return core().Call(
        *(address(job.cell), STORAGES[x.dtype], steps, batch, inputs, units),
        *(job.proj_size, job.reverse, job.threads),
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


class _Given:
    """A call filled in with what goes into both directions. It keeps alive what it points at."""

    def __init__(
        self,
        job: Job,
        x: Tensor,
        state: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        masks: Masks,
    ) -> None:
        self.x = _dense(x)
        self.weights = [None if w is None else w.contiguous() for w in weights]
        self.state = [_dense(s) for s in state]
        self.call = call = _call(job, self.x, self.weights)
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
            call.fed_factor(_rows(self._keep(_dense(masks.recurrent.to(x.dtype)))))
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
        one = _Given(job, like, state, each, Masks(zoneout=zoneout))
        one.call.final_state([_rows(s) for s in one.state])
        one.call.output((0, batch * state[0].shape[1], state[0].shape[1]))
        given.append(one)
    native = core().Stream([one.call for one in given])
    return native, given  # the zoneout shares must live as long


def tape_like(job: Job, x: Tensor, weights: Sequence[Tensor | None], fed_factor: bool) -> Tensor:
    """An empty tape for a run over ``x``; its size alone matters, so ``x`` may be a fake tensor."""
    numbers = _tape_numbers(job, x, weights, fed_factor)
    return x.new_empty(numbers, dtype=_COMPUTED_IN[x.dtype])


def _kept_tape(job: Job, x: Tensor, weights: Sequence[Tensor | None], fed_factor: bool) -> Any:
    """The same in memory of the core's, which keeps it for the next tape when it is let go."""
    numbers = _tape_numbers(job, x, weights, fed_factor)
    if numbers < _WORTH_KEEPING:
        return x.new_empty(numbers, dtype=_COMPUTED_IN[x.dtype])
    return core().tape(numbers, _COMPUTED_IN[x.dtype] == torch.float64)


def _tape_numbers(job: Job, x: Tensor, weights: Sequence[Tensor | None], fed_factor: bool) -> int:
    steps, batch = x.shape[:2]
    units = hidden_size(weights, job.cell)
    call = core().Call(
        *(address(job.cell), STORAGES[x.dtype], 1, 1, x.shape[2], units),
        *(job.proj_size, job.reverse, 1),
    )
    call.weights([0 if w is None else 1 for w in weights])
    if fed_factor:
        call.fed_factor((1, 0))
    row, beside = call.tape_size()
    return (steps + 1) * batch * row + beside


def forward(
    job: Job,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    masks: Masks,
) -> list[Tensor]:
    """The output and each state at its end."""
    return _forward(job, x, state, weights, masks, None)


def taped(
    job: Job,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    masks: Masks,
) -> list[Any]:
    """The same, and the tape."""
    tape = _kept_tape(job, x, weights, masks.recurrent is not None)
    return [*_forward(job, x, state, weights, masks, tape), tape]


def _forward(
    job: Job,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    masks: Masks,
    tape: Any,
) -> list[Tensor]:
    given = _Given(job, x, state, weights, masks)
    output, final = _outcome(job, x, state, weights)
    _fill(given, output, final, tape)
    given.call.forward()
    return [output, *final]


def _outcome(
    job: Job, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor | None]
) -> tuple[Tensor, list[Tensor]]:
    steps, batch = x.shape[:2]
    final = [s.new_empty(s.shape) for s in state]
    return x.new_empty(steps, batch, state[0].shape[1]), final


def _fill(given: _Given, output: Tensor, final: Sequence[Tensor], tape: Any) -> None:
    given.call.output(_steps(output))
    given.call.final_state([_rows(s) for s in final])
    if tape is not None:
        given.call.tape(tape.data_ptr())


def traced(
    job: Job, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor | None], masks: Masks
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The output and the states, and every named value, each T×B×H."""
    given = _Given(job, x, state, weights, masks)
    output, final = _outcome(job, x, state, weights)
    _fill(given, output, final, None)
    steps, batch = x.shape[:2]
    names = list(job.cell.values)
    units = hidden_size(weights, job.cell)
    dtype = _COMPUTED_IN[x.dtype]
    lanes = core().vector_bytes() // dtype.itemsize
    padded = -(-units // lanes) * lanes
    make = torch.empty if masks.lengths is None else torch.zeros
    values = make(len(names), steps, batch, padded, dtype=dtype)
    given.call.trace(values.data_ptr())
    given.call.forward()
    if masks.lengths is not None:
        order = torch.empty(batch, dtype=torch.int64)
        given.call.order(order.data_ptr())
        values = values.index_select(2, order.argsort())
    values = values[..., :units].to(x.dtype)
    return [output, *final], dict(zip(names, values, strict=True))


@cache
def _gradient_of_weights(cell: Cell) -> Callable[..., Tensor]:
    """How room for a weight's gradient is made: where a part of a gate is used by no equation, the
    core has no row for it, and its gradient stays zero."""
    plan = layout(cell)
    whole = plan.from_input == plan.from_state == len(cell.gates)
    return torch.empty if whole else torch.zeros


def backward(
    job: Job,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    masks: Masks,
    tape: Any,
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of x, the states and the weights, in that order; None where not ``wanted``.

    ``grads`` are those of the output and of the final states.
    """
    given = _Given(job, x, state, weights, masks)
    call = given.call
    call.tape(tape.data_ptr())
    kept = [None if g is None else _dense(g) for g in grads]
    if kept[0] is not None:
        call.grad_output(_steps(kept[0]))
    call.grad_final([(0, 0) if g is None else _rows(g) for g in kept[1:]])
    inputs = [x, *state, *weights]
    first = 1 + len(state)
    makes = [torch.empty] * first + [_gradient_of_weights(job.cell)] * len(weights)
    results = [
        make(t.shape, dtype=t.dtype) if want and t is not None else None
        for make, t, want in zip(makes, inputs, wanted, strict=True)
    ]
    if results[0] is not None:
        call.grad_x(_steps(results[0]))
    call.grad_state([(0, 0) if g is None else _rows(g) for g in results[1:first]])
    call.grad_weights(_addresses(results[first:]))
    call.backward()
    return results
