"""The verbs fit, predict, evaluate, generate, gates, view, tasks. Their flags derive from the library's arguments."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from gatewise.arguments import Option, options_of
from gatewise.cli.parsing import PATH, Parser, add_options, check_known, flag_of, given_of
from gatewise.errors import GatewiseError, OptionError, TaskImportError, some
from gatewise.tasks.registry import (
    TASKS,
    importable_tasks,
    naming,
    source_in,
    sources_of,
    task_of,
)

# -------------------------------------------------------------------------------------------- fit


def add_fit(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    add_task_parsers(verb, argv, _add_fit_task)


def add_task_parsers(
    verb: argparse.ArgumentParser,
    argv: list[str],
    add_task: Callable[[argparse.ArgumentParser, str, str], None],
) -> None:
    """A parser for each task of a verb. ``add_task`` is called for the named task alone, with the task's name
    and source, because it imports the task."""
    verb.epilog = f"{verb.prog} TASK --help lists a task's options."
    verb.set_defaults(check_unknown=partial(_refuse_before_task, verb))
    tasks = verb.add_subparsers(metavar="TASK", required=True)
    named = argv[:1] and argv[0] in TASKS
    for name in TASKS:
        each = tasks.add_parser(name, help=None if named else about(name))
        if argv[:1] == [name]:
            add_task(each, name, source_in(name, argv))


def _refuse_before_task(verb: argparse.ArgumentParser, unknown: list[str]) -> None:
    """Raises OptionError for the options of a task that was not named, or not first."""
    verb.error(f"options come after the task, as in {verb.prog} {next(iter(TASKS))}: {unknown[0]}")


def _add_fit_task(parser: argparse.ArgumentParser, name: str, source: str) -> None:
    from gatewise.train.run import Run

    kind = task_of(name, source)
    parser.description = first_line(kind)
    parser.epilog = other_sources(parser, name, source)
    groups = {
        "options of the task": kind.options(),
        "split of the data": options_of(kind.fit),
        "options of the run": options_of(Run),
    }
    add_data(parser)
    required = required_options(parser, kind, name, source)
    for title, options in groups.items():
        add_options(parser.add_argument_group(title), options, required)  # type: ignore[arg-type]
    parser.set_defaults(
        run=partial(_run_fit, kind),
        check_unknown=lambda unknown: check_known(parser, unknown, options_of_other_tasks(kind)),
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """The data that fit and tune take."""
    parser.add_argument(
        "data", type=PATH, help="the data to train on: a file, or for texts and music also a folder"
    )


def required_options(parser: argparse.ArgumentParser, kind: Any, name: str, source: str) -> Any:
    """The options that must be given. The first may have its place taken by the flag of another source, which the
    message about a missing option then says."""
    needed = kind.needed_by_files
    others = (f"{naming(other)} for {other}" for other in sources_of(name) if naming(other))
    if needed and not naming(source) and (instead := " or ".join(others)):
        cast(Parser, parser).instead[flag_of(needed[0])] = instead
    return ("out", *needed)


def other_sources(parser: argparse.ArgumentParser, name: str, source: str) -> str | None:
    """The line of the help that says how to see the options for the task's other sources."""
    lines = [
        f"{parser.prog} {example} --help lists the options for {other}."
        for other in sources_of(name)
        if other != source and (example := naming(other))
    ]
    return " ".join(lines) or None


def options_of_other_tasks(own: type) -> dict[str, list[str]]:
    """The options of fit of the other tasks' classes, and the tasks that have each."""
    found: dict[str, list[str]] = {}
    for other, kind in importable_tasks().items():
        if kind is not own:
            for option in (*kind.options(), *options_of(kind.fit)):
                found.setdefault(option, []).append(other)
    return found


