"""The applications on real data: scores beside a simple method's, seconds an epoch, memory, and torch's layers.

    python benchmarks/applications.py                    # the speed of all applications
    python benchmarks/applications.py --only words --runs /tmp/runs     # and the scores of finished runs

The speed of an application is that of its training: updates of gatewise and of the same network on torch's layers
take turns, each in a process of its own, which has its own peak of memory. ``torch`` is the network as one
writes it with torch: torch.nn.LSTM, linear, dropout and cross_entropy, and packed sequences where lengths differ;
``torch, padded`` does not pack them, so that its layers read the padding as steps. All read the same batches, and have
the same optimizer.
``seconds_an_epoch`` is the median time of an update times the updates of an epoch; where lengths differ,
``mean_cpu_ms`` is the better measure of an epoch. Scores are read from the
folder of a run, RUNS/NAME: of a saved model, those of the test part, scored once; of a run that has not ended, the
losses of its rounds.

An entry is a function that returns an :class:`Application`, and a line of ``APPLICATIONS``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatewise as gw
import sentiment
from gatewise.bench.machine import describe
from gatewise.data.tokens import END
from gatewise.models.language import LanguageNetwork
from gatewise.models.sampling import Choice, StepProgram
from gatewise.nn.recurrent import Recurrent
from gatewise.tasks.base import Run
from gatewise.train.training import detached

OUT = Path("benchmarks/results/applications.json")
DATA = Path(os.environ.get("GATEWISE_DATA", Path.home() / ".cache/gatewise/data"))


@dataclass(frozen=True)
class Application:
    """One application: a task with its options, and its data.

    Attributes:
        about: what it is, and whose recipe.
        task: the task, with the options of the recipe.
        data, validation, test: the arguments of ``fit``.
        patches: for torch's network, other functions by their full names.
    """

    about: str
    task: Callable[[], Any]
    data: Any
    validation: Any
    test: Any
    patches: dict[str, Callable[..., Any]] = field(default_factory=dict)


# --------------------------------------------------------------------------------- language models


def torch_losses(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    target: Tensor,
    ignore: int | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """The losses of an output layer as one writes them with torch."""
    index = -100 if ignore is None else ignore
    logits = F.linear(x, weight, bias).flatten(0, -2)
    losses = F.cross_entropy(
        logits,
        target.flatten(),
        ignore_index=index,
        reduction="none",
        label_smoothing=smoothing,
    )
    return losses.view(target.shape)


LANGUAGE = {"gatewise.models.language.token_losses": torch_losses}

# gatewise's linear layers and dropout, as torch's own
TORCHS_OWN: dict[str, Callable[..., Any]] = {
    "gatewise.nn.linear.Linear.forward": nn.Linear.forward,
    "gatewise.nn.dropout.Dropout.forward": nn.Dropout.forward,
    "gatewise.nn.attention.linear": F.linear,
    "gatewise.models.chords.linear": F.linear,
    "gatewise.models.translation.linear": F.linear,
    "gatewise.models.language.dropout": F.dropout,
}


def penn_treebank(about: str, **options: Any) -> Application:
    train, valid, test = (DATA / "ptb" / f"ptb.{part}.txt" for part in ("train", "valid", "test"))
    given: dict[str, Any] = dict(
        unit="word", vocabulary=10_002, layers=2, method="sgd", weight_decay=0.0
    )
    task = partial(gw.LanguageModel, **(given | options))
    return Application(about, task, train, valid, test, LANGUAGE)


def words_small() -> Application:
    return penn_treebank(
        "PTB words, the small recipe of Zaremba et al. 2014 (published: 114.5)",
        hidden=200, tied=False, dropout=0.0, learning_rate=20.0, decay=0.5, constant_epochs=4,
        clip=0.25, initial_range=0.1, epochs=13, batch=20, window=20, patience=13,
    )  # fmt: skip


def words_medium() -> Application:
    return penn_treebank(
        "PTB words, the medium recipe of Zaremba et al. 2014 (published: 82.7)",
        hidden=650, tied=False, dropout=0.5, learning_rate=35.0, decay=1 / 1.2, constant_epochs=6,
        clip=5 / 35, initial_range=0.05, epochs=39, batch=20, window=35, patience=39,
    )  # fmt: skip


def words_regularised() -> Application:
    """12.98M weights; the masks of the AWD-LSTM (Merity et al. 2018), which torch's layers do not have."""
    return penn_treebank(
        "PTB words, at most 13M weights, tied and regularised (published: LSTM 78.9, Bai et al. 2018)",
        hidden=640, tied=True, dropout=0.45, locked_dropout=True, word_dropout=0.1, weight_drop=0.5,
        activation_penalty=2.0, change_penalty=1.0, method="nt-asgd", learning_rate=30.0, clip=0.25,
        weight_decay=1.2e-6, initial_range=0.05, epochs=120, batch=20, window=70, patience=30,
    )  # fmt: skip


