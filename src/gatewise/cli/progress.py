"""Lines about a training whose standard error is a file or a pipe, where a progress bar is of no use."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

EVERY = 10.0  # seconds from one line to the next, so that a log of many short rounds stays short


@dataclass
class RoundLines:
    """Prints the losses of a round on standard error, if some time has passed since the last line.

    Its methods are arguments of :class:`gatewise.train.run.Run`.
    """

    clock: Callable[[], float] = time.monotonic
    rounds: int = 0
    last: float = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.clock()

    def prepared(self, training_data: Any) -> None:
        self.rounds = training_data.recipe.rounds

    def after_round(self, history: Any) -> None:
        now = self.clock()
        if now - self.last < EVERY:
            return
        self.last = now
        losses = f"training loss {history.train[-1]:.4g}"
        if history.validation:
            losses += f", validation loss {history.validation[-1]:.4g}"
        print(f"epoch {len(history.train)} of {self.rounds}: {losses}", file=sys.stderr, flush=True)
