"""What torch.autocast asks for, read and done once a call, so that every backend sees one dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What torch.autocast asks for on the device of ``x``; None where it asks for nothing."""
    if not torch._C._is_any_autocast_enabled():  # far quicker than the question by device
        return None
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As torch's autocast casts: every floating type but double precision."""
    eligible = tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(dtype) if eligible else tensor


def cast_states(
    hx: Tensor | tuple[Tensor, ...] | None, dtype: torch.dtype
) -> Tensor | tuple[Tensor, ...] | None:
    """Initial states as a layer is given them: one, several or none."""
    if isinstance(hx, Tensor):
        return cast(hx, dtype)
    if not isinstance(hx, Sequence):  # None, or what is refused where states are looked at
        return hx
    return tuple(cast(state, dtype) if isinstance(state, Tensor) else state for state in hx)
