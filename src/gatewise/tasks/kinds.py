"""Kinds of options that several tasks have: columns, cells, parts of the data, devices."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch

from gatewise.arguments import Kind, parse_integer, parse_path
from gatewise.cells.language import Cell, from_signature
from gatewise.data.table import name_of, names_of
from gatewise.errors import ModelFileError, OptionError
from gatewise.nn.checks import checked_cell
from gatewise.options import integer, number, short_repr
from gatewise.tasks import entry_checks

# --------------------------------------------------------------------------------------- columns


def column_name(name: str, value: Any) -> str:
    """A column's name as text."""
    if value is None or isinstance(value, (dict, set, list)):
        raise OptionError(f"{name} must be the name of a column, not {short_repr(value)}")
    return name_of(value)


def column_names(name: str, value: Any) -> tuple[str, ...]:
    """The names of one or several columns as text."""
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
        raise entry_checks.invalid_entry(name, "a text or a list of texts", value)
    return tuple(entry_checks.list_of(entry_checks.text)(name, value))


Column = Annotated[
    str,
    Kind(
        column_name,
        expected="a column",
        metavar="COLUMN",
        save=_saved_column,
        restore=entry_checks.or_none(entry_checks.text),
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
        restore=entry_checks.or_none(_restored_columns),
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
    parts = entry_checks.object_with({"name": entry_checks.text, "signature": entry_checks.text})(
        name, value
    )
    try:
        return from_signature(parts["name"], parts["signature"])
    except RecursionError as error:
        raise ModelFileError(f"{name}: its expression is nested too deeply") from error


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
            number(f"{name} of {label!r}", weight, "a non-negative number", least=0)
    return value


def _saved_class_weight(value: Any) -> Any:
    return [list(pair) for pair in value.items()] if isinstance(value, Mapping) else value


def _restored_class_weight(name: str, value: Any) -> str | dict[Any, float] | None:
    if value is None or value == "balanced":
        return value
    weight = partial(number, expected="a non-negative number", least=0)
    pairs = entry_checks.list_of(entry_checks.list_of(entry_checks.label, 2))(name, value)
    return {each: weight(f"{name}[{each!r}]", given) for each, given in pairs}


ClassWeight = Annotated[
    str | Mapping[Any, float],
    Kind(
        _class_weight,
        read=_class_weight_of,
        expected="balanced, or CLASS=WEIGHT,CLASS=WEIGHT",
        metavar="balanced|CLASS=WEIGHT,...",
        save=_saved_class_weight,
        restore=_restored_class_weight,
    ),
]

# ------------------------------------------------------------------------------ parts of the data

EXPECTED_PART = "a share below 1, a number, or a file that exists"


def part_size(name: str, given: Any) -> float | int:
    """The size of a part of the data: a share below 1, or a number of rows or members.

    Raises:
        OptionError: ``given`` is neither.
    """
    try:
        return integer(name, given, least=0)
    except OptionError:
        return number(name, given, "a share below 1 or a number of rows", least=0, below=1)


def is_size(part: Any) -> bool:
    """Whether a part of the data is given by its size, and not as data: a file, a table or lists."""
    is_data = isinstance(part, (str, os.PathLike, tuple, list)) or hasattr(part, "columns")
    return not is_data


def members_in(part: Any, total: int) -> int:
    """The number of members of ``total`` that a part takes; 0 for a part that is data of its own.

    A share above 0 is rounded, to one member or more."""
    if not is_size(part):
        return 0
    if isinstance(part, float) and part:
        return min(total, max(1, round(part * total)))
    return min(int(part), total)


def part(name: str, value: Any) -> Any:
    """A part of the data: a share below 1, a number, an existing file, or a table.

    Raises:
        OptionError: ``value`` is none of these.
    """
    if is_size(value) or isinstance(value, (tuple, list)):
        return part_size(name, value)
    if isinstance(value, (str, os.PathLike)) and not os.path.isfile(value):
        raise OptionError(f"{name} must be {EXPECTED_PART}, not {short_repr(str(value))}")
    return value


def size_in(text: str) -> int | float | None:
    """The number or share that a command-line argument is; None if it is neither."""
    try:
        return parse_integer(text)
    except ValueError:
        pass
    try:
        share = float(text)
    except ValueError:
        return None
    return share if math.isfinite(share) else None


def _part_of(text: str) -> int | float | Path:
    size = size_in(text)
    if size is not None:
        return size
    if not os.path.isfile(
        text
    ):  # unlike Path.is_file, it does not raise for a name that is too long
        raise ValueError
    return Path(text)


Part = Annotated[Any, Kind(part, _part_of, EXPECTED_PART, "SIZE")]

# ---------------------------------------------------------------------------------------- devices


def device_of(name: str, value: Any) -> torch.device:
    """A device of this machine.

    Raises:
        OptionError: the machine has no such device. The message lists its devices.
    """
    there = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type  # type: ignore[union-attr]
        there += [kind, *(f"{kind}:{k}" for k in range(torch.accelerator.device_count()))]
    found = str(value) if isinstance(value, (str, torch.device)) else ""
    if found not in there:
        raise OptionError(
            f"{name} must be a device of this machine ({', '.join(there)}), not {short_repr(value)}"
        )
    return torch.device(found)


Device = Annotated[str | torch.device, Kind(device_of, expected="a device", metavar="DEVICE")]

# ----------------------------------------------------------------------------------------- tables

AnyTable = Annotated[
    Any, Kind(read=parse_path, expected="a path", metavar="FILE")
]  # a path, or a table in memory
