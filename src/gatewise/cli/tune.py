"""The verb tune: a search for a task's best options."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gatewise.arguments import FLAG, Option, options_of
from gatewise.cli.parsing import add_options, check_known, flag_of, given_of
from gatewise.cli.tasks import (
    add_data,
    add_task_parsers,
    finish,
    first_line,
    options_of_other_tasks,
    required_options,
)
from gatewise.errors import OptionError
from gatewise.tasks.registry import task_of

# Where a fit runs that a search does not.
_NOT_OF_A_SEARCH = ("devices", "nodes", "tensorboard", "monitor")


def add_tune(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    add_task_parsers(verb, argv, _add_task)


def _add_task(parser: argparse.ArgumentParser, name: str, source: str) -> None:
    from gatewise.tuning.space import as_text
    from gatewise.tuning.tune import tune

    kind = task_of(name, source)
    parser.description = f"Search the best options: {first_line(kind).lower()}"
    groups = {
        "the search": options_of(tune),
        "options of the task": kind.options(),
        "the run": _run_options(),
    }
    add_data(parser)
    required = required_options(parser, kind, name, source)
    for title, options in groups.items():
        add_options(parser.add_argument_group(title), options, required)  # type: ignore[arg-type]
    if kind.searched:
        ranges = (f"{option}={as_text(each)}" for option, each in kind.searched.items())
        parser.epilog = f"Searched if not given: {' '.join(ranges)}"
    # not those that --search takes as NAME=RANGE
    names = (*kind.not_searched, "validation", "test")
    parser.set_defaults(
        run=partial(_run_tune, kind),
        flags={option: flag_of(option) for option in names},
        check_unknown=lambda unknown: check_known(parser, unknown, options_of_other_tasks(kind)),
    )


def _run_options() -> dict[str, Option]:
    from gatewise.train.run import Run

    return {n: option for n, option in options_of(Run).items() if n not in _NOT_OF_A_SEARCH}


def _run_tune(kind: Any, given: argparse.Namespace) -> None:
    from gatewise.train.folder import FolderLock
    from gatewise.train.run import Run
    from gatewise.tuning.page import write
    from gatewise.tuning.tune import tune

    of_run = given_of(given, _run_options())
    after_trial = None if of_run.get("quiet") else _say
    of_run["quiet"] = True  # a line for each trial, no progress bar
    out = Path(of_run["out"])
    lock = FolderLock(out)  # until the model and its report are written, too
    own = given_of(given, kind.options())
    of_search = given_of(given, options_of(tune))
    of_search["search"] = [*of_search.get("search", ()), *_fixed(kind, own, of_search)]
    with lock:
        tuned = tune(
            kind(**own),
            given.data,
            run=Run(**of_run, lock=lock),
            after_trial=after_trial,
            **of_search,
        )
        finish(tuned.model, given.data, of_search.get("test"), out)
        command = _command(tuned.model, given.data, of_search, of_run, out)
        page = write(tuned, out, command)
    print(f"\ntrials    {out / 'trials.csv'}\nsearch    {page}")
    print(f"\nbest      trial {tuned.best.number}, {tuned.measure} {tuned.best.value:.4g}")
    print(command)


def _fixed(kind: Any, own: Mapping[str, Any], of_search: Mapping[str, Any]) -> list[str]:
    """What keeps the options that were given, and that the task would search, at their values."""
    from gatewise.tuning.space import named

    searched = named(of_search.get("search", ()))
    for name in searched:
        if name in own:
            raise OptionError(
                f"{flag_of(name)} gives a value and --search a range: give one of them"
            )
    return [f"{name}={value}" for name, value in own.items() if name in kind.searched]


def _say(trial: Any) -> None:
    value = "" if trial.value is None else f" {trial.value:.4g}"
    options = " ".join(f"{name}={_short(value)}" for name, value in trial.options.items())
    print(f"trial {trial.number:>3}  {trial.state}{value}  {options}", file=sys.stderr)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _command(
    model: Any, data: Path, of_search: Mapping[str, Any], of_run: Mapping[str, Any], out: Path
) -> str:
    """The command line that fits the best model again."""
    from gatewise.tuning.tune import tune

    options = type(model).options()
    words = ["gatewise", "fit", model.name, str(data)]
    for name, option in options.items():
        if getattr(model, name) != option.default:
            words += _spelled(option, getattr(model, name))
    for name, option in options_of(type(model).fit).items():
        value = of_search.get(name, options_of(tune)[name].default)
        if value is not None and value != option.default:
            words += _spelled(option, value)
    for name in ("precision", "accelerator"):
        if name in of_run:
            words += [flag_of(name), of_run[name]]
    return shlex.join([*words, "--out", f"{out}-fit"])


def _spelled(option: Option, value: Any) -> list[str]:
    """An option and its value as words of a command line."""
    flag = flag_of(option.name)
    if option.kind is FLAG:
        return [flag if value else flag_of(f"no_{option.name}")]
    if option.kind.many:
        values = [value] if isinstance(value, str) else list(value)
        if option.kind.many == "append":
            return [word for each in values for word in (flag, str(each))]
        return [flag, *map(str, values)]
    if isinstance(value, Mapping):
        value = ",".join(f"{key}={each}" for key, each in value.items())
    return [flag, str(value)]
