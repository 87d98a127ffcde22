"""Inputs and states that are no tensors and take a layer's call over, as torch's own functions let them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from gatewise.nn.checks import not_a_tensor


def overriding(*given: object) -> tuple[object, ...]:
    """Those that are no tensors and have a ``__torch_function__``, of what may be tuples of them."""
    found = []
    for one in given:  # no generators: torch.compile cannot go through them
        for each in one if isinstance(one, tuple | list) else (one,):
            if not isinstance(each, Tensor) and has_torch_function((each,)):
                found.append(each)
    return tuple(found)


def by_override(
    forward: Callable[..., Any], layer: object, input: object, *hx: Any, **options: Any
) -> Any:
    """Calls ``__torch_function__`` of the input or state in place of ``forward``, and returns its result.

    Raises:
        ShapeError: none has one.
    """
    relevant = overriding(input, *hx)
    if not relevant:
        raise not_a_tensor(input)
    return handle_torch_function(forward, relevant, layer, input, *hx, **options)
