"""What a run learns from: its data and its options, kept in its checkpoints for the day it is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gatewise.errors import ModelFileError, OptionError


@dataclass(frozen=True)
class Record:
    """All that decides what a run learns, as texts, numbers, and lists and dicts of these.

    Attributes:
        options: those given, by name.
        data: how many ``rows`` and ``series``, the ``span`` of their times, a ``digest`` of each of the
            ``columns`` by name, and one of the ``grid``: times, and names of the series.
    """

    options: dict[str, Any]
    data: dict[str, Any]


def digest(*parts: Any) -> str:
    """A short hash of texts and arrays, equal where all values are: whatever bits NaN and 0 have."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind == "f":
            part = np.where(np.isnan(part), np.nan, part + 0.0)
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype} {part.shape}".encode())
            found.update(np.ascontiguousarray(part).view(np.uint8).data)
        else:
            found.update(repr(part).encode())
    return found.hexdigest()[:32]


def python(value: Any) -> Any:
    """The numbers and arrays of NumPy and torch as Python's; anything else as it is."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else value


def plain(value: Any) -> Any:
    """``value`` as a checkpoint can hold it and compares it: NumPy's and torch's numbers as Python's,
    tuples as lists, and what is neither number nor text as text."""
    value = python(value)
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def check_same(recorded: Any, now: Record, recipe: Any, folder: Path) -> None:
    """Raise OptionError where the run in ``folder``, which recorded ``recorded``, was of other data or
    options; the sentence says which.

    Raises:
        ModelFileError: that is no record.
    """
    expected = asdict(now) | {"recipe": asdict(recipe)}
    if not (
        isinstance(recorded, Mapping)
        and recorded.keys() == expected.keys()
        and all(isinstance(part, Mapping) for part in recorded.values())
    ):
        raise ModelFileError(
            f"the checkpoint in {folder} does not say what data and options its run had: fit without "
            f"--resume (resume=False)"
        )
    told = [
        *_options(recorded["options"], now.options),
        *_data(recorded["data"], now.data),
    ] or _options(recorded["recipe"], expected["recipe"])
    if told:
        longer = any(name.startswith("steps ") for name in told)
        raise OptionError(
            f"--resume (resume=True) goes on with the same data and options, and the run in {folder} had "
            f"others: {'; '.join(told)}. "
            + ("The learning rate's course spans all steps, so more steps are a new run. " * longer)
            + "Give it what it had, or fit without --resume, or into another folder"
        )


def _options(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [*now, *(name for name in then if name not in now)]
    return [
        f"{name} was {then.get(name)!r} and is {now.get(name)!r}"
        for name in names
        if then.get(name) != now.get(name)
    ]


def _data(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if then == now:
        return []
    shown = [
        "{rows} rows of {series} series, {span}".format_map({**dict.fromkeys(_SIZES, "?"), **data})
        for data in (then, now)
    ]
    if shown[0] != shown[1]:
        return [f"the data were {shown[0]}, and are {shown[1]}"]
    columns = [data.get("columns", {}) for data in (then, now)]
    if columns[0] == columns[1]:
        return [f"the data's times or the names of its series differ ({shown[1]} then and now)"]
    if columns[0].keys() != columns[1].keys():
        return [f"the columns were {', '.join(columns[0])}, and are {', '.join(columns[1])}"]
    differing = [name for name in columns[0] if columns[0][name] != columns[1][name]]
    return [f"the values of {', '.join(differing)} differ ({shown[1]} then and now)"]


_SIZES = ("rows", "series", "span")
