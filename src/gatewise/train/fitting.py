"""Fits a task's network by Lightning: the recipe, where it runs, its history and the weights that are kept."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gatewise.errors import OptionError, TrainingError, need
from gatewise.train.checkpoint import SafeCheckpoints, load


@dataclass(frozen=True)
class Recipe:
    """How the network is trained. The defaults were chosen on the validation parts of ETTh1 and M4 hourly."""

    steps: int
    batch: int = 256
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    clip: float = 1.0
    rounds: int = 9
    patience: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Run:
    """Where and with what a training runs; nothing here changes what is learned."""

    folder: Path
    resume: bool = False
    devices: int | str = "auto"
    nodes: int = 1
    precision: str = "32-true"
    accelerator: str = "auto"
    progress: bool = True
    tensorboard: bool = False


@dataclass
class History:
    """Losses by round, and the round that was kept."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best: int = 0
    seconds: float = 0.0


class Fitting(lightning.LightningModule):
    """A network, how it is trained and its history; a task adds the ``network`` and its losses."""

    network: nn.Module

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.history = History()
        self._losses: list[Tensor] = []

    def losses(self, batch: Any) -> Tensor:
        """B: the loss of each window or sequence."""
        raise NotImplementedError

    def place(self, batch: Any, at: int) -> str:
        """Where in the data the batch's member ``at`` stands, for an error's message."""
        raise NotImplementedError

    def training_step(self, batch: Any, index: int) -> Tensor:
        # so that a resumed run draws the dropout that an uninterrupted one draws
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.global_step)
        each = self.losses(batch)
        if not bool(torch.isfinite(each).all()):
            self._stop(batch, each)
        loss = each.mean()
        self._losses.append(loss.detach())
        if self.logger is not None:
            self.log("training", loss.detach())
        return loss

    def _stop(self, batch: Any, each: Tensor) -> None:
        each = each.detach()
        at = int((~torch.isfinite(each)).nonzero()[0])
        raise TrainingError(
            f"the loss became {each[at].item()} at step {self.global_step}, in "
            f"{self.place(batch, at)}"
        )

    def on_train_epoch_end(self) -> None:
        mean = self.trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean")
        self.history.train.append(float(mean))
        self._losses.clear()

    def validation_step(self, batch: Any, index: int) -> None:
        each = self.losses(batch)
        self.log("validation", each.mean(), batch_size=len(each), sync_dist=True, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self.history.validation.append(float(self.trainer.callback_metrics["validation"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        losses = (self.history.train, self.history.validation)
        checkpoint["losses"] = [list(each) for each in losses]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history.train, self.history.validation = checkpoint["losses"]

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        total = max(2, -(-recipe.steps // recipe.rounds) * recipe.rounds)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=recipe.learning_rate,
            total_steps=total,
            # torch divides by the rise's steps less one, and by those of the fall
            pct_start=max(0.1, 2 / total) if total > 2 else 0.1,
            cycle_momentum=False,
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class _Keep(ModelCheckpoint):
    FILE_EXTENSION = ".safetensors"


def fit(
    module: Fitting, training: DataLoader, checks: DataLoader | None, recipe: Recipe, run: Run
) -> Any:
    """The module's network with the weights that had the least loss on ``checks``, or with the last
    ones where there are none; the module's history says which round's they are.

    Raises:
        TrainingError: the loss is not a number any more.
        OptionError: Lightning cannot do what ``run`` asks.
    """
    keep = _Keep(
        run.folder / "checkpoints",
        filename="best",
        monitor=None if checks is None else "validation",
        save_last=True,
        save_on_train_epoch_end=True,  # between epochs, where a run can be taken up again exactly
        enable_version_counter=False,
    )
    stop = [] if checks is None else [EarlyStopping("validation", patience=recipe.patience)]
    trainer = _trainer(recipe, run, [keep, *stop])
    last = run.folder / "checkpoints" / "last.safetensors"
    resume = str(last) if run.resume and last.exists() else None
    with warnings.catch_warnings():
        # Lightning's advice about worker processes: a batch is cut out in one go
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists.*")
        if checks is None:
            warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
        trainer.fit(module, training, checks, ckpt_path=resume)
    module.load_state_dict(load(keep.best_model_path)["state_dict"])
    history = module.history
    history.best = int(np.argmin(history.validation)) if checks else len(history.train) - 1
    return module.network.cpu().eval()


def _trainer(recipe: Recipe, run: Run, callbacks: list[Callback]) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no banners
    logger: Any = False
    if run.tensorboard:
        need("tensorboard", "tensorboard")
        logger = TensorBoardLogger(run.folder, name="logs")
    many = run.devices not in ("auto", 1) or run.nodes > 1
    try:
        return lightning.Trainer(
            max_epochs=recipe.rounds,
            accelerator=run.accelerator,
            devices=run.devices if many or run.devices != "auto" else 1,
            num_nodes=run.nodes,
            strategy="ddp" if many else "auto",
            precision=run.precision,  # type: ignore[arg-type]
            gradient_clip_val=recipe.clip,
            callbacks=callbacks,
            logger=logger,
            log_every_n_steps=1,
            plugins=[SafeCheckpoints()],
            enable_progress_bar=run.progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (ValueError, MisconfigurationException) as error:
        raise OptionError(f"Lightning cannot run this: {error}") from error
