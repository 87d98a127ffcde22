"""The sizes that a forecaster derives from its data: the parts of the split, the season, patches, the context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gatewise.data.windows import least_observed
from gatewise.errors import DataError, OptionError, caution
from gatewise.report.words import with_unit
from gatewise.tasks.kinds import part_size

Array = np.ndarray

_LONGEST_PATCH = 168  # a longer season is divided into several patches
_PATCHES = 14  # the number of patches of a context, if the series are long enough
_SHORTEST_PATCH = 24  # of a season that is divided


@dataclass(frozen=True)
class Split:
    """The split of S series in time.

    Attributes:
        trained: S, the number of training rows.
        seen: S, the number of training and validation rows.
    """

    trained: Array
    seen: Array

    @classmethod
    def of(cls, rows: Array, validation: object, test: object, horizon: int) -> Split:
        """The split into training, validation and test parts.

        Raises:
            OptionError: the size of a part is not valid, or is less than a horizon.
        """
        seen = rows - part(test, rows, horizon, "test")
        return cls.before(np.maximum(seen, 0), validation, horizon)

    @classmethod
    def before(cls, seen: Array, validation: object, horizon: int) -> Split:
        """The split of the first ``seen`` rows into training and validation parts."""
        held = part(validation, seen, horizon, "validation")
        if not held.any():
            raise OptionError("validation must not be 0: early stopping needs validation rows")
        return cls(np.maximum(seen - held, 0), seen)


def part(given: object, rows: Array, horizon: int, name: str) -> Array:
    """The number of rows of each series in a part of the split: 0, or at least a horizon.

    Raises:
        OptionError: ``given`` is neither a share below 1 nor a number of rows, or is less than a horizon.
    """
    size = part_size(name, given)
    if size == 0:
        return np.zeros_like(rows)
    if isinstance(size, float):
        return np.maximum((size * rows).astype(np.int64), horizon)
    if size < horizon:
        raise OptionError(
            f"{name}={size} is less than the horizon of {horizon} rows: give at least {horizon}"
        )
    return np.full_like(rows, size)


def season_for(given: int | None, usual: int, trained: Array) -> int:
    """The seasonal period: ``given``, else ``usual``, else 1 if all training parts are shorter than ``usual``.

    Raises:
        DataError: ``given`` is longer than the training part of every series.
    """
    longest = int(trained.max())
    if given is not None:
        if given > longest:
            raise DataError(
                f"season={given} steps is longer than the training part of every series, {longest} "
                f"rows: give more rows, or a shorter season"
            )
        return given
    return 1 if usual > longest else usual


def patch_of(season: int, context: int | None) -> int:
    """The length of a patch: a season, or the largest divisor of a long season that is short enough."""
    longest = min(season, _LONGEST_PATCH, context or season)
    if longest == season:
        return season
    parts = [size for size in range(longest, 0, -1) if season % size == 0]
    if parts[0] >= min(_SHORTEST_PATCH, longest):
        return parts[0]
    return -(-season // -(-season // longest))  # close to a divisor of the season


def context_for(given: int | None, season: int, patch: int, trained: Array, horizon: int) -> int:
    """The number of steps of a context, a multiple of ``patch``.

    Without ``given`` it is the largest of 14 patches, two horizons and two seasons, limited so that context
    and horizon take at most a third of a typical series. If possible it is at least one season.
    """
    if given is not None:
        return max(given // patch, 1) * patch
    typical = _typical(trained)
    wanted = max(_PATCHES * patch, 2 * horizon, 32)
    if patch < season:
        wanted = max(wanted, 2 * season)
    room = max(typical // 3 - horizon, patch)
    context = max(min(wanted // patch, room // patch), 1) * patch
    one_season = -(-season // patch) * patch
    if context >= one_season:
        return context
    return one_season if one_season + 2 * horizon <= typical else context


def warn_no_season(usual: int, trained: Array) -> None:
    """Warns that the training data is shorter than the usual season of its time step."""
    caution(
        f"a season of {usual} steps is longer than the training part of every series, "
        f"{int(trained.max())} rows: the model uses no season"
    )


def warn_short_context(context: int, season: int, trained: Array) -> None:
    """Warns that the context is shorter than a season."""
    caution(
        f"the context of {context} steps is shorter than a season of {season} steps: a longer one needs more "
        f"than the {_typical(trained)} training rows"
    )


def _typical(trained: Array) -> int:
    """The median length of the series, weighted by length, so that short series hardly count."""
    lengths = np.sort(trained)
    upto = np.cumsum(lengths)
    return int(lengths[np.searchsorted(upto, upto[-1] / 2)])


def first_origins(rows: Array, context: int, horizon: int) -> Array:
    """The first row of each series at which a horizon may start: after a full context. In a series that is too
    short for a full context it is the middle row, and the rest of the context is missing."""
    half = np.maximum((rows - horizon + 1) // 2, least_observed(context))
    return np.where(rows >= context + horizon, context, np.minimum(half, context))


def check_room(
    split: Split,
    rows: Array,
    context: int,
    horizon: int,
    patch: int,
    validation: float | int | None,
    given: bool,
) -> None:
    """Checks that the training part of at least one series has room for a full context and a horizon.

    Args:
        rows: the number of rows of each series.
        patch: the smallest possible context.
        validation: the size of the validation part, or None if it is a file.
        given: whether the user gave ``context``.

    Raises:
        DataError: no series has room. The message says what to change.
    """
    needed = context + horizon
    if split.trained.max() >= needed:
        return
    s = int(np.argmax(split.trained))
    trained, seen, total = (int(each[s]) for each in (split.trained, split.seen, rows))
    advice = [with_unit(needed - trained, "more row")]
    if total > seen and trained + total - seen >= needed:
        advice.append(f"test=0, which leaves {trained + total - seen}")
    if patch + horizon <= trained:
        advice.append(f"a context of at most {(trained - horizon) // patch * patch}")
    least = context if given else patch
    for shorter in range(min(horizon - 1, total), 0, -1):
        left = split.seen[s : s + 1]
        if validation is not None:
            left = Split.before(left, validation, shorter).trained
        if left[0] >= least + shorter:
            advice.append(f"a horizon of at most {shorter}")
            break
    parts = {"for validation": seen - trained, "for the test": total - seen}
    held = " and ".join(f"{count} {part}" for part, count in parts.items() if count)
    said = f", of which {held} are held out" if held else ""
    raise DataError(
        f"{'the longest series' if len(rows) > 1 else 'the series'} has {with_unit(total, 'row')}{said}; "
        f"{trained} are left for training, but {needed} are needed (context {context}, horizon {horizon}). "
        f"Give {', or '.join(advice)}"
    )
