"""The verbs of tasks: fit, predict, evaluate, tasks, demo. Their flags derive from the library's arguments."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from gatewise.arguments import Option, options_of
from gatewise.cli.parsing import PATH, add_options, check_known, flag_of, given_of
from gatewise.errors import GatewiseError, OptionError
from gatewise.tasks.registry import TASKS, task_of

# -------------------------------------------------------------------------------------------- fit


def add_fit(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    verb.epilog = "gatewise fit TASK --help lists a task's options."
    tasks = verb.add_subparsers(metavar="TASK", required=True)
    named = argv[:1] and argv[0] in TASKS
    for name in TASKS:
        about = None if named else first_line(task_of(name))
        each = tasks.add_parser(name, help=about)
        if argv[:1] == [name]:
            _add_fit_task(each, name)


def _add_fit_task(parser: argparse.ArgumentParser, name: str) -> None:
    from gatewise.train.run import Run

    kind = task_of(name)
    parser.description = first_line(kind)
    groups = {
        "options of the task": kind.options(),
        "parts of the data": options_of(kind.fit),
        "the run": options_of(Run),
    }
    parser.add_argument("data", type=PATH, help="the data to learn from: a CSV or Parquet file")
    for title, options in groups.items():
        required = ("out",) if title == "the run" else ()
        add_options(parser.add_argument_group(title), options, required)  # type: ignore[arg-type]
    parser.set_defaults(
        run=partial(_run_fit, kind),
        check_unknown=lambda unknown: check_known(parser, unknown, elsewhere(name)),
    )


def elsewhere(name: str) -> dict[str, list[str]]:
    """The options of other tasks' fits, and the tasks that have them."""
    found: dict[str, list[str]] = {}
    for other in TASKS:
        kind = task_of(other)
        if other != name:
            for option in (*kind.options(), *options_of(kind.fit)):
                found.setdefault(option, []).append(other)
    return found


def _run_fit(kind: Any, given: argparse.Namespace) -> None:
    from gatewise.train.folder import Claim, checkpoint_of
    from gatewise.train.run import Run

    of_run = given_of(given, options_of(Run))
    of_run["quiet"] = of_run.get("quiet", False) or not sys.stderr.isatty()
    out = Path(of_run["out"])
    claim = Claim(out)  # until the model and its report are written, too
    run = Run(**of_run, claim=claim)
    parts = given_of(given, options_of(kind.fit))
    model = kind(**given_of(given, kind.options()))
    if run.resume and not checkpoint_of(out).exists():
        print(f"no checkpoint in {out}: beginning", file=sys.stderr)
    saved = run.resume and checkpoint_of(out).exists()
    try:
        with claim:
            model.fit(given.data, **parts, run=run)
            saved = True
            if not claim.held:
                return  # the first of this training's processes has it, and writes
            if run.resume and _is_saved(model, out):
                print(f"the run in {out} is finished, and its model and report are complete")
                return
            finish(model, given.data, parts.get("test"), out)
    except KeyboardInterrupt as stopped:
        if not getattr(stopped, "__notes__", []):
            stopped.add_note(
                "stopped outside of the training: the same fit with --resume goes on from its checkpoint"
                if saved
                else "stopped before the training: nothing of this run is saved yet"
            )
        raise


def _is_saved(model: Any, out: Path) -> bool:
    """Whether this very model is saved there with its report, which is written last."""
    import torch

    from gatewise.tasks.saved import load

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
    """Save the model and its report, and say what they are."""
    (out / "report.html").unlink(missing_ok=True)  # an earlier model's, if any
    model.save(out)
    print(f"model     {out}")
    evaluation = model.evaluate_held_out(data, test)
    print(f"report    {model.report(data, evaluation, out)}")
    if evaluation is not None:
        print("\nheld out, ", end="")
        _print(evaluation)


def _print(evaluation: Any) -> None:
    print(f"{evaluation.n} {evaluation.unit}:\n{evaluation.table()}")
    print(f"\n{evaluation.verdict()}")


# ------------------------------------------------------------------------------ predict, evaluate


