"""Whether what is asked for fits the memory of this machine, said before it is tried."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gatewise.errors import OptionError

# A weight is kept with its gradient, two moments and the best round's value.
_COPIES = 5
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def available() -> int:
    """The bytes that this machine has, or that its container may take."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    limits = [int(text)] if text.isdecimal() else []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=1 << 63)


def check(what: str, size: int) -> None:
    """Raise OptionError where ``size`` bytes are more than there are; ``what`` names the options."""
    if size > available():
        raise OptionError(
            f"{what} takes {_shown(size)} of memory, and this machine has {_shown(available())}: make it "
            f"smaller"
        )


def check_network(build: Callable[[int], torch.nn.Module], hidden: int, layers: int) -> None:
    """Raise OptionError where the training of a network would not fit. ``build`` makes one with so many
    layers; all but the first are alike, so two are enough to know."""
    what = f"a network of hidden={hidden}, layers={layers}"
    try:
        one, two = (_weights(build, count) for count in (1, 2))
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes that torch cannot count
        raise OptionError(
            f"{what} has more weights than can be counted: make it smaller"
        ) from error
    check(what, (one + (layers - 1) * (two - one)) * 4 * _COPIES)


def _weights(build: Callable[[int], Any], layers: int) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in build(layers).parameters())


def _shown(size: int) -> str:
    amount, unit = float(size), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.3g} {_UNITS[unit]}"
