"""A tune: notes with times, and what is known of its bars, metre, key and tempo."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

Array = np.ndarray

TICKS = 480  # time units of a quarter note; divisible by triplets and sixty-fourths
LOWEST, HIGHEST = 21, 108  # the pitches of a piano, as MIDI numbers
NOTES = HIGHEST - LOWEST + 1
VELOCITY = 80  # of notes whose source has no velocities
_SCALE = frozenset((0, 2, 4, 5, 7, 9, 11))  # the pitch classes without sharps and flats


@dataclass(frozen=True)
class Note:
    """A note; times in :data:`TICKS` per quarter note."""

    start: int
    length: int
    pitch: int
    velocity: int = VELOCITY
    voice: int = 0


@dataclass(frozen=True)
class Tune:
    """A piece of music.

    Attributes:
        name: the file, and the place in it.
        notes: sorted by start; then from the highest pitch down.
        end: the time after the last note or rest.
        bars: the times at which bars begin, and the end of the last. Empty if the source has no bars.
        meter: such as (6, 8); None if not known.
        sharps: sharps of the key signature, negative for flats; None if not known.
        tempo: quarter notes per minute.
    """

    name: str
    notes: tuple[Note, ...]
    end: int
    bars: tuple[int, ...] = ()
    meter: tuple[int, int] | None = None
    sharps: int | None = None
    tempo: float = 120.0

    def __post_init__(self) -> None:
        ordered = sorted(self.notes, key=lambda note: (note.start, -note.pitch, note.voice))
        object.__setattr__(self, "notes", tuple(ordered))

    @property
    def voices(self) -> int:
        """The number of voices; 0 without notes."""
        return 1 + max((note.voice for note in self.notes), default=-1)

    def transposed(self, semitones: int) -> Tune:
        """The tune with every pitch moved. Its key signature is moved too, to at most six sharps or flats."""
        notes = tuple(replace(note, pitch=note.pitch + semitones) for note in self.notes)
        sharps = self.sharps
        if sharps is not None:  # a semitone up is seven fifths up
            sharps = (sharps + 7 * semitones + 5) % 12 - 5
        return replace(self, notes=notes, sharps=sharps)

    def before(self, time: int) -> Tune:
        """The tune up to a time. Notes that begin before it and end after it are shortened."""
        notes = tuple(
            replace(note, length=min(note.length, time - note.start))
            for note in self.notes
            if note.start < time
        )
        bars = tuple(bar for bar in self.bars if bar < time)
        end = min(self.end, time)
        return replace(self, notes=notes, bars=(*bars, end) if bars else (), end=end)


def to_plain_key(sharps: int) -> int:
    """The semitones, from -6 to 5, that bring a key signature to the one without sharps and flats."""
    return (-7 * sharps + 6) % 12 - 6


def bar_ticks(meter: tuple[int, int]) -> int:
    """The length of a bar of this metre."""
    beats, unit = meter
    return 4 * TICKS * beats // unit


def bar_lines(tune: Tune, end: int) -> tuple[int, ...]:
    """The times of a tune's bar lines before ``end``, and ``end``. After the tune its last bar is filled, and bars
    of its metre follow."""
    lines = sorted({0, *tune.bars[:-1]})
    if tune.meter is not None:
        lines += range(lines[-1] + bar_ticks(tune.meter), end, bar_ticks(tune.meter))
    return (*(time for time in lines if time < end), end)


def meter_of_bar(length: int, unit: int = 4) -> tuple[int, int] | None:
    """The metre of a single bar of this length, in beats of 1/``unit`` of a whole note or the longest shorter ones;
    None if it has no such beats."""
    for beat in (unit, 4, 8, 16, 32, 64):
        beats, rest = divmod(length * beat, 4 * TICKS)
        if beat >= unit and beats and not rest:
            return beats, beat
    return None


def in_key(tune: Tune, sharps: int = 0) -> tuple[int, int]:
    """The number of notes whose pitch is in the scale of a key signature, and the number of all notes."""
    home = 7 * sharps
    inside = sum((note.pitch - home) % 12 in _SCALE for note in tune.notes)
    return inside, len(tune.notes)


def full_bars(tune: Tune, meter: tuple[int, int]) -> tuple[int, int]:
    """The number of bars that have the length of the metre, and the number of all bars.

    The first and the last bar do not count, because they may be shorter."""
    lengths = [last - first for first, last in pairwise(tune.bars)][1:-1]
    return sum(length == bar_ticks(meter) for length in lengths), len(lengths)


def shares(tunes: Iterable[Tune]) -> dict[str, float]:
    """The share of notes in the key and of bars that add up, over those tunes whose key and metre are known."""
    notes = [in_key(tune, tune.sharps) for tune in tunes if tune.sharps is not None]
    bars = [full_bars(tune, tune.meter) for tune in tunes if tune.meter is not None]
    return {
        "notes_in_key": _share(notes),
        "bars_that_add_up": _share(bars),
    }


def _share(counts: list[tuple[int, int]]) -> float:
    total = sum(count for _, count in counts)
    return sum(count for count, _ in counts) / total if total else float("nan")
