"""Arrays from the tensors of an ONNX file, stored in it or in external files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from gatewise.errors import ModelFileError, need
from gatewise.weights.budget import Budget


class Tensors:
    """The reader of one model's tensors. It is called with an onnx.TensorProto.

    Args:
        budget: the memory limit for the model.
        folder: the folder of the model and its external files; None for a model in memory.
    """

    def __init__(self, budget: Budget, folder: Path | None) -> None:
        self.budget = budget
        self._folder = folder
        self._beside: set[str] = set()

    def __call__(self, tensor: Any) -> Any:
        """The tensor's array.

        Raises:
            ModelFileError: the data does not have the size of the tensor's shape, is in a missing file, or
                is larger than the limit for this file.
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
            # dtypes of less than a byte are not for weights
            held = len(tensor.raw_data)
            if held != size and dtype.kind in "biufV":
                raise ModelFileError(
                    f"the tensor '{tensor.name}' is of shape {shape} and type {dtype.name}, which is "
                    f"{size} bytes, but has {held}: the file is damaged"
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
        """A copy of the tensor with the data of its external file."""
        if self._folder is None:
            raise ModelFileError(
                f"the tensor '{tensor.name}' is in an external file, which was not read; give the model's "
                f"path, or load it with onnx.load"
            )
        external = need("onnx.external_data_helper", "onnx")
        info = external.ExternalDataInfo(tensor)
        beside = self._folder / info.location
        there = beside.stat().st_size if beside.is_file() else 0
        length = there - (info.offset or 0) if info.length is None else info.length
        if length != size:
            raise ModelFileError(
                f"the tensor '{tensor.name}' is of shape {tuple(tensor.dims)}, which is {size} bytes, and "
                f"has {max(length, 0)} in '{info.location}': the file is damaged or missing"
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
    """The NumPy dtype of ONNX's type number, which the tensor ``name`` has.

    Raises:
        ModelFileError: ONNX has no such type, or the type is text.
    """
    try:
        dtype = np.dtype(need("onnx.helper", "onnx").tensor_dtype_to_np_dtype(number))
    except (KeyError, ValueError, TypeError) as error:
        raise ModelFileError(
            f"the tensor '{name}' has the type number {number}, which ONNX does not have"
        ) from error
    if dtype.kind in "OSU":
        raise ModelFileError(f"the tensor '{name}' is text; it must be numbers")
    return dtype
