"""Time zones: IANA names and fixed offsets, conversion to and from wall-clock time, timestamps as text.

A zone is its IANA name (``America/New_York``), or ``UTC+05:30`` for a fixed offset.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewise.errors import need

Stamps = NDArray[Any]  # datetime64[us] or [ns]

_OFFSET = re.compile(r"(?:UTC|GMT)?([+-])(\d{2}):?(\d{2})(?::?(\d{2}))?")
_WHOLE_HOURS = range(
    -12, 15
)  # the offsets that have a name in the IANA database, Etc/GMT-14 to +12
_UTC_NAMES = ("UTC", "Z", "z", "")


def known(name: str) -> str | None:
    """The zone of that name or offset (``+01:00``, ``UTC+01:00``, ``+0100``); None for an unknown zone."""
    if name in _UTC_NAMES:
        return "UTC"
    if match := _OFFSET.fullmatch(name if ":" in name or len(name) > 3 else name + "00"):
        sign, hours, minutes, seconds = match.groups(default="0")
        span = dt.timedelta(hours=int(hours), minutes=int(minutes), seconds=int(seconds))
        return of_offset(span if sign == "+" else -span)
    return name if _in_database(name) else None


def of_offset(span: dt.timedelta) -> str | None:
    """The zone that is ``span`` ahead of UTC; None where the offset is not in whole seconds."""
    seconds = round(span.total_seconds())
    if span != dt.timedelta(seconds=seconds) or abs(seconds) >= 86400:
        return None
    if not seconds:
        return "UTC"
    minutes, rest = divmod(abs(seconds), 60)
    text = f"UTC{'-' if seconds < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"
    return text + (f":{rest:02d}" if rest else "")


def of_tzinfo(tz: dt.tzinfo) -> str | None:
    """The zone of a tzinfo object of zoneinfo, pytz, dateutil or datetime; None if unknown."""
    for attribute in ("key", "zone"):  # zoneinfo's, pytz's
        if isinstance(name := getattr(tz, attribute, None), str) and (zone := known(name)):
            return zone
    if isinstance(file := getattr(tz, "_filename", None), str):  # dateutil's
        parts = file.split("/")
        names = ("/".join(parts[k:]) for k in range(len(parts)))
        return next((zone for name in names if name and (zone := known(name))), None)
    span = tz.utcoffset(None)
    return None if span is None else of_offset(span)


def offset(zone: str) -> dt.timedelta | None:
    """The offset of a fixed-offset zone from UTC; None for a zone of the IANA database."""
    match = _OFFSET.fullmatch(zone) if zone.startswith("UTC") else None
    if match is None:
        return dt.timedelta(0) if zone == "UTC" else None
    sign, hours, minutes, seconds = match.groups(default="0")
    span = dt.timedelta(hours=int(hours), minutes=int(minutes), seconds=int(seconds))
    return span if sign == "+" else -span


def iana(zone: str) -> str | None:
    """The zone's name in the IANA database: ``Etc/GMT-1`` for UTC+01:00, None for UTC+05:30."""
    span = offset(zone)
    if span is None or zone == "UTC":
        return zone
    hours, rest = divmod(span, dt.timedelta(hours=1))
    return f"Etc/GMT{-hours:+d}" if not rest and hours in _WHOLE_HOURS else None


@functools.cache
def _in_database(name: str) -> bool:
    """Whether polars, which does the conversions, knows the zone."""
    need("polars", "tasks")
    import polars as pl

    try:
        pl.Series([0], dtype=pl.Datetime("us")).dt.replace_time_zone("UTC").dt.convert_time_zone(
            name
        )
    except pl.exceptions.PolarsError:
        return False
    return True


# ------------------------------------------------------------------------------ the wall clock


def to_wall(times: Stamps, zone: str | None) -> Stamps:
    """UTC timestamps as wall-clock times of the zone; unchanged without a zone."""
    if zone is None or zone == "UTC":
        return times
    if (span := offset(zone)) is not None:
        return np.asarray(times + np.timedelta64(int(span.total_seconds()), "s"))
    need("polars", "tasks")
    import polars as pl

    column = pl.Series(times.reshape(-1)).dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    return column.dt.replace_time_zone(None).to_numpy().reshape(times.shape)


def from_wall(stamps: Stamps, zone: str | None) -> Stamps:
    """Wall-clock times of the zone as UTC timestamps.

    A time that occurs twice is the earlier one. A time that the clocks skip is moved forward by the size of
    the skip."""
    if zone is None or zone == "UTC":
        return stamps
    if (span := offset(zone)) is not None:
        return np.asarray(stamps - np.timedelta64(int(span.total_seconds()), "s"))
    need("polars", "tasks")
    import polars as pl

    column = pl.Series(stamps.reshape(-1))
    there = column.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    found = there.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_numpy()
    skipped = np.isnat(found)
    if skipped.any():
        wall = stamps.reshape(-1)[skipped]
        before = wall - np.timedelta64(26, "h")  # UTC, on the day before in any zone
        found = found.copy()
        found[skipped] = wall - (to_wall(before, zone) - before)
    return found.reshape(stamps.shape)


def show(time: Any, zone: str | None = None) -> str:
    """A time as text for messages: an integer, or a timestamp without trailing zero parts."""
    if not isinstance(time, np.datetime64):
        return str(time)
    text = str(to_wall(np.array([time]), zone)[0]).replace("T", " ")
    text = re.sub(r"\.?0+$", "", text) if "." in text else text
    text = text.removesuffix(":00") if text.count(":") == 2 else text
    return text.removesuffix(" 00:00") + (f" {zone}" if zone else "")


def iso(times: Stamps, zone: str) -> list[str]:
    """UTC timestamps as ISO texts with the zone's fixed offset."""
    span = offset(zone)
    suffix = "+00:00" if zone == "UTC" or span is None else zone.removeprefix("UTC")
    return [f"{text}{suffix}" for text in np.datetime_as_string(to_wall(times, zone), unit="s")]
