"""States of a layer with a label for each: what a probe learns from and is scored on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gatewise.errors import DataError, ShapeError
from gatewise.gates.directions import DirectionTrace

Array = np.ndarray


@dataclass(frozen=True)
class Examples:
    """N states with a label for each.

    Attributes:
        states: N×H.
        labels: N. Floating-point labels are numbers, all others are classes.
        sequences: N, the sequence of each.
    """

    states: Array
    labels: Array
    sequences: Array

    @property
    def of_classes(self) -> bool:
        return self.labels.dtype.kind != "f"

    def shuffled(self, random: np.random.Generator) -> Examples:
        """The same states; each sequence has the labels of another one, repeated or cut to its length.

        So labels that stay alike from step to step do so in the shuffled ones too.
        """
        known, first, counts = np.unique(self.sequences, return_index=True, return_counts=True)
        others = random.permutation(len(known))
        step = np.arange(len(self.labels)) - np.repeat(first, counts)
        other = np.repeat(others, counts)
        return replace(self, labels=self.labels[first[other] + step % counts[other]])


def examples_of(trace: DirectionTrace, value: str, labels: Any) -> Examples:
    """The states of all sequences that have steps, with their labels.

    Args:
        value: the name of the traced value.
        labels: B labels, one for the last step of each sequence that is read, or B×T.

    Raises:
        OptionError: there is no such value.
        ShapeError: the labels do not fit the trace.
        DataError: a value or label is infinite or NaN.
    """
    trace.steps(value)  # checks that all are finite
    states = trace.value(value).double().cpu().numpy()
    given = (
        labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    )
    valid = trace.valid.cpu().numpy()
    batch, steps = valid.shape
    if given.shape not in ((batch,), (batch, steps)):
        raise ShapeError(
            f"the labels have the shape {given.shape}; they must have {(batch,)}, one for each sequence, or "
            f"{(batch, steps)}, one for each step"
        )
    if given.ndim == 1:
        there = np.flatnonzero(valid.any(1))
        # the reverse direction reads step 0 last
        last = np.zeros_like(there) if trace.place.direction else valid.sum(1)[there] - 1
        found = Examples(states[there, last], given[there], there)
    else:
        found = Examples(states[valid], given[valid], np.nonzero(valid)[0])
    if not found.of_classes and not np.isfinite(found.labels).all():
        wrong = int(np.flatnonzero(~np.isfinite(found.labels))[0])
        raise DataError(f"a label of sequence {found.sequences[wrong]} is infinite or NaN")
    return found
