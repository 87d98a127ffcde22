"""A program that reads an HDF5 file for :mod:`gatewise.weights.hdf5`. It does not import gatewise.

It runs in a separate process, because a damaged file can crash the HDF5 library or make it loop for ever. A
request is a line of JSON with a command and a path, a list of names. The answer is a line of JSON too,
{"value": …} or {"error": …}. The bytes of an array follow the answer to "array".
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

import h5py

try:
    import resource
except ImportError:  # Windows: there the caller's waiting time is the only limit
    resource = None  # type: ignore[assignment]

_OWN = 2**29  # bytes of address space for the library itself


def _found(file: Any, names: list[str]) -> Any:
    """The object at this path. Links are not followed, because they may lead to any other file."""
    here = file
    for name in names:
        link = here.get(name, getlink=True) if isinstance(here, h5py.Group) else None
        if link is None:
            raise LookupError(f"the file's weights have no '{here.name.rstrip('/')}/{name}'")
        if not isinstance(link, h5py.HardLink):
            raise LookupError(f"'{here.name}/{name}' is a link; links are not followed")
        here = here[name]
    return here


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _attribute(value: Any) -> str | list[str]:
    """An attribute's value: a text or a list of texts, the only kinds that Keras writes."""
    if isinstance(value, (bytes, str)) or not hasattr(value, "tolist"):
        return _text(value)
    listed = value.tolist()
    return [_text(each) for each in listed] if isinstance(listed, list) else _text(listed)


def _bound(limit: int, seconds: float) -> None:
    """Limits this process to the processor time and memory that a valid file needs.

    A damaged file can make the library loop for ever. Processor time, unlike elapsed time, is the same on a
    busy machine.
    """
    if resource is None:
        return
    _lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))
    try:
        with open("/proc/self/statm") as statm:
            addresses = int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux
        return
    # an array is in memory twice, the second time as the bytes to write
    _lower(resource.RLIMIT_AS, addresses + 2 * limit + _OWN)


def _lower(which: int, wanted: int) -> None:
    """Sets a limit of this process to ``wanted``, or to the system's hard limit if that is lower."""
    _, most = resource.getrlimit(which)
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(which, (allowed, most))


def _checked(dataset: Any, left: int) -> Any:
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise LookupError(f"'{dataset.name}' is not an array in the file itself")
    if dataset.nbytes > left:
        raise LookupError(
            f"'{dataset.name}' has the shape {dataset.shape}, which is {dataset.nbytes} bytes, but only "
            f"{max(left, 0)} may still be read of a file of this size"
        )
    if "dtype" in dataset.attrs and _text(dataset.attrs["dtype"]) == "bfloat16":
        raise LookupError(
            f"'{dataset.name}' is bfloat16, which HDF5 does not have; save the model in float32"
        )
    return dataset


class _Reader:
    """Answers requests about one file.

    Args:
        limit: the bytes of arrays that it returns in all.
        each: the bytes that every array counts besides its own, so that the time is limited too.
    """

    def __init__(self, file: Any, limit: int, each: int) -> None:
        self._file = file
        self._left = limit
        self._each = each

    def answer(self, command: str, names: list[str]) -> tuple[Any, bytes]:
        """The answer's value for JSON, and the bytes that follow it."""
        found = _found(self._file, names)
        match command:
            case "attributes":
                return {name: _attribute(found.attrs[name]) for name in found.attrs}, b""
            case "names":
                return list(found), b""
            case "array":
                dataset = _checked(found, self._left)
                self._left -= dataset.nbytes + self._each
                array = dataset[()]
                return [array.dtype.str, list(array.shape), array.nbytes], array.tobytes()
        raise ValueError(command)


def _answer(open_file: Any, limit: int, each: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Answers each line of the input, with the bytes that follow."""
    reader = None
    for line in sys.stdin:
        content = b""
        try:
            reader = reader or _Reader(open_file(), limit, each)
            value, content = reader.answer(*json.loads(line))
            answer = {"value": value}
        except LookupError as error:
            answer = {"error": str(error.args[0])}
        except Exception as error:  # the library has no error class of its own
            answer = {"error": f"{type(error).__name__}: {error}"}
        yield answer, content


def main(path: str, limit: int, each: int, seconds: float) -> None:
    _bound(limit, seconds)
    for answer, content in _answer(lambda: h5py.File(path, "r"), limit, each):
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + content)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
