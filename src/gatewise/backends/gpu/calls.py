"""The time loops as an engine: the forward and the backward pass of one layer in one direction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gatewise.backends.engine import Arguments
from gatewise.backends.gpu.accumulators import shape_of
from gatewise.backends.gpu.activations import laid_out, size_of, views
from gatewise.backends.gpu.chips import DTYPES
from gatewise.backends.gpu.prepared import Backward, Forward, Prepared, sizes_of
from gatewise.backends.gpu.products import gradients, input_accumulators
from gatewise.cells.language import Cell


class Calls:
    """An engine of the loops that one kind of call runs. The saved activations are the same for all kinds."""

    DTYPES = DTYPES

    def __init__(self, call: type[Prepared]) -> None:
        self._call = call

    def unusable(self, cell: Cell) -> str | None:
        return None  # only torch's operators ask, and they have Triton's loops

    def forward(self, given: Arguments) -> list[Tensor]:
        return _Run(self._call(given, back=False)).outcome()

    def forward_saving(self, given: Arguments) -> list[Tensor]:
        run = _Run(self._call(given, back=False), saving=True)
        output, *final = run.outcome()
        # a copy: writing into the output must not change the activations, and holding it must not keep them alive
        return [output.clone(), *final, run.activations]

    def traced(self, given: Arguments) -> tuple[list[Tensor], dict[str, Tensor]]:
        run = _Run(self._call(given, back=False), traced=True)
        return run.outcome(), run.trace()

    def activations_like(self, given: Arguments) -> Tensor:
        size = laid_out(shape_of(given.cell), sizes_of(given))[1]
        return given.x.new_empty(size, dtype=torch.uint8)

    def backward(
        self,
        given: Arguments,
        activations: Tensor,
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        return _back(self._call(given, back=True), activations, grads, wanted)


class _Run:
    """A forward pass. Its ``activations`` are empty unless they are asked for (``saving``)."""

    def __init__(self, call: Prepared, saving: bool = False, traced: bool = False) -> None:
        self.call = call
        shape, (T, B, H, *_) = call.shape, call.sizes
        size = size_of(shape, call.sizes) if saving else 0
        self.activations = call.x.new_empty(size, dtype=torch.uint8)
        clear = call.lengths is not None
        kept = views(self.activations, shape, call.sizes, clear) if saving else {}
        types = [call.x.dtype, *[torch.float32] * (shape.STATES - 1)]
        initial = tuple(s.contiguous() for s in call.state)
        # the final state of an empty sequence is its initial one, and no step writes it
        copied = call.lengths is not None or T == 0
        self.final = [s.clone() if copied else torch.empty_like(s) for s in initial]
        exchanged = call.exchanged
        needed = [
            k == 0 or traced or (exchanged and k in shape.FEEDBACK) for k in range(shape.STATES)
        ]
        whole = [k == 0 or traced for k in range(shape.STATES)]
        self.histories: list[Tensor | None] = []
        for k, (width, dtype) in enumerate(zip(call.widths, types, strict=True)):
            history = kept.get(f"state {k}")
            if history is None and needed[k]:
                history = call.empty(T + 1 if whole[k] else 2, B, width, dtype=dtype)
            self.histories.append(history)
        self.values = None
        if traced:
            self.values = call.empty(T, B, shape.values * H, dtype=torch.float32)
        late, unprojected = kept.get("late"), kept.get("unprojected")
        if exchanged and shape.NL and late is None:
            late = call.empty(T, B, H)
        if exchanged and call.projection is not None and unprojected is None:
            unprojected = call.empty(T, B, H)
        call.forward(
            Forward(
                inputs=input_accumulators(call),
                initial=initial,
                histories=tuple(self.histories),
                final=tuple(self.final),
                saved=kept.get("saved"),
                late=late,
                unprojected=unprojected,
                normal=kept.get("normal"),
                scales=kept.get("scales"),
                values=self.values,
            )
        )

    def _through_time(self, k: int) -> Tensor:
        """A state after each step, zero beyond a sequence's length."""
        history = self.histories[k]
        assert history is not None
        if not self.call.reverse:
            return history[1:]
        return self.call.real(history[:-1])  # at the lengths are the initial states

    def outcome(self) -> list[Tensor]:
        """The output and the final states."""
        return [self._through_time(0), *self.final]

    def trace(self) -> dict[str, Tensor]:
        """Every named value. A state is traced as the next step reads it."""
        cell, (T, B, H, *_) = self.call.cell, self.call.sizes
        assert self.values is not None
        values = self.values.view(T, B, len(cell.values), H).unbind(2)
        trace = dict(zip(cell.values, values, strict=True))
        for k, name in enumerate(cell.state):
            if k or self.call.projection is None:  # a projected output is traced by the caller
                trace[name] = self._through_time(k)
        return {name: value.to(self.call.x.dtype) for name, value in trace.items()}


def _back(
    call: Prepared, activations: Tensor, grads: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    x, state = call.x, call.state
    shape, (T, B, H, P, *_) = call.shape, call.sizes
    kept = views(activations, shape, call.sizes)
    grad_accumulators = call.empty(T, B, shape.accumulators * H)
    before_norm = (
        call.empty(T, B, len(shape.of_state) * H) if call.norm_weight is not None else None
    )
    projected = call.empty(T, B, P) if call.projection is not None else None
    of_final = tuple(None if g is None else g.contiguous() for g in grads[1:])
    of_output = None if grads[0] is None else grads[0].contiguous()
    if T:
        of_initial = tuple(s.new_empty(s.shape) for s in state)
    else:  # the final states are the initial ones
        each = zip(of_final, state, strict=True)
        of_initial = tuple(torch.zeros_like(s) if g is None else g.clone() for g, s in each)
    tiles = -(-B // call.plan.BT)
    per_unit = tuple(
        torch.zeros(tiles, H, dtype=torch.float32, device=x.device) for _ in call.per_unit
    )
    call.backward(
        Backward(
            histories=tuple(kept.get(f"state {k}", of_initial[k]) for k in range(shape.STATES)),
            saved=kept["saved"],
            normal=kept.get("normal"),
            scales=kept.get("scales"),
            of_output=of_output,
            of_final=of_final,
            grad_accumulators=grad_accumulators,
            before_norm=before_norm,
            projected=projected,
            of_initial=of_initial,
            of_params=per_unit,
        )
    )
    of_params = [p.sum(0) for p in per_unit]
    return gradients(
        call, kept, grad_accumulators, before_norm, projected, of_initial, of_params, wanted
    )
