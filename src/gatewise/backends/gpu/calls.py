"""The time loops as an engine: the forward and the backward pass of one layer in one direction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gatewise.backends.engine import Arguments
from gatewise.backends.gpu import chips
from gatewise.backends.gpu.accumulators import shape_of
from gatewise.backends.gpu.activations import laid_out, size_of, views
from gatewise.backends.gpu.call import Backward, Call, Forward, sizes_of
from gatewise.backends.gpu.products import gradients, input_accumulators
from gatewise.cells.language import Cell

DTYPES = chips.DTYPES


def unusable(cell: Cell) -> str | None:
    """Why the loops cannot run the cell, as the end of the sentence "it ...", or None."""
    return None


def forward(given: Arguments) -> list[Tensor]:
    """The output and the final states."""
    return _Run(given).outcome()


def forward_saving(given: Arguments) -> list[Tensor]:
    """The output, the final states and the saved activations."""
    run = _Run(given, saving=True)
    output, *final = run.outcome()
    # a copy: writing into the output must not change the activations, and holding it must not keep them alive
    return [output.clone(), *final, run.activations]


def traced(given: Arguments) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The output and the final states; and every named value, T×B×H."""
    run = _Run(given, traced=True)
    return run.outcome(), run.trace()


def activations_like(given: Arguments) -> Tensor:
    """An uninitialised tensor for the saved activations. The arguments may be fake tensors."""
    size = laid_out(shape_of(given.cell), sizes_of(given))[1]
    return given.x.new_empty(size, dtype=torch.uint8)


class _Run:
    """A forward pass. Its ``activations`` are empty unless they are asked for (``saving``)."""

    def __init__(self, given: Arguments, saving: bool = False, traced: bool = False) -> None:
        self.call = call = Call(given, back=False)
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


def backward(
    given: Arguments, activations: Tensor, grads: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of x, the states and the weights, in that order; None if not ``wanted``.

    ``grads`` are the gradients of the output and the final states.
    """
    call = Call(given, back=True)
    x, state = call.x, call.state
    shape, (T, B, H, P, *_) = call.shape, call.sizes
    kept = views(activations.contiguous(), shape, call.sizes)
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
