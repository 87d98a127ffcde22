"""A call of Triton's time loops: its plan, and the arguments of the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gatewise.backends.contract import NORM_EPSILON, Masks, Spec, valid_steps
from gatewise.backends.engine import Arguments
from gatewise.backends.gpu import loops
from gatewise.backends.gpu import plan as plans
from gatewise.backends.gpu.accumulators import Shape, rows, shape_of
from gatewise.backends.gpu.activations import Sizes, widths
from gatewise.backends.gpu.cells import functions
from gatewise.backends.gpu.plan import CACHE_SIZE, Chip, Plan, Work

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class Forward(NamedTuple):
    """The tensors that the forward pass reads and writes, as loops.py names them; None if not asked for.
    ``histories`` has one for each state."""

    inputs: Tensor
    initial: tuple[Tensor, ...]
    histories: tuple[Tensor | None, ...]
    final: tuple[Tensor, ...]
    saved: Tensor | None
    late: Tensor | None
    unprojected: Tensor | None
    normal: Tensor | None
    scales: Tensor | None
    values: Tensor | None


class Backward(NamedTuple):
    """The tensors that the backward pass reads and writes, likewise."""

    histories: tuple[Tensor, ...]
    saved: Tensor
    normal: Tensor | None
    scales: Tensor | None
    of_output: Tensor | None
    of_final: tuple[Tensor | None, ...]
    grad_accumulators: Tensor
    before_norm: Tensor | None
    projected: Tensor | None
    of_initial: tuple[Tensor, ...]
    of_params: tuple[Tensor, ...]


class Call:
    """A forward or a backward pass that is to be run, with its arguments in the form that the time loops take.
    An option that the call does not have is None. The per-unit weights are in the cell's order."""

    def __init__(self, given: Arguments, back: bool) -> None:
        self.cell, self.reverse, self.x, self.state, self.weights, masks = given
        self.shape = shape_of(self.cell)
        self.sizes = sizes_of(given)
        self.widths = widths(self.shape, self.sizes)
        of_state, H = self.shape.of_state, self.sizes.H
        norm_weight, projection = self.weights.norm_recurrent, self.weights.projection
        self.recurrent = rows(self.weights.recurrent, of_state, H)
        self.norm_weight = None if norm_weight is None else rows(norm_weight, of_state, H)
        self.projection = None if projection is None else projection.contiguous()
        biases = self.weights.input_bias, self.weights.recurrent_bias
        self.biases = tuple(None if bias is None else bias.contiguous() for bias in biases)
        per_unit = self.weights.per_unit
        self.per_unit = tuple(per_unit[name].contiguous() for name in self.cell.params)
        self.plan = self.divide(back)
        self._take(masks)

    def _take(self, masks: Masks) -> None:
        T, B, device = self.sizes.T, self.sizes.B, self.x.device
        self.lengths = self.order = None
        if masks.lengths is not None:
            self.lengths = masks.lengths.to(device)
            # if tiles run one after the other, the longest sequences come first, so that the last tiles are short
            if not self.plan.at_once(B, chip_of(device)):
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

    def divide(self, back: bool) -> Plan:
        """The plan of the call's forward or backward pass."""
        divide = plans.backward if back else plans.forward
        return divide(work(self.shape, self.sizes), chip_of(self.x.device))

    @property
    def exchanged(self) -> bool:
        """Whether programs exchange the recurrent input, through the histories of the states."""
        return self.plan.SLICES > 1

    def real(self, of: Tensor) -> Tensor:
        """T×B×… with zeros beyond each sequence's length, because NaN there would reach the weights' gradients."""
        if self.lengths is None:
            return of
        return torch.where(valid_steps(len(of), self.lengths)[..., None], of, 0)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Memory for what the loops write. They do not write beyond a sequence's length, where it is zero."""
        make = torch.empty if self.lengths is None else torch.zeros
        return make(shape, dtype=dtype or self.sizes.dtype, device=self.x.device)

    def forward(self, run: Forward) -> None:
        """Runs the forward pass."""
        own, shape, T = functions(self.cell), self.shape, self.sizes.T
        # a kernel has no argument for a history that is not stored; it is given another tensor, and does not use it
        histories = zip(run.histories, run.final, strict=True)
        self._launch(
            loops.forward,
            *(run.inputs, *self.biases, self.recurrent, self.projection, self.norm_weight),
            *(self.per_unit, run.initial, tuple(f if h is None else h for h, f in histories)),
            *(run.final, run.saved, run.late, run.unprojected, run.normal, run.scales),
            *(run.values, self.lengths, self.order, self.reset, self.factor),
            *(self.zoneout, self.zone_steps, NORM_EPSILON),
            STEP=own.step,
            EARLY=own.second_stage_input,
            OF_X=shape.of_input,
            OF_H=shape.of_state,
            VALUES=shape.values,
            STORE=tuple(h is not None for h in run.histories),
            RING=tuple(h is not None and len(h) != T + 1 for h in run.histories),
            INTERLEAVED=self.plan.INTERLEAVED,
        )

    def backward(self, run: Backward) -> None:
        """Runs the backward pass."""
        own, plan = functions(self.cell), self.plan
        partial = None
        if plan.PARTS > 1:  # the shares of the gradient of each state that is fed back
            size = (
                max(len(self.shape.FEEDBACK), 1),
                plan.PARTS,
                self.sizes.B,
                plan.SLICES * plan.US,
            )
            partial = torch.empty(size, dtype=torch.float32, device=self.x.device)
        self._launch(
            loops.backward,
            *(
                self.recurrent,
                self.projection,
                self.norm_weight,
                self.per_unit,
                run.histories,
                run.saved,
            ),
            *(
                run.normal,
                run.scales,
                run.of_output,
                run.of_final,
                run.grad_accumulators,
                run.before_norm,
            ),
            *(run.projected, run.of_initial, run.of_params, partial, self.lengths, self.order),
            *(self.reset, self.factor, self.zoneout, self.zone_steps),
            BACK=own.backward,
            BACK_LATE=own.second_stage_backward,
            USES=self.shape.uses,
            PARTS=plan.PARTS,
        )

    def _launches(self) -> Iterator[tuple[int, int]]:
        """The first sequence and the number of tiles of each launch: several, if not all tiles can run at once."""
        B, of_tile, tiles = self.sizes.B, self.plan.BT, self.plan.tiles
        for first in range(0, B if self.sizes.T else 0, tiles * of_tile):
            yield first, min(tiles, -(-(B - first) // of_tile))

    def _launch(self, loop: Any, *given: Any, **constants: Any) -> None:
        sizes, T, B = self.sizes, self.sizes.T, self.sizes.B
        constants |= _constants(self.shape, self.plan, sizes.H, sizes.P, self.widths, sizes.dtype)
        constants |= dict(REVERSE=self.reverse)
        constants |= dict(PRECISION="tf32x3" if _full_precision() else "tf32")
        if self.exchanged:  # programs wait for each other, so all must run at once
            constants["launch_cooperative_grid"] = True
        with _on(self.x.device):
            for first, tiles in self._launches():
                counters = self._counters(tiles) if self.exchanged else None
                loop[tiles, self.plan.SLICES](
                    *given, self._places(), counters, T, B, first, **constants
                )

    def _counters(self, tiles: int) -> Tensor:
        """One counter for the slices of each tile, then one for each group of slices of each tile."""
        number = tiles * (1 + self.plan.SLICES // self.plan.PARTS)
        return torch.zeros(number, dtype=torch.int32, device=self.x.device)

    def _places(self) -> Tensor | None:
        """Memory in which slices exchange two numbers for each sequence, for the layer normalisation."""
        if self.norm_weight is None or not self.exchanged:
            return None
        size = (self.plan.SLICES, self.sizes.B, 2)
        return torch.empty(size, dtype=torch.float32, device=self.x.device)


@lru_cache(CACHE_SIZE)
def _constants(
    shape: Shape, plan: Plan, H: int, P: int, widths: tuple[int, ...], dtype: torch.dtype
) -> dict[str, Any]:
    """The constants of both kernels, except for the direction and the precision."""
    fed = [widths[k] for k in shape.FEEDBACK]
    return dict(
        **shape.counts(),
        **plan.blocks(),
        FEEDBACK=shape.FEEDBACK,
        FEEDBACKS=len(shape.FEEDBACK),
        FROM=tuple(sum(fed[:f]) for f in range(len(fed))),
        F=sum(fed),
        H=H,
        P=P,
        WIDTHS=widths,
        DT=_TYPES[dtype],
        num_warps=plan.warps,
    )


def sizes_of(given: Arguments) -> Sizes:
    (T, B, _), H, P = given.x.shape, given.hidden_size, given.proj_size
    normalised = given.weights.norm_recurrent is not None
    return Sizes(T, B, H, P or H, given.x.dtype, P > 0, normalised)


def work(shape: Shape, sizes: Sizes) -> Work:
    """The work of a call, from which its plan is made."""
    accumulators, beside = shape.NW + shape.NH, shape.NL + sizes.projected
    width = max(sizes.H, sizes.P)
    return Work(width, sizes.B, sizes.dtype.itemsize, len(shape.FEEDBACK), accumulators, beside)


def launches(spec: Spec) -> int:
    """How many consecutive launches the forward pass of ``spec`` takes."""
    given = (spec.batch, spec.hidden_size, spec.output_size, spec.dtype)
    sizes = Sizes(1, *given, spec.proj_size > 0, spec.layer_norm)
    divided = plans.forward(work(shape_of(spec.cell), sizes), chip_of(spec.device))
    return divided.launches(spec.batch)


def chip_of(device: torch.device) -> Chip:
    return _chip(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _chip(index: int) -> Chip:
    found = triton.runtime.driver.active.utils.get_device_properties(index)
    return Chip(found["multiprocessor_count"], found["max_shared_mem"])


def _full_precision() -> bool:
    """Whether float32 is multiplied in full precision, and not in TF32. torch's setting says which."""
    matmul = torch.backends.cuda.matmul
    # the newer setting reflects the older one, which cannot be read once the newer was written
    newer = getattr(matmul, "fp32_precision", None)
    return not (newer == "tf32" or (newer is None and matmul.allow_tf32))


def _on(device: torch.device) -> torch.cuda.device:
    """The context in which Triton launches on a device."""
    return torch.cuda.device(device if device.type == "cuda" else -1)
