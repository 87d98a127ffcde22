"""How a network is trained: the recipe, and the optimizer and schedule that most tasks take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class Recipe:
    """The length of a training and its settings.

    The defaults were chosen on the validation parts of ETTh1 and M4 hourly.

    Attributes:
        steps: updates of the weights, in all rounds together.
        rounds: how often the network is validated and the training saved.
        patience: rounds without a lower validation loss after which the training ends.
        clip: the largest norm of the gradient.
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


def one_cycle(network: nn.Module, recipe: Recipe) -> tuple[Optimizer, LRScheduler]:
    """AdamW whose learning rate rises once and falls as a cosine, step by step."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    total = max(2, recipe.steps_per_round * recipe.rounds)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=recipe.learning_rate,
        total_steps=total,
        # torch divides by the rise's steps less one, and by those of the fall
        pct_start=max(0.1, 2 / total) if total > 2 else 0.1,
        cycle_momentum=False,
    )
    return optimizer, schedule
