"""MusicXML files, written with music21: notes cut at bar lines and tied, rests, and overlapping notes as voices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby, pairwise
from typing import Any

from gatewise.data.music.tune import TICKS, Note, Tune, bar_lines, bar_ticks, meter_of_bar
from gatewise.errors import need

Meter = tuple[int, int]


@dataclass(frozen=True)
class _Chord:
    """Notes of the same start and length."""

    start: int
    end: int
    pitches: tuple[int, ...]


def notation_bytes(tune: Tune) -> bytes:
    """The tune as a MusicXML file, with a part for each voice, and with the bar lines of the tune. Without these it
    has bars of its metre, or of 4/4 if that is not known.

    A bar within the tune that is shorter than the metre ends with a double bar line. A longer one has a time
    signature of its own."""
    music21 = need("music21", "music")
    if not tune.bars:
        tune = replace(tune, meter=tune.meter or (4, 4))
    lines = bar_lines(tune, tune.end)
    score = music21.stream.Score()
    # without these music21 writes its own name as the composer, and "Music21 Fragment" as the title
    score.metadata = music21.metadata.Metadata(title=tune.name, composer="")
    for voice in range(tune.voices):
        lanes = _lanes(note for note in tune.notes if note.voice == voice)
        part = music21.stream.Part()
        player = music21.instrument.Instrument(f"Voice {voice + 1}" if tune.voices > 1 else "")
        # otherwise random, so that a tune would give other bytes each time
        player.partId, player.instrumentId = f"P{voice + 1}", f"P{voice + 1}-I1"
        part.insert(0, player)
        for measure in _measures(tune, lines, lanes):
            part.append(measure)
        first = part.getElementsByClass("Measure").first()
        if tune.sharps is not None:
            first.insert(0, music21.key.KeySignature(tune.sharps))
        if voice == 0:
            first.insert(0, music21.tempo.MetronomeMark(number=tune.tempo))
        score.insert(0, part)
    exporter = music21.musicxml.m21ToXml.GeneralObjectExporter(score)
    written: bytes = exporter.parse()
    return written


def _lanes(notes: Iterable[Note]) -> list[list[_Chord]]:
    """The notes as chords, in as many lanes as it takes for no two chords of a lane to overlap."""
    lanes: list[list[_Chord]] = []
    ordered = sorted(notes, key=_span)
    for (start, end), group in groupby(ordered, _span):
        chord = _Chord(start, end, tuple(note.pitch for note in group))
        free = next((lane for lane in lanes if lane[-1].end <= start), None)
        if free is None:
            lanes.append([chord])
        else:
            free.append(chord)
    return lanes


def _span(note: Note) -> tuple[int, int]:
    return note.start, note.start + note.length


def _measures(tune: Tune, lines: Sequence[int], lanes: list[list[_Chord]]) -> Iterable[Any]:
    """The bars of a part. A pickup has the number 0."""
    music21 = need("music21", "music")
    full = bar_ticks(tune.meter) if tune.meter else 0
    pickup = len(lines) > 2 and lines[1] < full
    last, before = len(lines) - 2, None
    for at, (begin, end) in enumerate(pairwise(lines)):
        measure = music21.stream.Measure(number=at + (0 if pickup else 1))
        meter = _meter_of(tune.meter, end - begin)
        if meter is not None and meter != before:
            measure.insert(0, music21.meter.TimeSignature("{}/{}".format(*meter)))
        before = meter or before
        missing = Fraction(max(full - (end - begin), 0), TICKS)
        if missing and 0 < at < last:
            measure.rightBarline = "double"
        if at == 0 and pickup:
            measure.paddingLeft = missing
            measure.showNumber = music21.stream.enums.ShowNumber.NEVER
        else:
            measure.paddingRight = missing
        _fill(measure, begin, end, lanes)
        yield measure


def _meter_of(meter: Meter | None, length: int) -> Meter | None:
    """The metre that a bar is written in: that of the tune if the bar is not longer."""
    if meter is not None and length <= bar_ticks(meter):
        return meter
    return meter_of_bar(length, meter[1] if meter else 4)


def _fill(measure: Any, begin: int, end: int, lanes: list[list[_Chord]]) -> None:
    """Puts the notes and rests between two times into a measure."""
    music21 = need("music21", "music")
    within = [[c for c in lane if c.start < end and c.end > begin] for lane in lanes]
    sounding = [lane for lane in within if lane] or [[]]
    for lane in sounding:
        into = measure if len(sounding) == 1 else music21.stream.Voice()
        at = begin
        for chord in lane:
            first, last = max(chord.start, begin), min(chord.end, end)
            _rest(into, at, first, begin)
            written = music21.chord.Chord(chord.pitches) if len(chord.pitches) > 1 else None
            written = written or music21.note.Note(chord.pitches[0])
            written.quarterLength = Fraction(last - first, TICKS)
            written.tie = _tie(chord.start < begin, chord.end > end)
            into.insert(Fraction(first - begin, TICKS), written)
            at = last
        _rest(into, at, end, begin)
        if into is not measure:
            measure.insert(0, into)


def _rest(into: Any, first: int, last: int, begin: int) -> None:
    if last > first:
        rest = need("music21", "music").note.Rest(quarterLength=Fraction(last - first, TICKS))
        into.insert(Fraction(first - begin, TICKS), rest)


def _tie(before: bool, after: bool) -> Any:
    """The tie of a note that began in an earlier bar, or goes on in a later one."""
    if not before and not after:
        return None
    kind = "continue" if before and after else "stop" if before else "start"
    return need("music21", "music").tie.Tie(kind)
