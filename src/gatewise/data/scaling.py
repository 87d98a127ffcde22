"""Location and scale of columns, learned once from the training part of each series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gatewise.data.moments import extremes, moments, rounding
from gatewise.data.panel import Panel

Array = np.ndarray


def scaled(values: Array, location: Array, scale: Array) -> tuple[Array, Array]:
    """N×R values, scaled by N locations and scales, with 0 for missing ones; and which are not missing."""
    apart = (values - location[:, None]) / scale[:, None]
    seen = ~np.isnan(apart)
    return np.where(seen, apart, 0.0), seen


@dataclass(frozen=True)
class Moments:
    """The location, scale, smallest and largest value of C columns in S series, each C×S.

    They are NaN where a series has no value. The scale is 1 where a column is constant apart from rounding."""

    location: Array
    scale: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, table: Array, starts: Array, rows: Array) -> Moments:
        """The moments of C×R values, from the first ``rows[s]`` rows of each series, which starts at ``starts[s]``."""
        found = np.full((4, len(table), len(starts)), np.nan)
        for s, (start, count) in enumerate(zip(starts, rows, strict=True)):
            part = table[:, start : start + count]
            location, deviation, _ = moments(part)
            scale = np.where(deviation > 0, deviation, 1.0)
            found[:, :, s] = location, np.where(np.isnan(location), np.nan, scale), *extremes(part)
        return cls(*found)

    def chosen(self, index: Array) -> Moments:
        """The moments of the series ``index``; NaN where the index is -1."""
        if not self.location.shape[1]:
            empty = np.full((len(self.location), len(index)), np.nan)
            return Moments(empty, empty, empty, empty)
        parts = (self.location, self.scale, self.low, self.high)
        return Moments(*(np.where(index < 0, np.nan, part[:, index]) for part in parts))

    def pooled(self) -> tuple[Array, Array]:
        """The C medians of locations and scales over the series; 0 and 1 where no series has a value."""
        pooled = []
        for part, default in ((self.location, 0.0), (self.scale, 1.0)):
            medians = [
                np.median(seen) if (seen := row[~np.isnan(row)]).size else default for row in part
            ]
            pooled.append(np.array(medians))
        return pooled[0], pooled[1]

    def filled(self, location: Array, scale: Array) -> Moments:
        """The moments, with these C locations and scales for series that have none."""
        none = np.isnan(self.location)
        return replace(
            self,
            location=np.where(none, location[:, None], self.location),
            scale=np.where(none, scale[:, None], self.scale),
        )


@dataclass(frozen=True)
class Scaling:
    """The scaling of each series' columns that ``fit`` learned and every later call uses.

    For a series that ``fit`` did not see, or that had no value, the targets have NaN: each of its windows is
    scaled separately. Its covariates are scaled by the medians over the fitted series.

    Attributes:
        names: the S series.
        target, past, known: the V, Cp and Ck columns.
        static: location and scale of the Cs static columns over the series.
        seasonal_error: V×S, the mean absolute difference between a target and the target one season before;
            NaN where it cannot be computed or is only rounding.
    """

    names: tuple[str, ...]
    target: Moments
    past: Moments
    known: Moments
    static: tuple[Array, Array]
    seasonal_error: Array

    @classmethod
    def learn(cls, panel: Panel, rows: Array, season: int) -> Scaling:
        """The scaling learned from the first ``rows[s]`` rows of each series of a panel."""
        starts = panel.offsets[:-1]
        location, deviation, _ = moments(panel.static.T)
        return cls(
            names=tuple(panel.names),
            target=Moments.of(panel.target, starts, rows),
            past=Moments.of(panel.past_values, starts, rows),
            known=Moments.of(panel.known_values, starts, rows),
            static=(location, np.where(deviation > 0, deviation, 1.0)),
            seasonal_error=_seasonal_errors(panel, rows, season),
        )

    def of(self, panel: Panel) -> Scaling:
        """The scaling for the series of another panel, matched by name."""
        place = {name: s for s, name in enumerate(self.names)}
        index = np.array([place.get(name, -1) for name in panel.names], dtype=np.int64)
        past, known = (
            each.chosen(index).filled(*each.pooled()) for each in (self.past, self.known)
        )
        errors = self.seasonal_error[:, index] if self.names else np.empty((len(panel.target), 0))
        return Scaling(
            tuple(panel.names),
            self.target.chosen(index),
            past,
            known,
            self.static,
            np.where(index < 0, np.nan, errors),
        )

    def arrays(self) -> dict[str, Array]:
        """Everything but the names, for a file."""
        found = {
            f"{kind}.{part}": values
            for kind in ("target", "past", "known")
            for part, values in vars(getattr(self, kind)).items()
        }
        static = dict(zip(("static.location", "static.scale"), self.static, strict=True))
        return found | static | {"seasonal_error": self.seasonal_error}

    @classmethod
    def from_arrays(cls, names: Sequence[str], arrays: Mapping[str, Array]) -> Scaling:
        """The scaling from the result of ``arrays``.

        Raises:
            KeyError: an array is missing.
        """

        def of(kind: str) -> Moments:
            return Moments(*(arrays[f"{kind}.{part}"] for part in Moments.__dataclass_fields__))

        static = arrays["static.location"], arrays["static.scale"]
        errors = arrays["seasonal_error"]
        return cls(tuple(names), of("target"), of("past"), of("known"), static, errors)


def seasonal_error(values: Array, season: int) -> float:
    """The mean absolute difference between a series and the series one season before.

    NaN where there is none, or where it is only rounding and so cannot serve as a unit."""
    if len(values) <= season:
        return float("nan")
    apart = np.abs(values[season:] - values[:-season])
    apart = apart[~np.isnan(apart)]
    error = float(apart.mean()) if apart.size else float("nan")
    return error if error > float(rounding(values)) else float("nan")


def _seasonal_errors(panel: Panel, rows: Array, season: int) -> Array:
    errors = np.empty((len(panel.target), len(panel.names)))
    for s, (start, count) in enumerate(zip(panel.offsets[:-1], rows, strict=True)):
        for channel, values in enumerate(panel.target):
            errors[channel, s] = seasonal_error(values[start : start + count], season)
    return errors
