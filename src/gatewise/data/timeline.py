"""A regular grid of time steps and its calendar.

A timeline numbers the steps of a grid: ``steps`` turns times into step numbers and ``times`` turns
them back. Times are integers, or datetime64 stamps; stamps of a time zone come and go as UTC.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gatewise.errors import DataError, OptionError, near, need

if TYPE_CHECKING:
    import polars as pl

Stamps = NDArray[Any]  # int64, or datetime64[us] or [ns]
Steps = NDArray[np.int64]

_SECOND = 1_000_000  # in microseconds, as are all that follow
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY

_FIXED_NS = {
    "ns": 1,
    "us": 1000,
    "ms": 1_000_000,
    "s": _SECOND * 1000,
    "min": _MINUTE * 1000,
    "h": _HOUR * 1000,
    "D": _DAY * 1000,
    "W": _WEEK * 1000,
}
_MONTHS = {"M": 1, "Q": 3, "Y": 12}
_MONTH_END = 31
_DAY_OF_SUFFIX = {"": None, "S": 1, "E": _MONTH_END}
_ALIASES = {"H": "h", "T": "min", "S": "s", "d": "D", "w": "W", "b": "B", "A": "Y", "AS": "YS"}
_ACCEPTED = "s, min, h, D, B (Monday to Friday), W, M, MS, ME, Q, QS, QE, Y, YS, YE, ms, us, ns"

_LONGEST_SEASON = 288  # a day of five-minute steps
_CHUNK = 1 << 18  # rows that are worked on at once, so that temporaries stay small


class OffGridError(DataError):
    """A time is not on the grid; ``index`` says which."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True, kw_only=True)
