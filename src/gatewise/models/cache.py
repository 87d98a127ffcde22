"""The neural cache: a language model's memory of the symbols that followed similar outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cache:
    """The settings of a neural cache (Grave et al. 2017, "Improving neural language models with a continuous
    cache").

    Attributes:
        window: the number of earlier symbols that it remembers; 0 for no cache.
        share: the weight of the cache's distribution in the mixture with the model's.
        flatness: the factor of the products of outputs, θ in the paper's equation 2.
    """

    window: int
    share: float
    flatness: float


class CachedText:
    """The probabilities of a text's symbols under a mixture of the model and the cache."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.outputs: Tensor | None = None  # W×H, of the last symbols' contexts
        self.symbols: Tensor | None = None  # W, those that followed

    def log_probabilities(self, log_p: Tensor, outputs: Tensor, symbols: Tensor) -> Tensor:
        """T: the log probabilities of the next T symbols.

        Args:
            log_p: T, those of the model.
            outputs: T×H, the inputs of the model's output layer before each symbol.
            symbols: T, the symbols.
        """
        before = 0 if self.symbols is None else len(self.symbols)
        if self.outputs is not None and self.symbols is not None:
            keys, values = torch.cat([self.outputs, outputs]), torch.cat([self.symbols, symbols])
        else:
            keys, values = outputs, symbols
        at = torch.arange(len(keys), device=keys.device)
        now = torch.arange(len(outputs), device=keys.device)[:, None] + before
        seen = (at < now) & (at >= now - self.cache.window)
        weights = (self.cache.flatness * outputs @ keys.t()).masked_fill(~seen, -torch.inf)
        weights = weights.softmax(1).nan_to_num()  # the first symbol has nothing before it
        found = (weights * (values == symbols[:, None])).sum(1)
        self.outputs, self.symbols = keys[-self.cache.window :], values[-self.cache.window :]
        share = torch.where(seen.any(1), self.cache.share, 0.0)
        return ((1 - share) * log_p.exp() + share * found).log()
