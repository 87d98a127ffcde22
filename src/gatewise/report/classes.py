"""The parts of a report about classes: confusion matrix, curves, scores by length, right and wrong examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gatewise.ink import INK, MUTED
from gatewise.report.pictures import MODEL, new_figure
from gatewise.report.words import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray

_MOST = 20  # rows of a confusion matrix
_CURVES = 6  # classes with a curve of their own
_BINS = 6  # of lengths


@dataclass(frozen=True)
class Example:
    """A text with the prediction for it.

    Attributes:
        pieces: the text in parts, and the weight of each part, from 0 to 1.
        truth, guess: the names of its class and of the predicted class.
        probability: that of the predicted class.
    """

    pieces: tuple[tuple[str, float], ...]
    truth: str
    guess: str
    probability: float

    @property
    def right(self) -> bool:
        return self.truth == self.guess


@dataclass(frozen=True)
class ClassResults:
    """Predictions of classes, beside the true classes.

    Attributes:
        classes: C names.
        truth: N class indices.
        probabilities: N×C.
        lengths: N, the lengths of the members.
        unit: the word for the unit of the lengths.
        examples: some members, those with the greatest probability first.
    """

    classes: tuple[str, ...]
    truth: Array
    probabilities: Array
    lengths: Array
    unit: str = "steps"
    examples: Sequence[Example] = ()

    @property
    def guess(self) -> Array:
        found: Array = self.probabilities.argmax(1)
        return found

    @property
    def by_frequency(self) -> Array:
        """The C classes, the most frequent first."""
        counts = np.bincount(self.truth, minlength=len(self.classes))
        found: Array = np.argsort(-counts, kind="stable")
        return found

    @property
    def with_curves(self) -> Array:
        """The classes of some members, but not of all, the most frequent first: those that have curves."""
        counts = np.bincount(self.truth, minlength=len(self.classes))[self.by_frequency]
        found: Array = self.by_frequency[(counts > 0) & (counts < len(self.truth))]
        return found

    def figures(self) -> dict[str, Any]:
        """The figures, by heading."""
        matrix = "Confusion matrix"
        if len(self.classes) > _MOST:
            matrix += f": the {_MOST - 1} most frequent classes, and all others together"
        found: dict[str, Any] = {matrix: confusion_figure(self)}
        if len(np.unique(self.truth)) > 1:
            some = (
                f" of the {_CURVES} most frequent classes"
                if len(self.with_curves) > _CURVES
                else ""
            )
            found[f"ROC curve{some}"] = roc_figure(self)
            found[f"Precision and recall{some}"] = precision_figure(self)
        if len(np.unique(self.lengths)) > 1:
            found[f"Share of errors by length in {self.unit}"] = length_figure(self)
        return found


def confusion_figure(results: ClassResults) -> Figure:
    """The number of members of each true class, in rows, that were given each class, in columns.

    Of more than 20 classes the last row and column have all but the 19 most frequent ones."""
    number = len(results.classes)
    shown = np.sort(results.by_frequency[: number if number <= _MOST else _MOST - 1])
    names = [shortened(results.classes[k])[:24] for k in shown]
    row_of = np.full(number, len(shown))  # of each class
    row_of[shown] = np.arange(len(shown))
    if len(shown) < number:
        names.append(f"{number - len(shown)} others")
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (row_of[results.truth], row_of[results.guess]), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 1.6 + 0.52 * len(names)
    figure, axis = new_figure(min(9.0, side + 1.2), min(8.0, side))
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1.25)
    for (row, column), count in np.ndenumerate(counts):
        axis.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8,
                  color="white" if share[row, column] > 0.6 else INK)  # fmt: skip
    turn = 45 if max(map(len, names)) > 4 else 0
    axis.set_xticks(range(len(names)), names, rotation=turn, ha="right" if turn else "center",
                    parse_math=False)  # fmt: skip
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_xlabel("predicted class", fontsize=8, color=MUTED)
    axis.set_ylabel("true class", fontsize=8, color=MUTED)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, labelsize=8)
    return figure


def roc_figure(results: ClassResults) -> Figure:
    """The share of a class that was found, by the share of the others that was taken for it."""
    from sklearn.metrics import roc_curve

    return _curves(
        results,
        lambda truth, score: roc_curve(truth, score)[:2],
        ("false positive rate", "true positive rate"),
        diagonal=True,
    )


def precision_figure(results: ClassResults) -> Figure:
    """The share of right ones among those taken for a class, by the share of the class that was found."""
    from sklearn.metrics import precision_recall_curve

    def curve(truth: Array, score: Array) -> tuple[Array, Array]:
        precision, recall, _ = precision_recall_curve(truth, score)
        return recall[::-1], precision[::-1]

    return _curves(results, curve, ("recall", "precision"), diagonal=False)


def _curves(results: ClassResults, curve: Any, labels: tuple[str, str], diagonal: bool) -> Figure:
    figure, axis = new_figure(4.5, 3.4)
    shown = [1] if len(results.classes) == 2 else sorted(results.with_curves[:_CURVES])
    for at, k in enumerate(shown):
        x, y = curve(results.truth == k, results.probabilities[:, k])
        style: Any = dict(color=MODEL) if len(shown) == 1 else dict(color=f"C{at}")
        axis.plot(x, y, lw=1.5, label=shortened(results.classes[k])[:24], **style)
    if diagonal:
        axis.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=":")
    axis.set_xlabel(labels[0], fontsize=8, color=MUTED)
    axis.set_ylabel(labels[1], fontsize=8, color=MUTED)
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.02)
    legend = axis.legend(frameon=False, fontsize=8, loc="lower right" if diagonal else "lower left")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def length_figure(results: ClassResults) -> Figure:
    """The share of errors among members of similar length, with bars of one standard error."""
    figure, axis = new_figure(6.0, 2.6)
    order = np.argsort(results.lengths, kind="stable")
    wrong = (results.guess != results.truth)[order]
    lengths = results.lengths[order]
    parts = np.array_split(np.arange(len(order)), min(_BINS, len(order)))
    shares = np.array([wrong[part].mean() for part in parts])
    errors = np.array(
        [np.sqrt(s * (1 - s) / len(part)) for s, part in zip(shares, parts, strict=True)]
    )
    axis.bar(range(len(parts)), shares, color=MODEL, width=0.62)
    axis.errorbar(range(len(parts)), shares, errors, color=INK, lw=0, elinewidth=1)
    names = [f"{lengths[part[0]]}–{lengths[part[-1]]}" for part in parts]
    axis.set_xticks(range(len(parts)), names)
    axis.set_ylim(0, 1.1 * float((shares + errors).max()) or 0.1)
    axis.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    return figure
