"""Fits a task's network by Lightning: the recipe, where it runs, its history and the weights that are kept."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from packaging.version import Version
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gatewise import signals
from gatewise.errors import ModelFileError, OptionError, Stopped, TrainingError, need, out_of_memory
from gatewise.options import choice, flag, whole
from gatewise.train import folder
from gatewise.train.checkpoint import SafeCheckpoints, check_like, load
from gatewise.train.folder import Claim
from gatewise.train.record import Record, check_same


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
    """Where and with what a training runs; of all this ``precision`` alone changes what is learned.

    Args:
        folder: where checkpoints are written; without one there are none.
        claim: to the folder, for one who writes there after the training too; the training takes it. Without
            one it has a claim of its own, which ends with it.
        resume: go on from the checkpoint in ``folder``, which must be of the same data and options;
            begin where there is none.
        devices: "auto" for one, or how many processes or GPUs on each of the ``nodes``.
        tensorboard: write logs to ``folder``.
        record: what the training learns from, as its task says it.
    """

    folder: str | Path | None = None
    claim: Claim | None = None
    resume: bool = False
    devices: int | str = "auto"
    nodes: int = 1
    precision: str = "32-true"
    accelerator: str = "auto"
    progress: bool = True
    tensorboard: bool = False
    record: Record | None = None

    def __post_init__(self) -> None:
        if self.devices != "auto":
            _devices(self.devices)
        whole("nodes", self.nodes)
        choice("precision", self.precision, PRECISIONS)
        for name in ("resume", "progress", "tensorboard"):
            flag(name, getattr(self, name))
        if self.tensorboard and self.folder is None:
            raise OptionError(
                "tensorboard writes its logs to the run's folder, and this run has none"
            )
        if self.nodes > 1 and not _MEETING_PLACE & os.environ.keys():
            raise OptionError(
                f"nodes={self.nodes}: the processes of several nodes are started by torchrun, by Slurm's "
                f"srun, or one on each node with MASTER_ADDR, MASTER_PORT and NODE_RANK in its "
                f"environment, and nothing of these is there"
            )

    @property
    def path(self) -> Path | None:
        """The folder."""
        return None if self.folder is None else Path(self.folder)


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_MEETING_PLACE = {"MASTER_ADDR", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS"}


def _devices(devices: Any) -> int:
    try:
        return whole("devices", devices)
    except OptionError as error:
        raise OptionError(
            f"devices must be 'auto' or a positive integer, not {devices!r}"
        ) from error


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
        torch.manual_seed((self.recipe.seed * 1_000_003 + self.global_step) % 2**63)
        loss = self._finite(batch, self.losses(batch)).mean()
        self._losses.append(loss.detach())
        if self.logger is not None:
            self.log("training", loss.detach())
        return loss

    def _finite(self, batch: Any, each: Tensor) -> Tensor:
        strange = ~torch.isfinite(each.detach())
        if bool(strange.any()):
            at = int(strange.nonzero()[0])
            raise TrainingError(
                f"the loss became {each[at].item()} at step {self.global_step}, in "
                f"{self.place(batch, at)}"
            )
        return each

    def on_train_epoch_end(self) -> None:
        mean = self.trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean")
        self.history.train.append(float(mean))
        self._losses.clear()

    def validation_step(self, batch: Any, index: int) -> None:
        each = self._finite(batch, self.losses(batch))
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


class _Keep(Checkpoint):
    """Keeps the best round's weights, writes the checkpoint between rounds, where a run can be taken up
    again exactly, and ends the training where it is complete."""

    def __init__(self, recipe: Recipe, run: Run, checked: bool) -> None:
        self.recipe, self.checked = recipe, checked
        self.path = None if run.path is None else folder.checkpoint_of(run.path)
        self.recorded = asdict(run.record or _NOTHING) | {"recipe": asdict(recipe)}
        self.weights: dict[str, Tensor] = {}
        self.saved = 0  # rounds in the checkpoint
        self.on_sigterm: Any = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        # Lightning would make a SystemExit of it, whatever the program's own handler does
        if self.on_sigterm is not None:
            signal.signal(signal.SIGTERM, self.on_sigterm)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        history: History = module.history
        if best_round(history, self.checked) == len(history.train) - 1:
            state = module.state_dict()
            self.weights = {name: value.detach().cpu().clone() for name, value in state.items()}
        if self.path is not None:
            trainer.save_checkpoint(self.path)
            self.saved = len(history.train)
        trainer.should_stop = trainer.should_stop or complete(history, self.recipe, self.checked)

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"], checkpoint["run"] = self.weights, self.recorded

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        self.weights = checkpoint["best"]


_NOTHING = Record({}, {})


def best_round(history: History, checked: bool) -> int:
    """The first round with the least loss on the validation part, or the last where there is none."""
    losses = history.validation
    return min(range(len(losses)), key=losses.__getitem__) if checked else len(history.train) - 1


def complete(history: History, recipe: Recipe, checked: bool) -> bool:
    """Whether all rounds are done, or as many as ``patience`` since the best one."""
    done = len(history.train)
    waited = done - 1 - best_round(history, checked) if done else 0
    return done >= recipe.rounds or (checked and waited >= recipe.patience)


def fit(
    module: Fitting, training: DataLoader, checks: DataLoader | None, recipe: Recipe, run: Run
) -> Any:
    """The module's network with the weights that had the least loss on ``checks``, or with the last
    ones where there are none; the module's history says which round's they are.

    Raises:
        TrainingError: the loss is not a number any more, or the memory is not enough.
        OptionError: Lightning cannot do what ``run`` asks, another run is going on in its folder, or it
            resumes a run of other data or options.
        ModelFileError: the checkpoint is damaged, or cannot be written.
        KeyboardInterrupt: a signal stopped the training (a :class:`Stopped` where it was SIGTERM).
    """
    keep = _Keep(recipe, run, checks is not None)
    trainer = _trainer(recipe, run, keep)
    with ExitStack() as end:
        # processes that the first one starts for the same run work under its claim
        if run.path is not None and trainer.is_global_zero:
            (run.claim or end.enter_context(Claim(run.path))).take()
        resumed = _taken_up(keep, module, trainer, (training, checks), run)
        if not (resumed and complete(module.history, recipe, keep.checked)):
            _train(module, training, checks, trainer, keep, resumed)
    module.load_state_dict(keep.weights)
    module.history.best = best_round(module.history, keep.checked)
    return module.network.cpu().eval()


def _taken_up(
    keep: _Keep, module: Fitting, trainer: lightning.Trainer, parts: tuple[Any, Any], run: Run
) -> bool:
    """Whether the run goes on from a checkpoint, whose history and best weights are then there; an
    earlier run's checkpoint is removed where it doesn't."""
    if keep.path is None or run.path is None:
        return False
    if not (run.resume and keep.path.exists()):
        if trainer.is_global_zero:
            folder.clear(run.path)
        return False
    checkpoint = load(keep.path)
    check_same(checkpoint.get("run"), run.record or _NOTHING, keep.recipe, run.path)
    try:
        _check(checkpoint, module, trainer, parts, keep)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ModelFileError(
            f"the checkpoint {keep.path} does not fit this run: {error}. Fit without --resume "
            f"(resume=False)"
        ) from error
    module.on_load_checkpoint(checkpoint)
    keep.weights, keep.saved = checkpoint["best"], len(module.history.train)
    return True


def _check(
    checkpoint: dict[str, Any],
    module: Fitting,
    trainer: lightning.Trainer,
    parts: tuple[Any, Any],
    keep: _Keep,
) -> None:
    """Raise ValueError where the checkpoint is not one that this training could have written."""
    (optimizer,), (schedule,) = module.configure_optimizers()
    losses = checkpoint.get("losses")
    done = (
        len(losses[0]) if isinstance(losses, list) and losses and isinstance(losses[0], list) else 0
    )
    loops = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    expected: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": "",
        "state_dict": module.state_dict(),
        "best": module.state_dict(),
        "loops": {name: getattr(trainer, name).state_dict() for name in loops},
        "callbacks": {},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule["scheduler"].state_dict()],
        "losses": [[0.0] * done, [0.0] * done if keep.checked else []],
    }
    found = {name: part for name, part in checkpoint.items() if name != "run"}
    weights = list(module.network.parameters())
    moments = checkpoint["optimizer_states"][0]["state"]
    expected["optimizer_states"][0]["state"] = {
        at: {"step": torch.tensor(0.0), "exp_avg": weights[at], "exp_avg_sq": weights[at]}
        for at in range(len(weights))
        if at in moments
    }
    # what a kind of precision adds, such as the scale of losses in float16
    added = {name: part for name, part in found.items() if name not in expected}
    for name, part in added.items():
        if name != type(trainer.precision_plugin).__qualname__:
            raise ValueError(f"it has a part {name!r} that is not known")
        check_like(part, trainer.precision_plugin.state_dict(), 1 << 40, name)
    passes = [len(part) for part in parts if part is not None]
    most = keep.recipe.rounds * max(passes) + len(weights) + 2
    check_like({name: part for name, part in found.items() if name not in added}, expected, most)
    Version(checkpoint["pytorch-lightning_version"])
    if not 1 <= done <= keep.recipe.rounds:
        raise ValueError(f"it has {done} rounds of {keep.recipe.rounds}")
    counted = checkpoint["epoch"], checkpoint["global_step"]
    if counted != (done - 1, done * passes[0]):
        raise ValueError(f"its epoch and step, {counted}, are not those of {done} rounds")


def _train(
    module: Fitting,
    training: DataLoader,
    checks: DataLoader | None,
    trainer: lightning.Trainer,
    keep: _Keep,
    resumed: bool,
) -> None:
    with warnings.catch_warnings(), signals.restored():
        # Lightning's advice about worker processes: a batch is cut out in one go
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists.*")
        if checks is None:
            warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
        # Lightning 2.6 on torch 2.13, of its own code
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
        if threading.current_thread() is threading.main_thread():
            keep.on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            trainer.fit(module, training, checks, ckpt_path=str(keep.path) if resumed else None)
        except SystemExit as ended:
            stopped = signals.translated(ended)
            _note(stopped, keep, trainer)
            raise stopped from None
        except KeyboardInterrupt as stopped:
            _note(stopped, keep, trainer)
            raise
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise TrainingError(
                "the memory is not enough for this training: take a smaller batch, fewer hidden units "
                "or a shorter context"
            ) from error


def _note(stopped: KeyboardInterrupt, keep: _Keep, trainer: lightning.Trainer) -> None:
    """Say how to go on, in the first process of the training."""
    if isinstance(stopped, Stopped):
        stopped.told_elsewhere = not trainer.is_global_zero
    if keep.path is None:
        return
    if keep.saved:
        stopped.add_note(
            f"stopped after {keep.saved} of {keep.recipe.rounds} rounds; the same fit with --resume "
            f"(resume=True) goes on from {keep.path}"
        )
    else:
        stopped.add_note(
            "stopped in the first round: nothing is saved yet, and a new fit begins afresh"
        )


def _trainer(recipe: Recipe, run: Run, keep: Checkpoint) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no banners
    logger: Any = False
    if run.tensorboard:
        need("tensorboard", "tensorboard")
        logger = TensorBoardLogger(str(run.folder), name="logs")
    devices = "auto" if run.devices == "auto" else _devices(run.devices)
    many = devices not in ("auto", 1) or run.nodes > 1
    most = max(os.cpu_count() or 1, 2)
    on_cpu = run.accelerator == "cpu" or not torch.accelerator.is_available()
    if on_cpu and isinstance(devices, int) and devices > most:
        raise OptionError(
            f"devices={devices}: each is a process on a processor of its own, and this machine has "
            f"{os.cpu_count()}"
        )
    try:
        return lightning.Trainer(
            max_epochs=recipe.rounds,
            accelerator=run.accelerator,
            devices=1 if devices == "auto" and not many else devices,
            num_nodes=whole("nodes", run.nodes),
            strategy="ddp" if many else "auto",
            precision=run.precision,  # type: ignore[arg-type]
            gradient_clip_val=recipe.clip,
            callbacks=[keep],
            logger=logger,
            log_every_n_steps=1,
            plugins=[SafeCheckpoints()],
            enable_progress_bar=bool(run.progress),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise OptionError(
            f"Lightning cannot run this (accelerator={run.accelerator!r}, devices={run.devices!r}): {error}"
        ) from error
