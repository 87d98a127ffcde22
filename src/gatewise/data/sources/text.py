"""Texts: in a table with their labels, in plain files, or in pairs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from gatewise.data.lines import OnError, Problems, check_text, lines
from gatewise.data.records import is_table, rows
from gatewise.data.spool import SpooledTexts
from gatewise.errors import DataError, OptionError
from gatewise.options import short_repr

T = TypeVar("T")
Array = np.ndarray

TOGETHER = 4096  # texts that are read, and predicted, at once
_CHARACTERS = 1 << 22  # of these, but for the last

LABEL_MISSING = "rows without a label"
NO_TEXT = "rows without a text"
NOT_A_CLASS = "rows whose label is not a text or an integer"


@dataclass(frozen=True)
class Texts:
    """N texts and their labels.

    Attributes:
        texts: the N texts.
        labels: N labels, texts or integers or booleans; None if they were not read.
        places: N, the number of each text's row in the data, from 1 on; of JSON lines that of its line.
        problems: what was left out.
    """

    texts: Sequence[str]
    labels: Array | None
    places: Array
    problems: Problems = field(default_factory=Problems)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def known_labels(self) -> Array:
        """``labels``, which must have been read."""
        assert self.labels is not None
        return self.labels

    def followed_by(self, other: Texts) -> Texts:
        """These texts, then those of ``other``, whose labels are made texts where these labels are."""
        own, theirs = self.known_labels, other.known_labels
        if own.dtype.kind == "U":
            theirs = theirs.astype(str)
        labels = np.concatenate([own, theirs])
        places = np.concatenate([self.places, other.places])
        problems = Problems(self.problems.on_error, self.problems.counts + other.problems.counts)
        problems.first = {**other.problems.first, **self.problems.first}
        return Texts(SpooledTexts(chain(self.texts, other.texts)), labels, places, problems)


@dataclass(frozen=True)
class TextTable:
    """The reader of texts and labels: the columns of a table, or in memory a list of texts.

    Args:
        text: the column of texts. Without it the data must be a list or an array of texts.
        label: the column of classes.
        on_error: what is done with a row that is not valid: "stop" or "skip".
        limit: read only the first so many rows that are valid.
        chosen_here: whether the caller has an option ``on_error``, which messages may name.
    """

    text: str | None = None
    label: str | None = None
    on_error: OnError = "stop"
    limit: int | None = None
    chosen_here: bool = True

    kind: ClassVar[str] = "text"

    def read(self, data: Any, learned: bool = True) -> Texts:
        """The texts in ``data``: a list of texts, a file (CSV, TSV, JSON lines, Parquet) or a table in memory.

        Args:
            learned: whether to read the labels too.

        Raises:
            DataError: the data is not valid. The message names the file, the row and the column.
        """
        problems = self._problems()
        texts, labels, places = SpooledTexts(), [], []
        with_labels = learned and self.label is not None
        for text, label, k in self._valid_members(data, with_labels, problems):
            texts.append(text)
            labels.append(label)
            places.append(k)
        found = self._labels(labels) if with_labels else None
        return Texts(texts, found, np.array(places, dtype=np.int64), problems)

    def pieces(self, data: Any) -> Iterator[Texts]:
        """The texts in ``data`` without labels, some at a time. Those of a file are read when they are needed. The
        ``problems`` of all pieces are the same, and complete after the last.

        Raises:
            DataError: as :meth:`read`.
        """
        problems = self._problems()
        members = self._valid_members(data, False, problems)
        for some in pieces_of(members, lambda member: len(member[0])):
            places = np.array([k for _, _, k in some], dtype=np.int64)
            yield Texts([text for text, _, _ in some], None, places, problems)

    def first(self, data: Any) -> str:
        """The first text in ``data`` that is valid; an empty one where none is."""
        problems = Problems("skip")
        for text, label, _, place in self._members(data, False, problems):
            if self._valid(text, label, place, False, problems):
                return str(text)
        return ""

    def _problems(self) -> Problems:
        return Problems(self.on_error, chosen_here=self.chosen_here)

    def _valid_members(
        self, data: Any, with_labels: bool, problems: Problems
    ) -> Iterator[tuple[str, Any, int]]:
        """Each valid text with its label and its number, up to the limit.

        Raises:
            DataError: there is none.
        """
        read = 0
        for text, label, k, place in self._members(data, with_labels, problems):
            if self._valid(text, label, place, with_labels, problems):
                yield text, label, k
                read += 1
            if read == self.limit:
                return
        if not read:
            left = "; ".join(problems.notes())
            raise DataError(f"{_name(data)} has no text{f': {left}' if left else ''}")

    def _members(
        self, data: Any, with_labels: bool, problems: Problems
    ) -> Iterator[tuple[Any, Any, int, str]]:
        """Each text with its label, its number and its place."""
        if self.text is None:
            for k, text in enumerate(texts_in(data), 1):
                yield text, None, k, f"text {k}"
            return
        if with_labels and self.label == self.text:
            raise OptionError(
                f"the column {self.text!r} is given as text and as label: give it one role"
            )
        columns = [self.text, *([self.label] if with_labels and self.label is not None else [])]
        for values, number, place in rows(data, columns, problems):
            yield values[0], values[-1], number, place

    def _valid(
        self, text: Any, label: Any, place: str, with_labels: bool, problems: Problems
    ) -> bool:
        where = place if self.text is None else f"column {self.text!r}, {place}"
        try:
            check_text(text, where)
        except DataError as error:
            problems.add(NO_TEXT, str(error))
            return False
        if with_labels and (label is None or label == "" or label != label):
            message = f"column {self.label!r}, {place}: the value is missing"
            problems.add(LABEL_MISSING, message)
            return False
        if with_labels and not isinstance(label, (str, bool, int, np.bool_, np.integer)):
            problems.add(
                NOT_A_CLASS,
                f"column {self.label!r}, {place}: {short_repr(label)} is not a class; classes must be texts "
                f"or integers",
            )
            return False
        return True

    @staticmethod
    def _labels(labels: list[Any]) -> Array:
        """The labels as an array: of integers where all are integers, also as texts, as in a CSV file."""
        kinds = {type(label) for label in labels}
        if kinds == {str} and all(_is_integer(label) for label in labels):
            return np.array([int(label) for label in labels])
        if len(kinds) > 1 and str in kinds:
            labels = [str(label) for label in labels]
        return np.array(labels)


def pieces_of(members: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Members in lists of :data:`TOGETHER`, or of fewer that are long. ``size`` gives a member's characters."""
    some: list[T] = []
    characters = 0
    for each in members:
        some.append(each)
        characters += size(each)
        if len(some) == TOGETHER or characters > _CHARACTERS:
            yield some
            some, characters = [], 0
    if some:
        yield some


