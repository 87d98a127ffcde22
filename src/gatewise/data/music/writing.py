"""Writing of tunes: MIDI and MusicXML files, and text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatewise.atomic import write_atomically
from gatewise.data.music.engraving import notation_bytes
from gatewise.data.music.midi import midi_bytes
from gatewise.data.music.tune import TICKS, Tune
from gatewise.errors import OptionError

_WRITERS = {
    ".mid": midi_bytes,
    ".midi": midi_bytes,
    ".musicxml": notation_bytes,
    ".xml": notation_bytes,
}
_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")


def write_tunes(tunes: Sequence[Tune], path: str | Path) -> list[Path]:
    """Writes tunes and returns the paths: ``path`` for one tune, ``NAME-1.mid``, … for several.

    Args:
        path: a file whose ending says the kind: .mid, .midi, .musicxml or .xml.

    Raises:
        OptionError: the ending is another one.
        ModelFileError: a file cannot be written.
    """
    path = Path(path)
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise OptionError(
            f"{path} must have one of the endings {', '.join(_WRITERS)}, not {path.suffix!r}"
        )
    names = [path.name]
    if len(tunes) > 1:
        names = [f"{path.stem}-{k + 1}{path.suffix}" for k in range(len(tunes))]
    contents = {name: write(tune) for name, tune in zip(names, tunes, strict=True)}
    write_atomically(path.parent, contents)
    return [path.parent / name for name in names]


def in_words(tune: Tune) -> str:
    """The notes of a tune as text: pitch, and length in quarter notes, with bar lines. A note after another that
    begins at the same time is joined to it by ``+``."""
    bars, words, last = [bar for bar in tune.bars if bar], [], -1
    for note in tune.notes:
        while bars and bars[0] <= note.start:
            words.append("|")
            bars.pop(0)
        name = f"{_NAMES[note.pitch % 12]}{note.pitch // 12 - 1}:{note.length / TICKS:g}"
        if note.start == last:
            words[-1] += f"+{name}"
        else:
            words.append(name)
        last = note.start
    return " ".join(words)
