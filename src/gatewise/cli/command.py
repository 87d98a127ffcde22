"""The main function of the command line: runs one verb, prints errors and returns the exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple

from gatewise.cli.parsing import Parser, check_known, with_flags
from gatewise.errors import GatewiseError, GatewiseWarning, out_of_memory

_LONGEST_WORD = 400  # characters; a longer word of a message is shortened


class Verb(NamedTuple):
    """A verb: its help text, and the module whose function ``add_NAME`` adds its arguments."""

    help: str
    module: str


VERBS = {
    "fit": Verb("train a model on data", "tasks"),
    "tune": Verb("search for the best options of a task", "tune"),
    "predict": Verb("apply a model to data", "tasks"),
    "evaluate": Verb("score a model on data and compare it with simple baselines", "tasks"),
    "generate": Verb("write new samples with a model", "tasks"),
    "gates": Verb("write a page that shows the gates of a model over data", "tasks"),
    "view": Verb(
        "serve that page on this machine; its reader can change the input and the gates", "tasks"
    ),
    "tasks": Verb("list the tasks and the kinds of data that each accepts", "tasks"),
    "demo": Verb("try a task on data that comes with the package", "demo"),
    "cells": Verb("describe the built-in cells: gates, weights, operations, source", "cells"),
    "equations": Verb("print a cell's equations as text and LaTeX", "cells"),
    "bench": Verb(
        "measure the layers on this machine and compare them with other libraries", "bench"
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code.

    0: success. 1: the reader of the output has closed the pipe. 2: the input is not valid. 70: an internal
    error. 2 and 70 come with a line on standard error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a terminal that cannot show σ gets \u03c3, not a traceback
        sys.stdout.reconfigure(errors="backslashreplace")
    flags: dict[str, str] = {}  # the verb's flags by option, for messages
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", GatewiseWarning)
            warnings.showwarning = partial(_warn, warnings.showwarning, flags, set())
            given = _parsed(sys.argv[1:] if argv is None else argv)
            flags |= given.flags
            given.run(given)
        sys.stdout.flush()
    except SystemExit as ended:  # after --help and --version
        return int(ended.code or 0)
    except GatewiseError as error:
        _say(with_flags(str(error), flags))
        return 2
    except BrokenPipeError:
        # the reader has closed the pipe; Python flushes once more at exit, which must not fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _say(error)
        return 2
    except Exception as error:
        if out_of_memory(error):
            _say("there is not enough memory: give less data or smaller sizes")
            return 2
        if os.environ.get("GATEWISE_DEBUG"):
            raise
        _say(
            f"an internal error, {type(error).__name__}: {error}. Please report it, with the output when "
            f"GATEWISE_DEBUG=1 is set in the environment"
        )
        return 70
    return 0


def _parsed(argv: list[str]) -> argparse.Namespace:
    """The parsed arguments of the verb in ``argv``. The modules of other verbs are not imported.

    A verb may set its own ``check_unknown``, the function that raises the error for unknown arguments.
    """
    parser = Parser(prog="gatewise", description="Recurrent networks whose gates are open.")
    parser.add_argument("--version", action="version", version=f"gatewise {version('gatewise')}")
    parser.set_defaults(check_unknown=partial(check_known, parser, others={}))
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, verb in VERBS.items():
        each = verbs.add_parser(name, help=verb.help)
        if argv[:1] == [name]:
            module = import_module(f"gatewise.cli.{verb.module}")
            each.set_defaults(check_unknown=partial(check_known, each, others={}))
            getattr(module, f"add_{name}")(each, argv[1:])
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        given.check_unknown(unknown)
    return given


def _say(what: object) -> None:
    """Prints one line on standard error. Very long words are shortened."""
    words = (w if len(w) <= _LONGEST_WORD else f"{w[:40]}…" for w in str(what).split())
    print("gatewise:", *words, file=sys.stderr)


def _warn(
    other: Callable[..., None],
    flags: dict[str, str],
    said: set[str],
    message: Any,
    category: Any,
    *where: Any,
) -> None:
    """Prints a warning of gatewise like an error, once in a command, which may read its data several times; passes
    any other warning to ``other``."""
    text = with_flags(str(message), flags)
    if not issubclass(category, GatewiseWarning):
        other(message, category, *where)
    elif text not in said:
        said.add(text)
        _say(text)
