"""Runs one verb of the command line; its exit code and what is said of errors."""

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

from gatewise.cli.parsing import Parser
from gatewise.errors import GatewiseError, GatewiseWarning, out_of_memory

_SHOWN = 400  # characters of a word that is shown whole


class Verb(NamedTuple):
    """A verb: what it does in a few words, and the module whose ``add_NAME`` adds its arguments."""

    help: str
    module: str


VERBS = {
    "fit": Verb("learn from data", "tasks"),
    "tune": Verb("search the best options of a task", "tune"),
    "predict": Verb("what a model makes of data", "tasks"),
    "evaluate": Verb("score a model on data, beside simple baselines", "tasks"),
    "tasks": Verb("the tasks that there are, and the data that each takes", "tasks"),
    "demo": Verb("a forecast of an embedded real series", "tasks"),
    "cells": Verb("the built-in cells: gates, weights, work and source", "cells"),
    "equations": Verb("a cell's equations, in text and LaTeX", "cells"),
    "bench": Verb("how fast the layers are here, beside their peers", "bench"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb. 0: done; 1: whoever read the output has gone; 2: the user's input is at fault; 70: a
    fault of gatewise's own. 2 and 70 come with a line on standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a terminal that lacks σ is shown \u03c3, not a traceback
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", GatewiseWarning)
            warnings.showwarning = partial(_warn, warnings.showwarning)
            given = _parsed(sys.argv[1:] if argv is None else argv)
            given.run(given)
        sys.stdout.flush()
    except SystemExit as ended:  # after --help and --version
        return int(ended.code or 0)
    except GatewiseError as error:
        _say(error)
        return 2
    except BrokenPipeError:
        # whoever read our output has gone; give Python's own last flush nothing to fail on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _say(error)
        return 2
    except Exception as error:
        if out_of_memory(error):
            _say("the memory of this machine is not enough for this: make it smaller")
            return 2
        if os.environ.get("GATEWISE_DEBUG"):
            raise
        _say(
            f"a fault of gatewise's own, {type(error).__name__}: {error}. Please report it with what "
            f"GATEWISE_DEBUG=1 in the environment shows"
        )
        return 70
    return 0


def _parsed(argv: list[str]) -> argparse.Namespace:
    """The arguments of the verb in ``argv``. The modules of other verbs are not loaded.

    A verb's parser may take what it does not know to its ``unknown``, and check it later.
    """
    parser = Parser(prog="gatewise", description="Recurrent networks whose gates are open.")
    parser.add_argument("--version", action="version", version=f"gatewise {version('gatewise')}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, verb in VERBS.items():
        each = verbs.add_parser(name, help=verb.help)
        if argv[:1] == [name]:
            module = import_module(f"gatewise.cli.{verb.module}")
            getattr(module, f"add_{name}")(each, argv[1:])
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        check: Callable[[list[str]], None] = getattr(given, "check_unknown", None) or partial(
            _refuse, parser
        )
        check(unknown)
    return given


def _refuse(parser: Parser, unknown: list[str]) -> None:
    parser.error(f"unrecognized arguments: {' '.join(unknown)}")


def _say(what: object) -> None:
    """One line on standard error; of what nobody could read, the beginning."""
    words = (word if len(word) <= _SHOWN else f"{word[:40]}…" for word in str(what).split())
    print("gatewise:", *words, file=sys.stderr)


def _warn(other: Callable[..., None], message: Any, category: Any, *where: Any) -> None:
    """A warning of ours as a line like all others."""
    if issubclass(category, GatewiseWarning):
        _say(message)
    else:
        other(message, category, *where)
