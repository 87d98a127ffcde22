"""How a forecaster divides its data: the parts of each series, the season, the patches and the context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gatewise.data.windows import least_observed
from gatewise.errors import DataError, OptionError, caution
from gatewise.tasks.kinds import part_size

Array = np.ndarray

# A longer season is read in several patches.
_LONGEST_PATCH = 168
_SEASONS = 14  # patches to a context, where there is room
_SHORTEST_PATCH = 24  # of a longer season: below it patches tell too little


@dataclass(frozen=True)
class Split:
    """How many rows of each of S series the model learns from, and up to which it has seen any."""

    trained: Array
    seen: Array

    @classmethod
    def of(cls, rows: Array, validation: object, test: object, horizon: int) -> Split:
        """Training, then ``validation`` rows, then ``test`` rows.

        Raises:
            OptionError: a part is neither a share nor a number of rows, or holds no window.
        """
        seen = rows - part(test, rows, horizon, "test")
        return cls.before(np.maximum(seen, 0), validation, horizon)

    @classmethod
    def before(cls, seen: Array, validation: object, horizon: int) -> Split:
        """Training, then ``validation`` rows, of the first ``seen`` rows."""
        held = part(validation, seen, horizon, "validation")
        if not held.any():
            raise OptionError("validation must hold some rows: the training stops by them")
        return cls(np.maximum(seen - held, 0), seen)


def part(given: object, rows: Array, horizon: int, name: str) -> Array:
    """How many rows of each series a part of the split holds: at least a horizon, if any.

    Raises:
        OptionError: it is neither a share below 1 nor a number of rows, or holds no window.
    """
    size = part_size(name, given)
    if size == 0:
        return np.zeros_like(rows)
    if isinstance(size, float):
        return np.maximum((size * rows).astype(np.int64), horizon)
    if size < horizon:
        raise OptionError(
            f"{name}={size} rows hold no window of horizon {horizon}: give at least {horizon}"
        )
    return np.full_like(rows, size)


def season_for(given: int | None, usual: int, trained: Array) -> int:
    """The season: the one that was given, or the usual one of the step if the data holds it.

    Raises:
        DataError: the one that was given is longer than the training part of every series.
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
    """The length of a patch: a season, or the largest part of one that is short enough."""
    longest = min(season, _LONGEST_PATCH, context or season)
    if longest == season:
        return season
    parts = [size for size in range(longest, 0, -1) if season % size == 0]
    if parts[0] >= min(_SHORTEST_PATCH, longest):
        return parts[0]
    return -(-season // -(-season // longest))  # nearly a whole part of a season


def context_for(given: int | None, season: int, patch: int, trained: Array, horizon: int) -> int:
    """The number of steps that the model sees, a multiple of ``patch``.

    Without ``given``: 14 patches, two horizons or two seasons, whichever is most, if that leaves two
    thirds of the usual series to choose windows from; and at least a season.
    """
    if given is not None:
        return max(given // patch, 1) * patch
    typical = _typical(trained)
    wanted = max(_SEASONS * patch, 2 * horizon, 32)
    if patch < season:
        wanted = max(wanted, 2 * season)
    room = max(typical // 3 - horizon, patch)
    context = max(min(wanted // patch, room // patch), 1) * patch
    whole = -(-season // patch) * patch
    if context >= whole:
        return context
    return whole if whole + 2 * horizon <= typical else context


def say_no_season(usual: int, trained: Array) -> None:
    """Warn that the data does not hold the usual season of its step."""
    caution(
        f"a season of {usual} steps is longer than the training part of every series, "
        f"{int(trained.max())} rows: the model goes without a season"
    )


def say_short_context(context: int, season: int, trained: Array) -> None:
    """Warn that the context does not cover a season."""
    caution(
        f"the model sees {context} steps, less than a season of {season}: the {_typical(trained)} rows "
        f"for training leave no room for more"
    )


def _typical(trained: Array) -> int:
    """Half of all rows are of series that are at least so long; a few short ones change nothing."""
    lengths = np.sort(trained)
    upto = np.cumsum(lengths)
    return int(lengths[np.searchsorted(upto, upto[-1] / 2)])


def first_origins(rows: Array, context: int, horizon: int) -> Array:
    """For each series the first row at which a horizon may begin: behind a whole context, or in a series
    that has no room for one behind half of its rows, the rest of the context missing."""
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
    """That some series has a window with a whole context in its training part.

    Args:
        rows: of each series, in all.
        patch: the least that a context can be.
        validation: as the split was made, or None where it is a file.
        given: whether ``context`` is the user's own, and not to be made shorter here.

    Raises:
        DataError: none has; the message says what would do.
    """
    needed = context + horizon
    if split.trained.max() >= needed:
        return
    s = int(np.argmax(split.trained))
    trained, seen, total = (int(each[s]) for each in (split.trained, split.seen, rows))
    advice = [f"{needed - trained} more rows"]
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
        f"{'the longest series' if len(rows) > 1 else 'the series'} has {total} rows{said}; {trained} are left "
        f"for training, and {needed} are needed (context {context}, horizon {horizon}). "
        f"What would do: {', or '.join(advice)}"
    )