class Timeline(ABC):
    """A regular grid of steps. Make one with ``parse``, ``infer`` or ``from_json``.

    Attributes:
        every: units from one step to the next: numbers, microseconds, months or working days.
        zone: the IANA time zone of the data, or None. Steps of whole days and longer are counted
            on the zone's wall clock, others in UTC; the calendar is local in both.
    """

    kind: ClassVar[str]
    every: int
    zone: str | None = None

    # ----------------------------------------------------------------------------- the grid

    def steps(self, times: Stamps) -> Steps:
        """The step number of each of N times.

        Raises:
            OffGridError: a time lies between two steps.
            DataError: these are integers for a grid of stamps, or stamps for one of integers.
        """
        self._check_kind(times)
        steps = np.empty(len(times), dtype=np.int64)
        for part in _chunks(len(times)):
            steps[part] = self._floor(self._local(times[part]))
            wrong = self.times(steps[part]) != times[part]
            if wrong.any():
                index = part.start + int(wrong.argmax())
                raise OffGridError(index, self._off(times[index], steps[index]))
        return steps

    def times(self, steps: Steps) -> Stamps:
        """The time of each step: int64, or datetime64[us] ([ns] where the grid is finer)."""
        return self._utc(self._stamps(np.asarray(steps, dtype=np.int64)))

    def column(self, steps: Steps, name: str = "time") -> pl.Series:
        """The times of N steps as a polars column, in the data's time zone."""
        need("polars", "tasks")
        import polars as pl

        column = pl.Series(name, self.times(steps))
        if self.zone is None:
            return column
        return column.dt.replace_time_zone("UTC").dt.convert_time_zone(self.zone)

    def show(self, time: Any) -> str:
        """A time as text for messages, in the data's zone."""
        return show(time, self.zone)

    def _off(self, time: Any, step: np.int64) -> str:
        before, after = map(self.show, self.times(np.array([step, step + 1])))
        grid = f"the grid of {self.name}"
        return f"{self.show(time)} is not on {grid}: next to it are {before} and {after}"

    def _check_kind(self, times: Stamps) -> None:
        given, wanted = (
            "whole numbers" if whole else "time stamps"
            for whole in (times.dtype.kind != "M", isinstance(self, Integers))
        )
        if given != wanted:
            raise DataError(f"the steps are counted in {wanted}, and these times are {given}")

    @property
    def _wall(self) -> bool:
        """Whether steps are counted on the zone's wall clock; where a day may last 23 hours."""
        return self.zone is not None

    def _local(self, times: Stamps) -> Stamps:
        return to_wall(times, self.zone) if self.zone and self._wall else times

    def _utc(self, stamps: Stamps) -> Stamps:
        return from_wall(stamps, self.zone) if self.zone and self._wall else stamps

    @abstractmethod
    def _floor(self, times: Stamps) -> Steps:
        """The last step at or before each time."""

    @abstractmethod
    def _stamps(self, steps: Steps) -> Stamps:
        """The time of each step, before the zone."""

    # ----------------------------------------------------------------------------- its calendar

    @property
    @abstractmethod
    def season(self) -> int:
        """The seasonal period to assume, in steps; 1 where there is none."""

    @property
    def calendar_names(self) -> list[str]:
        """What the K features of ``calendar`` are: a sine and a cosine for each cycle."""
        return [f"{cycle}_{wave}" for cycle in self._cycles for wave in ("sin", "cos")]

    def calendar(self, steps: Steps) -> NDArray[np.float32]:
        """Calendar features of steps of any shape: (\\*steps.shape, K), from -1 to 1."""
        steps = np.asarray(steps, dtype=np.int64)
        features = np.empty((steps.size, 2 * len(self._cycles)), dtype=np.float32)
        for index, phase in enumerate(self._phases(steps.reshape(-1))):
            angle = (2 * np.pi * phase).astype(np.float32)
            np.sin(angle, out=features[:, 2 * index])
            np.cos(angle, out=features[:, 2 * index + 1])
        return features.reshape(*steps.shape, -1)

    @property
    @abstractmethod
    def _cycles(self) -> list[str]:
        """The cycles longer than a step."""

    def _phases(self, steps: Steps) -> Iterator[NDArray[np.float64]]:
        """How far through each cycle every step is, from 0 to 1."""
        stamps = self._stamps(steps)
        if self.zone and not self._wall:
            stamps = to_wall(stamps, self.zone)
        stamps = stamps.astype("datetime64[us]", copy=False)
        for cycle in self._cycles:
            yield _CYCLES[cycle].phase(stamps)

    # ----------------------------------------------------------------------------- as text

    @property
    @abstractmethod
    def name(self) -> str:
        """The step as text, such as 15min, 1D or 1MS; ``parse`` reads it."""

    def to_json(self) -> dict[str, Any]:
        """Everything ``from_json`` needs, in JSON's types."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(described: dict[str, Any]) -> Timeline:
        """The timeline that ``to_json`` described."""
        fields = dict(described)
        return _KINDS[fields.pop("kind")](**fields)

    @staticmethod
    def parse(freq: str, times: Stamps | None = None, zone: str | None = None) -> Timeline:
        """The grid of a frequency: a count and a unit such as 15min, h, 2D, W, B, M, QE or YS.

        A month, quarter or year may start on the first (MS), end on the last (ME), fall on a day
        (M-15), or on the day that ``times`` has (M). A number alone is a step of whole numbers.

        Args:
            times: N times that the grid must pass through; without them it passes through 1970.
            zone: the time zone of the data.

        Raises:
            OptionError: this is no frequency, or not one for such times.
        """
        count, unit, day = _split(freq)
        integers = unit == ""
        if times is None:
            times = np.zeros(1, dtype=np.int64 if integers else "datetime64[us]")
        if integers != (times.dtype.kind != "M"):
            held = "time stamps" if integers else "whole numbers"
            raise OptionError(f"freq={freq!r} does not go with times that are {held}")
        if integers:
            return Integers.through(count, times)
        if unit == "B":
            return Business.through(times, zone)
        if unit in _FIXED_NS:
            return Fixed.through(count * _FIXED_NS[unit], times, zone)
        return Months.through(count * _MONTHS[unit[0]], day, times, zone)

    @staticmethod
    def infer(
        times: Stamps,
        offsets: Steps | None = None,
        *,
        names: Sequence[str] | None = None,
        zone: str | None = None,
    ) -> Timeline:
        """The grid with the most common step of rising times.

        Args:
            times: N times, those of series s in ``offsets[s]:offsets[s + 1]``.
            offsets: S + 1 bounds of the series; one series if not given.
            names: S names of the series, for messages.
            zone: the time zone of the data.

        Raises:
            DataError: no series has two times, or two series have different steps.
        """
        offsets = np.array([0, len(times)]) if offsets is None else offsets
        unit, every = _common_step(times, offsets, names, zone)
        if unit == "integer":
            return Integers.through(every, times)
        if unit == "month":
            return Months.through(every, None, times, zone)
        if every == _FIXED_NS["D"] and _skips_weekends(times, offsets, zone):
            return Business.through(times, zone)
        return Fixed.through(every, times, zone)


@dataclass(frozen=True, kw_only=True)
class Integers(Timeline):
    """Whole numbers, ``every`` apart; step 0 is ``origin``."""

    kind: ClassVar[str] = "integers"
    origin: int = 0

    @classmethod
    def through(cls, every: int, times: Stamps) -> Self:
        """The grid on which the first time lies."""
        return cls(every=every, origin=int(times[0]) % every)

    def _floor(self, times: Stamps) -> Steps:
        return np.asarray((times - self.origin) // self.every)

    def _stamps(self, steps: Steps) -> Stamps:
        return steps * self.every + self.origin

    @property
    def name(self) -> str:
        return str(self.every)

    @property
    def season(self) -> int:
        return 1

    @property
    def _cycles(self) -> list[str]:
        return []

    def _phases(self, steps: Steps) -> Iterator[NDArray[np.float64]]:
        return iter(())


@dataclass(frozen=True, kw_only=True)
class Fixed(Timeline):
    """Stamps ``every`` units apart, each a microsecond or a nanosecond; step 0 is ``origin``."""

    kind: ClassVar[str] = "fixed"
    origin: int = 0
    unit: str = "us"

    @classmethod
    def through(cls, nanoseconds: int, times: Stamps, zone: str | None) -> Self:
        """The grid on which the first time lies."""
        first = times[:1]
        fine = nanoseconds % 1000 or (first.astype("datetime64[us]") != first).any()
        unit, every = ("ns", nanoseconds) if fine else ("us", nanoseconds // 1000)
        grid = cls(every=every, unit=unit, zone=zone)
        tick = int(grid._local(first).astype(f"datetime64[{unit}]").astype(np.int64)[0])
        return dataclasses.replace(grid, origin=tick % every)

    @property
    def _nanoseconds(self) -> int:
        return self.every * (1000 if self.unit == "us" else 1)

    @property
    def _wall(self) -> bool:
        return self._nanoseconds % _FIXED_NS["D"] == 0

    def _floor(self, times: Stamps) -> Steps:
        ticks = times.astype(f"datetime64[{self.unit}]").astype(np.int64)
        return np.asarray((ticks - self.origin) // self.every)

    def _stamps(self, steps: Steps) -> Stamps:
        return (steps * self.every + self.origin).view(f"datetime64[{self.unit}]")

    @property
    def name(self) -> str:
        unit = next(u for u in reversed(_FIXED_NS) if self._nanoseconds % _FIXED_NS[u] == 0)
        return f"{self._nanoseconds // _FIXED_NS[unit]}{unit}"

    @property
    def season(self) -> int:
        every = self._nanoseconds / 1000
        if every >= _WEEK:
            return _periods(52 * _WEEK, every)
        if every >= _DAY:
            return _periods(_WEEK, every)
        counts = (_periods(cycle, every) for cycle in (_DAY, _HOUR, _MINUTE, _SECOND))
        return next((count for count in counts if 1 < count <= _LONGEST_SEASON), 1)

    @property
    def _cycles(self) -> list[str]:
        every = self._nanoseconds / 1000
        return [name for name, cycle in _CYCLES.items() if cycle.length > every >= cycle.shortest]


@dataclass(frozen=True, kw_only=True)
class Months(Timeline):
    """A stamp every so many months, on a day of the month, at ``clock`` microseconds of that day.

    In a shorter month the day is the month's last, so that 31 means month ends. Step 0 falls in
    month ``origin`` since January 1970.
    """

    kind: ClassVar[str] = "months"
    origin: int = 0
    day: int = 1
    clock: int = 0

    @classmethod
    def through(cls, every: int, day: int | None, times: Stamps, zone: str | None) -> Self:
        """The grid of the first time's month and clock, and of the times' day if none is given."""
        local = to_wall(times[:1], zone).astype("datetime64[us]")
        month = int(local.astype("datetime64[M]").astype(np.int64)[0])
        clock = int(local.astype(np.int64)[0] % _DAY)
        day = _day_of_month(times, zone) if day is None else day
        return cls(every=every, origin=month % every, day=day, clock=clock, zone=zone)

    def _floor(self, times: Stamps) -> Steps:
        months = times.astype("datetime64[M]").astype(np.int64)
        steps = np.asarray((months - self.origin) // self.every)
        return steps - (self._stamps(steps) > times)

    def _stamps(self, steps: Steps) -> Stamps:
        months = (steps * self.every + self.origin).view("datetime64[M]")
        first = months.astype("datetime64[D]")
        days = np.minimum(self.day, _month_lengths(months)) - 1
        stamps: Stamps = (first + days).astype("datetime64[us]") + np.timedelta64(self.clock, "us")
        return stamps

    @property
    def name(self) -> str:
        unit = next(u for u in reversed(_MONTHS) if self.every % _MONTHS[u] == 0)
        suffix = {1: "S", _MONTH_END: "E"}.get(self.day, f"-{self.day}")
        return f"{self.every // _MONTHS[unit]}{unit}{suffix}"

    @property
    def season(self) -> int:
        return _periods(12, self.every)

    @property
    def _cycles(self) -> list[str]:
        return ["month_of_year"] if self.every % 12 else []

    def _phases(self, steps: Steps) -> Iterator[NDArray[np.float64]]:
        if self._cycles:
            yield (steps * self.every + self.origin) % 12 / 12


@dataclass(frozen=True, kw_only=True)
class Business(Timeline):
    """Monday to Friday, at ``clock`` microseconds of the day. Holidays are gaps."""

    kind: ClassVar[str] = "business"
    every: int = 1
    clock: int = 0

    @classmethod
    def through(cls, times: Stamps, zone: str | None) -> Self:
        """The grid of the first time's clock."""
        local = to_wall(times[:1], zone).astype("datetime64[us]")
        return cls(clock=int(local.astype(np.int64)[0] % _DAY), zone=zone)

    def _floor(self, times: Stamps) -> Steps:
        days = (times - np.timedelta64(self.clock, "us")).astype("datetime64[D]").astype(np.int64)
        week, weekday = np.divmod(days + 3, 7)  # day 0, in 1970, was a Thursday
        return np.asarray(week * 5 + np.minimum(weekday, 4))

    def _stamps(self, steps: Steps) -> Stamps:
        week, weekday = np.divmod(steps, 5)
        return ((week * 7 + weekday - 3) * _DAY + self.clock).view("datetime64[us]")

    @property
    def name(self) -> str:
        return "1B"

    @property
    def season(self) -> int:
        return 5

    @property
    def _cycles(self) -> list[str]:
        return ["day_of_week", "day_of_month", "day_of_year"]


