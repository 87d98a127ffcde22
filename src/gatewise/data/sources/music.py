"""Tunes from files of many kinds: MIDI, MusicXML, ABC, and arrays of pitches; from a folder, or in memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from gatewise.data.lines import OnError, Problems
from gatewise.data.music import rolls
from gatewise.data.music.abc import tunes_of_abc
from gatewise.data.music.midi import read_midi
from gatewise.data.music.notation import read_notation
from gatewise.data.music.tune import HIGHEST, LOWEST, TICKS, Tune
from gatewise.data.paths import check_exists
from gatewise.errors import DataError, caution, some
from gatewise.options import short_repr

Reading = tuple[
    str, Callable[[], Tune]
]  # the part of the data set, and the function that reads a tune


NOT_VALID = "tunes that are not valid"


@dataclass(frozen=True)
class Tunes:
    """The tunes that were read.

    Attributes:
        tunes: the tunes in order.
        parts: for each tune "train", "valid" or "test" if its file has these parts, else "".
        problems: what was left out.
    """

    tunes: list[Tune]
    parts: list[str]
    problems: Problems = field(default_factory=Problems)

    def first(self, limit: int) -> Tunes:
        """The first so many tunes of each part."""
        seen: Counter[str] = Counter()
        kept = []
        for k, part in enumerate(self.parts):
            seen[part] += 1
            if seen[part] <= limit:
                kept.append(k)
        tunes, parts = ([each[k] for k in kept] for each in (self.tunes, self.parts))
        return Tunes(tunes, parts, self.problems)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Music:
    """The reader of tunes.

    Attributes:
        grid: steps of a quarter note, which say how long a row of an array is.
        on_error: "stop" to raise an error for a tune that is not valid, "skip" to leave it out and count it.
        limit: the number of valid tunes to read of each part; None for all.
        chosen_here: whether the caller has an option ``on_error``, which messages may name.
    """

    grid: int = 4
    on_error: OnError = "stop"
    limit: int | None = None
    chosen_here: bool = True
    kind: ClassVar[str] = "music"

    def read(self, data: Any) -> Tunes:
        """The tunes in a file, a folder, or a list of these, of arrays or of tunes; or in a mapping of parts.

        Raises:
            DataError: a file or a tune is not valid, or there is no tune. The message has the file, the tune
                and the place in it.
        """
        tunes: list[Tune] = []
        parts: list[str] = []
        problems = Problems(self.on_error, chosen_here=self.chosen_here)
        dropped = 0
        for part, make in self._guarded(self._readings(data), problems):
            if self.limit is not None and parts.count(part) >= self.limit:
                continue
            try:
                tune = make()
                kept = [note for note in tune.notes if LOWEST <= note.pitch <= HIGHEST]
                dropped += len(tune.notes) - len(kept)
                if not kept:
                    raise DataError(f"{tune.name} has no notes within a piano's range")
            except DataError as error:
                problems.add(NOT_VALID, str(error))
                continue
            tunes.append(replace(tune, notes=tuple(kept)))
            parts.append(part)
        self._report(tunes, problems, dropped)
        _check_parts(tunes, parts)
        return Tunes(tunes, parts, problems)

    def _guarded(
        self, readings: Iterable[Callable[[], Iterable[Reading]]], problems: Problems
    ) -> Iterator[Reading]:
        """The tunes of all files; a file that cannot be opened is an error or is skipped."""
        for opened in readings:
            try:
                found = list(opened())
            except DataError as error:
                problems.add("files that cannot be read", str(error))
                continue
            yield from found

    def _report(self, tunes: list[Tune], problems: Problems, dropped: int) -> None:
        if not tunes:
            left = "; ".join(problems.notes())
            raise DataError(f"there is no tune in the data{f': {left}' if left else ''}")
        for note in problems.notes():
            caution(note)
        if dropped:
            caution(
                f"{dropped} notes outside of a piano's range, {LOWEST} to {HIGHEST}, were left out"
            )

    # -------------------------------------------------------------------------------------- data

    def _readings(self, data: Any) -> Iterator[Callable[[], Iterable[Reading]]]:
        if isinstance(data, (str, os.PathLike)):
            yield from (partial(self._file, path) for path in files_in(Path(data)))
        elif isinstance(data, Tune):
            yield lambda: [("", lambda: data)]
        elif isinstance(data, Mapping):
            yield lambda: self._arrays(rolls.parts_of(data, "the data"), "")
        elif not isinstance(data, Iterable):
            raise DataError(
                f"{short_repr(data)} is not music: give a file, a folder, or a list of files, tunes or arrays"
            )
        else:
            for at, each in enumerate(data):
                if isinstance(each, (str, os.PathLike, Tune)):
                    yield from self._readings(each)
                else:
                    yield partial(self._arrays, {"": [each]}, "", at)

    def _file(self, path: Path) -> Iterable[Reading]:
        kind = path.suffix.lower()
        if kind in _ONE:
            return [("", partial(_ONE[kind], path))]
        if kind == ".abc":
            return [("", make) for make in tunes_of_abc(path)]
        return self._arrays(rolls.rolls_in(path), f"{path}, ")

    def _arrays(self, parts: rolls.Parts, place: str, first: int = 0) -> list[Reading]:
        step = TICKS // self.grid
        return [
            (part, partial(rolls.tune_of, array, f"{place}{part and part + ' '}tune {at}", step))
            for part, arrays in parts.items()
            for at, array in enumerate(arrays, first)
        ]


def _check_parts(tunes: list[Tune], parts: list[str]) -> None:
    """Raises DataError if only some of the tunes are of the parts train, valid and test."""
    if any(parts) and not all(parts):
        own, other = (
            tunes[parts.index("")].name,
            next(t for t, p in zip(tunes, parts, strict=True) if p),
        )
        raise DataError(
            f"{own} is of no part of the data, but {other.name} comes from a file with the parts train, valid and "
            f"test: give such a file alone"
        )


_ONE = {
    ".mid": read_midi,
    ".midi": read_midi,
    ".musicxml": read_notation,
    ".mxl": read_notation,
    ".xml": read_notation,
}
ENDINGS = (*_ONE, ".abc", *rolls.ENDINGS)


def files_in(path: Path) -> list[Path]:
    """The path itself, or the music files in a folder and its folders, sorted.

    Raises:
        DataError: there is no such file, it has an unknown ending, or the folder has no music files.
    """
    check_exists(path, "file or folder")
    if not path.is_dir():
        if path.suffix.lower() not in ENDINGS:
            raise DataError(
                f"{path} has an unknown file type {path.suffix!r}: give a file of type {', '.join(ENDINGS)}, or "
                f"a folder of these"
            )
        return [path]
    files = sorted(each for each in path.rglob("*") if each.is_file())
    found = [each for each in files if each.suffix.lower() in ENDINGS]
    if not found:
        kinds = sorted({each.suffix for each in files})
        raise DataError(
            f"{path} has no music files ({', '.join(ENDINGS)}); its {len(files)} files are of type "
            f"{some(map(repr, kinds), 6) or 'none'}"
        )
    if len(found) < len(files):
        caution(f"{len(files) - len(found)} of {len(files)} files in {path} are not music files")
    return found
