"""The base of the classifier and the regressor: reading arrays and tables, training, saving."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import KW_ONLY, asdict, dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from gatewise.arguments import Count, Layers, Positive, Probability, Seed
from gatewise.data.sequences import Scale, Sequences, masked, padded
from gatewise.data.sources.series import Series, SeriesTable, digests
from gatewise.errors import DataError, OptionError
from gatewise.forks import keep_torch_from_waiting
from gatewise.gates.picture import gate_map
from gatewise.models.sequence import SequenceNetwork, SequenceShape
from gatewise.report.scores import Evaluation
from gatewise.tasks.base import Task
from gatewise.tasks.described import Check
from gatewise.tasks.kinds import AnyCell, Column, Columns, Part, device_of, is_size, part_size
from gatewise.tasks.ranges import Between, OneOf, Range
from gatewise.tasks.saved import Saved
from gatewise.tasks.sequences import baselines, state
from gatewise.tasks.sequences.baselines import LinearModel
from gatewise.tasks.sequences.reading import check_options_of_arrays, read_arrays
from gatewise.tasks.sequences.recipe import TEST, VALIDATION, recipe_for
from gatewise.tasks.sequences.record import data_record
from gatewise.tasks.sequences.targets import weights_of
from gatewise.tasks.sequences.training import (
    Batch,
    Examples,
    held_for_validation,
    loaders,
    without_test,
)
from gatewise.train.objective import Carry, Material
from gatewise.train.record import Record
from gatewise.train.run import Run

Array = np.ndarray


class Unseen(NamedTuple):
    """Sequences that a model has not learned from, what was to be learned of them, and what is to be said."""

    sequences: Sequences
    target: Any
    names: Array
    notes: tuple[str, ...]


@dataclass(eq=False, repr=False)
class SequenceTask(Task):
    """A recurrent network that gives each sequence a class or numbers.

    Args:
        cell: the name of a built-in cell, or one made with :func:`gatewise.cell`.
        hidden: units of the recurrent layer.
        layers: recurrent layers.
        series: of a table, the column that names the series: rows of one name are one sequence. Without
            it the data are arrays.
        time: of a table, the column of times, by which each series is sorted.
        channels: of a table, the numeric columns that are read; all that have no other role if not given.
        time_format: how texts or whole numbers spell times, in the notation of ``datetime.strptime``.
        bidirectional: read each sequence in both directions.
        dropout: probability of dropping a value between layers and before the output.
        pooling: what of the states is used: "last", "mean" or "attention" (Yang et al. 2016).
        missing: "error", or "mask" to take NaN as missing: the network reads the feature's mean there,
            and beside each feature whether it is missing.
        epochs: passes over the training part, at most.
        batch: sequences to a step.
        learning_rate: the highest learning rate of AdamW, with one warm-up and cosine.
        patience: epochs without a lower validation loss after which the training ends.
        seed: of the weights, the parts that are held out and the order; the same seed gives the same model.
    """

    sources: ClassVar[tuple[str, ...]] = ("series", "arrays")
    searched: ClassVar[dict[str, Range]] = {
        "hidden": OneOf((32, 64, 128)),
        "layers": OneOf((1, 2)),
        "bidirectional": OneOf((False, True)),
        "dropout": Between(0.0, 0.5),
        "pooling": OneOf(("last", "mean", "attention")),
        "learning_rate": Between(1e-3, 3e-2, log=True),
    }
    not_searched: ClassVar[tuple[str, ...]] = ("seed", "series", "time", "time_format")

    cell: AnyCell = "lstm"
    hidden: Count = 64
    layers: Layers = 1
    _: KW_ONLY
    series: Column | None = None
    time: Column | None = None
    channels: Columns | None = None
    time_format: str | None = None
    bidirectional: bool = False
    dropout: Probability = 0.0
    pooling: Literal["last", "mean", "attention"] = "last"
    missing: Literal["error", "mask"] = "error"
    epochs: Count = 100
    batch: Count = 32
    learning_rate: Positive = 4e-3
    patience: Count = 15
    seed: Seed = 0

    def check_together(self, options: SimpleNamespace) -> None:
        if options.series and options.time_format and not options.time:
            raise OptionError(
                f"time_format={options.time_format!r} has no times to read: name their column with time"
            )

    # ------------------------------------------------------------- what classes and numbers differ in

    def source(self) -> SeriesTable:
        """How a table is read."""
        raise NotImplementedError

    def target_of(self, y: Any, weight: Array) -> tuple[Array, Array]:
        """N classes or N×K numbers of what the user gave, and the samples' weights in the loss."""
        raise NotImplementedError

    def scaled_target(self, target: Array, known: Array) -> Array:
        """What the network is to give for each target; scales are learned by the weights ``known``."""
        raise NotImplementedError

    def baseline_of(self, plain: Array, target: Array, weight: Array) -> LinearModel:
        """A linear model of the target on plain features."""
        raise NotImplementedError

    # --------------------------------------------------------------------------------- learning

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
        """Learn from N sequences and what belongs to each; a refit starts afresh.

        Args:
            X: arrays and their y, as scikit-learn has them; or, where ``series`` is given, a table or file with
                a row for each series and time, which has what is to be learned in a column.
            y: N labels, or N (N×K) numbers; of arrays alone.
            sample_weight: N weights, of arrays alone; a sample of weight 0 is as one that is not there.
            validation: what stops the training, and chooses the weights that are kept: a share below 1 or a
                number of sequences (0 for none), or a file with other series; a tenth if not given.
            test: of a table, the series that are held out: a share below 1 or a number (0 for none), or a
                file with other series; 0.15 if not given.
            run: where and with what the training runs, and whether it is resumed.

        Raises:
            OptionError: an argument cannot be used.
            DataError: X, y or the weights cannot be used; the message names the place.
            TrainingError: the loss is not a number any more.
        """
        if self.series is not None:
            if y is not None or sample_weight is not None:
                raise OptionError(
                    f"series={self.series!r} reads a table, which has what is to be learned in a column: "
                    f"give no y and no sample_weight, or no series="
                )
            return super().fit(X, validation=validation, test=test, run=run)
        if test is not None:
            raise OptionError(
                "test= holds series of a table out, and these are arrays: hold some out yourself"
            )

        def prepare(fresh: Self, run: Run) -> Material:
            return fresh._prepare_arrays(X, y, sample_weight, validation, run)

        return self.fit_by(prepare, run or Run(quiet=True))

    def _prepare_arrays(self, X: Any, y: Any, given: Any, validation: Any, run: Run) -> Material:
        check_options_of_arrays(self)
        sequences = read_arrays(self, X, self.options_.missing, reset=True)
        y = self.checked_y(y, len(sequences))
        weight = weights_of(given, len(sequences))
        return self._material(sequences, y, weight, None, validation, 0, run)

    def checked_y(self, y: Any, count: int) -> Array:
        """What is to be learned of ``count`` samples, as the user gave it."""
        raise NotImplementedError

    def prepare(self, data: Any, validation: Any, test: Any, run: Run) -> Material:
        source = self.source()
        found = self._read_table(source, data, learned=True)
        held = None
        if is_size(test):
            size = TEST if test is None else part_size("test", test)
            found = without_test(found, size, self.options_.seed)
        sequences, y = found.sequences, found.learned
        if validation is not None and not is_size(validation):
            source = replace(source, channels=found.channels)
            other = self._read_table(source, validation, learned=True)
            held = np.arange(len(found), len(found) + len(other))
            sequences, y = sequences.beside(other.sequences), np.concatenate([y, other.learned])
        self.n_features_in_ = len(found.channels)
        self.steps_: int | None = None
        self.feature_names_in_ = np.array(found.channels, dtype=object)
        return self._material(
            sequences, y, np.ones(len(sequences)), held, validation, test, run, found.labels
        )

    def _read_table(self, source: SeriesTable, data: Any, learned: bool) -> Series:
        keep_torch_from_waiting()
        found = source.read(data, learned)
        source.check_values(found, self.options_.missing)
        return found

    def _material(
        self,
        sequences: Sequences,
        y: Any,
        weight: Array,
        held: Array | None,
        validation: Any,
        test: Any,
        run: Run,
        labels: Array | None = None,
    ) -> Material:
        """What is learned from samples whose weight is above 0; ``held`` are those that stop the training,
        drawn here where it is None."""
        options = self.options_
        target, weighted = self.target_of(y, weight)
        size = VALIDATION if validation is None else validation
        self.held_out_ = self.held_of(target, weighted, size) if held is None else held
        known = weight.copy()
        known[self.held_out_] = 0.0
        if not known.any():
            raise DataError(
                f"n_samples = {int((weight > 0).sum())} with validation={size} leave no sample to learn "
                f"from; give more, or validation=0"
            )
        self.input_scale_ = Scale.of(sequences.values, np.repeat(known, sequences.lengths))
        scaled = replace(sequences, values=self.input_scale_.applied(sequences.values))
        self.baseline_ = self.baseline_of(baselines.features(scaled), target, weighted)
        self.seen_ = digests(sequences)
        record = Record({}, {})
        if run.out is not None:
            data = data_record(sequences, target, weight, labels)
            record = self.recorded(data, validation, test, run)
        values, starts = self._inputs(scaled)
        target = self.scaled_target(target, known)
        self.shape_ = SequenceShape(
            inputs=values.shape[1],
            outputs=self.outputs_of(target),
            hidden=options.hidden,
            layers=options.layers,
            bidirectional=options.bidirectional,
            dropout=options.dropout,
            pooling=options.pooling,
        )
        trained = np.setdiff1d(np.flatnonzero(weighted > 0), self.held_out_)
        recipe = recipe_for(options, len(trained))
        examples = Examples(values, starts, target, weighted / weighted[weighted > 0].mean())
        parts = loaders(examples, trained, self.held_out_, recipe.batch, recipe.seed)
        return Material(*parts, recipe, record)

    def held_of(self, target: Array, weight: Array, size: Any) -> Array:
        """Indices of the samples that stop the training."""
        return held_for_validation(target, weight, size, self.options_.seed)

    def outputs_of(self, target: Array) -> int:
        """How many numbers the network gives for each sequence."""
        return int(target.shape[1])

    def build(self) -> nn.Module:
        return SequenceNetwork(self.cell, self.shape_)

    def place(self, batch: Batch, at: int) -> str:
        return f"sample {int(batch.sample[at])}"

    def element_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """B: the loss of each sequence, without its weight."""
        raise NotImplementedError

    def loss(self, network: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
        outputs = network(batch.x, batch.lengths)
        return self.element_loss(outputs, batch.target) * batch.weight, None

    # ------------------------------------------------------------------------------------ reading

    def _fitted(self, X: Any) -> Sequences:
        """X as sequences, checked beside those that were learned from."""
        self.check_fitted()
        if self.series is None:
            return read_arrays(self, X, self.options_.missing, reset=False)
        return self._fitted_table(X, learned=False).sequences

    def _fitted_table(self, data: Any, learned: bool) -> Series:
        self.check_fitted()
        source = replace(self.source(), channels=tuple(self.feature_names_in_))
        return self._read_table(source, data, learned)

    def _inputs(self, scaled: Sequences) -> tuple[Array, Array]:
        """What the network reads, ΣT×I or ΣT×2I, and where each sequence begins."""
        values = masked(scaled.values) if self.options_.missing == "mask" else scaled.values
        return values, scaled.starts

    def _scaled(self, sequences: Sequences) -> Sequences:
        return replace(sequences, values=self.input_scale_.applied(sequences.values))

    # ----------------------------------------------------------------------------------- outputs

    def _outputs(self, sequences: Sequences, device: Any) -> Array:
        """N×outputs of the network, in double precision."""
        values, starts = self._inputs(self._scaled(sequences))
        return self._outputs_of(values, starts, np.arange(len(sequences)), device)

    def _outputs_of(self, values: Array, starts: Array, which: Array, device: Any) -> Array:
        """Those of the sequences ``which``, of inputs that are scaled."""
        where = device_of("device", device)
        order = which[np.argsort(np.diff(starts)[which], kind="stable")]  # little padding
        outputs = np.empty((len(starts) - 1, self.shape_.outputs))
        # in double precision, so that what stands beside a sequence in a batch shows in no digit
        network = copy.deepcopy(self.network_).double().to(where)
        with torch.no_grad():
            for chosen in _chunks(order):
                x, lengths = padded(values, starts, chosen)
                lengths = None if lengths is None else lengths.to(where)
                outputs[chosen] = network(x.double().to(where), lengths).cpu().numpy()
        return outputs[which]

    def validation_scores(self, material: Material) -> dict[str, float]:
        examples: Any = material.training.dataset
        held = self.held_out_
        outputs = self._outputs_of(examples.values, examples.starts, held, "cpu")
        return self.scores_of(examples.target[held].numpy(), outputs)

    def scores_of(self, target: Array, outputs: Array) -> dict[str, float]:
        """The scores of the network's outputs beside what they were to be."""
        raise NotImplementedError

    def inputs(self, data: Any) -> tuple[Tensor, Tensor | None]:
        """All sequences of ``data``, padded to the longest, and their lengths."""
        return self._padded(self._fitted(data))

    def _padded(self, sequences: Sequences) -> tuple[Tensor, Tensor | None]:
        values, starts = self._inputs(self._scaled(sequences))
        return padded(values, starts, np.arange(len(sequences)))

    def figures(self, data: Any) -> dict[str, Any]:
        if self.series is None:
            return {}
        first = self._fitted_table(data, learned=False).chosen(np.array([0]))
        trace = self.traced(self._padded(first.sequences))
        return {f"Gates over series {str(first.labels[0])[:48]}": gate_map(trace)}

    # ---------------------------------------------------------------------------------- evaluation

    def unseen(self, X: Any, y: Any) -> Unseen:
        """The sequences that the model has not learned from.

        Raises:
            DataError: there is none.
        """
        self.check_fitted()
        if self.series is None:
            sequences = read_arrays(self, X, self.options_.missing, reset=False)
            target, names = self.checked_y(y, len(sequences)), np.arange(len(sequences))
        else:
            found = self._fitted_table(X, learned=True)
            sequences, target, names = found.sequences, found.learned, found.labels
        new = np.flatnonzero(~np.isin(digests(sequences), self.seen_))
        if not len(new):
            raise DataError(
                "the model has learned from all of these sequences, so there is nothing to test it on: give "
                "others, or fit with test="
            )
        left_out = len(sequences) - len(new)
        notes = (
            f"{left_out} more sequences are left out of the scores: the model has learned from them",
        )
        part = sequences.chosen(new), target[new], names[new]
        return Unseen(*part, notes if left_out else ())

    def evaluation(
        self,
        scores: dict[str, float],
        rows: dict[str, dict[str, float]],
        n: int,
        decisive: str,
        notes: Any,
    ) -> Evaluation:
        """The model's scores on n sequences, and each baseline's."""
        return Evaluation(self.name, scores, rows, n, "sequences", decisive, notes)

    # ------------------------------------------------------------------------------------- saving

    def learned(self) -> dict[str, Any]:
        found = dict(
            shape=asdict(self.shape_), n_features_in=self.n_features_in_, steps=self.steps_
        )
        if hasattr(self, "feature_names_in_"):
            found["feature_names_in"] = self.feature_names_in_
        return found

    @classmethod
    def learned_checks(cls, saved: Saved) -> tuple[dict[str, Check], dict[str, Check]]:
        return state.learned_checks(saved)

    def take_learned(self, learned: dict[str, Any]) -> None:
        self.shape_ = SequenceShape(**learned["shape"])
        self.n_features_in_, self.steps_ = learned["n_features_in"], learned["steps"]
        if "feature_names_in" in learned:
            self.feature_names_in_ = np.array(learned["feature_names_in"], dtype=object)
        state.check_fit(self)

    def scales(self) -> tuple[str, ...]:
        """The attributes that are scales."""
        return ("input_scale_",)

    def tensors(self) -> dict[str, Tensor]:
        arrays = {"held_out_": self.held_out_, "seen_": self.seen_}
        for name in (*self.scales(), "baseline_"):
            arrays |= {f"{name}.{part}": each for part, each in asdict(getattr(self, name)).items()}
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}

    def expected_tensors(self, saved: Saved) -> tuple[dict[str, Tensor], set[str]]:
        return state.expected_tensors(self, saved), set()

    def take_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.held_out_, self.seen_ = (tensors.pop(each).numpy() for each in ("held_out_", "seen_"))
        for name in self.scales():
            setattr(self, name, state.scale_of(name, tensors))
        parts = {name.removeprefix("baseline_."): each.numpy() for name, each in tensors.items()
                 if name.startswith("baseline_.")}  # fmt: skip
        self.baseline_ = LinearModel(**parts)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.missing == "mask"
        return tags


def _chunks(order: Array) -> Iterator[Array]:
    for start in range(0, len(order), 256):
        yield order[start : start + 256]
