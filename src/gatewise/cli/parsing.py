"""Parsing of the command line: conversion of values, flags derived from options, and error messages."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from gatewise.arguments import FLAG, Option, parse_integer, parse_path
from gatewise.errors import OptionError, near

_SHOWN = 40
# A sentence of a docstring that the help leaves out.
_FOR_PYTHON = re.compile(r" ?\bIn Python\b.*?\.(?= [A-Z]|$)")
# Shorter names of flags.
_SHORT = {"learning_rate": "--lr"}


class Parser(argparse.ArgumentParser):
    """A parser that raises OptionError for invalid arguments, so that all errors are printed alike."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **{"allow_abbrev": False, **named})
        self.words: list[str] = []
        # what can be given in place of a required flag, for messages
        self.instead: dict[str, str] = {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses ``args``. The result has ``flags``, the flags of the verb's options by name."""
        self.words = list(args or ())
        found, unknown = super().parse_known_args(args, namespace)
        if not hasattr(found, "flags"):
            found.flags = {
                action.dest: action.option_strings[0]
                for action in self._actions
                if action.option_strings
            }
        return found, unknown

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required"):
            self._check_flags()
            for flag, others in self.instead.items():
                message = re.sub(rf"{flag}(?=,|$)", f"{flag} (or {others})", message)
        raise OptionError(
            f"{message.removeprefix('argument ')} ({self.prog} --help shows the options)"
        )

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            raise argparse.ArgumentError(
                action,
                f"expected one of {', '.join(known)}, not {value!r}{near(str(value), known)}",
            )

    def _check_flags(self) -> None:
        """Raises OptionError for a flag that does not exist, which says more than a missing argument."""
        ends = self.words.index("--") if "--" in self.words else len(self.words)
        unknown = [
            word
            for word in self.words[:ends]
            if re.match("--[a-z]", word)
            and word.partition("=")[0] not in self._option_string_actions
        ]
        check = self.get_default("check_unknown")
        if unknown and check is not None:
            check(unknown)


def as_kind(read: Callable[[str], Any], expected: str) -> Callable[[str], Any]:
    """A ``type`` for argparse: converts with ``read``, and names what was ``expected`` if that fails."""

    def made(text: str) -> Any:
        try:
            return read(text)
        except (ValueError, OverflowError):
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
            raise argparse.ArgumentTypeError(f"expected {expected}, not {shown!r}") from None

    return made


INTEGER = as_kind(parse_integer, "an integer below 2**63")
NUMBER = as_kind(float, "a number")
PATH = as_kind(parse_path, "a path")


def add_options(
    parser: argparse.ArgumentParser,
    options: Mapping[str, Option],
    required: Collection[str] = (),
    notes: Mapping[str, str] | None = None,
) -> None:
    """Adds a flag for each option. An option that is not given is absent from the result, so the default
    is that of the library.

    Args:
        required: names of options that must be given, in addition to those without a default.
        notes: texts before the help of an option, by name.
    """
    for name, option in options.items():
        flags = [flag_of(name), *([_SHORT[name]] if name in _SHORT else [])]
        text = (notes or {}).get(name, "") + _help(option)
        named: dict[str, Any] = dict(dest=name, default=argparse.SUPPRESS, help=text)
        if option.kind is FLAG:
            on = option.default is True  # then there must be a way to switch it off
            action = argparse.BooleanOptionalAction if on else "store_true"
            parser.add_argument(*flags, action=action, **named)
            continue
        named |= dict(type=as_kind(option.kind.read, option.kind.expected))
        needed = option.required or name in required
        repeatable = option.kind.many == "append"
        marks = f"{' (required)' if needed else ''}{' (repeatable)' if repeatable else ''}"
        named |= dict(required=needed, metavar=option.kind.metavar, help=text + marks)
        if repeatable:
            named |= dict(action="append")
        elif option.kind.many == "list":
            named |= dict(nargs="+")
        parser.add_argument(*flags, **named)


def flag_of(name: str) -> str:
    """The flag of an option."""
    return "--" + name.replace("_", "-")


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """A message of the library in the words of the command line: ``missing='mask'`` becomes ``--missing mask``."""
    if not flags:
        return message
    names = "|".join(map(re.escape, flags))
    # the same in the other order: "without --resume (resume=False)"
    message = re.sub(rf"(--[a-z-]+) \((?:{names})=[^()]*\)", r"\1", message)
    value = r"('[^']*'|[\w.+-]*\w)?(?![(\[{])"
    spelled = re.compile(rf"(?<![\w-])({names})={value}(?: \((--[^)]*)\))?")

    def flag(found: re.Match[str]) -> str:
        name, value, given = found.groups()
        if given:
            return given
        if value in ("True", "False"):
            return flags[name] if value == "True" else flag_of(f"no_{name}")
        return f"{flags[name]} {(value or '').strip(chr(39))}".rstrip()

    return spelled.sub(flag, message)


def given_of(given: argparse.Namespace, options: Mapping[str, Option]) -> dict[str, Any]:
    """The options that were given, by name."""
    return {name: value for name, value in vars(given).items() if name in options}


def _help(option: Option) -> str:
    text = _FOR_PYTHON.sub("", re.sub(r":\w+:|`", "", option.help))
    default = option.default
    if option.required or default is None or default is False or default in ((), ""):
        return text.replace("%", "%%")
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    if default is True:
        shown = flag_of(option.name)
    return f"{text} (default: {shown})".replace("%", "%%")


def check_known(
    parser: argparse.ArgumentParser,
    unknown: list[str],
    others: Mapping[str, Collection[str]],
) -> None:
    """Raises OptionError for unknown arguments.

    Args:
        others: the options of other tasks, with the tasks that have each, for the message.
    """
    flags = [flag for action in parser._actions for flag in action.option_strings]
    flag = unknown[0].partition("=")[0]
    name = flag.removeprefix("--").replace("-", "_")
    if flag.startswith("--") and name in others:
        raise OptionError(
            f"unrecognized arguments: {flag}, which is an option of {' and '.join(others[name])} "
            f"({parser.prog} --help shows the options)"
        )
    hint = near(flag, flags) if flag.startswith("--") else _repeated(parser, unknown[0])
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


def _repeated(parser: argparse.ArgumentParser, word: str) -> str:
    """A hint for a second value after a flag that takes one value and may be repeated."""
    words = getattr(parser, "words", [])
    before = words[: words.index(word)] if word in words else []
    at = next((k for k in reversed(range(len(before))) if before[k].startswith("--")), None)
    action = None if at is None else parser._option_string_actions.get(before[at])
    if action is None or not isinstance(action, argparse._AppendAction):
        return ""
    flag = action.option_strings[0]
    shown = " ".join(f"{flag} {each}" for each in (*before[at:][1:], word))
    return f"; repeat the flag for each value: {shown}"
