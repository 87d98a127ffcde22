"""Whether a network can be trained in this machine's memory, before any of it is made."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import nn

from gatewise.errors import OptionError

# A weight, its gradient, AdamW's two moments, and the best weights so far; four bytes each.
_BYTES = 20


def check_memory(build: Callable[[], nn.Module], sizes: str) -> None:
    """That the weights ``build`` makes can be trained here.

    Args:
        sizes: what decides of their number, for the message, such as "hidden=64".

    Raises:
        OptionError: they need more than there is; the message has both numbers.
    """
    with torch.device("meta"):
        count = sum(weight.numel() for weight in build().parameters())
    there = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    )
    if there and count * _BYTES > there:
        raise OptionError(
            f"{sizes} make {count:,} weights, whose training needs {count * _BYTES / 2**30:,.0f} GiB of "
            f"memory, and this machine has {there / 2**30:.0f}: give smaller ones"
        )