def _run_fit(kind: Any, given: argparse.Namespace) -> None:
    from gatewise.cli.progress import RoundLines
    from gatewise.train.folder import FolderLock, checkpoint_of
    from gatewise.train.run import Run

    of_run = given_of(given, options_of(Run))
    if not of_run.get("quiet", False) and not sys.stderr.isatty():
        lines = RoundLines()
        of_run |= {"quiet": True, "prepared": lines.prepared, "after_round": lines.after_round}
    out = Path(of_run["out"])
    lock = FolderLock(out)  # held until the model and its report are written
    run = Run(**of_run, lock=lock)
    parts = given_of(given, options_of(kind.fit))
    model = kind(**given_of(given, kind.options()))
    if run.resume and not checkpoint_of(out).exists():
        print(f"no checkpoint in {out}: the run starts from the beginning", file=sys.stderr)
    saved = run.resume and checkpoint_of(out).exists()
    try:
        with lock:
            model.fit(given.data, **parts, run=run)
            saved = True
            if not lock.held:
                return  # only the first process of a training run holds the lock and writes
            if run.resume and _is_saved(model, out):
                print(f"the run in {out} is finished, and its model and report are complete")
                return
            finish(model, given.data, parts.get("test"), out)
    except KeyboardInterrupt as stopped:
        if not getattr(stopped, "__notes__", []):
            stopped.add_note(
                "stopped outside of the training: the same fit with --resume continues from its checkpoint"
                if saved
                else "stopped before the training: this run has no checkpoint yet"
            )
        raise


def _is_saved(model: Any, out: Path) -> bool:
    """Whether the folder has exactly this model and a report. The report is written last."""
    import torch

    from gatewise.tasks.load import load

    if not (out / "report.html").exists():
        return False
    try:
        saved = load(out)
    except GatewiseError:
        return False
    if type(saved) is not type(model):
        return False
    one, other = ({**each.network_.state_dict(), **each.tensors()} for each in (model, saved))
    return one.keys() == other.keys() and all(
        torch.equal(torch.nan_to_num(value), torch.nan_to_num(other[name]))
        for name, value in one.items()
    )


def finish(model: Any, data: Any, test: Any, out: Path) -> None:
    """Writes the model and its report, and prints their paths and the scores."""
    (out / "report.html").unlink(missing_ok=True)  # the report of an earlier model
    model.save(out)
    print(f"model     {out}")
    if columns := model.columns_read():
        print(f"channels  {some(columns, 20)}")
    evaluation = model.evaluate_held_out(data, test)
    print(f"report    {model.report(data, evaluation, out)}")
    if evaluation is not None:
        print("\nTest part, ", end="")
        _print(evaluation)


def _print(evaluation: Any) -> None:
    print(f"{evaluation.n} {evaluation.unit}:\n{evaluation.table()}")
    print(f"\n{evaluation.verdict()}")


# ------------------------------------------------------------------------------ predict, evaluate


