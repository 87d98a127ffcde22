"""Kinds of options that tasks share: columns, cells, parts of the data, devices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch

from gatewise.arguments import Kind, integer, path
from gatewise.cells.language import Cell, from_signature
from gatewise.data.table import name_of, names_of
from gatewise.errors import ModelFileError, OptionError
from gatewise.nn.checks import checked_cell
from gatewise.options import real, shown, whole
from gatewise.tasks import described

# --------------------------------------------------------------------------------------- columns


def column_name(name: str, value: Any) -> str:
    """The text that a column is known by."""
    if value is None or isinstance(value, (dict, set, list)):
        raise OptionError(f"{name} must be the name of a column, not {shown(value)}")
    return name_of(value)


def column_names(name: str, value: Any) -> tuple[str, ...]:
    """The texts that one column or several are known by."""
    nothing = value is None or isinstance(value, (dict, set))
    if not nothing and not (isinstance(value, (list, tuple)) and None in value):
        return names_of(value)
    raise OptionError(f"{name} must be the name of a column or a list of names, not {value!r}")


def _saved_column(value: Any) -> str | None:
    return None if value is None else name_of(value)


def _restored_columns(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise described.wrong(name, "a text or a list of texts", value)
    return tuple(described.listed(described.text)(name, value))


Column = Annotated[
    str,
    Kind(
        column_name,
        expected="a column",
        metavar="COLUMN",
        save=_saved_column,
        restore=described.maybe(described.text),
    ),
]
Columns = Annotated[
    Any,  # a name, or a list or tuple of names
    Kind(
        column_names,
        expected="a column",
        metavar="COLUMN",
        many="append",
        save=lambda value: None if value is None else list(names_of(value)),
        restore=described.maybe(_restored_columns),
    ),
]

# ------------------------------------------------------------------------------------------ cells


def _cell(name: str, value: Any) -> Any:
    checked_cell(value)
    return value


def _saved_cell(value: Any) -> Any:
    return {"name": value.name, "signature": value.signature} if isinstance(value, Cell) else value


def _restored_cell(name: str, value: Any) -> str | Cell:
    if isinstance(value, str):
        return value
    parts = described.record({"name": described.text, "signature": described.text})(name, value)
    try:
        return from_signature(parts["name"], parts["signature"])
    except RecursionError as error:
        raise ModelFileError(f"{name} rests on too many steps, one on the other") from error


AnyCell = Annotated[
    Cell | str,
    Kind(_cell, expected="a cell", metavar="CELL", save=_saved_cell, restore=_restored_cell),
]

# ---------------------------------------------------------------------------------- class weights


def _class_weight_of(text: str) -> str | dict[str, float]:
    if text == "balanced":
        return text
    pairs = [part.rpartition("=") for part in text.split(",")]
    if not all(label for label, _, _ in pairs):
        raise ValueError
    return {label: float(weight) for label, _, weight in pairs}


def _class_weight(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        for label, weight in value.items():
            real(f"{name} of {label!r}", weight, "a weight from 0 on", least=0)
    return value


def _saved_class_weight(value: Any) -> Any:
    return [list(pair) for pair in value.items()] if isinstance(value, Mapping) else value


def _restored_class_weight(name: str, value: Any) -> str | dict[Any, float] | None:
    if value is None or value == "balanced":
        return value
    weight = partial(real, expected="a weight from 0 on", least=0)
    pairs = described.listed(described.listed(described.label, 2))(name, value)
    return {each: weight(f"{name}[{each!r}]", given) for each, given in pairs}


ClassWeight = Annotated[
    str | Mapping[Any, float],
    Kind(
        _class_weight,
        read=_class_weight_of,
        expected="balanced, or CLASS=WEIGHT,CLASS=WEIGHT",
        metavar="WEIGHTS",
        save=_saved_class_weight,
        restore=_restored_class_weight,
    ),
]

# ------------------------------------------------------------------------------ parts of the data

EXPECTED_PART = "a share below 1, a number, or a file"


def part_size(name: str, given: Any) -> float | int:
    """The size of a part of the data: a share below 1, or a number.

    Raises:
        OptionError: it is neither.
    """
    try:
        return whole(name, given, least=0)
    except OptionError:
        return real(name, given, "a share below 1 or a number of rows", least=0, below=1)


def is_size(part: Any) -> bool:
    """Whether a part is given by its size, and not as data of its own."""
    return not isinstance(part, (str, os.PathLike)) and not hasattr(part, "columns")


def part(name: str, value: Any) -> Any:
    """A part of the data: a share below 1, a number, a file that is there, or a table.

    Raises:
        OptionError: it is none of these.
    """
    if is_size(value):
        return part_size(name, value)
    if isinstance(value, (str, os.PathLike)) and not os.path.isfile(value):
        raise OptionError(f"{name} must be {EXPECTED_PART} that is there, not {shown(str(value))}")
    return value


def _part_of(text: str) -> int | float | Path:
    try:
        return integer(text)
    except ValueError:
        pass
    try:
        share = float(text)
    except ValueError:
        share = float("nan")
    if share == share and abs(share) != float("inf"):
        return share
    if not os.path.isfile(text):  # unlike Path's, it raises nothing of a name too long
        raise ValueError
    return Path(text)


Part = Annotated[Any, Kind(part, _part_of, EXPECTED_PART, "SIZE")]

# ---------------------------------------------------------------------------------------- devices


def device_of(name: str, value: Any) -> torch.device:
    """A device that this machine has.

    Raises:
        OptionError: it has none of this name; the message lists those that it has.
    """
    there = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type  # type: ignore[union-attr]
        there += [kind, *(f"{kind}:{k}" for k in range(torch.accelerator.device_count()))]
    found = str(value) if isinstance(value, (str, torch.device)) else ""
    if found not in there:
        raise OptionError(
            f"{name} must be a device of this machine ({', '.join(there)}), not {shown(value)}"
        )
    return torch.device(found)


Device = Annotated[str | torch.device, Kind(device_of, expected="a device", metavar="DEVICE")]

# ----------------------------------------------------------------------------------------- tables

AnyTable = Annotated[
    Any, Kind(read=path, expected="a path", metavar="FILE")
]  # a path, or a table in memory
