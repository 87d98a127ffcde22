"""The music model: it learns tunes, scores them, and writes new ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gatewise.arguments import (
    Count,
    Kind,
    Layers,
    Positive,
    Probability,
    Seed,
    checked_options,
    integers,
    parse_path,
)
from gatewise.data.lines import OnError, Problems
from gatewise.data.music.events import Events
from gatewise.data.music.steps import Encoding, Roll, Voices
from gatewise.data.music.tune import TICKS, Tune, to_plain_key
from gatewise.data.music.writing import in_words, write_tunes
from gatewise.data.sources.music import Music, Tunes
from gatewise.errors import DataError, OptionError, caution
from gatewise.gates.page.shown import InputEdit, Shown, first_steps, in_order
from gatewise.gates.page.strips import lines
from gatewise.gates.picture import gate_map
from gatewise.models.music import MusicNetwork, MusicShape
from gatewise.report.rolls import roll_figure
from gatewise.report.scores import Evaluation
from gatewise.report.words import with_unit
from gatewise.tasks.base import Recipe, Task, TrainingData, digest
from gatewise.tasks.entry_checks import Check
from gatewise.tasks.kinds import is_size, members_in
from gatewise.tasks.music import gates, state
from gatewise.tasks.music.baselines import NGrams
from gatewise.tasks.music.beginnings import beginning, frame, melody_of, with_bars
from gatewise.tasks.music.encoding import EncodedTune, encode_tunes, in_plain_key
from gatewise.tasks.music.sampling import continuations, harmonised
from gatewise.tasks.music.training import Batch, TuneBatches, Windows, continued, loader, own_tunes
from gatewise.tasks.ranges import Between, OneOf, Range
from gatewise.tasks.saved import Saved
from gatewise.train.objective import Carry
from gatewise.train.run import Run

Array = np.ndarray

TuneFile = Annotated[Any, Kind(read=parse_path, expected="a path", metavar="FILE")]
Sharps = Annotated[int, integers(-5, 6)]

_COLDEST = 1e-30  # a lower temperature is 0 in single precision

# The baselines by name, with the length of their n-grams.
BASELINES = {"note frequencies": 1, "first-order model": 2, "3-gram": 3}


@dataclass(eq=False, repr=False)
class MusicModel(Task):
    """Learn tunes, score them, and write new ones.

    The data are MIDI, MusicXML or ABC files, a folder of these, or arrays of pitches (.mat, .npz, .json, or in
    memory): piano rolls T×88, lists of T lists of pitches, or voices T×V. A file with the parts train, valid and
    test is split by these parts.

    Args:
        unit: what the network predicts: "step", all notes of the next step of a grid, or "event", the next of
            a tune's events (time shift, note on, note off, velocity, bar line).
        notes: for steps, how their notes depend on each other: "nade", each note on those above it
            (RNN-NADE); "independent", not at all; "voices", each voice on those above it.
        grid: steps of a quarter note. A row of an array is one step.
        hidden: hidden units of each LSTM layer.
        layers: the number of LSTM layers.
        units: the size of the output's hidden vectors, or of the embedding of events.
        dropout: dropout probability of the network's inputs, between layers, and before the output.
        weight_drop: dropout probability of the recurrent weights (Merity et al. 2018).
        transpose: "random" to transpose each tune in training by up to five semitones, anew in each epoch;
            "common" to transpose tunes with a key signature to the one without sharps and flats; or "none".
        window: steps between two updates of the weights. The network's state is carried on.
        batch: tunes per batch.
        epochs: the largest number of passes over the training part.
        learning_rate: the highest learning rate of AdamW. The rate warms up once, then falls along a cosine.
        patience: training ends after this many epochs without a lower validation loss.
        limit: fit to the first so many valid tunes of the data, or of each of its parts, for a quick try. Other data
            are read whole.
        on_error: what to do about a tune that is not valid, such as one whose bars do not add up: "stop" with
            an error, or "skip" it and count it.
        seed: the seed of the weights, of the split, and of the order of tunes.

    Attributes:
        network_: the network.
        encoding_: the encoding of tunes, with what it learned from the training part.
        history_: the losses of each epoch, and the epoch whose weights were kept.
    """

    name: ClassVar[str] = "generate"
    saved_attributes: ClassVar[dict[str, Check]] = state.SAVED
    searched: ClassVar[dict[str, Range]] = {
        "hidden": OneOf((100, 200, 400)),
        "layers": OneOf((1, 2)),
        "dropout": Between(0.0, 0.6),
        "weight_drop": Between(0.0, 0.5),
        "learning_rate": Between(1e-3, 2e-2, log=True),
    }
    not_searched: ClassVar[tuple[str, ...]] = ("seed", "unit", "grid", "limit", "on_error")

    unit: Literal["step", "event"] = "step"
    _: KW_ONLY
    notes: Literal["nade", "independent", "voices"] = "nade"
    grid: Count = 4
    hidden: Count = 200
    layers: Layers = 1
    units: Count = 128
    dropout: Probability = 0.4
    weight_drop: Probability = 0.0
    transpose: Literal["random", "common", "none"] = "random"
    window: Count = 200
    batch: Count = 4
    epochs: Count = 60
    learning_rate: Positive = 5e-3
    patience: Count = 10
    limit: Count | None = None
    on_error: OnError = "stop"
    seed: Seed = 0

    def check_together(self, options: SimpleNamespace) -> None:
        if TICKS % options.grid:
            raise OptionError(f"grid={options.grid} must divide a quarter note of {TICKS} ticks")

    # -------------------------------------------------------------------------------------- data

    def source(
        self, on_error: OnError | None = None, limit: int | None = None, chosen_here: bool = True
    ) -> Music:
        """The reader of tunes; ``on_error`` is the option of a call after ``fit``, if that has one."""
        options = self.options_
        chosen = Problems.of_call(on_error, options.on_error).on_error
        return Music(options.grid, chosen, limit, chosen_here)

    def prepare(self, data: Any, validation: Any, test: Any, run: Run) -> TrainingData:
        read = self.source(limit=self.options_.limit).read(data)
        parts = self._split(read, validation, test)
        if not parts["train"]:
            raise DataError(
                f"{len(read.tunes)} tunes with validation={validation} and test={test} leave no tune to train "
                f"on: give more tunes, or smaller parts"
            )
        self._learn(parts["train"])
        problems = Problems(self.options_.on_error), Problems(self.options_.on_error)
        trained, own = self._encode(Tunes(parts["train"], [], problems[0]))
        held, checked = self._encode(Tunes(parts["valid"], [], problems[1]))
        every = own + checked
        self.seen_ = sorted({digest(tune.steps) for tune in every})
        lengths = [len(tune.steps) for tune in own]
        self.median_steps_, self.longest_ = int(np.median(lengths)), max(lengths)
        self.ngrams_ = NGrams.fitted([tune.steps for tune in own], self.encoding_.symbols)
        self.names_ = [tune.name for tune in (*trained.tunes, *held.tunes)]
        return self._batches(every, len(own), validation, test, run)

    def _split(self, read: Tunes, validation: Any, test: Any) -> dict[str, list[Tune]]:
        """The tunes of the parts "train" and "valid": those of the data's own parts, or a random split."""
        tunes = read.tunes
        if any(read.parts):
            own = {
                name: [t for t, p in zip(tunes, read.parts, strict=True) if p == name]
                for name in ("train", "valid")
            }
            if not is_size(validation):
                own["valid"] = self.source().read(validation).tunes
            return own
        order = np.random.default_rng(self.options_.seed).permutation(len(tunes))
        held: dict[str, list[Tune]] = {"valid": []}
        tested = members_in(test, len(tunes))
        checked = members_in(validation, len(tunes))
        if not is_size(validation):
            held["valid"] = self.source().read(validation).tunes
        else:
            held["valid"] = [tunes[k] for k in sorted(order[tested : tested + checked])]
        return held | {"train": [tunes[k] for k in sorted(order[tested + checked :])]}

    def _encode(self, read: Tunes) -> tuple[Tunes, list[EncodedTune]]:
        """The tunes that can be encoded, as they are and encoded."""
        found = encode_tunes(self._keyed(read.tunes), self.encoding_, read.problems)
        tunes = [read.tunes[k] for k in found.kept]
        parts = [read.parts[k] for k in found.kept] if read.parts else []
        return Tunes(tunes, parts, read.problems), found.tunes

    def _keyed(self, tunes: list[Tune]) -> list[Tune]:
        """The tunes in the key in which the network reads them."""
        return in_plain_key(tunes) if self.options_.transpose == "common" else tunes

    def _learn(self, tunes: list[Tune]) -> None:
        """Learns the encoding from the training part."""
        events = Events.learn(tunes, self.options_.grid)
        self.voices_ = Counter(tune.voices for tune in tunes).most_common(1)[0][0]
        self.line_, self.velocities_ = events.line, events.velocities
        self.meters_ = list(events.meters)
        if uneven := self.encoding_.places.uneven:
            caution(
                f"grid={self.options_.grid} has no whole number of steps in a bar of {', '.join(uneven)}, so new tunes "
                f"cannot keep its bars: give a finer grid="
            )

    @property
    def encoding_(self) -> Encoding:
        options = self.options_
        if options.unit == "event":
            return Events(options.grid, self.line_, self.velocities_, tuple(self.meters_))
        if options.notes == "voices":
            return Voices(options.grid, self.voices_, meters=tuple(self.meters_))
        return Roll(options.grid, meters=tuple(self.meters_))

    def _batches(
        self, encoded: list[EncodedTune], trained: int, validation: Any, test: Any, run: Run
    ) -> TrainingData:
        options = self.options_
        windows = Windows(encoded, self.encoding_, options.window, own_tunes)
        random = options.transpose == "random"
        training = TuneBatches(windows, np.arange(trained), options.batch, options.seed, random)
        held = np.arange(trained, len(encoded))
        checks = None
        if len(held):
            checks = loader(windows, TuneBatches(windows, held, 16, None, False))
        recipe = Recipe(
            options.epochs * len(training),
            options.batch,
            options.learning_rate,
            rounds=options.epochs,
            patience=options.patience,
            seed=options.seed,
        )
        steps = sum(len(tune.steps) for tune in encoded)
        hashed = digest(*(part for tune in encoded for part in tune))
        about = {"rows": steps, "series": len(encoded), "span": ""}
        record = self.training_record(about | {"columns": {"tunes": hashed}}, validation, test, run)
        return TrainingData(loader(windows, training), checks, recipe, record)

    # ----------------------------------------------------------------------------------- network

    def build(self) -> nn.Module:
        options, encoding = self.options_, self.encoding_
        return MusicNetwork(
            MusicShape(
                "events" if options.unit == "event" else options.notes,
                encoding.columns,
                encoding.symbols,
                options.hidden,
                options.layers,
                options.units,
                options.dropout,
                options.weight_drop,
                encoding.places.sizes,
            )
        )

    def loss(self, network: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
        """The loss of each step of a batch's tunes, tune by tune."""
        start = None if batch.fresh else continued(carry, len(batch.lengths))
        given = (batch.before, batch.steps, batch.places, batch.lengths)
        found: tuple[Tensor, Carry] = network.nll(*given, start)  # type: ignore[operator]
        return found

    def describe_member(self, batch: Batch, at: int) -> str:
        ends = batch.lengths.cumsum(0)
        member = int(torch.searchsorted(ends, at, right=True))
        step = batch.start + at - int(ends[member] - batch.lengths[member])
        return f"step {step} of {self.names_[int(batch.tunes[member])]}"

    # ------------------------------------------------------------------------------------ scores

    @torch.no_grad()
    def _losses(self, encoded: list[EncodedTune]) -> list[Array]:
        """The negative log-likelihood of each step of each tune."""
        windows = Windows(encoded, self.encoding_, self.options_.window)
        order = TuneBatches(windows, np.arange(len(encoded)), 16, None, False)
        found: list[list[Array]] = [[] for _ in encoded]
        carry: Carry = None
        for window in order:
            batch = windows[window]
            losses, carry = self.loss(self.network_, batch, carry)
            parts = losses.split(batch.lengths.tolist())
            for tune, part in zip(batch.tunes.tolist(), parts, strict=True):
                found[tune].append(part.double().numpy())
        return [np.concatenate(parts) for parts in found]

    def validation_scores(self, training_data: TrainingData) -> dict[str, float]:
        if training_data.validation is None:
            raise OptionError("validation=0 leaves no tunes to choose by: give a validation part")
        windows: Any = training_data.validation.dataset
        chosen = training_data.validation.sampler.chosen  # type: ignore[attr-defined]
        return {"nll": _mean(self._losses([windows.tunes[k] for k in chosen]))}

    def _encoded(
        self, data: Any, on_error: OnError | None = None, chosen_here: bool = True
    ) -> tuple[Tunes, list[EncodedTune]]:
        self.check_fitted()
        return self._encode(self.source(on_error, chosen_here=chosen_here).read(data))

    def predict(self, data: Any, *, on_error: OnError | None = None) -> Any:
        """A table with a row for each tune: its name, its steps, and their mean negative log-likelihood in nats.

        Args:
            on_error: what is done with a tune that is not valid: "stop" or "skip"; by default as in ``fit``.
        """
        import polars as pl

        read, encoded = self._encoded(data, on_error)
        return pl.DataFrame(
            {
                "tune": [tune.name for tune in read.tunes],
                "steps": [len(tune.steps) for tune in encoded],
                "nll": [float(losses.mean()) for losses in self._losses(encoded)],
            }
        )

    def evaluate(self, data: Any, *, on_error: OnError | None = None) -> Evaluation:
        """The negative log-likelihood in nats of a step, as the mean over all steps of the tunes.

        It is that of all notes of a step together, and it includes each tune's first step. The baselines take
        each note (voice, event) on its own, and know none, one or two of its values before the step. Tunes that
        the model was trained on are left out; of data with a part "test", that part is scored. Of the data of a fit
        with a limit, only the tunes that it read are.

        Args:
            on_error: what is done with a tune that is not valid: "stop" or "skip"; by default as in ``fit``.

        Raises:
            DataError: the model was trained on all of the tunes.
        """
        self.check_fitted()
        read, encoded = self._encode(self._limited(self.source(on_error).read(data)))
        notes: tuple[str, ...] = ()
        if "test" in read.parts:
            chosen = [t for t, part in zip(encoded, read.parts, strict=True) if part == "test"]
        else:
            chosen = [tune for tune in encoded if digest(tune.steps) not in self.seen_]
            if len(chosen) < len(encoded):
                left_out = len(encoded) - len(chosen)
                notes = (f"{left_out} tunes were left out, because the model was trained on them",)
        if not chosen:
            raise DataError(
                "the model was trained on all of these tunes, so they cannot test it: give other tunes, or fit "
                "with test="
            )
        notes += read.problems.notes()
        rows = {
            name: {"nll": _mean([self.ngrams_.nll(tune.steps, length) for tune in chosen])}
            for name, length in BASELINES.items()
        }
        ours = {"nll": _mean(self._losses(chosen))}
        count = sum(len(tune.steps) for tune in chosen)
        unit = f"{self.options_.unit}s of {with_unit(len(chosen), 'tune')}"
        return Evaluation(self.name, ours, rows, count, unit, "nll", notes)

    def _limited(self, read: Tunes) -> Tunes:
        """Of the data of a fit with a limit the tunes that it read; other data as they are."""
        if self.limit is None:
            return read
        first = read.first(self.limit)
        encoded = self._encode(replace(first, problems=Problems("skip")))[1]
        return first if {digest(tune.steps) for tune in encoded} >= set(self.seen_) else read

    # ---------------------------------------------------------------------------------- generation

    def generate(
        self,
        *,
        samples: Count = 1,
        steps: Count | None = None,
        shortest: Count | None = None,
        temperature: Positive = 1.0,
        start: TuneFile | None = None,
        keep: Positive | None = None,
        melody: TuneFile | None = None,
        particles: Count = 32,
        meter: str | None = None,
        sharps: Sharps | None = None,
        tempo: Positive = 100.0,
        seed: Seed = 0,
    ) -> list[Tune]:
        """New tunes. The same seed gives the same tunes.

        Args:
            samples: the number of tunes.
            steps: the number of steps of each tune, or its largest number of events, with those of ``start``. The
                default is the median of the training tunes, or twice the events of the longest.
            shortest: the number of events before which no tune ends, with those of ``start``. By default a tune may
                end anywhere.
            temperature: below 1 for more probable tunes, above 1 for more surprising ones.
            start: a file with the tune that all tunes begin with. In Python also a Tune.
            keep: the quarter notes of ``start`` that are kept; all by default.
            melody: a file with a melody to harmonise: its highest notes are kept, and the notes or voices below
                are drawn. In Python also a Tune.
            particles: the number of harmonies that are followed at once, for ``melody``.
            meter: the metre of the tunes, such as 6/8. By default a model of events draws it, and one of steps takes
                the most frequent metre of the training part.
            sharps: the key signature of the tunes, from -5 (flats) to 6, where the model has
                ``transpose="common"``. The default is that of ``start`` or ``melody``, or no sharps and flats.
            tempo: quarter notes per minute.
            seed: the seed of the draws.

        Raises:
            OptionError: an option is not valid, or not one for this model.
            DataError: the file of ``start`` or ``melody`` is not valid.
        """
        self.check_fitted()
        options = checked_options(type(self).generate, locals())
        if melody is not None and start is not None:
            raise OptionError(
                "give start= to continue a tune, or melody= to harmonise one, not both"
            )
        if options.meter is not None and (melody is not None or start is not None):
            raise OptionError(
                f"meter={options.meter!r} is for new tunes: one that is continued or harmonised keeps its own"
            )
        if options.sharps is not None and self.options_.transpose != "common":
            raise OptionError("sharps= needs a model that was fitted with transpose='common'")
        known_tune = start if melody is None else melody
        own = None if known_tune is None else self._read_one(known_tune)
        sharps = own.sharps if options.sharps is None and own is not None else options.sharps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            drawn, bars = self._drawn(options, own)
        return [
            self._finished(steps, f"sample {k + 1}", bars, sharps, options.tempo)
            for k, steps in enumerate(drawn)
        ]

    def _drawn(self, options: SimpleNamespace, own: Tune | None) -> tuple[list[Array], Tune]:
        """The steps of each sample, and a tune with their metre and bars. ``own`` is the tune to continue or to
        harmonise."""
        temperature = max(options.temperature, _COLDEST)
        encoding = self.encoding_
        keyed = None if own is None else self._keyed([own])[0]
        if options.melody is not None and keyed is not None:
            given, bars = melody_of(encoding, keyed), frame(encoding, keyed, options.meter)
            clocks = (
                encoding.clock(bars, len(given), options.particles) for _ in range(options.samples)
            )
            return [harmonised(self.network_, given, clock, temperature) for clock in clocks], bars
        if keyed is not None and options.keep is not None:
            keyed = keyed.before(round(options.keep * TICKS))
        bars = frame(encoding, keyed, options.meter)
        begin = beginning(encoding, keyed, options.meter)
        events = encoding if isinstance(encoding, Events) else None
        usual = self.median_steps_ if events is None else 2 * self.longest_
        steps = options.steps or usual
        if len(begin) >= steps:
            raise OptionError(
                f"steps={steps}{'' if options.steps else ', the default,'} leaves nothing to add to the "
                f"{len(begin)} {self.options_.unit}s of start=: give more steps=, or keep="
            )
        shortest = options.shortest or 0
        if shortest and (events is None or shortest > steps):
            raise OptionError(
                f"shortest={shortest} is for models of events (unit='event'), and at most steps={steps}"
            )
        clock = encoding.clock(bars, steps, options.samples)
        drawn = continuations(self.network_, begin, clock, steps, temperature, events, shortest)
        return drawn, bars

    def write_samples(self, samples: list[Tune], out: Path | None) -> list[Path]:
        if out is not None:
            return write_tunes(samples, out)
        for tune in samples:
            print(f"{tune.name}\n{in_words(tune)}\n")
        return []

    def _finished(
        self, steps: Array, name: str, bars: Tune, sharps: int | None, tempo: float
    ) -> Tune:
        """The tune of steps with its metre, bars and tempo, in the key that is asked for, or in that of the tune
        that it continues."""
        decoded = self.encoding_.decode(steps, name)
        tune = replace(with_bars(decoded, self.encoding_, len(steps), bars), tempo=tempo)
        if self.options_.transpose != "common":
            return replace(tune, sharps=sharps)
        tune = replace(tune, sharps=0)
        return tune.transposed(-to_plain_key(sharps)) if sharps else tune

    def _read_one(self, given: Any) -> Tune:
        found = self.source(chosen_here=False).read(given).tunes
        if len(found) > 1:
            raise DataError(f"{given} has {len(found)} tunes; give a file with one")
        return found[0]

    # ------------------------------------------------------------------------------------- report

    def inputs(self, data: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The step before each step of the first tune, where each stands in its bar, and their number."""
        _, encoded = self._encoded(data, chosen_here=False)
        windows = Windows(encoded[:1], self.encoding_, len(encoded[0].steps))
        batch = windows[next(iter(TuneBatches(windows, np.arange(1), 1, None, False)))]
        return batch.before, batch.places, batch.lengths

    def shown(self, data: Any, limit: int, steps: int) -> Shown:
        read, encoded = self._encoded(data, chosen_here=False)
        encoded = encoded[:limit]
        names = [tune.name[-48:] for tune in read.tunes[: len(encoded)]]

        def edited(k: int, edits: Sequence[InputEdit]) -> Shown:
            changed = gates.with_changes(self.encoding_, encoded[k].steps, edits)
            return self._shown([encoded[k]._replace(steps=changed)], [names[k]], steps)

        return self._shown(encoded, names, steps).with_edits(edited)

    def _shown(self, encoded: list[EncodedTune], names: list[str], steps: int) -> Shown:
        """What is shown of tunes: the network reads each as a whole."""
        longest = max(len(each.steps) for each in encoded)
        windows = Windows(encoded, self.encoding_, longest)
        every = np.arange(len(encoded))
        batch = windows[next(iter(TuneBatches(windows, every, len(every), None, False)))]
        order = batch.tunes.argsort().tolist()  # a batch has its tunes in another order
        inputs = (batch.before, batch.places, batch.lengths)
        traces = self.traces(inputs)
        with torch.no_grad():
            losses = self.loss(self.network_, batch, None)[0].split(batch.lengths.tolist())
        return Shown(
            {name: first_steps(in_order(trace, order), steps) for name, trace in traces.items()},
            names,
            [gates.steps_strip(self.encoding_, each.steps[:steps]) for each in encoded],
            [
                lines("surprise at the next step, in nats", {"nll": losses[k][:steps]})
                for k in order
            ],
            inputs,
        )

    def figures(self, data: Any) -> dict[str, Any]:
        first = self.source().read(data).tunes[0]
        tunes = self.generate(samples=2)
        rows = {first.name: first} | {f"sample {k + 1}": tune for k, tune in enumerate(tunes)}
        trace = self.traced(self.inputs([first]))
        return {
            "A tune of the data, and two samples": roll_figure(rows),
            f"Gates over {first.name[-48:]}": gate_map(trace),
        }

    # ------------------------------------------------------------------------------------- saving

    def tensors(self) -> dict[str, Tensor]:
        return state.tensors_of(self.ngrams_)

    def expected_tensors(self, saved: Saved) -> tuple[dict[str, Tensor], set[str]]:
        return state.expected_tensors(saved), set()

    def restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        encoding = self.encoding_
        self.ngrams_ = state.ngrams_of(tensors, encoding.symbols, encoding.columns)


def _mean(losses: list[Array]) -> float:
    """The mean over all steps of all tunes."""
    return float(np.concatenate(losses).mean())
