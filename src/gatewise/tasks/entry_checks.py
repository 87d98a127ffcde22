"""Checks of the entries of a saved model's description.

A check takes an entry's name and value and returns the value, converted to its type. It raises
ModelFileError or OptionError if the value is not valid.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gatewise.errors import ModelFileError
from gatewise.options import choice, integer, number

Check = Callable[[str, Any], Any]

_MOST = 2**62


def invalid_entry(name: str, expected: str, value: Any) -> ModelFileError:
    """The error for an entry that is not valid."""
    return ModelFileError(f"{name} must be {expected}, not {reprlib.repr(value)}")


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise invalid_entry(name, "a text", value)
    return value


def label(name: str, value: Any) -> str | bool | int | float:
    """A text, a number or a bool."""
    if not isinstance(value, (str, bool, int, float)) or value != value:
        raise invalid_entry(name, "a text or a number", value)
    return value


def any_number(name: str, value: Any) -> float:
    """A number, finite or not."""
    if isinstance(value, float) and not math.isfinite(value):
        return value
    return number(name, value)


def count(name: str, value: Any) -> int:
    """An integer from 0 on."""
    return integer(name, value, 0, _MOST)


def integer_from(least: int, most: int = _MOST) -> Check:
    """An integer from ``least`` to ``most``."""
    return lambda name, value: integer(name, value, least, most)


def one_of(*values: str) -> Check:
    """One of ``values``."""
    return lambda name, value: choice(name, value, values)


def or_none(check: Check) -> Check:
    """None, or a value that passes ``check``."""
    return lambda name, value: None if value is None else check(name, value)


def list_of(check: Check, length: int | None = None) -> Check:
    """A list of values that pass ``check``; of this ``length`` if given."""

    def checked(name: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or length not in (None, len(value)):
            raise invalid_entry(name, "a list" if length is None else f"a list of {length}", value)
        return [check(f"{name}[{k}]", each) for k, each in enumerate(value)]

    return checked


def mapping_of(check: Check) -> Check:
    """An object with any names, whose values pass ``check``."""

    def checked(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise invalid_entry(name, "an object", value)
        return {key: check(f"{name}[{key!r}]", each) for key, each in value.items()}

    return checked


def object_with(checks: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these names, whose values pass the checks of their names. ``optional`` names may be
    absent."""
    known = {**checks, **(optional or {})}

    def checked(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise invalid_entry(name, "an object", value)
        for key in sorted(checks.keys() - value.keys()):
            raise ModelFileError(f"{name} has no '{key}'")
        for key in sorted(value.keys() - known.keys()):
            raise ModelFileError(f"{name} has '{key}', which this gatewise does not know")
        return {key: known[key](f"{name}.{key}", each) for key, each in value.items()}

    return checked


# The fields of gatewise.train.history.History.
HISTORY = object_with(
    {
        "train": list_of(any_number),
        "validation": list_of(any_number),
        "best": count,
        "seconds": lambda name, value: number(name, value, "seconds", least=0),
    },
    {"warnings": list_of(text)},
)


def check_equal(pairs: Iterable[tuple[str, Any, Any]]) -> None:
    """Checks that values which are stored twice are equal.

    Args:
        pairs: for each value its name and its two copies.

    Raises:
        ModelFileError: two copies differ.
    """
    for what, one, other in pairs:
        if one != other:
            raise ModelFileError(
                f"{what} is {reprlib.repr(one)} in one place and {reprlib.repr(other)} in another. "
                f"If you changed an option after fit, call fit again"
            )
