"""A program that reads an HDF5 file for :mod:`gatewise.weights.hdf5`, and knows nothing of gatewise.

It is a process of its own, as a file with changed bytes can end the HDF5 library's process, or keep it
busy for ever. A request is a line of JSON, a command and a path as a list of names; so is the answer,
{"value": …} or {"error": …}. After the answer to "array" come the array's bytes.
"""

import json
import sys
from typing import Any

import h5py

# An array that says to be this many times as large as the file was made to fill the memory.
_TIMES = 100


def _found(file: Any, names: list[str]) -> Any:
    """What lies at this path in the file itself: a link may lead to any other file."""
    here = file
    for name in names:
        link = here.get(name, getlink=True) if isinstance(here, h5py.Group) else None
        if link is None:
            raise LookupError(f"the file's weights have no '{here.name.rstrip('/')}/{name}'")
        if not isinstance(link, h5py.HardLink):
            raise LookupError(
                f"'{here.name}/{name}' is a link to elsewhere; links are not followed"
            )
        here = here[name]
    return here


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _attribute(value: Any) -> str | list[str]:
    """A text, or a list of texts; all that Keras has."""
    if isinstance(value, (bytes, str)) or not hasattr(value, "tolist"):
        return _text(value)
    listed = value.tolist()
    return [_text(each) for each in listed] if isinstance(listed, list) else _text(listed)


def _checked(dataset: Any, size: int) -> Any:
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise LookupError(f"'{dataset.name}' is not an array that lies in the file itself")
    if dataset.nbytes > _TIMES * size:
        raise LookupError(
            f"'{dataset.name}' says that it has the shape {dataset.shape}, {dataset.nbytes} bytes, "
            f"in a file of {size}; that is not read"
        )
    if "dtype" in dataset.attrs and _text(dataset.attrs["dtype"]) == "bfloat16":
        raise LookupError(
            f"'{dataset.name}' is bfloat16, which HDF5 has not; save the model in float32"
        )
    return dataset


def _answer(file: Any, size: int, command: str, names: list[str]) -> tuple[Any, bytes]:
    """A value for JSON, and bytes."""
    found = _found(file, names)
    match command:
        case "attributes":
            return {name: _attribute(found.attrs[name]) for name in found.attrs}, b""
        case "names":
            return list(found), b""
        case "array":
            array = _checked(found, size)[()]
            return [array.dtype.str, list(array.shape), array.nbytes], array.tobytes()
    raise ValueError(command)


def main(path: str, size: int) -> None:
    with h5py.File(path, "r") as file:
        for line in sys.stdin:
            content = b""
            try:
                value, content = _answer(file, size, *json.loads(line))
                answer = {"value": value}
            except LookupError as error:
                answer = {"error": str(error.args[0])}
            except Exception as error:  # of the library, which has no kind of its own
                answer = {"error": f"{type(error).__name__}: {error}"}
            sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + content)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
