"""The classifier of texts: one class for each text."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from itertools import chain
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import ClassifierMixin
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gatewise.arguments import Count, Layers, NonNegativeCount, Positive, Probability, Seed
from gatewise.data.buckets import sorted_batches
from gatewise.data.lines import OnError, Problems
from gatewise.data.output import joined, table_like
from gatewise.data.sources.text import Texts, TextTable, are_texts, digests, lines_of
from gatewise.data.spool import SpooledTexts
from gatewise.data.tokens import Tokenizer
from gatewise.data.vectors import read_vectors, width_of
from gatewise.errors import DataError, OptionError, caution, some
from gatewise.gates.page.shown import InputEdit, Shown, first_steps, with_words
from gatewise.gates.page.strips import bars, words
from gatewise.gates.picture import gate_map
from gatewise.models.text import TextEncoder, TextEnsemble, TextShape
from gatewise.report.classes import ClassResults, Example
from gatewise.report.scores import Evaluation
from gatewise.report.words import percent, shortened, with_unit
from gatewise.tasks.base import Task
from gatewise.tasks.entry_checks import Check
from gatewise.tasks.kinds import (
    AnyCell,
    ClassWeight,
    Column,
    Device,
    Part,
    device_of,
    is_size,
    part_size,
)
from gatewise.tasks.ranges import Between, OneOf, Range
from gatewise.tasks.saved import Saved
from gatewise.tasks.sequences.recipe import TEST, recipe_for, validation_for
from gatewise.tasks.sequences.scoring import of_classes, softmax
from gatewise.tasks.sequences.targets import check_classes, class_importance, labels_of, weights_of
from gatewise.tasks.sequences.training import (
    held_for_test,
    held_for_validation,
    without_whole_classes,
)
from gatewise.tasks.text import pretraining, state
from gatewise.tasks.text.baseline import BagOfWords
from gatewise.tasks.text.examples import Encoded, TextBatch, TextExamples, loaders
from gatewise.tasks.text.options import TextFile, Unlabelled
from gatewise.train.objective import Carry, TrainingData
from gatewise.train.recipe import Recipe, one_cycle
from gatewise.train.record import Record, digest
from gatewise.train.run import Run

Array = np.ndarray

EPOCHS = 8  # at least, where no number is given
WIDTH = 100  # of the embedding, where nothing else is given
FEW = 10  # fewer texts have scores that a note qualifies
SHOWN = 6  # right and wrong examples each
CLASS_UNKNOWN = "texts of a class that is unknown to the model"


@dataclass(eq=False, repr=False)
class TextClassifier(ClassifierMixin, Task):
    """Predict the class of each text.

    A scikit-learn estimator. X is a list of N texts; with ``text``, a table or a file (CSV, TSV, JSON lines,
    Parquet) with a row for each text.

    The texts are split into words, subwords or characters. These pass through an embedding and bidirectional
    recurrent layers; attention pooling (Yang et al. 2016), whose weights :meth:`attention` returns, and the
    maximum over the steps lead to the class.

    Args:
        cell: the name of a built-in cell. In Python also a cell made with :func:`gatewise.cell`.
        hidden: hidden units of each recurrent layer and direction.
        layers: the number of recurrent layers.
        text: the column of texts in a table. In Python, the data are a list of texts without it.
        label: the column of classes in a table.
        unit: what a text is split into: "word", "subword" (byte pair encoding) or "char".
        vocabulary: the greatest number of words, subwords or characters.
        min_count: how often a word must occur in the training part to be known.
        lower: make letters small.
        punctuation: make punctuation marks words of their own; otherwise words are split at white space alone.
        longest: words of a text that are read; the rest of a longer text is left out, and such texts counted.
        embedding: the width of the embedding. The default is 100, or the width of ``vectors``.
        vectors: a text file of word vectors (GloVe, fastText or word2vec), from which the embedding starts.
        pretrain: files or folders of unlabelled text, with a text on each line. The embedding starts from how
            often words stand near each other in this text and in the training part (Levy et al. 2015), and then
            learns at 0.3 times the learning rate. In Python also a list of texts.
        pretrain_epochs: passes over the unlabelled text in which the embedding and the first recurrent layer also
            learn to predict the next word and the word before, before they learn the classes.
        filters: filters over three, four and five neighbouring words, so many of each, whose largest outputs lead
            to the class (Kim 2014). They learn with a loss of their own; the output is the mean of theirs and of the
            recurrent layers'. They help where a few words decide, as in questions.
        members: the number of networks that are trained from different initial weights. The output is the mean of
            theirs. Where texts are few, three score better than one.
        dropout: dropout probability between layers and before the output.
        embedding_dropout: probability that an entry of the embedding is 0 for a whole text in training. The filters
            read the whole embedding.
        word_dropout: probability that a word is replaced by the unknown word in training.
        smoothing: the share of the target that all classes have in equal parts in training (label smoothing).
        class_weight: the weights of the classes in the loss: "balanced" for weights inverse to the classes'
            frequencies, or a number for each class. In Python a dict of numbers, or None for equal weights.
        on_error: what to do with a row that is not valid: "stop", or "skip" to leave it out and count it.
        limit: fit to the first so many valid rows of the data, for a quick try. Other data are read whole.
        epochs: the largest number of passes over the training part. The default is 8, and more where these are
            fewer than 400 updates.
        batch: texts per batch.
        learning_rate: the highest learning rate of AdamW. The rate warms up once, then falls.
        patience: training ends after this many epochs without a lower validation loss.
        seed: the seed of the weights, of the split and of the order of texts. The same seed gives the same
            model.

    Attributes:
        classes_: the classes, sorted.
        tokenizer_: the tokenizer, see :class:`gatewise.data.tokens.Tokenizer`.
        held_out_: indices of the texts of the validation part.
        network_, shape_: the network and its sizes.
        pretraining_: the losses of the pretraining, or None.
        history_: the losses of each epoch, and the epoch whose weights were kept.

    ``fit`` raises OptionError for an option and DataError for data that is not valid. Both are ValueErrors.
    """

    name: ClassVar[str] = "classify"
    needed_by_files: ClassVar[tuple[str, ...]] = ("text", "label")
    searched: ClassVar[dict[str, Range]] = {
        "hidden": OneOf((50, 100, 200)),
        "dropout": Between(0.2, 0.7),
        "embedding_dropout": Between(0.0, 0.6),
        "word_dropout": Between(0.0, 0.3),
        "learning_rate": Between(5e-4, 1e-2, log=True),
    }
    not_searched: ClassVar[tuple[str, ...]] = (
        *("seed", "text", "label", "class_weight", "on_error", "limit", "vectors", "pretrain"),
    )

    cell: AnyCell = "lstm"
    hidden: Count = 100
    layers: Layers = 1
    _: KW_ONLY
    text: Column | None = None
    label: Column | None = None
    unit: Literal["word", "subword", "char"] = "word"
    vocabulary: Count = 20_000
    min_count: Count = 1
    lower: bool = True
    punctuation: bool = True
    longest: Count = 1000
    embedding: Count | None = None
    vectors: TextFile | None = None
    pretrain: Unlabelled | None = None
    pretrain_epochs: NonNegativeCount = 0
    filters: NonNegativeCount = 0
    members: Count = 1
    dropout: Probability = 0.5
    embedding_dropout: Probability = 0.3
    word_dropout: Probability = 0.1
    smoothing: Probability = 0.0
    class_weight: ClassWeight | None = None
    on_error: OnError = "stop"
    limit: Count | None = None
    epochs: Count | None = None
    batch: Count = 32
    learning_rate: Positive = 2e-3
    patience: Count = 3
    seed: Seed = 0

    def check_together(self, options: SimpleNamespace) -> None:
        if options.vectors is not None and options.unit != "word":
            raise OptionError(
                f"vectors= are those of words, but unit={options.unit!r}: leave one of them out"
            )
        if (
            options.vectors is not None
            and options.pretrain is not None
            and not options.pretrain_epochs
        ):
            raise OptionError(
                "vectors= and pretrain= both say what the embedding starts from: leave one of them out, or give "
                "pretrain_epochs= to train the vectors on the unlabelled text"
            )
        if options.text is not None and options.label is None:
            raise OptionError("a table needs a column of classes: name it with label= (--label)")
        if options.embedding_dropout == 1:
            raise OptionError(
                "embedding_dropout=1 leaves nothing of any word: give a number below 1"
            )

    # ---------------------------------------------------------------------------------- learning

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        validation: Part | None = None,
        test: Part | None = None,
        run: Run | None = None,
    ) -> Self:
        """Fits the model to N texts. A second fit starts from new weights.

        Args:
            X: a list of texts; or, with ``text``, a table or file, which contains the labels.
            y: N labels. For a list of texts only.
            sample_weight: N weights, for a list of texts only. A text with the weight 0 is ignored.
            validation: the texts for early stopping and for choosing the best weights: a share below 1, a
                number of texts (0 for none), or a file. The default is 0.1, and 0 for fewer than 500 texts.
            test: the rows of a table that are held out to score the model: a share below 1, a number of rows
                (0 for none), or a file. The default is 0.15.
            run: devices, output folder and whether to resume.

        Raises:
            OptionError: an argument is not valid.
            DataError: X, y or the weights are not valid. The message names the place.
            TrainingError: the loss is not finite.
        """
        if self.text is not None:
            if y is not None or sample_weight is not None:
                raise OptionError(
                    f"with text={self.text!r} the data is a table with its labels in a column: leave y and "
                    f"sample_weight out, or leave text= out to fit a list of texts"
                )
            return super().fit(X, validation=validation, test=test, run=run)
        if test is not None:
            raise OptionError(
                "test= is for tables, but the data is a list of texts: split it yourself"
            )

        def prepare(fresh: Self, run: Run) -> TrainingData:
            texts = fresh._source().read(X)
            texts = replace(texts, labels=labels_of(fresh, y, len(texts)))
            weight = weights_of(sample_weight, len(texts))
            return fresh._training_data(texts, weight, validation, 0, run)

        return self.fit_prepared(prepare, run or Run(quiet=True))

    def prepare(self, data: Any, validation: Any, test: Any, run: Run) -> TrainingData:
        texts = replace(self._source(), limit=self.options_.limit).read(data)
        return self._training_data(texts, np.ones(len(texts)), validation, test, run)

    def _source(
        self, on_error: OnError | None = None, chosen_here: bool = True, data: Any = None
    ) -> TextTable:
        """The reader of texts; ``on_error`` and ``data`` are those of a call after ``fit``. A model that was fitted
        to a table reads lists of texts too."""
        options = self.options_
        problems = Problems.of_call(on_error, options.on_error)
        if options.text is None or are_texts(data):
            # the labels are apart: a text left out would shift them
            if on_error == "skip":
                raise OptionError(
                    "on_error='skip' is for tables, but the data is a list of texts, none of which can be left out: "
                    "leave it out, and correct the texts"
                )
            return TextTable(chosen_here=False)
        return TextTable(options.text, options.label, problems.on_error, chosen_here=chosen_here)

    def _training_data(
        self, texts: Texts, weight: Array, validation: Any, test: Any, run: Run
    ) -> TrainingData:
        """The training data. This learns the classes, the tokenizer and the baseline.

        Args:
            weight: the sample weights that the user gave. Texts of weight 0 are ignored.
        """
        options = self.options_
        self.data_ = digest(digests(texts.texts), texts.known_labels)
        self.tested_ = self._test_rows(texts.known_labels, test)
        weight = weight.copy()
        weight[self.tested_] = 0
        count, held = len(texts), None
        if validation is not None and not is_size(validation):
            other = self._source().read(validation)
            held = np.arange(len(texts), len(texts) + len(other))
            texts, weight = texts.followed_by(other), np.append(weight, np.ones(len(other)))
        target, held = self._target(texts, weight, held, validation)
        # a file's texts of an unknown class are in no part
        self.held_out_, trained = held, np.setdiff1d(np.flatnonzero(weight[:count] > 0), held)
        parts = SpooledTexts(texts.texts[k] for k in trained)
        unlabelled = Problems(options.on_error)
        self._learn_tokenizer(parts, unlabelled)
        importance = class_importance(self.class_weight, texts.known_labels[trained])
        self.baseline_ = BagOfWords.fit(
            parts, target[trained], weight[trained], len(self.classes_), importance
        )
        weight[trained] *= importance
        self.seen_ = digests(parts)
        weight /= weight[trained].mean()
        encoded = Encoded.of(self.tokenizer_, texts.texts, options.longest)
        self.notes_ = (
            *texts.problems.notes(),
            *unlabelled.notes(),
            *encoded.notes(options.unit, options.longest),
        )
        record = Record({}, {})
        if run.out is not None:
            columns = {"text": digest(encoded.values), "label": digest(target)}
            about = {"rows": len(texts), "series": len(texts), "span": "", "columns": columns}
            record = self.training_record(about, validation, test, run)
        recipe = recipe_for(options, len(trained), EPOCHS)
        examples = TextExamples(encoded, target, weight)
        both = loaders(examples, encoded.lengths, trained, held, recipe.batch, recipe.seed)
        return TrainingData(*both, recipe, record)

    def _test_rows(self, labels: Array, test: Any) -> Array:
        """The indices of the texts that are held out for the test."""
        if not is_size(test):
            return np.array([], np.int64)
        size = TEST if test is None else part_size("test", test)
        order = np.unique(labels, return_inverse=True)[1]
        return held_for_test(order, size, self.options_.seed, "texts", of_classes=True)

    def _target(
        self, texts: Texts, weight: Array, held: Array | None, validation: Any
    ) -> tuple[Array, Array]:
        """N class indices, and the indices of the validation texts. This learns the classes."""
        labels = texts.known_labels
        used = np.flatnonzero(weight > 0)
        own = used if held is None else np.setdiff1d(used, held)
        self.classes_ = np.unique(labels[own])
        if len(self.classes_) < 2:
            where = "y" if self.text is None else f"column {self.label!r}"
            raise DataError(
                f"{where} has only the class {self.classes_.tolist()[0]!r} in {len(own)} texts to train on; a "
                f"classifier needs at least two classes"
            )
        if self.label is not None:
            check_classes(self.classes_, len(own), self.label, "texts")
        target = np.maximum(self._indices(labels), 0)
        if held is not None:
            return target, self._of_known_class(labels, held, texts, "the validation part")
        size = validation_for(len(used)) if validation is None else validation
        held = held_for_validation(target, weight, size, self.options_.seed)
        return target, without_whole_classes(held, target, weight)

    def _indices(self, labels: Array) -> Array:
        """N indices of the labels' classes; -1 for a class that the training part has not.

        A number and a text that is written like it are the same class."""
        classes = self.classes_
        if "U" in (classes.dtype.kind, labels.dtype.kind):
            classes, labels = classes.astype(str), labels.astype(str)
        order = np.argsort(classes, kind="stable")
        at = np.searchsorted(classes, labels, sorter=order).clip(max=len(classes) - 1)
        found: Array = np.where(classes[order[at]] == labels, order[at], -1)
        return found

    def _of_known_class(self, labels: Array, chosen: Array, texts: Texts, where: str) -> Array:
        """The ``chosen`` texts without those of a class that the training part has not."""
        known = self._indices(labels[chosen]) >= 0
        for k in chosen[~known].tolist():
            classes = some(map(repr, self.classes_.tolist()), 20)
            texts.problems.add(
                CLASS_UNKNOWN,
                f"text {texts.places[k]} of {where} has the class {labels.tolist()[k]!r}, which is unknown to "
                f"the model; it knows {classes}",
            )
        return chosen[known]

    def _learn_tokenizer(self, texts: Iterable[str], problems: Problems) -> None:
        """Learns the tokenizer and the network's sizes from the training part, and from the unlabelled text."""
        options = self.options_
        self._unlabelled: SpooledTexts | None = None
        if options.pretrain is not None:
            lines = lines_of(options.pretrain, problems=problems)
            found = SpooledTexts(line for line in lines if line.strip())
            if not found:
                raise DataError("pretrain= has no text: give files with a text on each line")
            texts = self._unlabelled = SpooledTexts(chain(texts, found))
        self.tokenizer_ = Tokenizer.learn(
            texts,
            options.unit,
            options.vocabulary,
            options.min_count,
            options.lower,
            options.punctuation and options.unit == "word",
        )
        width = options.embedding
        if options.vectors is not None:
            of_file = width_of(options.vectors)
            if width not in (None, of_file):
                raise OptionError(
                    f"embedding={width}, but the vectors of {options.vectors} have {of_file} numbers: leave "
                    f"embedding= out"
                )
            width = of_file
        self.shape_ = TextShape(
            symbols=len(self.tokenizer_),
            outputs=len(self.classes_),
            embedding=width or WIDTH,
            hidden=options.hidden,
            layers=options.layers,
            dropout=options.dropout,
            embedding_dropout=options.embedding_dropout,
            word_dropout=options.word_dropout,
            members=options.members,
            filters=options.filters,
        )

    def before_training(self, run: Run) -> None:
        self._start: dict[str, Tensor] = {}  # weights that the encoder starts from
        self.pretraining_ = None
        options = self.options_
        if options.vectors is not None:
            found = read_vectors(options.vectors, self.tokenizer_.index)
            share = percent(len(found) / len(self.tokenizer_))
            self.notes_ += (f"{share} of the vocabulary has a vector in {options.vectors}",)
            weight = TextEncoder(self.cell, self.shape_).embedding.weight.detach().clone()
            for at, vector in found.items():
                weight[at] = torch.from_numpy(vector)
            self._start = {"embedding.weight": weight}
        if self._unlabelled is not None:
            texts = Encoded.parts_of(self.tokenizer_, self._unlabelled, pretraining.LONGEST)
            self._start, self.pretraining_ = pretraining.pretrained(
                self.cell, self.shape_, texts, options, run, self._start
            )

    def after_training(self, training_data: TrainingData) -> None:
        del self._start, self._unlabelled

    def build(self) -> nn.Module:
        network = TextEnsemble(self.cell, self.shape_)
        start = getattr(self, "_start", {})
        if start and not next(network.parameters()).is_meta:
            for encoder in network.encoders:
                encoder.load_state_dict(start, strict=False)
        return network

    def optimizer(self, network: Any, recipe: Recipe) -> tuple[Optimizer, LRScheduler]:
        if self.options_.pretrain is None:
            return one_cycle(network, recipe)
        embeddings = [encoder.embedding.weight for encoder in network.encoders]
        return one_cycle(network, recipe, embeddings, pretraining.EMBEDDING_RATE)

    def loss(self, network: Any, batch: TextBatch, carry: Carry) -> tuple[Tensor, Carry]:
        # in training each part has a loss of its own, so that they differ; otherwise it is that of their mean
        given = batch.symbols, batch.lengths
        outputs = network.parts(*given) if network.training else [network(*given)]
        smoothing = self.options_.smoothing if network.training else 0.0
        losses = [
            F.cross_entropy(each, batch.target, reduction="none", label_smoothing=smoothing)
            for each in outputs
        ]
        return torch.stack(losses).mean(0) * batch.weight, None

    def describe_member(self, batch: TextBatch, at: int) -> str:
        return f"text {int(batch.sample[at]) + 1}"

    # ------------------------------------------------------------------------------------ outputs

    def _texts(
        self,
        X: Any,
        learned: bool = False,
        on_error: OnError | None = None,
        chosen_here: bool = True,
    ) -> Texts:
        self.check_fitted()
        texts = self._source(on_error, chosen_here, X).read(X, learned)
        if not learned:
            for note in texts.problems.notes():
                caution(note)
        return texts

    def _outputs(
        self, encoded: Encoded, device: Any, weighted: bool = False
    ) -> tuple[Array, list[Array]]:
        """N×C logits in float64, and for each text, if ``weighted``, the attention weights of its symbols."""
        where = device_of("device", device)
        # float64, so that rounding differences between batches do not show in the results
        network: Any = copy.deepcopy(self.network_).double().to(where)
        outputs = np.empty((len(encoded), len(self.classes_)))
        weights: list[Array] = [np.empty(0)] * len(encoded) if weighted else []
        with torch.no_grad():
            for chosen in sorted_batches(encoded.lengths, np.arange(len(encoded)), 256):
                symbols, lengths = (each.to(where) for each in encoded.padded(chosen))
                found, attention = network.with_weights(symbols, lengths)
                outputs[chosen] = found.cpu().numpy()
                if not weighted:
                    continue
                for k, row, length in zip(chosen, attention.cpu().numpy(), lengths, strict=True):
                    # without the beginning and the end; a copy, which does not keep the whole batch
                    weights[k] = row[1 : int(length) - 1].copy()
        return outputs, weights

    def _encoded(self, texts: Iterable[str]) -> Encoded:
        return Encoded.of(self.tokenizer_, texts, self.options_.longest)

    def predict_proba(
        self, X: Any, *, device: Device = "cpu", on_error: OnError | None = None
    ) -> Array:
        """N×classes: the probability of each class, in the order of ``classes_``. The arguments are those of
        :meth:`predict`."""
        texts = self._texts(X, on_error=on_error)
        return softmax(self._outputs(self._encoded(texts.texts), device)[0])

    def predict(self, X: Any, *, device: Device = "cpu", on_error: OnError | None = None) -> Any:
        """The most probable class of each text.

        Args:
            X: data in the form that :meth:`fit` had, without labels; or in any case a list of texts.
            device: where the network runs: "cpu", "cuda", "cuda:1".
            on_error: what is done with a row of a table that is not valid: "stop" or "skip"; by default as in ``fit``.

        Returns:
            N labels. For a table, a table of the same library with the number of each row, ``row``, its
            ``text`` and ``prediction``, the probability of each class, and ``unknown``, the share of unknown
            words in the text.
        """
        columns = joined(self._columns(X, device, on_error))
        listed = self.text is None or are_texts(X)
        return columns["prediction"] if listed else table_like(columns, X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The share of texts whose class is predicted right. A table has its labels in a column, so that it is
        given without y; then it is the accuracy of :meth:`evaluate`."""
        self.check_fitted()
        if self.text is None or are_texts(X):
            return float(super().score(X, y, sample_weight))
        if sample_weight is not None:
            raise OptionError("sample_weight is for a list of texts: leave it out for a table")
        return self.evaluate(X, y).scores["accuracy"]

    def predict_parts(self, data: Any, **options: Any) -> Iterator[Any]:
        for columns in self._columns(data, **options):
            yield table_like(columns, None)

    def _columns(
        self, X: Any, device: Any = "cpu", on_error: OnError | None = None
    ) -> Iterator[dict[str, Any]]:
        """The columns of :meth:`predict` for some of the texts at a time."""
        self.check_fitted()
        problems = Problems()
        for texts in self._source(on_error, data=X).pieces(X):
            problems = texts.problems
            encoded = self._encoded(texts.texts)
            probabilities = softmax(self._outputs(encoded, device)[0])
            best: Array = self.classes_[probabilities.argmax(1)]
            columns = {"row": texts.places, "text": texts.texts, "prediction": best}
            for k, label in enumerate(self.classes_):
                columns[f"probability_{label}"] = probabilities[:, k]
            yield columns | {"unknown": encoded.unknown_shares}
        for note in problems.notes():
            caution(note)

    def attention(
        self, X: Any, *, device: Device = "cpu", on_error: OnError | None = None
    ) -> list[list[tuple[str, float]]]:
        """The words of each text, each with its weight in the attention pooling.

        The weights of a text and of its beginning and end, which are not listed, sum to 1. The arguments are those
        of :meth:`predict`."""
        texts = self._texts(X, on_error=on_error)
        weights = self._outputs(self._encoded(texts.texts), device, weighted=True)[1]
        return [
            list(zip(self.tokenizer_.pieces(text), each.tolist(), strict=False))
            for text, each in zip(texts.texts, weights, strict=True)
        ]

    def validation_scores(self, training_data: TrainingData) -> dict[str, float]:
        examples: Any = training_data.training.dataset
        held = examples.encoded.chosen(self.held_out_)
        outputs = self._outputs(held, "cpu")[0]
        return of_classes(examples.target[self.held_out_].numpy(), softmax(outputs))

    def inputs(self, data: Any) -> tuple[Tensor, Tensor]:
        """All texts of ``data`` as symbols, padded to the longest, and their lengths."""
        encoded = self._encoded(self._texts(data, chosen_here=False).texts)
        return encoded.padded(np.arange(len(encoded)))

    def figures(self, data: Any) -> dict[str, Any]:
        if self.text is None:
            return {}
        first = self._source(data=data).first(data)
        encoded = self._encoded([first])
        words = ["", *self.tokenizer_.pieces(first)[: self.options_.longest], ""]
        trace = self.traced(encoded.padded(np.arange(1)))
        return {f"Gates over the text {shortened(first)}": gate_map(trace, step_labels=words)}

    def shown(self, data: Any, limit: int, steps: int) -> Shown:
        texts = list(self._texts(data, chosen_here=False).texts[:limit])
        encoded = self._encoded(texts)
        labels = [shortened(text) or f"text {k} (empty)" for k, text in enumerate(texts, 1)]
        for note in encoded.cautions(self.unit, self.options_.longest):
            caution(note)
        read = [self.tokenizer_.pieces(text)[: self.options_.longest] for text in texts]
        pieces = [["⊢", *each, "⊣"] for each in read]

        def edited(k: int, edits: Sequence[InputEdit]) -> Shown:
            own = encoded.chosen(np.array([k])).values
            symbols = with_words(own, edits, self.tokenizer_.by_text)
            one = Encoded(symbols, np.array([0, len(symbols)]))
            changed = list(pieces[k])
            for edit in edits:
                changed[edit.at] = str(edit.to)
            return self._shown(one, [labels[k]], [changed], steps)

        return self._shown(encoded, labels, pieces, steps).with_edits(edited)

    def _shown(
        self, encoded: Encoded, labels: list[str], pieces: list[list[str]], steps: int
    ) -> Shown:
        """What is shown of texts with these symbols, whose texts are ``pieces``."""
        inputs = encoded.padded(np.arange(len(encoded)))
        traces = self.traces(inputs)
        outputs, weights = self._outputs(encoded, "cpu", weighted=True)
        names = list(map(str, self.classes_.tolist()))
        strips, predictions = [], []
        for each, row, weight in zip(pieces, softmax(outputs), weights, strict=True):
            attention = [0.0, *weight, 0.0][:steps]
            strips.append(words("text, with the weights of attention", each[:steps], attention))
            predictions.append(bars("probability", dict(zip(names, row, strict=True)), full=1.0))
        first = {name: first_steps(trace, steps) for name, trace in traces.items()}
        return Shown(first, labels, strips, predictions, inputs)

    # ---------------------------------------------------------------------------------- evaluation

    def evaluate(
        self, X: Any, y: Any = None, *, device: Device = "cpu", on_error: OnError | None = None
    ) -> Evaluation:
        """The scores of the model and of two baselines on texts that the model was not trained on.

        The baselines are the most frequent class, and logistic regression on TF-IDF features of words and
        pairs of words, fitted to the same training part.

        Args:
            X: data in the form that :meth:`fit` had. A table must have its column of classes. Of the data of
                ``fit``, the test part is scored.
            y: N labels, for a list of texts only. A model that was fitted to a table takes such a list too.
            device: where the network runs: "cpu", "cuda", "cuda:1".
            on_error: what is done with a row of a table that is not valid, such as one of an unknown class: "stop" or
                "skip"; by default as in ``fit``.

        Raises:
            DataError: a class is unknown to the model, or the model was trained on every text.
        """
        texts = self._texts(X, learned=True, on_error=on_error)
        if texts.labels is not None and y is not None:
            raise OptionError("the data is a table with its labels in a column: leave y out")
        if texts.labels is None:
            texts = replace(texts, labels=labels_of(self, y, len(texts)))
        labels = texts.known_labels
        chosen, notes = self._unseen(texts)
        chosen = self._of_known_class(labels, chosen, texts, "the data")
        if not len(chosen):
            raise DataError("no text has a class that the model knows")
        some_texts = [texts.texts[k] for k in chosen]
        encoded = self._encoded(some_texts)
        outputs, weights = self._outputs(encoded, device, weighted=True)
        truth = self._indices(labels[chosen])
        ours = softmax(outputs)
        prior = np.broadcast_to(self.baseline_.prior, ours.shape)
        rows = {
            "majority class": of_classes(truth, prior),
            "TF-IDF, logistic regression": of_classes(
                truth, softmax(self.baseline_.outputs(some_texts))
            ),
        }
        names = tuple(map(str, self.classes_.tolist()))
        examples = self._examples(some_texts, weights, truth, ours)
        results = ClassResults(names, truth, ours, encoded.lengths - 2, f"{self.unit}s", examples)
        notes += (*texts.problems.notes(), *encoded.notes(self.unit, self.longest))
        if len(truth) < FEW:
            notes += (f"the scores rest on {with_unit(len(truth), 'text')} only",)
        scores = of_classes(truth, ours)
        return Evaluation(self.name, scores, rows, len(truth), "texts", "accuracy", notes, results)

    def _unseen(self, texts: Texts) -> tuple[Array, tuple[str, ...]]:
        """The indices of the texts to score, and notes: of the data of fit its test part, else all texts.

        Raises:
            DataError: the model was trained on all of them.
        """
        every = np.arange(len(texts))
        found, labels = digests(texts.texts), texts.known_labels
        count = len(texts) if self.limit is None else min(self.limit, len(texts))
        # a new array of texts is only as wide as they need, as that of fit was
        fitted = np.array(labels[:count].tolist()) if labels.dtype.kind == "U" else labels[:count]
        if len(self.tested_) and digest(found[:count], fitted) == self.data_:
            return self.tested_, ()
        seen = np.isin(found, self.seen_)
        if seen.all():
            raise DataError(
                "the model was trained on all of these texts, so they cannot test it: give other texts, or "
                "fit with test="
            )
        count = int(seen.sum())
        note = f"{with_unit(count, 'text')} of these also occur in the training part"
        return every, (note,) if count else ()

    def _examples(
        self, texts: list[str], weights: list[Array], truth: Array, probabilities: Array
    ) -> list[Example]:
        """The surest right and wrong predictions."""
        guess, sure = probabilities.argmax(1), probabilities.max(1)
        order = np.argsort(-sure, kind="stable")
        right = guess[order] == truth[order]
        names = list(map(str, self.classes_.tolist()))
        found = []
        for k in [*order[~right][:SHOWN], *order[right][:SHOWN]]:
            pieces = list(zip(self.tokenizer_.pieces(texts[k]), weights[k].tolist(), strict=False))
            most = max((weight for _, weight in pieces), default=1.0) or 1.0
            scaled = tuple((piece, weight / most) for piece, weight in pieces)
            found.append(Example(scaled, names[truth[k]], names[guess[k]], float(sure[k])))
        return found

    # ------------------------------------------------------------------------------------- saving

    def learned(self) -> dict[str, Any]:
        dates = self.classes_.dtype.kind == "M"
        classes = self.classes_.astype(str) if dates else self.classes_
        return dict(
            shape=asdict(self.shape_),
            classes=classes,
            dtype=self.classes_.dtype.str,
            tokenizer=self.tokenizer_.to_json(),
            data=self.data_,
            notes=list(self.notes_),
            pretraining=None if self.pretraining_ is None else asdict(self.pretraining_),
        )

    @classmethod
    def learned_checks(cls, saved: Saved) -> tuple[dict[str, Check], dict[str, Check]]:
        return state.learned_checks(saved), {}

    def restore_learned(self, learned: dict[str, Any]) -> None:
        state.restore_learned(self, learned)

    def tensors(self) -> dict[str, Tensor]:
        arrays = {name: getattr(self, name) for name in state.INDICES}
        arrays |= {f"baseline_.{part}": each for part, each in asdict(self.baseline_).items()}
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}

    def expected_tensors(self, saved: Saved) -> tuple[dict[str, Tensor], set[str]]:
        return state.expected_tensors(self, saved), set()

    def restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        for name in state.INDICES:
            setattr(self, name, tensors.pop(name).numpy())
        self.baseline_ = state.baseline_of(tensors)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags
