"""The networks of the classifier and the regressor: convolutions, recurrent layers of any cell, pooling, a head."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.cells.language import Cell
from gatewise.nn.attention import AttentionPooling
from gatewise.nn.layers import LSTM
from gatewise.nn.recurrent import Recurrent
from gatewise.processes import rank_and_count, sum_of_all

POOLINGS = ("mean_max", "mean", "last", "attention")
# The steps that a filter covers, as in InceptionTime (Ismail Fawaz et al. 2020).
WIDTHS = (9, 19, 39)


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
    filters: int
    members: int


class StepNorm(nn.BatchNorm1d):
    """Batch normalisation (Ioffe & Szegedy 2015) over the real steps of all sequences of a batch, in whichever
    process of a training run they are."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """B×T×F of x, B×T×F. Values after a sequence's end are normalised too, but do not count."""
        if not self.training:
            return super().forward(x.flatten(0, 1)).view_as(x)
        inside = x.flatten(0, 1) if lengths is None else x[_is_inside(x, lengths)]
        if rank_and_count()[1] > 1:
            found = self._in_all_processes(inside)
        elif len(inside) < 2:  # a single step has no variance
            return x
        else:
            found = super().forward(inside)
        if lengths is None:
            return found.view_as(x)
        return torch.zeros_like(x).masked_scatter(_is_inside(x, lengths)[..., None], found)

    def _in_all_processes(self, x: Tensor) -> Tensor:
        """N×F of x, N×F, by the mean and the variance of all processes' rows."""
        total = sum_of_all(
            torch.cat(
                [x.sum(0, dtype=self.running_mean.dtype), self.running_mean.new_tensor([len(x)])]
            )
        )
        count = total[-1].detach()
        if count < 2:
            return x
        mean = total[:-1] / count
        variance = sum_of_all((x - mean).square().sum(0)) / count
        with torch.no_grad():  # as torch does: the variance that is kept is the unbiased one
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        return ((x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias).to(x.dtype)


class Convolutions(nn.Module):
    """Filters of several widths over the steps, each normalised over the batch and with a rectifier. They have no
    bias, which the normalisation would subtract."""

    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        ends = [filters * k // len(WIDTHS) for k in range(len(WIDTHS) + 1)]
        self.of_width = nn.ModuleList(
            nn.Conv1d(inputs, last - first, width, padding=width // 2, bias=False)
            for width, (first, last) in zip(WIDTHS, pairwise(ends), strict=True)
            if last > first
        )
        self.norm = StepNorm(filters)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """B×T×filters of x, B×T×I, which is zero after a sequence's end, as the padding is."""
        channels = x.transpose(1, 2)
        found = torch.cat([each(channels) for each in self.of_width], 1)
        return torch.relu(self.norm(found.transpose(1, 2), lengths))


class SequenceNetwork(nn.Module):
    """Convolutions, recurrent layers, pooling of their outputs over the steps, and a linear head.

    The convolutions read each input as it is and normalised over its sequence. The recurrent layers read the
    filters' outputs and the convolutions' inputs. With ``filters`` 0 they read the inputs alone.

    The pooled vector depends on ``pooling``. "mean_max": the mean and the maximum over the steps. "mean": the
    mean over the steps. "last": the final state of each direction. "attention": see
    :class:`gatewise.AttentionPooling`.
    """

    def __init__(self, cell: Cell | str, shape: SequenceShape) -> None:
        super().__init__()
        self.filters, self.pooling = shape.filters, shape.pooling
        inputs = shape.inputs
        if shape.filters:
            self.convolutions = Convolutions(2 * shape.inputs, shape.filters)
            inputs = 2 * shape.inputs + shape.filters
        sizes = (inputs, shape.hidden, shape.layers)
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
        if shape.pooling == "attention":
            self.attention = AttentionPooling(width, batch_first=True)
        self.dropout = nn.Dropout(shape.dropout)
        pooled = width * (2 if shape.pooling == "mean_max" else 1)
        self.head = nn.Linear(pooled, shape.outputs)

    def forward(self, x: Tensor, lengths: Tensor | None = None, trace: bool = False) -> Any:
        """B×outputs for inputs B×T×I. With ``trace`` a tuple of these and the trace of the recurrent layers."""
        if self.filters:
            x = torch.cat([x, _normalised(x, lengths)], -1)
            x = torch.cat([self.convolutions(x, lengths), x], -1)
        result = self.recurrent(x, lengths=lengths, trace=trace)
        outputs = self.head(self.dropout(self._pooled(result[0], result[1], lengths)))
        return (outputs, result[2]) if trace else outputs

    def _pooled(
        self, output: Tensor, state: Tensor | tuple[Tensor, ...], lengths: Tensor | None
    ) -> Tensor:
        if self.pooling == "attention":
            pooled: Tensor = self.attention(output, lengths=lengths)
            return pooled
        if self.pooling == "mean":
            return _mean(output, lengths)
        if self.pooling == "mean_max":
            return torch.cat([_mean(output, lengths), _maximum(output, lengths)], -1)
        final = state if isinstance(state, Tensor) else state[0]
        return torch.cat(list(final[-(1 + self.recurrent.bidirectional) :]), -1)


class SequenceEnsemble(nn.Module):
    """Networks that differ in their initial weights. The output is the mean of theirs."""

    def __init__(self, cell: Cell | str, shape: SequenceShape) -> None:
        super().__init__()
        self.members = nn.ModuleList(SequenceNetwork(cell, shape) for _ in range(shape.members))

    def forward(self, x: Tensor, lengths: Tensor | None = None, trace: bool = False) -> Any:
        """B×outputs for inputs B×T×I. With ``trace`` a tuple of these and the trace of the first member's
        recurrent layers."""
        first, *others = self.members
        outputs, *traced = first(x, lengths, trace=True) if trace else (first(x, lengths),)
        mean = torch.stack([outputs, *[each(x, lengths) for each in others]]).mean(0)
        return (mean, *traced) if trace else mean


def _is_inside(x: Tensor, lengths: Tensor) -> Tensor:
    """B×T: whether a step of x, B×T×I, is one of the sequence's."""
    return torch.arange(x.shape[1], device=x.device) < lengths[:, None]


def _within(x: Tensor, lengths: Tensor | None, outside: float = 0.0) -> Tensor:
    """x, B×T×I, with ``outside`` after each sequence's end."""
    if lengths is None:
        return x
    return x.masked_fill(~_is_inside(x, lengths)[..., None], outside)


def _mean(x: Tensor, lengths: Tensor | None) -> Tensor:
    """B×I: the mean over each sequence's steps of x, B×T×I, which is zero after its end."""
    return x.mean(1) if lengths is None else x.sum(1) / lengths[:, None]


def _maximum(x: Tensor, lengths: Tensor | None) -> Tensor:
    """B×I: the maximum over each sequence's steps."""
    return _within(x, lengths, -torch.inf).amax(1)


def _normalised(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x, B×T×I, with mean 0 and deviation 1 over each sequence's steps; the deviation is at least 0.1."""
    apart = _within(x - _mean(x, lengths)[:, None], lengths)
    return apart / (_mean(apart.square(), lengths) + 0.01).sqrt()[:, None]