_KINDS: dict[str, type[Timeline]] = {
    grid.kind: grid for grid in (Integers, Fixed, Months, Business)
}

# ------------------------------------------------------------------------------ the calendar


@dataclass(frozen=True)
class _Cycle:
    """A cycle's length in microseconds, the shortest step it is of use for, and its phase."""

    length: int
    phase: Callable[[Stamps], NDArray[np.float64]]
    shortest: int = 0


def _through(length: int) -> Callable[[Stamps], NDArray[np.float64]]:
    return lambda stamps: stamps.astype(np.int64) % length / length


def _through_week(stamps: Stamps) -> NDArray[np.float64]:
    # Whole days: a Saturday is one from its first hour to its last.
    return np.asarray((stamps.astype("datetime64[D]").astype(np.int64) + 3) % 7 / 7)


def _through_month(stamps: Stamps) -> NDArray[np.float64]:
    months = stamps.astype("datetime64[M]")
    days = stamps.astype("datetime64[D]") - months.astype("datetime64[D]")
    return np.asarray(days.astype(np.int64) / _month_lengths(months))


def _through_year(stamps: Stamps) -> NDArray[np.float64]:
    days = stamps.astype("datetime64[D]")
    return np.asarray((days - days.astype("datetime64[Y]")).astype(np.int64) / 366)


