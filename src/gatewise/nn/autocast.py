"""torch.autocast, applied once per call, so that every backend gets tensors of one dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gatewise.backends.torch_private import any_autocast


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype of torch.autocast on the device of ``x``; None where autocast is off."""
    if not any_autocast():
        return None
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in ``dtype``, as torch's autocast casts: every floating dtype except float64."""
    eligible = tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(dtype) if eligible else tensor


def cast_states(
    hx: Tensor | tuple[Tensor, ...] | None, dtype: torch.dtype
) -> Tensor | tuple[Tensor, ...] | None:
    """The initial states in ``dtype``; ``hx`` is one state, a tuple of states or None."""
    if isinstance(hx, Tensor):
        return cast(hx, dtype)
    if not isinstance(
        hx, Sequence
    ):  # None, or an invalid value that the check of the states refuses
        return hx
    return tuple(cast(state, dtype) if isinstance(state, Tensor) else state for state in hx)
