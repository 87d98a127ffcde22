"""A saved forecaster, and a forecast's file."""

from __future__ import annotations

import dataclasses
import io
import re
import zoneinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gatewise.data.frequency import spelled
from gatewise.data.scaling import Moments, Scaling
from gatewise.data.table import name_of, names_of
from gatewise.data.timeline import Timeline
from gatewise.errors import ModelFileError, OptionError
from gatewise.options import probability, real, whole
from gatewise.tasks.described import (
    HISTORY,
    Check,
    agree,
    count,
    listed,
    mapped,
    maybe,
    record,
    text,
    wrong,
)
from gatewise.tasks.forecast.network import PatchLSTM, Shape
from gatewise.tasks.saved import Saved, write_model
from gatewise.tasks.unfitted import UnfittedError
from gatewise.train.fitting import History
from gatewise.whole import write_whole

if TYPE_CHECKING:
    from gatewise.tasks.forecast.forecaster import Forecaster

_SCALING = "scaling."  # before the names of the tensors that are the scaling's


def save(forecaster: Forecaster, folder: Path) -> Path:
    """Write the forecaster's folder.

    Raises:
        NotFittedError: there is nothing to save yet.
        ModelFileError: the disk is full, the folder cannot be written, or the model could not be loaded;
            what was there stays.
    """
    if not hasattr(forecaster, "network_"):
        raise UnfittedError("this forecaster has not been fitted yet: call fit first")
    tensors = {name: each.float() for name, each in forecaster.network_.state_dict().items()}
    tensors["conformal.offsets"] = torch.from_numpy(forecaster.offsets_)
    for name, values in forecaster.scaling_.arrays().items():
        tensors[_SCALING + name] = torch.from_numpy(values)
    options, learned = forecaster.get_params(deep=False), forecaster._learned()
    if options["freq"] is not None:
        options["freq"] = spelled(options["freq"])  # also of an offset of pandas
    for role in ("target", "past", "known", "static"):
        options[role] = names_of(options[role])
    for role in ("time", "series"):
        options[role] = None if options[role] is None else name_of(options[role])
    return write_model(folder, "forecast", options, learned, tensors)


def write_table(table: Any, path: Path) -> None:
    """Write a polars table whole to a .csv or .parquet file.

    Raises:
        OptionError: the name ends in something else.
        ModelFileError: it cannot be written there; what was there stays.
    """
    writers = {".csv": table.write_csv, ".parquet": table.write_parquet}
    if path.suffix not in writers:
        raise OptionError(f"the forecast's file must end in .csv or .parquet, not '{path.name}'")
    buffer = io.BytesIO()
    writers[path.suffix](buffer)
    write_whole(path.parent, {path.name: buffer.getvalue()})


def read(saved: Saved) -> Forecaster:
    """The forecaster that was saved.

    Raises:
        ModelFileError: the description is not one, or the tensors are not those that it needs.
        OptionError: an option has a value that cannot be used.
    """
    forecaster = _untrained(saved.options)
    learned = record(_learned_checks(saved.most, len(saved.stored)))("learned", saved.learned)
    forecaster.timeline_ = learned["timeline"]
    forecaster.static_labels_ = learned["static_labels"]
    forecaster.season_ = learned["season"]
    forecaster.calendar_ = learned["calendar"]
    forecaster.shape_ = Shape(**learned["shape"])
    forecaster.validation_ = learned["validation"]
    forecaster.trained_, forecaster.seen_ = learned["trained"], learned["seen"]
    forecaster.history_ = History(**learned["history"])
    _check_fit(forecaster)
    with torch.device("meta"):  # the sizes, before anything is made of them
        network = PatchLSTM(forecaster.shape_)
    beside = _beside(forecaster)
    gaps = {name for name in beside if name.startswith(_SCALING) and ".static." not in name}
    tensors = saved.tensors({**network.state_dict(), **beside}, gaps)
    forecaster.offsets_ = tensors.pop("conformal.offsets").numpy()
    forecaster.scaling_ = _scaling(list(forecaster.trained_), tensors)
    network.load_state_dict(tensors, assign=True)
    forecaster.network_ = network.eval()
    return forecaster


def _untrained(saved: dict[str, Any]) -> Forecaster:
    from gatewise.tasks.forecast.forecaster import Forecaster

    checks: dict[str, Check] = dict.fromkeys(Forecaster._get_param_names(), _option)
    checks |= dict.fromkeys(("time", "series", "freq", "time_format"), maybe(text))
    options = record(checks)("options", saved)
    try:
        forecaster = Forecaster(**options)
        forecaster._resolve()
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"options: {error}") from error
    return forecaster


