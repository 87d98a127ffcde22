"""Checks that a computation fits in this machine's memory, before it starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from gatewise.errors import GatewiseError, TooLargeError

# The bytes per weight: the weight, its gradient, AdamW's two moments and the best weight so far, four each.
_BYTES = 20


def available() -> int:
    """The bytes of memory of this machine, or of its container's limit."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    limits = [int(text)] if text.isdecimal() else []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=1 << 63)


def byte_size(size: int) -> str:
    """A number of bytes in the unit in which it is at least 1."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << power:
            return f"{size / 2**power:,.1f} {unit}"
    return f"{size} bytes"


def check(what: str, size: int) -> None:
    """Raises TooLargeError where ``size`` bytes exceed the memory; ``what`` needs them, for the message."""
    if size > available():
        raise TooLargeError(
            f"{what} needs {byte_size(size)} of memory, and this machine has {byte_size(available())}: give "
            f"smaller sizes"
        )


def check_network(build: Callable[[], torch.nn.Module], sizes: str) -> None:
    """Raises TooLargeError where training the network that ``build`` makes would exceed the memory.

    Args:
        sizes: the options that determine the number of weights, for the message, such as "hidden=64".
    """
    try:
        with torch.device("meta"):
            count = sum(weight.numel() for weight in build().parameters())
    except GatewiseError:
        raise
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes beyond torch's integers
        raise TooLargeError(
            f"{sizes} give more weights than torch can count: give smaller sizes"
        ) from error
    check(f"{sizes}: the training of {count:,} weights", count * _BYTES)
