"""The data of a training on sequences, as a run records them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gatewise.data.sequences import Sequences
from gatewise.train.record import digest

Array = np.ndarray


def data_record(
    sequences: Sequences, target: Array, weight: Array, labels: Array | None
) -> dict[str, Any]:
    """The data as :class:`gatewise.train.record.Record` has them; ``labels`` are the series' names."""
    names = sequences.names or tuple(f"feature {k}" for k in range(sequences.inputs))
    columns = {str(n): digest(v) for n, v in zip(names, sequences.values.T, strict=True)}
    return {
        "rows": len(sequences.values),
        "series": len(sequences),
        "span": f"{len(names)} channels",
        "columns": columns | {"what is learned": digest(target), "weights": digest(weight)},
        "grid": digest(sequences.starts, None if labels is None else labels.tolist()),
    }
