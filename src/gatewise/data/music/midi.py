"""MIDI files, read and written with symusic."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from gatewise.data.music.tune import TICKS, Note, Tune, bar_ticks, meter_of_bar
from gatewise.errors import DataError, need

Meter = tuple[int, int]

_DEFAULT: Meter = (4, 4)  # of the MIDI standard
_SMPTE = 0x8000  # the bit of the time division that says "frames of a second"


def read_midi(path: Path) -> Tune:
    """The tune in a MIDI file; each track with notes is a voice. Drums are left out. Before the first time signature,
    and without any, the metre is 4/4, as the MIDI standard says.

    Raises:
        DataError: the file is not MIDI, is truncated, has no notes, is of type 2, or has SMPTE time.
    """
    score = _score(path)
    tracks = [track for track in score.tracks if len(track.notes) and not track.is_drum]
    if not tracks:
        drums = any(len(track.notes) for track in score.tracks)
        raise DataError(f"{path} has no notes{' but those of drums' if drums else ''}")
    scale = TICKS / score.tpq
    notes = [
        Note(
            start := round(note.start * scale),
            max(1, round(note.end * scale) - start),
            note.pitch,
            note.velocity,
            voice,
        )
        for voice, track in enumerate(sorted(tracks, key=_mean_pitch, reverse=True))
        for note in track.notes
    ]
    end = max(note.start + note.length for note in notes)
    bars, meter = _bars(path, score, scale, end)
    keys = {signature.key for signature in score.key_signatures}
    tempo = score.tempos[0].qpm if len(score.tempos) else 120.0
    sharps = keys.pop() if len(keys) == 1 else None
    return Tune(str(path), tuple(notes), end, bars, meter, sharps, tempo)


def _score(path: Path) -> Any:
    """symusic's score in ticks."""
    symusic = need("symusic", "music")
    data = path.read_bytes()
    if data[:4] != b"MThd" or len(data) < 14:
        raise DataError(f"{path} is not a MIDI file: it does not begin with a MIDI header")
    kind, _, division = struct.unpack(">HHH", data[8:14])
    if kind == 2:
        raise DataError(
            f"{path} is of type 2, whose tracks are not played together: save it as type 0 or 1"
        )
    if division & _SMPTE:
        raise DataError(
            f"{path} counts time in SMPTE frames, not in parts of a quarter note: save it with ticks per "
            f"quarter note"
        )
    if division == 0:
        raise DataError(f"{path} is damaged: its header says 0 ticks per quarter note")
    try:
        return symusic.Score.from_midi(data)
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"{path} is damaged or truncated: {str(error).splitlines()[0]}. Copy the file again"
        ) from error


def _mean_pitch(track: Any) -> float:
    return sum(note.pitch for note in track.notes) / len(track.notes)


def _bars(path: Path, score: Any, scale: float, end: int) -> tuple[tuple[int, ...], Meter | None]:
    """The times of the bar lines up to ``end``, and the metre, if it is the same throughout."""
    signatures = [
        (round(each.time * scale), (each.numerator, each.denominator))
        for each in score.time_signatures
    ]
    for _, (beats, unit) in signatures:
        if not (beats > 0 and 0 < unit <= 64):
            raise DataError(
                f"{path} has the time signature {beats}/{unit}, expected beats of 1/1 to 1/64 of a whole: remove it"
            )
    if not signatures or signatures[0][0] != 0:
        signatures.insert(0, (0, _DEFAULT))
    times: list[int] = []
    of_bars: list[Meter] = []
    until = [start for start, _ in signatures[1:]] + [end]
    for (start, meter), last in zip(signatures, until, strict=True):
        found = range(start, last, bar_ticks(meter))
        times += found
        of_bars += [meter] * len(found)
    return tuple(sorted({*times, end})), _common(of_bars)


def _common(meters: list[Meter]) -> Meter | None:
    """The metre of a tune with bars of these metres: their only one. A shorter first bar (a pickup) does not count,
    nor do shorter bars that are at most an eighth of all (ends of sections)."""
    inner = meters[1:] or meters
    meter, count = Counter(inner).most_common(1)[0]
    shorter = all(bar_ticks(other) <= bar_ticks(meter) for other in meters)
    return meter if shorter and 8 * count >= 7 * len(inner) else None


def midi_bytes(tune: Tune) -> bytes:
    """The tune as a MIDI file of type 1, with a track for each voice."""
    symusic = need("symusic", "music")
    score = symusic.Score(TICKS)
    score.tempos.append(symusic.Tempo(0, tune.tempo))
    for time, meter in _signatures(tune):
        score.time_signatures.append(symusic.TimeSignature(time, *meter))
    if tune.sharps is not None:
        score.key_signatures.append(symusic.KeySignature(0, tune.sharps, 0))
    for voice in range(tune.voices):
        track = symusic.Track(name=f"voice {voice + 1}")
        for note in _of_voice(tune.notes, voice):
            track.notes.append(symusic.Note(note.start, note.length, note.pitch, note.velocity))
        score.tracks.append(track)
    written: bytes = score.dumps_midi()
    return written


def _signatures(tune: Tune) -> Iterable[tuple[int, Meter]]:
    """The times and metres of time signatures that put the bar lines of a tune where they are: one for each bar with
    another length than the bar before. The last bar may be shorter than its metre."""
    if not tune.bars:
        return [(0, tune.meter)] if tune.meter else []
    last = len(tune.bars) - 2
    found: list[tuple[int, Meter]] = []
    for at, (begin, end) in enumerate(pairwise(tune.bars)):
        shortened = tune.meter is not None and end - begin <= bar_ticks(tune.meter) and at == last
        unit = tune.meter[1] if tune.meter else 4
        meter = tune.meter if shortened and at else meter_of_bar(end - begin, unit)
        if meter is not None and (not found or found[-1][1] != meter):
            found.append((begin, meter))
    return found


def _of_voice(notes: Iterable[Note], voice: int) -> Iterable[Note]:
    return (note for note in notes if note.voice == voice)
