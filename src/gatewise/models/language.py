"""The network of a language model: symbols in, the next symbol's logits out, and a state that goes on."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gatewise.nn.layers import LSTM


class LanguageNetwork(nn.Module):
    """An embedding, LSTM layers and a linear head over V symbols."""

    def __init__(self, symbols: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, hidden)
        self.lstm = LSTM(hidden, hidden, layers, batch_first=True, forget_bias=1.0)
        self.head = nn.Linear(hidden, symbols)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """B×T×V logits of x, B×T symbols, and the state after them; ``state`` is the one before them."""
        output, state = self.lstm(self.embedding(x), state)
        return self.head(output), state
