"""What gatewise does with damaged files: 8,000 mutants of every file that it reads.

    python benchmarks/mutants.py [--count 8000] [--kind KIND ...] [--workers 2] [--out benchmarks/results/mutants.json]
    python benchmarks/mutants.py --kind csv --number 17 [--keep FOLDER]    # one of them again

A mutant is a sound file with bytes, or with what they say, changed; its kind and number, and the seed, say
which. It is read in a worker, within bounds of memory and time, and used: a model forecasts, a layer runs, a
checkpoint is resumed, a table is forecast from. Each must end in one of four ways: an error of gatewise; the
sound file's result; another, finite result where the format has nothing by which it could be noticed (the
column "unguarded", and the reason below the table); NaN, and a warning that names what has too little. All
else is a failure, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

import mutations

SEED = 20
SECONDS = 60.0  # without an answer, after which a worker is ended
BUSY = 10.0  # seconds on the processor for one mutant; an HDF5 file that loops is ended after three
MEMORY = 2**30  # bytes that one mutant may take beyond what the worker has
GREATEST = 2**29  # bytes that it may have held, before it counts as a failure
RENEWED = 1000  # mutants, after which a worker is replaced
HORIZON = 4

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        share: of all mutants.
        sources: what to change, below the folder of sound files: a pattern of names.
        read: what reading a file and using it gives, arrays and texts by name.
        change: what it says, put down in its format again.
        bytes_unguarded, change_unguarded: why a change of bytes, or of what it says, may go unnoticed.
        whole: whether what is read is the folder in which the file lies.
    """

    share: int
    sources: str
    read: Callable[[Path], Result]
    change: mutations.Change | None = None
    bytes_unguarded: str | None = None
    change_unguarded: str | None = None
    whole: bool = False


# sound files ------------------------------------------------------------------------------------------


def table() -> Any:
    """Two series of hours, in phase and not, with a covariate."""
    import polars as pl

    hours = np.arange(96)
    start = np.datetime64("2024-03-04T00:00:00", "us")
    parts = [
        pl.DataFrame(
            dict(
                time=start + hours * np.timedelta64(1, "h"),
                name=[name] * len(hours),
                load=np.round(10 + k + 3 * np.sin(2 * np.pi * hours / 24 + k), 3),
                heat=np.round(5 * np.cos(2 * np.pi * hours / 24) - hours / 50, 2),
            )
        )
        for k, name in enumerate(("north", "south"))
    ]
    return pl.concat(parts)


def forecaster() -> Any:
    from gatewise.tasks.forecast import Forecaster

    options: dict[str, Any] = dict(time="time", series="name", past=["heat"], context=24, season=24)
    return Forecaster(HORIZON, "load", hidden=4, steps=27, batch=16, **options)


def fitted(folder: Path, resume: bool = False) -> Any:
    from gatewise.train.run import Run

    run = Run(folder, resume=resume, quiet=True)
    return forecaster().fit(table(), run=run)


def interrupted(folder: Path) -> None:
    """A run that ends, as by a kill, in its fourth round. Ends this process."""
    from gatewise.train.training import Training

    def end(self: Any) -> None:
        if self.current_epoch == 3:
            os._exit(0)

    Training.on_train_epoch_start = end  # type: ignore[method-assign]
    fitted(folder)
    raise RuntimeError("the run came to its end")


def onnx_model() -> bytes:
    """An LSTM with peepholes and a stored state, a GRU both ways behind other nodes, and an RNN."""
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)

    def stored(name: str, *shape: int, type_: str = "f4") -> Any:
        return numpy_helper.from_array(draw.normal(size=shape).astype(type_), name)

    H, N = 3, 2
    tensors = [
        *(stored("Wl", 1, 4 * H, N), stored("Rl", 1, 4 * H, H), stored("Bl", 1, 8 * H)),
        *(stored("Pl", 1, 3 * H), stored("state", 1, 1, H)),
        *(
            stored("ahead", H, 3 * H),
            stored("back", H, 3 * H),
            stored("half", 2, 3 * H, H, type_="f2"),
        ),
        *(stored("Wr", 1, H, H), stored("Rr", 1, H, H)),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    nodes = [
        helper.make_node("Constant", [], ["axes"], value=axes),
        helper.make_node(
            *("LSTM", ["X", "Wl", "Rl", "Bl", "", "state", "state", "Pl"], ["Yl"], "timer"),
            hidden_size=H, clip=2.5, activations=["HardSigmoid", "Tanh", "Tanh"],
            activation_alpha=[0.3], activation_beta=[0.4],
        ),
        helper.make_node("Squeeze", ["Yl", "axes"], ["y"]),
        helper.make_node("Concat", ["ahead", "back"], ["both"], axis=1),
        helper.make_node("Transpose", ["both"], ["turned"], perm=[1, 0]),
        helper.make_node("Split", ["turned"], ["one", "other"], axis=0),
        helper.make_node("Unsqueeze", ["one", "axes"], ["one1"]),
        helper.make_node("Unsqueeze", ["other", "axes"], ["other1"]),
        helper.make_node("Concat", ["one1", "other1"], ["Wg"], axis=0),
        helper.make_node("Cast", ["half"], ["Rg"], to=TensorProto.FLOAT),
        helper.make_node(
            *("GRU", ["y", "Wg", "Rg"], ["Yg"], "reader"),
            hidden_size=H, direction="bidirectional", linear_before_reset=1,
        ),
        helper.make_node("RNN", ["y", "Wr", "Rr"], ["Yr"], "", hidden_size=H, direction="reverse"),
    ]  # fmt: skip
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("X", "Yr")]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def keras_models(folder: Path) -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    layers = keras.layers
    ahead = layers.LSTM(3, activation="softsign", return_sequences=True)
    stacked = [
        keras.Input((None, 2)),
        layers.Bidirectional(ahead, name="both"),
        layers.GRU(4, name="gru", return_sequences=True),
        layers.SimpleRNN(3, name="rnn", go_backwards=True),
    ]
    model = keras.Sequential(stacked)
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(size=each.shape) for each in model.get_weights()])
    model.save(folder / "layers.keras")
    model.save(folder / "layers.h5")


def write_sound(folder: Path) -> None:
    """Every sound file, the same each time."""
    import uuid
    from unittest import mock

    from gatewise.train.run import Run

    program = [sys.executable, __file__, "--interrupted", str(folder / "run")]
    subprocess.run(program, check=True, env=_environment())
    model = forecaster().fit(table(), run=Run(folder / "other", quiet=True))
    shutil.rmtree(folder / "other")
    model.history_.seconds = 1.0
    with mock.patch("uuid.uuid4", side_effect=(uuid.UUID(int=k) for k in range(1, 99))):
        model.save(folder / "model")
    table().write_csv(folder / "table.csv", datetime_format="%Y-%m-%d %H:%M:%S")
    import gzip

    (folder / "table.csv.gz").write_bytes(
        gzip.compress((folder / "table.csv").read_bytes(), mtime=0)
    )
    table().write_parquet(folder / "table.parquet")
    (folder / "layers.onnx").write_bytes(onnx_model())
    keras_models(folder)


# reading ----------------------------------------------------------------------------------------------


def _forecast(model: Any, data: Any) -> Result:
    found = model.predict(data)
    return {name: found[name].to_numpy() for name in found.columns}


def read_model(folder: Path) -> Result:
    import gatewise as gw

    return _forecast(gw.load(folder), table())


@cache
def _sound_model() -> Any:
    import gatewise as gw

    return gw.load(SOUND / "model")


def read_table(path: Path) -> Result:
    return _forecast(_sound_model(), path)


def resume(folder: Path) -> Result:
    return _forecast(fitted(folder, resume=True), table())


def read_layers(path: Path) -> Result:
    """Of each layer what it is, and what it gives for the same three steps."""
    import torch

    import gatewise as gw

    read = gw.from_onnx if path.suffix == ".onnx" else gw.from_keras
    results: dict[str, Any] = {}
    for name, layer in read(path).items():
        weights = layer.state_dict()
        results[f"{name}: what"] = f"{layer}, {[(k, tuple(v.shape)) for k, v in weights.items()]}"
        for each in layer.modules():
            if isinstance(each, gw.Recurrent):
                each.backend = "reference"
        inputs = next(each.shape[1] for key, each in weights.items() if "weight_ih" in key)
        if inputs <= 4096:
            dtype = next(iter(weights.values())).dtype
            x = torch.linspace(-1, 1, 9 * inputs, dtype=dtype).reshape(3, 3, inputs)
            with torch.no_grad():
                results[name] = layer(x)[0].double().numpy()
    return results


