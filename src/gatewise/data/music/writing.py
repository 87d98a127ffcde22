"""Writing of tunes: MIDI and MusicXML files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gatewise.atomic import write_atomically
from gatewise.data.music.midi import midi_bytes
from gatewise.data.music.notation import notation_bytes
from gatewise.data.music.tune import Tune
from gatewise.errors import OptionError

_WRITERS = {
    ".mid": midi_bytes,
    ".midi": midi_bytes,
    ".musicxml": notation_bytes,
    ".xml": notation_bytes,
}


@dataclass(frozen=True)
class Written:
    """Tunes that a model has written."""

    tunes: tuple[Tune, ...]

    def __len__(self) -> int:
        return len(self.tunes)

    def write(self, path: str | Path) -> list[Path]:
        """Writes the tunes and returns the paths: ``path`` for one tune, ``NAME-1.mid``, … for several.

        Args:
            path: a file whose ending says the kind: .mid, .midi, .musicxml or .xml.

        Raises:
            OptionError: the ending is another one.
            ModelFileError: a file cannot be written.
        """
        path = Path(path)
        check_name(path)
        write = _WRITERS[path.suffix.lower()]
        if len(self.tunes) == 1:
            names = [path.name]
        else:
            names = [f"{path.stem}-{k + 1}{path.suffix}" for k in range(len(self.tunes))]
        contents = {name: write(tune) for name, tune in zip(names, self.tunes, strict=True)}
        write_atomically(path.parent, contents)
        return [path.parent / name for name in names]


def check_name(path: Path) -> None:
    """Raises OptionError unless the ending is that of a kind of file that can be written."""
    if path.suffix.lower() not in _WRITERS:
        raise OptionError(
            f"{path} must have one of the endings {', '.join(_WRITERS)}, not {path.suffix!r}"
        )
