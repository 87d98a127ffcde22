"""Tunes as the network reads them: in the common key by choice, and as steps or events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gatewise.data.lines import Problems
from gatewise.data.music.steps import Encoding
from gatewise.data.music.tune import HIGHEST, LOWEST, Tune, to_plain_key
from gatewise.errors import DataError, caution
from gatewise.report.words import with_unit

Array = np.ndarray

NOT_ENCODED = "tunes that cannot be encoded"


class EncodedTune(NamedTuple):
    steps: Array  # T×K
    places: Array  # T×P, where each step stands in its bar


@dataclass(frozen=True)
class Encoded:
    """Encoded tunes.

    Attributes:
        kept: the indices of the tunes that were encoded.
        tunes: these tunes, encoded.
    """

    kept: list[int]
    tunes: list[EncodedTune]


def encode_tunes(tunes: Sequence[Tune], encoding: Encoding, problems: Problems) -> Encoded:
    """The tunes, encoded.

    Args:
        problems: what is done with a tune that cannot be encoded.

    Raises:
        DataError: a tune cannot be encoded, or none of them.
    """
    kept, found = [], []
    for at, tune in enumerate(tunes):
        try:
            steps = encoding.encode(tune)
        except DataError as error:
            problems.add(NOT_ENCODED, str(error))
        else:
            kept.append(at)
            found.append(EncodedTune(steps, encoding.places_of(tune, steps)))
    if NOT_ENCODED in problems.counts:
        first = problems.first[NOT_ENCODED]
        if not kept:
            raise DataError(f"no tune can be encoded; the first reason: {first}")
        left = problems.counts[NOT_ENCODED]
        caution(f"{left} left out: {NOT_ENCODED} (the first: {first})")
    return Encoded(kept, found)


def in_plain_key(tunes: Sequence[Tune]) -> list[Tune]:
    """The tunes, those with a key signature transposed to the one without sharps and flats. Notes that leave a
    piano's range are left out and counted."""
    found, dropped = [], 0
    for tune in tunes:
        if tune.sharps is None:
            found.append(tune)
            continue
        moved = tune.transposed(to_plain_key(tune.sharps))
        notes = tuple(note for note in moved.notes if LOWEST <= note.pitch <= HIGHEST)
        dropped += len(moved.notes) - len(notes)
        found.append(replace(moved, notes=notes))
    if dropped:
        caution(
            f"{with_unit(dropped, 'note')} left a piano's range, {LOWEST} to {HIGHEST}, in the key without sharps "
            f"and flats, and were left out"
        )
    return found
