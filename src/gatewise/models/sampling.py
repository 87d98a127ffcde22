"""New sequences from a network that predicts the next symbol: one step per call, and the choice of each symbol."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gatewise.models.language import LanguageNetwork

Array = np.ndarray

_COLDEST = 1e-30  # below, float32 divides by 0


@dataclass(frozen=True)
class Choice:
    """How the next symbol is drawn.

    Attributes:
        temperature: the logits are divided by it: below 1 for more probable symbols, above 1 for rarer ones.
        top_k: only the most probable symbols are drawn, so many; None for all.
        top_p: only the most probable symbols are drawn, as few as have together this probability (Holtzman et
            al. 2020); None for all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def draw(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """B: a symbol for each row of B×V logits."""
        if self.top_k is not None and self.top_k < logits.shape[1]:
            least = logits.topk(self.top_k, sorted=True).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        # minus the largest, so that a small temperature leaves that one alone
        p = ((logits - logits.amax(1, True)) / max(self.temperature, _COLDEST)).softmax(1)
        if self.top_p is not None:
            p = within(p, self.top_p)
        sums = p.cumsum(1)
        at = torch.rand(len(p), 1, generator=generator) * sums[:, -1:]
        found = torch.searchsorted(sums, at, right=True).clamp(max=p.shape[1] - 1)
        # rounding may lead behind the last symbol with a probability above 0
        return torch.where(p.gather(1, found) > 0, found, p.argmax(1, True))[:, 0]


def within(p: Tensor, share: float) -> Tensor:
    """B×V probabilities with 0 for all but the most probable symbols, as few as have together this share."""
    ordered, symbols = p.sort(1, descending=True)
    before = ordered.cumsum(1) - ordered
    kept = ordered.masked_fill(before >= share, 0.0)
    return torch.zeros_like(p).scatter(1, symbols, kept)


class StepProgram:
    """A language network that reads one symbol of each of B sequences per call, and keeps their states.

    Args:
        never: the symbols that get no probability.

    Raises:
        OptionError: the network cannot run step by step.
    """

    def __init__(self, network: LanguageNetwork, batch: int, never: Collection[int] = ()) -> None:
        self.embedding = network.embedding.weight.detach().numpy()
        self.weight = network.output_weight.detach()
        self.bias = network.head_bias.detach().clone()
        self.bias[list(never)] = -torch.inf
        self.narrow = None if network.narrow is None else network.narrow.weight.detach()
        self.stream = network.recurrent.stream(batch)

    def step(self, symbols: Array) -> Tensor:
        """B×V logits of the symbols after these."""
        outputs = torch.from_numpy(self.stream.step(self.embedding[symbols]))
        if self.narrow is not None:
            outputs = torch.nn.functional.linear(outputs, self.narrow)
        return torch.nn.functional.linear(outputs, self.weight, self.bias)

    def advance(self, symbols: Array) -> None:
        """Reads one symbol of each sequence without the logits of the next."""
        self.stream.step(self.embedding[symbols])
