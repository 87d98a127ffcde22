"""Word vectors in text files, as GloVe, fastText and word2vec write them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gatewise.data.lines import decoded, pieces, text_files
from gatewise.errors import DataError

Array = np.ndarray

_LONGEST_LINE = 1 << 24  # bytes


def width_of(path: str | Path) -> int:
    """The width of the vectors in a file, by its first line."""
    file = _file(path)
    for offset, data in pieces(file, _LONGEST_LINE):
        parts = decoded(data, file, 1, offset).split()
        if len(parts) == 2 and all(part.isdigit() for part in parts):
            return int(parts[1])
        if len(parts) < 3:
            break
        return len(parts) - 1
    raise DataError(
        f"{file}, line 1: expected a word and the numbers of its vector, separated by spaces, or the number "
        f"of words and the width"
    )


def _file(path: str | Path) -> Path:
    if os.path.isdir(path):
        raise DataError(f"{path} is a folder: give a text file of word vectors")
    return text_files([path])[0]


def read_vectors(path: str | Path, index: Mapping[str, int]) -> dict[int, Array]:
    """The vectors of the words that are in ``index``, by the word's index. Others are not kept.

    Each line has a word and its numbers, separated by spaces. The first line may have the number of words and
    the width instead. A word that comes twice has its first vector.

    Raises:
        DataError: the file cannot be read, a line has another number of numbers than the first, or something
            that is not a finite number. The message has the line.
    """
    width = width_of(path)
    file = _file(path)
    found: dict[int, Array] = {}
    for number, (offset, data) in enumerate(pieces(file, _LONGEST_LINE), 1):
        text = decoded(data, file, number, offset).rstrip()
        if number == 1 and text.count(" ") == 1:  # the number of words and the width
            continue
        word, *parts = text.rsplit(" ", width)  # a word may have spaces in it
        if len(parts) != width:
            raise DataError(
                f"{file}, line {number} has {len(text.split()) - 1} numbers, expected {width} as in the first "
                f"line"
            )
        _check_more(file, number, word, width)
        at = index.get(word)
        if at is None or at in found:
            continue
        try:
            vector = np.array(parts, dtype=np.float32)
        except ValueError as error:
            raise DataError(f"{file}, line {number}: {error}") from error
        if not np.isfinite(vector).all():
            raise DataError(f"{file}, line {number}: the vector of {word!r} is not finite")
        found[at] = vector
    return found


def _check_more(file: Path, number: int, word: str, width: int) -> None:
    """Raises DataError where a line has more numbers than the first: its word would end in a number."""
    last = word.rpartition(" ")[2]
    if last == word:
        return
    try:
        float(last)
    except ValueError:
        return
    more = len(word.split(" ")) - 1
    raise DataError(
        f"{file}, line {number} has {width + more} numbers, expected {width} as in the first line"
    )
