"""The record of the sequences that a model is trained on, which checkpoints store."""

from __future__ import annotations

from typing import Any

import numpy as np

from gatewise.data.sequences import Sequences
from gatewise.report.words import with_unit
from gatewise.train.record import digest

Array = np.ndarray


def data_record(
    sequences: Sequences, target: Array, weight: Array, labels: Array | None
) -> dict[str, Any]:
    """The description of the data, see :class:`gatewise.train.record.Record`.

    Args:
        labels: the names of the series, or None for arrays.
    """
    names = sequences.names or tuple(f"feature {k}" for k in range(sequences.inputs))
    columns = {str(n): digest(v) for n, v in zip(names, sequences.values.T, strict=True)}
    return {
        "rows": len(sequences.values),
        "series": len(sequences),
        "span": with_unit(len(names), "channel"),
        "columns": columns | {"what is learned": digest(target), "weights": digest(weight)},
        "grid": digest(sequences.starts, None if labels is None else labels.tolist()),
    }