def characters() -> Application:
    """The lines without the space that each begins with, as in the TCN paper's 5,059 thousand characters."""
    folder = DATA / "ptb_characters"
    folder.mkdir(exist_ok=True)
    train, valid, test = (folder / f"{part}.txt" for part in ("train", "valid", "test"))
    for text in (train, valid, test):
        lines = (DATA / "ptb" / f"ptb.{text.name}").read_text().splitlines(True)
        text.write_text("".join(line.removeprefix(" ") for line in lines))
    return Application(
        "PTB characters, at most 3M weights (published: LSTM 1.36, Bai et al. 2018)",
        lambda: gw.LanguageModel(
            "char", hidden=800, layers=1, embedding=64, tied=False, dropout=0.1, learning_rate=4e-3,
            epochs=8, batch=64, window=100, patience=3,
        ),
        train, valid, test, LANGUAGE,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- music


def piano_rolls(about: str, name: str, **options: Any) -> Application:
    return Application(
        about, lambda: gw.MusicModel(**options), DATA / "polymusic_bl2012" / f"{name}.mat", 0, 0
    )


def chorales() -> Application:
    return piano_rolls(
        "JSB chorales, RNN-NADE (published: LSTM 8.45, RNN-NADE 5.56)", "JSB_Chorales", grid=1
    )


def nottingham() -> Application:
    return piano_rolls(
        "Nottingham, RNN-NADE (published: LSTM 3.29, RNN-NADE 2.31)", "Nottingham",
        grid=2, dropout=0.2, batch=16, window=100, epochs=8, learning_rate=6e-3,
    )  # fmt: skip


def independent_notes() -> Application:
    return piano_rolls(
        "JSB chorales, independent notes (published: LSTM 8.45)", "JSB_Chorales",
        grid=1, notes="independent",
    )  # fmt: skip


# -------------------------------------------------------------------------------------- sentiment


def text_classifier(name: str) -> Application:
    """A run of the text classifier; ``python benchmarks/sentiment.py --tables`` writes its tables."""
    table, options = sentiment.RUNS[name]
    test, validation = (sentiment.parts(table)[part] for part in ("test", "validation"))
    given: Any = sentiment.OPTIONS | options
    data = sentiment.TABLES / f"{table}.parquet"
    about = f"classify text: {name} of benchmarks/sentiment.py"
    return Application(about, lambda: gw.TextClassifier(**given), data, validation, test)


# ------------------------------------------------------------------------------------- translation


def multi30k(source: str, into: str) -> Application:
    folder = DATA / "multi30k" / "tok"
    train, val, test = (
        folder / f"{part}.lc.norm.tok" for part in ("train", "val", "test_2016_flickr")
    )
    return Application(
        f"Multi30k {source} to {into}, lower case, test_2016_flickr; 8 epochs in bfloat16",
        lambda: gw.Translator(source, into, epochs=8, bleu_words="none"),
        train,
        val,
        test,
        {"gatewise.tasks.text.translate.token_losses": torch_losses},
    )


APPLICATIONS: dict[str, Callable[[], Application]] = {
    **{name: partial(text_classifier, name) for name in sentiment.RUNS},
    "words": words_small,
    "words medium": words_medium,
    "words regularised": words_regularised,
    "characters": characters,
    "chorales": chorales,
    "chorales, independent notes": independent_notes,
    "nottingham": nottingham,
    "de-en": lambda: multi30k("de", "en"),
    "en-de": lambda: multi30k("en", "de"),
}

# ------------------------------------------------------------------------------------------- speed

WARM_UP = 4  # turns; oneDNN compiles its kernels for each new size

# Options of tasks that torch's layers do not have, as its network has them.
LACKING = {"locked_dropout": False, "weight_drop": 0.0}


class TorchLayer(nn.Module):
    """A layer of torch's that takes ``lengths`` as gatewise's do: it packs the sequences, or reads the padding too."""

    def __init__(self, layer: nn.RNNBase, packs: bool = True) -> None:
        super().__init__()
        self.layer, self.packs = layer, packs

    def forward(
        self, x: Tensor, state: Any = None, lengths: Tensor | None = None, trace: bool = False
    ) -> Any:
        if lengths is None or not self.packs:
            return self.layer(x, state)
        first = self.layer.batch_first
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=first, enforce_sorted=False)
        output, state = self.layer(packed, state)
        total = x.shape[1] if first else x.shape[0]
        return pad_packed_sequence(output, batch_first=first, total_length=total)[0], state


