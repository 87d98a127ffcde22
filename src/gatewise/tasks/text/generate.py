"""The language model: the next symbol of a text, and new texts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from gatewise.arguments import (
    Count,
    Layers,
    NonNegative,
    NonNegativeCount,
    Positive,
    Probability,
    ProbabilityBelowOne,
    Seed,
    Share,
    checked_options,
)
from gatewise.atomic import write_atomically
from gatewise.data.corpus import first_input, stream, windows
from gatewise.data.lines import OnError, Problems, text_files
from gatewise.data.sources.text import numbered_lines_of, pieces_of
from gatewise.data.spool import SpooledTexts
from gatewise.data.tokens import END, UNKNOWN, Tokenizer, Unit, smallest_size
from gatewise.errors import DataError, ModelFileError, OptionError, caution
from gatewise.gates.page.shown import InputEdit, Shown, in_parts, with_words
from gatewise.gates.page.strips import words
from gatewise.models.cache import Cache
from gatewise.models.language import Dropouts, LanguageNetwork
from gatewise.models.ngrams import KneserNey, unigram_log_probabilities
from gatewise.models.sampling import Choice
from gatewise.options import integer, number, short_repr
from gatewise.processes import rank_and_count
from gatewise.report.scores import Evaluation
from gatewise.report.words import percent, with_unit
from gatewise.tasks.base import CPU, Recipe, Run, Task, TrainingData, digest
from gatewise.tasks.entry_checks import Check, count, object_with, text
from gatewise.tasks.kinds import AnyCell, Device, Part, device_of, is_size, members_in
from gatewise.tasks.ranges import Between, OneOf, Range
from gatewise.tasks.saved import Saved
from gatewise.tasks.text.pictures import surprise_figure
from gatewise.tasks.text.scoring import Scorer
from gatewise.tasks.text.writer import Writer
from gatewise.train.objective import Carry
from gatewise.train.optimizers import averaging_sgd, decayed_sgd
from gatewise.train.recipe import one_cycle

Array = np.ndarray

ORDER = 5  # of the n-gram baseline
COUNTED = 1 << 23  # the symbols of the training part that the baselines know: the last ones
SHOWN = 400  # symbols in the report's picture of a text
# The default learning rate and weight decay of each method. That of sgd is of Zaremba et al. 2014, the decay of
# nt-asgd of Merity et al. 2018.
RATES = {"adamw": (4e-3, 0.01), "sgd": (20.0, 0.0), "nt-asgd": (20.0, 1.2e-6)}
_MUSIC = {".mid", ".midi", ".mxl", ".musicxml"}


@dataclass(eq=False, repr=False)
class LanguageModel(Task):
    """Predict the next word, subword or character of a text, and write new texts.

    The state is carried from window to window through the whole text. A line's end is a symbol.

    Args:
        unit: what a symbol is: "word" for words between white space, "subword" for parts of words (byte
            pair encoding), "char" for characters.
        cell: the name of a built-in cell. In Python also a cell made with :func:`gatewise.cell`.
        hidden: hidden units of each recurrent layer.
        layers: the number of recurrent layers.
        embedding: the width of the embedding; by default that of the layers.
        vocabulary: the greatest number of different symbols; the rarest become unknown.
        min_count: how often a symbol must occur in the training part; others become unknown. With 2 or more the
            model learns how often unknown symbols come.
        lower: make all letters small.
        tied: use the embedding as the weight of the output layer too (Press & Wolf 2017).
        dropout: dropout probability of the embedding's outputs, between layers and before the output layer.
        locked_dropout: use one dropout mask for all steps of a window (Gal & Ghahramani 2016).
        word_dropout: the probability of dropping a symbol's whole embedding.
        weight_drop: the probability of dropping a recurrent weight (Merity et al. 2018).
        activation_penalty: the weight in the loss of the mean square of the output layer's inputs, after dropout
            (Merity et al. 2017).
        change_penalty: the weight of the mean square of the changes from step to step of the last recurrent
            layer's outputs, before dropout.
        method: "adamw" with a rate that warms up once and falls along a cosine; "sgd" with a constant rate
            that falls by a factor later; or "nt-asgd": SGD with a constant rate, which averages the weights
            once the validation loss stops falling (Merity et al. 2018).
        learning_rate: the highest learning rate; of the mean loss of a window's symbols. By default 0.004 for
            adamw, and 20 for the others.
        decay: the factor of the rate of sgd in each epoch after the constant ones.
        constant_epochs: the number of epochs with a constant rate of sgd.
        nonmonotone: nt-asgd averages after the first epoch whose validation loss is higher than the lowest of the
            epochs before it, without the last so many of these.
        weight_decay: of adamw, the decay, by default 0.01; of the others, the L2 penalty, by default 0 for sgd and
            1.2e-6 for nt-asgd.
        clip: the norm to which a larger gradient is clipped.
        initial_range: weights are drawn uniformly from this number around 0. By default the recurrent layers
            have those of their cell, and the embedding 0.1.
        epochs: the largest number of passes over the training part.
        batch: columns into which the training part is cut.
        window: symbols of each column between two updates.
        patience: training ends after this many epochs without a lower validation loss. By default 4, and for
            nt-asgd 6 more than nonmonotone.
        on_error: "stop" at bytes that are not UTF-8, or "skip" their line and count it.
        limit: fit to the first so many lines of the data, for a quick try. Other data are read whole.
        keep_text: keep the symbols of the training part (at most the last 8 million) in the saved model.
            ``evaluate`` needs them for its baselines.
        seed: the seed of the weights and of dropout. The same seed gives the same model.
    """

    name: ClassVar[str] = "generate"
    saved_attributes: ClassVar[dict[str, Check]] = {
        "tokenizer": text,
        "seen": object_with({"lines": count, "read": count, "digest": text}),
    }
    searched: ClassVar[dict[str, Range]] = {
        "hidden": OneOf((100, 200, 400)),
        "layers": OneOf((1, 2)),
        "dropout": Between(0.0, 0.6),
        "learning_rate": Between(1e-3, 1e-2, log=True),
    }
    not_searched: ClassVar[tuple[str, ...]] = (
        "seed",
        "unit",
        "lower",
        "on_error",
        "limit",
        "keep_text",
    )

    unit: Unit = "word"
    cell: AnyCell = "lstm"
    hidden: Count = 200
    layers: Layers = 2
    _: KW_ONLY
    embedding: Count | None = None
    vocabulary: Count = 10_000
    min_count: Count = 1
    lower: bool = False
    tied: bool = True
    dropout: ProbabilityBelowOne = 0.2
    locked_dropout: bool = False
    word_dropout: ProbabilityBelowOne = 0.0
    weight_drop: ProbabilityBelowOne = 0.0
    activation_penalty: NonNegative = 0.0
    change_penalty: NonNegative = 0.0
    method: Literal["adamw", "sgd", "nt-asgd"] = "adamw"
    learning_rate: Positive | None = None
    decay: Probability = 0.5
    constant_epochs: Count = 4
    nonmonotone: Count = 5
    weight_decay: NonNegative | None = None
    clip: Positive = 0.25
    initial_range: Positive | None = None
    epochs: Count = 12
    batch: Count = 20
    window: Count = 35
    patience: Count | None = None
    on_error: OnError = "stop"
    limit: Count | None = None
    keep_text: bool = True
    seed: Seed = 0

    def check_together(self, options: SimpleNamespace) -> None:
        integer("vocabulary", options.vocabulary, smallest_size(options.unit))
        averages = options.nonmonotone + 2  # in the round after so many without a lower loss
        patience = self.value_of("patience")
        if options.method == "nt-asgd" and patience < averages:
            raise OptionError(
                f"patience={patience} ends the training before nonmonotone={options.nonmonotone} starts the "
                f"averaging of nt-asgd: give {averages} or more"
            )

    def value_of(self, name: str) -> Any:
        rate, decay = RATES[self.method]
        patience = self.nonmonotone + 6 if self.method == "nt-asgd" else 4
        defaults = {"learning_rate": rate, "weight_decay": decay, "patience": patience}
        given = super().value_of(name)
        return defaults.get(name) if given is None else given

    # ----------------------------------------------------------------------------------- learning

    def fit(
        self, data: Any, *, validation: Part = 0.15, test: Part = 0.15, run: Run | None = None
    ) -> Self:
        """Fits the model to a text. A fit that is interrupted leaves the model unchanged.

        Args:
            data: a file, a folder, a list of ``pathlib.Path``, or a list of texts, each of which is a line.
            validation: the part for early stopping and to choose the best weights: a share of the lines that
                the test part leaves (below 1), a number of lines (0 for none), or a file.
            test: the part that is held out to score the model, the end of the text: a share of the lines
                (below 1), a number of lines (0 for none), or a file.
            run: devices, output folder and whether to resume.
        """
        return super().fit(data, validation=validation, test=test, run=run)

    def prepare(self, data: Any, validation: Any, test: Any, run: Run) -> TrainingData:
        problems = Problems(self.options_.on_error)
        lines = self.lines(data, problems, self.options_.limit)
        held = _lines_in(test, len(lines))
        seen = len(lines) - held
        checked = _lines_in(validation, seen)
        trained = seen - checked
        if trained < 1:
            raise DataError(
                f"{_shown(data)} has {with_unit(len(lines), 'line')}, too few for a training part beside "
                f"validation={validation} and test={test}: give a longer text, or smaller parts"
            )
        for name, part, size in ("test", test, held), ("validation", validation, checked):
            if is_size(part) and part and not size:
                caution(
                    f"{_shown(data)} has {with_unit(len(lines), 'line')}, of which {name}={part} is none: there is no "
                    f"{name} part"
                )
        self.tokenizer_ = self.learned_tokenizer(lines[k] for k in range(trained))
        symbols, starts = stream(lines, self.tokenizer_)
        of_training = symbols[: starts[trained]]
        self.training_ = np.array(of_training[-COUNTED:])
        of_seen = digest(symbols[: starts[seen]])
        self.seen_: dict[str, Any] = {"lines": seen, "read": len(lines), "digest": of_seen}
        of_checks = symbols[starts[trained] : starts[seen]]
        if not is_size(validation):
            checked_lines = self.lines(validation, problems)
            of_checks = stream(checked_lines, self.tokenizer_)[0]
        for note in problems.notes():
            caution(note)
        training = self.batches(of_training, "training")
        checks = self.batches(of_checks, "validation") if len(of_checks) else None
        about = {"rows": len(lines), "series": 1, "span": ""}
        columns = {"text": digest(symbols), "validation": digest(of_checks)}
        record = self.training_record(about | {"columns": columns}, validation, test, run)
        return TrainingData(training, checks, self.recipe(len(training)), record)

    def lines(
        self,
        data: Any,
        problems: Problems | None = None,
        limit: int | None = None,
    ) -> SpooledTexts:
        """The lines of files or of a folder, or the texts of a list, each with its end.

        Args:
            problems: what is done with bytes that are not UTF-8; None for what ``fit`` did.
            limit: read only so many lines.

        Raises:
            DataError: the data is not valid, or has no text.
        """
        return SpooledTexts(line for line, _, _ in self._numbered(data, problems, limit))

    def _numbered(
        self, data: Any, problems: Problems | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, str | None, int]]:
        """The lines, see :meth:`lines`, each with its file, or None, and its number."""
        # a call without the option on_error does as fit did
        problems = problems or Problems(self.options_.on_error, chosen_here=False)
        check_no_music(data)
        nothing = True
        for line, source, at in numbered_lines_of(data, problems, limit):
            nothing = nothing and not line.strip()
            # a piece of a long line of a file has no end
            ends = source is not None or line.endswith("\n")
            yield line if ends else f"{line}\n", source, at
        if nothing:
            raise DataError(f"{_shown(data)} has no text")

    def learned_tokenizer(self, lines: Iterator[str]) -> Tokenizer:
        """The tokenizer of the training part."""
        options = self.options_
        parts = (part for line in lines for part in line.split("\n"))
        return Tokenizer.learn(
            lines if options.unit == "char" else parts,
            options.unit,
            options.vocabulary,
            options.min_count,
            options.lower,
        )

    def batches(self, symbols: Array, part: str) -> DataLoader:
        """The windows of a part, in as many columns as ``batch`` says, or fewer if the part is short."""
        options = self.options_
        columns = max(1, min(options.batch, len(symbols) // options.window))
        if len(symbols) < 2:
            raise DataError(
                f"the {part} part has {with_unit(len(symbols), 'symbol')}: give a longer text"
            )
        first = first_input(self.tokenizer_)
        return windows(symbols, first, columns, options.window, _share)

    def recipe(self, windows: int) -> Recipe:
        options = self.options_
        return Recipe(
            options.epochs * windows,
            options.batch,
            float(self.value_of("learning_rate")),
            float(self.value_of("weight_decay")),
            options.clip,
            options.epochs,
            int(self.value_of("patience")),
            options.seed,
        )

    def build(self) -> nn.Module:
        options = self.options_
        network = LanguageNetwork(
            len(self.tokenizer_),
            options.hidden,
            options.layers,
            cell=options.cell,
            embedding=options.embedding,
            tied=options.tied,
            dropouts=Dropouts(
                options.dropout, options.locked_dropout, options.word_dropout, options.weight_drop
            ),
        )
        if options.initial_range is not None:
            for weight in network.parameters():
                nn.init.uniform_(weight, -options.initial_range, options.initial_range)
        return network

    def optimizer(self, network: nn.Module, recipe: Recipe) -> tuple[Optimizer, LRScheduler]:
        options = self.options_
        if options.method == "adamw":
            return one_cycle(network, recipe)
        if options.method == "nt-asgd":
            return averaging_sgd(network, recipe, options.nonmonotone)
        return decayed_sgd(network, recipe, options.decay, options.constant_epochs)

    def loss(self, network: Any, batch: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        options = self.options_
        read = network.losses(batch[:, :-1], batch[:, 1:], carry)
        each, outputs = read.losses.mean(1), read.outputs
        if network.training and options.activation_penalty:
            each = each + options.activation_penalty * read.features.square().mean((1, 2))
        if network.training and options.change_penalty and outputs.shape[1] > 1:
            change = outputs.diff(dim=1).square().mean((1, 2))
            each = each + options.change_penalty * change
        return each, read.state

    def weight_of(self, batch: Tensor, members: int) -> int:
        """The number of the batch's symbols; the last window of a text may be short."""
        return members * (batch.shape[1] - 1)

    # ------------------------------------------------------------------------------------ scoring

    def unseen(self, lines: SpooledTexts, data: Any) -> SpooledTexts:
        """The lines of ``data`` without those of the training and validation parts, if it begins with these. Then
        lines beyond a limit of ``fit`` are not among them, unless it had no test part."""
        seen, end = self.seen_["lines"], len(lines)
        if self.limit is not None and self.seen_["read"] > seen:
            end = min(end, self.seen_["read"])
        if len(lines) < seen:
            return lines
        first = SpooledTexts(lines[k] for k in range(seen))
        if digest(stream(first, self.tokenizer_)[0]) != self.seen_["digest"]:
            return lines
        if len(lines) == seen:
            raise DataError(
                f"the model was trained on all {seen:,} lines of {_shown(data)}: evaluate it on another text"
            )
        return SpooledTexts(lines[k] for k in range(seen, end))

    def scorer(self, device: torch.device, cache: Cache | None = None) -> Scorer:
        """What gives the log probability of each symbol of a text."""
        network = self.network_on(device)
        return Scorer(network, first_input(self.tokenizer_), device, cache)

    def evaluate(
        self,
        data: Any,
        *,
        cache: NonNegativeCount = 0,
        cache_share: ProbabilityBelowOne = 0.1,
        cache_flatness: Positive = 0.3,
        device: Device = "cpu",
        on_error: OnError | None = None,
    ) -> Evaluation:
        """The scores of the model and of two baselines on a text that the model was not trained on.

        The baselines are an n-gram model of order 5 with modified Kneser-Ney smoothing, and the frequency
        of each symbol, both of the training part. Perplexity is of symbols with the ends of lines.

        Args:
            cache: the number of earlier symbols in a neural cache, which is mixed with the model (Grave et
                al. 2017); 0 for none.
            cache_share: the weight of the cache in the mixture.
            cache_flatness: the factor of the products of outputs in the cache; more makes it sharper.
            device: where the network runs: "cpu", "cuda", "cuda:1".
            on_error: what is done with a line that is not UTF-8: "stop" or "skip"; by default as in ``fit``.

        Raises:
            DataError: the model was trained on every line, or the text is empty.
        """
        self.check_fitted()
        memory = Cache(
            integer("cache", cache, 0),
            number("cache_share", cache_share, "a share from 0 to below 1", least=0, below=1),
            number("cache_flatness", cache_flatness, "a number above 0", above=0),
        )
        where = device_of("device", device)
        problems = Problems.of_call(on_error, self.options_.on_error)
        lines = self.unseen(self.lines(data, problems), data)
        return self._evaluation(lines, problems, where, memory)

    def evaluate_held_out(self, data: Any, test: Any) -> Evaluation | None:
        if not is_size(test):
            return self.evaluate(test)
        problems = Problems(self.options_.on_error)
        lines = self.lines(data, problems, self.options_.limit)
        if len(lines) == self.seen_["lines"]:
            return None
        return self._evaluation(self.unseen(lines, data), problems, CPU)

    def _evaluation(
        self,
        lines: SpooledTexts,
        problems: Problems,
        device: torch.device,
        memory: Cache | None = None,
    ) -> Evaluation:
        """The scores on these lines; ``problems`` has what was left out of them."""
        symbols, _ = stream(lines, self.tokenizer_)
        characters = sum(map(len, lines))
        ours = self.scorer(device, memory).log_probabilities(symbols)
        unknown = float((symbols == UNKNOWN).mean())
        notes = [f"{percent(unknown)} of the symbols are unknown to the model."] if unknown else []
        notes.extend(problems.notes())
        if not len(self.training_):
            notes.append("The model was saved without the text of the baselines (keep_text=False).")
        if len(self.training_) == COUNTED:
            notes.append(f"The baselines know the last {COUNTED:,} symbols of the training part.")
        return Evaluation(
            self.name,
            _scores(ours, characters),
            {name: _scores(row, characters) for name, row in self._baselines(symbols).items()},
            len(symbols),
            {"word": "words", "subword": "subwords", "char": "characters"}[self.unit],
            "bits_per_character" if self.unit == "char" else "perplexity",
            tuple(notes),
        )

    def _baselines(self, symbols: Array) -> dict[str, Array]:
        """The log probabilities of the symbols of a text under each baseline."""
        training, size = self.training_, len(self.tokenizer_)
        if not len(training):
            return {}
        before = np.array([first_input(self.tokenizer_)])
        return {
            "Kneser-Ney 5-gram": KneserNey(training, size, ORDER).log_probabilities(
                symbols, before
            ),
            "frequency": unigram_log_probabilities(training, symbols, size),
        }

    def validation_scores(self, training_data: TrainingData) -> dict[str, float]:
        nll = self.history_.validation[self.history_.best]
        return {"nll": nll, "perplexity": float(np.exp(nll))}

    def predict(self, data: Any, *, device: Device = "cpu", on_error: OnError | None = None) -> Any:
        """The log probability of each line, given all lines before it.

        Args:
            device: where the network runs: "cpu", "cuda", "cuda:1".
            on_error: what is done with a line that is not UTF-8: "stop" or "skip"; by default as in ``fit``.

        Returns:
            A polars table with the columns ``file`` (null for a list of texts), ``line`` (its number in the file or
            the list), ``text``, ``symbols`` (their number, with the line's end), ``log_probability`` and
            ``perplexity``.
        """
        import polars as pl

        return pl.concat(self._tables(data, device, on_error))

    def predict_parts(self, data: Any, **options: Any) -> Iterator[Any]:
        yield from self._tables(data, **options)

    def _tables(
        self, data: Any, device: Device = "cpu", on_error: OnError | None = None
    ) -> Iterator[Any]:
        """The table of :meth:`predict` for some of the lines at a time."""
        import polars as pl

        self.check_fitted()
        problems = Problems.of_call(on_error, self.options_.on_error)
        scorer = self.scorer(device_of("device", device))
        for some in pieces_of(self._numbered(data, problems), lambda line: len(line[0])):
            symbols, starts = stream((line for line, _, _ in some), self.tokenizer_)
            each = scorer.log_probabilities(symbols)
            sums = np.diff(np.concatenate([[0.0], each.cumsum()])[starts])
            counts = np.diff(starts)
            yield pl.DataFrame(
                {
                    "file": pl.Series([file for _, file, _ in some], dtype=pl.String),
                    "line": [number for _, _, number in some],
                    "text": [line.removesuffix("\n") for line, _, _ in some],
                    "symbols": counts,
                    "log_probability": sums,
                    "perplexity": np.exp(-sums / np.maximum(counts, 1)),
                }
            )
        for note in problems.notes():
            caution(note)

    def inputs(self, data: Any) -> tuple[Tensor]:
        """1×T: the symbols of a text as the network reads them."""
        symbols, _ = stream(self.lines(data), self.tokenizer_)
        text = np.concatenate([[first_input(self.tokenizer_)], symbols[:-1]])
        return (torch.from_numpy(text).long()[None],)

    def figures(self, data: Any) -> dict[str, Any]:
        lines = self.lines(data, limit=self.options_.limit)
        begin = min(self.seen_["lines"], len(lines) - 1)
        symbols, starts = stream(lines, self.tokenizer_)
        text = symbols[starts[begin] :][:SHOWN]
        bits = -self.scorer(CPU).log_probabilities(text) / np.log(2)
        return {"What was expected, and what was not": surprise_figure(self.pieces(text), bits)}

    def shown(self, data: Any, limit: int, steps: int) -> Shown:
        """Consecutive parts of the text. The state is carried from each to the next."""
        problems = Problems(self.options_.on_error, chosen_here=False)
        lines = self.lines(data, problems, limit=limit * steps)
        for note in problems.notes():
            caution(note)
        symbols = stream(lines, self.tokenizer_)[0][: limit * steps]
        text = np.concatenate([[first_input(self.tokenizer_)], symbols[:-1]])
        known = self.tokenizer_.by_text | {"\n": END}

        def edited(k: int, edits: Sequence[InputEdit]) -> Shown:
            begin = k * steps
            moved = [replace(edit, at=begin + edit.at) for edit in edits]
            changed = with_words(text[: begin + steps], moved, known)
            return self._shown(changed, steps).only(k)

        return self._shown(text, steps).with_edits(edited)

    def _shown(self, text: Array, steps: int) -> Shown:
        """What is shown of a text of symbols, in parts of so many steps."""
        inputs = (torch.from_numpy(text).long()[None],)
        traces = self.traces(inputs)
        surest, following = traces.output[0][0].softmax(-1).max(-1)
        read, next_ = self.pieces(text), self.pieces(following.numpy())
        strips, predictions, labels = [], [], []
        for first in range(0, len(text), steps):
            part = slice(first, first + steps)
            labels.append(f"{self.unit}s {first + 1:,} to {min(first + steps, len(text)):,}")
            strips.append(words("text", read[part]))
            surest_next = words("most probable next", next_[part], surest[part].tolist())
            predictions.append(surest_next.with_note("the bar is its probability"))
        parts = {name: in_parts(trace, steps) for name, trace in traces.items()}
        return Shown(parts, labels, strips, predictions, inputs, begins=range(0, len(text), steps))

    def pieces(self, symbols: Array) -> list[str]:
        """The text of each symbol; "\\n" for the end of a line."""
        names = [self.tokenizer_.symbols[k] for k in symbols]
        if self.unit == "word":
            return ["\n" if k == END else f"{n} " for k, n in zip(symbols, names, strict=True)]
        if self.unit == "subword":
            return ["\n" if k == END else self.tokenizer_.decode([k]) for k in symbols]
        return names

    # --------------------------------------------------------------------------------- generation

    def generate(
        self,
        *,
        prompt: str = "",
        length: Count = 200,
        samples: Count = 1,
        temperature: Positive = 1.0,
        top_k: Count | None = None,
        top_p: Share | None = None,
        stop: str | None = None,
        seed: Seed = 0,
    ) -> list[str]:
        """New texts, each with the prompt before it.

        Symbols are drawn one after the other. Unknown symbols are never drawn. The same seed gives the same
        texts.

        Args:
            prompt: the text that the new one continues.
            length: the number of new symbols.
            samples: the number of texts.
            temperature: below 1 for more probable symbols, above 1 for rarer ones.
            top_k: draw only from so many of the most probable symbols.
            top_p: draw only from the most probable symbols that have together this probability.
            stop: a text ends before this text, if it comes.
            seed: the seed of the draws.

        Raises:
            OptionError: an option is not valid, or the layers are bidirectional.
        """
        self.check_fitted()
        if stop == "":
            raise OptionError("stop must be a text of one character or more, not ''")
        options = checked_options(type(self).generate, locals())
        choice = Choice(options.temperature, options.top_k, options.top_p)
        writer = Writer(self.network_, self.tokenizer_, options.samples)
        generator = torch.Generator().manual_seed(options.seed)
        return writer.write(options.prompt, options.length, choice, options.stop, generator)

    def write_samples(self, samples: list[str], out: Path | None) -> list[Path]:
        line = "-" * 20
        page = f"\n{line}\n".join(samples)
        if out is None:
            print(page)
            return []
        write_atomically(out.parent, {out.name: f"{page}\n".encode()})
        return [out]

    # ------------------------------------------------------------------------------------- saving

    def learned(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer_.to_json(), "seen": self.seen_}

    def restore_learned(self, learned: dict[str, Any]) -> None:
        self.tokenizer_ = Tokenizer.from_json(learned["tokenizer"])
        self.seen_ = learned["seen"]

    def tensors(self) -> dict[str, Tensor]:
        return {
            "training": torch.from_numpy(self.training_ if self.keep_text else self.training_[:0])
        }

    def expected_tensors(self, saved: Saved) -> tuple[dict[str, Tensor], set[str]]:
        length = saved.shape_of("training")[:1]
        return {"training": torch.empty(length, dtype=torch.int32, device="meta")}, set()

    def restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        training = tensors["training"].numpy()
        if len(training) and not 0 <= training.min() <= training.max() < len(self.tokenizer_):
            raise ModelFileError("the training text has symbols that the tokenizer does not have")
        self.training_ = training


def check_no_music(data: Any) -> None:
    """Raises DataError for files of music, which another class of this task reads."""
    given = (
        data
        if isinstance(data, (list, tuple))
        else [Path(data)]
        if isinstance(data, str)
        else [data]
    )
    for path in text_files(each for each in given if isinstance(each, os.PathLike)):
        if path.suffix.lower() in _MUSIC:
            raise DataError(
                f"{path} is music: give unit='event' or unit='step' for a model of music"
            )


def _lines_in(part: Any, total: int) -> int:
    """The number of lines of a part. A share of a single line is none."""
    return 0 if total == 1 and isinstance(part, float) else members_in(part, total)


def _shown(data: Any) -> str:
    return str(data) if isinstance(data, (str, os.PathLike)) else short_repr(data)


def _share(columns: Array) -> Array:
    """The columns that this process of a training run takes, at least one."""
    rank, count = rank_and_count()
    return columns[rank % len(columns) :: count]


def _scores(log_p: Array, characters: int) -> dict[str, float]:
    return {
        "perplexity": float(np.exp(-log_p.mean())),
        "bits_per_character": float(-log_p.sum() / np.log(2) / max(characters, 1)),
        "nll": float(-log_p.mean()),
    }