_CYCLES = {
    "second_of_minute": _Cycle(_MINUTE, _through(_MINUTE)),
    "minute_of_hour": _Cycle(_HOUR, _through(_HOUR)),
    "hour_of_day": _Cycle(_DAY, _through(_DAY)),
    "day_of_week": _Cycle(_WEEK, _through_week),
    "day_of_month": _Cycle(28 * _DAY, _through_month, shortest=_DAY),
    "day_of_year": _Cycle(365 * _DAY, _through_year),
}


def cycle_length(name: str) -> int:
    """Length, in microseconds, of the cycle that a calendar feature (``day_of_week_sin``) belongs to."""
    return _CYCLES[name.rpartition("_")[0]].length


def _month_lengths(months: Stamps) -> NDArray[np.int64]:
    days = (months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")
    return np.asarray(days.astype(np.int64))


def _periods(cycle: float, every: float) -> int:
    """How many steps a cycle has, or 1 where it is no whole number of them."""
    return 1 if cycle % every else max(1, int(cycle // every))


# ------------------------------------------------------------------------------ reading a step


def _split(freq: str) -> tuple[int, str, int | None]:
    """The count, the unit ("" for whole numbers) and the day of month of a frequency."""
    match = re.fullmatch(r"(\d*)([A-Za-z]*)(?:-(\d+))?", freq.strip()) if freq else None
    if match is None:
        raise OptionError(_no_frequency(freq))
    count = int(match[1] or 1)
    unit = _ALIASES.get(match[2], match[2])
    on_day = int(match[3]) if match[3] else None
    base, suffix = unit[:1], unit[1:]
    if count < 1 or (unit == "B" and count > 1) or (unit == "" and not match[1]):
        raise OptionError(_no_frequency(freq))
    if base in _MONTHS and suffix in _DAY_OF_SUFFIX:
        if on_day is not None and (suffix or not 1 <= on_day <= _MONTH_END):
            raise OptionError(_no_frequency(freq))
        return count, unit, on_day or _DAY_OF_SUFFIX[suffix]
    if on_day is not None or (unit and unit != "B" and unit not in _FIXED_NS):
        raise OptionError(_no_frequency(freq, unit))
    return count, unit, None


def _no_frequency(freq: str, unit: str = "") -> str:
    hint = near(unit, [*_FIXED_NS, "B"]) if unit else ""
    return (
        f"freq={freq!r} is no frequency{hint}: give a count and one of {_ACCEPTED}, such as 15min"
    )


# ------------------------------------------------------------------------------ finding a step


def _common_step(
    times: Stamps, offsets: Steps, names: Sequence[str] | None, zone: str | None
) -> tuple[str, int]:
    """The step most rows have: ("integer", numbers), ("ns", nanoseconds) or ("month", months)."""
    rows: Counter[tuple[str, int]] = Counter()
    vague: Counter[tuple[str, int]] = Counter()
    first_with: dict[tuple[str, int], int] = {}
    for s, (start, stop) in enumerate(itertools.pairwise(offsets)):
        if stop - start < 2:
            continue
        step, share = _step_of(times[start:stop], zone)
        # A handful of rows with gaps says little: such a series goes by the others.
        if stop - start >= 4 and share > 0.5:
            rows[step] += stop - start
            first_with.setdefault(step, s)
        else:
            vague[step] += stop - start
    if not rows and not vague:
        raise DataError("no series has two rows to infer the frequency from: give freq")
    if len(rows) > 1:
        (one, _), (other, _) = rows.most_common(2)
        raise DataError(_differing(one, other, first_with, names))
    return (rows or vague).most_common(1)[0][0]


def _step_of(times: Stamps, zone: str | None) -> tuple[tuple[str, int], float]:
    """The most common step of one series, and the share of its steps that are so."""
    if times.dtype.kind != "M":
        every, share = _mode(np.diff(times))
        return ("integer", every), share
    every, share = _mode(np.diff(times).astype(np.int64))
    per_day = _DAY * (1000 if np.datetime_data(times.dtype)[0] == "ns" else 1)
    if zone is not None and every > per_day // 2:
        times = to_wall(times, zone)  # where days are of one length
        every, share = _mode(np.diff(times).astype(np.int64))
    if every >= 28 * per_day and _is_monthly(times):
        months = times.astype("datetime64[M]").astype(np.int64)
        every, share = _mode(np.diff(months))
        return ("month", every), share
    return ("ns", every * (_DAY * 1000 // per_day)), share


def _mode(values: NDArray[np.int64]) -> tuple[int, float]:
    if (values == values[0]).all():
        return int(values[0]), 1.0
    unique, counts = np.unique(values, return_counts=True)
    return int(unique[counts.argmax()]), float(counts.max() / len(values))


def _differing(
    one: tuple[str, int],
    other: tuple[str, int],
    first_with: dict[tuple[str, int], int],
    names: Sequence[str] | None,
) -> str:
    said = []
    for unit, every in (one, other):
        s = first_with[unit, every]
        name = names[s] if names is not None else s
        suffix = "M" if unit == "month" else "ns"
        step = str(every) if unit == "integer" else Timeline.parse(f"{every}{suffix}").name
        said.append(f"series {name!r} has a row every {step.removesuffix('S')}")
    return (
        f"the series differ in frequency: {said[0]}, {said[1]}. Forecast them apart, or bring them "
        "to one step; freq with gaps='mask' takes the rows between as missing"
    )


def _is_monthly(stamps: Stamps) -> bool:
    """Whether all stamps are of one day of the month (or its last) and one time of day."""
    clock = stamps - stamps.astype("datetime64[D]")
    days, lengths = _days_of_month(stamps)
    return bool((clock == clock[0]).all()) and bool(
        (days == np.minimum(days.max(), lengths)).all() or (days == lengths).all()
    )


def _days_of_month(stamps: Stamps) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each stamp's day of the month, from 1, and the length of that month."""
    months = stamps.astype("datetime64[M]")
    days = stamps.astype("datetime64[D]") - months.astype("datetime64[D]")
    return days.astype(np.int64) + 1, _month_lengths(months)


def _day_of_month(times: Stamps, zone: str | None) -> int:
    """31 where all times are month ends, otherwise the latest day of the month they have."""
    latest, ends = 1, True
    for part in _chunks(len(times)):
        days, lengths = _days_of_month(to_wall(times[part], zone))
        latest = max(latest, int(days.max()))
        ends = ends and bool((days == lengths).all())
    return _MONTH_END if ends else latest


def _skips_weekends(times: Stamps, offsets: Steps, zone: str | None) -> bool:
    """Whether no stamp falls on a weekend although some series has rows on both sides of one."""

    def days(part: Any) -> NDArray[np.int64]:
        return np.asarray(to_wall(times[part], zone).astype("datetime64[D]").astype(np.int64)) + 3

    if any((days(part) % 7 > 4).any() for part in _chunks(len(times))):
        return False
    return bool((days(offsets[:-1]) // 7 != days(offsets[1:] - 1) // 7).any())


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))


# ------------------------------------------------------------------------------ time zones


def to_wall(times: Stamps, zone: str | None) -> Stamps:
    """UTC stamps as what the zone's clocks show; as they are where there is no zone."""
    if zone is None or zone == "UTC":
        return times
    need("polars", "tasks")
    import polars as pl

    column = pl.Series(times).dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    return column.dt.replace_time_zone(None).to_numpy()


def from_wall(stamps: Stamps, zone: str | None) -> Stamps:
    """What the zone's clocks show as UTC: the earlier where they show it twice, and an hour on
    where clocks that are put forward skip it."""
    if zone is None or zone == "UTC":
        return stamps
    need("polars", "tasks")
    import polars as pl

    def utc(column: pl.Series) -> pl.Series:
        there = column.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        return there.dt.convert_time_zone("UTC").dt.replace_time_zone(None)

    column = pl.Series(stamps.reshape(-1))
    found = utc(column)
    if found.null_count():
        found = found.fill_null(utc(column.dt.offset_by("1h")))
    return found.to_numpy().reshape(stamps.shape)


def show(time: Any, zone: str | None = None) -> str:
    """A time as text for messages: a number, or a stamp without its zero parts."""
    if not isinstance(time, np.datetime64):
        return str(time)
    text = str(to_wall(np.array([time]), zone)[0]).replace("T", " ")
    text = re.sub(r"\.?0+$", "", text) if "." in text else text
    text = text.removesuffix(":00") if text.count(":") == 2 else text
    return text.removesuffix(" 00:00") + (f" {zone}" if zone else "")
