"""The forecaster's options, checked and in Python's own types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gatewise.errors import OptionError
from gatewise.options import choice, flag, probability, real, whole
from gatewise.tasks.fitted import MOST_LAYERS, MOST_SEED


@dataclass(frozen=True)
class Options:
    """What ``Forecaster`` was given, less the columns' names; see there."""

    horizon: int
    gaps: str
    context: int | None
    season: int | None
    quantiles: tuple[float, ...]
    calendar: bool
    conformal: bool
    minimum: float | None
    maximum: float | None
    hidden: int
    layers: int
    dropout: float
    steps: int | None
    batch: int
    learning_rate: float
    seed: int

    @classmethod
    def of(cls, given: Any) -> Options:
        """From an object with attributes of these names.

        Raises:
            OptionError: one cannot be used; the message has its value.
        """
        sizes: dict[str, Any] = {name: whole(name, getattr(given, name)) for name in _SIZES}
        sizes["layers"] = whole("layers", given.layers, most=MOST_LAYERS)
        for name in _MAYBE:
            value = getattr(given, name)
            sizes[name] = None if value is None else whole(name, value)
        lower, upper = (_bound(name, getattr(given, name)) for name in ("minimum", "maximum"))
        if lower is not None and upper is not None and lower >= upper:
            raise OptionError(f"minimum={lower} must be below maximum={upper}")
        options = cls(
            **sizes,
            gaps=choice("gaps", given.gaps, ("error", "mask")),
            quantiles=levels(given.quantiles),
            calendar=flag("calendar", given.calendar),
            conformal=flag("conformal", given.conformal),
            minimum=lower,
            maximum=upper,
            dropout=probability("dropout", given.dropout),
            learning_rate=real("learning_rate", given.learning_rate, "a number above 0", above=0),
            seed=whole("seed", given.seed, least=0, most=MOST_SEED),
        )
        if options.conformal and len(options.quantiles) < 2:
            raise OptionError(
                f"conformal calibrates the interval between two quantiles, and "
                f"quantiles={given.quantiles!r} has none: give two or more"
            )
        return options


_SIZES = ("horizon", "hidden", "batch")
_MAYBE = ("context", "season", "steps")


def levels(quantiles: Any) -> tuple[float, ...]:
    """Levels in rising order, from a sequence of them or a single one.

    Raises:
        OptionError: they are no numbers between 0 and 1, or two are the same.
    """
    single = not isinstance(quantiles, (Sequence, np.ndarray)) or np.ndim(quantiles) == 0
    given = [quantiles] if single and not isinstance(quantiles, (str, set)) else quantiles
    try:
        found = sorted(real("quantiles", level, above=0, below=1) for level in given)
    except (TypeError, OptionError):
        found = [0.0, 0.0]
    if len(set(found)) < len(found):
        raise OptionError(
            f"quantiles must differ and lie between 0 and 1, such as (0.1, 0.5, 0.9), not {quantiles!r}"
        )
    return tuple(found)


def share_or_rows(name: str, given: Any) -> float | int:
    """A part of the split: a share below 1, or a number of rows.

    Raises:
        OptionError: it is neither.
    """
    try:
        return whole(name, given, least=0)
    except OptionError:
        return real(name, given, "a share below 1 or a number of rows", least=0, below=1)


def _bound(name: str, value: Any) -> float | None:
    return None if value is None else real(name, value, "a finite number or None")
