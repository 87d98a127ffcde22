"""What a forecaster's report says of its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gatewise.data.panel import Panel
from gatewise.data.zones import to_wall

Array = np.ndarray


@dataclass(frozen=True)
class DataSummary:
    """What the report says of the data, and its first series.

    Attributes:
        rows, series: how many.
        targets: their names.
        step: the name of the timeline's step.
        zone: the time zone of all stamps here, or None.
        first, last: the first and last stamp of all series.
        missing: the share of targets that have no value.
        parts: rows in training, validation and test.
        name: the first series' name, "" where there is one without.
        times: N, the first series' stamps.
        values: V×N, its targets.
        splits: its rows at which validation and test begin.
    """

    rows: int
    series: int
    targets: tuple[str, ...]
    step: str
    zone: str | None
    first: Any
    last: Any
    missing: float
    parts: tuple[int, int, int]
    name: str
    times: Array
    values: Array
    splits: tuple[int, int]

    @classmethod
    def of(cls, trained: Mapping[str, int], seen: Mapping[str, int], panel: Panel) -> DataSummary:
        """The summary of the panel that a forecaster was fitted to.

        Args:
            trained, seen: each series' first step behind the training part, and behind what was seen.
        """
        rows, zone = panel.lengths, panel.timeline.zone
        splits = np.array(
            [
                [part.get(name, start) - start for part in (trained, seen)]
                for name, start in zip(panel.names, panel.starts, strict=True)
            ]
        ).clip(0, rows[:, None])
        learned, known = (int(part) for part in splits.sum(0))
        ends = np.array([panel.starts.min(), (panel.starts + rows).max() - 1])
        first, last = to_wall(panel.timeline.times(ends), zone)
        times = panel.timeline.times(panel.starts[0] + np.arange(rows[0]))
        return cls(
            rows=int(rows.sum()),
            series=len(panel.names),
            targets=panel.targets,
            step=panel.timeline.name,
            zone=zone,
            first=first,
            last=last,
            missing=float(np.isnan(panel.target).mean()),
            parts=(learned, known - learned, int(rows.sum()) - known),
            name=panel.names[0],
            times=to_wall(times, zone),
            values=panel.target[:, : rows[0]],
            splits=(int(splits[0, 0]), int(splits[0, 1])),
        )
