"""The network of the classifier and the regressor: recurrent layers of any cell, pooling and a linear head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, cat, nn

from gatewise.cells.language import Cell
from gatewise.nn.attention import AttentionPooling
from gatewise.nn.layers import LSTM
from gatewise.nn.recurrent import Recurrent

POOLINGS = ("last", "mean", "attention")


@dataclass(frozen=True)
class SequenceShape:
    """The sizes and options of the network."""

    inputs: int
    outputs: int
    hidden: int
    layers: int
    bidirectional: bool
    dropout: float
    pooling: str


class SequenceNetwork(nn.Module):
    """Recurrent layers, pooling of their outputs over the steps, and a linear head.

    The pooled vector depends on ``pooling``. "last": the final state of each direction. "mean": the mean
    over the steps. "attention": see :class:`gatewise.AttentionPooling`.
    """

    def __init__(self, cell: Cell | str, shape: SequenceShape) -> None:
        super().__init__()
        sizes = (shape.inputs, shape.hidden, shape.layers)
        options: dict[str, Any] = dict(
            batch_first=True,
            bidirectional=shape.bidirectional,
            dropout=shape.dropout if shape.layers > 1 else 0.0,
        )
        self.recurrent = (
            LSTM(*sizes, forget_bias=1.0, **options)
            if cell == "lstm"
            else Recurrent(cell, *sizes, **options)
        )
        width = self.recurrent.output_size
        self.pooling = shape.pooling
        if shape.pooling == "attention":
            self.attention = AttentionPooling(width, batch_first=True)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(width, shape.outputs)

    def forward(self, x: Tensor, lengths: Tensor | None = None, trace: bool = False) -> Any:
        """B×outputs for inputs B×T×I. With ``trace`` a tuple of these and the trace of the recurrent layers."""
        result = self.recurrent(x, lengths=lengths, trace=trace)
        outputs = self.head(self.dropout(self._pooled(result[0], result[1], lengths)))
        return (outputs, result[2]) if trace else outputs

    def _pooled(
        self, output: Tensor, state: Tensor | tuple[Tensor, ...], lengths: Tensor | None
    ) -> Tensor:
        if self.pooling == "attention":
            pooled: Tensor = self.attention(output, lengths=lengths)
            return pooled
        if self.pooling == "mean":  # outputs are zero after a sequence's end
            return output.mean(1) if lengths is None else output.sum(1) / lengths[:, None]
        final = state if isinstance(state, Tensor) else state[0]
        return cat(list(final[-(1 + self.recurrent.bidirectional) :]), -1)
