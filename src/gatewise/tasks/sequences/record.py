"""What a training on sequences learns from, as a run records it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from gatewise.arguments import Option
from gatewise.data.sequences import Sequences
from gatewise.train.record import Record, digest, plain

Array = np.ndarray

# Of these the recipe says what became of them.
_ELSEWHERE = ("epochs", "batch", "learning_rate", "patience", "seed")


class Learner(Protocol):
    """What is recorded of an estimator: its options."""

    @classmethod
    def options(cls) -> dict[str, Option]: ...

    def get_params(self, deep: bool = True) -> dict[str, Any]: ...


def record_of(
    estimator: Learner,
    sequences: Sequences,
    target: Array,
    weight: Array,
    labels: Array | None,
    validation: Any,
    test: Any,
    precision: str,
) -> Record:
    """The record of what an estimator learns from these sequences; ``labels`` are the series' names."""
    given = estimator.get_params(deep=False)
    options = {
        name: plain(option.kind.save(given[name]))
        for name, option in estimator.options().items()
        if name not in _ELSEWHERE
    }
    options |= {"validation": plain(validation), "test": plain(test), "precision": precision}
    names = sequences.names or tuple(f"feature {k}" for k in range(sequences.inputs))
    columns = {str(n): digest(v) for n, v in zip(names, sequences.values.T, strict=True)}
    data = {
        "rows": len(sequences.values),
        "series": len(sequences),
        "span": f"{len(names)} channels",
        "columns": columns | {"what is learned": digest(target), "weights": digest(weight)},
        "grid": digest(sequences.starts, None if labels is None else labels.tolist()),
    }
    return Record(options, data)
