"""The JSB chorales as piano rolls, with the split of Boulanger-Lewandowski et al. 2012."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatewise.errors import DataError

LOWEST, KEYS = 21, 88  # a piano's, as MIDI notes
SPLITS = ("train", "valid", "test")
FILE = "jsb-chorales-quarter.json"


@dataclass(frozen=True)
class Chorales:
    """The chorales of each split. A chorale is T×88: 1 for each key that sounds in a quarter note, else 0."""

    train: Sequence[Tensor]
    valid: Sequence[Tensor]
    test: Sequence[Tensor]


def read(path: Path) -> Chorales:
    """Reads the chorales in quarter notes.

    Args:
        path: the JSON file of github.com/czhuang/JSB-Chorales-dataset (for each split a list of
            chorales, each a list of steps, each a list of MIDI notes); or a folder or tar archive with
            this file.

    Raises:
        DataError: the file does not exist or lacks a split, a chorale has fewer than two steps, or a note is
            not one of a piano. The message says which.
    """
    splits = _content(path)
    if not isinstance(splits, dict) or not set(SPLITS) <= set(splits):
        given = list(splits) if isinstance(splits, dict) else type(splits).__name__
        raise DataError(f"{path} has {given}, expected the splits {', '.join(SPLITS)}")
    return Chorales(*([_roll(c, f"{s} {k}") for k, c in enumerate(splits[s])] for s in SPLITS))


def _content(path: Path) -> Any:
    places = [path, path / FILE, path / "jsb_chorales" / FILE]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(
            f"there is no {FILE} at {path}; give the file, or a folder or archive with it"
        )
    if not tarfile.is_tarfile(found):
        return json.loads(found.read_text())
    with tarfile.open(found) as archive:
        member = next((name for name in archive.getnames() if Path(name).name == FILE), None)
        if member is None:
            raise DataError(f"the archive {found} has no {FILE}")
        file = archive.extractfile(member)
        assert file is not None
        return json.load(file)


def _roll(steps: Sequence[Sequence[int]], name: str) -> Tensor:
    if len(steps) < 2:
        raise DataError(f"chorale {name} has {len(steps)} steps, expected at least 2")
    roll = torch.zeros(len(steps), KEYS)
    for t, notes in enumerate(steps):
        for note in notes:
            if not LOWEST <= note < LOWEST + KEYS:
                raise DataError(
                    f"chorale {name} has the note {note} at step {t}, expected {LOWEST} to "
                    f"{LOWEST + KEYS - 1}"
                )
            roll[t, int(note) - LOWEST] = 1
    return roll


def padded(rolls: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of chorales: the steps without the last one and without the first one, both T×B×88 with zeros in the
    padding; and the lengths."""
    lengths = torch.tensor([len(roll) - 1 for roll in rolls])
    x, following = torch.zeros(2, int(lengths.max()), len(rolls), KEYS)
    for k, roll in enumerate(rolls):
        x[: len(roll) - 1, k], following[: len(roll) - 1, k] = roll[:-1], roll[1:]
    return x, following, lengths


def batches(
    rolls: Sequence[Tensor], size: int, order: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of ``size`` chorales in that order, each as :func:`padded` returns it."""
    for first in range(0, len(order), size):
        yield padded([rolls[k] for k in order[first : first + size]])
