"""The network of the music model: LSTM layers that read each step, and the distribution of the next step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.models.chords import (
    ChainedVoices,
    IndependentNotes,
    NadeNotes,
    Output,
    Symbols,
)
from gatewise.nn.dropout import Dropout
from gatewise.nn.layers import LSTM


@dataclass(frozen=True)
class MusicShape:
    """The sizes and options of the network.

    Attributes:
        output: "independent", "nade", "voices" or "events": see :mod:`gatewise.models.chords`.
        columns: K, the number of values of a step.
        symbols: the number of symbols of each value.
        units: the size of the output's hidden vectors, or of the embedding of events.
        places: the number of values of each of the integers that say where a step stands in its bar.
    """

    output: str
    columns: int
    symbols: int
    hidden: int
    layers: int
    units: int
    dropout: float
    weight_drop: float
    places: tuple[int, ...] = ()


def output_of(shape: MusicShape) -> Output:
    """The output layer of this shape. It reads the recurrent layers' output and the place of the step."""
    read = shape.hidden + sum(shape.places)
    if shape.output == "independent":
        return IndependentNotes(read, shape.columns)
    if shape.output == "nade":
        return NadeNotes(read, shape.columns, shape.units)
    if shape.output == "voices":
        return ChainedVoices(read, shape.columns, shape.symbols, shape.units)
    return Symbols(read, shape.symbols, shape.units)


class MusicNetwork(nn.Module):
    """LSTM layers over the steps of a tune, and an output layer with the distribution of the next step.

    Both read also where the next step stands in its bar, without dropout: each integer of its place as one of so
    many ones and zeros. So a bar line, or a note that is too long for its bar, is a matter of one layer.
    """

    def __init__(self, shape: MusicShape) -> None:
        super().__init__()
        self.places = shape.places
        self.output = output_of(shape)
        self.lstm = LSTM(
            self.output.inputs + sum(shape.places),
            shape.hidden,
            shape.layers,
            batch_first=True,
            dropout=shape.dropout if shape.layers > 1 else 0.0,
            forget_bias=1.0,
            weight_drop=shape.weight_drop,
        )
        self.dropout = Dropout(shape.dropout)

    def with_place(self, values: Tensor, places: Tensor) -> Tensor:
        """Values …×I with the places …×P as ones and zeros behind them, …×(I + the sum of their sizes)."""
        if not self.places:
            return values
        ones = [F.one_hot(places[..., k], size) for k, size in enumerate(self.places)]
        return torch.cat([values, *(each.to(values.dtype) for each in ones)], -1)

    def forward(
        self,
        before: Tensor,
        places: Tensor,
        lengths: Tensor | None = None,
        state: Any = None,
        trace: bool = False,
    ) -> Any:
        """The layers' outputs, B×T×H, and their final state.

        With ``trace`` the outputs and the trace of the layers.

        Args:
            before: B×T×K, the step before each step; -1 before the first.
            places: B×T×P, where each step stands in its bar.
        """
        x = self.with_place(self.dropout(self.output.encoded(before)), places)
        if trace:
            output, _, found = self.lstm(x, state, lengths=lengths, trace=True)
            return output, found
        return self.lstm(x, state, lengths=lengths)

    def nll(
        self, before: Tensor, steps: Tensor, places: Tensor, lengths: Tensor, state: Any = None
    ) -> tuple[Tensor, Any]:
        """The negative log-likelihood in nats of each step of B sequences, and the final state.

        Args:
            before: B×T×K, the step before each step; -1 before the first.
            steps: B×T×K.
            places: B×T×P, where each step stands in its bar.
            lengths: B, the number of steps of each sequence.

        Returns:
            ΣT: those of the steps within the lengths, sequence by sequence. The final state.
        """
        output, state = self(before, places, lengths, state)
        within = torch.arange(steps.shape[1]) < lengths[:, None].cpu()
        within = within.to(output.device)
        read = self.with_place(self.dropout(output[within]), places[within])
        return self.output.nll(read, steps[within]), state
