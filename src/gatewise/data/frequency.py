"""Frequencies: gatewise's names, pandas' names and offsets, and time deltas."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from gatewise.errors import OptionError, near

FIXED_NS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
    "D": 86_400_000_000_000,
    "W": 604_800_000_000_000,
}
MONTHS = {"M": 1, "Q": 3, "Y": 12}
WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MONTH_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

_RULES = ("", "S", "E", "BS", "BE")  # of M, Q, Y: any day, first, last, first and last working day
_MONTHLY = {
    f"{rule[:-1]}{unit}{rule[-1:]}": (unit, rule) for unit in MONTHS for rule in _RULES
}  # M, MS, ME, BMS, BME, Q, …
_ALIASES = {
    **{"H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns", "d": "D", "w": "W"},
    **{"b": "B", "BH": "bh", "A": "Y", "AS": "YS", "AE": "YE", "q": "Q", "y": "Y", "mo": "M"},
    **{"BM": "BME", "BQ": "BQE", "BA": "BYE", "BY": "BYE", "BAS": "BYS"},
}
_ACCEPTED = (
    "s, min, h, D, B (Monday to Friday), W, M, MS, ME, BMS, BME, Q, QS, QE, Y, YS, YE, ms, us, ns"
)
_LONGEST_NS = 100 * 366 * FIXED_NS["D"]
_LONGEST_MONTHS = 100 * 12
_DELTA_UNITS = ("weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds")


@dataclass(frozen=True)
class Frequency:
    """A parsed frequency.

    Attributes:
        text: the frequency as text.
        unit: "" for integers, "ns", "B" (working days), "bh" (their hours) or "M" (months).
        count: the number of units in a step.
        rule: of months: "" (the day that the times have), a day from "1" to "31", "BS", "BE" (first,
            last working day), "WOM-3FRI" (third Friday) or "LWOM-FRI" (last).
        weekday: the day (Monday is 0) that the times must fall on, or None.
        month: the month (January is 1) that a quarter or year must fall in, or None.
        cycle: the number of months after which ``month`` repeats: 3 for quarters, 12 for years.
        ends: whether ``month`` is the last month of the period even where the times are its start.
    """

    text: str
    unit: str
    count: int
    rule: str = ""
    weekday: int | None = None
    month: int | None = None
    cycle: int = 12
    ends: bool = False


def spelled(freq: Any) -> str:
    """A frequency as text, from a text, an offset of pandas, a time delta of pandas, numpy or datetime, or an
    integer.

    Raises:
        OptionError: the frequency is of another type.
    """
    if isinstance(freq, np.ndarray) and freq.ndim == 0:
        freq = freq[()]
    if isinstance(freq, str):
        return str(freq)
    if isinstance(freq, Integral) and not isinstance(freq, (bool, np.bool_, np.timedelta64)):
        return str(int(freq))
    if isinstance(freq, dt.timedelta) and hasattr(freq, "to_timedelta64"):  # pandas', to the ns
        freq = freq.to_timedelta64()
    if isinstance(freq, dt.timedelta):
        return _of_nanoseconds(freq, freq // dt.timedelta(microseconds=1) * 1000)
    if isinstance(freq, np.timedelta64):
        return _of_timedelta64(freq)
    if isinstance(name := getattr(freq, "freqstr", None), str):
        return _of_kwds(freq) if name.startswith("<") else name
    raise OptionError(
        f"freq={freq!r} is not a frequency: give a text such as '15min', a pandas offset or a timedelta"
    )


def _of_timedelta64(freq: np.timedelta64) -> str:
    unit, size = np.datetime_data(freq.dtype)
    count = freq.astype(np.int64) * size
    if unit == "generic" or np.isnat(freq):
        raise OptionError(f"freq={freq!r} has no unit: give np.timedelta64(1, 'h'), or '1h'")
    if unit in ("Y", "M"):
        return f"{count}{unit}"
    return _of_nanoseconds(freq, int(count) * _NUMPY_NS[unit])


_NUMPY_NS = {**FIXED_NS, "m": FIXED_NS["min"]}


def _of_kwds(freq: Any) -> str:
    """``pandas.DateOffset(months=3)`` and the like."""
    given = dict(getattr(freq, "kwds", {}))
    count = int(getattr(freq, "n", 1))
    months = 12 * given.pop("years", 0) + given.pop("months", 0)
    if months and not given:
        return f"{months * count}M"
    if given and not months and set(given) <= set(_DELTA_UNITS):
        span = dt.timedelta(**given) * count
        return _of_nanoseconds(freq, span // dt.timedelta(microseconds=1) * 1000)
    raise OptionError(_no_frequency(repr(freq)))


def _of_nanoseconds(freq: Any, nanoseconds: int) -> str:
    if nanoseconds < 1:
        raise OptionError(f"freq={freq!r} must be a positive time step")
    unit = next(name for name in reversed(FIXED_NS) if nanoseconds % FIXED_NS[name] == 0)
    return f"{nanoseconds // FIXED_NS[unit]}{unit}"


def read(freq: Any) -> Frequency:
    """The parsed frequency ``freq``.

    Raises:
        OptionError: ``freq`` is not a frequency. The message lists the frequencies.
    """
    text = spelled(freq)
    whole = text.strip()
    if re.fullmatch(r"(\d+[a-zA-Z]+){2,}", whole):  # 1h30min
        return _summed(text, whole)
    match = re.fullmatch(r"(\d{0,18})([A-Za-z]*)(?:-(\w+))?", whole) if whole else None
    if match is None:
        raise OptionError(_no_frequency(text))
    count, unit, anchor = int(match[1] or 1), _ALIASES.get(match[2], match[2]), match[3]
    found = _parsed(text, count, unit, anchor) if count else None
    if found is None or (not unit and not match[1]):
        raise OptionError(_no_frequency(text, unit))
    limit = {"ns": _LONGEST_NS, "M": _LONGEST_MONTHS, "B": 100 * 261}.get(found.unit, 2**62)
    if found.count > limit:
        raise OptionError(f"freq={text!r} is too long: give a step of at most 100 years")
    return found


def _parsed(text: str, count: int, unit: str, anchor: str | None) -> Frequency | None:
    if unit == "W" and anchor is not None:
        if anchor.upper() not in WEEKDAYS:
            return None
        weekday = WEEKDAYS.index(anchor.upper())
        return Frequency(text, "ns", count * FIXED_NS["W"], weekday=weekday)
    if unit in _MONTHLY:
        return _months(text, count, *_MONTHLY[unit], anchor)
    if unit in ("WOM", "LWOM"):
        shape = r"[1-4](%s)" if unit == "WOM" else "(%s)"
        day = re.fullmatch(shape % "|".join(WEEKDAYS), anchor or "")
        return Frequency(text, "M", count, f"{unit}-{anchor}") if day else None
    if anchor is not None or (unit == "bh" and count > 1):
        return None
    if unit in FIXED_NS:
        return Frequency(text, "ns", count * FIXED_NS[unit])
    return Frequency(text, unit, count) if unit in ("", "B", "bh") else None


def _months(text: str, count: int, unit: str, rule: str, anchor: str | None) -> Frequency | None:
    months = count * MONTHS[unit]
    rule = {"S": "1", "E": "31"}.get(rule, rule)
    if anchor is None:
        return Frequency(text, "M", months, rule)
    if anchor.upper() in MONTH_NAMES and unit != "M":
        month = MONTH_NAMES.index(anchor.upper()) + 1
        cycle = MONTHS[unit]
        return Frequency(text, "M", months, rule, month=month, cycle=cycle, ends=rule == "")
    if rule or not anchor.isdecimal() or not 1 <= int(anchor) <= 31:
        return None
    return Frequency(text, "M", months, str(int(anchor)))


def _summed(text: str, whole: str) -> Frequency:
    total = 0
    for count, unit in re.findall(r"(\d+)([a-zA-Z]+)", whole):
        length = FIXED_NS.get(_ALIASES.get(unit, unit))
        if length is None or len(count) > 18:
            raise OptionError(_no_frequency(text, unit))
        total += int(count) * length
    if not 0 < total <= _LONGEST_NS:
        raise OptionError(_no_frequency(text))
    return Frequency(text, "ns", total)


def _no_frequency(freq: str, unit: str = "") -> str:
    hint = near(unit, [*FIXED_NS, "B", "bh", *_MONTHLY]) if unit else ""
    return (
        f"freq={freq!r} is not a frequency{hint}: give a number and one of {_ACCEPTED}, such as 15min, "
        f"or a pandas name such as W-SUN, QE-DEC, BYE or WOM-3FRI"
    )
