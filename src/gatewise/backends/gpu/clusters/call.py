"""A call of the loops in CUDA C++: its plan, and the arguments of the kernels."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gatewise.backends.contract import Spec
from gatewise.backends.gpu.accumulators import Shape, shape_of
from gatewise.backends.gpu.calls import Calls
from gatewise.backends.gpu.clusters.plan import Chip, Plan, Work, divide
from gatewise.backends.gpu.clusters.program import Kernel, chip
from gatewise.backends.gpu.plan import CACHE_SIZE
from gatewise.backends.gpu.prepared import Backward, Forward, Prepared, full_precision, index_of
from gatewise.cells.language import Cell
from gatewise.emit.cuda import source

_NUMBERS = {torch.float32: "float", torch.bfloat16: "bfloat16", torch.float16: "half"}


class Call(Prepared):
    """A call of the loops of loops.h, whose structs state the order of the arguments."""

    plan: Plan
    exchanged = True

    def divide(self, back: bool) -> Plan:
        _, B, H, *_ = self.sizes
        plan = divide(work(self.shape, H, B, self.sizes.dtype, back), chip_of(self.x.device))
        assert plan is not None  # the backend has asked ``fits``
        return plan

    @property
    def at_once(self) -> bool:
        return self.plan.launches(self.sizes.B) <= 1

    def forward(self, run: Forward) -> None:
        read = (run.inputs, *self.biases, self.recurrent, *self._params, *run.initial)
        fed = None if self.factor is None else self.x.new_empty(2, *self.factor.shape)
        written = (*run.histories, *run.final, run.saved, run.values, fed)
        self._launch("forward", (*read, *written))

    def backward(self, run: Backward) -> None:
        read = (*run.histories, run.saved, run.of_output, *run.of_final)
        written = (run.grad_accumulators, *run.of_initial, *run.of_params, None)
        self._launch("backward", (self.recurrent, *self._params, *read, *written))

    @property
    def _params(self) -> tuple[Tensor | None, ...]:
        """One more than there are parameters: the struct's array has at least one."""
        return *self.per_unit, None

    def _launch(self, direction: str, tensors: tuple[Tensor | None, ...]) -> None:
        T, B, H, *_ = self.sizes
        lengths = None if self.lengths is None else self.lengths.long()
        zoneout = self.zoneout or [None] * self.shape.STATES
        strides = self.zone_steps or [0] * (2 * self.shape.STATES)
        words = _addresses(*tensors, lengths, self.order, self.reset, *zoneout)
        words += [*strides[0::2], *strides[1::2], *_addresses(self.factor)]
        constants = self.plan.constants() | dict(H=H, REVERSE=self.reverse)
        constants |= dict(ZONEOUT=self.zoneout is not None, EXACT=full_precision())
        device, kind = self.x.device, (self.cell, direction, self.sizes.dtype)
        kernel = _kernel(*kind, tuple(constants.items()), len(words) + 4, device)
        for first, tiles in self.launches():
            counters = torch.zeros(tiles, dtype=torch.int32, device=device)
            given = [*words, *_addresses(counters), T, B, first]
            kernel.launch(self.plan.SLICES, tiles, self.plan.PARTS, given)


engine = Calls(Call)


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


@lru_cache(CACHE_SIZE)
def _kernel(
    cell: Cell,
    direction: str,
    dtype: torch.dtype,
    constants: tuple[tuple[str, int], ...],
    words: int,
    device: torch.device,
) -> Kernel:
    """The kernel with these constants, which takes ``words`` arguments of eight bytes."""
    named = dict(constants)
    return Kernel(
        source(cell, direction, _NUMBERS[dtype], named, words), direction, named["SHARED"], device
    )


def work(shape: Shape, units: int, batch: int, dtype: torch.dtype, back: bool) -> Work:
    """The work of a call. In the backward pass a unit's row is as long as the rows of all accumulators together."""
    accumulators, itemsize = shape.NW + shape.NH, dtype.itemsize
    if back:
        return Work(units, batch, itemsize, 1, accumulators * units)
    return Work(units, batch, itemsize, accumulators, units)


def fits(spec: Spec) -> bool:
    """Whether the chip has room for the weights of a call, in the forward and the backward pass."""
    shape, batch = shape_of(spec.cell), max(spec.batch, 1)
    given = (shape, spec.hidden_size, batch, spec.dtype)
    return all(divide(work(*given, back), chip_of(spec.device)) for back in (False, True))


def chip_of(device: torch.device) -> Chip:
    return chip(index_of(device))