def digests(texts: Iterable[str]) -> Array:
    """N hashes of texts, with which a model recognises texts that it was trained on."""
    found = bytearray()
    for text in texts:
        found += hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.frombuffer(found, dtype="<i8").astype(np.int64)


def are_texts(data: Any) -> bool:
    """Whether the data is a list, an array or a column of texts, and not a table or a path."""
    is_other = isinstance(data, (str, os.PathLike, Mapping)) or hasattr(data, "columns")
    return not is_other and hasattr(data, "__iter__") and getattr(data, "ndim", 1) == 1


def texts_in(data: Any) -> Sequence[Any]:
    """The members of a list, an array or a column of texts.

    Raises:
        DataError: it is something else, such as one text or a table.
    """
    if isinstance(data, (str, os.PathLike)):
        what = f"'{short_repr(str(data))[1:-1]}' is one text or path"
        raise DataError(f"{what}, expected a list of texts: put a single text in a list")
    if getattr(data, "ndim", 1) != 1 or hasattr(data, "columns") or isinstance(data, Mapping):
        raise DataError(
            "the texts must be a list or a column of texts, not a table; for a table give text=, the column "
            "of texts"
        )
    try:
        if hasattr(data, "to_pylist"):  # a column of pyarrow
            return list(data.to_pylist())
        return data if isinstance(data, Sequence) else list(data)
    except TypeError:
        raise DataError(f"the texts must be a list of texts, not {short_repr(data)}") from None


