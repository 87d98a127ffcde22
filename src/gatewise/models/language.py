"""The network of a language model: logits of the next symbol, and a state that is carried between calls."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gatewise.nn.layers import LSTM


class LanguageNetwork(nn.Module):
    """An embedding of V symbols, LSTM layers and a linear head."""

    def __init__(self, symbols: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, hidden)
        self.lstm = LSTM(hidden, hidden, layers, batch_first=True, forget_bias=1.0)
        self.head = nn.Linear(hidden, symbols)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """B×T×V logits for B×T symbols, and the final state. ``state`` is the initial state; zero by default."""
        output, state = self.lstm(self.embedding(x), state)
        return self.head(output), state
