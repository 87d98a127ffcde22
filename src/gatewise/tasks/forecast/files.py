"""A saved forecaster's folder, and a forecast's file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gatewise.data.frequency import spelled
from gatewise.data.scaling import Scaling
from gatewise.data.table import name_of, names_of
from gatewise.data.timeline import Timeline
from gatewise.errors import ModelFileError, OptionError
from gatewise.tasks.forecast.network import PatchLSTM, Shape
from gatewise.tasks.saved import tensors_of, write_model, write_whole
from gatewise.train.fitting import History

if TYPE_CHECKING:
    from gatewise.tasks.forecast.forecaster import Forecaster

_SCALING = "scaling."  # before the names of the tensors that are the scaling's


def save(forecaster: Forecaster, folder: Path) -> Path:
    """Write the forecaster's folder.

    Raises:
        ModelFileError: the disk is full or the folder cannot be written; what was there stays.
    """
    tensors = dict(forecaster.network_.state_dict())
    tensors["conformal.offsets"] = torch.from_numpy(forecaster.offsets_.copy())
    for name, values in forecaster.scaling_.arrays().items():
        tensors[_SCALING + name] = torch.from_numpy(values.copy())
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
        ModelFileError: it cannot be written there.
    """
    writers = {".csv": table.write_csv, ".parquet": table.write_parquet}
    if path.suffix not in writers:
        raise OptionError(f"the forecast's file must end in .csv or .parquet, not '{path.name}'")
    buffer = io.BytesIO()
    writers[path.suffix](buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path.parent, {path.name: buffer.getvalue()})
    except OSError as error:
        raise ModelFileError(f"cannot write {path}: {error.strerror or error}") from error


def read(folder: Path, described: dict[str, Any]) -> Forecaster:
    """The forecaster of a folder whose model.json holds ``described``.

    Raises:
        ModelFileError: a file is damaged.
    """
    from gatewise.tasks.forecast.forecaster import Forecaster

    try:
        learned = described["learned"]
        options: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in described["options"].items()
        }
        forecaster = Forecaster(**options)
        forecaster._resolve()
        forecaster.timeline_ = Timeline.from_json(learned["timeline"])
        forecaster.static_labels_ = learned["static_labels"]
        forecaster.season_ = learned["season"]
        forecaster.calendar_ = learned["calendar"]
        forecaster.shape_ = Shape(**learned["shape"])
        forecaster.validation_ = learned["validation"]
        forecaster.trained_, forecaster.seen_ = learned["trained"], learned["seen"]
        forecaster.history_ = History(**learned["history"])
        forecaster.network_ = PatchLSTM(forecaster.shape_)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{folder}/model.json is damaged: {error}") from error
    with tensors_of(folder, described["mark"]) as tensors:
        forecaster.offsets_ = tensors.pop("conformal.offsets").numpy()
        arrays = {
            name.removeprefix(_SCALING): tensors.pop(name).numpy()
            for name in list(tensors)
            if name.startswith(_SCALING)
        }
        forecaster.scaling_ = Scaling.from_arrays(list(forecaster.trained_), arrays)
        forecaster.network_.load_state_dict(tensors)
    forecaster.network_.eval()
    return forecaster