def _option(name: str, value: Any) -> Any:
    """An option's value, a tuple where it is several; its range is the forecaster's to check."""
    if isinstance(value, dict):
        raise wrong(name, "a text, a number or a list of these", value)
    return tuple(value) if isinstance(value, list) else value


# ---------------------------------------------------------------------------- what fit has learned


def _learned_checks(most: int, tensors: int) -> dict[str, Check]:
    """What the entries of ``learned`` must be, where the tensors hold ``most`` numbers."""
    size, some = count(1, most), count(0, most)
    shape = dict(
        context=count(1, most**2),
        horizon=size,
        patch=size,
        quantiles=some,
        past=some,
        known=some,
        calendar=some,
        static=some,
        hidden=size,
        layers=count(1, tensors),  # each has a tensor or more
        dropout=probability,
    )
    ends = mapped(count(-(2**62)))
    return dict(
        timeline=_timeline,
        static_labels=mapped(listed(text)),
        season=count(1),
        calendar=listed(count()),
        shape=record(shape),
        validation=_part,
        trained=ends,
        seen=ends,
        history=HISTORY,
    )


def _part(name: str, value: Any) -> int | float:
    """A share below 1, or a number of rows."""
    if isinstance(value, float):
        return real(name, value, "a share below 1", above=0, below=1)
    return whole(name, value)


def _timeline(name: str, value: Any) -> Timeline:
    """A timeline of which steps 0 and 1 have times that are these steps."""
    if not isinstance(value, dict):
        raise wrong(name, "an object", value)
    for key, each in value.items():  # sizes within what numpy counts with
        check = text if isinstance(each, str) else maybe(count(-(2**62)))
        check(f"{name}.{key}", each)
    whole(f"{name}.every", value.get("every"))
    maybe(_zone)(f"{name}.zone", value.get("zone"))
    try:
        timeline = Timeline.from_json(value)
        # without the zone: polars, which knows zones, may hang in a forked process
        grid = dataclasses.replace(timeline, zone=None)
        with np.errstate(all="raise"):
            found = grid.steps(grid.times(np.array([0, 1])))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{name}: {type(error).__name__}: {error}") from error
    if found.tolist() != [0, 1]:
        raise wrong(name, "a grid of steps", value)
    return timeline


def _zone(name: str, value: Any) -> str:
    """A time zone's name, or an offset such as UTC+05:30."""
    zone = text(name, value)
    if not re.fullmatch(r"UTC[+-]\d\d:\d\d(:\d\d)?", zone):
        try:
            zoneinfo.ZoneInfo(zone)
        except (KeyError, ValueError, OSError) as error:
            if zoneinfo.available_timezones():  # Windows may have none
                raise wrong(name, "a time zone", value) from error
    return zone


def _beside(forecaster: Forecaster) -> dict[str, Tensor]:
    """The tensors beside the network's, as meta tensors."""
    shape, series = forecaster.shape_, len(forecaster.trained_)
    columns = dict(target=len(forecaster.target_), past=shape.past, known=shape.known)
    parts = [part.name for part in dataclasses.fields(Moments)]
    sizes = {
        "conformal.offsets": (shape.horizon, shape.quantiles),
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
    return {name: torch.empty(size, dtype=kind, device="meta") for name, size in sizes.items()}


def _scaling(names: list[str], tensors: dict[str, Tensor]) -> Scaling:
    """Taken from the tensors."""
    arrays = {
        name.removeprefix(_SCALING): tensors.pop(name).numpy()
        for name in list(tensors)
        if name.startswith(_SCALING)
    }
    for name, values in arrays.items():
        if name.endswith(".scale") and (values <= 0).any():
            raise ModelFileError(
                f"'{_SCALING}{name}' holds {np.nanmin(values)}; expected numbers above 0"
            )
    return Scaling.from_arrays(names, arrays)


def _check_fit(forecaster: Forecaster) -> None:
    """That the forecaster's options, its network's sizes and what it has learned go together.

    Raises:
        ModelFileError: they do not; the message says which two.
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
    agree(together)
    given, usual = forecaster.season, forecaster.timeline_.season
    if forecaster.season_ not in ((1, usual) if given is None else (given,)):
        raise ModelFileError(
            f"the season is {forecaster.season_}, of season={given} and a usual one of {usual}; options "
            f"that were set after fit need another fit"
        )
    if any(k >= features for k in forecaster.calendar_):
        raise ModelFileError(f"the calendar has {features} features, not {forecaster.calendar_}")
    if not set(labels) <= set(forecaster.static_):
        raise ModelFileError(f"there are labels of {sorted(labels)}, which are no static columns")
