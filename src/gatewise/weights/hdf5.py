"""An HDF5 file, read in a separate process, which a damaged file may crash."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gatewise.errors import ModelFileError, need
from gatewise.weights.budget import EACH, Budget

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SECONDS = 20.0  # to wait for an answer, besides the time that a slow disk needs for the whole file
_BUSY = 2.0  # of processor time for all answers, besides the time for a large file
_SLOW = 10e6  # bytes per second of a slow disk


class Hdf5:
    """An open file. A path in it is a list of names.

    Each method raises ModelFileError where the path has no such object, where the object is in another
    file, and where the library fails.
    """

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self._process = process
        self._seconds = seconds

    def attributes(self, path: Sequence[str]) -> dict[str, str | list[str]]:
        found: dict[str, str | list[str]] = self._ask("attributes", path)
        return found

    def names(self, path: Sequence[str]) -> list[str]:
        """The names of a group's members."""
        found: list[str] = self._ask("names", path)
        return found

    def array(self, path: Sequence[str]) -> np.ndarray:
        dtype, shape, size = self._ask("array", path)
        content = self._within_time(lambda pipe: pipe.read(size))
        if len(content) != size:
            raise self._ended()
        return np.frombuffer(content, dtype).reshape(shape)

    def _ask(self, command: str, path: Sequence[str]) -> Any:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps([command, list(path)]).encode() + b"\n")
            stdin.flush()
        except OSError as error:
            raise self._ended() from error
        line = self._within_time(lambda pipe: pipe.readline())
        if not line.endswith(b"\n"):
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise ModelFileError(answer["error"])
        return answer["value"]

    def _within_time(self, read: Any) -> bytes:
        """The bytes read from the process. It is killed if it takes too long."""
        timer = threading.Timer(self._seconds, self._process.kill)
        timer.start()
        try:
            content: bytes = read(self._process.stdout)
        finally:
            timer.cancel()
        return content

    def _ended(self) -> ModelFileError:
        code = self._process.wait()
        return ModelFileError(
            f"the HDF5 library cannot read this file, it is damaged: the process that tried ended "
            f"with {code}"
        )


@contextmanager
def hdf5(path: Path, size: int) -> Iterator[Hdf5]:
    """The opened file. ``size`` is the size of everything stored, which limits how much is read.

    Raises:
        ModelFileError: the file does not start with the signature of HDF5.
    """
    need("h5py", "keras")
    with path.open("rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            raise ModelFileError("it does not start with the signature of an HDF5 file")
    program = Path(__file__).with_name("hdf5_reader.py")
    extra = path.stat().st_size / _SLOW
    limits = [str(Budget(size).limit), str(EACH), str(_BUSY + extra)]
    command = [sys.executable, "-P", str(program), str(path), *limits]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield Hdf5(process, _SECONDS + extra)
    finally:
        process.kill()
        process.communicate()
