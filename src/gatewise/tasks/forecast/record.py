"""What a forecaster's training learns from, as a run records it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gatewise.data.panel import Panel
from gatewise.train.record import Record, digest, plain

# Of these the recipe says what became of them, and the data's grid what was read with them.
_ELSEWHERE = ("steps", "batch", "learning_rate", "seed", "freq", "time_format")
_NAMES = ("target", "past", "known", "static")


class Learner(Protocol):
    """What is recorded of a forecaster: its options, and what they say of columns and quantiles."""

    season: Any
    target_: tuple[str, ...]
    past_: tuple[str, ...]
    known_: tuple[str, ...]
    static_: tuple[str, ...]
    quantiles_: Sequence[float]

    def get_params(self, deep: bool = True) -> dict[str, Any]: ...


def recorded(
    forecaster: Learner,
    panel: Panel,
    validation: Any,
    test: Any,
    precision: str,
    newer: Panel | None = None,
) -> Record:
    """The record of what a forecaster learns from this panel, divided in this way; ``newer`` has the
    validation rows where they are not the panel's."""
    options = forecaster.get_params(deep=False)
    options = {name: value for name, value in options.items() if name not in _ELSEWHERE}
    # however they were written: "y" and ("y",) are one
    options |= {name: getattr(forecaster, f"{name}_") for name in (*_NAMES, "quantiles")}
    options |= {"season": forecaster.season or panel.timeline.season}
    options |= {"validation": validation, "test": test, "precision": precision}
    data = _data(panel)
    if newer is not None:
        data["columns"]["the validation file"] = digest(repr(_data(newer)))
    return Record({name: plain(value) for name, value in options.items()}, data)


def _data(panel: Panel) -> dict[str, Any]:
    """What the panel holds, as :class:`Record` has it."""
    ends = panel.starts + panel.lengths
    first, last = panel.timeline.times(np.array([panel.starts.min(), ends.max() - 1]))
    columns = {
        str(name): digest(values)
        for names, tables in (
            (panel.targets, panel.target),
            (panel.past, panel.past_values),
            (panel.known, panel.known_values),
            (panel.static_names, panel.static.T),
        )
        for name, values in zip(names, tables, strict=True)
    }
    return {
        "rows": int(panel.offsets[-1]),
        "series": len(panel.names),
        "span": f"{panel.timeline.show(first)} to {panel.timeline.show(last)}",
        "columns": columns,
        "grid": digest(panel.names, panel.offsets, panel.starts, panel.timeline.to_json()),
    }
