"""A call of Triton's time loops: its plan, and the arguments of the kernels."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gatewise.backends.contract import NORM_EPSILON, Spec
from gatewise.backends.gpu import loops
from gatewise.backends.gpu import plan as plans
from gatewise.backends.gpu.accumulators import Shape, shape_of
from gatewise.backends.gpu.activations import Sizes
from gatewise.backends.gpu.calls import Calls
from gatewise.backends.gpu.cells import functions
from gatewise.backends.gpu.plan import CACHE_SIZE, Chip, Plan, Work
from gatewise.backends.gpu.prepared import Backward, Forward, Prepared, full_precision, index_of

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class Call(Prepared):
    """A call of Triton's loops."""

    plan: Plan

    def divide(self, back: bool) -> Plan:
        divide = plans.backward if back else plans.forward
        return divide(work(self.shape, self.sizes), chip_of(self.x.device))

    @property
    def exchanged(self) -> bool:
        return self.plan.SLICES > 1

    @property
    def at_once(self) -> bool:
        return self.plan.at_once(self.sizes.B, chip_of(self.x.device))

    def forward(self, run: Forward) -> None:
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

    def _launch(self, loop: Any, *given: Any, **constants: Any) -> None:
        sizes, T, B = self.sizes, self.sizes.T, self.sizes.B
        constants |= _constants(self.shape, self.plan, sizes.H, sizes.P, self.widths, sizes.dtype)
        constants |= dict(REVERSE=self.reverse)
        constants |= dict(PRECISION="tf32x3" if full_precision() else "tf32")
        if self.exchanged:  # programs wait for each other, so all must run at once
            constants["launch_cooperative_grid"] = True
        with _on(self.x.device):
            for first, tiles in self.launches():
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


engine = Calls(Call)


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
    return _chip(index_of(device))


@cache
def _chip(index: int) -> Chip:
    found = triton.runtime.driver.active.utils.get_device_properties(index)
    return Chip(found["multiprocessor_count"], found["max_shared_mem"])


def _on(device: torch.device) -> torch.cuda.device:
    """The context in which Triton launches on a device."""
    return torch.cuda.device(device if device.type == "cuda" else -1)
