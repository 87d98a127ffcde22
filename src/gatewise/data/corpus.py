"""Running text as a stream of symbols, and its batches for truncated back-propagation through time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gatewise.data.spool import flat
from gatewise.data.tokens import END, UNKNOWN, Tokenizer

Array = np.ndarray


def first_input(tokenizer: Tokenizer) -> int:
    """The symbol that stands before the first symbol of a text: the end of a line."""
    return END if tokenizer.unit != "char" else tokenizer.index.get("\n", UNKNOWN)


def stream(lines: Iterable[str], tokenizer: Tokenizer) -> tuple[Array, Array]:
    """The symbols of all lines one after the other, ΣT, and the N+1 places where the lines start.

    A newline is the symbol :data:`END`, also inside a line; of characters it is the newline. Beyond 64 MiB the
    symbols are in a temporary file.
    """
    if tokenizer.unit == "char":
        return flat(tokenizer.encoded(lines))
    return flat(_with_ends(lines, tokenizer))


def _with_ends(lines: Iterable[str], tokenizer: Tokenizer) -> Iterator[Array]:
    followed: deque[bool] = deque()  # for each part of a line, whether another one follows

    def parts() -> Iterator[str]:
        for line in lines:
            *ended, last = line.split("\n")
            followed.extend([*[True] * len(ended), False])
            yield from (*ended, last)

    end = np.array([END], dtype=np.int32)
    line: list[Array] = []
    for ids in tokenizer.encoded(parts()):
        line.append(ids)
        if followed.popleft():
            line.append(end)
        else:
            yield np.concatenate(line)
            line = []


class Windows(Dataset):
    """The windows of a stream in B columns; each continues the window before it.

    The stream is cut into B columns of equal length, and a remainder of fewer than B symbols is left out.
    Window k has the inputs and targets of T steps: B×(T+1) symbols, of which each window shares one with the
    next. The last window may be shorter.

    Args:
        symbols: the stream.
        first: the symbol before the first one.
        batch: B.
        steps: T.
        share: returns the columns that this process takes, in a distributed run.
    """

    def __init__(
        self,
        symbols: Array,
        first: int,
        batch: int,
        steps: int,
        share: Callable[[Array], Array] = lambda columns: columns,
    ) -> None:
        self.symbols, self.first, self.steps = symbols, first, steps
        self.column = len(symbols) // batch
        self.columns, self.share = np.arange(batch), share

    def __len__(self) -> int:
        return -(-self.column // self.steps)

    def __getitem__(self, k: int) -> Tensor:
        begin = k * self.steps
        end = min(begin + self.steps, self.column)
        columns = self.share(self.columns)
        found = np.empty((len(columns), end - begin + 1), dtype=np.int64)
        for row, at in enumerate(columns * self.column):
            found[row, 1:] = self.symbols[at + begin : at + end]
            found[row, 0] = self.symbols[at + begin - 1] if at + begin else self.first
        return torch.from_numpy(found)


def windows(
    symbols: Array, first: int, batch: int, steps: int, share: Callable[[Array], Array]
) -> DataLoader:
    """The batches of a stream in their order, see :class:`Windows`."""
    return DataLoader(Windows(symbols, first, batch, steps, share), batch_size=None)
