"""The estimators: sequences in, a class or numbers for each of them out."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.utils import check_array, column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from torch import Tensor

from gatewise.cells.language import Cell
from gatewise.errors import DataError, OptionError
from gatewise.forks import keep_torch_from_waiting
from gatewise.nn.trace import Trace
from gatewise.tasks.fitted import take_over
from gatewise.tasks.sequences.arrays import (
    NotNumbersError,
    Scale,
    Sequences,
    as_array,
    frame_names,
    listed,
    masked,
    padded,
    ragged,
)
from gatewise.tasks.sequences.network import Shape
from gatewise.tasks.sequences.options import Options
from gatewise.tasks.sequences.training import Examples, Loss, held_out, train
from gatewise.tasks.unfitted import UnfittedError
from gatewise.train.fitting import Recipe

Array = np.ndarray


class _SequenceEstimator(BaseEstimator):
    """What the classifier and the regressor share: options, reading X, training, and the trace."""

    task: str
    steps_: int | None

    def __init__(
        self,
        cell: Cell | str = "lstm",
        hidden: int = 64,
        layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        pooling: str = "last",
        missing: str = "error",
        epochs: int = 100,
        batch: int = 32,
        learning_rate: float = 4e-3,
        validation_fraction: float = 0.1,
        patience: int = 15,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        self.cell = cell
        self.hidden = hidden
        self.layers = layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.pooling = pooling
        self.missing = missing
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.seed = seed
        self.verbose = verbose

    def trace(self, X: Any) -> Trace:
        """The recurrent layer's gates and states over every step of every sequence of X.

        Raises:
            DataError: X is not as :meth:`fit` had it.
        """
        values, starts = self._scaled(self._fitted(X))
        with torch.no_grad():
            trace: Trace = self.network_(*padded(values, starts, np.arange(len(starts) - 1)), True)[
                1
            ]
        return trace

    def save(self, folder: str | Path) -> Path:
        """Write the model to a folder, which ``gatewise.load`` opens.

        Raises:
            NotFittedError: there is nothing to save yet.
            ModelFileError: the folder cannot be written, or the model has a weight that is not finite or
                options that another fit is needed for; what was there stays.
        """
        from gatewise.tasks.sequences.files import save

        self._check_fitted()
        return save(self, Path(folder))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.missing == "mask"
        return tags

    def _fresh(self) -> Self:
        """A copy that has learned nothing yet, its options checked.

        Raises:
            OptionError: one cannot be used.
        """
        fresh: Self = clone(self)
        fresh.options_ = Options.of(self)
        return fresh

    def _read(self, X: Any, reset: bool) -> Sequences:
        """X as sequences; with ``reset`` what they are like is learned, without it is checked."""
        keep_torch_from_waiting()
        X = as_array(X)
        members = listed(X)
        table = False
        if members is not None and frame_names(members[0]) is not None:
            known = None if reset else getattr(self, "feature_names_in_", None)
            wanted = tuple(known) if known is not None and self.steps_ is None else None
            sequences = Sequences.framed(members, wanted)
        elif members is not None and (parts := ragged(members)) is not None:
            sequences = Sequences.listed(parts)
        else:
            array, table = self._array(X if members is None else members, reset)
            sequences = Sequences.stacked(array[..., None] if table else array)
        sequences.check_values(self.options_.missing)
        if reset:
            self.steps_ = int(sequences.lengths[0]) if table else None
            if not table:
                self.n_features_in_ = sequences.inputs
                if sequences.names is not None:
                    self.feature_names_in_ = np.array(sequences.names, dtype=object)
                elif hasattr(self, "feature_names_in_"):
                    del self.feature_names_in_
            return sequences
        if sequences.inputs != len(self.input_scale_.location):
            raise DataError(
                f"X has {sequences.inputs} features, but {type(self).__name__} is expecting "
                f"{len(self.input_scale_.location)} features as input"
            )
        if self.steps_ is None:
            self._warn_of_names(sequences)
        return sequences

    def _array(self, X: Any, reset: bool) -> tuple[Array, bool]:
        """X as N×T×I or N×T, and whether it is the latter, a table."""
        checks: dict[str, Any] = dict(dtype=[np.float64, np.float32], ensure_all_finite=False)
        try:
            table = len(X.shape if hasattr(X, "shape") else np.asarray(X).shape) == 2
            if table and (reset or self.steps_ is not None):
                array = validate_data(self, X, reset=reset, **checks)
            else:
                array = check_array(X, allow_nd=True, estimator=self, input_name="X", **checks)
        except (ValueError, TypeError, OverflowError) as error:
            if "setting an array element" in str(error) or isinstance(error, TypeError):
                raise NotNumbersError(
                    f"X holds something else than numbers ({error}); expected N×T×I or N×T numbers, or a "
                    f"list of N arrays or frames T×I"
                ) from error
            raise DataError(str(error)) from error
        if array.ndim > 3:
            raise DataError(
                f"X has the shape {array.shape}; expected N×T×I, N×T, or a list of N arrays T×I"
            )
        return array, table

    def _warn_of_names(self, sequences: Sequences) -> None:
        """As scikit-learn does where names cannot be compared: one side has none."""
        fitted = hasattr(self, "feature_names_in_")
        if fitted and sequences.names is None:
            said = "X does not have valid feature names, but {} was fitted with feature names"
        elif sequences.names is not None and not fitted:
            said = "X has feature names, but {} was fitted without feature names"
        else:
            return
        warnings.warn(said.format(type(self).__name__), UserWarning, stacklevel=4)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise UnfittedError(
                f"this {type(self).__name__} has not been fitted yet: call fit first"
            )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def _fitted(self, X: Any) -> Sequences:
        self._check_fitted()
        return self._read(X, reset=False)

    def _scaled(self, sequences: Sequences) -> tuple[Array, Array]:
        """What the network reads, ΣT×I or ΣT×2I, and where each sequence begins."""
        values = self.input_scale_.applied(sequences.values)
        return masked(values) if self.options_.missing == "mask" else values, sequences.starts

    def _learn(
        self, sequences: Sequences, target: Array, weight: Array, outputs: int, loss: Loss
    ) -> None:
        """Train on the samples whose weight is above 0, those held out excepted."""
        begun = time.perf_counter()
        options = self.options_
        trained = np.setdiff1d(np.flatnonzero(weight > 0), self.held_out_)
        values, starts = self._scaled(sequences)
        self.shape_ = Shape(
            inputs=values.shape[1],
            outputs=outputs,
            hidden=options.hidden,
            layers=options.layers,
            bidirectional=options.bidirectional,
            dropout=options.dropout,
            pooling=options.pooling,
        )
        recipe = Recipe(
            steps=options.epochs * -(-len(trained) // options.batch),
            batch=options.batch,
            learning_rate=options.learning_rate,
            rounds=options.epochs,
            patience=options.patience,
            seed=options.seed,
        )
        weight = weight / weight[weight > 0].mean()
        examples = Examples(values, starts, target, weight)
        parts = trained, self.held_out_
        self.network_, self.history_ = train(
            self.cell, self.shape_, loss, recipe, examples, parts, options.verbose
        )
        self.history_.seconds = time.perf_counter() - begun

    def _hold_out(self, target: Array, weight: Array) -> None:
        """Choose the samples that stop the training."""
        chosen = np.flatnonzero(weight > 0)
        share = self.options_.validation_fraction
        held = held_out(target, chosen, share, self.options_.seed)
        self.held_out_ = np.sort(held)
        if len(held) == len(chosen):
            raise DataError(
                f"n_samples = {len(chosen)} with validation_fraction={share} leave "
                f"no sample to learn from; give more, or validation_fraction=0"
            )

    def _known(self, weight: Array) -> Array:
        """The weights of the training part; what is held out has none, and takes no part in scales."""
        known = weight.copy()
        known[self.held_out_] = 0.0
        return known

    def _outputs(self, X: Any) -> Array:
        """N×outputs of the network, in double precision."""
        sequences = self._fitted(X)
        values, starts = self._scaled(sequences)
        order = np.argsort(sequences.lengths, kind="stable")  # little padding
        outputs = np.empty((len(sequences), self.shape_.outputs))
        # in double precision, so that what stands beside a sequence in a batch shows in no digit
        network = copy.deepcopy(self.network_).double()
        with torch.no_grad():
            for chosen in _chunks(order):
                x, lengths = padded(values, starts, chosen)
                outputs[chosen] = network(x.double(), lengths).numpy()
        return outputs


class SequenceClassifier(ClassifierMixin, _SequenceEstimator):
    """A recurrent network that gives each sequence a class, as an estimator of scikit-learn.

    X is an array N×T×I (numpy or torch), a table N×T (numpy, pandas, polars: I is 1 and each step a
    column, which later tables must have too), or a list of N arrays or frames T×I of any lengths.
    Frames are matched by the names of their columns, in any order. Every feature is brought to mean 0
    and deviation 1 by the training part.

    Args:
        cell: the name of a built-in cell, or one made with :func:`gatewise.cell`.
        hidden, layers, bidirectional: of the recurrent layer.
        dropout: probability of dropping a value between layers and before the output.
        pooling: what of the states is used: "last", "mean" or "attention" (Yang et al. 2016).
        missing: "error", or "mask" to take NaN as missing: the network reads the feature's mean there,
            and beside each feature whether it is missing.
        epochs: passes over the training part, at most.
        batch: sequences to a step.
        learning_rate: of AdamW, with one warm-up and cosine.
        validation_fraction: the share of the samples that is held out: the weights with the least loss
            on it are kept. 0 holds none out and keeps the last.
        patience: epochs without a gain there, after which the training ends.
        class_weight: None, "balanced", or a mapping of each class to its weight.
        seed: of the weights, the held-out part and the order; the same seed gives the same model.
        verbose: whether progress is shown.

    Attributes:
        classes_: the classes, sorted.
        n_features_in_: I, or T where X was a table; ``feature_names_in_`` where its columns, or those
            of the frames in a list, had names.
        steps_: T where X was a table, else None.
        held_out_: indices of the samples that stopped the training.
        network_, shape_: the network and its sizes.
        input_scale_: each feature's location and spread.
        history_: losses by epoch, and the epoch that was kept.

    ``fit`` raises OptionError for an option and DataError for data that cannot be used; both are
    ValueErrors.
    """

    task = "classify"

    def __init__(
        self,
        cell: Cell | str = "lstm",
        hidden: int = 64,
        layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        pooling: str = "last",
        missing: str = "error",
        epochs: int = 100,
        batch: int = 32,
        learning_rate: float = 4e-3,
        validation_fraction: float = 0.1,
        patience: int = 15,
        class_weight: str | Mapping[Any, float] | None = None,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            cell,
            hidden,
            layers,
            bidirectional=bidirectional,
            dropout=dropout,
            pooling=pooling,
            missing=missing,
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate,
            validation_fraction=validation_fraction,
            patience=patience,
            seed=seed,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceClassifier:
        """Learn from N sequences and their labels, N of any kind; a refit starts afresh.

        A sample of weight 0 is as one that is not there.

        Raises:
            OptionError: an argument of the estimator cannot be used.
            DataError: X, y or the weights cannot be used; the message names the place.
            TrainingError: the loss is not a number any more.
        """
        fresh = self._fresh()
        fresh._fit(X, y, sample_weight)
        take_over(self, fresh)
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> None:
        sequences = self._read(X, reset=True)
        labels = _labels(self, y, len(sequences))
        weight = _weights(sample_weight, len(sequences))
        present = weight > 0
        self.classes_ = np.unique(labels[present])
        if len(self.classes_) < 2:
            raise DataError(
                f"y has only the class {self.classes_[:1].tolist()[0]!r} in its {present.sum()} samples with a weight "
                f"above 0; a classifier needs two classes or more"
            )
        target = np.searchsorted(self.classes_, np.where(present, labels, self.classes_[0]))
        try:
            importance = compute_sample_weight(self.class_weight, labels[present])
        except ValueError as error:
            raise OptionError(f"class_weight={self.class_weight!r}: {error}") from error
        weighted = weight.copy()
        weighted[present] *= importance
        self._hold_out(target, weighted)
        # a class is never held out whole
        self.held_out_ = self.held_out_[
            np.isin(target[self.held_out_], target[self._known(weighted) > 0])
        ]
        steps = np.repeat(self._known(weight), sequences.lengths)
        self.input_scale_ = Scale.of(sequences.values, steps)
        self._learn(sequences, target, weighted, len(self.classes_), _cross_entropy)

    def predict_proba(self, X: Any) -> Array:
        """N×classes: the probability of each class, in the order of ``classes_``."""
        outputs = self._outputs(X)
        odds = np.exp(outputs - outputs.max(1, keepdims=True))
        probabilities: Array = odds / odds.sum(1, keepdims=True)
        return probabilities

    def predict(self, X: Any) -> Array:
        """N: the most probable class of each sequence."""
        best = self._outputs(X).argmax(1)
        labels: Array = self.classes_[best]
        return labels


class SequenceRegressor(RegressorMixin, _SequenceEstimator):
    """A recurrent network that gives each sequence a number, or several, as an estimator of scikit-learn.

    X, the arguments and the attributes are those of :class:`SequenceClassifier`, less classes and
    ``class_weight``; the targets are brought to mean 0 and deviation 1 by the training part, and the
    loss is the squared error.

    Attributes:
        target_scale_: each target's location and spread.
    """

    task = "regress"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceRegressor:
        """Learn from N sequences and their numbers, N or N×K; a refit starts afresh.

        A sample of weight 0 is as one that is not there.

        Raises:
            OptionError: an argument of the estimator cannot be used.
            DataError: X, y or the weights cannot be used; the message names the place.
            TrainingError: the loss is not a number any more.
        """
        fresh = self._fresh()
        fresh._fit(X, y, sample_weight)
        take_over(self, fresh)
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> None:
        sequences = self._read(X, reset=True)
        numbers = _numbers(self, y, len(sequences))
        weight = _weights(sample_weight, len(sequences))
        self.single_ = numbers.ndim == 1
        numbers = numbers[:, None] if self.single_ else numbers
        self._hold_out(numbers[:, 0], weight)
        known = self._known(weight)
        self.target_scale_ = Scale.of(numbers, known)
        self.input_scale_ = Scale.of(sequences.values, np.repeat(known, sequences.lengths))
        target = self.target_scale_.applied(numbers)
        self._learn(sequences, target, weight, target.shape[1], _squared_error)

    def predict(self, X: Any) -> Array:
        """N, or N×K: the numbers of each sequence."""
        outputs = self._outputs(X)
        numbers: Array = outputs * self.target_scale_.spread + self.target_scale_.location
        return numbers[:, 0] if self.single_ else numbers

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _cross_entropy(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs, target, reduction="none")


def _squared_error(outputs: Tensor, target: Tensor) -> Tensor:
    return ((outputs - target) ** 2).mean(1)


def _labels(estimator: BaseEstimator, y: Any, count: int) -> Array:
    y = _given(estimator, y)
    _check_labels(y)
    try:
        check_classification_targets(y)
        labels = column_or_1d(y, warn=True)
    except (ValueError, TypeError) as error:
        raise DataError(str(error)) from error
    if labels.dtype.kind in "mV":
        raise DataError(f"y holds {labels.dtype}; labels are texts, numbers, booleans or dates")
    return _as_many(labels, count)


def _check_labels(y: Any) -> None:
    """Raise DataError where labels of Python's types are missing, of several types or of none that can
    be sorted and saved."""
    listed = isinstance(y, (list, tuple))  # of which numpy would make texts where one is among them
    array = np.asarray(y, dtype=object) if listed else np.asarray(y)
    if array.dtype.kind == "S":
        raise DataError("y holds bytes; labels are texts or numbers: decode them")
    if array.dtype != object or array.ndim != 1:
        return
    kinds: dict[str, int] = {}
    for sample, label in enumerate(array):
        if label is None or type(label).__name__ in ("NAType", "NaTType") or label != label:
            raise DataError(f"y has no label for sample {sample}: {label!r}")
        kinds.setdefault(_kind_of_label(label, sample), sample)
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise DataError(
            f"y mixes {one} and {other}, such as {array[first]!r} and {array[second]!r}; labels are "
            f"all of one type"
        )


def _kind_of_label(label: Any, sample: int) -> str:
    kinds: dict[str, Any] = {
        "texts": str,
        "booleans": (bool, np.bool_),
        "numbers": Real,
        "dates": np.datetime64,
    }
    for kind, types in kinds.items():
        if isinstance(label, types):
            return kind
    raise DataError(
        f"y holds {type(label).__name__}, such as {label!r} for sample {sample}; labels are texts, "
        f"numbers, booleans or numpy's datetime64"
    )


def _numbers(estimator: BaseEstimator, y: Any, count: int) -> Array:
    try:
        numbers = check_array(
            _given(estimator, y), ensure_2d=False, dtype=np.float64, input_name="y"
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(str(error)) from error
    if numbers.ndim not in (1, 2):
        raise DataError(f"y has the shape {numbers.shape}; expected N or N×K numbers")
    return _as_many(numbers, count)


def _given(estimator: BaseEstimator, y: Any) -> Any:
    if y is None:
        raise DataError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None"
        )
    return as_array(y)


def _as_many(y: Array, count: int) -> Array:
    if len(y) != count:
        raise DataError(f"X has {count} samples and y has {len(y)}; expected one y for each sample")
    return y


def _weights(given: Any, count: int) -> Array:
    """N weights, 1 where none are given."""
    if given is None:
        return np.ones(count)
    weight = np.array(as_array(given), np.float64)
    if weight.shape != (count,) or not np.isfinite(weight).all() or (weight < 0).any():
        raise DataError(
            f"sample_weight has the shape {weight.shape}; expected {count} finite numbers from 0 on, "
            f"one for each sample"
        )
    if not weight.any():
        raise DataError("sample_weight is zero for every sample, so that there is nothing to learn")
    return weight


def _chunks(order: Array) -> Iterator[Array]:
    for start in range(0, len(order), 256):
        yield order[start : start + 256]
