"""What both directions of a call are given, laid out as the time loops take it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gatewise.backends.contract import Masks, Spec, Weights, valid_steps
from gatewise.backends.engine import Given, hidden_size
from gatewise.backends.gpu import plan as plans
from gatewise.backends.gpu.plan import REMEMBERED, Chip, Plan, Work
from gatewise.backends.gpu.sums import Shape, rows, shape_of
from gatewise.backends.gpu.tape import Sizes, widths

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class Call:
    """A call, and how it is divided. What comes without ``lengths`` has None for them. Per-unit weights
    stand by themselves, in the cell's order."""

    def __init__(self, given: Given, divide: Callable[[Work, Chip], Plan]) -> None:
        job, x, state, weights, masks = given
        self.job, self.shape, self.x, self.state = job, shape_of(job.cell), x, state
        self.weights = Weights(*weights[:7])  # type: ignore[arg-type]
        self.sizes = sizes_of(given)
        self.widths = widths(self.shape, self.sizes)
        of_state, H = self.shape.of_state, self.sizes.H
        gain, projection = self.weights.norm_recurrent, self.weights.projection
        self.recurrent = rows(self.weights.recurrent, of_state, H)
        self.gain = None if gain is None else rows(gain, of_state, H)
        self.projection = None if projection is None else projection.contiguous()
        biases = self.weights.input_bias, self.weights.recurrent_bias
        self.biases = tuple(None if bias is None else bias.contiguous() for bias in biases)
        self.per_unit = tuple(w.contiguous() for w in weights[7:] if w is not None)
        self.plan = divide(work(self.shape, self.sizes), chip(x.device))
        self._take(masks)

    def _take(self, masks: Masks) -> None:
        T, B, device = self.sizes.T, self.sizes.B, self.x.device
        self.lengths = self.order = None
        if masks.lengths is not None:
            self.lengths = masks.lengths.to(device)
            # where tiles follow each other the longest come first, so that the last are done early
            if not self.plan.at_once(B, chip(device)):
                self.order = self.lengths.argsort(descending=True)
        reset, factor = masks.reset, masks.recurrent
        self.reset = None if reset is None else reset.contiguous().view(torch.uint8)
        self.factor = None if factor is None else factor.contiguous()
        self.zoneout: tuple[Tensor, ...] | None = None
        self.zone_steps: tuple[int, ...] = ()
        if masks.zoneout is not None:
            shares = [z.contiguous().expand(T, B, z.shape[-1]) for z in masks.zoneout]
            self.zoneout = tuple(shares)
            self.zone_steps = tuple(step for z in shares for step in z.stride()[:2])

    def real(self, of: Tensor) -> Tensor:
        """T×B×… with zeros beyond each sequence's length: NaN there would reach the weights."""
        if self.lengths is None:
            return of
        return torch.where(valid_steps(len(of), self.lengths)[..., None], of, 0)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Room for what the loops write, which do not write beyond a sequence's length."""
        make = torch.empty if self.lengths is None else torch.zeros
        return make(shape, dtype=dtype or self.sizes.dtype, device=self.x.device)

    def launch(self, loop: Any, *given: Any, **constants: Any) -> None:
        """Runs a loop over all sequences: several times where its programs cannot all run at once."""
        sizes, T, B = self.sizes, self.sizes.T, self.sizes.B
        constants |= _constants(self.shape, self.plan, sizes.H, sizes.P, self.widths, sizes.dtype)
        constants |= dict(REVERSE=self.job.reverse, PRECISION=precision())
        waits = self.plan.SLICES > 1
        if waits:  # they wait for each other, so that all must run: this sees to it
            constants["launch_cooperative_grid"] = True
        with _on(self.x.device):
            for first, tiles in self._tiles() if T else ():
                counters = self._counters(tiles) if waits else None
                loop[tiles, self.plan.SLICES](
                    *given, self.places(), counters, T, B, first, **constants
                )

    def _counters(self, tiles: int) -> Tensor:
        """One for the slices of each tile, then one for each group of slices of each tile."""
        number = tiles * (1 + self.plan.SLICES // self.plan.PARTS)
        return torch.zeros(number, dtype=torch.int32, device=self.x.device)

    def _tiles(self) -> Iterator[tuple[int, int]]:
        """Each launch's first sequence, and its tiles."""
        B, of_tile = self.sizes.B, self.plan.BT
        for first in range(0, B, self.plan.tiles * of_tile):
            yield first, min(self.plan.tiles, -(-(B - first) // of_tile))

    def places(self) -> Tensor | None:
        """Where slices tell each other two numbers of each sequence."""
        if self.gain is None or self.plan.SLICES == 1:
            return None
        size = (self.plan.SLICES, self.sizes.B, 2)
        return torch.empty(size, dtype=torch.float32, device=self.x.device)


@lru_cache(REMEMBERED)
def _constants(
    shape: Shape, plan: Plan, H: int, P: int, widths: tuple[int, ...], dtype: torch.dtype
) -> dict[str, Any]:
    """What both loops are compiled for, but for the direction and the precision."""
    fed = [widths[k] for k in shape.FED]
    return dict(
        **shape.counts(),
        **plan.blocks(),
        FED=shape.FED,
        FEDS=len(shape.FED),
        FROM=tuple(sum(fed[:f]) for f in range(len(fed))),
        F=sum(fed),
        H=H,
        P=P,
        WIDTHS=widths,
        DT=TYPES[dtype],
        num_warps=plan.warps,
    )


def work(shape: Shape, sizes: Sizes) -> Work:
    """What is to be divided."""
    sums, beside = shape.NW + shape.NH, shape.NL + sizes.projected
    width = max(sizes.H, sizes.P)
    return Work(width, sizes.B, sizes.dtype.itemsize, len(shape.FED), sums, beside)


def launches(spec: Spec) -> int:
    """How many launches after each other ``spec`` has on its way forward."""
    given = (spec.batch, spec.hidden_size, spec.output_size, spec.dtype)
    sizes = Sizes(1, *given, spec.proj_size > 0, spec.layer_norm)
    divided = plans.forward(work(shape_of(spec.cell), sizes), chip(spec.device))
    return divided.launches(spec.batch)


def sizes_of(given: Given) -> Sizes:
    job, x, _, weights, _ = given
    H = hidden_size(weights, job.cell)
    projected, normalised = weights[4] is not None, weights[6] is not None
    T, B, _ = x.shape
    return Sizes(T, B, H, job.proj_size or H, x.dtype, projected, normalised)


def chip(device: torch.device) -> Chip:
    return _chip(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _chip(index: int) -> Chip:
    found = triton.runtime.driver.active.utils.get_device_properties(index)
    return Chip(found["multiprocessor_count"], found["max_shared_mem"])


def precision() -> str:
    """How float32 is multiplied: in TF32 where torch's products may, else in three of its parts."""
    matmul = torch.backends.cuda.matmul
    # the newer setting reflects the older one, which cannot be read once the newer was written
    newer = getattr(matmul, "fp32_precision", None)
    return "tf32" if newer == "tf32" or (newer is None and matmul.allow_tf32) else "tf32x3"


def _on(device: torch.device) -> torch.cuda.device:
    """Where Triton launches."""
    return torch.cuda.device(device if device.type == "cuda" else -1)
