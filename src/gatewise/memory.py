"""Whether what is asked for fits the memory of this machine, said before it is tried."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from gatewise.errors import GatewiseError, OptionError

# A weight, its gradient, AdamW's two moments, and the best weights so far; four bytes each.
_BYTES = 20


def available() -> int:
    """The bytes that this machine has, or that its container may take."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    limits = [int(text)] if text.isdecimal() else []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=1 << 63)


def check(what: str, size: int) -> None:
    """Raise OptionError where ``size`` bytes are more than there are; ``what`` takes them."""
    if size > available():
        raise OptionError(
            f"{what} takes {size / 2**30:,.1f} GiB of memory, and this machine has "
            f"{available() / 2**30:,.1f} GiB: give smaller sizes"
        )


def check_network(build: Callable[[], torch.nn.Module], sizes: str) -> None:
    """Raise OptionError where the training of the network that ``build`` makes would not fit.

    Args:
        sizes: the options that determine the number of weights, for the message, such as "hidden=64".
    """
    try:
        with torch.device("meta"):
            count = sum(weight.numel() for weight in build().parameters())
    except GatewiseError:
        raise
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes that torch cannot count
        raise OptionError(
            f"{sizes} make more weights than can be counted: give smaller sizes"
        ) from error
    check(f"{sizes}: the training of {count:,} weights", count * _BYTES)
