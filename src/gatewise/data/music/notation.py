"""MusicXML, read and written with music21. Bars are checked against the metre."""

from __future__ import annotations

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
        notes = [
            found for voice, part in enumerate(parts) for found in _notes(part.stripTies(), voice)
        ]
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
    return [
        Note(_ticks(found.offset), _ticks(found.quarterLength), pitch.midi, voice=voice)
        for found in part.flatten().notes
        if found.quarterLength and not found.duration.isGrace
        for pitch in found.pitches
    ]


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


def notation_bytes(tune: Tune) -> bytes:
    """The tune as a MusicXML file, with a part for each voice."""
    music21 = need("music21", "music")
    score = music21.stream.Score()
    for voice in range(tune.voices):
        part = music21.stream.Part(id=f"voice {voice + 1}")
        if tune.meter is not None:
            part.append(music21.meter.TimeSignature("{}/{}".format(*tune.meter)))
        if tune.sharps is not None:
            part.append(music21.key.KeySignature(tune.sharps))
        if voice == 0:
            part.append(music21.tempo.MetronomeMark(number=tune.tempo))
        for note in tune.notes:
            if note.voice == voice:
                element = music21.note.Note(note.pitch)
                element.quarterLength = Fraction(note.length, TICKS)
                part.insert(Fraction(note.start, TICKS), element)
        score.insert(0, part)
    exporter = music21.musicxml.m21ToXml.GeneralObjectExporter(score)
    written: bytes = exporter.parse()
    return written
