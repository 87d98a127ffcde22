"""Double precision for the layer normalisation of few values in float32: see ``contract.in_double``."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from torch import Tensor

from gatewise.backends.contract import Masks, Outcome, Spec, Weights, in_double

Forward = Callable[[Spec, Tensor, tuple[Tensor, ...], Weights, Masks], Outcome]

_HAVE_DOUBLE = ("cpu", "cuda")


def is_widened(spec: Spec) -> bool:
    """Whether ``widened`` computes ``spec`` in double precision."""
    has = spec.device.type in _HAVE_DOUBLE
    return spec.layer_norm and has and in_double(spec.cell, spec.hidden_size, spec.dtype)


def widened(forward: Forward) -> Forward:
    """A decorator of a backend's ``forward``: it converts to double precision and back where needed."""

    @wraps(forward)
    def run(
        spec: Spec, x: Tensor, state: tuple[Tensor, ...], weights: Weights, masks: Masks
    ) -> Outcome:
        if not is_widened(spec):
            return forward(spec, x, state, weights, masks)
        found = forward(
            spec,
            x.double(),
            tuple([s.double() for s in state]),
            weights.double(),
            masks._replace(
                recurrent=_double(masks.recurrent),
                zoneout=None
                if masks.zoneout is None
                else tuple([z.double() for z in masks.zoneout]),
            ),
        )
        trace = {name: value.float() for name, value in found.trace.items()}
        state = tuple([s.float() for s in found.state])
        return Outcome(found.output.float(), state, trace, found.adjoints)

    return run


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()
