"""What a page of gates shows of a tune: the steps as the network reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gatewise.data.music.events import Events
from gatewise.data.music.steps import Encoding, Roll, Voices
from gatewise.data.music.tune import TICKS
from gatewise.errors import OptionError
from gatewise.gates.page.shown import InputEdit, with_words
from gatewise.gates.page.strips import Strip, roll, words

Array = np.ndarray


def steps_strip(encoding: Encoding, steps: Array) -> Strip:
    """A piano roll, or the names of events, of steps T×K. The network reads each one step later, and before the
    first step nothing: so at each place stands what it read there."""
    if isinstance(encoding, Events):
        names = ["start", *(encoding.names[int(k)] for k in steps[:-1, 0])]
        return words("events that are read", names)
    if not isinstance(encoding, Roll | Voices):
        raise TypeError(f"expected steps or events, not {type(encoding).__name__}")
    tune = encoding.decode(steps, "")
    ticks = TICKS // encoding.grid
    notes = [
        (
            note.start / ticks + 1,
            min(note.length / ticks, len(steps) - 1 - note.start / ticks),
            note.pitch,
            note.voice,
        )
        for note in tune.notes
        if note.start / ticks < len(steps) - 1
    ]
    return roll("steps that are read", notes)


def with_events(encoding: Encoding, steps: Array, edits: Sequence[InputEdit]) -> Array:
    """The steps T×1 of a tune with other events: those of the strip of :func:`steps_strip`.

    Raises:
        OptionError: the steps are not events, an event is not known, or it is the start.
    """
    if not edits:
        return steps
    if not isinstance(encoding, Events):
        raise OptionError("the notes of this input cannot be changed; hold units or gates instead")
    moved = [replace(edit, at=edit.at - 1) for edit in edits]  # an event is read one step later
    index = {name: at for at, name in enumerate(encoding.names)}
    return with_words(steps[:, 0], moved, index)[:, None]
