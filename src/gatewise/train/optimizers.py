"""Stochastic gradient descent: with a learning rate that falls by a factor, or with averaged weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from gatewise.train.averaging import AveragingSGD
from gatewise.train.recipe import Recipe


def decayed_sgd(
    network: nn.Module, recipe: Recipe, decay: float, constant_rounds: int
) -> tuple[Optimizer, LRScheduler]:
    """SGD whose learning rate is constant for some rounds, and then is multiplied by ``decay`` in each."""
    optimizer = torch.optim.SGD(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )

    def factor(step: int) -> float:
        return decay ** max(0, step // recipe.steps_per_round + 1 - constant_rounds)

    return optimizer, LambdaLR(optimizer, factor)


def averaging_sgd(
    network: nn.Module, recipe: Recipe, patience: int
) -> tuple[Optimizer, LRScheduler]:
    """SGD with a constant learning rate that averages the weights later, see :class:`AveragingSGD`."""
    optimizer = AveragingSGD(
        network.parameters(), recipe.learning_rate, recipe.weight_decay, patience
    )
    return optimizer, LambdaLR(optimizer, lambda step: 1.0)