_TEXT = "text has no checksum: a changed digit is another number"
_PARQUET = "neither pages nor footer have a checksum, as polars and pandas write them"
_ANEW = "written anew, with right checksums"

KINDS = {
    "model.json": Kind(
        969, "model/*.json", read_model, mutations.description_changed, None, _ANEW, whole=True
    ),
    "model.safetensors": Kind(
        629, "model/*.safetensors", read_model, mutations.safetensors_changed, whole=True
    ),
    "checkpoint": Kind(
        240, "run/**/*.safetensors", resume, mutations.checkpoint_changed, None, _ANEW, whole=True
    ),
    "onnx": Kind(
        1542, "layers.onnx", read_layers, mutations.onnx_changed,
        "ONNX has no checksum", "ONNX has no checksum",
    ),
    "keras": Kind(1009, "layers.keras", read_layers, mutations.archive_changed, None, _ANEW),
    "h5": Kind(
        893, "layers.h5", read_layers, mutations.hdf5_changed,
        "Keras writes HDF5 without checksums", "Keras writes HDF5 without checksums",
    ),
    "csv": Kind(1120, "table.csv", read_table, mutations.csv_changed, _TEXT, _TEXT),
    "csv.gz": Kind(165, "table.csv.gz", read_table, mutations.gzip_changed, None, _ANEW),
    "parquet": Kind(
        1310, "table.parquet", read_table, mutations.parquet_changed, _PARQUET, _PARQUET
    ),
}  # fmt: skip

SOUND = Path()  # the folder of sound files, in a worker


# a worker ---------------------------------------------------------------------------------------------


def mutant(name: str, number: int) -> tuple[Path, bytes, str]:
    """Which of the sound files is changed, its new content, and whether bytes or what it says was changed."""
    kind = KINDS[name]
    sources = sorted(SOUND.glob(kind.sources))
    draw = np.random.default_rng([SEED, list(KINDS).index(name), number])
    source = mutations.pick(draw, sources)
    content = source.read_bytes()
    for _ in range(20):
        by_bytes = kind.change is None or draw.random() < 0.6
        change = mutations.bytes_changed if by_bytes else kind.change
        assert change is not None
        changed = change(draw, content)
        if changed != content:
            return source, changed, "bytes" if by_bytes else "what it says"
    raise AssertionError(f"no change of {name} {number} changes anything")


def try_one(name: str, number: int, sound: Result) -> dict[str, str]:
    """How a mutant ends, and why."""
    kind = KINDS[name]
    source, content, changed = mutant(name, number)
    how = f"{source.relative_to(SOUND)}: {changed} changed"
    unguarded = kind.bytes_unguarded if changed == "bytes" else kind.change_unguarded
    with tempfile.TemporaryDirectory() as place:
        path = _placed(kind, source, content, Path(place))
        before, began = _begin_peak(), sum(os.times()[:4])
        outcome, why = _outcome(kind, path, sound, unguarded)
        busy = sum(os.times()[:4]) - began
    if busy > BUSY:
        outcome, why = "slow", f"{busy:.0f} s; {outcome}: {why}"
    if (peak := _peak() - before) > GREATEST:
        outcome, why = "memory", f"{peak / 2**20:.0f} MiB; {outcome}: {why}"
    return dict(outcome=outcome, how=how, why=why)


def _placed(kind: Kind, source: Path, content: bytes, place: Path) -> Path:
    """The mutant, alone or among the sound files of its folder; what is to be read."""
    if not kind.whole:
        path = place / source.name
        path.write_bytes(content)
        return path
    inside = source.relative_to(SOUND)
    shutil.copytree(SOUND / inside.parts[0], place / inside.parts[0])
    (place / inside).write_bytes(content)
    return place / inside.parts[0]


