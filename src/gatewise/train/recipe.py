"""The settings of training, and the default optimizer and learning-rate schedule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gatewise.backends.torch_private import expect_unscaled_gradients


@dataclass(frozen=True)
class Recipe:
    """The settings of training.

    The defaults were chosen on the validation parts of ETTh1 and M4 hourly.

    Attributes:
        steps: the number of weight updates of all rounds together.
        batch: the number of members of a batch.
        learning_rate: the highest learning rate.
        weight_decay: AdamW's weight decay.
        clip: the norm to which a larger gradient is clipped.
        rounds: the number of rounds; each ends with validation and a checkpoint.
        patience: training ends after this many rounds without a lower validation loss.
        seed: the seed of weights, batches and dropout.
    """

    steps: int
    batch: int = 256
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    clip: float = 1.0
    rounds: int = 9
    patience: int = 4
    seed: int = 0

    @property
    def steps_per_round(self) -> int:
        return -(-self.steps // self.rounds)


def adamw(parameters: Any, **options: Any) -> AdamW:
    """torch's AdamW with one call for each weight, which takes a quarter of the time of its default on a CPU."""
    optimizer = AdamW(parameters, fused=True, **options)
    expect_unscaled_gradients(optimizer)
    return optimizer


def one_cycle(
    network: nn.Module,
    recipe: Recipe,
    slower: Iterable[nn.Parameter] = (),
    ratio: float = 1.0,
) -> tuple[Optimizer, LRScheduler]:
    """AdamW with a one-cycle schedule: the learning rate warms up, then falls along a cosine.

    Args:
        slower: weights that learn at ``ratio`` times the rate of the others.
    """
    apart = list(slower)
    taken = {id(weight) for weight in apart}
    others = [weight for weight in network.parameters() if id(weight) not in taken]
    rates = [recipe.learning_rate] + [recipe.learning_rate * ratio] * bool(apart)
    optimizer = adamw(
        [dict(params=group) for group in (others, apart) if group],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    total = max(2, recipe.steps_per_round * recipe.rounds)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=rates,
        total_steps=total,
        # torch divides by the number of warm-up steps minus one, and by that of the other steps
        pct_start=max(0.1, 2 / total) if total > 2 else 0.1,
        cycle_momentum=False,
    )
    return optimizer, schedule
