"""A run that is stopped, moved, resumed, run twice at once, or taken for another one."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

import gatewise as gw
from gatewise import signals
from gatewise.cli import main
from gatewise.errors import GatewiseWarning, ModelFileError, OptionError, Stopped
from gatewise.tasks.forecast import report
from gatewise.train import checkpoint, folder, history, record
from gatewise.train.recipe import Recipe
from gatewise.train.run import Run
from gatewise.train.training import Training

pytestmark = pytest.mark.usefixtures("each_round_saved")


def table(days: int = 200, seed: int = 0, **columns) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    dates = np.datetime64("2024-01-01", "us") + np.arange(days) * np.timedelta64(
        86_400_000_000, "us"
    )
    values = 100 + 10 * np.sin(np.arange(days) * 2 * np.pi / 7) + rng.normal(0, 1, days)
    return pl.DataFrame({"date": dates, "y": values, "z": values[::-1].copy(), **columns})


def command(*line: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gatewise", *line],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


FIT = [
    "fit",
    "forecast",
    "a.csv",
    "--target",
    "y",
    "--time",
    "date",
    "--horizon",
    "7",
    "--quiet",
    "--out",
    "run",
]
OPTIONS = dict(horizon=7, target="y", time="date", hidden=8, steps=54)


def fit(data: pl.DataFrame, where: Path, resume: bool = False, **options) -> gw.Forecaster:
    parts = {name: options.pop(name) for name in ("validation", "test") if name in options}
    run = Run(where, resume=resume, quiet=True, precision=options.pop("precision", "32-true"))
    return gw.Forecaster(**{**OPTIONS, **options}).fit(data, run=run, **parts)


def same(one: gw.Forecaster, other: gw.Forecaster) -> bool:
    left, right = one.network_.state_dict(), other.network_.state_dict()
    histories = [(m.history_.train, m.history_.validation, m.history_.best) for m in (one, other)]
    return histories[0] == histories[1] and all(torch.equal(left[n], right[n]) for n in left)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[gw.Forecaster, Path]:
    where = tmp_path_factory.mktemp("whole")
    return fit(table(), where), where


ROUGH = dict(learning_rate=0.1, steps=90)


@pytest.fixture(scope="module")
def rough(tmp_path_factory) -> gw.Forecaster:
    return fit(table(), tmp_path_factory.mktemp("rough"), **ROUGH)


def stop_at(monkeypatch, round_: int, how=KeyboardInterrupt) -> None:
    """Stop the training in a round's second step."""
    original = Training.training_step

    def step(self, batch, index):
        if (self.current_epoch, index) == (round_, 1):
            raise how
        return original(self, batch, index)

    monkeypatch.setattr(Training, "training_step", step)


def stopped_run(monkeypatch, where: Path, round_: int = 5, **options) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, round_)
        with pytest.raises(KeyboardInterrupt):
            fit(table(), where, **options)


def test_each_step_has_its_seed_and_on_the_cpu_no_other_device_has(monkeypatch, tmp_path):
    seeds, elsewhere = [], []
    original = gw.Forecaster.loss

    def spied(self, network, batch, carry):
        if network.training:
            seeds.append(torch.initial_seed())
        return original(self, network, batch, carry)

    monkeypatch.setattr(gw.Forecaster, "loss", spied)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", elsewhere.append)
    fit(table(), tmp_path, seed=3, steps=18)
    assert seeds == [3_000_009 + step for step in range(18)]
    assert elsewhere == [3]  # before the network was made


# ------------------------------------------------------------------- the same data and options


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(horizon=14), "horizon was 7 and is 14"),
        (dict(target="z"), r"target was \['y'\] and is \['z'\]"),
        (dict(hidden=9), "hidden was 8 and is 9"),
        (dict(layers=2), "layers was 1 and is 2"),
        (dict(dropout=0.3), "dropout was 0.2 and is 0.3"),
        (dict(quantiles=(0.2, 0.8)), r"quantiles was \[0.1, 0.5, 0.9\] and is \[0.2, 0.8\]"),
        (dict(context=21), "context was None and is 21"),
        (dict(season=5), "season was 7 and is 5"),
        (dict(calendar=True), "calendar was False and is True"),
        (dict(conformal=True), "conformal was False and is True"),
        (dict(past=["z"]), r"past was \[\] and is \['z'\]"),
        (dict(known="z"), r"known was \[\] and is \['z'\]"),
        (dict(gaps="mask"), "gaps was 'error' and is 'mask'"),
        (dict(batch=32), "batch was 256 and is 32"),
        (dict(learning_rate=0.01), "learning_rate was 0.004 and is 0.01"),
        (dict(seed=1), "seed was 0 and is 1"),
        (dict(steps=540), "steps was 54 and is 540.*more steps need a new run"),
        (dict(validation=0.2), "validation was 0.15 and is 0.2"),
        (dict(test=0.2), "test was 0.15 and is 0.2"),
        (dict(test=0), "test was 0.15 and is 0"),
        (dict(precision="bf16-mixed"), "precision was '32-true' and is 'bf16-mixed'"),
    ],
)
def test_another_option_is_named_with_both_values(whole, options, told):
    before = checkpoint_bytes(whole[1])
    with pytest.raises(OptionError, match=told):
        fit(table(), whole[1], resume=True, **options)
    assert checkpoint_bytes(whole[1]) == before


