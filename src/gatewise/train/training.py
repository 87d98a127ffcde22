"""The LightningModule that trains the network of a task."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim import Optimizer

from gatewise.errors import TrainingError
from gatewise.train.averaging import AveragingSGD, averaged_weights
from gatewise.train.history import History
from gatewise.train.objective import Carry, Objective
from gatewise.train.recipe import Recipe


class Training(lightning.LightningModule):
    """The network in training, the history of its losses, and the state carried from batch to batch.

    Each round starts without a carried state, in training and in validation. So a run that is resumed after a
    round continues as if it had not been stopped. The state is detached between batches (truncated
    back-propagation through time).
    """

    def __init__(self, objective: Objective, recipe: Recipe) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)
        self.network = objective.build()
        self.objective = objective
        self.recipe = recipe
        self.history = History()
        self._losses: list[Tensor] = []
        self._carry: Carry = None
        self._validation_carry: Carry = None
        self._means: Any = None

    def on_train_epoch_start(self) -> None:
        self._carry = None

    def training_step(self, batch: Any, index: int) -> Tensor:
        # so that a resumed run has the same dropout masks as an uninterrupted one
        self._seed((self.recipe.seed * 1_000_003 + self.global_step) % 2**63)
        each, carry = self.objective.loss(self.network, batch, self._carry)
        self._carry = detached(carry)
        loss = self._mean_of_all(self._finite(batch, each))
        self._losses.append(loss.detach())
        if self.logger is not None:
            self.log("training", loss.detach())
        return loss

    def _seed(self, seed: int) -> None:
        """Seeds the generator of the network's device. For each kind of device that the process has not used,
        torch.manual_seed formats the stack of the call, which takes longer than a small network's step."""
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def _mean_of_all(self, each: Tensor) -> Tensor:
        """The mean loss, scaled so that its average over the processes is that of all their members. DDP averages
        the gradients of processes whose shares of a batch may differ in size."""
        processes = self.trainer.world_size
        if processes == 1:
            return each.mean()
        members = each.new_tensor(float(len(each)))
        return each.sum() * processes / self.trainer.strategy.reduce(members, reduce_op="sum")

    def _finite(self, batch: Any, each: Tensor) -> Tensor:
        strange = ~torch.isfinite(each.detach())
        if bool(strange.any()):
            at = int(strange.nonzero()[0])
            raise TrainingError(
                f"the loss became {each[at].item()} at step {self.global_step}, in "
                f"{self.objective.describe_member(batch, at)}. The checkpoint of the last round is kept. Try "
                f"a lower learning_rate, or check the values there"
            )
        return each

    def on_train_epoch_end(self) -> None:
        mean = self.trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean")
        self.history.train.append(float(mean))
        self._losses.clear()

    def on_validation_epoch_start(self) -> None:
        self._validation_carry = None
        self._means = averaged_weights(self._optimizer)
        self._means.__enter__()

    def validation_step(self, batch: Any, index: int) -> None:
        each, carry = self.objective.loss(self.network, batch, self._validation_carry)
        self._validation_carry = detached(carry)
        mean = self._finite(batch, each).mean()
        weight = self.objective.weight_of(batch, len(each))
        self.log("validation", mean, batch_size=weight, sync_dist=True, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self._means.__exit__(None, None, None)
        self.history.validation.append(float(self.trainer.callback_metrics["validation"]))
        if isinstance(self._optimizer, AveragingSGD):
            self._optimizer.after_validation(self.history.validation)

    @property
    def _optimizer(self) -> Optimizer:
        found: Optimizer = self.optimizers(use_pl_optimizer=False)  # type: ignore[assignment]
        return found

    def best_weights(self) -> dict[str, Tensor]:
        """A copy of the weights that the last validation used."""
        with averaged_weights(self._optimizer):
            return {name: x.detach().cpu().clone() for name, x in self.state_dict().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        losses = (self.history.train, self.history.validation)
        checkpoint["losses"] = [list(each) for each in losses]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history.train, self.history.validation = checkpoint["losses"]

    def configure_optimizers(self) -> Any:
        optimizer, schedule = self.objective.optimizer(self.network, self.recipe)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def detached(carry: Carry) -> Carry:
    """The carried state without its autograd history."""
    if isinstance(carry, Tensor):
        return carry.detach()
    if isinstance(carry, dict):
        return {name: detached(part) for name, part in carry.items()}
    if isinstance(carry, tuple) and hasattr(carry, "_fields"):
        return type(carry)(*map(detached, carry))
    if isinstance(carry, list | tuple):
        return type(carry)(map(detached, carry))
    return carry
