"""The text of ABC files: their tunes, the voices of a tune, and rests and metres in a form that music21 reads.

music21's tokens leave out rests of whole bars and invisible rests, do not end at a change of voice, do not read fields
within a line, and take a metre of 2+3/8 for 23/8. So these are written out before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from gatewise.errors import DataError

_FIELD = re.compile(r"([A-Za-z+]):(?![|:])")  # at the beginning of a line
_INLINE = re.compile(r"\[([A-Za-z]):([^]]*)\]")
_PLAIN = r'"[^"]*"|![^!\s]*!|%.*'  # chord symbols and texts, decorations, comments
_SPECIAL = re.compile(rf"{_PLAIN}|y[\d/]*|([ZX])(\d*)|x|&")
_METRE = re.compile(r"(?:(\d+(?:\+\d+)*)|\((\d+(?:\+\d+)*)\))/(\d+)")
_NAMED_METRES = {"C": "4/4", "C|": "2/2"}
_DEFAULTS = "LMQK"  # the fields of a file's header that hold for tunes without them
_KEPT = "KLMQV"  # the fields within a line that say how notes are read


def written_tunes(file: str, text: str) -> list[tuple[str, str]]:
    """The name and the text of each tune of a file: the parts that begin with ``X:``.

    A field L, M, Q or K before the first tune holds for every tune that does not have it."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    head, *parts = re.split(r"^(?=X:)", text, flags=re.MULTILINE)
    defaults = {field[1]: line for line in head.split("\n") if (field := _FIELD.match(line))}
    found = []
    for part in parts:
        number = re.match(r"X: *(\S*)", part)
        title = re.search(r"^T: *(.*?) *$", part, re.MULTILINE)
        name = f"{file}, tune {number[1] if number else ''}{f' ({title[1]})' if title else ''}"
        found.append((name, _with_defaults(part, defaults)))
    if not found:
        raise DataError(
            f"{file} has no tune: a tune of an ABC file begins with a line X: and a number"
        )
    return found


def _header(lines: list[str]) -> int:
    """The number of lines of a tune's header: up to its key, or its first line of music."""
    for at, line in enumerate(lines):
        field = _FIELD.match(line)
        if field and field[1] == "K":
            return at + 1
        if _is_music(line):
            return at
    return len(lines)


def _is_music(line: str) -> bool:
    return not _FIELD.match(line) and bool(line.strip()) and not line.startswith("%")


def _with_defaults(part: str, defaults: dict[str, str]) -> str:
    lines = part.split("\n")
    header = lines[: _header(lines)]
    own = {line[0] for line in header if _FIELD.match(line)}
    missing = [defaults[field] for field in _DEFAULTS if field in defaults and field not in own]
    before = sum(not line.startswith("K:") for line in header)  # K is the header's last line
    return "\n".join([*lines[:before], *missing, *lines[before:]])


def voices_of(name: str, text: str) -> list[tuple[str, str]]:
    """The name of each voice of a tune, and a text with its notes alone.

    Raises:
        DataError: the tune has a symbol that cannot be read.
    """
    lines = text.split("\n")
    size = _header(lines)
    header = [line for line in lines[:size] if not line.startswith("V:")]
    voices: dict[str, list[str]] = {}
    before: list[str] = []  # lines before the first voice
    own = before
    for line in lines[size:]:
        for each in _split(line):
            if each.startswith("V:"):
                voice = (each[2:].split() or [""])[0]
                own = voices.setdefault(voice, [])
            else:
                own.append(each)
    if not any(map(_is_music, before)):
        header += before
        before = []
    if before or not voices:
        voices = {"": before} | voices
    return [
        (voice, "\n".join(_Plain(name, header).written(body))) for voice, body in voices.items()
    ]


def _split(line: str) -> Iterator[str]:
    """A line with fields within it as several lines. Fields that do not concern the notes are left out."""
    if _FIELD.match(line):
        yield line
        return
    at = 0
    for found in re.finditer(rf"{_PLAIN}|{_INLINE.pattern}", line):
        if found[1]:
            yield line[at : found.start()]
            if found[1] in _KEPT:
                yield f"{found[1]}:{found[2].strip()}"
            at = found.end()
    yield line[at:]


class _Plain:
    """Writes rests of whole bars and invisible rests as rests that music21 reads, and a metre as one fraction. Spaces
    (y) are left out."""

    def __init__(self, name: str, header: list[str]) -> None:
        self.name, self.header = name, header
        self.bar: Fraction | None = None  # of a whole note
        self.unit: Fraction | None = None

    def written(self, body: list[str]) -> Iterator[str]:
        """The lines of a voice with its header."""
        for line in (*self.header, *body):
            field = _FIELD.match(line)
            if field is None:
                yield _SPECIAL.sub(self._symbol, line)
                continue
            yield self._field(field[1], line)

    def _field(self, field: str, line: str) -> str:
        """The line of a field in the form that music21 reads."""
        value = "".join(line[2:].partition("%")[0].split())
        if field == "M":
            beats, unit = self._metre(value)
            self.bar = Fraction(beats, unit) if beats else None
            return f"M:{beats}/{unit}" if beats else "M:none"
        length = re.fullmatch(r"(\d+)/(\d+)", value)
        if field == "L" and length and int(length[1]) and int(length[2]):
            self.unit = Fraction(int(length[1]), int(length[2]))
        return line

    def _metre(self, value: str) -> tuple[int, int]:
        """The sum of a metre's beats and their unit; no beats for a tune without a metre.

        Raises:
            DataError: it cannot be read.
        """
        if value.lower() in ("", "none"):
            return 0, 1
        found = _METRE.fullmatch(_NAMED_METRES.get(value, value))
        beats = sum(map(int, (found[1] or found[2]).split("+"))) if found else 0
        if found is None or not beats or not int(found[3]):
            raise DataError(
                f"{self.name} has the metre {value!r}, expected one such as 6/8, 2+3/8, (2+3)/8, C, C| or none"
            )
        return beats, int(found[3])

    def _symbol(self, found: re.Match[str]) -> str:
        symbol = found[0]
        if symbol == "&":
            raise DataError(
                f"{self.name} has voices that are joined by '&' within a bar; give each a line V: of its own"
            )
        if symbol == "x":
            return "z"
        if symbol.startswith("y"):
            return ""
        return self._bars(found) if found[1] else symbol

    def _bars(self, found: re.Match[str]) -> str:
        if self.bar is None:
            raise DataError(
                f"{self.name} has the rest {found[0]!r} of whole bars, but no metre that says how long they are"
            )
        unit = self.unit or Fraction(1, 16 if self.bar < Fraction(3, 4) else 8)
        return "|".join([f"z{self.bar / unit}"] * int(found[2] or 1))
