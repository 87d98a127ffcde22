"""A column of times of any type, as integers or as timestamps in UTC with their zone."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gatewise.data import zones
from gatewise.data.steps import month_lengths
from gatewise.errors import DataError, OptionError

if TYPE_CHECKING:
    import narwhals as nw
    import polars as pl

_DATES = ("%Y-%m-%d", "%Y-%m", "%Y/%m/%d")
_CLOCKS = ("%H:%M:%S%.f", "%H:%M")
_NAIVE = _DATES + tuple(f"%Y-%m-%d{gap}{clock}" for gap in "T " for clock in _CLOCKS)
_AWARE = tuple(f"{form}{space}%#z" for form in _NAIVE[len(_DATES) :] for space in ("", " "))
_OFFSET_AT_END = r"(Z|[+-]\d{2}:?\d{2}|[+-]\d{2})$"

# How dates are written as integers, by their number of digits; None where strptime has no format.
_DIGITS = {
    **{6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"},
    **{5: "a year and a quarter", 7: "%Y%j"},
}
_YEARS = range(1800, 2200)
_LARGEST = 2**61  # of an integer that is a time, so that differences and later steps fit 64 bits
_EXACT = 2**53  # the largest float below which all integers are exact
_FIRST, _LAST = np.datetime64("0001-01-02", "D"), np.datetime64("9999-12-30", "D")
_YEAR_OF_FORMAT = ("%Y", "%y", "%G", "%c", "%x", "%F", "%D", "%s", "%C")


@dataclass(frozen=True)
class Times:
    """A time column as numbers.

    Attributes:
        values: int64 step numbers, or datetime64[us] or [ns]; UTC where there is a zone.
        zone: the time zone of the column (an IANA name, or UTC+01:00); None for timestamps without one.
        mixed: the first UTC offsets of the column's texts if they have several; the zone is UTC then. Else
            empty.
    """

    values: NDArray[Any]
    zone: str | None = None
    mixed: tuple[str, ...] = ()


class BadTimeError(DataError):
    """A value is not a time. ``index`` is its index, or None if the column's type is wrong."""

    def __init__(self, index: int | np.integer[Any] | None, message: str) -> None:
        super().__init__(message)
        self.index = index


def read(series: nw.Series[Any], time_format: str | None, plain: bool) -> Times:
    """The times of a column without missing values; see ``gatewise.data.table.times``.

    Raises:
        BadTimeError: a value is not a time.
        OptionError: ``time_format`` is not a format.
    """
    import narwhals as nw

    kind, native = series.dtype, series.to_native()
    if (tz := getattr(getattr(native, "dtype", None), "tz", None)) is not None:
        return _of_zoned_pandas(native, tz)  # of which narwhals knows some zones only
    if str(getattr(native, "dtype", "")).startswith("period"):  # of pandas
        return Times(_to_stamps(native.dt.start_time.to_numpy()))
    if isinstance(kind, nw.Datetime):
        if kind.time_zone is None:
            return Times(_to_stamps(series.to_numpy()))
        if (zone := zones.known(kind.time_zone)) is None:
            raise _unknown_zone(kind.time_zone)
        utc = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return Times(_to_stamps(utc.to_numpy()), zone)
    if kind == nw.Date:
        return Times(_to_stamps(series.to_numpy()))
    if kind.is_numeric():
        values = _to_integers(series)
        if time_format is None:
            if not plain:
                _check_no_dates(values)
            return Times(values)
        width = _width(time_format)  # an integer has lost the zero before 1022024
        return _parse([str(value).zfill(width) for value in values.tolist()], time_format)
    if kind not in (nw.String, nw.Categorical, nw.Enum, nw.Object, nw.Unknown):
        raise BadTimeError(
            None, f"holds {type_of(series)}; times must be timestamps, integers or texts"
        )
    if kind in (nw.Object, nw.Unknown):
        return _of_objects(series.to_list(), time_format, plain)
    return _parse(texts_of(series), time_format)


