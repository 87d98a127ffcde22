"""Formatting of names and numbers for report pages."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gatewise.errors import some

_NAMES = 6  # names of a list that are shown
_NAME = 48  # characters of a name that are shown


def percent(share: float) -> str:
    return "less than 0.1%" if 0 < share < 0.001 else f"{share:.{0 if share >= 0.1 else 1}%}"


def format_number(value: float) -> str:
    """A number with three or four significant digits and thousands separators; with an exponent only if it is
    very small or large."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or 1e-4 <= abs(value) < 1e7:
        digits = max(0, 3 - math.floor(math.log10(abs(value) or 1)))
        return f"{value:,.{min(digits, 5)}f}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def with_unit(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 or thing.endswith('s') else 's'}"


def shortened(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def sentence(note: str) -> str:
    """A note with a capital letter and a full stop."""
    end = "" if note.endswith((".", "!", "?")) else "."
    return f"{note[:1].upper()}{note[1:]}{end}"


def name_list(names: Iterable[str]) -> str:
    return some(map(shortened, names), _NAMES)


def joined_names(*names: str) -> str:
    return " · ".join(str(name) for name in names if str(name))
