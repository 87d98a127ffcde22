"""A source for the tests: a text file, read as characters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from gatewise.errors import DataError


@dataclass(frozen=True)
class Characters:
    """A text file, and the alphabet of those characters that are known."""

    alphabet: str = ""
    kind: ClassVar[str] = "characters"

    def read(self, data: str | Path) -> str:
        """The text of a file of at least two characters."""
        try:
            text = Path(data).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {data}: {error}") from error
        if len(text) < 2:
            raise DataError(f"{data} has {len(text)} characters, and at least 2 are needed")
        return text

    def learn(self, text: str) -> Characters:
        """The source with the alphabet of a text."""
        return Characters("".join(sorted(set(text))))

    def encode(self, text: str) -> torch.Tensor:
        """T: the place of each character in the alphabet."""
        places = {character: place for place, character in enumerate(self.alphabet)}
        strange = next((at for at, each in enumerate(text) if each not in places), None)
        if strange is not None:
            raise DataError(f"character {strange + 1}, {text[strange]!r}, was never seen before")
        return torch.tensor([places[each] for each in text])
