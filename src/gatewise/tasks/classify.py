"""The classifier: one class for each sequence."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
import torch.nn.functional as F
from sklearn.base import ClassifierMixin
from torch import Tensor

from gatewise.data.output import table_like
from gatewise.data.sources.series import SeriesTable
from gatewise.errors import DataError, OptionError
from gatewise.gates.page.strips import Strip, bars
from gatewise.report.classes import ClassResults
from gatewise.report.scores import Evaluation
from gatewise.report.words import with_unit
from gatewise.tasks.kinds import ClassWeight, Column, Device
from gatewise.tasks.sequences import baselines, state
from gatewise.tasks.sequences.baselines import LinearModel
from gatewise.tasks.sequences.scoring import of_classes, softmax
from gatewise.tasks.sequences.targets import check_classes, class_importance, labels_of
from gatewise.tasks.sequences.task import SequenceTask
from gatewise.tasks.sequences.training import without_whole_classes

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray


@dataclass(eq=False, repr=False)
class Classifier(ClassifierMixin, SequenceTask):
    """Predict the class of each sequence.

    A scikit-learn estimator. X is one of:

    * an array N×T×I of NumPy or torch;
    * a table N×T of NumPy, pandas or polars, with a column for each step (I is 1);
    * a list of N arrays or data frames T×I, which may differ in length. The columns of data frames are
      matched by name;
    * with ``series``, a long table or a file with a row for each series and time.

    Each feature is scaled to mean 0 and standard deviation 1 of the training part.

    Args:
        label: the column of classes in a table. It must be constant within a series.
        class_weight: the weights of the classes in the loss: "balanced" for weights inverse to the classes'
            frequencies, or a number for each class. In Python a dict of numbers, or None for equal weights.

    Attributes:
        classes_: the classes, sorted.
        n_features_in_: I, or T if X was a table N×T.
        feature_names_in_: the names of the columns, if X had names.
        steps_: T if X was a table N×T, else None.
        held_out_: indices of the samples of the validation part.
        network_, shape_: the network and its sizes.
        input_scale_: mean and standard deviation of each feature.
        history_: the losses of each epoch, and the epoch whose weights were kept.

    The other arguments are those of :class:`gatewise.tasks.sequences.task.SequenceTask`. ``fit`` raises
    OptionError for an option and DataError for data that is not valid. Both are ValueErrors.
    """

    name: ClassVar[str] = "classify"
    needed_by_files: ClassVar[tuple[str, ...]] = ("series", "label")
    not_searched: ClassVar[tuple[str, ...]] = (*SequenceTask.not_searched, "label", "class_weight")

    label: Column | None = None
    class_weight: ClassWeight | None = None

    def source(self) -> SeriesTable:
        options = self.options_
        if options.label is None:
            raise OptionError("a table needs a column of classes: name it with label= (--label)")
        columns = options.channels or ()
        return SeriesTable(
            options.series, options.time, options.label, (), columns, options.time_format
        )

    def checked_y(self, y: Any, count: int) -> Array:
        return labels_of(self, y, count)

    def target_of(self, y: Any, weight: Array) -> tuple[Array, Array]:
        present = weight > 0
        self.classes_ = np.unique(y[present])
        if len(self.classes_) < 2:
            raise DataError(self._one_class(int(present.sum())))
        if self.series is not None and self.label is not None:
            check_classes(self.classes_, int(present.sum()), self.label, "series")
        target = np.searchsorted(self.classes_, np.where(present, y, self.classes_[0]))
        weighted = weight.copy()
        weighted[present] *= class_importance(self.class_weight, y[present])
        return target, weighted

    def _one_class(self, count: int) -> str:
        """The message for ``count`` samples of one class."""
        class_, needed = self.classes_[:1].tolist()[0], "a classifier needs at least two classes"
        if self.series is None:
            found = with_unit(count, "sample")
            return f"y has only the class {class_!r} in its {found} with a weight above 0; {needed}"
        return f"column {self.label!r} has only the class {class_!r} in {count} series to train on; {needed}"

    def held_of(self, target: Array, weight: Array, size: Any) -> Array:
        return without_whole_classes(super().held_of(target, weight, size), target, weight)

    def scaled_target(self, target: Array, known: Array) -> Array:
        return target

    def outputs_of(self, target: Array) -> int:
        return len(self.classes_)

    def baseline_of(self, plain: Array, target: Array, weight: Array, given: Array) -> LinearModel:
        count = len(self.classes_)
        prior = np.bincount(target, given, minlength=count) / given.sum()
        return replace(baselines.logistic(plain, target, weight, count), prior=prior)

    def element_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(outputs, target, reduction="none")

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The accuracy on the labels y, for a model of arrays."""
        self.check_scored()
        return float(super().score(X, y, sample_weight))

    def scores_of(self, target: Array, outputs: Array) -> dict[str, float]:
        return of_classes(target, softmax(outputs))

    def prediction_strips(self, outputs: Array) -> list[Strip]:
        names = list(map(str, self.classes_.tolist()))
        rows = softmax(outputs)
        return [bars("probability", dict(zip(names, row, strict=True)), full=1.0) for row in rows]

    def predict_proba(self, X: Any, *, device: Device = "cpu") -> Array:
        """N×classes: the probability of each class, in the order of ``classes_``."""
        return softmax(self._outputs(self._fitted(X), device))

    @overload
    def predict(self, X: str | os.PathLike[str], *, device: Device = "cpu") -> pl.DataFrame: ...

    @overload
    def predict(self, X: Array | Tensor | list[Any], *, device: Device = "cpu") -> Array: ...

    @overload
    def predict(self, X: Any, *, device: Device = "cpu") -> Any: ...

    def predict(self, X: Any, *, device: Device = "cpu") -> Any:
        """The most probable class of each sequence.

        Args:
            device: where the network runs: "cpu", "cuda", "cuda:1".

        Returns:
            N labels. For a table, a table of the same library with the columns of the series,
            ``prediction``, and the probability of each class.
        """
        if self.series is None:
            best = self._outputs(self._fitted(X), device).argmax(1)
            labels: Array = self.classes_[best]
            return labels
        found = self._fitted_table(X, learned=False)
        probabilities = softmax(self._outputs(found.sequences, device))
        columns = {self.series: found.labels, "prediction": self.classes_[probabilities.argmax(1)]}
        for k, label in enumerate(self.classes_):
            columns[f"probability_{label}"] = probabilities[:, k]
        return table_like(columns, X)

    def evaluate(self, X: Any, y: Any = None, *, device: Device = "cpu") -> Evaluation:
        """The scores of the model and of two baselines on sequences that the model was not trained on.

        The baselines are the most frequent class, and a logistic regression on the mean, standard
        deviation, minimum, maximum, first and last value of each channel.

        Args:
            X: data in the form that :meth:`fit` had. A table must have its column of classes.
            y: N labels, for arrays only.
            device: where the network runs: "cpu", "cuda", "cuda:1".

        Raises:
            DataError: a class is unknown to the model, or the model was trained on every sequence.
        """
        sequences, labels, names, notes = self.unseen(X, y)
        strange = np.flatnonzero(~np.isin(labels, self.classes_))
        if len(strange):
            at = int(strange[0])
            raise DataError(
                f"series {str(names[at])!r} has the class {labels.tolist()[at]!r}, which is unknown to the model; "
                f"it knows {', '.join(map(repr, self.classes_[:20].tolist()))}"
            )
        truth = np.searchsorted(self.classes_, labels)
        plain = baselines.features(self._scaled(sequences))
        linear = self.baseline_
        prior = np.broadcast_to(linear.prior, (len(truth), len(self.classes_)))
        rows = {
            "majority class": of_classes(truth, prior),
            "linear model": of_classes(truth, softmax(linear.outputs(plain))),
        }
        ours = softmax(self._outputs(sequences, device))
        results = ClassResults(
            tuple(map(str, self.classes_.tolist())), truth, ours, sequences.lengths
        )
        scores = of_classes(truth, ours)
        return self.evaluation(scores, rows, len(truth), "accuracy", notes, results)

    def learned(self) -> dict[str, Any]:
        dates = self.classes_.dtype.kind == "M"
        classes = self.classes_.astype(str) if dates else self.classes_
        return super().learned() | {"classes": classes, "dtype": self.classes_.dtype.str}

    def restore_learned(self, learned: dict[str, Any]) -> None:
        self.classes_ = state.classes_of(learned["classes"], learned["dtype"])
        super().restore_learned(learned)
