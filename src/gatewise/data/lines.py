"""Lines of text files, read a piece at a time, and what is done with input that is not valid."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast, get_args

from gatewise.data.paths import check_exists, hint_of_text
from gatewise.errors import DataError
from gatewise.options import choice, short_repr

OnError = Literal["stop", "skip"]

LONGEST = 1 << 20  # bytes of a line that are read at once


class Line(NamedTuple):
    """A line of a file, or a piece of one; its text ends in a newline where the line does."""

    text: str
    path: Path
    number: int  # from 1 on

    @property
    def place(self) -> str:
        return f"{self.path}, line {self.number}"


@dataclass
class Problems:
    """What is done with a member of the data that is not valid: ``on_error="stop"`` raises a DataError,
    ``"skip"`` leaves the member out and counts it.

    Attributes:
        chosen_here: whether the caller has the option ``on_error``, so that a message can name it.
        counts: how many members were left out, by the reason.
        first: the message about the first of them, by the reason.
    """

    on_error: OnError = "stop"
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    chosen_here: bool = True

    @classmethod
    def of_call(cls, given: OnError | None, fitted: OnError) -> Problems:
        """Those of ``predict`` or ``evaluate``: with its option ``on_error``, or where this is None with that of
        ``fit``."""
        chosen = fitted if given is None else choice("on_error", given, get_args(OnError))
        return cls(cast(OnError, chosen))

    def add(self, reason: str, message: str) -> None:
        """Raises DataError with the message, or counts a member that is left out for the ``reason``."""
        if self.on_error == "stop":
            advice = ", or leave such data out with on_error='skip'" if self.chosen_here else ""
            raise DataError(f"{message}. Correct it{advice}")
        self.counts[reason] += 1
        self.first.setdefault(reason, message)

    def notes(self) -> tuple[str, ...]:
        """A sentence for each reason: how many members were left out, and the first of them."""
        return tuple(
            f"{count} left out: {reason} (the first: {self.first[reason]})"
            for reason, count in self.counts.items()
        )


def text_files(where: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files in ``where``: a file, a folder, or several of these.

    Of a folder, all files below it in the order of their names, without hidden ones.

    Raises:
        DataError: there is no such file, or none in a folder.
    """
    if not isinstance(where, (str, os.PathLike)):
        return [path for each in where for path in text_files(each)]
    path = Path(where)
    if os.path.isdir(path):
        inside = sorted(path.rglob("*"))
        hidden = (any(part.startswith(".") for part in p.relative_to(path).parts) for p in inside)
        found = [p for p, skip in zip(inside, hidden, strict=True) if p.is_file() and not skip]
        if not found:
            raise DataError(f"the folder {path} has no files")
        return found
    check_exists(path, hint=hint_of_text(path))
    return [path]


def lines(
    where: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    problems: Problems | None = None,
    limit: int | None = None,
) -> Iterator[Line]:
    """The lines of text files in UTF-8, plain or compressed (.gz), with their ends as ``"\\n"``.

    The end of a file ends its last line too.

    A line longer than :data:`LONGEST` bytes comes in pieces, cut at white space where it has some. Only the
    last piece ends in a newline. So a file that is one line of any size needs little memory.

    Args:
        where: as for :func:`text_files`.
        problems: what is done with bytes that are not UTF-8. A piece with such bytes can be left out.
        limit: read only so many lines.

    Raises:
        DataError: a file cannot be read, or has bytes that are not UTF-8. The message has the file, the line
            and the offset of the byte in the file.
    """
    problems = problems or Problems()
    read = 0
    for path in text_files(where):
        for line in _lines_of(path, problems):
            yield line
            read += line.text.endswith("\n")
            if read == limit:
                return


def _lines_of(path: Path, problems: Problems) -> Iterator[Line]:
    number, found = 1, pieces(path)
    following = next(found, None)
    while following is not None:
        (offset, data), following = following, next(found, None)
        ends = data.endswith(b"\n")
        try:
            text = decoded(data, path, number, offset)
        except DataError as error:
            problems.add("bytes that are not UTF-8", str(error))
        else:
            yield Line(text if following or ends else f"{text}\n", path, number)
        number += ends


def decoded(data: bytes, path: Path, number: int, offset: int) -> str:
    """The text of a piece of a line, with ``"\\n"`` for ``"\\r\\n"`` and without a byte order mark.

    Args:
        number: the number of its line.
        offset: its offset in the file.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        text = data.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        at = error.start + (3 if offset == 0 and data.startswith(b"\xef\xbb\xbf") else 0)
        raise DataError(
            f"{path}, line {number}: the byte 0x{data[at]:02x} at offset {offset + at} of the file is not "
            f"UTF-8: save the file as UTF-8"
        ) from error
    return f"{text[:-2]}\n" if text.endswith("\r\n") else text


def pieces(path: Path, longest: int = LONGEST) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, longer ones in pieces, and the offset of each in the file."""
    offset, rest = 0, b""
    try:
        with _opened(path) as file:
            while data := file.readline(longest - len(rest)):
                data, rest = rest + data, b""
                if not data.endswith(b"\n") and len(data) >= longest:
                    data, rest = _cut(data)
                yield offset, data
                offset += len(data)
        if rest:
            yield offset, rest
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _cut(data: bytes) -> tuple[bytes, bytes]:
    """A piece of a line in two, before the last white space, or else before the last character."""
    at = max(data.rfind(b" "), data.rfind(b"\t"))
    if at <= 0:
        at = len(data) - 1
        while at > len(data) - 4 and data[at] & 0xC0 == 0x80:  # within a character
            at -= 1
    return data[:at], data[at:]


def _opened(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path))
    return path.open("rb")


def check_text(value: object, place: str) -> str:
    """``value``, which must be a text.

    Raises:
        DataError: it is not. The message has the ``place``.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            code = ord(value[error.start])
            raise DataError(
                f"{place}: the character U+{code:04X} at position {error.start + 1} is half of a surrogate pair: "
                f"decode the text again"
            ) from error
        return value
    what = "the value is missing" if value is None else f"{short_repr(value)} is not a text"
    raise DataError(f"{place}: {what}")
