"""A call of the loops in CUDA C++: how it is divided, and what they take."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from gatewise.backends.contract import Spec
from gatewise.backends.gpu.calls import Calls
from gatewise.backends.gpu.clusters.plan import Chip, Plan, Work, divide
from gatewise.backends.gpu.clusters.program import Kernel, chip
from gatewise.backends.gpu.plan import REMEMBERED
from gatewise.backends.gpu.prepared import Backward, Forward, Prepared, full_precision
from gatewise.backends.gpu.sums import Shape, shape_of
from gatewise.cells.language import Cell
from gatewise.emit.cuda import source

_NUMBERS = {torch.float32: "float", torch.bfloat16: "bfloat16", torch.float16: "half"}


class Call(Prepared):
    """A call of the loops of loops.h, whose structs say what stands in which order."""

    plan: Plan
    exchanged = True

    def divide(self, back: bool) -> Plan:
        _, B, H, *_ = self.sizes
        plan = divide(work(self.shape, H, B, self.sizes.dtype, back), _chip(self.x.device))
        assert plan is not None  # the backend looked
        return plan

    @property
    def at_once(self) -> bool:
        return self.plan.launches(self.sizes.B) <= 1

    def forward(self, run: Forward) -> None:
        read = (run.inputs, *self.biases, self.recurrent, *self._params, *run.initial)
        written = (*run.histories, *run.final, run.saved, run.values)
        fed = None if self.factor is None else self.x.new_empty(2, *self.factor.shape)
        self._launch("forward", (*read, *written), fed)

    def backward(self, run: Backward) -> None:
        read = (*run.histories, run.saved, run.of_output, *run.of_final)
        written = (run.of_sums, *run.of_initial, *run.of_params, None)
        self._launch("backward", (self.recurrent, *self._params, *read, *written))

    @property
    def _params(self) -> tuple[Tensor | None, ...]:
        """There is one more place than there are any."""
        return *self.per_unit, None

    def _launch(self, way: str, tensors: tuple[Tensor | None, ...], *fed: Tensor | None) -> None:
        lengths = None if self.lengths is None else self.lengths.long()
        zoneout = self.zoneout or [None] * self.shape.STATES
        strides = self.zone_steps or [0] * (2 * self.shape.STATES)
        tensors = (*tensors, lengths, self.order, self.reset, *zoneout)
        words = [*_addresses(tensors), *strides[0::2], *strides[1::2]]
        words += _addresses((self.factor, *fed))
        kernel = _kernel(
            *(self.job.cell, way, self.sizes.dtype, self.sizes.H, self.plan, len(words) + 4),
            *(self.job.reverse, self.zoneout is not None, full_precision(), self.x.device),
        )
        for first, tiles in self.launches():
            counters = torch.zeros(tiles, dtype=torch.int32, device=self.x.device)
            rest = [counters.data_ptr(), self.sizes.T, self.sizes.B, first]
            kernel.launch(self.plan.SLICES, tiles, self.plan.PARTS, [*words, *rest])


engine = Calls(Call)


def _addresses(tensors: tuple[Tensor | None, ...]) -> Iterator[int]:
    for tensor in tensors:
        yield 0 if tensor is None else tensor.data_ptr()


@lru_cache(REMEMBERED)
def _kernel(
    cell: Cell,
    way: str,
    dtype: torch.dtype,
    units: int,
    plan: Plan,
    words: int,
    reverse: bool,
    zoneout: bool,
    exact: bool,
    device: torch.device,
) -> Kernel:
    constants = plan.constants() | dict(H=units, REVERSE=reverse, ZONEOUT=zoneout, EXACT=exact)
    text = source(cell, way, _NUMBERS[dtype], constants, words)
    return Kernel(text, way, plan.SHARED, device)


def work(shape: Shape, units: int, batch: int, dtype: torch.dtype, back: bool) -> Work:
    """What is to be divided: on the way back a unit's row is as long as all sums' rows together."""
    sums, itemsize = shape.NW + shape.NH, dtype.itemsize
    if back:
        return Work(units, batch, itemsize, 1, sums * units)
    return Work(units, batch, itemsize, sums, units)


def fits(spec: Spec) -> bool:
    """Whether there is room on the chip for the weights of a call, both ways."""
    shape, batch = shape_of(spec.cell), max(spec.batch, 1)
    given = (shape, spec.hidden_size, batch, spec.dtype)
    return all(divide(work(*given, back), _chip(spec.device)) for back in (False, True))


def _chip(device: torch.device) -> Chip:
    return chip(torch.cuda.current_device() if device.index is None else device.index)
