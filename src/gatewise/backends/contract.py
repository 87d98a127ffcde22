"""What every backend takes and gives: one cell, one direction, all steps of one layer.

A backend is a module with

* ``supports(spec) -> str | None``: ``None``, or the reason why it cannot run ``spec``, as the end
  of the sentence "it ...";
* ``forward(spec, x, state, weights, lengths) -> Outcome``, whose results carry their gradient;
* ``describe(spec) -> str``: what it runs, in a few words.

Shapes: T time, B batch, I input size, H hidden size, P projection size (H where there is none),
G gates, F states fed back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gatewise.cells.language import Cell


@dataclass(frozen=True)
class Spec:
    """What is to be run; all that a backend needs to know to say whether it can."""

    cell: Cell
    input_size: int
    hidden_size: int
    proj_size: int
    reverse: bool
    lengths: bool
    trace: bool
    dtype: torch.dtype
    device: torch.device

    @property
    def output_size(self) -> int:
        return self.proj_size or self.hidden_size

    def state_size(self, k: int) -> int:
        """Width of the k-th state: the first, the output, is as wide as its projection."""
        return self.output_size if k == 0 else self.hidden_size


class Weights(NamedTuple):
    """One layer's parameters in one direction.

    input G·H×I, recurrent G·H×(sum of the widths of the fed-back states), biases G·H or None,
    projection P×H or None, and the per-unit parameters, each H.
    """

    input: Tensor
    recurrent: Tensor
    input_bias: Tensor | None = None
    recurrent_bias: Tensor | None = None
    projection: Tensor | None = None
    per_unit: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Outcome:
    """output T×B×P, zero beyond each sequence's length; the state after each sequence's own last
    step (for a reversed run: its first); the traced values by name, each T×B×H, zero beyond the
    length."""

    output: Tensor
    state: tuple[Tensor, ...]
    trace: Mapping[str, Tensor] = field(default_factory=dict)


class Backend(Protocol):
    def supports(self, spec: Spec) -> str | None: ...

    def describe(self, spec: Spec) -> str: ...

    def forward(
        self,
        spec: Spec,
        x: Tensor,
        state: tuple[Tensor, ...],
        weights: Weights,
        lengths: Tensor | None,
    ) -> Outcome: ...


def valid_steps(steps: int, lengths: Tensor) -> Tensor:
    """T×B, true where a step lies within its sequence."""
    return torch.arange(steps, device=lengths.device)[:, None] < lengths