def type_of(series: nw.Series[Any]) -> str:
    """A column's type for messages: narwhals' name, else the name of its own library."""
    native: Any = series.to_native()
    if str(series.dtype) != "Unknown":
        return str(series.dtype)
    return str(getattr(native, "type", native.dtype if hasattr(native, "dtype") else "Unknown"))


# ------------------------------------------------------------------------------ stamps


def _to_stamps(values: NDArray[Any]) -> NDArray[np.datetime64]:
    if values.dtype.kind != "M":  # an object array of dates
        values = values.astype("datetime64[us]")
    if np.datetime_data(values.dtype)[0] == "ns":
        return values
    days = values.astype("datetime64[D]")
    outside = (days < _FIRST) | (days > _LAST)
    if outside.any():
        index = int(outside.argmax())
        raise BadTimeError(index, f"{values[index]} is outside the years 1 to 9999")
    return values.astype("datetime64[us]", copy=False)


def _of_zoned_pandas(native: Any, tz: dt.tzinfo) -> Times:
    utc = _to_stamps(native.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy())
    wall = _to_stamps(native.dt.tz_localize(None).to_numpy())
    zone = zones.of_tzinfo(tz)
    if zone is None and (constant := _one_offset(tz, wall)) is not None:
        zone = zones.of_offset(constant)
    if zone is None or (zones.to_wall(utc, zone) != wall).any():
        raise _unknown_zone(tz)
    return Times(utc, zone)


def _unknown_zone(zone: object) -> BadTimeError:
    return BadTimeError(
        None,
        f"has the time zone {zone!r}, which is not in the IANA database: convert the column to a zone of "
        "that database, for example with pandas' .dt.tz_convert('Europe/Berlin')",
    )


def _one_offset(tz: dt.tzinfo, wall: NDArray[Any]) -> dt.timedelta | None:
    """The offset of an unnamed zone, if it is the same in every month of the data and for two years more."""
    first, last = (int(str(day)[:4]) for day in (wall.min(), wall.max()))
    offsets = {
        tz.utcoffset(dt.datetime(year, month, 1))
        for year in range(first, min(last + 3, 9999))
        for month in range(1, 13)
    }
    return offsets.pop() if len(offsets) == 1 else None


def _of_objects(values: Sequence[Any], time_format: str | None, plain: bool) -> Times:
    """The times in an object column: datetimes, dates, numbers, Timestamps of pandas, and texts."""
    aware = [getattr(value, "tzinfo", None) is not None for value in values]
    stamps = [isinstance(value, dt.datetime) for value in values]
    if all(stamps) and any(aware):
        if not all(aware):
            index = aware.index(not aware[0])
            raise BadTimeError(
                index,
                f"{values[index]} has {'a' if aware[index] else 'no'} time zone, unlike the times before it; "
                f"give all times or none a time zone",
            )
        utc = [value.astimezone(dt.UTC).replace(tzinfo=None) for value in values]
        return _zoned(_to_stamps(np.array([_to_datetime64(stamp) for stamp in utc])), values)
    if all(stamps):
        return Times(_to_stamps(np.array([_to_datetime64(value) for value in values])))
    if all(isinstance(value, dt.date) and not at for value, at in zip(values, stamps, strict=True)):
        return Times(_to_stamps(np.array(values, dtype="datetime64[D]")))
    if all(isinstance(value, np.datetime64) for value in values):
        return Times(_to_stamps(np.array(values)))
    if all(hasattr(value, "start_time") for value in values):  # periods
        return Times(_to_stamps(np.array([_to_datetime64(v.start_time) for v in values])))
    if not any(isinstance(value, (str, bytes, bool, np.bool_)) for value in values):
        import narwhals as nw
        import polars as pl

        try:
            numbers = pl.Series([float(value) for value in values])
            if all(float(value) == value for value in values):
                return read(nw.from_native(numbers, series_only=True), time_format, plain)
        except (TypeError, ValueError, OverflowError):
            pass  # something else than numbers: as the texts that they show
    return _parse([_text(value) for value in values], time_format)


