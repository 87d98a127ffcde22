"""The encoding of a tune as events: time shifts, note-ons and note-offs, velocities and bar lines.

Source: Oore et al. 2018, "This Time with Feeling: Learning Expressive Musical Performance" (time shifts, notes,
velocities). Bar lines and the metre come from notation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np

from gatewise.data.music.places import Clock, Places, meter_name, meters_of
from gatewise.data.music.steps import on_grid
from gatewise.data.music.tune import LOWEST, NOTES, TICKS, VELOCITY, Note, Tune

Array = np.ndarray

_BINS = 8  # of velocities
_WIDTH = 128 // _BINS
_QUARTERS = 4  # the longest shift, in quarter notes
END, BAR = 0, 1


@dataclass(frozen=True)
class Events:
    """Tunes as sequences of symbols. Times are rounded to the grid.

    Attributes:
        grid: steps of a quarter note.
        line: whether every tune has one line, in which a new note ends the note before it.
        velocities: whether velocities are encoded, in 8 ranges.
        meters: the metres that have a symbol, such as "6/8".
    """

    grid: int
    line: bool = False
    velocities: bool = False
    meters: tuple[str, ...] = ()
    columns: int = 1

    @classmethod
    def learn(cls, tunes: Iterable[Tune], grid: int) -> Self:
        """The encoding for the tunes of a training part."""
        tunes = list(tunes)
        velocities = {note.velocity // _WIDTH for tune in tunes for note in tune.notes}
        return cls(grid, all(map(_is_line, tunes)), len(velocities) > 1, meters_of(tunes))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The name of each symbol."""
        shifts = range(1, _QUARTERS * self.grid + 1)
        pitches = range(LOWEST, LOWEST + NOTES)
        return (
            *("end", "bar"),
            *(f"shift:{k}" for k in shifts),
            *(f"on:{pitch}" for pitch in pitches),
            *(f"off:{pitch}" for pitch in pitches),
            *(f"velocity:{k}" for k in range(_BINS if self.velocities else 0)),
            *(f"meter:{meter}" for meter in (*self.meters, "other")),
        )

    @property
    def symbols(self) -> int:
        return len(self.names)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: at for at, name in enumerate(self.names)}

    @property
    def _on(self) -> int:
        return self._index[f"on:{LOWEST}"]

    def encode(self, tune: Tune) -> Array:
        """T×1: the metre, the events in the order of time, and the end."""
        index, found = self._index, [self.meter_symbol(tune.meter)]
        velocity, now = -1, 0
        for time, _, _, event in sorted(self._events(tune)):
            while time > now:
                shift = min(time - now, _QUARTERS * self.grid)
                found.append(index[f"shift:{shift}"])
                now += shift
            if isinstance(event, Note):
                if self.velocities and event.velocity // _WIDTH != velocity:
                    velocity = event.velocity // _WIDTH
                    found.append(index[f"velocity:{velocity}"])
                found.append(self._on + event.pitch - LOWEST)
            else:
                found.append(event)
        return np.array([*found, END], np.int64)[:, None]

    def beginning(self, tune: Tune) -> Array:
        """T×1: the events of a tune that goes on after its end: without the last bar line. In a line the next
        note ends the last one."""
        steps = self.encode(tune)[:-2]
        off = self._on + NOTES
        return steps[:-1] if self.line and off <= steps[-1, 0] < off + NOTES else steps

    def meter_symbol(self, meter: tuple[int, int] | None) -> int:
        """The symbol of a metre."""
        return self._index.get(f"meter:{meter_name(meter)}", self._index["meter:other"])

    @cached_property
    def places(self) -> Places:
        return Places(self.grid, self.meters)

    def places_of(self, tune: Tune, steps: Array) -> Array:
        clock, found = EventClock(self, 1), []
        for symbol in steps:
            found.append(clock.places()[0])
            clock.advance(symbol[None])
        return np.array(found).reshape(len(steps), len(self.places.sizes))

    def clock(self, frame: Tune, steps: int, count: int) -> Clock:
        return EventClock(self, count)

    def _events(self, tune: Tune) -> list[tuple[int, int, int, int | Note]]:
        """Events as (step, rank within the step, rank within the rank, the symbol or note)."""
        placed = on_grid(tune, self.grid)
        starts = {first for first, _, _ in placed}
        found: list[tuple[int, int, int, int | Note]] = []
        for first, last, note in placed:
            found.append((first, 2, len(found), note))
            if not (self.line and last in starts):
                found.append((last, 0, len(found), self._on + NOTES + note.pitch - LOWEST))
        bars = [round(time * self.grid / TICKS) for time in tune.bars[:-1]]
        found += [(time, 1, 0, BAR) for time in bars if time]
        end = round(tune.end * self.grid / TICKS)
        found.append((end, 1, 0, BAR))  # the final bar line, and the time until it
        return found

    def decode(self, steps: Array, name: str) -> Tune:
        step, now, velocity = TICKS // self.grid, 0, VELOCITY
        notes: list[Note] = []
        sounding: dict[int, tuple[int, int]] = {}
        bars, meter = [0], None

        def stop(pitch: int) -> None:
            start, loud = sounding.pop(pitch)
            if now > start:
                notes.append(Note(start, now - start, pitch, loud))

        for symbol in steps[:, 0].tolist():
            kind, _, value = self.names[symbol].partition(":")
            if kind == "end":
                break
            if kind == "bar" and now > bars[-1]:
                bars.append(now)
            elif kind == "shift":
                now += int(value) * step
            elif kind == "velocity":
                velocity = min(127, int(value) * _WIDTH + _WIDTH // 2)
            elif kind == "on":
                for pitch in list(sounding) if self.line else [int(value)]:
                    if pitch in sounding:
                        stop(pitch)
                sounding[int(value)] = (now, velocity)
            elif kind == "off" and int(value) in sounding:
                stop(int(value))
            elif kind == "meter" and value != "other":
                beats, unit = value.split("/")
                meter = (int(beats), int(unit))
        for pitch in list(sounding):
            stop(pitch)
        if now > bars[-1]:
            bars.append(now)
        lines = tuple(bars) if len(bars) > 2 or meter else ()
        return Tune(name, tuple(notes), now, lines, meter)

    def transposed(self, steps: Array, semitones: int) -> Array:
        pitched = (steps >= self._on) & (steps < self._on + 2 * NOTES)
        return np.where(pitched, steps + semitones, steps)

    def pitches(self, steps: Array) -> tuple[int, int]:
        on = steps[(steps >= self._on) & (steps < self._on + NOTES)] - self._on
        return (int(on.min()), int(on.max())) if len(on) else (0, NOTES - 1)


def _is_line(tune: Tune) -> bool:
    """Whether no two notes sound at once."""
    notes = tune.notes
    return all(after.start >= note.start + note.length for note, after in pairwise(notes))


class EventClock:
    """The places of sequences of events: the events themselves tell the metre, the time and the bar lines.

    Args:
        count: B, the number of sequences.
    """

    def __init__(self, encoding: Events, count: int) -> None:
        self.known = encoding.places
        self.meanings = [_meaning(name, encoding.places) for name in encoding.names]
        self.now = [
            (0, 0, 0)
        ] * count  # steps since the bar line, steps of a bar, number of the bar

    def places(self) -> Array:
        found = [self.known.place(*each) for each in self.now]
        return np.array(found, np.int64).reshape(len(found), len(self.known.sizes))

    def advance(self, steps: Array) -> None:
        drawn = (self.meanings[symbol] for symbol in steps[:, 0].tolist())
        self.now = [_after(now, *meaning) for now, meaning in zip(self.now, drawn, strict=True)]

    def keep(self, chosen: Array) -> None:
        self.now = [self.now[k] for k in chosen.tolist()]


def _meaning(name: str, known: Places) -> tuple[str, int]:
    """What an event tells of the time: its kind, and the steps that it shifts or that a bar of its metre has."""
    kind, _, value = name.partition(":")
    if kind == "shift":
        return kind, int(value)
    return kind, known.full(value) if kind == "meter" else 0


def _after(now: tuple[int, int, int], kind: str, steps: int) -> tuple[int, int, int]:
    """What :class:`EventClock` knows of a sequence after an event. A bar line ends a bar that has some time."""
    since, full, bar = now
    if kind == "shift":
        return since + steps, full, bar
    if kind == "bar" and since:
        return 0, full, bar + 1
    return (since, steps, bar) if kind == "meter" else now
