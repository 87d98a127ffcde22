"""Parallel texts of the translator: read from tables, from two files or from two lists, and checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from gatewise.arguments import Kind
from gatewise.data.lines import Problems, check_text
from gatewise.data.paths import check_exists, hint_of_text, shown
from gatewise.data.records import is_table
from gatewise.data.sources.text import NO_TEXT, digests, pairs, rows, texts_in, whole_lines
from gatewise.data.spool import SpooledTexts
from gatewise.errors import DataError, OptionError
from gatewise.options import short_repr
from gatewise.tasks.kinds import EXPECTED_PART, is_size, part_size, size_in
from gatewise.train.record import digest

Array = np.ndarray

EMPTY = "pairs with an empty text"
_ENDINGS = ("", ".gz")


@dataclass(frozen=True)
class Parallel:
    """N texts and their translations.

    Attributes:
        source, into: the N texts, and their translations.
        notes: sentences on what was left out.
    """

    source: Sequence[str]
    into: Sequence[str]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.source)

    def chosen(self, indices: Array) -> Parallel:
        """The pairs with these indices."""
        source, into = (
            SpooledTexts(texts[k] for k in indices) for texts in (self.source, self.into)
        )
        return Parallel(source, into, self.notes)

    @property
    def digest(self) -> str:
        """A hash of all pairs."""
        return digest(digests(self.source), digests(self.into))


@dataclass(frozen=True)
class ParallelReader:
    """The reader of parallel texts.

    The data are one of:

    * a table, in a file or in memory, of which ``source`` and ``into`` are columns;
    * the common beginning of the names of two files: with "corpus/train", "de" and "en" these are
      corpus/train.de and corpus/train.en, plain or with .gz behind it;
    * a folder, in which ``source`` and ``into`` are files;
    * in memory two lists of texts, for which ``source`` and ``into`` are not needed.
    """

    source: str | None
    into: str | None
    problems: Problems = field(default_factory=Problems)
    limit: int | None = None  # the number of valid pairs that are read

    def read(self, data: Any) -> Parallel:
        """The pairs in ``data``. Pairs with an empty text are left out and counted.

        Raises:
            DataError: a file is missing, the texts are unequal in number, a text is not valid, or no pair is
                left. The message has the file and the line.
        """
        source, into = SpooledTexts(), SpooledTexts()
        empty, first = 0, 0
        for k, (text, other) in enumerate(self._pairs(data), 1):
            if text.strip() and other.strip():
                source.append(text)
                into.append(other)
                if len(source) == self.limit:
                    break
                continue
            empty, first = empty + 1, first or k
        notes = (f"{empty} left out: {EMPTY} (the first: pair {first})",) if empty else ()
        notes = (*self.problems.notes(), *notes)
        if not source:
            left = f": {'; '.join(notes)}" if notes else ""
            raise DataError(f"{_name(data)} has no pair of texts{left}")
        return Parallel(source, into, notes)

    def read_source(self, data: Any) -> Iterator[str]:
        """The texts to translate in ``data``, which is in the form of :meth:`read`, or a list of texts, or the
        path of a file with a text in each line. Those of a file are read when they are needed."""
        if not isinstance(data, (str, os.PathLike)):
            if hasattr(data, "columns") or hasattr(data, "column_names"):
                return self._column(data)
            return self._texts((each, f"text {k}") for k, each in enumerate(texts_in(data), 1))
        path = Path(data)
        if is_table(path):
            return self._column(path)
        if not os.path.isfile(path):
            if self.source is None:
                check_exists(path, hint=hint_of_text(path))
            path = self._file(path, self._named("source"))
        return whole_lines(path, self.problems)

    def _column(self, data: Any) -> Iterator[str]:
        name = self._named("source")
        found = rows(data, (name,), self.problems)
        return self._texts((value, f"column {name!r}, {place}") for (value,), _, place in found)

    def _texts(self, found: Iterable[tuple[Any, str]]) -> Iterator[str]:
        """The texts of values with their places."""
        return (value for value, place in found if self._is_text(value, place))

    def _is_text(self, value: Any, place: str) -> bool:
        try:
            check_text(value, place)
        except DataError as error:
            self.problems.add(NO_TEXT, str(error))
            return False
        return True

    def _pairs(self, data: Any) -> Iterator[tuple[str, str]]:
        if isinstance(data, (tuple, list)):
            return self._of_lists(data)
        if isinstance(data, (str, os.PathLike)) and not is_table(Path(data)):
            files = self._files(Path(data))
            return pairs(None, *files, self.problems)
        names = self._named("source"), self._named("into")
        return pairs(data, *names, self.problems)

    def _of_lists(self, data: Sequence[Any]) -> Iterator[tuple[str, str]]:
        """The pairs of two lists of texts."""
        for k, (one, other) in enumerate(_two_lists(data), 1):
            if self._is_text(one, f"text {k}") and self._is_text(other, f"translation {k}"):
                yield one, other

    def _files(self, path: Path) -> tuple[Path, Path]:
        """The two files that the path names."""
        return self._file(path, self._named("source")), self._file(path, self._named("into"))

    def _file(self, path: Path, name: str) -> Path:
        inside = path / name
        if os.path.isdir(path):
            if not inside.is_file():
                raise DataError(f"the folder {path} has no file {name}")
            return inside
        tried = [path.with_name(f"{path.name}.{name}{end}") for end in _ENDINGS]
        for each in tried:
            if os.path.isfile(each):
                return each
        what = (
            "is a file, but not a table"
            if os.path.isfile(path)
            else "is neither a file nor a folder"
        )
        raise DataError(
            f"{shown(path)} {what}, and there is no file {shown(tried[0])}: give a table, a folder with the two "
            f"files, or the beginning of their names{hint_of_text(path)}"
        )

    def _named(self, role: str) -> str:
        name = getattr(self, role)
        if name is None:
            raise OptionError(
                f"name the texts to translate with source= (--source) and their translations with into= "
                f"(--into): two columns of a table, or the endings of two files; {role} is missing"
            )
        return str(name)


def _two_lists(data: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """The pairs of the members of two lists."""
    if len(data) != 2 or any(isinstance(each, (str, os.PathLike)) for each in data):
        raise DataError(
            f"expected two lists of texts, the texts and their translations, not {short_repr(data)}"
        )
    source, into = (texts_in(each) for each in data)
    if len(source) != len(into):
        raise DataError(
            f"there are {len(source):,} texts and {len(into):,} translations: each text needs one"
        )
    return zip(source, into, strict=True)


def _name(data: Any) -> str:
    return str(data) if isinstance(data, (str, os.PathLike)) else "the data"


# ------------------------------------------------------------------------------ parts of the data


def _part(name: str, value: Any) -> Any:
    return part_size(name, value) if is_size(value) else value


def _part_of(text: str) -> int | float | Path:
    size = size_in(text)
    return Path(text) if size is None else size  # the beginning of two files' names is no file


ParallelPart = Annotated[Any, Kind(_part, _part_of, EXPECTED_PART, "SIZE|DATA")]