def pairs(
    data: Any,
    source: Any,
    into: Any,
    problems: Problems | None = None,
) -> Iterator[tuple[str, str]]:
    """The pairs of a parallel text: of two files line by line, or of two columns of a table.

    Args:
        data: the table; None for two files.
        source: the file or the column of the texts to translate.
        into: the file or the column of their translations.
        problems: what is done with a pair that is not valid.

    Raises:
        DataError: the files have unequal numbers of lines, or the data is not valid.
    """
    problems = problems or Problems()
    return _of_files(source, into) if data is None else _of_table(data, source, into, problems)


def _of_files(source: Any, into: Any) -> Iterator[tuple[str, str]]:
    # a line left out of one file alone would shift all later pairs, so that bytes that are not UTF-8 stop here
    parts = zip_longest(whole_lines(source), whole_lines(into))
    for k, (first, second) in enumerate(parts):
        if first is None or second is None:
            more = 1 + sum(1 for _ in parts)
            counts = (k, k + more) if first is None else (k + more, k)
            raise DataError(
                f"{source} has {counts[0]:,} lines and {into} has {counts[1]:,}: parallel files must have as "
                f"many lines, line by line"
            )
        yield first, second


def whole_lines(path: Any, problems: Problems | None = None) -> Iterator[str]:
    """The lines of a file without their ends.

    Raises:
        DataError: a line is longer than :data:`gatewise.data.lines.LONGEST` bytes.
    """
    number = 0
    for line in lines(path, problems):
        if line.number == number:
            raise DataError(f"{line.place} is too long for a sentence")
        number = line.number
        yield line.text.removesuffix("\n")


def _of_table(data: Any, source: str, into: str, problems: Problems) -> Iterator[tuple[str, str]]:
    for values, _, place in rows(data, (source, into), problems):
        try:
            for value, column in zip(values, (source, into), strict=True):
                check_text(value, f"column {column!r}, {place}")
        except DataError as error:
            problems.add(NO_TEXT, str(error))
            continue
        yield values


def lines_of(
    where: Any, text: str | None = None, problems: Problems | None = None, limit: int | None = None
) -> Iterator[str]:
    """Unlabelled texts, one after the other.

    Args:
        where: a file, a folder or a list of ``pathlib.Path``: their lines, see
            :func:`gatewise.data.lines.lines`. A list of texts: these. A table, with ``text``: the texts of this
            column.
        problems: what is done with a line that is not valid.
        limit: read only so many lines.

    Raises:
        DataError: ``where`` is none of these, or a list of texts that are all names of files.
    """
    problems = problems or Problems()
    if text is not None and (not isinstance(where, (str, os.PathLike)) or is_table(Path(where))):
        yield from TextTable(text, on_error=problems.on_error, limit=limit).read(where, False).texts
    else:
        yield from (line for line, _, _ in numbered_lines_of(where, problems, limit))


def numbered_lines_of(
    where: Any, problems: Problems | None = None, limit: int | None = None
) -> Iterator[tuple[str, str | None, int]]:
    """The lines of files or the texts of a list, see :func:`lines_of`, with the file (None for a text of a list)
    and the number in it, from 1 on."""
    if isinstance(where, (str, os.PathLike)) or _all_are(where, os.PathLike):
        for line in lines(where, problems, limit):
            yield line.text, str(line.path), line.number
        return
    if not _all_are(where, str):
        raise DataError(
            f"{short_repr(where)} is not a text: give a file, a folder, a list of pathlib.Path, or a list of texts"
        )
    if all(os.path.exists(each) for each in where):
        raise DataError(
            f"the texts of the list are names of files ({short_repr(where[0])}): for the text of files give a "
            f"list of pathlib.Path"
        )
    for k, each in enumerate(where[:limit], 1):
        yield each, None, k


def _all_are(where: Any, kind: type) -> bool:
    """Whether this is a list with members of this kind alone."""
    is_list = isinstance(where, (list, tuple)) and len(where) > 0
    return is_list and all(isinstance(each, kind) for each in where)


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return len(text) < 19 and digits.isascii() and digits.isdigit() and str(int(text)) == text


def _name(data: Any) -> str:
    return str(data) if isinstance(data, (str, os.PathLike)) else "the data"
