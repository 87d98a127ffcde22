"""Kinds of options that only the forecaster has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from gatewise.arguments import Kind, parse_integer
from gatewise.data import frequency
from gatewise.data.stamps import check_format
from gatewise.errors import OptionError
from gatewise.options import flag, integer, number
from gatewise.tasks import entry_checks


def levels(name: str, quantiles: Any) -> tuple[float, ...]:
    """The levels of quantiles in rising order, from a sequence of levels or a single level.

    Raises:
        OptionError: a level is not a number between 0 and 1, or two levels are equal.
    """
    single = not isinstance(quantiles, (Sequence, np.ndarray)) or np.ndim(quantiles) == 0
    given = [quantiles] if single and not isinstance(quantiles, (str, set)) else quantiles
    try:
        found = sorted(number(name, level, above=0, below=1) for level in given)
    except (TypeError, OptionError):
        found = [0.0, 0.0]
    if len(set(found)) < len(found):
        raise OptionError(
            f"{name} must be different numbers between 0 and 1, such as (0.1, 0.5, 0.9), not {quantiles!r}"
        )
    return tuple(found)


Levels = Annotated[Sequence[float], Kind(levels, float, "a number", "X", many="list")]


def _frequency(name: str, value: Any) -> Any:
    frequency.read(value)
    return value


def _time_format(name: str, value: Any) -> Any:
    check_format(value)
    return value


def _spelled(value: Any) -> str | None:
    return None if value is None else frequency.spelled(value)


_SAVED_TEXT = entry_checks.or_none(entry_checks.text)

Frequency = Annotated[Any, Kind(_frequency, metavar="STEP", save=_spelled, restore=_SAVED_TEXT)]
TimeFormat = Annotated[str, Kind(_time_format, restore=_SAVED_TEXT)]


def refit_every(name: str, refit: Any) -> int:
    """k, if a new model is to be fitted before every k-th date; 0 for no refit.

    Raises:
        OptionError: ``refit`` is neither a bool nor a positive integer.
    """
    try:
        return int(flag(name, refit))
    except OptionError:
        pass
    try:
        return integer(name, refit)
    except OptionError:
        raise OptionError(
            f"{name} must be True, False or a positive integer, not {refit!r}"
        ) from None


def _refit_of(text: str) -> bool | int:
    named = {"true": True, "false": False}
    return named[text.lower()] if text.lower() in named else parse_integer(text)


Refit = Annotated[bool | int, Kind(refit_every, _refit_of, "true, false or an integer", "N")]
