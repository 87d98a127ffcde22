"""Tunes from arrays: piano rolls T×88, lists of sounding pitches, and voices T×V; in memory or in a file.

An array says which pitches sound at a step, but not whether a note is held or repeated. Equal pitches at
consecutive steps become one held note.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gatewise.data.music.tune import LOWEST, NOTES, Note, Tune
from gatewise.errors import DataError, need

Array = np.ndarray

PITCHES = np.arange(LOWEST, LOWEST + NOTES)  # of the columns of a piano roll
MOST_VOICES = 16  # a wider array of pitches is not one of voices
# The parts of a data set under the names that its files use.
PARTS = {
    "train": "train",
    "traindata": "train",
    "valid": "valid",
    "validation": "valid",
    "validdata": "valid",
    "test": "test",
    "testdata": "test",
}

Parts = dict[str, list[Any]]


def rolls_in(path: Path) -> Parts:
    """The arrays of each part of a .mat, .npz, .npy or .json file; the part "" if it has no parts.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        found = _READERS[path.suffix.lower()](path)
    except Exception as error:  # of scipy, zipfile, numpy, json and pickle, for damaged files
        raise DataError(f"cannot read {path}: {error or type(error).__name__}") from error
    return parts_of(found, str(path))


def parts_of(data: Any, name: str) -> Parts:
    """The arrays of each part of a mapping, or of the part "" of a list.

    Raises:
        DataError: a mapping has other names than those of parts.
    """
    if not isinstance(data, Mapping):
        return {"": list(data)}
    found = {PARTS.get(key.lower()): list(each) for key, each in data.items()}
    if None in found or not found:
        raise DataError(
            f"{name} has the parts {', '.join(map(repr, data)) or 'none'}; expected train, valid and test"
        )
    return found  # type: ignore[return-value]


def tune_of(array: Any, name: str, step: int) -> Tune:
    """The tune of a roll T×88, of T lists of pitches, or of T×V pitches (NaN or 0 and below for a rest).

    Args:
        step: the length of a step in ticks.

    Raises:
        DataError: the array is none of these, or has no notes.
    """
    rows = None if _ragged(array) else np.asarray(array)
    if rows is None or rows.ndim == 1:
        values = _roll(array, name) * PITCHES
    elif rows.ndim == 2 and rows.shape[1] == NOTES:
        if not np.isin(rows, (0, 1)).all():
            raise DataError(
                f"{name} holds other values than 0 and 1; expected a piano roll T×{NOTES}"
            )
        values = rows.astype(np.int64) * PITCHES
    elif rows.ndim == 2 and rows.shape[1] <= MOST_VOICES:
        values = np.nan_to_num(np.asarray(rows, float)).clip(0).astype(np.int64)
    else:
        raise DataError(
            f"{name} has the shape {rows.shape}; expected a piano roll T×{NOTES}, or at most {MOST_VOICES} "
            f"voices of pitches, T×V"
        )
    roll = values.shape[1] == NOTES
    notes = [
        Note(first * step, (last - first) * step, pitch, voice=0 if roll else k)
        for k in range(values.shape[1])
        for first, last, pitch in _runs(values[:, k])
    ]
    if not notes:
        raise DataError(f"{name} has no notes")
    return Tune(name, tuple(notes), len(values) * step)


def _ragged(array: Any) -> bool:
    """Whether the rows are sequences of different lengths."""
    return (
        isinstance(array, Sequence)
        and all(isinstance(row, Sequence) for row in array)
        and (len({len(row) for row in array}) != 1)
    )


def _roll(array: Any, name: str) -> Array:
    """The roll of T lists of sounding pitches."""
    roll = np.zeros((len(array), NOTES), bool)
    for step, pitches in enumerate(array):
        for pitch in np.atleast_1d(np.asarray(pitches, dtype=float)):
            if not (pitch == int(pitch) and LOWEST <= pitch < LOWEST + NOTES):
                raise DataError(
                    f"{name}, step {step}: {pitch:g} is not a pitch of a piano, {LOWEST} to {LOWEST + NOTES - 1}"
                )
            roll[step, int(pitch) - LOWEST] = True
    return roll


def _runs(values: Array) -> list[tuple[int, int, int]]:
    """The first step, the step after the last, and the value of each run of equal values above 0."""
    edges = np.flatnonzero(np.diff(values, prepend=0, append=0)).tolist()
    runs = ((first, last, int(values[first])) for first, last in pairwise(edges))
    return [run for run in runs if run[2] > 0]


# ------------------------------------------------------------------------------------------ files


def _mat(path: Path) -> Any:
    io_of = need("scipy.io", "tasks")
    stored = io_of.loadmat(path)
    cells = {k: v for k, v in stored.items() if isinstance(v, np.ndarray) and v.dtype == object}
    return {name: list(cell.reshape(-1)) for name, cell in cells.items()}


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _npy(path: Path) -> Any:
    found = _array(path.read_bytes())
    return list(found) if found.ndim in (1, 3) else [found]


def _npz(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        arrays = {
            entry.removesuffix(".npy"): _array(archive.read(entry)) for entry in archive.namelist()
        }
    known = all(name.lower() in PARTS for name in arrays)
    return {k: list(v) for k, v in arrays.items()} if known else list(arrays.values())


def _array(data: bytes) -> Array:
    """The array of an .npy file. Objects in it may be arrays only, so that nothing in it can run code."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, kind = read(stream)
    if not kind.hasobject:
        stream.seek(0)
        found: Array = np.lib.format.read_array(stream, allow_pickle=False)
        return found
    return np.asarray(_ArraysOnly(stream, encoding="latin1").load(), dtype=object).reshape(shape)


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that makes arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if re.fullmatch(r"numpy(\.core|\._core)?(\.multiarray)?", module):
            if name == "_reconstruct":
                return np.array([]).__reduce__()[0]
            if name in ("ndarray", "dtype"):
                return getattr(np, name)
        raise pickle.UnpicklingError(
            f"its pickled objects name {module}.{name}; only arrays are read"
        )


_READERS = {".mat": _mat, ".json": _json, ".npy": _npy, ".npz": _npz}
ENDINGS = (*_READERS,)
