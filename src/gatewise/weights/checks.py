"""Checks of files and arrays that all importers share, with their error messages."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gatewise.errors import DataError, GatewiseError, ModelFileError, OptionError, ShapeError, near

Found = TypeVar("Found")

_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def existing_file(path: str | os.PathLike[str], kind: str) -> Path:
    """Raises ModelFileError unless the path is a file. ``kind`` is the expected file, for the message."""
    found = Path(path)
    if not found.is_file():
        what = "a folder" if found.is_dir() else "not there"
        raise ModelFileError(f"'{path}' is {what}; expected {kind}")
    return found


@contextmanager
def reading(what: str, kind: str) -> Iterator[None]:
    """Turns every error of a parser into a ModelFileError.

    protobuf, zlib, json and HDF5 have no common error class, and a damaged file can make each of them
    fail, also long after the file was opened.
    """
    try:
        yield
    except GatewiseError:
        raise
    except Exception as error:
        raise ModelFileError(
            f"{what} cannot be read as {kind}: {type(error).__name__}: {error}"
        ) from error


def chosen(found: Mapping[str, Found], only: Collection[str] | None, what: str) -> dict[str, Found]:
    """The layers to import: all, or those that ``only`` names."""
    if only is None:
        return dict(found)
    if isinstance(only, str):
        raise OptionError(f"only must be a list of names, not the text {only!r}")
    for name in only:
        if name not in found:
            names = ", ".join(f"'{each}'" for each in found)
            raise OptionError(
                f"{what} has no layer {name!r}{near(str(name), found)}; it has: {names}"
            )
    return {name: each for name, each in found.items() if name in only}


def check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(shape) != expected:
        raise ShapeError(f"{name} has the shape {tuple(shape)}, expected {expected}")


def as_tensor(name: str, array: Any) -> Tensor:
    """A tensor with a copy of an array of floating-point numbers, in the array's dtype.

    Raises:
        DataError: the array has a NaN or an infinity, or its dtype is not floating-point.
    """
    if isinstance(array, Tensor):
        tensor = array.detach().cpu().clone()
    else:
        given = np.asarray(array)
        if given.dtype.name not in _DTYPES:
            raise _wrong_type(name, given.dtype)
        native = np.array(given, dtype=given.dtype.newbyteorder("="), order="C")
        if (
            given.dtype.name == "bfloat16"
        ):  # a dtype of ml_dtypes, which torch.from_numpy does not accept
            tensor = torch.from_numpy(native.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(native)
    if tensor.dtype not in _DTYPES.values():
        raise _wrong_type(name, tensor.dtype)
    _check_finite(name, tensor)
    return tensor


def _wrong_type(name: str, dtype: Any) -> DataError:
    return DataError(f"{name} is of type {dtype}, expected one of {', '.join(_DTYPES)}")


def _check_finite(name: str, tensor: Tensor) -> None:
    nans, infinities = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    if nans or infinities:
        raise DataError(
            f"{name} has {nans} NaN and {infinities} infinite of {tensor.numel()} values; "
            f"a layer with such weights has no valid output; give a file with finite weights"
        )
