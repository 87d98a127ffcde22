"""The network of a language model: logits of the next symbol, and a state that is carried between calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.cells.language import Cell
from gatewise.models.output import token_losses
from gatewise.nn.dropout import dropout
from gatewise.nn.layers import LSTM
from gatewise.nn.linear import Linear, linear
from gatewise.nn.recurrent import Recurrent


@dataclass(frozen=True)
class Dropouts:
    """The dropout probabilities of a language model in training.

    Attributes:
        units: of the embedding's outputs, between layers, and of the last layer's outputs (Zaremba et al. 2014).
        locked: whether these have one mask per sequence for all steps (Gal & Ghahramani 2016).
        words: of whole rows of the embedding (Gal & Ghahramani 2016).
        weights: of the recurrent weights (Merity et al. 2018).
    """

    units: float = 0.0
    locked: bool = False
    words: float = 0.0
    weights: float = 0.0


class Reading(NamedTuple):
    """What a language network gives for B×T symbols and targets.

    Attributes:
        losses: B×T, of the targets.
        outputs: B×T×H, the outputs of the last recurrent layer before dropout.
        features: B×T×H or B×T×E, the inputs of the output layer, after dropout.
        state: the final state.
    """

    losses: Tensor
    outputs: Tensor
    features: Tensor
    state: Any


class LanguageNetwork(nn.Module):
    """An embedding of V symbols, recurrent layers, and an output layer over the V symbols.

    Args:
        symbols: V.
        hidden: H, the units of each recurrent layer.
        layers: the number of recurrent layers.
        cell: the cell of the recurrent layers.
        embedding: E, the width of the embedding; H by default.
        tied: whether the output layer uses the embedding as its weight (Press & Wolf 2017). Where E is not H,
            a linear layer without bias brings the outputs to E.
        dropouts: the probabilities of dropout.
    """

    def __init__(
        self,
        symbols: int,
        hidden: int,
        layers: int = 1,
        *,
        cell: Cell | str = "lstm",
        embedding: int | None = None,
        tied: bool = False,
        dropouts: Dropouts | None = None,
    ) -> None:
        super().__init__()
        self.dropouts = dropouts = dropouts or Dropouts()
        width = embedding or hidden
        self.embedding = nn.Embedding(symbols, width)
        options: dict[str, Any] = dict(
            batch_first=True,
            dropout=dropouts.units if layers > 1 else 0.0,
            locked_dropout=dropouts.locked,
            weight_drop=dropouts.weights,
        )
        sizes = (width, hidden, layers)
        self.recurrent = (
            LSTM(*sizes, forget_bias=1.0, **options)
            if cell == "lstm"
            else Recurrent(cell, *sizes, **options)
        )
        self.narrow = Linear(hidden, width, bias=False) if tied and width != hidden else None
        self.head_weight = None if tied else nn.Parameter(torch.empty(symbols, hidden))
        self.head_bias = nn.Parameter(torch.zeros(symbols))
        self.draw_weights(0.1)

    @torch.no_grad()
    def draw_weights(self, bound: float) -> None:
        """Draws the embedding and the output layer uniformly from ±bound; the output's biases are 0."""
        nn.init.uniform_(self.embedding.weight, -bound, bound)
        if self.head_weight is not None:
            nn.init.uniform_(self.head_weight, -bound, bound)
        nn.init.zeros_(self.head_bias)

    @property
    def output_weight(self) -> Tensor:
        """V×H or V×E, the weight of the output layer."""
        return self.embedding.weight if self.head_weight is None else self.head_weight

    def forward(self, x: Tensor, state: Any = None, trace: bool = False) -> Any:
        """B×T×V logits for B×T symbols, and the final state; with ``trace`` instead the recurrent layers' trace.

        ``state`` is the initial state; zero by default.
        """
        options: dict[str, Any] = {"trace": True} if trace else {}
        found = self.recurrent(self._embedded(x), state, **options)
        return linear(self.features(found[0]), self.output_weight, self.head_bias), found[-1]

    def losses(self, x: Tensor, target: Tensor, state: Any = None) -> Reading:
        """The losses of B×T targets after B×T symbols, and what they come from."""
        outputs, state = self.recurrent(self._embedded(x), state)
        features = self.features(outputs)
        losses = token_losses(features, self.output_weight, self.head_bias, target)
        return Reading(losses, outputs, features, state)

    def features(self, outputs: Tensor) -> Tensor:
        """B×T×H or B×T×E: the inputs of the output layer, from the outputs of the recurrent layers."""
        narrowed = outputs if self.narrow is None else self.narrow(outputs)
        return self._dropped(narrowed)

    def _embedded(self, x: Tensor) -> Tensor:
        weight, p = self.embedding.weight, self.dropouts.words
        if self.training and p:
            kept = torch.empty(len(weight), 1, device=weight.device).bernoulli_(1 - p) / (1 - p)
            weight = weight * kept
        return self._dropped(F.embedding(x, weight))

    def _dropped(self, x: Tensor) -> Tensor:
        """x, B×T×F, with dropout; for all steps alike if it is locked."""
        p = self.dropouts.units
        if not self.dropouts.locked or not self.training or not p:
            return dropout(x, p, self.training)
        mask = torch.empty(len(x), 1, x.shape[-1], device=x.device, dtype=x.dtype)
        return x * mask.bernoulli_(1 - p).div_(1 - p)
