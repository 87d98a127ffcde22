"""The step of a time column: the most common difference, and the day of the month of monthly times."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewise.data.frequency import WEEKDAYS
from gatewise.data.zones import to_wall
from gatewise.errors import DataError

Stamps = NDArray[Any]  # int64, or datetime64[us] or [ns]
Steps = NDArray[np.int64]
Unit = tuple[str, int]  # ("integer", numbers), ("ns", nanoseconds) or ("month", months)

_DAY = 86_400_000_000  # in microseconds
_CHUNK = 1 << 18  # rows that are processed at once, so that temporary arrays stay small


def common_step(
    times: Stamps,
    offsets: Steps,
    names: Sequence[str] | None,
    zone: str | None,
    named: Callable[[Unit], str],
) -> Unit:
    """The step of most rows; ``named`` gives a step's text for messages.

    Raises:
        DataError: no series has two times, or two series have different steps.
    """
    rows: Counter[Unit] = Counter()
    vague: Counter[Unit] = Counter()
    first_with: dict[Unit, int] = {}
    for s, (start, stop) in enumerate(itertools.pairwise(offsets)):
        if stop - start < 2:
            continue
        step, share = _step_of(times[start:stop], zone)
        # A few rows with gaps are not enough: such a series has the step of the others.
        if stop - start >= 4 and share > 0.5:
            rows[step] += stop - start
            first_with.setdefault(step, s)
        else:
            vague[step] += stop - start
    if not rows and not vague:
        raise DataError("no series has two rows, so the time step cannot be inferred: give freq=")
    if len(rows) > 1:
        said = []
        for step, _ in rows.most_common(2):
            s = first_with[step]
            name = names[s] if names is not None else s
            said.append(f"series {name!r} has a row every {named(step)}")
        raise DataError(
            f"the series differ in frequency: {said[0]}, {said[1]}. Forecast them separately, or resample "
            "them to one step; freq= with gaps='mask' treats the rows between as missing values"
        )
    return (rows or vague).most_common(1)[0][0]


def _step_of(times: Stamps, zone: str | None) -> tuple[Unit, float]:
    """The most common step of one series, and its share of the steps."""
    if times.dtype.kind != "M":
        every, share = _mode(np.diff(times))
        return ("integer", every), share
    every, share = _mode(np.diff(times).astype(np.int64))
    per_day = _DAY * (1000 if np.datetime_data(times.dtype)[0] == "ns" else 1)
    if zone is not None and every > per_day // 2:
        times = to_wall(times, zone)  # in wall-clock time, where all days have the same length
        every, share = _mode(np.diff(times).astype(np.int64))
    if every >= 28 * per_day and month_rule(times) is not None:
        months = times.astype("datetime64[M]").astype(np.int64)
        every, share = _mode(np.diff(months))
        return ("month", every), share
    return ("ns", every * (_DAY * 1000 // per_day)), share


def _mode(values: NDArray[np.int64]) -> tuple[int, float]:
    if (values == values[0]).all():
        return int(values[0]), 1.0
    unique, counts = np.unique(values, return_counts=True)
    return int(unique[counts.argmax()]), float(counts.max() / len(values))


# ------------------------------------------------------------------------------ days of the month


def month_rule(wall: Stamps, weekly: bool = False) -> str | None:
    """The rule for the day of the month of all wall-clock timestamps, or None.

    It is a number ("31" is the last day), "BS" or "BE" (first or last day from Monday to Friday), or "WOM-3FRI"
    (third Friday). A weekday's place in the month counts only where timestamps are both four and five weeks
    apart, unless ``weekly``; otherwise the step may be four weeks.
    """
    if (wall - wall.astype("datetime64[D]") != wall[0] - wall[0].astype("datetime64[D]")).any():
        return None
    months = wall.astype("datetime64[M]")
    lengths = month_lengths(months)
    days = (wall.astype("datetime64[D]") - months.astype("datetime64[D]")).astype(np.int64) + 1
    if (days == lengths).all():
        return "31"
    if (days == np.minimum(days.max(), lengths)).all():
        return str(days.max())
    for rule in ("BS", "BE"):
        if (days == month_days(months, rule)).all():
            return rule
    apart = set((np.diff(wall.astype("datetime64[D]")).astype(np.int64)).tolist())
    if not (weekly or {28, 35} <= apart):
        return None
    weekday = WEEKDAYS[int(weekdays(wall[:1])[0])]
    for rule in (f"WOM-{(days.min() - 1) // 7 + 1}{weekday}", f"LWOM-{weekday}"):
        if not rule.startswith("WOM-5") and (days == month_days(months, rule)).all():
            return rule
    return None


def month_days(months: Stamps, rule: str) -> NDArray[np.int64]:
    """The day, from 1, of ``rule`` (see ``month_rule``) in each month."""
    lengths = month_lengths(months)
    if rule.isdecimal():
        return np.minimum(int(rule), lengths)
    first = weekdays(months.astype("datetime64[D]"))
    if rule == "BS":
        return np.asarray(1 + np.maximum(7 - first, 0) * (first > 4))
    last = (first + lengths - 1) % 7
    if rule == "BE":
        return np.asarray(lengths - np.maximum(last - 4, 0))
    weekday = WEEKDAYS.index(rule[-3:])
    if rule.startswith("LWOM"):
        return np.asarray(lengths - (last - weekday) % 7)
    return np.asarray(1 + (weekday - first) % 7 + 7 * (int(rule[4]) - 1))


def weekdays(stamps: Stamps) -> NDArray[np.int64]:
    """The weekdays, 0 for Monday to 6 for Sunday."""
    return np.asarray((stamps.astype("datetime64[D]").astype(np.int64) + 3) % 7)


def month_lengths(months: Stamps) -> NDArray[np.int64]:
    """The number of days of each datetime64[M]."""
    days = (months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")
    return np.asarray(days.astype(np.int64))


def latest_day(wall: Stamps) -> int:
    """The latest day of the month, from 1, among wall-clock timestamps."""
    days = wall.astype("datetime64[D]") - wall.astype("datetime64[M]").astype("datetime64[D]")
    return int(days.astype(np.int64).max()) + 1


# ------------------------------------------------------------------------------ working days


def skips_weekends(times: Stamps, offsets: Steps, zone: str | None) -> bool:
    """Whether no timestamp is on a weekend, although a series has rows on both sides of one."""

    def days(part: Any) -> NDArray[np.int64]:
        return np.asarray(to_wall(times[part], zone).astype("datetime64[D]").astype(np.int64)) + 3

    if any((days(part) % 7 > 4).any() for part in chunks(len(times))):
        return False
    return bool((days(offsets[:-1]) // 7 != days(offsets[1:] - 1) // 7).any())


def chunks(count: int) -> Iterator[slice]:
    """Slices that cover ``count`` rows."""
    return (slice(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))
