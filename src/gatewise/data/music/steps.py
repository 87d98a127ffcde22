"""Encodings of a tune by steps of a grid: piano rolls, and the symbols of voices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from gatewise.data.music.places import Clock, GridClock, Places
from gatewise.data.music.rolls import tune_of
from gatewise.data.music.tune import LOWEST, NOTES, TICKS, Note, Tune
from gatewise.errors import DataError

Array = np.ndarray


class Encoding(Protocol):
    """Tunes as arrays of integers T×K, and back."""

    @property
    def columns(self) -> int:
        """K, the number of values of a step."""

    @property
    def symbols(self) -> int:
        """The number of symbols that each value may have."""

    @property
    def places(self) -> Places:
        """The places that are told beside the steps."""

    def encode(self, tune: Tune) -> Array:
        """T×K: the steps of a tune. Raises DataError if the tune cannot be encoded."""

    def places_of(self, tune: Tune, steps: Array) -> Array:
        """T×P, or T×0 without a metre: the place of each step of a tune; what is known before the step."""

    def clock(self, frame: Tune, steps: int, count: int) -> Clock:
        """The places of ``count`` sequences of at most ``steps`` steps that are to be drawn. A grid has the bars of
        ``frame``."""

    def decode(self, steps: Array, name: str) -> Tune:
        """The tune of steps T×K."""

    def transposed(self, steps: Array, semitones: int) -> Array:
        """The steps with every pitch moved. A pitch must stay within a piano's range."""

    def pitches(self, steps: Array) -> tuple[int, int]:
        """The lowest and the highest pitch, counted from that of a piano."""


class _OnGrid:
    """The places of steps of a grid."""

    grid: int
    meters: tuple[str, ...]

    @property
    def places(self) -> Places:
        return Places(self.grid, self.meters)

    def places_of(self, tune: Tune, steps: Array) -> Array:
        return self.places.of_tune(tune, len(steps))

    def clock(self, frame: Tune, steps: int, count: int) -> Clock:
        return GridClock(self.places.of_tune(frame, steps), count)


