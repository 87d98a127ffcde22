"""The record of a run's options and data. It is stored in checkpoints, and checked when the run is resumed."""

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
    """The options and data that determine the result of a run, as texts, numbers, lists and dicts.

    Attributes:
        options: the options by name.
        data: ``rows`` and ``series``, the numbers of these; ``span``, the range of times as text;
            ``columns``, the digest of each column by name; ``grid``, the digest of times and series names.
    """

    options: dict[str, Any]
    data: dict[str, Any]


def digest(*parts: Any) -> str:
    """A short hash of texts and arrays. All NaNs count as equal, and 0.0 equals -0.0."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind == "f":
            part = np.where(np.isnan(part), np.nan, part + 0.0)
        if isinstance(part, np.ndarray) and part.dtype.hasobject:
            part = part.tolist()  # its memory has addresses
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype} {part.shape}".encode())
            found.update(np.ascontiguousarray(part).view(np.uint8).data)
        else:
            found.update(repr(part).encode())
    return found.hexdigest()[:32]


def python(value: Any) -> Any:
    """Numbers and arrays of NumPy and torch as Python types; any other value unchanged."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else value


def plain(value: Any) -> Any:
    """``value`` in the form that a record has: numbers of NumPy and torch as Python types, tuples as lists,
    and any other object as text."""
    value = python(value)
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def check_same(recorded: Any, now: Record, recipe: Any, folder: Path) -> None:
    """Checks that a run to resume had the same data, options and recipe.

    Args:
        recorded: the record in the checkpoint.
        now: the record of this run.
        recipe: the recipe of this run.
        folder: the run's folder, for messages.

    Raises:
        OptionError: data or options differ. The message says which.
        ModelFileError: ``recorded`` is not a record.
    """
    expected = asdict(now) | {"recipe": asdict(recipe)}
    if not (
        isinstance(recorded, Mapping)
        and recorded.keys() == expected.keys()
        and all(isinstance(part, Mapping) for part in recorded.values())
    ):
        raise ModelFileError(
            f"the checkpoint in {folder} has no record of its run's data and options: fit without --resume "
            f"(resume=False)"
        )
    differences = [
        *_options(recorded["options"], now.options),
        *_data(recorded["data"], now.data),
    ] or _options(recorded["recipe"], expected["recipe"])
    if differences:
        longer = any(name.startswith("steps ") for name in differences)
        raise OptionError(
            f"--resume (resume=True) needs the same data and options as the run in {folder}. "
            f"These differ: {'; '.join(differences)}. "
            + (
                "The learning-rate schedule depends on all steps, so more steps need a new run. "
                * longer
            )
            + "Give the same data and options, fit without --resume, or use another folder"
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
        return [f"the times or the series names of the data differ (both have {shown[1]})"]
    if columns[0].keys() != columns[1].keys():
        return [f"the columns were {', '.join(columns[0])}, and are {', '.join(columns[1])}"]
    differing = [name for name in columns[0] if columns[0][name] != columns[1][name]]
    return [f"the values of {', '.join(differing)} differ (both have {shown[1]})"]


_SIZES = ("rows", "series", "span")
