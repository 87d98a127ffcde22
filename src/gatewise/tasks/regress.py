"""The regressor: one number or several for each sequence."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
from sklearn.base import RegressorMixin
from torch import Tensor

from gatewise.data.output import table_like
from gatewise.data.sequences import Scale
from gatewise.data.sources.series import SeriesTable
from gatewise.errors import OptionError
from gatewise.gates.page.strips import Strip, bars
from gatewise.report.scores import Evaluation
from gatewise.tasks.kinds import Columns, Device
from gatewise.tasks.sequences import baselines
from gatewise.tasks.sequences.baselines import LinearModel
from gatewise.tasks.sequences.scoring import of_numbers
from gatewise.tasks.sequences.targets import numbers_of
from gatewise.tasks.sequences.task import SequenceTask

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray


@dataclass(eq=False, repr=False)
class Regressor(RegressorMixin, SequenceTask):
    """Predict one number, or several, for each sequence.

    A scikit-learn estimator. X, the arguments and the attributes are those of
    :class:`gatewise.Classifier`, without ``classes_`` and ``class_weight``. The targets are scaled to mean 0
    and standard deviation 1 of the training part. The loss is the squared error.

    Args:
        target: the columns of a table to predict. They must be constant within a series.

    Attributes:
        target_scale_: mean and standard deviation of each target.
    """

    name: ClassVar[str] = "regress"

    needed_by_files: ClassVar[tuple[str, ...]] = ("series", "target")

    target: Columns | None = None

    def source(self) -> SeriesTable:
        options = self.options_
        if not options.target:
            raise OptionError("a table needs target columns: name them with target= (--target)")
        columns = options.channels or ()
        return SeriesTable(
            options.series, options.time, None, options.target, columns, options.time_format
        )

    def checked_y(self, y: Any, count: int) -> Array:
        return numbers_of(self, y, count)

    def target_of(self, y: Any, weight: Array) -> tuple[Array, Array]:
        self.single_ = y.ndim == 1
        return y[:, None] if self.single_ else y, weight

    def scaled_target(self, target: Array, known: Array) -> Array:
        self.target_scale_ = Scale.of(target, known)
        return self.target_scale_.applied(target)

    def baseline_of(self, plain: Array, target: Array, weight: Array, given: Array) -> LinearModel:
        return baselines.ridge(plain, target, weight)

    def element_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return ((outputs - target) ** 2).mean(1)

    def _numbers(self, sequences: Any, device: Any) -> Array:
        """N×K predictions in the units of the targets."""
        return self._unscaled(self._outputs(sequences, device))

    def _unscaled(self, numbers: Array) -> Array:
        """Numbers in the units of the targets."""
        found: Array = numbers * self.target_scale_.spread + self.target_scale_.location
        return found

    def prediction_strips(self, outputs: Array) -> list[Strip]:
        names = self.options_.target or tuple(f"target {k}" for k in range(outputs.shape[1]))
        rows = self._unscaled(outputs)
        return [bars("prediction", dict(zip(names, row, strict=True))) for row in rows]

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The coefficient of determination, R², on the numbers y, for a model of arrays."""
        self.check_scored()
        return float(super().score(X, y, sample_weight))

    def scores_of(self, target: Array, outputs: Array) -> dict[str, float]:
        return of_numbers(self._unscaled(target), self._unscaled(outputs))

    @overload
    def predict(self, X: str | os.PathLike[str], *, device: Device = "cpu") -> pl.DataFrame: ...

    @overload
    def predict(self, X: Array | Tensor | list[Any], *, device: Device = "cpu") -> Array: ...

    @overload
    def predict(self, X: Any, *, device: Device = "cpu") -> Any: ...

    def predict(self, X: Any, *, device: Device = "cpu") -> Any:
        """The predicted number, or numbers, of each sequence.

        Args:
            device: where the network runs: "cpu", "cuda", "cuda:1".

        Returns:
            N or N×K numbers. For a table, a table of the same library with the columns of the series and
            ``prediction``; with several targets, a column ``prediction_NAME`` for each target.
        """
        if self.series is None:
            numbers = self._numbers(self._fitted(X), device)
            return numbers[:, 0] if self.single_ else numbers
        found = self._fitted_table(X, learned=False)
        numbers = self._numbers(found.sequences, device)
        targets = self.options_.target
        names = [f"prediction_{name}" for name in targets] if len(targets) > 1 else ["prediction"]
        columns = dict(zip(names, numbers.T, strict=True))
        return table_like({self.series: found.labels, **columns}, X)

    def evaluate(self, X: Any, y: Any = None, *, device: Device = "cpu") -> Evaluation:
        """The scores of the model and of two baselines on sequences that the model was not trained on.

        The baselines are the mean, and a ridge regression on the mean, standard deviation, minimum, maximum,
        first and last value of each channel.

        Args:
            X: data in the form that :meth:`fit` had. A table must have its target columns.
            y: N or N×K numbers, for arrays only.
            device: where the network runs: "cpu", "cuda", "cuda:1".

        Raises:
            DataError: the model was trained on every sequence.
        """
        sequences, truth, _, notes = self.unseen(X, y)
        truth = truth[:, None] if truth.ndim == 1 else truth
        linear = self.baseline_
        plain = baselines.features(self._scaled(sequences))
        rows = {
            "mean": of_numbers(truth, np.broadcast_to(linear.prior, truth.shape)),
            "linear model": of_numbers(truth, linear.outputs(plain)),
        }
        ours = of_numbers(truth, self._numbers(sequences, device))
        return self.evaluation(ours, rows, len(truth), "rmse", notes)

    def scales(self) -> tuple[str, ...]:
        return (*super().scales(), "target_scale_")

    def learned(self) -> dict[str, Any]:
        return super().learned() | {"single": self.single_}

    def restore_learned(self, learned: dict[str, Any]) -> None:
        self.single_ = learned["single"]
        super().restore_learned(learned)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
