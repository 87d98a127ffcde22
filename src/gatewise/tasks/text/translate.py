"""The translator: a text in one language from a text in another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gatewise.arguments import (
    Count,
    Layers,
    NonNegative,
    Positive,
    Probability,
    Seed,
)
from gatewise.data.buckets import BucketBatches, padded_ids, sorted_batches
from gatewise.data.lines import OnError, Problems, check_text
from gatewise.data.output import joined, table_like
from gatewise.data.sources.text import digests, pieces_of, texts_in
from gatewise.data.spool import flat
from gatewise.data.tokens import BEGIN, END, PAD, UNKNOWN, Tokenizer, Unit, smallest_size
from gatewise.errors import DataError, ModelFileError, OptionError, caution
from gatewise.gates.page.shown import Shown
from gatewise.models.beam import Hypothesis, beam_search
from gatewise.models.output import token_losses
from gatewise.models.translation import StepDecoder, TranslationNetwork, TranslationShape
from gatewise.nn.trace import Trace
from gatewise.options import integer, number
from gatewise.processes import sum_of_all
from gatewise.report.alignment import alignment_figure
from gatewise.report.scores import Evaluation
from gatewise.report.words import percent, shortened, with_unit
from gatewise.tasks.base import CPU, Recipe, Task, TrainingData, data_name, digest
from gatewise.tasks.entry_checks import (
    Check,
    check_equal,
    count,
    integer_from,
    list_of,
    mapping_of,
    object_with,
    text,
)
from gatewise.tasks.kinds import Column, is_size
from gatewise.tasks.ranges import Between, OneOf, Range
from gatewise.tasks.saved import Saved
from gatewise.tasks.text import gates
from gatewise.tasks.text.bleu import BleuWords, score_translations, score_with_signatures
from gatewise.tasks.text.dictionary import learn_dictionary, word_by_word
from gatewise.tasks.text.pairs import LONGEST, NEVER_WRITTEN, Batch, Examples, split
from gatewise.tasks.text.parallel import Parallel, ParallelPart, ParallelReader
from gatewise.train.objective import Carry
from gatewise.train.processes import SharedBatches, own_share
from gatewise.train.run import Run

Array = np.ndarray

_FINGERPRINT = "tokenizers"
_SIZES = ("source_symbols", "target_symbols", "embedding", "hidden", "layers")
_TOGETHER = 64  # texts that are translated or scored in one batch
_DRAWN = 3  # alignments in the report
_MOST_SOURCE = 20_000  # symbols of a text that is translated
_MOST_WEIGHTS = 1 << 26  # attention weights that a search keeps: 256 MiB


@dataclass(frozen=True)
class Translation:
    """A translated text.

    Attributes:
        text: the translation.
        score: the log probability of its symbols, divided by their number, with the end, to the power of the
            normalisation.
        source, pieces: the T pieces of the source and the S pieces of the translation.
        alignment: S×T, how much of its attention each piece of the translation had on each piece of the source.
            What is missing to a sum of 1 was on the end of the source.
    """

    text: str
    score: float
    source: list[str]
    pieces: list[str]
    alignment: Array


@dataclass(eq=False, repr=False)
class Translator(Task):
    """Translate texts.

    The data are pairs of texts:

    * a table, of which ``source`` and ``into`` are columns (CSV, JSON lines, Parquet);
    * two files with a text in each line, given by what their names have in common: with "corpus/train",
      ``source`` "de" and ``into`` "en" these are corpus/train.de and corpus/train.en;
    * a folder, in which ``source`` and ``into`` are the names of the two files;
    * in Python, two lists of texts.

    Args:
        source: the texts to translate: a column, or the ending or name of a file.
        into: their translations: a column, or the ending or name of a file.
        unit: how texts are split: "subword" for parts of words by byte pair encoding, "word" for words at white
            space, "char" for characters. An unknown word is copied from the source.
        symbols: the greatest number of symbols of each language.
        min_count: how often a symbol must occur in the training part.
        lower: make letters small.
        embedding: the width of the embeddings.
        hidden: units of each decoder layer; half of them are those of an encoder layer in each direction.
        layers: the number of encoder layers.
        dropout: dropout probability of embeddings, layer outputs and the output vector.
        label_smoothing: the share of the loss that is the mean over all symbols.
        scheduled_sampling: the probability, in training, that the decoder reads its own prediction in place of the
            previous symbol.
        batch: pairs in a batch.
        epochs: the greatest number of passes over the training part.
        learning_rate: the highest learning rate of AdamW.
        patience: training ends after this many epochs without a lower validation loss.
        bleu_words: how BLEU splits texts into words, one of sacrebleu's rules; "none" for texts whose words and
            signs are split by spaces already.
        on_error: what is done with a pair that is not valid: "stop" or "skip". Pairs with an empty text are
            skipped and counted in any case.
        limit: fit to the first so many valid pairs of the data, for a quick try. Other data are read whole.
        seed: the seed of parts, weights, batches and dropout.

    Attributes:
        source_tokenizer_, into_tokenizer_: the symbols of both languages.
        dictionary_: the most probable translation of each word by IBM model 1, which is a baseline.
        network_, shape_: the network and its sizes.
        history_: the losses of each epoch, and the epoch whose weights were kept.
    """

    name: ClassVar[str] = "translate"
    needed_by_files: ClassVar[tuple[str, ...]] = ("source", "into")
    not_searched: ClassVar[tuple[str, ...]] = (
        *("seed", "source", "into", "bleu_words", "on_error", "limit", "lower", "label_smoothing"),
    )
    searched: ClassVar[dict[str, Range]] = {
        "learning_rate": Between(1e-3, 1e-2, log=True),
        "dropout": Between(0.1, 0.5),
        "hidden": OneOf((128, 256, 384)),
    }

    source: Column | None = None
    into: Column | None = None
    unit: Unit = "subword"
    symbols: Count = 4000
    min_count: Count = 1
    lower: bool = False
    embedding: Count = 256
    hidden: Count = 256
    layers: Layers = 1
    dropout: Probability = 0.3
    label_smoothing: Probability = 0.1
    scheduled_sampling: Probability = 0.0
    batch: Count = 64
    epochs: Count = 12
    learning_rate: Positive = 3e-3
    patience: Count = 3
    bleu_words: BleuWords = "13a"
    on_error: OnError = "stop"
    limit: Count | None = None
    seed: Seed = 0

    def check_together(self, options: SimpleNamespace) -> None:
        if options.source is not None and options.source == options.into:
            raise OptionError(
                f"source and into are both {options.source!r}: name the texts to translate with source= "
                f"(--source) and their translations with into= (--into)"
            )
        if options.hidden % 2:
            raise OptionError(
                f"hidden must be an even number, not {options.hidden}: the encoder has half of the units in each "
                f"direction"
            )
        least = smallest_size(options.unit)
        if options.symbols < least:
            raise OptionError(
                f"symbols must be at least {least} with unit={options.unit!r}, not {options.symbols}"
            )

    # --------------------------------------------------------------------------------- training

    def fit(
        self,
        data: Any,
        *,
        validation: ParallelPart = 0.05,
        test: ParallelPart = 0.05,
        run: Run | None = None,
    ) -> Self:
        """Fits the model to pairs of texts.

        Args:
            data: the pairs, see :class:`Translator`.
            validation: the pairs for early stopping and for choosing the best weights: a share below 1, a number
                of pairs (0 for none), or data of the same form.
            test: the pairs that are held out to score the model: a share below 1, a number of pairs (0 for none),
                or data of the same form.
            run: devices, output folder and whether to resume.

        Raises:
            OptionError: an argument is not valid.
            DataError: the data is not valid. The message has the file and the line.
            TrainingError: the loss is not finite.
        """
        return super().fit(data, validation=validation, test=test, run=run)

    def prepare(self, data: Any, validation: Any, test: Any, run: Run) -> TrainingData:
        found = self._read(data, limit=self.limit)
        self.corpus_ = found.digest
        order = np.random.default_rng(self.seed).permutation(len(found))
        order, held_out = split(order, test, len(found))
        order, held = split(order, validation, len(found))
        self.held_out_ = np.sort(held_out).tolist()
        if not len(order):
            raise DataError(
                f"{with_unit(len(found), 'pair')} with validation={validation} and test={test} leave no pair "
                f"for training: give more pairs, or smaller parts"
            )
        trained = found.chosen(np.sort(order))
        checked = found.chosen(np.sort(held)) if is_size(validation) else self._read(validation)
        tested = found.chosen(np.sort(held_out)) if is_size(test) else self._read(test)
        self.drawn_ = (tested if len(tested) else trained).source[:_DRAWN]
        for note in (*found.notes, *(() if is_size(validation) else checked.notes)):
            caution(note)
        self._learn_symbols(trained)
        self.dictionary_ = learn_dictionary(trained.source, trained.into)
        examples = self._examples(trained)
        numbers = examples.short()
        batches = BucketBatches(examples.lengths, numbers, self.batch, self.seed, own_share)
        recipe = Recipe(
            steps=self.epochs * len(batches),
            batch=self.batch,
            learning_rate=self.learning_rate,
            rounds=self.epochs,
            patience=self.patience,
            seed=self.seed,
        )
        columns = {"source": digest(digests(found.source)), "into": digest(digests(found.into))}
        about = {"rows": len(found), "series": 1, "span": "pairs of texts", "columns": columns}
        validation = validation if is_size(validation) else checked.digest
        test = test if is_size(test) else tested.digest
        record = self.training_record(about, validation, test, run)
        return TrainingData(
            DataLoader(examples, batch_size=None, sampler=batches),
            self._checks(checked) if len(checked) else None,
            recipe,
            record,
        )

    def _read(
        self, data: Any, on_error: OnError | None = None, limit: int | None = None
    ) -> Parallel:
        return self._reader(Problems.of_call(on_error, self.on_error), limit).read(data)

    def _reader(self, problems: Problems, limit: int | None = None) -> ParallelReader:
        return ParallelReader(self.source, self.into, problems, limit)

    def _learn_symbols(self, trained: Parallel) -> None:
        source, into = (
            Tokenizer.learn(texts, self.unit, self.symbols, self.min_count, self.lower)
            for texts in (trained.source, trained.into)
        )
        self.source_tokenizer_, self.into_tokenizer_ = source, into
        self.shape_ = TranslationShape(
            len(source), len(into), self.embedding, self.hidden, self.layers, self.dropout
        )

    def _examples(self, pairs: Parallel) -> Examples:
        tokenizers = self.source_tokenizer_, self.into_tokenizer_
        return Examples(tokenizers[0].encoded(pairs.source), tokenizers[1].encoded(pairs.into))

    def _batches(self, pairs: Parallel) -> tuple[Examples, list[Array]]:
        """The encoded pairs, and batches of similar length for validation and scores."""
        examples = self._examples(pairs)
        return examples, sorted_batches(examples.lengths, np.arange(len(pairs)), _TOGETHER)

    def _checks(self, pairs: Parallel) -> DataLoader:
        """The batches of the validation part."""
        examples, batches = self._batches(pairs)
        return DataLoader(examples, batch_size=None, sampler=SharedBatches(batches))

    def build(self) -> nn.Module:
        return TranslationNetwork(self.shape_)

    def loss(self, network: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
        assert isinstance(network, TranslationNetwork)
        before, after = batch.target[:, :-1], batch.target[:, 1:]
        if network.training and self.scheduled_sampling:
            before = self._sampled(network, batch, before)
        smoothing = self.label_smoothing if network.training else 0.0
        losses = self._symbol_losses(network, batch, before, after, smoothing).sum(1)
        # a symbol has the same weight in every process's share of a batch
        pairs, symbols = sum_of_all(torch.stack([(after[:, 0] != PAD).sum(), (after != PAD).sum()]))
        return losses * (pairs / symbols), None

    def _symbol_losses(
        self,
        network: TranslationNetwork,
        batch: Batch,
        before: Tensor,
        after: Tensor,
        smoothing: float,
    ) -> Tensor:
        """B×S: the loss of each symbol; 0 for padding."""
        vectors, _ = network.decode(network.encode(batch.source, batch.lengths), before)
        weight = network.target_embedding.weight
        return token_losses(vectors, weight, network.bias, after, PAD, smoothing)

    def _sampled(self, network: TranslationNetwork, batch: Batch, before: Tensor) -> Tensor:
        """The symbols before each step, some replaced by the network's own predictions: scheduled sampling
        (Bengio et al. 2015) in two passes, so that no loop over the steps is needed (Duckworth et al. 2019)."""
        with torch.no_grad():
            vectors, _ = network.decode(network.encode(batch.source, batch.lengths), before)
            predicted = network.logits(vectors[:, :-1]).argmax(-1)
        drawn = torch.rand(predicted.shape, device=before.device) < self.scheduled_sampling
        rest = torch.where(drawn & (before[:, 1:] != PAD), predicted, before[:, 1:])
        return torch.cat([before[:, :1], rest], 1)

    def describe_member(self, batch: Batch, at: int) -> str:
        return f"pair {int(batch.pair[at])} of its part"

    # ------------------------------------------------------------------------------ translating

    def translate(
        self, texts: Sequence[str], *, beam: int = 5, normalisation: float = 1.0
    ) -> list[Translation]:
        """The translation of each text, with its alignment. An empty text has an empty translation.

        Args:
            texts: a list of N texts.
            beam: the number of hypotheses that the search keeps at each step; 1 is greedy search.
            normalisation: the power of the length by which the search divides log probabilities.

        Raises:
            DataError: a text is no text, or too long.
        """
        texts = [check_text(each, f"text {k}") for k, each in enumerate(texts_in(texts), 1)]
        parts = self._translated(texts, beam, normalisation)
        return [each for _, found in parts for each in found]

    def _translated(
        self, texts: Iterable[str], beam: int, normalisation: float
    ) -> Iterator[tuple[list[str], list[Translation]]]:
        """Some of the texts at a time, and their translations."""
        self.check_fitted()
        beam = integer("beam", beam)
        normalisation = number("normalisation", normalisation, "a number from 0 on", least=0)
        number_before, long = 0, list[int]()
        for some in pieces_of(texts, len):
            ids = self.source_tokenizer_.encode_all(some)
            long += _long_texts([len(each) for each in ids], number_before)
            number_before += len(some)
            yield some, self._translations(some, ids, beam, normalisation)
        _warn_of(long)

    def _translations(
        self, texts: list[str], ids: list[list[int]], beam: int, normalisation: float
    ) -> list[Translation]:
        pieces = [self.source_tokenizer_.pieces(each) for each in texts]
        found = [Translation("", 0.0, [], [], np.zeros((0, 0), np.float32)) for _ in texts]
        sources = (np.array([*each, END]) for each in ids)
        for k, best in self.hypotheses(sources, beam, normalisation):
            found[k] = self._translation(pieces[k], best)
        return found

    def hypotheses(
        self, sources: Iterable[Array], beam: int = 5, normalisation: float = 1.0
    ) -> Iterator[tuple[int, Hypothesis]]:
        """The number and the best translation of each text that has symbols.

        Args:
            sources: the symbols of the texts, with the end.
        """
        symbols, starts = flat(sources)
        lengths = np.diff(starts)
        for chosen in _search_batches(lengths, np.flatnonzero(lengths > 1), beam):
            batch = padded_ids(symbols, starts, chosen, PAD)
            yield from zip(chosen, self._searched(*batch, beam, normalisation), strict=True)

    @torch.no_grad()
    def _searched(
        self, source: Tensor, lengths: Tensor, beam: int, normalisation: float
    ) -> list[Hypothesis]:
        network = self.network_
        decoder = StepDecoder(network, network.encode(source, lengths), beam, NEVER_WRITTEN)
        return beam_search(decoder, _limits(lengths), BEGIN, END, beam, normalisation)

    def _translation(self, source: list[str], found: Hypothesis) -> Translation:
        """The text of a hypothesis. An unknown symbol is the piece of the source that it is aligned with most."""
        alignment = found.weights[:, : len(source)].numpy()
        ids = found.symbols.tolist()
        tokenizer = self.into_tokenizer_
        pieces = [
            source[row.argmax()] if k == UNKNOWN else tokenizer.decode([k])
            for k, row in zip(ids, alignment, strict=True)
        ]
        words = (
            tokenizer.decode(ids)
            if self.unit == "subword"
            else (" " if self.unit == "word" else "").join(pieces)
        )
        return Translation(words, found.score, source, pieces, alignment)

    def predict(
        self,
        data: Any,
        *,
        beam: Count = 5,
        normalisation: NonNegative = 1.0,
        on_error: OnError | None = None,
    ) -> Any:
        """The translation of each text.

        Args:
            data: in the form of :meth:`fit`, without the translations; or a file with a text in each line, or
                a list of texts.
            beam: the number of hypotheses that the search keeps at each step; 1 is greedy search.
            normalisation: the power of the length by which the search divides log probabilities; 0 prefers short
                translations.
            on_error: what is done with a text that is not valid: "stop" or "skip"; by default as in ``fit``.

        Returns:
            A table with the columns ``source``, ``translation``, and ``score``, the log probability of the
            symbols, divided by their number to the power of ``normalisation``. It is of the library of ``data``.
        """
        return table_like(joined(self._columns(data, beam, normalisation, on_error)), data)

    def predict_parts(self, data: Any, **options: Any) -> Iterator[Any]:
        for columns in self._columns(data, **options):
            yield table_like(columns, None)

    def _columns(
        self,
        data: Any,
        beam: int = 5,
        normalisation: float = 1.0,
        on_error: OnError | None = None,
    ) -> Iterator[dict[str, list[Any]]]:
        """The columns of :meth:`predict` for some of the texts at a time."""
        self.check_fitted()
        problems = Problems.of_call(on_error, self.on_error)
        texts = self._reader(problems).read_source(data)
        yield {"source": [], "translation": [], "score": []}
        for some, found in self._translated(texts, beam, normalisation):
            yield {
                "source": some,
                "translation": [each.text for each in found],
                "score": [each.score for each in found],
            }
        for note in problems.notes():
            caution(note)

    # ------------------------------------------------------------------------------- evaluation

    def evaluate(
        self,
        data: Any,
        *,
        beam: Count = 5,
        normalisation: NonNegative = 1.0,
        on_error: OnError | None = None,
    ) -> Evaluation:
        """The scores of the model and of two baselines on pairs that the model was not trained on.

        BLEU and chrF are those of sacrebleu, and have its signatures. The perplexity is that of the references'
        symbols. The baselines are the source itself, and a word-by-word translation by a dictionary that was
        learned from the training part (IBM model 1).

        Args:
            data: in the form of :meth:`fit`. Of the data that the model was fitted to, its test part is scored.
            beam: the number of hypotheses that the search keeps at each step; 1 is greedy search.
            normalisation: the power of the length by which the search divides log probabilities.
            on_error: what is done with a pair that is not valid: "stop" or "skip"; by default as in ``fit``.

        Raises:
            DataError: the data is not valid, or the model was trained on all of it.
        """
        self.check_fitted()
        pairs = self._unseen(data, on_error)
        parts = self._translated(pairs.source, beam, normalisation)
        ours = [each.text for _, found in parts for each in found]
        references = pairs.into
        scores, signatures, notes = score_with_signatures(ours, references, self.bleu_words)
        scores["perplexity"] = self._perplexity(pairs)
        by_word = [word_by_word(each, self.dictionary_) for each in pairs.source]
        baselines = {"copy of the source": pairs.source, "word by word (IBM model 1)": by_word}
        rows = {
            name: score_translations(each, references, self.bleu_words)
            for name, each in baselines.items()
        }
        notes = (*notes, *pairs.notes)
        unknown = self.source_tokenizer_.unknown_share(pairs.source)
        if unknown:
            notes = (*notes, f"{percent(unknown)} of the source symbols are unknown to the model")
        return Evaluation(
            self.name, scores, rows, len(pairs), "texts", "bleu", notes, signatures=signatures
        )

    def _unseen(self, data: Any, on_error: OnError | None) -> Parallel:
        """The pairs to score: of the data of ``fit`` its test part, else all."""
        pairs = self._read(data, on_error, self.limit)
        if pairs.digest != self.corpus_:
            return pairs if self.limit is None else self._read(data, on_error)
        if not self.held_out_:
            raise DataError(
                "the model was trained on these pairs, so they cannot test it: give other pairs, or fit with "
                "test="
            )
        return pairs.chosen(np.array(self.held_out_))

    @torch.no_grad()
    def _perplexity(self, pairs: Parallel) -> float:
        total, number = 0.0, 0
        examples, batches = self._batches(pairs)
        for batch in map(examples.__getitem__, batches):
            before, after = batch.target[:, :-1], batch.target[:, 1:]
            losses = self._symbol_losses(self.network_, batch, before, after, 0.0)
            total += float(losses.double().sum())
            number += int((after != PAD).sum())
        return float(np.exp(total / number))

    def figures(self, data: Any) -> dict[str, Any]:
        pairs = self._read(data, limit=self.limit)
        if pairs.digest != self.corpus_:
            texts = pairs.source[:_DRAWN]
        elif self.held_out_:
            texts = pairs.chosen(np.array(self.held_out_[:_DRAWN])).source
        else:  # a saved model does not have the texts of another test part
            texts = getattr(self, "drawn_", pairs.source[:_DRAWN])
        return {
            f"Alignment {k}: {shortened(each.text)}": alignment_figure(
                each.source, each.pieces, each.alignment
            )
            for k, each in enumerate(self.translate(texts), 1)
        }

    def inputs(self, data: Any) -> tuple[Tensor, Tensor]:
        """The symbols of all source texts, padded to the longest, and their lengths."""
        texts = self._reader(Problems(self.on_error, chosen_here=False)).read_source(data)
        ids = flat(np.array([*each, END]) for each in self.source_tokenizer_.encoded(texts))
        return padded_ids(*ids, np.arange(len(ids[1]) - 1), PAD)

    def shown(self, data: Any, limit: int, steps: int) -> Shown:
        """``limit`` texts, each followed by its translation."""
        problems = Problems(self.on_error, chosen_here=False)
        texts: list[str] = []
        empty = 0
        for each in self._reader(problems).read_source(data):
            if self.source_tokenizer_.encode(each):
                texts.append(each)
            else:
                empty += 1
            if len(texts) == limit:
                break
        left = f"{with_unit(empty, 'text')} without any {self.unit} left out"
        if not texts:
            raise DataError(f"{data_name(data)} has no text to show{f': {left}' if empty else ''}")
        for note in (*problems.notes(), *([left] if empty else [])):
            caution(note)
        _long_texts([len(self.source_tokenizer_.encode(each)) for each in texts], 0)
        return gates.shown(self, texts, steps)

    def run_inputs(self, network: nn.Module, inputs: tuple[Any, ...]) -> Any:
        """What the encoder returns: a trace has no target text for the decoder to read."""
        assert isinstance(network, TranslationNetwork)
        source, lengths = inputs
        return network.encoder(network.source_embedding(source), lengths=lengths)

    def traced(self, inputs: tuple[Any, ...], device: torch.device = CPU) -> Trace:
        """The trace of the encoder."""
        network = self.network_on(device)
        source, lengths = (each.to(device) for each in inputs)
        assert isinstance(network, TranslationNetwork)
        with torch.no_grad():
            embedded = network.source_embedding(source)
            trace: Trace = network.encoder(embedded, lengths=lengths, trace=True)[2]
        return trace

    # ---------------------------------------------------------------------------------- saving

    def learned(self) -> dict[str, Any]:
        return dict(
            shape=asdict(self.shape_),
            source_tokenizer=self.source_tokenizer_.to_json(),
            into_tokenizer=self.into_tokenizer_.to_json(),
            dictionary=self.dictionary_,
            corpus=self.corpus_,
            held_out=self.held_out_,
        )

    @classmethod
    def learned_checks(cls, saved: Saved) -> tuple[dict[str, Check], dict[str, Check]]:
        size = integer_from(1, saved.most)
        shape: dict[str, Check] = dict.fromkeys(_SIZES, size)
        shape["dropout"] = lambda name, value: cls.options()["dropout"].checked(value)
        return dict(
            shape=object_with(shape),
            source_tokenizer=text,
            into_tokenizer=text,
            dictionary=mapping_of(text),
            corpus=text,
            held_out=list_of(count),
        ), {}

    def restore_learned(self, learned: dict[str, Any]) -> None:
        self.shape_ = shape = TranslationShape(**learned["shape"])
        self.source_tokenizer_ = Tokenizer.from_json(learned["source_tokenizer"])
        self.into_tokenizer_ = Tokenizer.from_json(learned["into_tokenizer"])
        self.dictionary_, self.corpus_ = learned["dictionary"], learned["corpus"]
        self.held_out_ = learned["held_out"]
        check_equal(
            [
                ("the number of source symbols", len(self.source_tokenizer_), shape.source_symbols),
                ("the number of target symbols", len(self.into_tokenizer_), shape.target_symbols),
            ]
        )

    def tensors(self) -> dict[str, Tensor]:
        return {_FINGERPRINT: self._fingerprint()}

    def _fingerprint(self) -> Tensor:
        """Four integers that tell the two tokenizers from those of another model."""
        both = self.source_tokenizer_.digest + self.into_tokenizer_.digest
        hashed = hashlib.sha256(both.encode()).digest()
        return torch.frombuffer(bytearray(hashed), dtype=torch.int64)

    def expected_tensors(self, saved: Saved) -> tuple[dict[str, Tensor], set[str]]:
        return {_FINGERPRINT: torch.empty(4, dtype=torch.int64, device="meta")}, set()

    def restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        if not torch.equal(tensors[_FINGERPRINT], self._fingerprint()):
            raise ModelFileError(
                "its tokenizers are those of another model: its weights were learned with other symbols"
            )


def _limits(lengths: Any) -> Any:
    """The greatest numbers of symbols of the translations of sources with these lengths."""
    return 2 * lengths.clip(max=LONGEST) + 10


def _long_texts(lengths: list[int], before: int) -> list[int]:
    """The numbers of the texts that are longer than those that the network was trained on, from 1 on. There were
    ``before`` texts before these.

    Raises:
        DataError: a text has more symbols than there is memory for.
    """
    for k, length in enumerate(lengths, before + 1):
        if length > _MOST_SOURCE:
            raise DataError(
                f"text {k} has {length:,} symbols, more than {_MOST_SOURCE:,}: split it into sentences"
            )
    return [k for k, length in enumerate(lengths, before + 1) if length > LONGEST]


def _warn_of(long: list[int]) -> None:
    if long:
        caution(
            f"{with_unit(len(long), 'text')} of more than {LONGEST} symbols (the first: text {long[0]}): the "
            f"model was trained on shorter ones, and a translation ends after {_limits(np.array(LONGEST)):,} "
            f"symbols: split long texts into sentences"
        )


def _search_batches(lengths: Array, some: Array, beam: int) -> Iterator[Array]:
    """Batches of the texts ``some``, sorted by length, whose attention weights fit into memory."""
    for chosen in sorted_batches(lengths, some, _TOGETHER):
        longest = int(lengths[chosen[-1]])
        size = max(1, _MOST_WEIGHTS // (beam * longest * int(_limits(lengths[chosen[-1]]))))
        for first in range(0, len(chosen), size):
            yield chosen[first : first + size]