def _add_model_and_data(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", type=PATH, help="folder that fit wrote")
    verb.add_argument("data", type=PATH, help="data of the same kind as for fit")


def _add_out(verb: argparse.ArgumentParser, what: str, required: bool) -> None:
    text = f"{what}; its folder is made if it does not exist"
    verb.add_argument("-o", "--out", type=PATH, required=required, help=text)


def add_predict(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    _add_model_and_data(verb)
    _add_out(verb, "a .csv or .parquet file", required=True)
    _add_method(verb, "predict", argv)
    verb.set_defaults(run=_run_predict)


def add_evaluate(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    _add_model_and_data(verb)
    verb.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output"
    )
    _add_method(verb, "evaluate", argv)
    verb.set_defaults(run=_run_evaluate)


def add_generate(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    verb.add_argument("model", type=PATH, help="folder that fit wrote")
    _add_out(verb, "a file for the samples (default: they are printed)", required=False)
    _add_method(verb, "generate", argv)
    verb.set_defaults(run=_run_generate)


def add_gates(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    _add_model_and_data(verb)
    _add_out(verb, "an .html file", required=True)
    _add_method(verb, "write_gates", argv)
    verb.set_defaults(run=_run_gates)


def add_view(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    _add_model_and_data(verb)
    _add_method(verb, "view", argv)
    verb.set_defaults(run=_run_view)


def _add_method(verb: argparse.ArgumentParser, method: str, argv: list[str]) -> None:
    """Adds flags for the options that ``method`` has in the task of the model in ``argv``, or in any task if
    there is no model."""
    from gatewise.tasks.saved import task_in

    own = next((task for word in argv if (task := task_in(Path(word)))), None)
    tasks = importable_tasks() if own is None else {own[0]: task_of(*own)}
    every: dict[str, Option] = {}
    for kind in tasks.values():
        for name, option in options_of(getattr(kind, method)).items():
            every.setdefault(name, option)
    having = _tasks_with_option(tasks, method)
    notes = {n: f"({', '.join(t)}) " for n, t in having.items() if len(t) < len(tasks)}
    add_options(verb, every, notes=notes)
    verb.set_defaults(
        check_unknown=lambda unknown: check_known(
            verb, unknown, _tasks_with_option(importable_tasks(), method)
        ),
        method_options=every,
    )


def _tasks_with_option(tasks: Mapping[str, Any], method: str) -> dict[str, list[str]]:
    """The options of ``method``, and the tasks that have each."""
    having: dict[str, list[str]] = {}
    for task, kind in tasks.items():
        for name in options_of(getattr(kind, method)):
            having.setdefault(name, []).append(task)
    return having


def _model_and_options(given: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The model in the folder, and the given options of its method."""
    from gatewise.tasks.load import load

    return load(given.model), given_of(given, given.method_options)


def _run_predict(given: argparse.Namespace) -> None:
    from gatewise.data.output import check_table_name, write_tables

    check_table_name(given.out)
    from gatewise.report.words import with_unit

    model, options = _model_and_options(given)
    _check_not_read(given.out, {"the data": given.data} | _paths(options))
    rows = write_tables(model.predict_parts(given.data, **options), given.out)
    print(f"written   {given.out} ({with_unit(rows, 'row')})")


def _paths(options: Mapping[str, Any]) -> dict[str, Path]:
    return {flag_of(name): value for name, value in options.items() if isinstance(value, Path)}


def _check_not_read(out: Path, sources: Mapping[str, Path]) -> None:
    """Raises OptionError if ``out`` is one of the input files."""
    for what, source in sources.items():
        if os.path.exists(out) and os.path.exists(source) and out.samefile(source):
            raise OptionError(f"--out is the same file as {what}, {source}: give another file")


def _run_evaluate(given: argparse.Namespace) -> None:
    model, options = _model_and_options(given)
    evaluation = model.evaluate(given.data, **options)
    if not given.json:
        _print(evaluation)
        return
    print(*evaluation.sentences, evaluation.verdict(), sep="\n", file=sys.stderr)
    print(json.dumps(evaluation.record()))


def _run_generate(given: argparse.Namespace) -> None:
    from gatewise.report.words import with_unit

    model, options = _model_and_options(given)
    samples = model.generate(**options)
    paths = model.write_samples(samples, given.out)
    if paths:
        print(f"written   {some(list(map(str, paths)), 4)} ({with_unit(len(samples), 'sample')})")


def _run_gates(given: argparse.Namespace) -> None:
    model, options = _model_and_options(given)
    _check_not_read(given.out, {"the data": given.data})
    path = model.write_gates(given.data, given.out, **options)
    print(f"page      {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _run_view(given: argparse.Namespace) -> None:
    model, options = _model_and_options(given)
    try:
        model.view(given.data, **options)
    except KeyboardInterrupt as stopped:
        if getattr(stopped, "number", signal.SIGINT) != signal.SIGINT:
            raise
        print("\nstopped")


# ------------------------------------------------------------------------------------------ tasks


def add_tasks(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    verb.set_defaults(run=_run_tasks)


def _run_tasks(given: argparse.Namespace) -> None:
    from gatewise.data.sources import SOURCES

    width = max(map(len, SOURCES))
    print(" " * width, *(f"{name:>10}" for name in TASKS))
    for source in SOURCES:
        marks = ("✓" if source in sources else "" for sources in TASKS.values())
        print(f"{source:<{width}}", *(f"{mark:>10}" for mark in marks))
    print()
    for name in TASKS:
        for k, source in enumerate(sources_of(name)):
            print(f"{'' if k else name:<{max(map(len, TASKS))}}  {about(name, source)}")


def about(name: str, source: str | None = None) -> str:
    """The first line of the description of a task's class for a source, or why it cannot be imported."""
    try:
        return first_line(task_of(name, source))
    except TaskImportError as error:
        return str(error)


def first_line(task: Any) -> str:
    return (task.__doc__ or "").partition("\n")[0]
