"""The summary of a forecaster's data for its report."""

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
    """Facts about the data, and the first series for a picture.

    Attributes:
        rows, series: the numbers of rows and series.
        targets: the names of the target columns.
        step: the time step as text.
        zone: the time zone of the timestamps here, or None.
        first, last: the first and last timestamp of all series.
        missing: the share of missing target values.
        parts: the numbers of training, validation and test rows.
        name: the first series' name; "" without a series column.
        times: N, the first series' timestamps.
        values: V×N, the first series' target values.
        splits: the rows of the first series at which its validation and test parts start.
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
            trained, seen: for each series the first step after the training part, and the first step after
                the validation part.
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
