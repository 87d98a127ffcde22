"""The forecaster's network: an LSTM over patches of the past, and a linear head for all future steps at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.data.windows import Batch
from gatewise.nn.layers import LSTM


@dataclass(frozen=True)
class ForecasterShape:
    """The sizes of the network.

    Attributes:
        context: L, the number of past steps; a multiple of ``patch``.
        horizon: K, the number of future steps.
        patch: the number of past steps that are one step of the LSTM.
        quantiles: Q, the number of quantiles.
        past, known, calendar, static: the numbers of covariates of each kind.
        hidden, layers, dropout: those of the LSTM.
    """

    context: int
    horizon: int
    patch: int
    quantiles: int
    past: int
    known: int
    calendar: int
    static: int
    hidden: int
    layers: int
    dropout: float


class PatchLSTM(nn.Module):
    """An LSTM over patches of one season, plus a linear model of the season.

    Each window is scaled to mean 0 and standard deviation 1 of its own observed values (reversible instance
    normalisation, Kim et al. 2022) and divided into patches (Nie et al. 2023), which the LSTM reads. A linear
    head maps the last hidden state to all steps of the horizon: a point forecast and the quantiles. The
    linear model maps each phase of the season in past patches to its future values (as in SparseTSF, Lin et
    al. 2024). So the LSTM only learns what a seasonal linear model cannot.
    """

    def __init__(self, shape: ForecasterShape) -> None:
        super().__init__()
        self.shape = shape
        self.patches = shape.context // shape.patch
        self.ahead = -(-shape.horizon // shape.patch)
        inputs = shape.patch * (1 + shape.past + shape.known) + 1 + shape.static
        between = shape.dropout if shape.layers > 1 else 0.0
        self.lstm = LSTM(
            inputs, shape.hidden, shape.layers, batch_first=True, dropout=between, forget_bias=1.0
        )
        self.dropout = nn.Dropout(shape.dropout)
        outputs = 1 + shape.quantiles
        self.head = nn.Linear(shape.hidden, shape.horizon * outputs)
        self.seasonal = nn.Linear(self.patches, self.ahead)
        nn.init.constant_(self.seasonal.weight, 1 / self.patches)
        nn.init.zeros_(self.seasonal.bias)
        ahead = shape.known + shape.calendar
        if ahead:
            self.ahead_input = nn.Linear(ahead, shape.hidden)
            self.ahead_output = nn.Linear(shape.hidden, outputs)
            nn.init.zeros_(self.ahead_output.weight)

    def forward(self, batch: Batch, trace: bool = False) -> Any:
        """B×K×(1 + Q) forecasts in the windows' units, the point first. With ``trace`` a tuple of these and the
        LSTM's trace."""
        shape, size = self.shape, len(batch.target)
        patches = self._patches(batch)
        result = self.lstm(self._features(batch, patches), trace=trace)
        last = self.dropout(result[0][:, -1])
        forecast = self.head(last).view(size, shape.horizon, -1)
        linear = self.seasonal(patches.transpose(1, 2)).transpose(1, 2).flatten(1)
        forecast = forecast + linear[:, : shape.horizon, None]
        if shape.known + shape.calendar:
            ahead = torch.cat([batch.known[:, shape.context :], batch.calendar], -1)
            hidden = F.gelu(self.ahead_input(ahead) + last[:, None])
            forecast = forecast + self.ahead_output(hidden)
        return (forecast, result[2]) if trace else forecast

    def _patches(self, batch: Batch) -> Tensor:
        """B×n×patch: the target. In a patch with more than half of its values missing, each missing value is
        replaced by the mean of its phase over the patches, or by 0 if the phase was never observed."""
        target, observed = (
            values.view(len(values), self.patches, self.shape.patch)
            for values in (batch.target, batch.observed)
        )
        usual = target.sum(1, keepdim=True) / observed.sum(1, keepdim=True).clamp(min=1)
        mostly = observed.mean(2, keepdim=True) >= 0.5
        return torch.where(mostly | (observed > 0), target, usual)

    def _features(self, batch: Batch, patches: Tensor) -> Tensor:
        """B×n×features: the inputs of the LSTM at each of n patches."""
        shape, size = self.shape, len(patches)

        def cut(values: Tensor) -> Tensor:
            return values.reshape(size, self.patches, -1)

        share = cut(batch.observed).mean(-1, keepdim=True)
        static = batch.static[:, None].expand(-1, self.patches, -1)
        parts = [patches, share, cut(batch.past), cut(batch.known[:, : shape.context]), static]
        return torch.cat([part for part in parts if part.shape[-1]], -1)