def _outcome(kind: Kind, path: Path, sound: Result, unguarded: str | None) -> tuple[str, str]:
    from gatewise.errors import GatewiseError, GatewiseWarning

    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", GatewiseWarning)
            found = kind.read(path)
    except GatewiseError as error:
        return "refused", f"{type(error).__name__}: {error}"
    except BaseException:
        return "other exception", traceback.format_exc(limit=-4)
    if not _finite(found):
        told = [str(each.message) for each in said if "NaN" in str(each.message)]
        if told and not _infinite(found):
            return "NaN, said", told[0]
        return "not finite", "the result has NaN or an infinity"
    if _equal(found, sound):
        return "same", ""
    if unguarded:
        return "unguarded", unguarded
    return "other numbers", "another result, and the format can guard it"


def _finite(found: Result) -> bool:
    arrays = (each for each in found.values() if isinstance(each, np.ndarray))
    return all(np.isfinite(each).all() for each in arrays if each.dtype.kind == "f")


def _infinite(found: Result) -> bool:
    arrays = (each for each in found.values() if isinstance(each, np.ndarray))
    return any(np.isinf(each).any() for each in arrays if each.dtype.kind == "f")


def _equal(found: Result, sound: Result) -> bool:
    if found.keys() != sound.keys():
        return False
    for name, value in found.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            if not np.array_equal(value, sound[name]):
                return False
        elif value.shape != sound[name].shape or not np.allclose(value, sound[name], 1e-6, 1e-9):
            return False
    return True


