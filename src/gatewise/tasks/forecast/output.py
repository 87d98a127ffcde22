"""The table of a forecast. Its series and time columns have the names and types of the history's columns."""

from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gatewise.data import zones
from gatewise.data.panel import Panel
from gatewise.data.table import Table, load
from gatewise.errors import OptionError, need

Array = np.ndarray


def quantile_name(level: float) -> str:
    """The column name of a quantile, such as ``q0.1`` for 0.1, with all digits of the level."""
    return f"q{float(level)!r}"


def check_names(panel: Panel, levels: Sequence[float]) -> None:
    """Raises OptionError if two columns of the forecast's table would have the same name."""
    ours = ["forecast", *map(quantile_name, levels)]
    ours += ["target"] if len(panel.targets) > 1 else []
    ours += ["step"] if panel.time is None else []
    theirs = [name for name in (panel.series, panel.time) if name is not None]
    again = [name for name, count in Counter([*ours, *theirs]).items() if count > 1]
    if again:
        role = "series" if again[0] == panel.series else "time"
        raise OptionError(
            f"the {role} column has the name {again[0]!r}, which a column of the forecast has too: rename it"
        )


def table(
    columns: Mapping[str, Any], like: Any, panel: Panel, time_format: str | None = None
) -> Any:
    """The columns as a table of the same library as ``like`` (polars for a path or a dict).

    Times are in the panel's time zone. The series and time columns have the names and types of ``like``."""
    need("polars", "tasks")
    nw: Any = need("narwhals", "tasks")
    history = (
        None
        if isinstance(like, (str, os.PathLike, Mapping))
        else load(like, time_format=time_format)
    )
    backend = "polars" if history is None else history.frame.implementation
    make = _MAKERS.get(str(getattr(backend, "name", backend)).lower(), _Polars)(history)
    zone = panel.timeline.zone
    made: dict[str, Any] = {}
    for name, values in columns.items():
        if name == panel.time:
            made[name] = make.times(name, np.asarray(values), zone)
        elif name == panel.series:
            made[name] = make.labels(name, np.asarray(values))
        else:
            made[name] = values
    frame = make.frame(made)
    return nw.from_native(frame, eager_only=True).to_native()


class _Polars:
    """Makes columns and frames of polars.

    Args:
        history: the table whose column types are used, or None.
    """

    def __init__(self, history: Table | None) -> None:
        self.history = history

    def _kind(self, name: str) -> Any:
        """The type of the history's column; None without a history."""
        return None if self.history is None else self.history.frame[name].to_native().dtype

    def frame(self, columns: dict[str, Any]) -> Any:
        import polars as pl

        return pl.DataFrame(columns)

    def times(self, name: str, values: Array, zone: str | None) -> Any:
        import polars as pl

        column, kind = pl.Series(name, values), self._kind(name)
        if zone is not None:
            if (named := zones.iana(zone)) is None:  # polars has no type for UTC+05:30
                return pl.Series(name, zones.iso(values, zone))
            column = column.dt.replace_time_zone("UTC").dt.convert_time_zone(named)
        if isinstance(kind, pl.Datetime) and kind.time_zone != getattr(
            column.dtype, "time_zone", 0
        ):
            return column  # the model has another time zone than this table
        stamps = column.dtype.is_temporal()
        if kind is None or not (kind.is_temporal() if stamps else kind.is_integer()):
            return column
        cast = column.cast(kind, strict=False)
        return cast if (cast.cast(column.dtype) == column).all() else column

    def labels(self, name: str, values: Array) -> Any:
        import polars as pl

        column, kind = pl.Series(name, values.tolist()), self._kind(name)
        return column if kind is None or kind == pl.Object else column.cast(kind)


class _Pandas(_Polars):
    def __init__(self, history: Table | None) -> None:
        super().__init__(history)
        assert history is not None
        self.native = history.frame.implementation.to_native_namespace()

    def frame(self, columns: dict[str, Any]) -> Any:
        frame = self.native.DataFrame(columns)
        assert self.history is not None
        names = [self.history.names.get(name, name) for name in columns]
        return frame if names == list(columns) else frame.set_axis(names, axis=1)

    def times(self, name: str, values: Array, zone: str | None) -> Any:
        column, kind = self.native.Series(values), self._kind(name)
        if zone is not None:
            tz: Any = zone
            if (span := zones.offset(zone)) is not None and zone != "UTC":
                tz = dt.timezone(span)
            theirs = getattr(kind, "tz", None)
            if theirs is not None and zones.of_tzinfo(theirs) == zone:
                tz = theirs
            column = column.dt.tz_localize("UTC").dt.tz_convert(tz)
        if str(kind).startswith("period"):
            periods = column.dt.to_period(kind.freq)
            return periods if (periods.dt.start_time == column).all() else column
        if kind == column.dtype or not _keeps_times(str(kind), zone, values.dtype.kind == "M"):
            return column
        cast = column.astype(kind)
        return cast if (cast.astype(column.dtype) == column).all() else column

    def labels(self, name: str, values: Array) -> Any:
        column, kind = self.native.Series(values), self._kind(name)
        return column if str(kind) == "object" else column.astype(kind)


def _keeps_times(kind: str, zone: str | None, stamps: bool) -> bool:
    """Whether a pandas column type can hold the times.

    Args:
        zone: the time zone of the times.
        stamps: whether the times are timestamps, and not integers.
    """
    if not stamps:
        return kind.lower().startswith(("int", "uint"))
    if not kind.startswith(("datetime64", "timestamp", "date32")):
        return False
    theirs = kind.partition(", ")[2].removeprefix("tz=").split("]")[0]
    return (zones.known(theirs) if theirs else None) == zone


class _Arrow(_Polars):
    def _kind(self, name: str) -> Any:
        assert self.history is not None
        return self.history.frame[name].to_native().type

    def frame(self, columns: dict[str, Any]) -> Any:
        import pyarrow as pa

        return pa.table(columns)

    def times(self, name: str, values: Array, zone: str | None) -> Any:
        import pyarrow as pa

        column, kind = pa.array(values), self._kind(name)
        if zone is not None:
            tz = zone.removeprefix("UTC") or zone
            column = column.cast(pa.timestamp(column.type.unit, tz=tz))
        theirs = getattr(kind, "tz", None)
        fits = pa.types.is_temporal if values.dtype.kind == "M" else pa.types.is_integer
        if (zones.known(theirs) if theirs else None) != zone or not fits(kind):
            return column
        cast = column.cast(kind, safe=False)
        return cast if cast.cast(column.type, safe=False).equals(column) else column

    def labels(self, name: str, values: Array) -> Any:
        import pyarrow as pa

        return pa.array(values).cast(self._kind(name))


_MAKERS: dict[str, type[_Polars]] = {
    "polars": _Polars,
    "pandas": _Pandas,
    "modin": _Pandas,
    "cudf": _Pandas,
    "pyarrow": _Arrow,
}
