"""The command line: verbs, each a thin call into the library."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from gatewise.errors import GatewiseError, GatewiseWarning, OptionError, out_of_memory
from gatewise.options import whole

if TYPE_CHECKING:
    from gatewise.backends.contract import Backend
    from gatewise.cells.language import Cell


def main(argv: list[str] | None = None) -> int:
    """Run one verb. 0: done; 1: whoever read the output has gone; 2: the user's input is at fault; 70: a
    fault of gatewise's own. 2 and 70 come with a line on standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a terminal that lacks σ is shown \u03c3, not a traceback
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        given = _parser().parse_args(argv)
        with warnings.catch_warnings():
            warnings.simplefilter("always", GatewiseWarning)
            warnings.showwarning = partial(_warn, warnings.showwarning)
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


def _say(what: object) -> None:
    """One line on standard error; of what nobody could read, the beginning."""
    words = (word if len(word) <= 400 else f"{word[:_SHOWN]}…" for word in str(what).split())
    print("gatewise:", *words, file=sys.stderr)


def _warn(other: Callable[..., None], message: Any, category: Any, *where: Any) -> None:
    """A warning of ours as a line like all others."""
    if issubclass(category, GatewiseWarning):
        _say(message)
    else:
        other(message, category, *where)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in the sentence that all other errors have."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(
            f"{message.removeprefix('argument ')} ({self.prog} --help shows the options)"
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gatewise", description="Recurrent networks whose gates are open.")
    parser.add_argument("--version", action="version", version=f"gatewise {version('gatewise')}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for add in (_fit, _predict, _evaluate, _cells, _equations, _bench, _demo):
        add(verbs)
    return parser


def _as(kind: Callable[[str], Any], expected: str) -> Callable[[str], Any]:
    """What argparse makes a value of, and the sentence that refuses the others."""

    def made(text: str) -> Any:
        try:
            return kind(text)
        except (ValueError, OverflowError):
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
            raise argparse.ArgumentTypeError(f"expected {expected}, not {shown!r}") from None

    return made


def _whole_from(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise OverflowError
    return number


def _path_from(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    return Path(text)


def _part_from(text: str) -> int | float:
    try:
        return _whole_from(text)
    except ValueError:
        share = float(text)
        if not math.isfinite(share):
            raise
        return share


def _refit_from(text: str) -> bool | int:
    named = {"true": True, "false": False}
    return named[text.lower()] if text.lower() in named else _whole_from(text)


_SHOWN = 40
_whole = _as(_whole_from, "an integer below 2**63")
_number = _as(float, "a number")
_path = _as(_path_from, "a path")
_part = _as(_part_from, "a number of rows or a share below 1")
_devices = _as(lambda text: text if text == "auto" else _whole_from(text), "auto or a whole number")
_refit = _as(_refit_from, "true, false or a whole number")


def _fit(verbs: Any) -> None:
    verb = verbs.add_parser(
        "fit",
        help="learn from a table of series",
        epilog="gatewise fit forecast --help lists the options.",
    )
    tasks = verb.add_subparsers(metavar="TASK", required=True)
    task = tasks.add_parser("forecast", help="forecast the next steps of each series")
    task.set_defaults(run=_run_fit)
    task.add_argument("data", type=_path, help="a CSV or Parquet file")
    task.add_argument(
        "--target", required=True, action="append", help="column to forecast; repeatable"
    )
    task.add_argument("--horizon", required=True, type=_whole, help="how many steps to forecast")
    task.add_argument(
        "--out", required=True, type=_path, help="folder for the model and its report"
    )
    task.add_argument("--time", help="column of time stamps or whole numbers")
    task.add_argument("--series", help="column that names the series")
    for role in ("past", "known", "static"):
        task.add_argument(
            f"--{role}", action="append", default=[], help=f"{role} covariate; repeatable"
        )
    task.add_argument("--freq", help="the step, e.g. 1h, 15min, D, B, W, MS; inferred if not given")
    task.add_argument("--time-format", help="how times are spelled, e.g. %%d/%%m/%%Y or %%Y%%m")
    task.add_argument(
        "--gaps", default="error", help="error, or mask: take missing stamps as missing"
    )
    task.add_argument("--context", type=_whole, help="steps the model sees")
    task.add_argument("--season", type=_whole, help="seasonal period in steps")
    task.add_argument(
        "--quantiles",
        type=_number,
        nargs="+",
        default=[0.1, 0.5, 0.9],
        help="levels to forecast beside the point (0.1 0.5 0.9)",
    )
    task.add_argument("--calendar", action="store_true", help="see hour of day, day of week, …")
    task.add_argument("--conformal", action="store_true", help="calibrate the quantiles")
    task.add_argument("--minimum", type=_number, help="forecasts are cut off below it, e.g. 0")
    task.add_argument("--maximum", type=_number, help="forecasts are cut off above it")
    task.add_argument("--validation", type=_part, default=0.15, help="rows, or a share below 1")
    task.add_argument("--test", type=_part, default=0.15, help="rows held out, or a share below 1")
    task.add_argument("--hidden", type=_whole, default=64, help="units of the LSTM (64)")
    task.add_argument("--layers", type=_whole, default=1, help="layers of the LSTM (1)")
    task.add_argument("--dropout", type=_number, default=0.2, help="a probability (0.2)")
    task.add_argument("--steps", type=_whole, help="training steps; by the data if not given")
    task.add_argument("--batch", type=_whole, default=256, help="windows to a training step (256)")
    task.add_argument(
        "--lr", dest="learning_rate", type=_number, default=4e-3, help="learning rate (0.004)"
    )
    task.add_argument("--seed", type=_whole, default=0, help="the same seed gives the same model")
    task.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in --out"
    )
    task.add_argument("--devices", type=_devices, default="auto", help="processes or GPUs per node")
    task.add_argument("--nodes", type=_whole, default=1, help="machines (1)")
    task.add_argument("--accelerator", default="auto", help="cpu, gpu, …")
    task.add_argument("--precision", default="32-true", help="bf16-mixed, 16-mixed, 32-true")
    task.add_argument("--tensorboard", action="store_true", help="write logs to --out/logs")
    task.add_argument("--quiet", action="store_true", help="no progress bar")


def _run_fit(given: argparse.Namespace) -> None:
    from gatewise import Forecaster
    from gatewise.train.fitting import Run
    from gatewise.train.folder import Claim, checkpoint_of

    options = {
        name: getattr(given, name)
        for name in (
            *("horizon", "target", "time", "series", "past", "known", "static", "freq"),
            *("time_format", "gaps"),
            *("context", "season", "quantiles", "calendar", "conformal", "minimum", "maximum"),
            *("hidden", "layers", "dropout", "steps", "batch", "learning_rate", "seed"),
        )
    }
    claim = Claim(given.out)  # until the model and its report are written, too
    run = Run(
        folder=given.out,
        claim=claim,
        resume=given.resume,
        devices=given.devices,
        nodes=given.nodes,
        precision=given.precision,
        accelerator=given.accelerator,
        progress=not given.quiet and sys.stderr.isatty(),
        tensorboard=given.tensorboard,
    )
    forecaster = Forecaster(**options)
    if given.resume and not checkpoint_of(given.out).exists():
        print(f"no checkpoint in {given.out}: beginning", file=sys.stderr)
    saved = given.resume and checkpoint_of(given.out).exists()
    try:
        with claim:
            forecaster.fit(given.data, validation=given.validation, test=given.test, run=run)
            saved = True
            if not claim.held:
                return  # the first of this training's processes has it, and writes
            if given.resume and _stands(forecaster, given.out):
                print(f"the run in {given.out} is finished, and its model and report are complete")
                return
            _finish(forecaster, given.data, given.out, held_out=given.test != 0)
    except KeyboardInterrupt as stopped:
        if not getattr(stopped, "__notes__", []):
            stopped.add_note(
                "stopped outside of the training: the same fit with --resume goes on from its checkpoint"
                if saved
                else "stopped before the training: nothing of this run is saved yet"
            )
        raise


def _stands(forecaster: Any, out: Path) -> bool:
    """Whether this very model is saved there with its report, which is written last."""
    import torch

    from gatewise import load

    if not (out / "report.html").exists():
        return False
    try:
        saved = load(out)
    except GatewiseError:
        return False
    weights = forecaster.network_.state_dict(), saved.network_.state_dict()
    same = weights[0].keys() == weights[1].keys() and all(
        torch.equal(value, weights[1][name]) for name, value in weights[0].items()
    )
    return same and bool((forecaster.offsets_ == saved.offsets_).all())


def _finish(forecaster: Any, data: Any, out: Path, held_out: bool) -> None:
    """Save the model and its report, and say what they are."""
    from gatewise.tasks.forecast.report import write

    (out / "report.html").unlink(missing_ok=True)  # an earlier model's, if any
    forecaster.save(out)
    print(f"model     {out}")
    backtest = forecaster.backtest(data) if held_out else None
    print(f"report    {write(forecaster, data, backtest, out)}")
    if backtest is not None:
        print("\nheld out, ", end="")
        _print_scores(backtest)


def _print_scores(backtest: Any) -> None:
    print(f"{len(backtest.actual)} windows:\n{backtest.table()}")
    if not backtest.beats_naive:
        print("\nThe model does not beat the naive forecasts on this data.")


def _predict(verbs: Any) -> None:
    verb = verbs.add_parser("predict", help="forecast what comes after the table's end")
    verb.set_defaults(run=_run_predict)
    verb.add_argument("model", type=_path, help="folder that fit wrote")
    verb.add_argument("data", type=_path, help="a CSV or Parquet file with the history")
    verb.add_argument(
        "--future", type=_path, help="a file with the known covariates' future values"
    )
    verb.add_argument("-o", "--out", type=_path, required=True, help="a .csv or .parquet file")


def _run_predict(given: argparse.Namespace) -> None:
    from gatewise.tasks.forecast.files import write_table

    for option, source in (("the data", given.data), ("--future", given.future)):
        both = source is not None and given.out.exists() and source.exists()
        if both and given.out.samefile(source):
            raise OptionError(f"--out is the file of {option}, {source}: give another one")
    forecast = _forecaster(given.model).predict(given.data, future=given.future)
    write_table(forecast, given.out)
    print(f"forecast  {given.out} ({len(forecast)} rows)")


def _evaluate(verbs: Any) -> None:
    verb = verbs.add_parser("evaluate", help="backtest, beside the naive forecasts")
    verb.set_defaults(run=_run_evaluate)
    verb.add_argument("model", type=_path, help="folder that fit wrote")
    verb.add_argument("data", type=_path, help="a CSV or Parquet file")
    verb.add_argument("--windows", type=_whole, default=20, help="how many dates for each series")
    verb.add_argument("--stride", type=_whole, help="steps between them")
    verb.add_argument("--refit", type=_refit, default=False, help="true, false, or every how many")


def _run_evaluate(given: argparse.Namespace) -> None:
    backtest = _forecaster(given.model).backtest(
        given.data, windows=given.windows, stride=given.stride, refit=given.refit
    )
    _print_scores(backtest)


def _forecaster(folder: Path) -> Any:
    """The forecaster that is saved there, and no model of another task."""
    from gatewise import Forecaster, load

    model = load(folder)
    if not isinstance(model, Forecaster):
        raise OptionError(
            f"'{folder}' holds a {type(model).__name__}; this verb takes a Forecaster"
        )
    return model


def _cells(verbs: Any) -> None:
    verb = verbs.add_parser("cells", help="the built-in cells: gates, weights, work and source")
    verb.set_defaults(run=_run_cells)
    verb.add_argument("cell", nargs="?", help="all there is to say of this one")
    verb.add_argument(
        "--inputs", type=_whole, help="I, the inputs of the layer that is counted (128)"
    )
    verb.add_argument("--units", type=_whole, help="H, its units (128)")
    form = verb.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the same for machines")
    form.add_argument(
        "--docs", type=_path, metavar="FOLDER", help="write a page for each cell there"
    )


def _run_cells(given: argparse.Namespace) -> None:
    from gatewise.cells.catalogue import CELLS, find
    from gatewise.emit.account import listing, record, sheet
    from gatewise.emit.page import write

    if given.docs is not None:
        _check_alone("--docs", cell=given.cell, inputs=given.inputs, units=given.units)
        print(f"pages     {given.docs} ({len(write(CELLS.values(), given.docs))} files)")
        return
    sizes = {name: getattr(given, name) for name in ("inputs", "units")}
    sizes = {name: 128 if size is None else whole(name, size) for name, size in sizes.items()}
    if given.json:
        cells = list(CELLS.values()) if given.cell is None else [find(given.cell)]
        records = [
            {**record(cell, **sizes), "backends": _backends(cell, **sizes)} for cell in cells
        ]
        print(json.dumps(records if given.cell is None else records[0], indent=1))
    elif given.cell is None:
        print(listing(CELLS.values(), **sizes))
    else:
        cell = find(given.cell)
        print(sheet(cell, **sizes, backends=_backends(cell, **sizes)))


def _check_alone(option: str, **others: Any) -> None:
    for name, value in others.items():
        if value is not None:
            raise OptionError(
                f"{option} writes every cell's page and takes no {name}, not {value!r}"
            )


def _backends(cell: Cell, inputs: int, units: int) -> dict[str, str]:
    """Each backend, in order of preference, and how it runs a plain layer of the cell here in
    float32, or that it cannot and why."""

    from gatewise.backends.contract import Spec
    from gatewise.backends.registry import BACKENDS

    spec = Spec(cell=cell, input_size=inputs, hidden_size=units)
    told = {}
    for name in BACKENDS:
        backend = cast("Backend", import_module(f"gatewise.backends.{name}"))
        reason = backend.supports(spec)
        told[name] = f"no: it {reason}" if reason else backend.describe(spec)
    return told


def _equations(verbs: Any) -> None:
    verb = verbs.add_parser("equations", help="a cell's equations, in text and LaTeX")
    verb.set_defaults(run=_run_equations)
    verb.add_argument("cell", nargs="?", help="one of the built-in cells; all are listed without")
    form = verb.add_mutually_exclusive_group()
    form.add_argument("--text", action="store_true", help="the text alone")
    form.add_argument("--latex", action="store_true", help="the LaTeX alone")


def _run_equations(given: argparse.Namespace) -> None:
    from gatewise.cells.catalogue import CELLS, find
    from gatewise.emit.account import describe, in_words
    from gatewise.emit.equations import latex, text

    if given.cell is None:
        width = max(map(len, CELLS))
        for cell in CELLS.values():
            print(f"{cell.name:<{width}}  {describe(cell).summary}")
        return
    cell = find(given.cell)
    if given.text or given.latex:
        print(text(cell) if given.text else latex(cell))
    else:
        print("\n\n".join([*in_words(cell), text(cell), latex(cell)]))


def _bench(verbs: Any) -> None:
    verb = verbs.add_parser("bench", help="how fast the layers are here, beside their peers")
    verb.set_defaults(run=_run_bench)
    verb.add_argument("--cells", default="lstm", help="built-in cells, such as lstm,gru")
    verb.add_argument("--shapes", nargs="+", metavar="T,B,I,H", help="steps, batch, inputs, units")
    verb.add_argument("--mode", default="inference", help="inference, training, or both: a,b")
    verb.add_argument("--peers", default="all", help="torch,onnxruntime,openvino,keras-jax; none")
    verb.add_argument("--backends", help="of gatewise; all but the reference if not given")
    verb.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    verb.add_argument("--threads", type=_whole, help="torch's number of threads if not given")
    length = verb.add_mutually_exclusive_group()
    length.add_argument(
        "--repeats", type=_whole, help="rounds of each shape, all contenders in each"
    )
    length.add_argument("--seconds", type=_number, help="of measuring for each shape (10)")
    verb.add_argument("--json", type=_path, help="also write all figures to this file")
    verb.add_argument("--quick", action="store_true", help="three shapes, a second each")


def _run_bench(given: argparse.Namespace) -> None:
    import torch

    from gatewise.bench.options import check_writable, plan
    from gatewise.bench.run import run
    from gatewise.bench.table import Printer, closing

    planned = plan(given)
    check_writable(given.json)
    report = run(planned, Printer(planned.dtype, planned.threads or torch.get_num_threads()))
    print(f"\n{closing(report)}")
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"\nfigures   {given.json}")


def _demo(verbs: Any) -> None:
    verb = verbs.add_parser("demo", help="the main job on an embedded real series")
    verb.set_defaults(run=_run_demo)
    verb.add_argument(
        "--out", type=_path, default=Path("runs/demo"), help="folder for what it writes (runs/demo)"
    )


def _run_demo(given: argparse.Namespace) -> None:
    from gatewise import Forecaster
    from gatewise.tasks.forecast.files import write_table
    from gatewise.train.fitting import Run
    from gatewise.train.folder import Claim

    print("Weekly CO2 at Mauna Loa, 1958 to 2001 (Keeling & Whorf 2004): a year ahead, by weeks.\n")
    with (
        as_file(files("gatewise.data") / "examples" / "co2.csv") as data,
        Claim(given.out) as claim,
    ):
        claim.take()
        forecaster = Forecaster(52, "co2", "date", conformal=True)
        forecaster.fit(data, run=Run(progress=sys.stderr.isatty()))
        _finish(forecaster, data, given.out, held_out=True)
        write_table(forecaster.predict(data), given.out / "forecast.csv")
    print(f"\nforecast  {given.out / 'forecast.csv'}\ngates     {given.out / 'gates.png'}")
