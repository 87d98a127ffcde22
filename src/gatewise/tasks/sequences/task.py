"""The base class of the classifier and the regressor: reading arrays and tables, training, saving."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import numpy as np
import torch
from sklearn.base import is_classifier
from torch import Tensor, nn

from gatewise.arguments import (
    Count,
    Layers,
    NonNegative,
    NonNegativeCount,
    Positive,
    Probability,
    Seed,
)
from gatewise.data.buckets import sorted_batches
from gatewise.data.sequences import Scale, Sequences, masked, padded
from gatewise.data.sources.series import Series, SeriesTable, digests
from gatewise.errors import DataError, OptionError
from gatewise.forks import keep_torch_from_waiting
from gatewise.gates.page.shown import InputEdit, Shown, first_steps, with_numbers
from gatewise.gates.page.strips import Strip, lines
from gatewise.gates.picture import gate_map
from gatewise.models.sequence import SequenceEnsemble, SequenceShape
from gatewise.report.scores import Evaluation
from gatewise.report.words import with_unit
from gatewise.tasks.base import Task
from gatewise.tasks.entry_checks import Check
from gatewise.tasks.kinds import AnyCell, Column, Columns, Part, device_of, is_size, part_size
from gatewise.tasks.ranges import Between, OneOf, Range
from gatewise.tasks.saved import Saved
from gatewise.tasks.sequences import baselines, state
from gatewise.tasks.sequences.baselines import LinearModel
from gatewise.tasks.sequences.reading import check_options_of_arrays, read_arrays
from gatewise.tasks.sequences.recipe import TEST, members_for, noise_for, recipe_for, validation_for
from gatewise.tasks.sequences.record import data_record
from gatewise.tasks.sequences.targets import weights_of
from gatewise.tasks.sequences.training import (
    Batch,
    Examples,
    held_for_validation,
    loaders,
    without_test,
)
from gatewise.train.objective import Carry, TrainingData
from gatewise.train.record import Record
from gatewise.train.run import Run

Array = np.ndarray
_TOGETHER = 256  # sequences that the network reads at once
FEW = 10  # fewer sequences have scores that a note qualifies


class Unseen(NamedTuple):
    """Sequences that a model was not trained on, with their targets and names, and notes for the report."""

    sequences: Sequences
    target: Any
    names: Array
    notes: tuple[str, ...]


@dataclass(eq=False, repr=False)
class SequenceTask(Task):
    """A recurrent network with one output, a class or numbers, for each sequence.

    Args:
        cell: the name of a built-in cell. In Python also a cell made with :func:`gatewise.cell`.
        hidden: hidden units of each recurrent layer.
        layers: the number of recurrent layers.
        series: the column of a table with the names of the series; rows with the same name are one sequence.
            A file needs it. In Python, the data are arrays without it.
        time: the column of a table with the times. Each series is sorted by it. Without it the rows of a
            series keep their order.
        channels: the numeric columns of a table that the network reads. By default all numeric columns
            without another role.
        time_format: the format of times that are text or integers, in the notation of
            ``datetime.strptime``.
        bidirectional: read each sequence in both directions.
        dropout: dropout probability between layers and before the output.
        pooling: how the outputs of all steps become one vector: "mean_max" for each unit's mean and maximum,
            "mean", "last" or "attention" (Yang et al. 2016).
        filters: convolution filters over 9, 19 and 39 steps, which the recurrent layers read beside the
            inputs; 0 for none.
        members: the number of networks that are trained from different initial weights. The output is the mean of
            theirs. The default is 3 below 500 sequences and 1 from there on.
        missing: what to do about NaN: "error", or "mask" to give the network the feature's mean in its
            place, and for each feature an input that says whether it is missing.
        noise: the standard deviation of the noise that training adds to the scaled inputs. The default is 0.2
            below 500 sequences and 0 from there on.
        epochs: the largest number of passes over the training part. The default makes 400 updates, and at
            least 20 passes.
        batch: sequences per batch. The default is the power of two nearest to the square root of the number
            of sequences, from 16 to 256.
        learning_rate: the highest learning rate of AdamW. The rate warms up once, then falls along a cosine.
        patience: training ends after this many epochs without a lower validation loss.
        seed: the seed of the weights, of the split and of the order of sequences. The same seed gives the
            same model.
    """

    searched: ClassVar[dict[str, Range]] = {
        "hidden": OneOf((32, 64, 128)),
        "layers": OneOf((1, 2)),
        "bidirectional": OneOf((False, True)),
        "dropout": Between(0.0, 0.5),
        "pooling": OneOf(("mean_max", "mean", "last", "attention")),
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
    bidirectional: bool = True
    dropout: Probability = 0.0
    pooling: Literal["mean_max", "mean", "last", "attention"] = "mean_max"
    filters: NonNegativeCount = 32
    members: Count | None = None
    missing: Literal["error", "mask"] = "error"
    noise: NonNegative | None = None
    epochs: Count | None = None
    batch: Count | None = None
    learning_rate: Positive = 1e-2
    patience: Count = 15
    seed: Seed = 0

    def check_together(self, options: SimpleNamespace) -> None:
        if options.series and options.time_format and not options.time:
            raise OptionError(
                f"time_format={options.time_format!r} needs a column of times: name it with time="
            )

    # ------------------------------------------- methods that the classifier and the regressor define

    def source(self) -> SeriesTable:
        """The reader of tables, with its column roles."""
        raise NotImplementedError

    def target_of(self, y: Any, weight: Array) -> tuple[Array, Array]:
        """The targets of training, N class indices or N×K numbers, and the samples' weights in the loss.

        Args:
            y: the labels or numbers that the user gave.
            weight: the sample weights that the user gave.
        """
        raise NotImplementedError

    def scaled_target(self, target: Array, known: Array) -> Array:
        """The targets in the units of the network's outputs.

        Args:
            known: N, the samples' weights, 0 outside the training part. The scale is learned with them.
        """
        raise NotImplementedError

    def baseline_of(self, plain: Array, target: Array, weight: Array, given: Array) -> LinearModel:
        """The linear baseline, fitted to simple features.

        Args:
            weight: N, the samples' weights in the loss.
            given: N, their weights without those of their classes.
        """
        raise NotImplementedError

    def columns_read(self) -> tuple[str, ...]:
        return () if self.series is None else tuple(map(str, self.feature_names_in_))

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
        """Fits the model to N sequences. A second fit starts from new weights.

        Args:
            X: arrays in a form that scikit-learn accepts; or, with ``series``, a table or file with a row for
                each series and time, which contains the label or target columns.
            y: N labels, or N or N×K numbers. For arrays only.
            sample_weight: N weights, for arrays only. A sample with the weight 0 is ignored.
            validation: the sequences for early stopping and for choosing the best weights: a share below 1,
                a number of sequences (0 for none), or a file with other series. The default is 0.1, and 0 for
                fewer than 500 sequences.
            test: the series of a table that are held out to score the model: a share below 1, a number of
                series (0 for none), or a file with other series. The default is 0.15.
            run: devices, output folder and whether to resume.

        Raises:
            OptionError: an argument is not valid.
            DataError: X, y or the weights are not valid. The message names the place.
            TrainingError: the loss is not finite.
        """
        if self.series is not None:
            if y is not None or sample_weight is not None:
                raise OptionError(
                    f"with series={self.series!r} the data is a table with its labels or targets in columns: "
                    f"leave y and sample_weight out, or leave series= out to fit arrays"
                )
            return super().fit(X, validation=validation, test=test, run=run)
        if test is not None:
            raise OptionError(
                "test= is for tables, but the data are arrays: split the arrays yourself"
            )

        def prepare(fresh: Self, run: Run) -> TrainingData:
            return fresh._prepare_arrays(X, y, sample_weight, validation, run)

        return self.fit_prepared(prepare, run or Run(quiet=True))

    def _prepare_arrays(
        self, X: Any, y: Any, given: Any, validation: Any, run: Run
    ) -> TrainingData:
        check_options_of_arrays(self)
        sequences = read_arrays(self, X, self.options_.missing, reset=True)
        y = self.checked_y(y, len(sequences))
        weight = weights_of(given, len(sequences))
        return self._training_data(sequences, y, weight, None, validation, 0, run)

    def checked_y(self, y: Any, count: int) -> Array:
        """The labels or numbers that the user gave for ``count`` samples, checked."""
        raise NotImplementedError

    def prepare(self, data: Any, validation: Any, test: Any, run: Run) -> TrainingData:
        source = self.source()
        found = self._read_table(source, data, learned=True)
        held = None
        if is_size(test):
            size = TEST if test is None else part_size("test", test)
            found = without_test(found, size, self.options_.seed, is_classifier(self))
        sequences, y = found.sequences, found.known_target
        if validation is not None and not is_size(validation):
            source = replace(source, channels=found.channels)
            other = self._read_table(source, validation, learned=True)
            held = np.arange(len(found), len(found) + len(other))
            sequences, y = (
                sequences.followed_by(other.sequences),
                np.concatenate([y, other.known_target]),
            )
        self.n_features_in_ = len(found.channels)
        self.steps_: int | None = None
        self.feature_names_in_ = np.array(found.channels, dtype=object)
        return self._training_data(
            sequences, y, np.ones(len(sequences)), held, validation, test, run, found.labels
        )

    def _read_table(self, source: SeriesTable, data: Any, learned: bool) -> Series:
        keep_torch_from_waiting()
        found = source.read(data, learned)
        source.check_values(found, self.options_.missing)
        return found

    def _training_data(
        self,
        sequences: Sequences,
        y: Any,
        weight: Array,
        held: Array | None,
        validation: Any,
        test: Any,
        run: Run,
        labels: Array | None = None,
    ) -> TrainingData:
        """The training data. This learns scales, sizes and the baseline.

        Args:
            weight: the sample weights that the user gave. Samples of weight 0 are ignored.
            held: the indices of the validation samples; None to draw them here.
            labels: the names of the series of a table.
        """
        options = self.options_
        target, weighted = self.target_of(y, weight)
        size = validation
        if size is None:
            size = validation_for(int(np.count_nonzero(weighted > 0)))
        self.held_out_ = self.held_of(target, weighted, size) if held is None else held
        known = weight.copy()
        known[self.held_out_] = 0.0
        if not known.any():
            raise DataError(
                f"n_samples = {int((weight > 0).sum())} with validation={size} leaves no sample for training: "
                f"give more samples, a smaller validation=, or validation=0"
            )
        self.input_scale_ = Scale.of(sequences.values, np.repeat(known, sequences.lengths))
        scaled = replace(sequences, values=self.input_scale_.applied(sequences.values))
        self.baseline_ = self.baseline_of(baselines.features(scaled), target, weighted, weight)
        self.seen_ = digests(sequences)
        record = Record({}, {})
        if run.out is not None:
            data = data_record(sequences, target, weight, labels)
            record = self.training_record(data, validation, test, run)
        values, starts = self._inputs(scaled)
        target = self.scaled_target(target, known)
        trained = np.setdiff1d(np.flatnonzero(weighted > 0), self.held_out_)
        self.shape_ = SequenceShape(
            inputs=values.shape[1],
            outputs=self.outputs_of(target),
            hidden=options.hidden,
            layers=options.layers,
            bidirectional=options.bidirectional,
            dropout=options.dropout,
            pooling=options.pooling,
            filters=options.filters,
            members=members_for(options, len(trained)),
        )
        recipe = recipe_for(options, len(trained))
        noise = np.zeros(values.shape[1])  # none on the inputs that say which values are missing
        noise[: len(self.input_scale_.location)] = noise_for(options, len(trained))
        weighted = weighted / weighted[weighted > 0].mean()
        examples = Examples(values, starts, target, weighted, noise)
        parts = loaders(examples, trained, self.held_out_, recipe.batch, recipe.seed)
        return TrainingData(*parts, recipe, record)

    def held_of(self, target: Array, weight: Array, size: Any) -> Array:
        """The indices of the validation samples."""
        return held_for_validation(target, weight, size, self.options_.seed)

    def outputs_of(self, target: Array) -> int:
        """The number of the network's outputs for a sequence."""
        return int(target.shape[1])

    def build(self) -> nn.Module:
        return SequenceEnsemble(self.cell, self.shape_)

    def describe_member(self, batch: Batch, at: int) -> str:
        return f"sample {int(batch.sample[at])}"

    def element_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """B losses, one for each sequence, before they are weighted."""
        raise NotImplementedError

    def loss(self, network: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
        noisy = network.training and bool(batch.noise.any())
        each = [
            self.element_loss(
                member(batch.noisy() if noisy else batch.x, batch.lengths), batch.target
            )
            for member in cast(SequenceEnsemble, network).members
        ]
        return torch.stack(each).mean(0) * batch.weight, None

    # ------------------------------------------------------------------------------------ reading

    def _fitted(self, X: Any) -> Sequences:
        """X as sequences, which must have the form of the data of ``fit``."""
        self.check_fitted()
        if self.series is None:
            return read_arrays(self, X, self.options_.missing, reset=False)
        return self._fitted_table(X, learned=False).sequences

    def _fitted_table(self, data: Any, learned: bool) -> Series:
        self.check_fitted()
        source = replace(self.source(), channels=tuple(self.feature_names_in_))
        return self._read_table(source, data, learned)

    def _inputs(self, scaled: Sequences) -> tuple[Array, Array]:
        """The network's inputs, ΣT×I or ΣT×2I, and the row at which each sequence starts."""
        values = masked(scaled.values) if self.options_.missing == "mask" else scaled.values
        return values, scaled.starts

    def _scaled(self, sequences: Sequences) -> Sequences:
        return replace(sequences, values=self.input_scale_.applied(sequences.values))

    # ----------------------------------------------------------------------------------- outputs

    def _outputs(self, sequences: Sequences, device: Any) -> Array:
        """N×outputs: the outputs of the network in float64."""
        values, starts = self._inputs(self._scaled(sequences))
        return self._outputs_of(values, starts, np.arange(len(sequences)), device)

    def _outputs_of(self, values: Array, starts: Array, which: Array, device: Any) -> Array:
        """The outputs of the network for the sequences ``which``, given scaled inputs."""
        where = device_of("device", device)
        outputs = np.empty((len(starts) - 1, self.shape_.outputs))
        # float64, so that rounding differences between batches do not show in the results
        network = copy.deepcopy(self.network_).double().to(where)
        with torch.no_grad():
            for chosen in sorted_batches(np.diff(starts), which, _TOGETHER):
                x, lengths = padded(values, starts, chosen)
                lengths = None if lengths is None else lengths.to(where)
                outputs[chosen] = network(x.double().to(where), lengths).cpu().numpy()
        return outputs[which]

    def validation_scores(self, training_data: TrainingData) -> dict[str, float]:
        examples: Any = training_data.training.dataset
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

    def shown(self, data: Any, limit: int, steps: int) -> Shown:
        if self.series is None:
            sequences = self._fitted(data)
            labels = [f"sample {k}" for k in range(len(sequences))]
        else:
            found = self._fitted_table(data, learned=False)
            sequences, labels = found.sequences, list(map(str, found.labels))
        count = min(limit, len(sequences))
        part, labels = sequences.chosen(np.arange(count)), labels[:count]

        def edited(k: int, edits: Sequence[InputEdit]) -> Shown:
            values = with_numbers(part.values[part.rows(k)], edits)
            one = Sequences(values, np.array([0, len(values)]), part.names)
            return self._shown(one, [labels[k]], steps)

        return self._shown(part, labels, steps).with_edits(edited)

    def _shown(self, sequences: Sequences, labels: list[str], steps: int) -> Shown:
        """What is shown of sequences: the gates of the first member of the ensemble."""
        inputs = self._padded(sequences)
        traces = self.traces(inputs)
        predictions = self.prediction_strips(self._outputs(sequences, "cpu"))
        names = sequences.names or tuple(f"feature {k}" for k in range(sequences.inputs))
        strips = [
            lines(
                "input",
                dict(zip(names, sequences.values[sequences.rows(k)][:steps].T, strict=True)),
            )
            for k in range(len(sequences))
        ]
        first = {name: first_steps(trace, steps) for name, trace in traces.items()}
        return Shown(first, labels, strips, predictions, inputs)

    def prediction_strips(self, outputs: Array) -> list[Strip]:
        """What a page of gates shows of the network's outputs for each sequence."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------- evaluation

    def unseen(self, X: Any, y: Any) -> Unseen:
        """The sequences of X that the model was not trained on.

        Raises:
            DataError: the model was trained on all of them.
        """
        self.check_fitted()
        if self.series is None:
            sequences = read_arrays(self, X, self.options_.missing, reset=False)
            target, names = self.checked_y(y, len(sequences)), np.arange(len(sequences))
        else:
            found = self._fitted_table(X, learned=True)
            sequences, target, names = found.sequences, found.known_target, found.labels
        new = np.flatnonzero(~np.isin(digests(sequences), self.seen_))
        if not len(new):
            raise DataError(
                "the model was trained on all of these sequences, so they cannot test it: give other "
                "sequences, or fit with test="
            )
        left_out = len(sequences) - len(new)
        notes = (
            f"left out of the scores: {with_unit(left_out, 'sequence')} that the model was trained on",
        )
        part = sequences.chosen(new), target[new], names[new]
        return Unseen(*part, notes if left_out else ())

    def evaluation(
        self,
        scores: dict[str, float],
        rows: dict[str, dict[str, float]],
        n: int,
        main_score: str,
        notes: Any,
        details: Any = None,
    ) -> Evaluation:
        """The scores of the model and of each baseline on n sequences; ``details`` are for the report."""
        if n < FEW:
            notes = (*notes, f"the scores rest on {with_unit(n, 'sequence')} only")
        return Evaluation(self.name, scores, rows, n, "sequences", main_score, notes, details)

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

    def restore_learned(self, learned: dict[str, Any]) -> None:
        self.shape_ = SequenceShape(**learned["shape"])
        self.n_features_in_, self.steps_ = learned["n_features_in"], learned["steps"]
        if "feature_names_in" in learned:
            self.feature_names_in_ = np.array(learned["feature_names_in"], dtype=object)
        state.check_fit(self)

    def scales(self) -> tuple[str, ...]:
        """The names of the attributes that are scales."""
        return ("input_scale_",)

    def tensors(self) -> dict[str, Tensor]:
        arrays = {"held_out_": self.held_out_, "seen_": self.seen_}
        for name in (*self.scales(), "baseline_"):
            arrays |= {f"{name}.{part}": each for part, each in asdict(getattr(self, name)).items()}
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}

    def expected_tensors(self, saved: Saved) -> tuple[dict[str, Tensor], set[str]]:
        return state.expected_tensors(self, saved), set()

    def restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.held_out_, self.seen_ = (tensors.pop(each).numpy() for each in ("held_out_", "seen_"))
        for name in self.scales():
            setattr(self, name, state.scale_of(name, tensors))
        parts = {name.removeprefix("baseline_."): each.numpy() for name, each in tensors.items()
                 if name.startswith("baseline_.")}  # fmt: skip
        self.baseline_ = LinearModel(**parts)

    def check_scored(self) -> None:
        """Raises OptionError if ``score`` is called for a model of tables, whose predictions are tables."""
        if self.series is not None:
            raise OptionError(
                "score compares the predictions for arrays with y, but this model reads tables: evaluate(table) gives "
                "its scores"
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.missing == "mask"
        return tags
