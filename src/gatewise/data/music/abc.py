"""Tunes in ABC notation, whose symbols music21 reads. Bars are checked against the metre.

Repeats are not played: every bar comes once, as it is written. Grace notes are left out. Each voice (V:) of a tune
is a voice.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from gatewise.data.music.abc_text import voices_of, written_tunes
from gatewise.data.music.tune import TICKS, Note, Tune
from gatewise.errors import DataError, need

# music21 carries an accidental to the end of its bar only under a version of the standard
_VERSION = "%abc-2.1\n"
_SECTION = re.compile(
    r"[:|\[\]]*[:\[\]][:|\[\]\d]*|\|\|.*|\|\d.*"
)  # a bar line that ends a section


@dataclass
class _Bar:
    """The notes between two bar lines, with times from the bar's start in quarter notes."""

    length: Fraction = Fraction(0)
    notes: list[tuple[Fraction, Fraction, str, str]] = field(default_factory=list)
    opens: bool = False  # a section begins here
    closes: bool = False  # a section ends here


def tunes_of_abc(path: Path) -> list[Callable[[], Tune]]:
    """For each tune of an ABC file a function that reads it, see :func:`tune_of`.

    Raises:
        DataError: the file is not UTF-8, or has no tune.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#x}. Save it as UTF-8"
        ) from error
    return [partial(tune_of, name, written) for name, written in written_tunes(path.name, text)]


def tune_of(name: str, text: str) -> Tune:
    """The tune of an ABC text. ``name`` says in errors which one it is.

    Raises:
        DataError: it is not ABC, it has no notes, a bar does not add up, or the bars of two voices differ. The
            message has the bar, and its given and expected length.
    """
    voices = voices_of(name, text)
    if len(voices) == 1:
        return _with_notes(_voice(name, voices[0][1]))
    return _together(name, [_voice(f"{name}, voice {voice}", own) for voice, own in voices])


def _together(name: str, voices: list[Tune]) -> Tune:
    """The tune of voices that sound at once."""
    longest = max(voices, key=lambda voice: len(voice.bars))
    for voice in voices:
        inner = voice.bars[:-1]  # the last bar of a voice may be shorter
        if inner != longest.bars[: len(inner)]:
            raise DataError(
                f"{voice.name} has its bar lines at other times than {longest.name}; expected voices with the same "
                f"bars"
            )
    sounding = [voice for voice in voices if voice.notes]
    notes = [replace(note, voice=k) for k, voice in enumerate(sounding) for note in voice.notes]
    end = max(voice.end for voice in voices)
    return _with_notes(replace(longest, name=name, notes=tuple(notes), end=end))


def _with_notes(tune: Tune) -> Tune:
    if not tune.notes:
        raise DataError(f"{tune.name} has no notes")
    return tune


def _voice(name: str, text: str) -> Tune:
    """The tune of a voice; it may have no notes."""
    music21 = need("music21", "music")
    handler = music21.abcFormat.ABCHandler()
    try:
        handler.process(_VERSION + text)
        reader = _Reader(name)
        for token in handler.tokens:
            reader.take(token)
    except DataError:
        raise
    except Exception as error:  # music21 raises errors of many kinds for damaged text
        raise DataError(
            f"{name}: music21 cannot read it: {error or type(error).__name__}"
        ) from error
    return reader.tune()


class _Reader:
    """Collects the bars, the metre, the key and the tempo of one tune from music21's tokens."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bars = [_Bar(opens=True)]
        self.meters: list[tuple[int, int] | None] = []
        self.sharps: set[int] = set()
        self.tempo = 120.0

    def take(self, token: Any) -> None:
        kind = type(token).__name__
        if kind == "ABCMetadata":
            self._field(token)
        elif kind == "ABCBar":
            self._line(token.src)
        elif kind == "ABCChord" and not token.inGrace:
            length = _length(token)
            for note in token.subTokens:
                if getattr(note, "pitchName", None):
                    self._note(note, length, token.tie or note.tie)
            self.bars[-1].length += length
        elif kind == "ABCNote" and not token.inGrace:
            length = _length(token)
            if not token.isRest:
                self._note(token, length, token.tie)
            self.bars[-1].length += length

    def _field(self, token: Any) -> None:
        if token.isMeter():
            found = token.getTimeSignatureParameters()
            self.meters.append(None if found is None else (int(found[0]), int(found[1])))
        elif token.isKey():
            self.sharps.add(token.getKeySignatureParameters()[0])
        elif token.isTempo() and (mark := token.getMetronomeMarkObject()) is not None:
            self.tempo = float(mark.getQuarterBPM() or self.tempo)

    def _line(self, source: str) -> None:
        section = bool(_SECTION.fullmatch(source.strip()))
        if self.bars[-1].length:
            self.bars[-1].closes = section
            self.bars.append(_Bar(opens=section))
        else:  # two bar lines together, such as :| |:
            self.bars[-1].opens |= section
            if len(self.bars) > 1:
                self.bars[-2].closes |= section

    def _note(self, token: Any, length: Fraction, tie: str | None) -> None:
        bar = self.bars[-1]
        bar.notes.append((bar.length, length, token.pitchName, tie or ""))

    def tune(self) -> Tune:
        bars = [bar for bar in self.bars if bar.length]
        if bars:
            bars[-1].closes = True
        meter = self.meters[0] if self.meters else None
        if meter is not None and len(set(self.meters)) == 1:
            bars = _checked(self.name, _joined(bars, _full(meter)), meter)
        else:  # free, or changing: its bars have no expected length
            meter = None
        notes, end, lines = _timed(bars)
        sharps = self.sharps.copy().pop() if len(self.sharps) == 1 else None
        return Tune(self.name, tuple(notes), end, tuple(lines), meter, sharps, self.tempo)


