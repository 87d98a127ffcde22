"""What a search tries: the task's own ranges, and those that the user gives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from gatewise.arguments import FLAG, Option
from gatewise.errors import OptionError, unknown
from gatewise.options import is_bool, short_repr
from gatewise.tasks.base import Task
from gatewise.tasks.ranges import Between, OneOf, Range

Space = dict[str, Range]
FORMS = "NAME=A,B,C or NAME=LOW:HIGH or NAME=LOW:HIGH:log"


def named(texts: Iterable[str]) -> dict[str, str]:
    """The ranges of texts such as "hidden=32,64", by option.

    Raises:
        OptionError: a text is no such one, or two are of the same option.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise OptionError(f"search must be {FORMS}, not {short_repr(text)}")
        if name in found:
            raise OptionError(f"search has two ranges of {name}: give one")
        found[name] = values
    return found


def space_of(task: Task, search: Mapping[str, Any]) -> tuple[Space, dict[str, Any]]:
    """The ranges to search, and the options that ``search`` gives a single value.

    An option that the task was given, with a value that is not its default, is not searched unless
    ``search`` has it.

    Args:
        search: for each option a text such as "32,64" or "1e-4:1e-2:log", a list, or a range. It takes the
            place of the task's own range.

    Raises:
        OptionError: the task has no such option, or it cannot be searched, or its range cannot be used, or
            nothing is left to search.
    """
    options = task.options()
    ranges = {
        name: each
        for name, each in task.searched.items()
        if getattr(task, name) == options[name].default
    }
    for name, values in search.items():
        if name not in options:
            raise unknown(f"option of {task.name}", name, list(options))
        _check_comparable(task, options[name])
        ranges[name] = _range(options[name], values)
    single = {
        name: each.values[0]
        for name, each in ranges.items()
        if isinstance(each, OneOf) and len(each.values) == 1
    }
    space = {name: each for name, each in ranges.items() if name not in single}
    if not space:
        raise OptionError(
            f"there is nothing to search: give ranges by search= (--search), as {FORMS}"
        )
    return space, single


def _check_comparable(task: Task, option: Option) -> None:
    if option.required or option.kind.many or option.name in task.not_searched:
        raise OptionError(
            f"{option.name} cannot be searched: it is part of the problem, and trials of different problems "
            f"cannot be compared"
        )


def _range(option: Option, given: Any) -> Range:
    """A range whose values the option takes."""
    name = option.name
    if isinstance(given, str):
        given = _of_text(option, given)
    elif isinstance(given, (list, tuple)):
        given = OneOf(tuple(given))
    if isinstance(given, OneOf):
        return _checked_values(option, given.values)
    if not isinstance(given, Between):
        raise OptionError(
            f"the range of {name} must be a text, a list, Between or OneOf, not {short_repr(given)}"
        )
    low, high = (option.checked(each) for each in (given.low, given.high))
    if not all(isinstance(each, (int, float)) and not is_bool(each) for each in (low, high)):
        raise OptionError(f"{name} takes no numbers: list its values, as {name}=A,B")
    if not low < high:
        raise OptionError(f"the range of {name} is empty: {low} must be below {high}")
    if given.log and low <= 0:
        raise OptionError(f"the range of {name} is logarithmic, and {low} must be above 0 for that")
    return Between(low, high, bool(given.log))


def _checked_values(option: Option, values: tuple[Any, ...]) -> OneOf:
    found = tuple(dict.fromkeys(option.checked(each) for each in values))
    if not found:
        raise OptionError(f"the range of {option.name} is empty: give at least one value")
    for each in found:
        if each is not None and not isinstance(each, (str, int, float, bool)):
            raise OptionError(
                f"the range of {option.name} must have texts and numbers, not {short_repr(each)}"
            )
    return OneOf(found)


def _of_text(option: Option, text: str) -> Range:
    if ":" not in text:
        return OneOf(tuple(_value(option, each.strip()) for each in text.split(",")))
    low, high, *more = (each.strip() for each in text.split(":"))
    if more not in ([], ["log"]):
        raise OptionError(f"the range of {option.name} must be {FORMS}, not {short_repr(text)}")
    return Between(_value(option, low), _value(option, high), bool(more))


def _value(option: Option, text: str) -> Any:
    kind = option.kind
    if option.optional and text.lower() == "none":
        return None
    if kind is FLAG:
        found = {"true": True, "false": False}.get(text.lower())
        if found is None:
            raise OptionError(f"the range of {option.name} must have true or false, not {text!r}")
        return found
    try:
        if not text:
            raise ValueError
        return kind.read(text)
    except (ValueError, OverflowError):
        raise OptionError(
            f"the range of {option.name} must have {kind.expected} at each place, not {short_repr(text)}"
        ) from None


def as_text(each: Range) -> str:
    """A range in the form that ``search`` takes."""
    if isinstance(each, OneOf):
        return ",".join(str(value) for value in each.values)
    return f"{each.low}:{each.high}{':log' if each.log else ''}"


def within(each: Range, value: Any) -> bool:
    """Whether a range has this value."""
    if isinstance(each, OneOf):
        return value in each.values
    return isinstance(value, (int, float)) and each.low <= value <= each.high


def combinations(space: Space) -> float:
    """How many combinations of values there are."""
    sizes = (len(each.values) if isinstance(each, OneOf) else math.inf for each in space.values())
    return math.prod(sizes)
