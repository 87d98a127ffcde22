"""The classifier: sequences in, a class for each of them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_sample_weight
from torch import Tensor

from gatewise.data.output import table_like
from gatewise.data.sources.series import SeriesTable
from gatewise.errors import DataError, OptionError
from gatewise.report.scores import Evaluation
from gatewise.tasks.kinds import ClassWeight, Column, Device
from gatewise.tasks.sequences import baselines, state
from gatewise.tasks.sequences.baselines import LinearModel
from gatewise.tasks.sequences.scoring import of_classes, softmax
from gatewise.tasks.sequences.targets import labels_of
from gatewise.tasks.sequences.task import SequenceTask

Array = np.ndarray


@dataclass(eq=False, repr=False)
class Classifier(ClassifierMixin, SequenceTask):
    """Give each sequence a class.

    An estimator of scikit-learn. X is an array N×T×I (numpy or torch), a table N×T (numpy, pandas, polars: I
    is 1 and each step a column, which later tables must have too), or a list of N arrays or frames T×I of
    any lengths; frames are matched by the names of their columns, in any order. With ``series`` it is one
    long table, or a file, with a row for each series and time. Every feature is brought to mean 0 and
    deviation 1 by the training part.

    Args:
        label: of a table, the column of classes, constant within a series.
        class_weight: None, "balanced", or a mapping of each class to its weight.

    Attributes:
        classes_: the classes, sorted.
        n_features_in_: I, or T where X was a table N×T; ``feature_names_in_`` where its columns, those of
            the frames in a list, or channels had names.
        steps_: T where X was a table N×T, else None.
        held_out_: indices of the samples that stopped the training.
        network_, shape_: the network and its sizes.
        input_scale_: each feature's location and spread.
        history_: losses by epoch, and the epoch that was kept.

    The other arguments are those of :class:`gatewise.tasks.sequences.task.SequenceTask`. ``fit`` raises
    OptionError for an option and DataError for data that cannot be used; both are ValueErrors.
    """

    name: ClassVar[str] = "classify"
    not_searched: ClassVar[tuple[str, ...]] = (*SequenceTask.not_searched, "label", "class_weight")

    label: Column | None = None
    class_weight: ClassWeight | None = None

    def source(self) -> SeriesTable:
        options = self.options_
        if options.label is None:
            raise OptionError("a table needs the column of classes: give label=, --label")
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
            raise DataError(
                f"y has only the class {self.classes_[:1].tolist()[0]!r} in its {present.sum()} samples "
                f"with a weight above 0; a classifier needs two classes or more"
            )
        target = np.searchsorted(self.classes_, np.where(present, y, self.classes_[0]))
        try:
            importance = compute_sample_weight(self.class_weight, y[present])
        except ValueError as error:
            raise OptionError(f"class_weight={self.class_weight!r}: {error}") from error
        weighted = weight.copy()
        weighted[present] *= importance
        return target, weighted

    def held_of(self, target: Array, weight: Array, size: Any) -> Array:
        held = super().held_of(target, weight, size)
        left = np.setdiff1d(np.flatnonzero(weight > 0), held)
        # a class is never held out whole
        return held[np.isin(target[held], target[left])]

    def scaled_target(self, target: Array, known: Array) -> Array:
        return target

    def outputs_of(self, target: Array) -> int:
        return len(self.classes_)

    def baseline_of(self, plain: Array, target: Array, weight: Array) -> LinearModel:
        return baselines.logistic(plain, target, weight, len(self.classes_))

    def element_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(outputs, target, reduction="none")

    def scores_of(self, target: Array, outputs: Array) -> dict[str, float]:
        return of_classes(target, softmax(outputs))

    def predict_proba(self, X: Any, *, device: Device = "cpu") -> Array:
        """N×classes: the probability of each class, in the order of ``classes_``."""
        return softmax(self._outputs(self._fitted(X), device))

    def predict(self, X: Any, *, device: Device = "cpu") -> Any:
        """The most probable class of each sequence.

        Args:
            device: where the network runs: "cpu", "cuda", "cuda:1".

        Returns:
            N labels; of a table, a table of the same kind: the series, ``prediction``, and a column for
            each class's probability.
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
        """Scores on sequences that the model has not learned from, beside the most frequent class and a
        logistic regression on each channel's mean, deviation, range, first and last value.

        Args:
            X: as :meth:`fit` had it; a table with its column of classes.
            y: N labels, of arrays alone.
            device: where the network runs: "cpu", "cuda", "cuda:1".

        Raises:
            DataError: a class was not among those learned, or there is no sequence left to score.
        """
        sequences, labels, names, notes = self.unseen(X, y)
        strange = np.flatnonzero(~np.isin(labels, self.classes_))
        if len(strange):
            at = int(strange[0])
            raise DataError(
                f"series {str(names[at])!r} has the class {labels.tolist()[at]!r}, which the model has not learned; "
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
        ours = of_classes(truth, softmax(self._outputs(sequences, device)))
        return self.evaluation(ours, rows, len(truth), "accuracy", notes)

    def learned(self) -> dict[str, Any]:
        dates = self.classes_.dtype.kind == "M"
        classes = self.classes_.astype(str) if dates else self.classes_
        return super().learned() | {"classes": classes, "dtype": self.classes_.dtype.str}

    def take_learned(self, learned: dict[str, Any]) -> None:
        self.classes_ = state.classes_of(learned["classes"], learned["dtype"])
        super().take_learned(learned)
