"""A regular grid of time steps and its calendar.

A timeline numbers the steps of a grid: ``steps`` converts times to step numbers, ``times`` converts them
back. Times are integers or datetime64 timestamps; timestamps with a time zone are in UTC.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gatewise.data.frequency import FIXED_NS, MONTH_NAMES, MONTHS, WEEKDAYS, Frequency, read
from gatewise.data.steps import (
    Stamps,
    Steps,
    Unit,
    chunks,
    common_step,
    latest_day,
    month_days,
    month_lengths,
    month_rule,
    skips_weekends,
    weekdays,
)
from gatewise.data.zones import from_wall, show, to_wall
from gatewise.errors import DataError, OptionError

_SECOND = 1_000_000  # in microseconds, like the constants below
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY

_LONGEST_SEASON = 288  # a day of five-minute steps
_MONTH_END = 31
_WORKING_HOURS = 9, 8  # pandas' business day: eight hours from nine o'clock

# The range of times: integers that can still be added to, and years up to 9999.
_INTEGERS = 2**62
_LAST_TICK = 253_402_300_799_999_999
_NANOSECONDS = 2**63 - 1


class OffGridError(DataError):
    """A time is not on the grid; ``index`` is its index."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True, kw_only=True)
class Timeline(ABC):
    """A regular grid of steps. Make one with ``parse``, ``infer`` or ``from_json``.

    Attributes:
        every: the units in a step: integers, microseconds, months or working days.
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
            DataError: the times are integers and the grid has timestamps, or the reverse.
        """
        self._check_kind(times)
        steps = np.empty(len(times), dtype=np.int64)
        for part in chunks(len(times)):
            steps[part] = self._floor(self._local(times[part]))
            wrong = self.times(steps[part]) != times[part]
            if wrong.any():
                index = part.start + int(wrong.argmax())
                raise OffGridError(index, self._off(times[index], steps[index]))
        return steps

    def times(self, steps: Steps) -> Stamps:
        """The time of each step: int64, or datetime64[us] ([ns] where the grid is finer).

        Raises:
            DataError: a time is beyond the year 9999, or beyond the range of its type.
        """
        steps = np.asarray(steps, dtype=np.int64)
        if steps.size:
            for step in (int(steps.min()), int(steps.max())):
                if not self._holds(step):
                    raise DataError(
                        f"step {step} of {self.name} is outside the range of timestamps, which end in the "
                        "year 9999 (2262 with nanoseconds)"
                    )
        return self._utc(self._stamps(steps))

    def show(self, time: Any) -> str:
        """A time as text for messages, in the data's zone."""
        return show(time, self.zone)

    def _off(self, time: Any, step: np.int64) -> str:
        before, after = map(self.show, self.times(np.array([step, step + 1])))
        grid = f"the grid of {self.name}"
        return (
            f"{self.show(time)} is not on {grid}; the nearest times on it are {before} and {after}"
        )

    def _check_kind(self, times: Stamps) -> None:
        given, wanted = (
            "integers" if integers else "timestamps"
            for integers in (times.dtype.kind != "M", isinstance(self, Integers))
        )
        if given != wanted:
            raise DataError(
                f"the times are {given}, but the model's times are {wanted}: give {wanted}"
            )

    @property
    def _wall(self) -> bool:
        """Whether steps are counted in wall-clock time, in which a day may last 23 hours."""
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
        """The time of each step, without the zone."""

    @abstractmethod
    def _holds(self, step: int) -> bool:
        """Whether the time of this step is in the range of times."""

    # ----------------------------------------------------------------------------- its calendar

    @property
    @abstractmethod
    def season(self) -> int:
        """The default seasonal period in steps; 1 for none."""

    @property
    def calendar_names(self) -> list[str]:
        """The names of the K features of ``calendar``: a sine and a cosine for each cycle."""
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
        """The phase of every step in each cycle, from 0 to 1."""
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
        """The timeline as data for JSON; ``from_json`` reads it."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(described: dict[str, Any]) -> Timeline:
        """The timeline that ``to_json`` described."""
        fields = dict(described)
        return _KINDS[fields.pop("kind")](**fields)

    @staticmethod
    def parse(freq: Any, times: Stamps | None = None, zone: str | None = None) -> Timeline:
        """The grid of a frequency: a count and a unit such as 15min, h, 2D, W, B, M, QE or YS, one of
        pandas' names (W-SUN, BME, QE-DEC) or offsets, or a timedelta.

        A month, quarter or year may start on the first (MS), end on the last (ME), begin or end on the
        first or last working day (BMS, BME), fall on a day (M-15), or on the day that ``times`` has
        (M). A number alone is a step of integers.

        Args:
            times: N times that the grid must pass through; without them it passes through 1970.
            zone: the time zone of the data.

        Raises:
            OptionError: the frequency is unknown, or does not fit the times.
        """
        found = read(freq)
        integers = found.unit == ""
        if times is None:
            times = np.zeros(1, dtype=np.int64) if integers else _example(found)
        if integers != (times.dtype.kind != "M"):
            held = "timestamps" if integers else "integers"
            wanted = "a unit, such as '1h'" if integers else "an integer, such as '1'"
            raise OptionError(
                f"freq={found.text!r} does not fit times that are {held}: give {wanted}"
            )
        if integers:
            return Integers.through(found.count, times)
        _check_anchor(found, times[:1], zone)
        if found.unit == "B":
            return Business.through(found.count, times, zone)
        if found.unit == "bh":
            return BusinessHours.through(times, zone)
        if found.unit == "M":
            return Months.through(found.count, found.rule or None, times, zone)
        return Fixed.through(found.count, times, zone)

    @staticmethod
    def infer(
        times: Stamps,
        offsets: Steps | None = None,
        *,
        names: Sequence[str] | None = None,
        zone: str | None = None,
    ) -> Timeline:
        """The grid with the most common step of increasing times.

        Args:
            times: N times, those of series s in ``offsets[s]:offsets[s + 1]``.
            offsets: S + 1 bounds of the series; one series if not given.
            names: S names of the series, for messages.
            zone: the time zone of the data.

        Raises:
            DataError: no series has two times, or two series have different steps.
        """
        offsets = np.array([0, len(times)]) if offsets is None else offsets
        unit, every = common_step(times, offsets, names, zone, _called)
        if unit == "integer":
            return Integers.through(every, times)
        if unit == "month":
            return Months.through(every, None, times, zone)
        if every == FIXED_NS["D"] and skips_weekends(times, offsets, zone):
            return Business.through(1, times, zone)
        return Fixed.through(every, times, zone)


@dataclass(frozen=True, kw_only=True)
class Integers(Timeline):
    """Integers at the distance ``every``; step 0 is ``origin``."""

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

    def _holds(self, step: int) -> bool:
        return abs(step * self.every + self.origin) < _INTEGERS

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
    """Timestamps at the distance ``every``, in microseconds or nanoseconds; step 0 is ``origin``."""

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
        return self._nanoseconds % FIXED_NS["D"] == 0

    def _floor(self, times: Stamps) -> Steps:
        ticks = times.astype(f"datetime64[{self.unit}]").astype(np.int64)
        return np.asarray((ticks - self.origin) // self.every)

    def _stamps(self, steps: Steps) -> Stamps:
        return (steps * self.every + self.origin).view(f"datetime64[{self.unit}]")

    def _holds(self, step: int) -> bool:
        tick = step * self.every + self.origin
        if self.unit == "ns":
            return abs(tick) <= _NANOSECONDS - FIXED_NS["D"]  # a zone may be a day ahead
        return abs(tick) <= _LAST_TICK - _DAY

    @property
    def name(self) -> str:
        unit = next(u for u in reversed(FIXED_NS) if self._nanoseconds % FIXED_NS[u] == 0)
        return f"{self._nanoseconds // FIXED_NS[unit]}{unit}"

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

    In a shorter month the day is the month's last, so that 31 means month ends. With a ``rule`` it is
    the first or last day from Monday to Friday (BS, BE), or a weekday's place in the month (WOM-3FRI:
    the third Friday, LWOM-FRI: the last). Step 0 falls in month ``origin`` since January 1970.
    """

    kind: ClassVar[str] = "months"
    origin: int = 0
    day: int = 1
    clock: int = 0
    rule: str = ""

    @classmethod
    def through(cls, every: int, rule: str | None, times: Stamps, zone: str | None) -> Self:
        """The grid of the first time's month and clock, and of the times' day if none is given.

        ``rule`` is as in ``Frequency``.
        """
        local = to_wall(times[:1], zone).astype("datetime64[us]")
        month = int(local.astype("datetime64[M]").astype(np.int64)[0])
        clock = int(local.astype(np.int64)[0] % _DAY)
        if rule is None:
            wall = to_wall(times, zone)
            rule = month_rule(wall, weekly=True) or str(latest_day(wall))
        on = dict(day=int(rule)) if rule.isdecimal() else dict(rule=rule)
        return cls(every=every, origin=month % every, clock=clock, zone=zone, **on)

    def _floor(self, times: Stamps) -> Steps:
        months = times.astype("datetime64[M]").astype(np.int64)
        steps = np.asarray((months - self.origin) // self.every)
        return steps - (self._stamps(steps) > times)

    def _stamps(self, steps: Steps) -> Stamps:
        months = (steps * self.every + self.origin).view("datetime64[M]")
        first = months.astype("datetime64[D]")
        days = month_days(months, self.rule or str(self.day)) - 1
        stamps: Stamps = (first + days).astype("datetime64[us]") + np.timedelta64(self.clock, "us")
        return stamps

    def _holds(self, step: int) -> bool:
        return abs(step * self.every + self.origin) < (9999 - 1970) * 12

    @property
    def name(self) -> str:
        if "WOM" in self.rule:
            return f"{self.every}{self.rule}"
        unit = next(u for u in reversed(MONTHS) if self.every % MONTHS[u] == 0)
        count = self.every // MONTHS[unit]
        if self.rule:
            return f"{count}B{unit}{self.rule[1]}"
        suffix = {1: "S", _MONTH_END: "E"}.get(self.day, f"-{self.day}")
        return f"{count}{unit}{suffix}"

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
    """Every so many days from Monday to Friday, at ``clock`` microseconds of the day. Holidays are gaps.

    Step 0 is day ``origin`` of those, counted from 29 December 1969, a Monday.
    """

    kind: ClassVar[str] = "business"
    every: int = 1
    clock: int = 0
    origin: int = 0

    @classmethod
    def through(cls, every: int, times: Stamps, zone: str | None) -> Self:
        """The grid of the first time's clock and day."""
        local = to_wall(times[:1], zone).astype("datetime64[us]")
        grid = cls(clock=int(local.astype(np.int64)[0] % _DAY), zone=zone)
        return dataclasses.replace(grid, every=every, origin=int(grid._floor(local)[0]) % every)

    def _floor(self, times: Stamps) -> Steps:
        days = (times - np.timedelta64(self.clock, "us")).astype("datetime64[D]").astype(np.int64)
        return np.asarray((_working_days(days) - self.origin) // self.every)

    def _stamps(self, steps: Steps) -> Stamps:
        days = _calendar_days(steps * self.every + self.origin)
        return (days * _DAY + self.clock).view("datetime64[us]")

    def _holds(self, step: int) -> bool:
        return _within_years(7 * (step * self.every + self.origin) // 5)

    @property
    def name(self) -> str:
        return f"{self.every}B"

    @property
    def season(self) -> int:
        return _periods(5, self.every)

    @property
    def _cycles(self) -> list[str]:
        return ["day_of_week", "day_of_month", "day_of_year"]


@dataclass(frozen=True, kw_only=True)
class BusinessHours(Timeline):
    """``hours`` hours of every day from Monday to Friday, the first at ``clock`` microseconds of it."""

    kind: ClassVar[str] = "business hours"
    every: int = 1
    clock: int = _WORKING_HOURS[0] * _HOUR
    hours: int = _WORKING_HOURS[1]

    @classmethod
    def through(cls, times: Stamps, zone: str | None) -> Self:
        """The grid from the earliest to the latest hour that the times have."""
        first, last = _HOUR * 24, 0
        for part in chunks(len(times)):
            clocks = to_wall(times[part], zone).astype("datetime64[us]").astype(np.int64) % _DAY
            first, last = min(first, int(clocks.min())), max(last, int(clocks.max()))
        return cls(clock=first, hours=(last - first) // _HOUR + 1, zone=zone)

    def _floor(self, times: Stamps) -> Steps:
        ticks = times.astype("datetime64[us]").astype(np.int64) - self.clock
        days = ticks // _DAY
        hour = np.where((days + 3) % 7 > 4, 23, ticks % _DAY // _HOUR)
        return np.asarray(_working_days(days) * self.hours + np.minimum(hour, self.hours - 1))

    def _stamps(self, steps: Steps) -> Stamps:
        days, hour = np.divmod(steps, self.hours)
        return (_calendar_days(days) * _DAY + self.clock + hour * _HOUR).view("datetime64[us]")

    def _holds(self, step: int) -> bool:
        return _within_years(7 * (step // self.hours) // 5)

    @property
    def name(self) -> str:
        return "1bh"

    @property
    def season(self) -> int:
        return self.hours

    @property
    def _wall(self) -> bool:
        return True

    @property
    def _cycles(self) -> list[str]:
        return ["hour_of_day", "day_of_week", "day_of_year"]


_KINDS: dict[str, type[Timeline]] = {
    grid.kind: grid for grid in (Integers, Fixed, Months, Business, BusinessHours)
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
    return np.asarray(days.astype(np.int64) / month_lengths(months))


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


def _periods(cycle: float, every: float) -> int:
    """The number of steps in a cycle, or 1 where it is not an integer."""
    return 1 if cycle % every else max(1, int(cycle // every))


# ------------------------------------------------------------------------------ working days


def _working_days(days: Steps) -> Steps:
    """The number of working days from 1970 to each day; a weekend has the number of its Friday."""
    week, weekday = np.divmod(days + 3, 7)  # day 0, in 1970, was a Thursday
    return np.asarray(week * 5 + np.minimum(weekday, 4))


def _calendar_days(working: Steps) -> Steps:
    week, weekday = np.divmod(working, 5)
    return np.asarray(week * 7 + weekday - 3)


def _within_years(days: int) -> bool:
    return abs(days) * _DAY <= _LAST_TICK - 7 * _DAY


# ------------------------------------------------------------------------------ naming a step


def _called(step: Unit) -> str:
    """The text of messages for a step that was found."""
    unit, every = step
    if unit == "integer":
        return str(every)
    return Timeline.parse(f"{every}{'M' if unit == 'month' else 'ns'}").name.removesuffix("S")


def _example(freq: Frequency) -> Stamps:
    """A timestamp of 1970 that is on a grid of this frequency."""
    if freq.weekday is not None:
        return np.array([f"1970-01-{5 + freq.weekday:02d}"], dtype="datetime64[us]")
    if freq.unit == "bh":
        return np.array(["1970-01-01T09", "1970-01-01T16"], dtype="datetime64[us]")
    month = freq.month or 1
    if freq.rule == "" and freq.ends:  # on the first: of the month after the one that it ends in
        month = month % 12 + 1
    return np.array([f"1970-{month:02d}-01"], dtype="datetime64[us]")


def _check_anchor(freq: Frequency, first: Stamps, zone: str | None) -> None:
    """Raise OptionError where the first time is not on the weekday or month that the frequency names."""
    wall = to_wall(first, zone)
    if freq.weekday is not None and (found := int(weekdays(wall)[0])) != freq.weekday:
        raise OptionError(
            f"freq={freq.text!r} does not fit times that fall on a {WEEKDAYS[found]}, such as "
            f"{show(first[0], zone)}: give freq='W-{WEEKDAYS[found]}', or leave freq out to infer it"
        )
    if freq.month is None:
        return
    month = int(wall.astype("datetime64[M]").astype(np.int64)[0]) % 12
    starts = freq.ends and latest_day(wall) == 1  # a period that ends in March starts in January
    if (month - starts - (freq.month - 1)) % freq.cycle:
        raise OptionError(
            f"freq={freq.text!r} does not fit times that fall in {MONTH_NAMES[month]}, such as "
            f"{show(first[0], zone)}: give a frequency with that month, or leave freq out to infer it"
        )