def checkpoint_bytes(where: Path) -> bytes:
    return folder.checkpoint_of(where).read_bytes()


def changed_value(data: pl.DataFrame) -> pl.DataFrame:
    return data.with_columns(
        y=pl.when(pl.int_range(pl.len()) == 199).then(0).otherwise(pl.col("y"))
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda _: table(seed=1),
            "the values of y differ .both have 200 rows of 1 series, 2024-01-01 to 2024-07-18",
        ),
        (changed_value, "the values of y differ"),
        (lambda d: d[:-1], "200 rows of 1 series, 2024-01-01 to 2024-07-18, and are 199 rows"),
        (
            lambda d: d.with_columns(pl.col("date") + pl.duration(days=1)),
            "and are .* 2024-01-02 to 2024-07-19",
        ),
        (lambda d: d.with_columns(pl.col("date").dt.replace_time_zone("UTC")), "the data"),
        (
            lambda d: d.with_columns(y=pl.lit(None, pl.Float64)).head(9).vstack(d[9:]),
            "the values of y differ",
        ),
    ],
)
def test_other_data_are_told(whole, change, told):
    with pytest.raises(OptionError, match=told):
        fit(change(table()), whole[1], resume=True)


def test_other_series_are_told(tmp_path):
    two = pl.concat([table().with_columns(id=pl.lit(name)) for name in ("a", "b")])
    fit(two, tmp_path, series="id", steps=9)
    renamed = two.with_columns(id=pl.col("id").replace("b", "c"))
    with pytest.raises(OptionError, match="times or the series names of the data differ"):
        fit(renamed, tmp_path, resume=True, series="id", steps=9)


def test_the_same_written_otherwise_is_the_same(whole, tmp_path):
    assert same(
        fit(table(), whole[1], resume=True, target=["y"], quantiles=[0.9, 0.5, 0.1]), whole[0]
    )
    assert same(fit(table(), whole[1], resume=True, season=7, freq="D"), whole[0])
    table().write_csv(tmp_path / "a.csv")
    assert same(fit(tmp_path / "a.csv", whole[1], resume=True), whole[0])
    assert same(fit(table().to_pandas(), whole[1], resume=True), whole[0])
    assert same(fit(table(more=np.zeros(200)), whole[1], resume=True), whole[0])


# ------------------------------------------------------------- finished, moved, begun anew


def test_a_finished_run_trains_no_more(whole, monkeypatch):
    stop_at(monkeypatch, 0)
    assert same(fit(table(), whole[1], resume=True), whole[0])


def test_a_run_that_ended_early_does_not_go_on(tmp_path, monkeypatch):
    """What stopped it is deduced from its losses: a resumed run must not add a round."""
    losses = [3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 0.5, 0.5, 0.5]

    def told(self):
        self.history.validation.append(losses[len(self.history.validation)])

    monkeypatch.setattr(Training, "on_validation_epoch_end", told)
    one = fit(table(), tmp_path)
    assert one.history_.validation == losses[:6]
    assert one.history_.best == 1
    stop_at(monkeypatch, 0)
    assert same(fit(table(), tmp_path, resume=True), one)


def test_the_weights_that_are_kept_are_those_of_the_best_round(tmp_path, monkeypatch):
    """With this rate rounds after the best one are worse."""
    states = []
    original = Training.on_train_epoch_end

    def noted(self):
        original(self)
        states.append({name: value.clone() for name, value in self.network.state_dict().items()})

    monkeypatch.setattr(Training, "on_train_epoch_end", noted)
    model = fit(table(), tmp_path, **ROUGH)
    best = model.history_.best
    assert best == int(np.argmin(model.history_.validation)) < len(states) - 1
    for name, value in model.network_.state_dict().items():
        assert torch.equal(value, states[best][name])


