"""The training loop with Lightning: rounds of training and validation, checkpoints, and the best weights."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from gatewise.errors import OptionError, Stopped, TrainingError, need, out_of_memory
from gatewise.signals import handlers_restored, interruption_of
from gatewise.train import folder
from gatewise.train.checkpoint import SafeCheckpoints
from gatewise.train.folder import FolderLock
from gatewise.train.history import History, best_round, complete
from gatewise.train.objective import Objective, TrainingData
from gatewise.train.recipe import Recipe
from gatewise.train.resume import checkpoint_to_resume
from gatewise.train.run import Run
from gatewise.train.training import Training

SAVE_EVERY = 2.0  # seconds: a round may take less time than a save, which waits for the disk


def train(objective: Objective, training_data: TrainingData, run: Run) -> tuple[Any, History]:
    """The trained network and the history of its losses.

    The network has the weights of the round with the lowest validation loss, or of the last round without
    validation.

    Raises:
        TrainingError: the loss is not finite, or memory ran out.
        OptionError: Lightning cannot do what ``run`` asks for, another run is active in its folder, or the
            run to resume had other data or options.
        ModelFileError: the checkpoint is damaged or cannot be written.
        KeyboardInterrupt: a signal stopped the training; for SIGTERM the subclass :class:`Stopped`.
    """
    if run.prepared is not None:
        run.prepared(training_data)
    module = Training(objective, training_data.recipe)
    rounds = _Rounds(training_data, run)
    watchers = _watchers(run)
    trainer = _trainer(training_data.recipe, run, [rounds, *watchers])
    with ExitStack() as end:
        # only the first process of a training run locks the folder
        if run.path is not None and trainer.is_global_zero:
            (run.lock or end.enter_context(FolderLock(run.path))).acquire()
        checkpoint = checkpoint_to_resume(module, trainer, training_data, run)
        if checkpoint is not None:
            module.on_load_checkpoint(checkpoint)
            rounds.weights, rounds.saved = checkpoint["best"], len(module.history.train)
        finished = complete(module.history, training_data.recipe, rounds.validated)
        if checkpoint is None or not finished:
            _fit(module, training_data, trainer, rounds, resumed=checkpoint is not None)
    module.load_state_dict(rounds.weights)
    module.history.best = best_round(module.history, rounds.validated)
    module.history.warnings = [warning for each in watchers for warning in each.warnings]
    return module.network.cpu().eval(), module.history


class _Rounds(Checkpoint):
    """The callback after each round: keeps the best weights, writes the checkpoint, ends the training.

    Checkpoints are written only between rounds, because a run can be resumed exactly there: after the first and
    the last round, and after any other that ends ``SAVE_EVERY`` seconds or more after the last save.
    """

    def __init__(self, training_data: TrainingData, run: Run) -> None:
        self.recipe, self.validated = training_data.recipe, training_data.validation is not None
        self.path = None if run.path is None else folder.checkpoint_of(run.path)
        self.after_round = run.after_round
        self.recorded = asdict(training_data.record) | {"recipe": asdict(training_data.recipe)}
        self.weights: dict[str, Tensor] = {}
        self.saved = 0  # rounds in the checkpoint
        self.next_save = 0.0
        self.on_sigterm: Any = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        # Lightning's own handler would raise SystemExit and ignore the program's handler
        if self.on_sigterm is not None:
            signal.signal(signal.SIGTERM, self.on_sigterm)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        history: History = module.history
        if best_round(history, self.validated) == len(history.train) - 1:
            self.weights = module.best_weights()
        ended = trainer.should_stop or complete(history, self.recipe, self.validated)
        if self.path is not None and self._due(trainer, ended):
            trainer.save_checkpoint(self.path)
            self.saved, self.next_save = len(history.train), time.monotonic() + SAVE_EVERY
        if self.after_round is not None and trainer.is_global_zero:
            self.after_round(history)
        trainer.should_stop = trainer.should_stop or ended

    def _due(self, trainer: Any, ended: bool) -> bool:
        """Whether this round is saved. The first process decides, because all take part in a save."""
        due: bool = trainer.strategy.broadcast(ended or time.monotonic() >= self.next_save)
        return due

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"], checkpoint["run"] = self.weights, self.recorded

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        self.weights = checkpoint["best"]


def _fit(
    module: Training,
    training_data: TrainingData,
    trainer: lightning.Trainer,
    rounds: _Rounds,
    resumed: bool,
) -> None:
    with warnings.catch_warnings(), handlers_restored():
        # Lightning advises more worker processes, but one indexing operation makes a whole batch
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists.*")
        if training_data.validation is None:
            warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
        # Lightning 2.6 with torch 2.13 raises it in its own code
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
        if threading.current_thread() is threading.main_thread():
            rounds.on_sigterm = signal.getsignal(signal.SIGTERM)
        last = str(rounds.path) if resumed else None
        try:
            trainer.fit(module, training_data.training, training_data.validation, ckpt_path=last)
        except SystemExit as ended:
            stopped = interruption_of(ended)
            _note(stopped, rounds, trainer)
            raise stopped from None
        except KeyboardInterrupt as stopped:
            _note(stopped, rounds, trainer)
            raise
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise TrainingError(
                "there is not enough memory for this training: give a smaller batch, fewer hidden units or "
                "a shorter context"
            ) from error


def _note(stopped: KeyboardInterrupt, rounds: _Rounds, trainer: lightning.Trainer) -> None:
    """Adds a note to the exception: how to resume the run. Only the first process prints it."""
    if isinstance(stopped, Stopped):
        stopped.reported_elsewhere = not trainer.is_global_zero
    if rounds.path is None:
        return
    if rounds.saved:
        stopped.add_note(
            f"stopped after {rounds.saved} of {rounds.recipe.rounds} rounds; the same fit with resume=True "
            f"(--resume) continues from {rounds.path}"
        )
    else:
        stopped.add_note(
            "stopped in the first round: there is no checkpoint yet, so a new fit starts from the beginning"
        )


def _watchers(run: Run) -> list[Any]:
    """The callback of the training monitor, if the run has one."""
    if not run.monitor:
        return []
    from gatewise.gates.callback import MonitorCallback  # few runs have one

    return [MonitorCallback()]


def _trainer(recipe: Recipe, run: Run, callbacks: list[Callback]) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no banners
    logger: Any = False
    if run.tensorboard:
        need("tensorboard", "tensorboard")
        logger = TensorBoardLogger(str(run.out), name="logs")
    devices = run.devices if run.devices == "auto" else int(run.devices)
    many = devices not in ("auto", 1) or run.nodes > 1
    most = max(os.cpu_count() or 1, 2)
    on_cpu = run.accelerator == "cpu" or not torch.accelerator.is_available()
    if on_cpu and isinstance(devices, int) and devices > most:
        raise OptionError(
            f"devices={devices} needs a CPU core for each process, and this machine has {os.cpu_count()}: "
            f"give a smaller number"
        )
    try:
        return lightning.Trainer(
            max_epochs=recipe.rounds,
            accelerator=run.accelerator,
            devices=1 if devices == "auto" and not many else devices,
            num_nodes=int(run.nodes),
            strategy="ddp" if many else "auto",
            precision=run.precision,
            gradient_clip_val=recipe.clip,
            callbacks=callbacks,
            logger=logger,
            log_every_n_steps=1,
            plugins=[SafeCheckpoints()],
            enable_progress_bar=not run.quiet,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise OptionError(
            f"Lightning cannot run this (accelerator={run.accelerator!r}, devices={run.devices!r}): {error}"
        ) from error
