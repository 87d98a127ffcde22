"""The values of an option that a search tries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Between:
    """All numbers from ``low`` to ``high``; with ``log``, as many below as above their geometric mean."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class OneOf:
    """These values: texts, numbers, True, False, None."""

    values: tuple[Any, ...]


Range = Between | OneOf
