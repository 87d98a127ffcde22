"""Options that are written once: a parameter's annotation, default and line in the docstring say how a
value is checked, what its command-line flag is called, takes and means, and how it is saved."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from gatewise.options import choice, flag, probability, real, whole

Check = Callable[[str, Any], Any]


@dataclass(frozen=True)
class Kind:
    """What values an option takes.

    Attributes:
        check: gives a value in Python's own type; it is called with the option's name and the value, and
            raises OptionError where the value cannot be used.
        read: makes a value of a text of the command line; raises ValueError or OverflowError where the
            text spells none.
        expected: what such a text must be, for the message.
        metavar: what stands for the value in the help.
        many: "" for one value; "append" where the flag may be repeated; "list" where it takes several.
        save: gives the value as text and numbers.
        restore: checks a saved value and gives it back; without it, any text, number or truth value.
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
    """One option: its name, what values it takes, its default and what it means."""

    name: str
    kind: Kind
    default: Any
    help: str
    optional: bool

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def checked(self, value: Any) -> Any:
        """The value in Python's own type; raises OptionError where it cannot be used."""
        return None if value is None and self.optional else self.kind.check(self.name, value)


@cache
def options_of(call: Callable[..., Any]) -> dict[str, Option]:
    """The options among the parameters of a class or function, by name: those whose annotation is, or
    holds, a :class:`Kind`, a bool, a text or a Literal."""
    annotated = _hints(call)
    texts = _texts(call)
    found = {}
    for name, parameter in inspect.signature(call).parameters.items():
        kind, optional = _kind(annotated.get(name))
        if kind is not None:
            found[name] = Option(name, kind, parameter.default, texts.get(name, ""), optional)
    return found


def _hints(call: Callable[..., Any]) -> dict[str, Any]:
    with_fields = inspect.isclass(call) and hasattr(call, "__dataclass_fields__")
    described = call if with_fields or not inspect.isclass(call) else call.__init__
    return typing.get_type_hints(described, include_extras=True)


def _kind(annotation: Any) -> tuple[Kind | None, bool]:
    """The kind that an annotation holds, and whether None is a value too."""
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
    """What the docstrings of a function, or of a class and its bases, say of each argument."""
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


def integer(text: str) -> int:
    """A text of the command line as an integer that 64 bits hold."""
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise OverflowError
    return number


def path(text: str) -> Path:
    """A text of the command line as a path."""
    if not text or "\0" in text:
        raise ValueError
    return Path(text)


def within(least: int, most: int | None = None) -> Kind:
    """Whole numbers from ``least`` on, up to ``most`` where that is given."""
    return Kind(
        lambda name, value: whole(name, value, least, most), integer, "an integer below 2**63", "N"
    )


def numbers(expected: str = "a finite number", **bounds: float) -> Kind:
    """Finite numbers within the bounds of :func:`gatewise.options.real`."""
    return Kind(lambda name, value: real(name, value, expected, **bounds), float, "a number", "X")


MOST_LAYERS = 1000
MOST_SEED = 2**32 - 1  # the bound of numpy and Lightning

TEXT = Kind()
FLAG = Kind(flag)
_PLAIN: dict[Any, Kind] = {str: TEXT, bool: FLAG}

Count = Annotated[int, within(1)]
Layers = Annotated[int, within(1, MOST_LAYERS)]
Seed = Annotated[int, within(0, MOST_SEED)]
Number = Annotated[float, numbers("a finite number or None")]
Positive = Annotated[float, numbers("a number above 0", above=0)]
Probability = Annotated[float, Kind(probability, float, "a number", "X")]
AnyPath = Annotated[str | Path, Kind(read=path, expected="a path", metavar="FOLDER")]