def _length(token: Any) -> Fraction:
    """The length of a note, chord or rest in quarter notes."""
    music21 = need("music21", "music")
    length = Fraction(music21.common.opFrac(token.quarterLength)).limit_denominator(960)
    if token.activeTuplet is not None:
        length *= Fraction(token.activeTuplet.tupletMultiplier())
    return length


def _full(meter: tuple[int, int]) -> Fraction:
    return Fraction(4 * meter[0], meter[1])


def _joined(bars: list[_Bar], full: Fraction) -> list[_Bar]:
    """The bars, with a bar that a repeat or double bar line divides into two joined again."""
    found: list[_Bar] = []
    for bar in bars:
        last = found[-1] if found else None
        if (
            last is not None
            and last.closes
            and bar.opens
            and last.length < full
            and last.length + bar.length == full
        ):
            moved = [(start + last.length, *others) for start, *others in bar.notes]
            found[-1] = _Bar(full, [*last.notes, *moved], last.opens, bar.closes)  # type: ignore[list-item]
        else:
            found.append(bar)
    return found


def _checked(name: str, bars: list[_Bar], meter: tuple[int, int]) -> list[_Bar]:
    full = _full(meter)
    pickup = bool(bars) and bars[0].length < full  # it has no number
    for number, bar in enumerate(bars, 0 if pickup else 1):
        partial = bar.length < full and (bar.opens or bar.closes)
        if bar.length != full and not partial:
            beats = float(bar.length * meter[1] / 4)
            raise DataError(
                f"{name}, bar {number}: its notes add up to {beats:.4g}/{meter[1]}, expected "
                f"{meter[0]}/{meter[1]}"
            )
    return bars


def _timed(bars: list[_Bar]) -> tuple[list[Note], int, list[int]]:
    """The notes in ticks with ties joined, the end, and the times of the bar lines."""
    music21 = need("music21", "music")
    notes: list[Note] = []
    tied: dict[
        str, int
    ] = {}  # the index of the note that a tie has left open, by letter and octave
    begin, lines = Fraction(0), [0]
    for bar in bars:
        for start, length, name, tie in bar.notes:
            ticks = round((begin + start) * TICKS), round(length * TICKS)
            letter = name[0] + name[-1]
            at = tied.pop(letter, len(notes)) if tie in ("stop", "continue") else len(notes)
            if at < len(notes) and notes[at].start + notes[at].length == ticks[0]:
                notes[at] = replace(notes[at], length=notes[at].length + ticks[1])
            else:
                at = len(notes)
                notes.append(Note(*ticks, music21.pitch.Pitch(_spelled(name)).midi))
            if tie in ("start", "continue"):
                tied[letter] = at
        begin += bar.length
        lines.append(round(begin * TICKS))
    return notes, lines[-1], lines


def _spelled(name: str) -> str:
    """A pitch name of ABC tokens in music21's spelling: n marks a natural there."""
    return name.replace("n", "")
