"""The log probabilities of a text that is read in parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from gatewise.models.cache import Cache, CachedText

Array = np.ndarray

AT_ONCE = 500  # symbols that are scored in one call


class Scorer:
    """The log probability of each symbol of a text, given all symbols before it.

    Args:
        network: a language network.
        first: the symbol before the first one.
        device: that of the network.
        cache: a neural cache that is mixed with the network, see :class:`gatewise.models.cache.Cache`.
    """

    def __init__(
        self, network: nn.Module, first: int, device: torch.device, cache: Cache | None = None
    ) -> None:
        self.network: Any = network
        self.device = device
        self.cached = CachedText(cache) if cache is not None and cache.window else None
        self.state: Any = None
        self.last = first

    @torch.no_grad()
    def log_probabilities(self, symbols: Array) -> Array:
        """T: those of the next T symbols of the text."""
        found = [np.empty(0)]
        for k in range(0, len(symbols), AT_ONCE):
            part = np.concatenate([[self.last], symbols[k : k + AT_ONCE]])
            ids = torch.from_numpy(part).long()[None].to(self.device)
            read = self.network.losses(ids[:, :-1], ids[:, 1:], self.state)
            log_p, self.state, self.last = -read.losses[0], read.state, int(part[-1])
            if self.cached is not None:
                log_p = self.cached.log_probabilities(log_p, read.features[0], ids[0, 1:])
            found.append(log_p.cpu().double().numpy())
        return np.concatenate(found)
