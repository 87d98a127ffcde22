"""Traces in a folder: a Zarr v3 store, which is written in parts and read when it is used.

The store has a group for each module, and in it an array ``{value}/{layer}/{direction}``, B×T×H, and
``lengths``, B, if there are any. Every chunk has a checksum. The root's attribute ``gatewise`` describes what
must be there, so a missing or damaged part is an error and never a zero.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatewise.errors import DataError, OptionError, need
from gatewise.gates.joining import other_batch
from gatewise.nn.trace import Trace

_FORMAT = 1
_CHUNK = 4 << 20  # bytes, about
_OPERATORS = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul"),
    *("neg", "abs", "pow", "gt", "ge", "lt", "le"),
)


class Writer:
    """Writes a store under a temporary name, which becomes ``path`` when it is complete."""

    def __init__(self, path: Path) -> None:
        self._zarr = need("zarr", "gates")
        if path.exists():
            raise OptionError(
                f"store={str(path)!r} exists already: remove it, or give another name"
            )
        if not path.parent.is_dir():
            raise OptionError(f"store={str(path)!r}: there is no folder {str(path.parent)!r}")
        self._path, self._part = path, path.with_name(f".{uuid.uuid4().hex}.part")
        self._root = self._zarr.open_group(str(self._part), mode="w", zarr_format=3)
        self._arrays: dict[str, dict[tuple[str, int, int], Any]] = {}
        self._steps: dict[str, int] = {}
        self._calls: dict[str, list[int]] = {}
        self._lengths: dict[str, list[Tensor | None]] = {}
        self._cells: dict[str, str] = {}

    def begin_call(
        self, name: str, steps: int, lengths: Tensor | None, calls: Sequence[int] = ()
    ) -> int:
        """Makes room for a further call of a module, and returns the index of its first step."""
        begin = self._steps.get(name, 0)
        self._steps[name] = begin + steps
        self._calls.setdefault(name, []).extend(calls or [steps])
        self._lengths.setdefault(name, []).append(lengths)
        if len(self._lengths[name]) > 1 and any(each is not None for each in self._lengths[name]):
            raise OptionError(
                f"'{name}' is called several times, with lengths; a store cannot join these calls: leave store= "
                f"out"
            )
        return begin

    def write(
        self, name: str, trace: Trace, rows: slice, begin: int, batch: int | None = None
    ) -> None:
        """Writes the trace of some sequences, from step ``begin`` on."""
        arrays = self._arrays.setdefault(name, {})
        for value in trace.names:
            for layer, directions in enumerate(trace[value]):
                for direction, tensor in enumerate(directions):
                    key = value, layer, direction
                    if key not in arrays:
                        arrays[key] = self._made(name, key, tensor, batch)
                    self._put(name, arrays[key], tensor, rows, begin)
        self._cells[name] = "" if trace.cell is None else trace.cell.name

    def _made(self, name: str, key: tuple[str, int, int], tensor: Tensor, batch: int | None) -> Any:
        count = len(tensor) if batch is None else batch
        rest = tuple(tensor.shape[2:])
        steps = self._steps[name]
        row = max(1, 4 * torch.Size(rest).numel())
        along = max(1, min(steps, _CHUNK // row))
        chunks = (max(1, min(count, _CHUNK // (row * along))), along, *(max(1, n) for n in rest))
        codec = self._zarr.codecs.Crc32cCodec()
        value, layer, direction = key
        return self._root.create_array(
            f"{_escaped(name)}/{value}/{layer}/{direction}",
            shape=(count, steps, *rest),
            chunks=chunks,
            dtype="float64" if tensor.dtype == torch.float64 else "float32",
            compressors=[codec],
            config={"write_empty_chunks": True},  # a chunk that is not there is an error
        )

    def _put(self, name: str, array: Any, tensor: Tensor, rows: slice, begin: int) -> None:
        if array.shape[1] < self._steps[name]:
            array.resize((array.shape[0], self._steps[name], *array.shape[2:]))
        many = len(range(*rows.indices(array.shape[0])))
        if many != len(tensor):
            raise other_batch(name, array.shape[0], len(tensor))
        wide = tensor.detach().cpu()
        wide = wide if wide.dtype == torch.float64 else wide.float()
        if tensor.numel():
            array[rows, begin : begin + tensor.shape[1]] = wide.numpy()

    def close(self, names: Sequence[str]) -> list[str]:
        """Completes the store, and returns the names of its modules, in the order of ``names``."""
        order = {name: k for k, name in enumerate(names)}
        place = {n: order.get(n, order.get(n.rpartition(".")[0], 0)) for n in self._arrays}
        found = sorted(self._arrays, key=place.__getitem__)
        about = {}
        for name in found:
            lengths = self._lengths[name][0]
            about[name] = {
                "cell": self._cells[name],
                "lengths": None if lengths is None else lengths.tolist(),
                "calls": self._calls[name] if len(self._calls[name]) > 1 else [],
                "arrays": [[*key, list(array.shape)] for key, array in self._arrays[name].items()],
            }
        self._root.attrs["gatewise"] = {"format": _FORMAT, "modules": about}
        if found:
            os.replace(self._part, self._path)
        return found

    def discard(self) -> None:
        """Removes what was written, unless it is complete."""
        shutil.rmtree(self._part, ignore_errors=True)


def read_store(path: Path) -> dict[str, Trace]:
    """The traces of a store, whose values are read when they are used.

    Raises:
        DataError: there is no store, or it is not complete.
    """
    zarr = need("zarr", "gates")
    if not path.is_dir():
        raise DataError(
            f"there is no store {str(path)!r}: give the folder that gatewise.trace wrote"
        )
    try:
        root = zarr.open_group(str(path), mode="r", zarr_format=3)
        about = root.attrs["gatewise"]
        if about["format"] != _FORMAT:
            raise DataError(
                f"{str(path)!r} has the format {about['format']} of a newer gatewise: upgrade gatewise"
            )
        return {name: _read(path, root, name, each) for name, each in about["modules"].items()}
    except DataError:
        raise
    except Exception as error:  # zarr raises many kinds for a file that is damaged
        raise _damaged(path, str(error) or type(error).__name__) from error


def _read(path: Path, root: Any, name: str, about: Mapping[str, Any]) -> Trace:
    values: dict[str, list[list[Any]]] = {}
    for value, layer, direction, shape in about["arrays"]:
        key = f"{_escaped(name)}/{value}/{layer}/{direction}"
        array = root[key]
        if list(array.shape) != shape:
            raise _damaged(path, f"{key} has the shape {array.shape}, expected {tuple(shape)}")
        missing = array.nchunks - array.nchunks_initialized if min(shape) else 0
        if missing:
            raise _damaged(path, f"{missing} of {array.nchunks} parts of {key} are missing")
        layers = values.setdefault(value, [])
        layers += [[] for _ in range(layer + 1 - len(layers))]
        layers[layer].append(StoredValues(array, path, key))
    from gatewise.cells.catalogue import CELLS

    lengths = None if about["lengths"] is None else torch.tensor(about["lengths"])
    return Trace(values, lengths, CELLS.get(about["cell"]), calls=about["calls"])


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"the store {str(path)!r} is damaged: {why}; trace the model again")


def _escaped(name: str) -> str:
    """The name of a module as the name of a group: names of modules in Keras may have slashes."""
    return name.replace("/", "|")


class StoredValues:
    """A traced value in a store, B×T×H. An index reads the part that it asks for, as a tensor. Where torch takes
    a tensor, and for every method and operator of a tensor, the whole is read."""

    def __init__(self, array: Any, path: Path, key: str) -> None:
        self._array, self._path, self._key = array, path, key
        self.shape = torch.Size(array.shape)
        self.dtype: torch.dtype = getattr(torch, str(array.dtype))

    def __getitem__(self, index: Any) -> Tensor:
        try:
            found = self._array[index]
        except IndexError:
            raise
        except Exception as error:  # zarr raises many kinds for a file that is damaged
            raise _damaged(self._path, f"{self._key}: {error}") from error
        return (
            torch.from_numpy(found) if found.ndim else torch.tensor(found.item(), dtype=self.dtype)
        )

    def tensor(self) -> Tensor:
        """The whole value."""
        return self[...]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.tensor().numpy().astype(dtype or self._array.dtype)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(name)
        return getattr(self.tensor(), name)

    def __repr__(self) -> str:
        return f"<{self._key}, {'×'.join(map(str, self.shape))}, in {str(self._path)!r}>"

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        def read(given: Any) -> Any:
            if isinstance(given, StoredValues):
                return given.tensor()
            return type(given)(map(read, given)) if isinstance(given, list | tuple) else given

        return function(*read(args), **{k: read(v) for k, v in (kwargs or {}).items()})


def _operator(name: str) -> Callable[..., Any]:
    def apply(self: StoredValues, *others: Any) -> Any:
        read = [o.tensor() if isinstance(o, StoredValues) else o for o in others]
        return getattr(self.tensor(), name)(*read)

    return apply


for _name in _OPERATORS:
    setattr(StoredValues, f"__{_name}__", _operator(f"__{_name}__"))
