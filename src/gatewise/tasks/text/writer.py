"""New texts from a language network and its tokenizer."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import torch

from gatewise.data.corpus import first_input, stream
from gatewise.data.tokens import BEGIN, END, PAD, UNKNOWN, Tokenizer
from gatewise.errors import caution
from gatewise.models.language import LanguageNetwork
from gatewise.models.sampling import Choice, StepProgram

_NEVER = (PAD, UNKNOWN, BEGIN)  # the symbols that are not drawn


class Writer:
    """Writes several texts at once, symbol by symbol."""

    def __init__(self, network: LanguageNetwork, tokenizer: Tokenizer, samples: int) -> None:
        self.tokenizer, self.samples = tokenizer, samples
        self.program = StepProgram(network, samples, _NEVER)

    @torch.no_grad()
    def write(
        self,
        prompt: str,
        length: int,
        choice: Choice,
        stop: str | None,
        generator: torch.Generator,
    ) -> list[str]:
        """The texts: the prompt and up to ``length`` new symbols, without what begins with ``stop``."""
        given = self._prompt(prompt)
        for symbol in given[:-1]:
            self.program.advance(np.full(self.samples, symbol))
        drawn: list[list[int]] = [[] for _ in range(self.samples)]
        ended = [False] * self.samples
        symbols = np.full(self.samples, given[-1])
        for _ in range(length):
            symbols = choice.draw(self.program.step(symbols), generator).numpy()
            for k, symbol in enumerate(symbols.tolist()):
                if not ended[k]:
                    drawn[k].append(symbol)
                    ended[k] = stop is not None and self._has(stop, drawn[k])
            if all(ended):
                break
        return [self._joined(prompt, given[1:], each, stop) for each in drawn]

    def _prompt(self, prompt: str) -> list[int]:
        """The symbols of the prompt, with the one before its first."""
        symbols = stream([prompt], self.tokenizer)[0] if prompt else np.empty(0, dtype=np.int32)
        unknown = int((symbols == UNKNOWN).sum())
        if unknown:
            caution(
                f"{unknown} of the {len(symbols)} symbols of the prompt are unknown to the model"
            )
        return [first_input(self.tokenizer), *symbols.tolist()]

    def _has(self, stop: str, drawn: list[int]) -> bool:
        """Whether the last symbols have the text ``stop``; a character has up to four subwords."""
        return stop in self.text(drawn[-4 * len(stop) - 2 :])

    def _joined(self, prompt: str, given: list[int], drawn: list[int], stop: str | None) -> str:
        """The prompt and the new text."""
        new = self.text([*given, *drawn]).removeprefix(self.text(given))
        if self.tokenizer.unit == "word" and prompt[-1:].isspace():
            new = new.removeprefix(" ")  # the space between two words is there
        if stop is not None:
            new = new.partition(stop)[0]
        return prompt + new

    def text(self, symbols: list[int]) -> str:
        """The text of symbols, with a newline for each end of a line."""
        parts = groupby(symbols, key=lambda symbol: symbol == END)
        return "".join(
            "\n" * len(list(group)) if ends else self.tokenizer.decode(group)
            for ends, group in parts
        )