def on_torch(network: nn.Module, packs: bool = True) -> nn.Module:
    """The network with torch's layers in place of gatewise's, and the same weights."""
    names = [name for name, module in network.named_modules() if isinstance(module, Recurrent)]
    network = gw.convert(network, inplace=True, back=True)
    for name in names:
        parent, _, own = name.rpartition(".")
        owner = network.get_submodule(parent)
        setattr(owner, own, TorchLayer(getattr(owner, own), packs))
    return network


@contextmanager
def patched(functions: dict[str, Callable[..., Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(patch(name, function))
        yield


def updates(name: str, threads: int, precision: str, kind: str, pipe: Any) -> None:
    """Trains as many updates as the pipe asks for; answers with their seconds, at the end with the memory."""
    torch.set_num_threads(threads)
    application, torchs = APPLICATIONS[name](), kind != "gatewise"
    task = application.task()
    if torchs:
        task.set_params(**{name: off for name, off in LACKING.items() if hasattr(task, name)})
    task.options_ = task.checked()
    data = task.prepare(application.data, application.validation, application.test, Run())
    torch.manual_seed(0)
    network = task.build()
    network = on_torch(network, packs=kind == "torch") if torchs else network
    optimizer, schedule = task.optimizer(network, data.recipe)
    batches, carry = iter(data.training), None
    weights = sum(weight.numel() for weight in network.parameters())
    found = {"weights": weights, "updates_an_epoch": len(data.training)}
    pipe.send(found | {"lengths": hasattr(next(iter(data.training)), "lengths")})
    with patched(TORCHS_OWN | application.patches if torchs else {}):
        while number := pipe.recv():
            times = []
            for _ in range(number):
                batch = next(batches)
                begun = time.perf_counter(), time.process_time()
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                    each, carry = task.loss(network, batch, carry)
                carry = detached(carry)
                optimizer.zero_grad()
                each.mean().backward()
                nn.utils.clip_grad_norm_(network.parameters(), data.recipe.clip)
                optimizer.step()
                times.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
                schedule.step()
            pipe.send({"times": times, "loss": float(each.detach().mean())})
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def speed(name: str, threads: int, precision: str, turns: int, number: int) -> dict[str, Any]:
    """The time of an update and of an epoch, and the peak of memory, of gatewise and of torch's layers."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {}
    workers, lengths = {}, False
    for kind in ("gatewise", "torch", "torch, padded"):
        if kind == "torch, padded" and not lengths:
            continue
        mine, theirs = context.Pipe()
        process = context.Process(target=updates, args=(name, threads, precision, kind, theirs))
        process.start()
        workers[kind] = mine, process
        found[kind] = mine.recv()
        lengths = found[kind].pop("lengths")
    times: dict[str, list[Any]] = {kind: [] for kind in workers}
    for turn in range(turns + 1):
        for kind, (pipe, _) in workers.items():
            pipe.send(number if turn else WARM_UP * number)
            answer = pipe.recv()
            found[kind]["loss"] = answer["loss"]
            times[kind] += answer["times"] if turn else []
    for kind, (pipe, process) in workers.items():
        pipe.send(0)
        wall, cpu = zip(*times[kind], strict=True)
        median = statistics.median(wall)
        found[kind] |= {
            "update_ms": median * 1e3,
            "update_cpu_ms": statistics.median(cpu) * 1e3,
            "mean_cpu_ms": statistics.mean(cpu) * 1e3,
            "seconds_an_epoch": median * found[kind]["updates_an_epoch"],
            "peak_bytes": pipe.recv(),
        }
        process.join()
    for kind in list(workers)[1:]:
        found[f"{kind} / gatewise"] = {
            unit: found[kind][unit] / found["gatewise"][unit]
            for unit in ("update_ms", "update_cpu_ms", "mean_cpu_ms")
        }
    return found | {"threads": threads, "updates": turns * number}


# -------------------------------------------------------------------------------------- generation


def written(network: Any, words: int) -> None:
    """New words of a language model, one by one, on gatewise's step program."""
    program, choice, symbol = StepProgram(network, 1), Choice(), np.array([END])
    generator = torch.Generator().manual_seed(0)
    for _ in range(words):
        symbol = choice.draw(program.step(symbol), generator).numpy()


def written_by_torch(network: Any, words: int) -> None:
    """The same loop with torch's layer."""
    layer, choice, state = gw.convert(network.recurrent, back=True), Choice(), None
    generator, symbol = torch.Generator().manual_seed(0), torch.tensor([END])
    for _ in range(words):
        output, state = layer(network.embedding(symbol)[:, None], state)
        logits = F.linear(output[:, 0], network.head_weight, network.head_bias)
        symbol = choice.draw(logits, generator)


@torch.no_grad()
def generation(threads: int, words: int = 1000, turns: int = 5) -> dict[str, Any]:
    """The time of a sample of 1,000 words from a model of 10,002 words with 2×650 units."""
    torch.set_num_threads(threads)
    network = LanguageNetwork(10_002, 650, 2).eval()
    times: dict[str, list[tuple[float, float]]] = {"gatewise": [], "torch": []}
    for _ in range(turns):
        for kind, write in (("gatewise", written), ("torch", written_by_torch)):
            begun = time.perf_counter(), time.process_time()
            write(network, words)
            times[kind].append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    found: dict[str, Any] = {}
    for kind, each in times.items():
        wall, cpu = zip(*each, strict=True)
        found[kind] = {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}
    for unit in ("seconds", "cpu_seconds"):
        found[f"gatewise / torch, {unit}"] = found["gatewise"][unit] / found["torch"][unit]
    return found | {
        "words": words,
        "threads": threads,
        "machine": describe(),
        "load": os.getloadavg()[0],
    }


# ------------------------------------------------------------------------------------------ scores


def fit(application: Application, run: Path, precision: Literal["32-true", "bf16-mixed"]) -> None:
    """Fits the task in its run's folder, and continues a fit that was stopped."""
    about = Run(run, resume=True, precision=precision, quiet=True)
    task = application.task()
    task.fit(application.data, validation=application.validation, test=application.test, run=about)
    task.save(run)


def scores(application: Application, run: Path) -> dict[str, Any]:
    """The scores of a saved run on the test part, or the losses of one that has not ended."""
    if (run / "model.json").exists():
        model = gw.load(run)
        evaluation = model.evaluate_held_out(application.data, application.test)
        history = model.history_
        losses = {
            "train": history.train,
            "validation": history.validation,
            "seconds": history.seconds,
        }
        return {"curve": losses, **({} if evaluation is None else evaluation.record())}
    checkpoint = run / "checkpoints" / "last.safetensors"
    if not checkpoint.exists():
        return {}
    from gatewise.train.checkpoint import load

    train, validation = load(checkpoint)["losses"]
    return {"curve": {"train": train, "validation": validation}, "ended": False}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=APPLICATIONS, default=list(APPLICATIONS))
    parser.add_argument(
        "--runs", type=Path, help="a folder with a run's folder for each application"
    )
    parser.add_argument("--fit", action="store_true", help="first fit each in its folder of RUNS")
    parser.add_argument(
        "--generation", action="store_true", help="also time a sample of 1,000 words"
    )
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--turns", type=int, default=5, help="turns of each kind; 0 measures no speed"
    )
    parser.add_argument("--updates", type=int, default=6, help="updates of a turn")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    old = json.loads(given.out.read_text()) if given.out.exists() else {"applications": {}}
    if given.generation:
        old["generation"] = generation(given.threads)
    results, key = old["applications"], f"speed {given.precision}"
    for name in given.only:
        application = APPLICATIONS[name]()
        result = results.setdefault(name, {}) | {"about": application.about}
        if given.turns:
            found = speed(name, given.threads, given.precision, given.turns, given.updates)
            result[key] = found | {"machine": describe(), "load": os.getloadavg()[0]}
        if given.fit:
            fit(application, given.runs / name, given.precision)
        if given.runs is not None:
            result["scores"] = scores(application, given.runs / name)
        results[name] = result
        given.out.write_text(json.dumps(old, indent=1, ensure_ascii=False) + "\n")
        print(
            name,
            json.dumps(result.get(key, {}).get("torch / gatewise")),
            result.get("scores", ""),
        )


if __name__ == "__main__":
    main()
