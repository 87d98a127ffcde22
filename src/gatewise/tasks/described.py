"""Checks of what a saved model's description holds: a check takes an entry's name and value and gives
the value, brought to its type."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gatewise.errors import ModelFileError
from gatewise.options import choice, real, whole

Check = Callable[[str, Any], Any]


def wrong(name: str, expected: str, value: Any) -> ModelFileError:
    """What to raise for an entry that is not as expected."""
    return ModelFileError(f"{name} must be {expected}, not {reprlib.repr(value)}")


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(name, "a text", value)
    return value


def label(name: str, value: Any) -> str | bool | int | float:
    """A text, a number or a truth value."""
    if not isinstance(value, (str, bool, int, float)) or value != value:
        raise wrong(name, "a text or a number", value)
    return value


def number(name: str, value: Any) -> float:
    """A number, also one that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return value
    return real(name, value)


def count(least: int = 0, most: int = 2**62) -> Check:
    """A whole number in this range."""
    return lambda name, value: whole(name, value, least, most)


def one_of(*values: str) -> Check:
    """One of these words."""
    return lambda name, value: choice(name, value, values)


def maybe(check: Check) -> Check:
    """What ``check`` takes, or None."""
    return lambda name, value: None if value is None else check(name, value)


def listed(check: Check, long: int | None = None) -> Check:
    """A list of what ``check`` takes, ``long`` of them where that is given."""

    def checked(name: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or long not in (None, len(value)):
            raise wrong(name, "a list" if long is None else f"a list of {long}", value)
        return [check(f"{name}[{k}]", each) for k, each in enumerate(value)]

    return checked


def mapped(check: Check) -> Check:
    """An object of any names, each with what ``check`` takes."""

    def checked(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(name, "an object", value)
        return {key: check(f"{name}[{key!r}]", each) for key, each in value.items()}

    return checked


def record(checks: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object of these names, each with what its check takes; the ``optional`` ones may be absent."""
    known = {**checks, **(optional or {})}

    def checked(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(name, "an object", value)
        for key in sorted(checks.keys() - value.keys()):
            raise ModelFileError(f"{name} has no '{key}'")
        for key in sorted(value.keys() - known.keys()):
            raise ModelFileError(f"{name} has '{key}', which this gatewise does not know")
        return {key: known[key](f"{name}.{key}", each) for key, each in value.items()}

    return checked


def anything(name: str, value: Any) -> Any:
    """What is checked elsewhere."""
    return value


# Losses by round: see gatewise.train.history.History.
HISTORY = record(
    {
        "train": listed(number),
        "validation": listed(number),
        "best": count(),
        "seconds": lambda name, value: real(name, value, "seconds", least=0),
    }
)


def agree(pairs: Iterable[tuple[str, Any, Any]]) -> None:
    """That what is said in two places is the same; ``pairs`` are what it is, and both.

    Raises:
        ModelFileError: two differ.
    """
    for what, one, other in pairs:
        if one != other:
            raise ModelFileError(
                f"{what} is {reprlib.repr(one)} in one place and {reprlib.repr(other)} in another; "
                f"options that were set after fit need another fit"
            )