def _status(name: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{name}:"))


def _begin_peak() -> int:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def work(folder: Path) -> None:
    """Answer lines of [kind, number] by lines of JSON."""
    global SOUND
    import resource

    import torch

    warnings.simplefilter("ignore")
    SOUND = folder
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints
    sound: dict[str, Result] = {}
    for line in sys.stdin:
        name, number = json.loads(line)
        if name not in sound:
            sound[name] = _sound_result(name)
            resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + MEMORY, -1))
        answer = try_one(name, number, sound[name])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _sound_result(name: str) -> Result:
    """Of the sound file, read where the mutants will be; without a bound of memory, as much is imported."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    kind = KINDS[name]
    source = sorted(SOUND.glob(kind.sources))[0]
    with tempfile.TemporaryDirectory() as place:
        result = kind.read(_placed(kind, source, source.read_bytes(), Path(place)))
    assert _finite(result), f"the sound {name} gives what is not finite"
    return result


# the driver -------------------------------------------------------------------------------------------


class Worker:
    """A process that tries mutants one by one, and is begun anew where it ends or hangs."""

    def __init__(self, folder: Path, log: IO[str], program: str, seconds: float) -> None:
        self._command = [sys.executable, program, "--work", str(folder)]
        self._log, self._seconds = log, seconds
        self._process: subprocess.Popen[str] | None = None
        self._done = 0
        self.job: tuple[str, int] | None = None
        self._until = 0.0
        self._first: set[str] = set()

    def give(self, job: tuple[str, int]) -> None:
        if self._process is None or self._done >= RENEWED:
            self.close()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env=_environment(),
            )
            self._done, self._first = 0, set()
        assert self._process.stdin is not None
        self.job = job
        self._done += 1
        # the first of a kind is preceded by imports and by the sound file
        self._until = time.monotonic() + self._seconds + (0 if job[0] in self._first else 60)
        self._first.add(job[0])
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()

    @property
    def pipe(self) -> Any:
        assert self._process is not None
        return self._process.stdout

    def answer(self) -> dict[str, str]:
        """That which lies in the pipe; of a process that ended, how."""
        line = self.pipe.readline()
        if line:
            return json.loads(line)
        assert self._process is not None
        code = self._process.wait()
        self.close()
        self._log.seek(0)
        said = self._log.read()[-2000:]
        return dict(outcome="crash", how="", why=f"the process ended with {code}; {said}")

    def late(self) -> dict[str, str] | None:
        if time.monotonic() < self._until:
            return None
        self.close()
        return dict(outcome="hang", how="", why=f"no answer after {self._seconds:.0f} s")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def tried(
    folder: Path,
    jobs: list[tuple[str, int]],
    workers: int,
    program: str = __file__,
    seconds: float = SECONDS,
) -> Iterator[tuple[str, int, Any]]:
    """Each mutant with its outcome, as they come."""
    waiting = list(reversed(jobs))
    with tempfile.TemporaryFile("w+") as log:
        free = [Worker(folder, log, program, seconds) for _ in range(workers)]
        busy: list[Worker] = []
        try:
            while waiting or busy:
                while waiting and free:
                    worker = free.pop()
                    worker.give(waiting.pop())
                    busy.append(worker)
                ready, _, _ = select.select([each.pipe for each in busy], [], [], 0.5)
                for worker in list(busy):
                    answer = worker.answer() if worker.pipe in ready else worker.late()
                    if answer is not None:
                        assert worker.job is not None
                        yield (*worker.job, answer)
                        busy.remove(worker)
                        free.append(worker)
        finally:
            for worker in [*free, *busy]:
                worker.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


FINE = ("refused", "same", "unguarded", "NaN, said")


def jobs_of(count: int, kinds: list[str]) -> list[tuple[str, int]]:
    """About ``count`` mutants in the kinds' shares, each kind's together: its first takes longest."""
    whole = sum(KINDS[name].share for name in kinds)
    return [
        (name, number)
        for name in kinds
        for number in range(max(1, round(count * KINDS[name].share / whole)))
    ]


def report(found: list[tuple[str, int, Any]], seconds: float) -> dict[str, Any]:
    counts = {name: Counter(each["outcome"] for n, _, each in found if n == name) for name in KINDS}
    failures = [
        dict(kind=name, number=number, **each)
        for name, number, each in sorted(found, key=lambda each: each[:2])
        if each["outcome"] not in FINE
    ]
    reasons = {
        name: sorted(
            {each["why"] for n, _, each in found if n == name and each["outcome"] == FINE[2]}
        )
        for name in KINDS
    }
    return dict(
        seed=SEED,
        mutants=len(found),
        seconds=round(seconds),
        outcomes={name: dict(each) for name, each in counts.items() if each},
        unguarded={name: each for name, each in reasons.items() if each},
        failures=failures,
    )


def show(result: Mapping[str, Any]) -> None:
    outcomes = result["outcomes"]
    columns = [*FINE, *sorted({k for each in outcomes.values() for k in each} - {*FINE})]
    print(f"{'':18}{'mutants':>9}" + "".join(f"{each:>16}" for each in columns))
    for name, counts in outcomes.items():
        numbers = "".join(f"{counts.get(each, 0):>16}" for each in columns)
        print(f"{name:18}{sum(counts.values()):>9}{numbers}")
    for name, reasons in result["unguarded"].items():
        print(f"unguarded, {name}: {'; '.join(reasons)}")
    for each in result["failures"]:
        why = each["why"].strip().splitlines() or [""]
        print(
            f"FAILED --kind {each['kind']} --number {each['number']}: {each['outcome']}, {each['how']}: {why[-1][:160]}"
        )
    print(
        f"{result['mutants']} mutants in {result['seconds']} s, {len(result['failures'])} failures"
    )


def run(
    count: int, kinds: list[str], workers: int, numbers: list[int] | None = None
) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        program = [sys.executable, __file__, "--sound", place]
        subprocess.run(program, check=True, env=_environment())
        jobs = (
            jobs_of(count, kinds) if numbers is None else [(k, n) for k in kinds for n in numbers]
        )
        found = list(tried(Path(place), jobs, workers))
    return report(found, time.monotonic() - began)


def keep(kinds: list[str], numbers: list[int], folder: Path) -> None:
    """Write mutants to a folder, each as KIND-NUMBER-NAME."""
    global SOUND
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        SOUND = Path(place)
        write_sound(SOUND)
        for name in kinds:
            for number in numbers:
                source, content, _ = mutant(name, number)
                (folder / f"{name}-{number}-{source.name}").write_bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=8000)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--number", type=int, nargs="+")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sound", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--interrupted", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work)
        return 0
    if given.sound:
        write_sound(given.sound)
        return 0
    if given.interrupted:
        interrupted(given.interrupted)
    if given.keep and given.number:
        keep(given.kind, given.number, given.keep)
    result = run(given.count, given.kind, given.workers, given.number)
    show(result)
    if given.number:
        for each in result["failures"]:
            print(each["why"])
    if given.out:
        from gatewise.bench.machine import describe

        given.out.write_text(json.dumps({"machine": describe(), **result}, indent=1) + "\n")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
