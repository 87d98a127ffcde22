"""Texts, and the symbols of texts, that are kept in memory while they are few and in a temporary file beyond."""

from __future__ import annotations

import mmap
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

Array = np.ndarray

IN_MEMORY = 1 << 26  # bytes


class Spool:
    """Byte strings by their index, which take no memory beyond IN_MEMORY bytes, except for 8 bytes each."""

    def __init__(self) -> None:
        self.file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  as long as the spool
        self.ends = array("q", [0])

    def __del__(self) -> None:
        self.file.close()

    def append(self, data: bytes) -> None:
        self.file.write(data)
        self.ends.append(self.ends[-1] + len(data))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, k: int) -> bytes:
        first, last = self.ends[k], self.ends[k + 1]
        self.file.seek(first)
        found = self.file.read(last - first)
        self.file.seek(0, 2)
        return found

    def whole(self) -> memoryview:
        """All bytes one after the other; those of a file are read when they are used."""
        self.file.flush()
        if not self.ends[-1]:
            return memoryview(b"")
        if self.ends[-1] <= IN_MEMORY:
            self.file.seek(0)
            found = self.file.read()
            self.file.seek(0, 2)
            return memoryview(found)
        return memoryview(mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ))


class SpooledTexts(Sequence[str]):
    """N texts, of which only 64 MiB are kept in memory."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.spool = Spool()
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        self.spool.append(text.encode("utf-8", "surrogatepass"))

    def __len__(self) -> int:
        return len(self.spool)

    @overload
    def __getitem__(self, k: int) -> str: ...
    @overload
    def __getitem__(self, k: slice) -> list[str]: ...
    def __getitem__(self, k: int | slice) -> str | list[str]:
        if isinstance(k, slice):
            return [self[each] for each in range(*k.indices(len(self)))]
        at = range(len(self))[k]  # raises IndexError
        return self.spool[at].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[k] for k in range(len(self)))


def flat(sequences: Iterable[Array]) -> tuple[Array, Array]:
    """The numbers of all ``sequences`` one after the other, ΣT in int32, and the N+1 places where they start.

    Beyond 64 MiB the numbers are in a temporary file, of which only what is used is read."""
    spool = Spool()
    for each in sequences:
        spool.append(np.ascontiguousarray(each, dtype=np.int32).tobytes())
    starts = np.array(spool.ends, dtype=np.int64) // 4
    return np.frombuffer(spool.whole(), dtype=np.int32), starts
