"""The network of the music model: LSTM layers that read each step, and the distribution of the next step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.models.chords import (
    ChainedVoices,
    IndependentNotes,
    NadeNotes,
    Output,
    Symbols,
)
from gatewise.nn.layers import LSTM


@dataclass(frozen=True)
class MusicShape:
    """The sizes and options of the network.

    Attributes:
        output: "independent", "nade", "voices" or "events": see :mod:`gatewise.models.chords`.
        columns: K, the number of values of a step.
        symbols: the number of symbols of each value.
        units: the size of the output's hidden vectors, or of the embedding of events.
    """

    output: str
    columns: int
    symbols: int
    hidden: int
    layers: int
    units: int
    dropout: float
    weight_drop: float


def output_of(shape: MusicShape) -> Output:
    """The output layer of this shape."""
    if shape.output == "independent":
        return IndependentNotes(shape.hidden, shape.columns)
    if shape.output == "nade":
        return NadeNotes(shape.hidden, shape.columns, shape.units)
    if shape.output == "voices":
        return ChainedVoices(shape.hidden, shape.columns, shape.symbols, shape.units)
    return Symbols(shape.hidden, shape.symbols, shape.units)


class MusicNetwork(nn.Module):
    """LSTM layers over the steps of a tune, and an output layer with the distribution of the next step."""

    def __init__(self, shape: MusicShape) -> None:
        super().__init__()
        self.output = output_of(shape)
        self.lstm = LSTM(
            self.output.inputs,
            shape.hidden,
            shape.layers,
            batch_first=True,
            dropout=shape.dropout if shape.layers > 1 else 0.0,
            forget_bias=1.0,
            weight_drop=shape.weight_drop,
        )
        self.dropout = nn.Dropout(shape.dropout)

    def forward(
        self, before: Tensor, lengths: Tensor | None = None, state: Any = None, trace: bool = False
    ) -> Any:
        """The layers' outputs, B×T×H, and their final state, for the steps before each step, B×T×K.

        With ``trace`` the outputs and the trace of the layers.
        """
        x = self.dropout(self.output.encoded(before))
        if trace:
            output, _, found = self.lstm(x, state, lengths=lengths, trace=True)
            return output, found
        return self.lstm(x, state, lengths=lengths)

    def nll(
        self, before: Tensor, steps: Tensor, lengths: Tensor, state: Any = None
    ) -> tuple[Tensor, Any]:
        """The negative log-likelihood in nats of each step of B sequences, and the final state.

        Args:
            before: B×T×K, the step before each step; -1 before the first.
            steps: B×T×K.
            lengths: B, the number of steps of each sequence.

        Returns:
            ΣT: those of the steps within the lengths, sequence by sequence. The final state.
        """
        output, state = self(before, lengths, state)
        within = torch.arange(steps.shape[1]) < lengths[:, None].cpu()
        within = within.to(output.device)
        return self.output.nll(self.dropout(output[within]), steps[within]), state
