"""Arrays from the tensors that an ONNX file stores, or keeps in a file beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from gatewise.errors import ModelFileError, need
from gatewise.weights.budget import Budget


class Tensors:
    """Reads tensors of one model, called with an onnx.TensorProto.

    Args:
        budget: what may be made of the model.
        folder: where the model lies, and the files beside it; None for a model that is in memory.
    """

    def __init__(self, budget: Budget, folder: Path | None) -> None:
        self.budget = budget
        self._folder = folder
        self._beside: set[str] = set()

    def __call__(self, tensor: Any) -> Any:
        """The tensor's array.

        Raises:
            ModelFileError: it holds less, or more, than its dimensions say, is kept in a file that is not
                there, or is larger than what may be made of this file.
        """
        numpy_helper = need("onnx.numpy_helper", "onnx")
        shape = tuple(tensor.dims)
        dtype = type_of(tensor.name, tensor.data_type)
        if any(size < 0 for size in shape):
            raise ModelFileError(f"the tensor '{tensor.name}' has the impossible shape {shape}")
        size = math.prod(shape) * dtype.itemsize
        if tensor.data_location == tensor.EXTERNAL:
            tensor = self._from_beside(tensor, size)
        if tensor.HasField("raw_data"):
            # types of less than a byte are no weights
            held = len(tensor.raw_data)
            if held != size and dtype.kind in "biufV":
                raise ModelFileError(
                    f"the tensor '{tensor.name}' is of shape {shape} and type {dtype.name}, which is "
                    f"{size} bytes, and holds {held}: the file is damaged"
                )
        self.budget.take(f"the tensor '{tensor.name}'", size)
        try:
            return numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError) as error:
            raise ModelFileError(
                f"the tensor '{tensor.name}' of shape {shape} and type {dtype.name} cannot be read, the "
                f"file is damaged: {error}"
            ) from error

    def _from_beside(self, tensor: Any, size: int) -> Any:
        """A copy that holds what lies in the other file."""
        if self._folder is None:
            raise ModelFileError(
                f"the tensor '{tensor.name}' is kept in a file beside the model, and that was not read; "
                f"give the model's path, or load it with onnx.load"
            )
        external = need("onnx.external_data_helper", "onnx")
        info = external.ExternalDataInfo(tensor)
        beside = self._folder / info.location
        there = beside.stat().st_size if beside.is_file() else 0
        length = there - (info.offset or 0) if info.length is None else info.length
        if length != size:
            raise ModelFileError(
                f"the tensor '{tensor.name}' is of shape {tuple(tensor.dims)}, which is {size} bytes, and "
                f"has {max(length, 0)} in '{info.location}': the file is damaged or not there"
            )
        if info.location not in self._beside:
            self._beside.add(info.location)
            self.budget.holds(there)
        self.budget.take(f"the tensor '{tensor.name}'", size)
        copy = type(tensor)()
        copy.CopyFrom(tensor)
        external.load_external_data_for_tensor(copy, str(self._folder))
        return copy


def type_of(name: str, number: int) -> np.dtype[Any]:
    """NumPy's type for one of ONNX's numbers, which ``name`` has.

    Raises:
        ModelFileError: ONNX has no such type, or it is text.
    """
    try:
        dtype = np.dtype(need("onnx.helper", "onnx").tensor_dtype_to_np_dtype(number))
    except (KeyError, ValueError, TypeError) as error:
        raise ModelFileError(
            f"the tensor '{name}' has the type number {number}, which ONNX has not"
        ) from error
    if dtype.kind in "OSU":
        raise ModelFileError(f"the tensor '{name}' is text, expected numbers")
    return dtype
