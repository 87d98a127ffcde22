"""Options of a class or function, read from its signature and docstring.

A parameter's annotation says how its value is checked, read from the command line and saved. Its default and
its line in the docstring become the default and the help text of the command-line flag. So an option is
written once.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from gatewise.options import choice, flag, integer, number, probability

Check = Callable[[str, Any], Any]


@dataclass(frozen=True)
class Kind:
    """The kind of values that an option takes.

    Attributes:
        check: takes the option's name and a value, and returns the value as a Python type. It raises
            OptionError if the value is not valid.
        read: converts a command-line argument to a value. It raises ValueError or OverflowError if it cannot.
        expected: describes a valid command-line argument, for the error message.
        metavar: the placeholder for the value in the help.
        many: "" for one value, "append" for a flag that may be repeated, "list" for a flag with several values.
        save: converts a value to text and numbers.
        restore: takes the option's name and a saved value, checks the value and returns it. None accepts
            any text, number, bool or list of these.
    """

    check: Check = lambda name, value: value
    read: Callable[[str], Any] = str
    expected: str = "a text"
    metavar: str = "TEXT"
    many: Literal["", "append", "list"] = ""
    save: Callable[[Any], Any] = lambda value: value
    restore: Check | None = None


@dataclass(frozen=True)
class Option:
    """One option: its name, kind of values, default and help text; ``optional`` if it may be None."""

    name: str
    kind: Kind
    default: Any
    help: str
    optional: bool

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def checked(self, value: Any) -> Any:
        """The value as a Python type; raises OptionError if it is not valid."""
        return None if value is None and self.optional else self.kind.check(self.name, value)


@cache
def options_of(call: Callable[..., Any]) -> dict[str, Option]:
    """The options of a class or function by name.

    An option is a parameter whose annotation is bool, str or a Literal, or contains a :class:`Kind`."""
    annotated = _hints(call)
    texts = _texts(call)
    found = {}
    for name, parameter in inspect.signature(call).parameters.items():
        kind, optional = _kind(annotated.get(name))
        if kind is not None:
            found[name] = Option(name, kind, parameter.default, texts.get(name, ""), optional)
    return found


def checked_options(call: Callable[..., Any], given: Mapping[str, Any]) -> types.SimpleNamespace:
    """The options of a function in ``given``, checked and as Python types. Other entries are left out.

    Raises:
        OptionError: a value is not valid. The message has its name.
    """
    known = options_of(call)
    return types.SimpleNamespace(**{n: known[n].checked(v) for n, v in given.items() if n in known})


def _hints(call: Callable[..., Any]) -> dict[str, Any]:
    with_fields = inspect.isclass(call) and hasattr(call, "__dataclass_fields__")
    described = call if with_fields or not inspect.isclass(call) else call.__init__
    return typing.get_type_hints(described, include_extras=True)


def _kind(annotation: Any) -> tuple[Kind | None, bool]:
    """The kind in an annotation, and whether None is a valid value."""
    if typing.get_origin(annotation) is Annotated:
        kinds = [each for each in annotation.__metadata__ if isinstance(each, Kind)]
        return (kinds[0], False) if kinds else _kind(annotation.__origin__)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = typing.get_args(annotation)
        kinds = [kind for part in parts if (kind := _kind(part)[0]) is not None]
        return (kinds[0] if kinds else None), type(None) in parts
    if typing.get_origin(annotation) is Literal:
        known = typing.get_args(annotation)
        return Kind(partial(_chosen, known), metavar="|".join(known)), False
    return _PLAIN.get(annotation), False


def _chosen(known: tuple[str, ...], name: str, value: Any) -> str:
    return choice(name, value, known)


def _texts(call: Callable[..., Any]) -> dict[str, str]:
    """The description of each argument in the docstrings of a function, or of a class and its bases."""
    classes = call.__mro__ if inspect.isclass(call) else (call,)
    found: dict[str, str] = {}
    for each in classes:
        written = inspect.cleandoc(each.__doc__ or "")
        part = re.search(r"^Args:\n((?: +.*\n?|\n)*)", written, re.MULTILINE)
        entries = re.split(r"^ {4}(?=\w)", part[1] if part else "", flags=re.MULTILINE)
        for entry in entries:
            names, _, text = entry.partition(":")
            for name in names.split(","):
                found.setdefault(name.strip(), " ".join(text.split()))
    return found


# ------------------------------------------------------------------------------- kinds of options


def parse_integer(text: str) -> int:
    """A command-line argument as a 64-bit integer."""
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise OverflowError
    return number


def parse_path(text: str) -> Path:
    """A command-line argument as a path."""
    if not text or "\0" in text:
        raise ValueError
    return Path(text)


def integers(least: int, most: int | None = None) -> Kind:
    """Integers from ``least`` to ``most``, or without an upper bound if ``most`` is None."""
    return Kind(
        lambda name, value: integer(name, value, least, most),
        parse_integer,
        "an integer below 2**63",
        "N",
    )


def numbers(expected: str = "a finite number", **bounds: float) -> Kind:
    """Finite numbers within ``bounds``, which are those of :func:`gatewise.options.number`."""
    return Kind(lambda name, value: number(name, value, expected, **bounds), float, "a number", "X")


MOST_LAYERS = 1000
MOST_SEED = 2**32 - 1  # the bound of numpy and Lightning

TEXT = Kind()
FLAG = Kind(flag)
_PLAIN: dict[Any, Kind] = {str: TEXT, bool: FLAG}

Count = Annotated[int, integers(1)]
NonNegativeCount = Annotated[int, integers(0)]
Port = Annotated[int, integers(0, 65535)]
Layers = Annotated[int, integers(1, MOST_LAYERS)]
Seed = Annotated[int, integers(0, MOST_SEED)]
Number = Annotated[float, numbers("a finite number or None")]
Positive = Annotated[float, numbers("a number above 0", above=0)]
NonNegative = Annotated[float, numbers("a number from 0 on", least=0)]
Probability = Annotated[float, Kind(probability, float, "a number", "X")]
ProbabilityBelowOne = Annotated[float, numbers("a probability from 0 to below 1", least=0, below=1)]
Share = Annotated[float, numbers("a share above 0, at most 1", above=0, most=1)]
AnyPath = Annotated[str | Path, Kind(read=parse_path, expected="a path", metavar="FOLDER")]