def add_predict(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    verb.add_argument("model", type=PATH, help="folder that fit wrote")
    verb.add_argument("data", type=PATH, help="a CSV or Parquet file")
    verb.add_argument("-o", "--out", type=PATH, required=True, help="a .csv or .parquet file")
    _add_method(verb, "predict")
    verb.set_defaults(run=_run_predict)


def add_evaluate(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    verb.add_argument("model", type=PATH, help="folder that fit wrote")
    verb.add_argument("data", type=PATH, help="a CSV or Parquet file")
    verb.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output"
    )
    _add_method(verb, "evaluate")
    verb.set_defaults(run=_run_evaluate)


def _add_method(verb: argparse.ArgumentParser, method: str) -> None:
    """Flags for the options of all tasks' methods of this name; which task it is, the model says."""
    every: dict[str, Option] = {}
    having: dict[str, list[str]] = {}
    for task in TASKS:
        for name, option in options_of(getattr(task_of(task), method)).items():
            every.setdefault(name, option)
            having.setdefault(name, []).append(task)
    notes = {n: f"({', '.join(t)}) " for n, t in having.items() if len(t) < len(TASKS)}
    add_options(verb, every, notes=notes)
    verb.set_defaults(
        check_unknown=lambda unknown: check_known(verb, unknown, {}),
        method_options=every,
    )


def _model_and_options(given: argparse.Namespace, method: str) -> tuple[Any, dict[str, Any]]:
    """The model in the folder, and the options that were given for its method."""
    from gatewise.tasks.saved import load

    model = load(given.model)
    own = options_of(getattr(type(model), method))
    options = given_of(given, given.method_options)
    for name in options:
        if name not in own:
            raise OptionError(
                f"{flag_of(name)} is no option of the task {model.name!r}, of which '{given.model}' holds "
                f"a model"
            )
    return model, options


def _run_predict(given: argparse.Namespace) -> None:
    from gatewise.data.output import check_table_name, write_table

    check_table_name(given.out)
    model, options = _model_and_options(given, "predict")
    _check_not_read(given.out, {"the data": given.data} | _paths(options))
    table = model.predict(given.data, **options)
    write_table(table, given.out)
    print(f"written   {given.out} ({len(table)} rows)")


def _paths(options: Mapping[str, Any]) -> dict[str, Path]:
    return {flag_of(name): value for name, value in options.items() if isinstance(value, Path)}


def _check_not_read(out: Path, sources: Mapping[str, Path]) -> None:
    """Raise OptionError where ``out`` is one of the files that are read."""
    for what, source in sources.items():
        if out.exists() and source.exists() and out.samefile(source):
            raise OptionError(f"--out is the file of {what}, {source}: give another one")


def _run_evaluate(given: argparse.Namespace) -> None:
    model, options = _model_and_options(given, "evaluate")
    evaluation = model.evaluate(given.data, **options)
    if not given.json:
        _print(evaluation)
        return
    print(*evaluation.notes, evaluation.verdict(), sep="\n", file=sys.stderr)
    print(json.dumps(evaluation.record()))


# ------------------------------------------------------------------------------------ tasks, demo


def add_tasks(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    verb.set_defaults(run=_run_tasks)


def _run_tasks(given: argparse.Namespace) -> None:
    from gatewise.data.sources import SOURCES

    tasks = {name: task_of(name) for name in TASKS}
    width = max(map(len, SOURCES))
    print(" " * width, *(f"{name:>10}" for name in tasks))
    for source in SOURCES:
        marks = ("✓" if source in task.sources else "" for task in tasks.values())
        print(f"{source:<{width}}", *(f"{mark:>10}" for mark in marks))
    print()
    for name, task in tasks.items():
        print(f"{name:<{max(map(len, tasks))}}  {first_line(task)}")


def first_line(task: Any) -> str:
    return (task.__doc__ or "").partition("\n")[0]


def add_demo(verb: argparse.ArgumentParser, argv: list[str]) -> None:
    verb.set_defaults(run=_run_demo)
    verb.add_argument(
        "--out",
        type=PATH,
        default=Path("runs/demo"),
        help="folder for what it writes (default: runs/demo)",
    )


def _run_demo(given: argparse.Namespace) -> None:
    from gatewise.data.output import write_table
    from gatewise.tasks.forecast.forecaster import Forecaster
    from gatewise.train.folder import Claim
    from gatewise.train.run import Run

    print("Weekly CO2 at Mauna Loa, 1958 to 2001 (Keeling & Whorf 2004): a year ahead, by weeks.\n")
    with (
        as_file(files("gatewise.data") / "examples" / "co2.csv") as data,
        Claim(given.out) as claim,
    ):
        claim.take()
        forecaster = Forecaster(52, "co2", "date", conformal=True)
        forecaster.fit(data, run=Run(quiet=not sys.stderr.isatty()))
        finish(forecaster, data, None, given.out)
        write_table(forecaster.predict(data), given.out / "forecast.csv")
    print(f"\nforecast  {given.out / 'forecast.csv'}\ngates     {given.out / 'gates.png'}")
