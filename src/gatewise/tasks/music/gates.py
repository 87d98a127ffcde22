"""What a page of gates shows of a tune: the steps as the network reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gatewise.data.music.events import Events
from gatewise.data.music.steps import Encoding, Roll, Voices
from gatewise.data.music.tune import LOWEST, NOTES, TICKS
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
    voices = encoding.columns if isinstance(encoding, Voices) else 1
    return roll("steps that are read", notes, voices=voices)


def with_changes(encoding: Encoding, steps: Array, edits: Sequence[InputEdit]) -> Array:
    """The steps T×K of a tune with other notes or events: those of the strip of :func:`steps_strip`.

    Raises:
        OptionError: an event is not known, or there is no such note, voice or step.
    """
    if not edits:
        return steps
    moved = [replace(edit, at=edit.at - 1) for edit in edits]  # a step is read one step later
    if isinstance(encoding, Events):
        index = {name: at for at, name in enumerate(encoding.names)}
        return with_words(steps[:, 0], moved, index)[:, None]
    assert isinstance(encoding, Roll | Voices)
    for edit in moved:
        _check_note(encoding, len(steps), edit)
        assert isinstance(edit.to, bool)
        assert edit.pitch is not None
        steps = encoding.with_note(steps, edit.at, edit.pitch, edit.line, edit.to)
    return steps


def _check_note(encoding: Roll | Voices, steps: int, edit: InputEdit) -> None:
    if not isinstance(edit.to, bool) or edit.pitch is None:
        raise OptionError("the input is notes: give one in place of a number or a text")
    if not 0 <= edit.at < steps - 1:
        raise OptionError(
            f"no note is read at step {edit.at + 1}: there are notes in the steps 1 to {steps - 1}"
        )
    if not LOWEST <= edit.pitch < LOWEST + NOTES:
        raise OptionError(
            f"no pitch {edit.pitch}: a piano has {LOWEST} to {LOWEST + NOTES - 1}, as in MIDI"
        )
    voices = encoding.columns if isinstance(encoding, Voices) else 1
    if edit.line >= voices:
        raise OptionError(f"no voice {edit.line}: there are {voices}, counted from 0")
