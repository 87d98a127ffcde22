"""Probes: can a label be read from a recurrent network's states by a linear model?

A probe's score says little alone (Hewitt & Liang 2019, "Designing and Interpreting Probes with Control
Tasks"): a linear model may find something in any states, or learn the labels by heart. So the score is that
of held-out sequences, and beside it stand the scores for shuffled labels, of a trivial guess, and, if its
traces are given, of an untrained network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gatewise.errors import DataError, OptionError, need
from gatewise.gates.directions import DirectionTrace, Place, one_direction
from gatewise.gates.examples import Examples, examples_of
from gatewise.nn.trace import Trace

Array = np.ndarray
Traces = Trace | Mapping[str, Trace]


@dataclass(frozen=True)
class Probe:
    """How well a label can be read from the states of one layer.

    Attributes:
        place: the layer.
        value: the name of the traced value that was read.
        metric: "accuracy" for classes, "r2" (the coefficient of determination) for numbers.
        score: that of the held-out sequences.
        shuffled: the scores of probes that were fitted to shuffled labels, one for each shuffle.
        trivial: the score of the most frequent class, or of the mean, of the sequences to learn from.
        untrained: the score of the same probe on an untrained network; None if no traces of one were given.
        examples, held_out: the numbers of steps or sequences that were learned from, and scored.
        weights: of the linear model, for standardised values: H, or classes×H.
    """

    place: Place
    value: str
    metric: str
    score: float
    shuffled: Array
    trivial: float
    untrained: float | None
    examples: int
    held_out: int
    weights: Array

    @property
    def found(self) -> bool:
        """Whether the score is better than every control."""
        controls = [*self.shuffled, self.trivial]
        controls += [] if self.untrained is None else [self.untrained]
        return self.score > max(controls)

    def table(self) -> dict[str, Array]:
        """The scores as columns: ``labels`` says which, ``score`` and ``std`` are numbers."""
        rows = [("true", self.score, 0.0)]
        rows += [("shuffled", float(self.shuffled.mean()), float(self.shuffled.std()))]
        rows += [("trivial", self.trivial, 0.0)]
        rows += [] if self.untrained is None else [("untrained", self.untrained, 0.0)]
        names, scores, stds = zip(*rows, strict=True)
        return dict(labels=np.array(names), score=np.array(scores), std=np.array(stds))

    def __repr__(self) -> str:
        untrained = "" if self.untrained is None else f", untrained network {self.untrained:.3f}"
        verdict = "can be read" if self.found else "cannot be read: a control is as good"
        return (
            f"the label {verdict} from '{self.value}' of {self.place}: {self.metric} {self.score:.3f} on "
            f"{self.held_out:,} held-out examples; shuffled labels {self.shuffled.mean():.3f} (at most "
            f"{self.shuffled.max():.3f}), trivial {self.trivial:.3f}{untrained}"
        )


def probe(
    traces: Traces,
    labels: Any,
    *,
    value: str | None = None,
    module: str | None = None,
    layer: int = -1,
    direction: int = 0,
    untrained: Traces | None = None,
    held_out: float = 0.3,
    shuffles: int = 10,
    strength: float = 1.0,
    seed: int = 0,
) -> Probe:
    """Fits a linear model that reads a label from the states, and scores it beside its controls.

    Labels that are text, booleans or integers are classes, read by logistic regression. Floating-point
    labels are numbers, read by ridge regression. Whole sequences are held out, never single steps of them.
    For a shuffled control each sequence gets the label, or the labels of the steps, of another sequence.

    Args:
        traces: of all sequences, as ``gw.trace`` or ``layer(x, trace=True)`` return them.
        labels: B labels, one for each sequence, which are read from its last step; or B×T, one for each step.
            Labels in the padding are not used.
        value: the name of the traced value; by default the cell's second state (``c``), or its only one.
        module: the name of the module; not needed if there is one only.
        layer: the index of the layer; -1 is the last one.
        direction: 0, or 1 for the reverse direction.
        untrained: the traces of an untrained network of the same shape for the same sequences.
        held_out: the share of the sequences that is scored.
        shuffles: the number of shuffled controls, at least 1.
        strength: of the penalty on the weights (1 / C of scikit-learn's LogisticRegression, alpha of Ridge).
        seed: of the held-out part and of the shuffles.

    Raises:
        ShapeError: the labels do not fit the traces.
        DataError: there are too few sequences, one class only, or an infinite value or label.
        OptionError: an option is not valid, or there is no such value, module, layer or direction.
        MissingExtraError: scikit-learn is not installed.
    """
    if not 0 < held_out < 1 or shuffles < 1 or not strength > 0:
        raise OptionError(
            f"held_out={held_out} must be between 0 and 1, shuffles={shuffles} at least 1, and "
            f"strength={strength} above 0"
        )
    trace = one_direction(traces, module, layer, direction)
    name = _state(trace) if value is None else value
    examples = examples_of(trace, name, labels)
    test = _held_out(examples, held_out, np.random.default_rng(seed))
    score, model = _scored(examples, test, strength)
    random = np.random.default_rng([seed, 1])
    controls = [_scored(examples.shuffled(random), test, strength)[0] for _ in range(shuffles)]
    control = None
    if untrained is not None:
        other = examples_of(one_direction(untrained, module, layer, direction), name, labels)
        control = _scored(other, test, strength)[0]
    return Probe(
        place=trace.place,
        value=name,
        metric="accuracy" if examples.of_classes else "r2",
        score=score,
        shuffled=np.array(controls),
        trivial=_trivial(examples, test),
        untrained=control,
        examples=int((~test).sum()),
        held_out=int(test.sum()),
        weights=model.coef_,
    )


def _state(trace: DirectionTrace) -> str:
    """The name of the state that is read if none is given."""
    states = () if trace.cell is None else trace.cell.state
    return states[1] if len(states) > 1 else trace.output


def _held_out(examples: Examples, share: float, random: np.random.Generator) -> Array:
    """N booleans: the examples that are scored."""
    sequences = np.unique(examples.sequences)
    number = round(share * len(sequences))
    if not 0 < number < len(sequences):
        raise DataError(
            f"{len(sequences)} sequences with held_out={share} leave {len(sequences) - number} to learn from "
            f"and {number} to score: give more sequences"
        )
    scored = random.permutation(sequences)[:number]
    return np.isin(examples.sequences, scored)


def _scored(examples: Examples, test: Array, strength: float) -> tuple[float, Any]:
    """The score on the held-out examples, and the linear model."""
    linear = need("sklearn.linear_model", "tasks")
    states, labels = examples.states, examples.labels
    mean, std = states[~test].mean(0), states[~test].std(0)
    states = (states - mean) / np.where(std > 0, std, 1.0)
    if examples.of_classes:
        if len(np.unique(labels[~test])) < 2:
            raise DataError(
                f"the sequences to learn from have one class only, {labels[~test][0].item()!r}: give labels of two "
                f"classes or more"
            )
        model = linear.LogisticRegression(C=1 / strength, max_iter=2000)
    else:
        model = linear.Ridge(alpha=strength)
    model.fit(states[~test], labels[~test])
    return float(model.score(states[test], labels[test])), model


def _trivial(examples: Examples, test: Array) -> float:
    known, truth = examples.labels[~test], examples.labels[test]
    if examples.of_classes:
        classes, counts = np.unique(known, return_counts=True)
        return float((truth == classes[counts.argmax()]).mean())
    apart = ((truth - truth.mean()) ** 2).sum()
    return float(1 - ((truth - known.mean()) ** 2).sum() / apart) if apart else 0.0