def _to_datetime64(value: dt.datetime) -> np.datetime64:
    """The value as datetime64, in nanoseconds where it is a Timestamp of pandas that has them."""
    if getattr(value, "nanosecond", 0):
        found: np.datetime64 = value.to_datetime64()  # type: ignore[attr-defined]
        return found.astype("datetime64[ns]")
    return np.datetime64(value.replace(tzinfo=None).isoformat(), "us")


def _zoned(utc: NDArray[Any], values: Sequence[dt.datetime]) -> Times:
    """The times of aware datetimes: in their common zone, else in their common offset, else in UTC."""
    names = {zones.of_tzinfo(tz) for tz in {id(v.tzinfo): v.tzinfo for v in values}.values() if tz}
    if len(names) == 1 and (name := names.pop()) is not None:
        return Times(utc, name)
    return _in_offsets(utc, {_offset_of(value) for value in values})


def _offset_of(value: dt.datetime) -> str:
    return zones.of_offset(value.utcoffset() or dt.timedelta(0)) or "UTC"


def _in_offsets(utc: NDArray[Any], offsets: set[str]) -> Times:
    if len(offsets) == 1:
        return Times(utc, offsets.pop())
    return Times(utc, "UTC", mixed=tuple(sorted(offsets)[:2]))


# ------------------------------------------------------------------------------ integers


def _to_integers(series: nw.Series[Any]) -> NDArray[np.int64]:
    wide = "128" in str(series.dtype)  # which numpy has no type for
    values = np.array(series.to_list(), object) if wide else series.to_numpy()
    if values.dtype.kind == "O":  # decimals, and integers of pandas or arrow that may be missing
        values = _from_decimals(values)
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            broken = ~((values == np.floor(values)) & (np.abs(values) <= _EXACT))
        if broken.any():
            index = broken.argmax()
            raise BadTimeError(
                index, f"{values[index]} is not a time; times must be timestamps or integers"
            )
        return values.astype(np.int64)
    outside = values > _LARGEST
    if values.dtype.kind == "i":
        outside |= values < -_LARGEST
    if outside.any():
        index = outside.argmax()
        raise BadTimeError(
            index, f"{values[index]} is too large for a time; integers must be at most 2**61"
        )
    return values.astype(np.int64, copy=False)


def _from_decimals(values: NDArray[Any]) -> NDArray[Any]:
    for index, value in enumerate(values):
        if value != int(value) or abs(value) > _LARGEST:
            raise BadTimeError(
                index, f"{value} is not a time; times must be timestamps or integers"
            )
    return np.array([int(value) for value in values], dtype=np.int64)


def _check_no_dates(values: NDArray[np.int64]) -> None:
    """Raises BadTimeError where integers look like dates, because counting on would give a month 13."""
    if (form := _date_format(values) or _leaping_format(values)) is None:
        return
    shown = (
        f"{values[0]} reads as {_DIGITS[5]}"
        if form == _DIGITS[5]
        else f"{values[0]} reads as a date"
    )
    if form == "a year and a week":
        shown = f"{values[0]} reads as {form}"
    advice = (
        f"give time_format={form!r} (--time-format {form})"
        if form.startswith("%")
        else "give dates, such as the first day of each period"
    )
    raise BadTimeError(0, f"{shown}: {advice}, or freq='1' if they are plain integers")


