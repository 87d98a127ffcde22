"""Strips: what a page draws above the heat maps (a sequence itself) and below (the prediction)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gatewise.errors import ShapeError

LINES, WORDS, ROLL, BARS = "lines", "words", "roll", "bars"


@dataclass(frozen=True)
class Strip:
    """What is drawn over the steps of one sequence. The functions of this file make strips.

    Attributes:
        kind: LINES, WORDS, ROLL or BARS.
        title: what it shows, such as "input".
        names: the names of lines or bars.
        values: of LINES, for each line its values, NaN where there is none; of BARS one value each.
        per_step: of LINES, the number of values for each step of the network.
        words: of WORDS, one text for each step.
        weights: of WORDS, a number from 0 to 1 for each step, such as a probability; or none.
        notes: of ROLL, (start, length, pitch, voice) of each note, in steps, and the pitch as in MIDI.
        voices: of ROLL, the number of voices.
        over_steps: whether it shares the axis of the heat maps. A forecast of what follows does not.
        note: a remark for the reader.
        full: of BARS, the number whose bar has the full length; if there is none, the greatest absolute value.
    """

    kind: str
    title: str
    names: tuple[str, ...] = ()
    values: tuple[np.ndarray, ...] = ()
    per_step: float = 1.0
    words: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    notes: tuple[tuple[float, float, int, int], ...] = ()
    voices: int = 1
    over_steps: bool = True
    note: str = ""
    full: float | None = None

    def check(self, steps: int) -> None:
        """Raises ShapeError unless the strip fits a sequence of this many steps."""
        if self.kind == WORDS and len(self.words) != steps:
            raise ShapeError(
                f"the strip {self.title!r} has {len(self.words)} words; there must be {steps}, one for each step"
            )
        if self.weights and len(self.weights) != len(self.words):
            raise ShapeError(
                f"the strip {self.title!r} has {len(self.weights)} weights for {len(self.words)} words; "
                f"give one for each word"
            )
        if self.kind == LINES and self.over_steps:
            wanted = round(steps * self.per_step)
            for name, line in zip(self.names, self.values, strict=True):
                if len(line) != wanted:
                    raise ShapeError(
                        f"the line {name!r} of the strip {self.title!r} has {len(line)} values; there must be "
                        f"{wanted}: {self.per_step:g} for each of the {steps} steps"
                    )

    def with_note(self, note: str) -> Strip:
        return replace(self, note=note)

    def record(self) -> dict[str, Any]:
        """The strip as JSON."""
        found: dict[str, Any] = {"kind": self.kind, "title": self.title, "note": self.note}
        if not self.over_steps:
            found["axis"] = "own"
        if self.kind == LINES:
            found |= {"names": self.names, "per_step": self.per_step}
            found["values"] = [numbers(line) for line in self.values]
        elif self.kind == WORDS:
            found["words"] = self.words
            if self.weights:
                found["weights"] = numbers(self.weights)
        elif self.kind == ROLL:
            found |= {"notes": self.notes, "voices": self.voices}
        else:
            found |= {"names": self.names, "numbers": numbers([value[0] for value in self.values])}
            if self.full is not None:
                found["full"] = self.full
        return found


def lines(
    title: str, values: Mapping[str, Any], *, per_step: float = 1.0, over_steps: bool = True
) -> Strip:
    """Numeric series, each a line.

    Args:
        values: for each line its values in order of time; NaN leaves a gap.
        per_step: the number of values for each step of the network.
        over_steps: whether the values belong to the steps of the heat maps.
    """
    arrays = tuple(np.asarray(line, dtype=np.float64).reshape(-1) for line in values.values())
    return Strip(LINES, title, tuple(values), arrays, per_step, over_steps=over_steps)


def words(title: str, each: Iterable[str], weights: Iterable[float] = ()) -> Strip:
    """A text, with one word or character for each step."""
    return Strip(WORDS, title, words=tuple(map(str, each)), weights=tuple(map(float, weights)))


def roll(title: str, notes: Iterable[tuple[float, float, int, int]], *, voices: int = 1) -> Strip:
    """A piano roll: (start, length, pitch, voice) of each note, in steps; voices are counted from 0."""
    each = tuple((float(s), float(n), int(p), int(v)) for s, n, p, v in notes)
    return Strip(ROLL, title, notes=each, voices=voices)


def bars(title: str, values: Mapping[str, float], *, full: float | None = None) -> Strip:
    """Numbers with names, such as the probability of each class.

    Args:
        values: for each name its number. Bars of negative numbers have another colour.
        full: the number whose bar has the full length: 1 for probabilities. The default is the greatest
            absolute value.
    """
    arrays = tuple(np.asarray([value], dtype=np.float64) for value in values.values())
    return Strip(BARS, title, tuple(map(str, values)), arrays, over_steps=False, full=full)


def numbers(values: Sequence[float] | np.ndarray, digits: int = 6) -> list[float | None]:
    """Numbers for JSON, which has none that are not finite."""
    array = np.asarray(values, dtype=np.float64)
    return [
        float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in array.tolist()
    ]
