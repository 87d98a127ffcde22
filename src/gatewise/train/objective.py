"""The interface between a task and the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from gatewise.train.recipe import Recipe
from gatewise.train.record import Record

# The state that is carried from one batch to the next: tensors, in tuples, lists or dicts; or None.
Carry = Any


class Objective(Protocol):
    """What the training loop needs of a task: a network, its loss and its optimizer."""

    def build(self) -> nn.Module:
        """A new network."""

    def loss(self, network: nn.Module, batch: Any, carry: Carry) -> tuple[Tensor, Carry]:
        """The B losses of a batch, and the state that the next batch starts from."""

    def weight_of(self, batch: Any, members: int) -> int:
        """The weight of a batch's mean loss in the validation loss; ``members`` is B."""

    def describe_member(self, batch: Any, at: int) -> str:
        """The member ``at`` of a batch, as text for error messages: which row or series of the data it is."""

    def optimizer(self, network: nn.Module, recipe: Recipe) -> tuple[Optimizer, LRScheduler]:
        """The optimizer, and a learning-rate schedule that is stepped after each update."""


@dataclass(frozen=True)
class TrainingData:
    """The batches, the recipe and the record of one training run.

    Attributes:
        training, validation: the batches. Without validation the last weights are kept.
        recipe: the number of updates, the learning rate and other settings.
        record: the options and the data, stored in checkpoints.
    """

    training: DataLoader
    validation: DataLoader | None
    recipe: Recipe
    record: Record