@pytest.mark.parametrize(
    "round_", [4, pytest.param(1, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_a_moved_run_keeps_the_right_rounds_weights(tmp_path, monkeypatch, rough, round_):
    """With this rate the best round comes early, and rounds after it are worse."""
    expected = rough
    assert expected.history_.best < len(expected.history_.train) - 1
    round_ = min(round_, len(expected.history_.train) - 1)
    stopped_run(monkeypatch, tmp_path / "here", round_, **ROUGH)
    (tmp_path / "here").rename(tmp_path / "there")
    assert same(fit(table(), tmp_path / "there", resume=True, **ROUGH), expected)


def test_short_rounds_are_not_all_saved(whole, tmp_path, monkeypatch):
    """The first and the last one are, and a run that is stopped between them is resumed from the first."""
    monkeypatch.setattr("gatewise.train.loop.SAVE_EVERY", 1000.0)
    saved = []
    original = checkpoint.SafeCheckpoints.save_checkpoint

    def noted(self, found, path, storage_options=None):
        saved.append(found["epoch"])
        original(self, found, path, storage_options)

    monkeypatch.setattr(checkpoint.SafeCheckpoints, "save_checkpoint", noted)
    assert same(fit(table(), tmp_path / "whole"), whole[0])
    assert saved == [0, len(whole[0].history_.train) - 1]
    stopped_run(monkeypatch, tmp_path / "stopped", 5)
    last = checkpoint.load(folder.checkpoint_of(tmp_path / "stopped"))
    assert len(last["losses"][0]) == 1
    assert same(fit(table(), tmp_path / "stopped", resume=True), whole[0])


def test_a_new_fit_leaves_nothing_of_an_earlier_run_to_resume(whole, tmp_path, monkeypatch):
    """Stopped in its first round, and resumed: it is the new run, not the old one."""
    fit(table(seed=1), tmp_path)
    stopped_run(monkeypatch, tmp_path, 0)
    assert not folder.checkpoint_of(tmp_path).exists()
    assert same(fit(table(), tmp_path, resume=True), whole[0])


def test_what_a_killed_run_was_writing_is_removed(whole, tmp_path):
    staged = tmp_path / "checkpoints" / f".{0:032x}.part"
    staged.parent.mkdir()
    staged.write_bytes(b"half")
    fit(table(), tmp_path)
    assert [p.name for p in staged.parent.iterdir()] == ["last.safetensors"]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch, whole):
    monkeypatch.chdir(tmp_path)
    assert same(gw.Forecaster(**OPTIONS).fit(table(), run=Run(quiet=True)), whole[0])
    assert not list(tmp_path.iterdir())


def test_the_command_line_says_that_a_run_is_finished(tmp_path, capsys):
    data, out = tmp_path / "a.csv", tmp_path / "run"
    table().write_csv(data)
    line = [
        "fit",
        "forecast",
        str(data),
        "--target",
        "y",
        "--time",
        "date",
        "--horizon",
        "7",
        "--hidden",
        "8",
    ]
    line += ["--steps", "18", "--quiet", "--out", str(out)]
    assert main(line) == 0
    files = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert main([*line, "--resume"]) == 0
    said = capsys.readouterr()
    assert said.out == f"the run in {out} is finished, and its model and report are complete\n"
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == files
    assert main([*line, "--resume", "--hidden", "9"]) == 2
    assert "hidden was 8 and is 9" in capsys.readouterr().err
    (out / "report.html").unlink()
    assert main([*line, "--resume"]) == 0
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_killed_runs_end_as_uninterrupted_ones(tmp_path):
    script = Path(__file__).parent.parent / "benchmarks" / "kills.py"
    found = tmp_path / "kills.json"
    line = [sys.executable, "-W", "ignore", str(script), "6", "--out", str(found)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(line, env=env, capture_output=True, timeout=900, check=True)
    figures = json.loads(found.read_text())
    assert figures["kills"] >= 6
    assert figures["different"] == []


# ----------------------------------------------------------------------- one run at a time


def test_a_second_run_in_a_folder_is_refused_and_a_killed_one_does_not_block(tmp_path, whole):
    code = (
        f"import time; from pathlib import Path; from gatewise.train import folder\n"
        f"with folder.FolderLock(Path({str(tmp_path)!r})) as lock:\n"
        f"    lock.acquire(); print('in', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "in\n"
        with pytest.raises(OptionError, match=rf"{tmp_path} .process {holder.pid}."):
            fit(table(), tmp_path)
        assert not (tmp_path / "checkpoints").exists()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert (tmp_path / ".lock").exists()
    assert same(fit(table(), tmp_path), whole[0])
    assert not (tmp_path / ".lock").exists()


def test_threads_of_one_process_are_refused_too(tmp_path):
    with folder.FolderLock(tmp_path) as lock:
        lock.acquire()
        with pytest.raises(OptionError, match=f"process {os.getpid()}"):
            fit(table(), tmp_path)


@pytest.mark.parametrize("more", [[], pytest.param(["--resume"], marks=pytest.mark.slow)])
def test_a_second_fit_is_refused_while_the_first_writes(tmp_path, monkeypatch, capsys, more):
    """The model before it is saved, and the report that is written last."""
    monkeypatch.chdir(tmp_path)
    table().write_csv("a.csv")
    line = [*FIT, "--hidden", "4", "--steps", "9", *more]
    codes = []

    def meanwhile(original):
        def second(*given, **named):
            with monkeypatch.context() as patch:
                patch.setattr(gw.Forecaster, "save", None)  # which it must not reach
                codes.append(main(line))
            return original(*given, **named)

        return second

    monkeypatch.setattr(report, "write", meanwhile(report.write))
    monkeypatch.setattr(gw.Forecaster, "save", meanwhile(gw.Forecaster.save))
    assert main(line) == 0
    assert codes == [2, 2]
    assert capsys.readouterr().err.count("another run is active in run (process") == 2
    assert {"model.json", "report.html"} < {path.name for path in Path("run").iterdir()}
    assert not Path("run", ".lock").exists()


def test_a_file_system_without_locks_is_said_as_a_line(tmp_path, monkeypatch, capsys):
    def none(_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder, "_lock", none)
    with pytest.warns(GatewiseWarning, match="without locks") as said:
        fit(table(), tmp_path / "library", steps=9)
    assert {Path(each.filename).name for each in said} == {Path(__file__).name}
    table().write_csv("a.csv")
    assert main([*FIT, "--hidden", "4", "--steps", "9"]) == 0
    assert "gatewise: run is on a file system without locks" in capsys.readouterr().err


def test_what_the_environment_says_of_ranks_is_no_reason_to_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("LOCAL_RANK", "NODE_RANK", "RANK"):
        monkeypatch.setenv(name, "1")
    table().write_csv("a.csv")
    assert main([*FIT, "--hidden", "4", "--steps", "9"]) == 0
    assert {"model.json", "report.html", "gates.png"} < {
        path.name for path in Path("run").iterdir()
    }


@pytest.mark.slow
def test_processes_of_one_run_do_not_refuse_each_other(tmp_path):
    """Two processes on a CPU, the second started by Lightning as the same command."""
    table().write_csv(tmp_path / "a.csv")
    line = [*FIT, "--hidden", "8", "--steps", "18", "--devices", "2", "--accelerator", "cpu"]
    for more, said in (([], "report    "), (["--resume"], "is finished")):
        process = command(*line, *more, cwd=tmp_path)
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        assert out.count(said) == 1  # by the first of them alone


# ------------------------------------------------------------------------------- signals


def test_an_interrupt_stays_one_and_handlers_stay_as_they_were(tmp_path, monkeypatch):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    stop_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt) as stopped:
        fit(table(), tmp_path)
    assert "stopped after 2 of 9 rounds" in stopped.value.__notes__[0]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    X, y = np.random.default_rng(0).normal(size=(40, 5, 2)), np.arange(40) % 2
    for estimator in (gw.Classifier(epochs=3), gw.Regressor(epochs=3)):
        with monkeypatch.context() as patch:
            patch.setattr(Training, "training_step", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                estimator.fit(X, y)
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def _interrupt(*_):
    raise KeyboardInterrupt


def test_sigterm_raises_in_a_library_too_and_the_run_can_go_on(tmp_path, monkeypatch, whole):
    before = signal.getsignal(signal.SIGTERM)
    original = Training.training_step

    def step(self, batch, index):
        if (self.current_epoch, index) == (3, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "training_step", step)
        with pytest.raises(Stopped) as stopped:
            fit(table(), tmp_path)
    assert stopped.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert same(fit(table(), tmp_path, resume=True), whole[0])


def test_a_programs_own_sigterm_handler_is_the_one_that_is_called(tmp_path, monkeypatch, whole):
    seen = []
    original = Training.training_step

    def step(self, batch, index):
        if (self.current_epoch, index) == (3, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, index)

    monkeypatch.setattr(Training, "training_step", step)
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        assert same(fit(table(), tmp_path), whole[0])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [1]


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "within", [signals.stop_signals_raised, signals.deferred, signals.handlers_restored]
)
def test_a_signal_that_is_ignored_stays_ignored(within, number):
    """As SIGINT is in a background job of a shell script."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with within():
            assert signal.getsignal(number) is signal.SIG_IGN
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_what_blocks_a_signal_blocks_it_afterwards():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with signals.deferred():
            pass
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_it_fits_in_a_thread(tmp_path, whole):
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(table(), tmp_path)))
    thread.start()
    thread.join()
    assert same(found[0], whole[0])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_with_a_line_and_a_folder_to_resume(tmp_path, number, code):
    table().write_csv(tmp_path / "a.csv")
    line = [*FIT, "--steps", "2700", "--hidden", "32"]
    last = folder.checkpoint_of(tmp_path / "run")
    for more, told in (([], "stopped after"), (["--resume"], "--resume")):
        before = last.stat().st_mtime_ns if more else None
        process = command(*line, *more, cwd=tmp_path)
        while process.poll() is None and not (last.exists() and last.stat().st_mtime_ns != before):
            time.sleep(0.02)
        time.sleep(0.1)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == code
        assert told in said
        assert said.count("\n") == 1
        assert not list((tmp_path / "run").glob("model*"))
    long = dict(steps=2700, hidden=32)
    resumed = fit(tmp_path / "a.csv", tmp_path / "run", resume=True, **long)
    assert same(resumed, fit(tmp_path / "a.csv", tmp_path / "other", **long))


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.3, 0.6, 1.0, 1.5, 2.5])
@pytest.mark.parametrize(
    "line",
    [
        ["evaluate", "model", "a.csv", "--refit", "true"],
        ["bench", "--quick", "--peers", "none"],
    ],
)
def test_a_signal_at_any_moment_gives_no_traceback(tmp_path, delay, line):
    table().write_csv(tmp_path / "a.csv")
    if line[0] == "evaluate":
        fit(table(), tmp_path / "model", steps=9).save(tmp_path / "model")
    process = command(*line, cwd=tmp_path)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert "Traceback" not in said
    assert process.returncode == 130


# ------------------------------------------------------------------------------ checkpoints


def test_the_best_weights_and_the_record_are_in_the_one_checkpoint(whole):
    found = checkpoint.load(folder.checkpoint_of(whole[1]))
    assert {p.name for p in (whole[1] / "checkpoints").iterdir()} == {"last.safetensors"}
    for name, value in whole[0].network_.state_dict().items():
        assert torch.equal(found["best"][f"network.{name}"], value)
    assert found["run"]["data"]["rows"] == 200
    assert found["run"]["options"]["hidden"] == 8
    assert found["run"]["recipe"]["steps"] == 54


def parts_of(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def rewritten(path: Path, tree: str, tensors: dict[str, torch.Tensor]) -> None:
    """The file with a checksum that is right for what is in it."""
    path.write_bytes(save(tensors, {"tree": tree, "sha256": checkpoint._checksum(tree, tensors)}))


def test_mutants_of_a_checkpoint_are_refused(whole, tmp_path):
    """Bytes changed, cut off and added at drawn places."""
    data = bytearray(checkpoint_bytes(whole[1]))
    path = folder.checkpoint_of(tmp_path)
    path.parent.mkdir()
    draw = np.random.default_rng(0)
    for at in draw.integers(len(data), size=120):
        mutant = bytearray(data)
        mutant[at] ^= 1 << int(draw.integers(8))
        path.write_bytes(mutant)
        with pytest.raises(ModelFileError):
            checkpoint.load(path)
    for mutant in (data[:-1], data[: len(data) // 2], data + b"\0", b"", b"\0" * 100):
        path.write_bytes(mutant)
        with pytest.raises(ModelFileError):
            fit(table(), tmp_path, resume=True)


def nodes(tree, way=()):
    yield way
    parts = (
        enumerate(tree)
        if isinstance(tree, list)
        else tree.items()
        if isinstance(tree, dict)
        else ()
    )
    for key, part in parts:
        yield from nodes(part, (*way, key))


STRANGE = (
    None,
    -1,
    10**9,
    2**70,
    1.5,
    float("nan"),
    "x",
    [],
    {},
    True,
    {"tensor": "0"},
    {"tensor": "no"},
    {"dict": [[[], 1]]},
    {"dict": 3},
    {"tuple": None},
)


def part_of(tree: str, way: tuple) -> str:
    """The checkpoint's part that a way leads into."""
    return json.loads(tree)["dict"][way[1]][0] if len(way) > 1 else "all"


def test_a_forged_tree_is_refused_or_the_same(whole, tmp_path):
    """With a checksum that is right: types, keys, shapes and counts are held against what the training
    would have written. Weights and losses of the right shape cannot be told from others."""
    described, tensors = parts_of(folder.checkpoint_of(whole[1]))
    path = folder.checkpoint_of(tmp_path)
    path.parent.mkdir()
    ways = [way for way in nodes(json.loads(described["tree"])) if way]
    draw = np.random.default_rng(1)
    refused = 0
    for _ in range(120):
        tree = json.loads(described["tree"])
        way = ways[draw.integers(len(ways))]
        parent = tree
        for key in way[:-1]:
            parent = parent[key]
        if isinstance(parent, list) and draw.random() < 0.3:
            del parent[way[-1]]
        else:
            parent[way[-1]] = STRANGE[draw.integers(len(STRANGE))]
        rewritten(path, json.dumps(tree), tensors)
        try:
            found = fit(table(), tmp_path, resume=True)
        except (ModelFileError, OptionError):
            refused += 1
        else:
            part = part_of(described["tree"], way)
            assert same(found, whole[0]) or part in ("losses", "best", "state_dict"), part
    assert refused >= 115


@pytest.mark.parametrize(
    "tree", ["", "[", "[]", "1", "[" * 100_000, '{"dict": []}', '{"dict": [["epoch", 1]]}']
)
def test_a_tree_that_is_none_is_refused(tmp_path, tree):
    path = folder.checkpoint_of(tmp_path)
    path.parent.mkdir()
    rewritten(path, tree, {})
    with pytest.raises(ModelFileError):
        fit(table(), tmp_path, resume=True)


def test_a_full_disk_is_said_with_the_files_name(tmp_path, monkeypatch):
    original = os.fsync
    calls = []

    def full(descriptor):
        calls.extend([1] * stat.S_ISREG(os.fstat(descriptor).st_mode))  # not for the folder's names
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        original(descriptor)

    monkeypatch.setattr("gatewise.atomic.os.fsync", full)
    with pytest.raises(ModelFileError, match=r"last\.safetensors: No space left on device"):
        fit(table(), tmp_path)
    monkeypatch.undo()
    assert len(checkpoint.load(folder.checkpoint_of(tmp_path))["losses"][0]) == 2
    assert len(fit(table(), tmp_path, resume=True).history_.train) == 9


# ------------------------------------------------------------------------------------ rules


@pytest.mark.parametrize(
    ("losses", "patience", "best", "done"),
    [
        ([3.0, 2.0, 1.0], 2, 2, False),
        ([3.0, 1.0, 1.0], 2, 1, False),
        ([3.0, 1.0, 1.0, 1.0], 2, 1, True),
        ([1.0, 2.0, 3.0], 2, 0, True),
        ([5.0, 4.0, 3.0, 2.0, 1.0], 2, 4, True),
    ],
)
def test_when_a_training_is_complete(losses, patience, best, done):
    losses_ = history.History(list(losses), list(losses))
    recipe = Recipe(steps=10, rounds=5, patience=patience)
    assert history.best_round(losses_, True) == best
    assert history.complete(losses_, recipe, True) == done


@pytest.mark.parametrize(
    "options",
    [
        dict(devices=0),
        dict(devices=-1),
        dict(devices="2"),
        dict(devices=1.5),
        dict(nodes=0),
        dict(nodes=2),
        dict(precision="64-true"),
        dict(precision=32),
        dict(resume="yes"),
        dict(tensorboard=True),
        dict(quiet=2),
    ],
)
def test_options_of_a_run_are_checked(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        Run(**options)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((np.float64(2.5), 2.5), (np.array(3), 3), (torch.tensor(3), 3), (torch.tensor(2.5), 2.5)),
        *(((1, np.int64(2)), [1, 2]), (torch.tensor([1, 2]), [1, 2]), (np.array(["a"]), ["a"])),
        *((np.bool_(True), True), (None, None), (Path("a/b"), "a/b")),
    ],
    ids=repr,
)
def test_what_a_record_makes_of_a_value(value, expected):
    found = record.plain(value)
    assert (found, type(found)) == (expected, type(expected))