def _date_format(values: NDArray[np.int64]) -> str | None:
    """The date format of the numbers, if all of them are dates; else None."""
    digits = len(str(abs(int(values[0]))))
    low, high = 10 ** (digits - 1), 10**digits
    if digits not in _DIGITS or not ((values >= low) & (values < high)).all():
        return None
    years, rest = np.divmod(values, 10 ** (digits - 4))
    if not ((years >= _YEARS.start) & (years < _YEARS.stop)).all():
        return None
    # integers in a row would leave the calendar at a year's end
    several = bool((years != years[0]).any())
    if digits == 5:
        return _DIGITS[5] if several and ((rest >= 1) & (rest <= 4)).all() else None
    if digits == 7:
        return _DIGITS[7] if ((rest >= 1) & (rest <= 366)).all() else None
    if digits == 6 and rest.max() > 12:
        return "a year and a week" if several and ((rest >= 1) & (rest <= 53)).all() else None
    months = rest // 10 ** (digits - 6)
    if not ((months >= 1) & (months <= 12)).all():
        return None
    if digits >= 8:
        lengths = month_lengths(((years - 1970) * 12 + months - 1).view("datetime64[M]"))
        days = rest // 10 ** (digits - 8) % 100
        if not ((days >= 1) & (days <= lengths)).all():
            return None
    for position, limit in ((10, 24), (12, 60), (14, 60)):
        if digits >= position and (rest // 10 ** (digits - position) % 100 >= limit).any():
            return None
    return _DIGITS[digits]


def _leaping_format(values: NDArray[np.int64]) -> str | None:
    """A date format with a two-digit year or with the year last, if it makes the steps more even.

    Read as integers, such dates jump at the ends of months and years."""
    numbers = np.unique(values)
    if len(numbers) < 3 or numbers[0] < 1:
        return None
    own = _evenness(np.diff(numbers))
    for form, width in _LEAPING.items():
        if len(str(numbers[-1])) not in (width, width - 1):
            continue
        try:
            dates = [dt.datetime.strptime(str(n).zfill(width), form) for n in numbers.tolist()]
        except ValueError:
            continue
        found = np.sort(np.array(dates, "datetime64[D]"))
        months = found.astype("datetime64[M]")
        steps = [np.diff(found).astype(np.int64)]
        if len(set(found - months.astype("datetime64[D]"))) == 1:  # all on one day of the month
            steps.append(np.diff(months).astype(np.int64))
        if max(map(_evenness, steps)) > own:
            return form
    return None


_LEAPING = {"%y%m": 4, "%y%m%d": 6, "%d%m%y": 6, "%m%d%y": 6, "%d%m%Y": 8, "%m%d%Y": 8}


def _evenness(steps: NDArray[np.int64]) -> float:
    """The share of the most common step."""
    return float(np.unique(steps, return_counts=True)[1].max() / len(steps))


def _width(form: str) -> int:
    """The number of digits of a format with digits only; 0 for other formats."""
    parts = re.findall(r"%(.)", form)
    if "".join(f"%{part}" for part in parts) != form or not set(parts) <= _WIDTHS.keys():
        return 0
    return sum(_WIDTHS[part] for part in parts)


_WIDTHS = {"Y": 4, "j": 3, **dict.fromkeys("ymdHMS", 2)}


# ------------------------------------------------------------------------------ texts


def texts_of(series: nw.Series[Any]) -> pl.Series:
    """A column's values as texts, with null for missing values. Bytes are read as UTF-8."""
    import narwhals as nw
    import polars as pl

    native: Any = series.to_native()
    if isinstance(native, pl.Series) and series.dtype not in (nw.Object, nw.Binary):
        return native.cast(pl.String)
    if series.dtype == nw.String:
        return pl.Series(series.to_list(), dtype=pl.String, strict=False)
    values = zip(series.is_null().to_list(), series.to_list(), strict=True)
    texts = [None if gone else _text(value) for gone, value in values]
    return pl.Series(texts, dtype=pl.String)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _parse(given: pl.Series | list[str], time_format: str | None) -> Times:
    import polars as pl

    texts = (
        given if isinstance(given, pl.Series) else pl.Series(given, dtype=pl.String)
    ).str.strip_chars()
    if time_format is not None:
        return _by_format(texts, time_format)
    aware = any(_tried(texts[:1], form).item() is not None for form in _AWARE)
    forms = list(_AWARE if aware else _NAIVE)
    # All rows most likely have the format of the first row.
    forms.sort(key=lambda form: _tried(texts[:1], form).item() is None)
    values = _nothing(len(texts))
    for form in forms:
        values = values.zip_with(values.is_not_null(), _tried(texts, form))
        if not values.null_count():
            break
    _check_parsed(texts, values, None)
    if not aware:
        return Times(values.to_numpy())
    found = texts.str.extract(_OFFSET_AT_END).unique().to_list()
    return _in_offsets(values.to_numpy(), {zones.known(text or "Z") or "UTC" for text in found})


def _nothing(count: int) -> pl.Series:
    import polars as pl

    return pl.Series(dtype=pl.Datetime("us")).extend_constant(None, count)


def _tried(texts: pl.Series, form: str) -> pl.Series:
    import polars as pl

    zone = "UTC" if form.endswith("z") else None
    values = texts.str.to_datetime(form, strict=False, time_unit="us", time_zone=zone)
    return values.dt.replace_time_zone(None) if isinstance(values.dtype, pl.Datetime) else values


def check_format(form: Any) -> None:
    """Raises OptionError where ``form`` is not text, or does not determine a date."""
    if not isinstance(form, str) or not any(year in form for year in _YEAR_OF_FORMAT):
        raise OptionError(f"time_format={form!r} is not a date format: it needs a year, such as %Y")
    if "%Z" in form:
        raise OptionError(
            f"time_format={form!r}: names of time zones (%Z) are ambiguous; give offsets and %z"
        )


def _by_format(texts: pl.Series, form: str) -> Times:
    """The times in this format, read by polars, and by Python's strptime where polars cannot."""
    check_format(form)
    values, offsets = _nothing(len(texts)), set[str]()
    if "%z" not in form:
        values = _by_polars(texts, form)
    if values.null_count():
        unique = texts.filter(values.is_null()).unique()
        stamps, offsets = _by_python(unique.to_list(), form)
        found = texts.replace_strict(unique, stamps, default=None, return_dtype=stamps.dtype)
        values = values.zip_with(values.is_not_null(), found)
    _check_parsed(texts, values, form)
    return _in_offsets(values.to_numpy(), offsets) if offsets else Times(values.to_numpy())


def _by_polars(texts: pl.Series, form: str) -> pl.Series:
    import polars as pl

    try:
        found = _tried(texts, form.replace(".%f", "%.f"))  # polars reads %f as nanoseconds
    except pl.exceptions.PolarsError:
        found = _nothing(len(texts))
    if found.null_count() == len(found) and not _known_to_python(form):
        raise OptionError(f"time_format={form!r} is not a format of datetime.strptime")
    return found


def _known_to_python(form: str) -> bool:
    try:
        dt.datetime.strptime("", form)
    except (ValueError, IndexError, re.error) as error:
        return "does not match" in str(error)
    return True


def _by_python(texts: list[str], form: str) -> tuple[pl.Series, set[str]]:
    """Timestamps in UTC, null for a text that does not fit the format, and the texts' offsets."""
    import polars as pl

    known = _known_to_python(form)
    if not known and "%z" in form:
        raise OptionError(f"time_format={form!r} is not a format of datetime.strptime")
    stamps: list[dt.datetime | None] = []
    offsets = set()
    for text in texts:
        try:
            stamp = dt.datetime.strptime(text, form) if known else None
            if stamp is not None and stamp.tzinfo is not None:
                offsets.add(_offset_of(stamp))
                stamp = stamp.astimezone(dt.UTC).replace(tzinfo=None)
        except (ValueError, OverflowError):
            stamp = None
        stamps.append(stamp)
    return pl.Series(stamps, dtype=pl.Datetime("us")), offsets


def _check_parsed(texts: pl.Series, values: pl.Series, form: str | None) -> None:
    import polars as pl

    bad = values.is_null() | (values.dt.year() < 1000)  # 20-01-31 is not the year 20
    if not bad.any():
        return
    index = bad.arg_max() or 0
    text = texts[index]
    if form is not None:
        wanted = f"does not follow time_format={form!r}"
    else:
        digits = texts.cast(pl.Int64, strict=False)
        spelled = None if digits.null_count() else _date_format(digits.to_numpy())
        known = spelled if spelled and spelled.startswith("%") else "%d/%m/%Y"
        wanted = (
            "is not a time: write 2024-01-31 or 2024-01-31 17:30, or give time_format= (--time-format), "
            f"such as {known!r}"
        )
    raise BadTimeError(index, f"{clip(text)} {wanted}")


def clip(text: str, longest: int = 40) -> str:
    """A text in quotes for messages; a long text is shortened."""
    return repr(text if len(text) <= longest else text[:longest] + "…")
