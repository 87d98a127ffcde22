"""The saved state of a forecaster: checks of its entries, and the tensors besides the network's weights."""

from __future__ import annotations

import dataclasses
import re
import zoneinfo
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewise.data.scaling import Moments, Scaling
from gatewise.data.timeline import Timeline
from gatewise.errors import ModelFileError
from gatewise.options import integer, number, probability
from gatewise.tasks.entry_checks import (
    Check,
    check_equal,
    count,
    integer_from,
    invalid_entry,
    list_of,
    mapping_of,
    object_with,
    or_none,
    text,
)

OFFSETS = "conformal.offsets"
_SCALING = "scaling."  # the prefix of the names of the scaling's tensors


def learned_checks(most: int, tensors: int) -> dict[str, Check]:
    """The checks of the entries of ``learned``.

    Args:
        most: the number of elements of all tensors, an upper bound for sizes.
        tensors: the number of tensors, an upper bound for layers.
    """
    size, some = integer_from(1, most), integer_from(0, most)
    shape = dict(
        context=integer_from(1, most**2),
        horizon=size,
        patch=size,
        quantiles=some,
        past=some,
        known=some,
        calendar=some,
        static=some,
        hidden=size,
        layers=integer_from(1, tensors),  # each layer has at least one tensor
        dropout=probability,
    )
    ends = mapping_of(integer_from(-(2**62)))
    return dict(
        timeline=_timeline,
        static_labels=mapping_of(list_of(text)),
        season=integer_from(1),
        calendar=list_of(count),
        shape=object_with(shape),
        validation=_part,
        trained=ends,
        seen=ends,
    )


def _part(name: str, value: Any) -> int | float:
    """A share below 1, or a number of rows."""
    if isinstance(value, float):
        return number(name, value, "a share below 1", above=0, below=1)
    return integer(name, value)


def _timeline(name: str, value: Any) -> Timeline:
    """A timeline on which steps 0 and 1 convert to times and back."""
    if not isinstance(value, dict):
        raise invalid_entry(name, "an object", value)
    for key, each in value.items():  # integers within numpy's 64 bits
        check = text if isinstance(each, str) else or_none(integer_from(-(2**62)))
        check(f"{name}.{key}", each)
    integer(f"{name}.every", value.get("every"))
    or_none(_zone)(f"{name}.zone", value.get("zone"))
    try:
        timeline = Timeline.from_json(value)
        # without the zone: polars, which knows zones, may hang in a forked process
        grid = dataclasses.replace(timeline, zone=None)
        with np.errstate(all="raise"):
            found = grid.steps(grid.times(np.array([0, 1])))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{name}: {type(error).__name__}: {error}") from error
    if found.tolist() != [0, 1]:
        raise invalid_entry(name, "a grid of steps", value)
    return timeline


def _zone(name: str, value: Any) -> str:
    """A time zone's name, or an offset such as UTC+05:30."""
    zone = text(name, value)
    if not re.fullmatch(r"UTC[+-]\d\d:\d\d(:\d\d)?", zone):
        try:
            zoneinfo.ZoneInfo(zone)
        except (KeyError, ValueError, OSError) as error:
            if zoneinfo.available_timezones():  # Windows may have no database of zones
                raise invalid_entry(name, "a time zone", value) from error
    return zone


def expected_tensors(forecaster: Any) -> tuple[dict[str, Tensor], set[str]]:
    """Meta tensors for those besides the network's weights, and the names of those that may hold NaN."""
    shape, series = forecaster.shape_, len(forecaster.trained_)
    columns = dict(target=len(forecaster.target_), past=shape.past, known=shape.known)
    parts = [part.name for part in dataclasses.fields(Moments)]
    sizes = {
        OFFSETS: (shape.horizon, shape.quantiles),
        **{
            f"{_SCALING}{kind}.{part}": (count, series)
            for kind, count in columns.items()
            for part in parts
        },
        f"{_SCALING}static.location": (shape.static,),
        f"{_SCALING}static.scale": (shape.static,),
        f"{_SCALING}seasonal_error": (columns["target"], series),
    }
    kind = torch.float64
    found = {name: torch.empty(size, dtype=kind, device="meta") for name, size in sizes.items()}
    gaps = {name for name in found if name.startswith(_SCALING) and ".static." not in name}
    return found, gaps


def scaling_tensors(scaling: Scaling) -> dict[str, Tensor]:
    """A scaling as tensors."""
    return {_SCALING + name: torch.from_numpy(each) for name, each in scaling.arrays().items()}


def scaling_of(names: list[str], tensors: dict[str, Tensor]) -> Scaling:
    """The scaling of the series ``names``, from tensors."""
    arrays = {
        name.removeprefix(_SCALING): values.numpy()
        for name, values in tensors.items()
        if name.startswith(_SCALING)
    }
    for name, values in arrays.items():
        if name.endswith(".scale") and (values <= 0).any():
            raise ModelFileError(
                f"'{_SCALING}{name}' holds {np.nanmin(values)}; expected positive numbers"
            )
    return Scaling.from_arrays(names, arrays)


def check_fit(forecaster: Any) -> None:
    """Checks that the forecaster's options, the network's sizes and the learned attributes fit together.

    Raises:
        ModelFileError: two of them contradict each other. The message says which.
    """
    shape, labels = forecaster.shape_, forecaster.static_labels_
    features = len(forecaster.timeline_.calendar_names)
    static = sum(len(labels[name]) if name in labels else 1 for name in forecaster.static_)
    together = [
        ("the horizon", forecaster.horizon, shape.horizon),
        ("the number of quantiles", len(forecaster.quantiles_), shape.quantiles),
        ("the number of past columns", len(forecaster.past_), shape.past),
        ("the number of known columns", len(forecaster.known_), shape.known),
        ("the number of calendar features", len(forecaster.calendar_), shape.calendar),
        ("the number of static features", static, shape.static),
        ("the context beyond whole patches", shape.context % shape.patch, 0),
        ("the series", forecaster.trained_.keys(), forecaster.seen_.keys()),
    ]
    check_equal(together)
    given, usual = forecaster.season, forecaster.timeline_.season
    if forecaster.season_ not in ((1, usual) if given is None else (given,)):
        raise ModelFileError(
            f"the learned season is {forecaster.season_}, but season={given} and the time step's season is "
            f"{usual}. If you changed an option after fit, call fit again"
        )
    if any(k >= features for k in forecaster.calendar_):
        raise ModelFileError(f"the calendar has {features} features, not {forecaster.calendar_}")
    if not set(labels) <= set(forecaster.static_):
        raise ModelFileError(f"there are labels for {sorted(labels)}, which are not static columns")
