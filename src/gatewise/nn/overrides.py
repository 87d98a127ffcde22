"""Calls of layers with objects that have ``__torch_function__`` and are not tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from gatewise.nn.checks import not_a_tensor


def overriding(*given: object) -> tuple[object, ...]:
    """The objects with ``__torch_function__`` that are not tensors, among ``given`` and in tuples there."""
    found = []
    for one in given:  # torch.compile does not support generators
        for each in one if isinstance(one, tuple | list) else (one,):
            if not isinstance(each, Tensor) and has_torch_function((each,)):
                found.append(each)
    return tuple(found)


def by_override(
    forward: Callable[..., Any], layer: object, input: object, *hx: Any, **options: Any
) -> Any:
    """The result of ``__torch_function__`` of the input or a state, called in place of ``forward``.

    Raises:
        ShapeError: neither the input nor a state has ``__torch_function__``.
    """
    relevant = overriding(input, *hx)
    if not relevant:
        raise not_a_tensor(input)
    return handle_torch_function(forward, relevant, layer, input, *hx, **options)
