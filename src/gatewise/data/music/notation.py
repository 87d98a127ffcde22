"""MusicXML files, read with music21. Bars are checked against the metre."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from gatewise.data.music.tune import TICKS, Note, Tune
from gatewise.errors import DataError, need

Line = list[tuple[Fraction, Fraction]]  # the start and the length of each bar


def read_notation(path: Path) -> Tune:
    """The tune in a MusicXML file; each part is a voice, and repeats are not played.

    Raises:
        DataError: music21 cannot read the file, it has no notes, or a bar does not add up.
    """
    music21 = need("music21", "music")
    try:
        score = music21.converter.parse(path, forceSource=True)
        parts = list(score.parts) or [score]
        notes = [note for voice, part in enumerate(parts) for note in _notes(part, voice)]
    except Exception as error:  # music21 raises errors of many kinds for damaged files
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(f"{path}: music21 cannot read it: {reason}") from error
    if not notes:
        raise DataError(f"{path} has no notes")
    names = [f"{path}, part {k}" if len(parts) > 1 else str(path) for k in range(1, len(parts) + 1)]
    bars_of = [_bars(name, part) for name, part in zip(names, parts, strict=True)]
    bars, meter = bars_of[0]
    keys = {found.sharps for found in parts[0].recurse().getElementsByClass("KeySignature")}
    marks = [
        mark.getQuarterBPM() for mark in parts[0].recurse().getElementsByClass("MetronomeMark")
    ]
    end = max([*bars, *(note.start + note.length for note in notes)])
    tempo = float(next((mark for mark in marks if mark), 120.0))
    sharps = keys.pop() if len(keys) == 1 else None
    return Tune(str(path), tuple(notes), end, bars, meter, sharps, tempo)


def _notes(part: Any, voice: int) -> list[Note]:
    """The notes of a part with ties joined. A tie goes to the next note of its pitch, in any voice of the part.

    music21's stripTies joins notes of different pitches where only some bars have voices: see
    findings/music21-ties-of-voices.sh."""
    found: list[Note] = []
    tied: dict[int, int] = {}  # the index of the note that a tie has left open, by pitch
    for element in part.flatten().notes:
        if not element.quarterLength or element.duration.isGrace:
            continue
        start, length = _ticks(element.offset), _ticks(element.quarterLength)
        for note in getattr(element, "notes", (element,)):
            if not hasattr(note, "pitch"):  # of percussion
                continue
            pitch, tie = note.pitch.midi, note.tie or element.tie
            at = tied.pop(pitch, -1)
            if at >= 0 and found[at].start + found[at].length == start:
                found[at] = replace(found[at], length=found[at].length + length)
            else:
                at = len(found)
                found.append(Note(start, length, pitch, voice=voice))
            if tie is not None and tie.type in ("start", "continue"):
                tied[pitch] = at
    return found


def _ticks(quarters: Any) -> int:
    return round(Fraction(quarters) * TICKS)


def _bars(name: str, part: Any) -> tuple[tuple[int, ...], tuple[int, int] | None]:
    """The times of a part's bar lines, and the metre, if it is the same throughout."""
    measures = list(part.getElementsByClass("Measure"))
    lines, meters = [], set()
    for at, measure in enumerate(measures):
        signature = measure.timeSignature or measure.getContextByClass("TimeSignature")
        length, full = Fraction(measure.highestTime), None
        if signature is not None:
            meters.add((signature.numerator, signature.denominator))
            full = Fraction(signature.barDuration.quarterLength)
        partial = at in (0, len(measures) - 1) or _at_section(measures, at)
        if full is not None and length != full and not (length < full and partial):
            beats = float(length * signature.denominator / 4)
            raise DataError(
                f"{name}, bar {measure.number}: its notes add up to {beats:.4g}/{signature.denominator}, "
                f"expected {signature.ratioString}"
            )
        lines.append(_ticks(measure.offset))
    if measures:
        lines.append(_ticks(measures[-1].offset + measures[-1].highestTime))
    return tuple(lines), meters.pop() if len(meters) == 1 else None


def _at_section(measures: list[Any], at: int) -> bool:
    """Whether a repeat or another special bar line stands before or after a measure."""
    around = (
        measures[at].leftBarline,
        measures[at].rightBarline,
        measures[at - 1].rightBarline,
        measures[at + 1].leftBarline,
    )
    return any(line is not None and line.type != "regular" for line in around)