@dataclass(frozen=True)
class Roll(_OnGrid):
    """A piano roll: which of 88 notes sound. It does not tell a held note from a repeated one.

    Attributes:
        grid: steps of a quarter note.
        meters: the metres that are known.
    """

    grid: int
    columns: int = NOTES
    symbols: int = 2
    meters: tuple[str, ...] = ()

    def encode(self, tune: Tune) -> Array:
        roll = np.zeros((count_steps(tune, self.grid), NOTES), np.int64)
        for first, last, note in on_grid(tune, self.grid):
            roll[first:last, note.pitch - LOWEST] = 1
        return roll

    def decode(self, steps: Array, name: str) -> Tune:
        if not steps.any():
            return Tune(name, (), len(steps) * (TICKS // self.grid))
        return tune_of(steps, name, TICKS // self.grid)

    def with_note(self, steps: Array, at: int, pitch: int, voice: int, on: bool) -> Array:
        """The steps, in one of which a pitch sounds or does not. There are no voices."""
        changed = steps.copy()
        changed[at, pitch - LOWEST] = on
        return changed

    def transposed(self, steps: Array, semitones: int) -> Array:
        return np.roll(steps, semitones, axis=1)

    def pitches(self, steps: Array) -> tuple[int, int]:
        found = np.flatnonzero(steps.any(0))
        return (int(found[0]), int(found[-1])) if len(found) else (0, NOTES - 1)


REST, HOLD, FIRST = 0, 1, 2  # the symbols of a voice; pitches begin at FIRST


@dataclass(frozen=True)
class Voices(_OnGrid):
    """The symbol of each voice at each step: a rest, a held note, or the pitch of a new note.

    Attributes:
        grid: steps of a quarter note.
        columns: the number of voices, the highest first.
        meters: the metres that are known.
    """

    grid: int
    columns: int
    symbols: int = FIRST + NOTES
    meters: tuple[str, ...] = ()

    def encode(self, tune: Tune) -> Array:
        if tune.voices != self.columns:
            raise DataError(
                f"{tune.name} has {tune.voices} voices, expected {self.columns} in every tune: leave it out, or "
                f"give notes='nade', which reads chords"
            )
        steps = np.full((count_steps(tune, self.grid), self.columns), REST, np.int64)
        starts: set[tuple[int, int]] = set()
        for first, last, note in on_grid(tune, self.grid):
            if (first, note.voice) in starts:
                raise DataError(
                    f"{tune.name} has two notes at once in voice {note.voice + 1}, at quarter note "
                    f"{note.start / TICKS:g}: give notes='nade', which reads chords"
                )
            starts.add((first, note.voice))
            steps[first, note.voice] = FIRST + note.pitch - LOWEST
            steps[first + 1 : last, note.voice] = HOLD
            # a note ends where the next begins; it must not be held after that
            after = steps[last:, note.voice]
            after[: _leading(after == HOLD)] = REST
        return steps

    def decode(self, steps: Array, name: str) -> Tune:
        step = TICKS // self.grid
        notes = []
        for voice in range(self.columns):
            column = steps[:, voice]
            for first in np.flatnonzero(column >= FIRST):
                length = 1 + _leading(column[first + 1 :] == HOLD)
                pitch = int(column[first]) - FIRST + LOWEST
                notes.append(Note(int(first) * step, length * step, pitch, voice=voice))
        return Tune(name, tuple(notes), len(steps) * step)

    def with_note(self, steps: Array, at: int, pitch: int, voice: int, on: bool) -> Array:
        """The steps, in one of which a voice has a new note of this pitch, or rests if it has this pitch there. What
        sounds in the next step does not change: a note that would be held there begins anew."""
        changed = steps.copy()
        column = changed[:, voice]
        before = np.flatnonzero(column[: at + 1] != HOLD)
        sounding = int(column[before[-1]]) if len(before) else REST
        new = FIRST + pitch - LOWEST
        if on == (sounding == new):
            return changed
        if at + 1 < len(column) and column[at + 1] == HOLD:
            column[at + 1] = sounding
        column[at] = new if on else REST
        return changed

    def transposed(self, steps: Array, semitones: int) -> Array:
        return np.where(steps >= FIRST, steps + semitones, steps)

    def pitches(self, steps: Array) -> tuple[int, int]:
        found = steps[steps >= FIRST]
        return (
            (int(found.min()) - FIRST, int(found.max()) - FIRST) if len(found) else (0, NOTES - 1)
        )


def count_steps(tune: Tune, grid: int) -> int:
    """The number of steps of a tune."""
    return max(1, -(-tune.end * grid // TICKS))


def on_grid(tune: Tune, grid: int) -> list[tuple[int, int, Note]]:
    """For each note the step at which it begins, the step after its last, and the note."""
    found = []
    most = count_steps(tune, grid)
    for note in tune.notes:
        first = min(round(note.start * grid / TICKS), most - 1)
        last = max(first + 1, round((note.start + note.length) * grid / TICKS))
        found.append((first, min(last, most), note))
    return found


def line_of(tune: Tune) -> Tune:
    """The highest notes of a tune: each sounds until the next begins."""
    notes: list[Note] = []
    for note in tune.notes:  # sorted by start, the highest first
        if notes and note.start == notes[-1].start:
            continue
        if notes and note.start < notes[-1].start + notes[-1].length:
            if note.pitch < notes[-1].pitch:
                continue
            notes[-1] = replace(notes[-1], length=note.start - notes[-1].start)
        notes.append(replace(note, voice=0))
    return replace(tune, notes=tuple(notes))


def _leading(held: Array) -> int:
    """The number of True at the beginning of an array."""
    return len(held) if held.all() else int(np.argmin(held))
