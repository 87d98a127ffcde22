"""The record of a forecaster's options and data, which checkpoints store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gatewise.data.panel import Panel
from gatewise.train.record import Record, digest, plain

# Options that are not recorded here: the recipe, or the digest of the data's grid, records their effect.
_RECORDED_ELSEWHERE = ("steps", "batch", "learning_rate", "seed", "freq", "time_format")
_NAMES = ("target", "past", "known", "static")


class Learner(Protocol):
    """The attributes of a forecaster that the record needs."""

    season: Any
    target_: tuple[str, ...]
    past_: tuple[str, ...]
    known_: tuple[str, ...]
    static_: tuple[str, ...]
    quantiles_: Sequence[float]

    def get_params(self, deep: bool = True) -> dict[str, Any]: ...


def training_record(
    forecaster: Learner,
    panel: Panel,
    validation: Any,
    test: Any,
    precision: str,
    newer: Panel | None = None,
) -> Record:
    """The record of a fit to this panel with this split. ``newer`` has the validation rows if they are from a
    file of their own."""
    options = forecaster.get_params(deep=False)
    options = {name: value for name, value in options.items() if name not in _RECORDED_ELSEWHERE}
    # in one form: "y" and ("y",) mean the same
    options |= {name: getattr(forecaster, f"{name}_") for name in (*_NAMES, "quantiles")}
    options |= {"season": forecaster.season or panel.timeline.season}
    options |= {"validation": validation, "test": test, "precision": precision}
    data = _data(panel)
    if newer is not None:
        data["columns"]["the validation file"] = digest(repr(_data(newer)))
    return Record({name: plain(value) for name, value in options.items()}, data)


def _data(panel: Panel) -> dict[str, Any]:
    """The description of the panel, as in :attr:`Record.data`."""
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
