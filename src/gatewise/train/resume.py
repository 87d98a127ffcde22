"""Resuming a run: checks that its checkpoint is of the same run and is valid."""

from __future__ import annotations

import copy
from typing import Any

import lightning
import torch
from packaging.version import Version
from torch import Tensor

from gatewise.errors import ModelFileError
from gatewise.train import folder
from gatewise.train.checkpoint import check_like, load
from gatewise.train.objective import TrainingData
from gatewise.train.record import check_same
from gatewise.train.run import Run
from gatewise.train.training import Training


def checkpoint_to_resume(
    module: Training, trainer: lightning.Trainer, training_data: TrainingData, run: Run
) -> dict[str, Any] | None:
    """The checkpoint that the run continues from; None for a run that starts from the beginning.

    A run that starts from the beginning removes the checkpoint of an earlier run.

    Raises:
        OptionError: the checkpoint's run had other data or options.
        ModelFileError: the checkpoint is damaged.
    """
    if run.path is None:
        return None
    path = folder.checkpoint_of(run.path)
    if not (run.resume and path.exists()):
        if trainer.is_global_zero:
            folder.clear(run.path)
        return None
    checkpoint = load(path)
    check_same(checkpoint.get("run"), training_data.record, training_data.recipe, run.path)
    try:
        _check(checkpoint, module, trainer, training_data)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ModelFileError(
            f"the checkpoint {path} does not fit this run: {error}. Fit without --resume "
            f"(resume=False)"
        ) from error
    return checkpoint


def _check(
    checkpoint: dict[str, Any],
    module: Training,
    trainer: lightning.Trainer,
    training_data: TrainingData,
) -> None:
    """Raises ValueError if this training run could not have written the checkpoint."""
    rounds = training_data.recipe.rounds
    losses = checkpoint.get("losses")
    listed = isinstance(losses, list) and losses and isinstance(losses[0], list)
    done = len(losses[0]) if listed else 0  # type: ignore[index]
    loops = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    moments, schedule = _optimizer_state(module, checkpoint["optimizer_states"][0]["state"])
    expected: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": "",
        "state_dict": module.state_dict(),
        "best": module.state_dict(),
        "loops": {name: getattr(trainer, name).state_dict() for name in loops},
        "callbacks": {},
        "optimizer_states": [moments],
        "lr_schedulers": [schedule],
        "losses": [[0.0] * done, [0.0] * done if training_data.validation is not None else []],
    }
    found = {name: part for name, part in checkpoint.items() if name != "run"}
    # a precision plugin may add an entry, such as the loss scale for float16
    added = {name: part for name, part in found.items() if name not in expected}
    for name, part in added.items():
        if name != type(trainer.precision_plugin).__qualname__:
            raise ValueError(f"it has an unknown entry {name!r}")
        check_like(part, trainer.precision_plugin.state_dict(), 1 << 40, name)
    parts = (training_data.training, training_data.validation)
    steps = [len(part) for part in parts if part is not None]
    most = rounds * max(steps) + len(list(module.network.parameters())) + 2
    check_like({name: part for name, part in found.items() if name not in added}, expected, most)
    Version(checkpoint["pytorch-lightning_version"])
    if not 1 <= done <= rounds:
        raise ValueError(f"it has {done} rounds of {rounds}")
    counted = checkpoint["epoch"], checkpoint["global_step"]
    if counted != (done - 1, done * steps[0]):
        raise ValueError(f"its epoch and step, {counted}, are not those of {done} rounds")


def _optimizer_state(module: Training, found: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Example states of optimizer and schedule, for their structure; their values do not matter.

    Args:
        found: the optimizer's state in the checkpoint. The example has a state for the same weights.
    """
    network = copy.deepcopy(module.network)
    optimizer, schedule = module.objective.optimizer(network, module.recipe)
    before = schedule.state_dict()
    for at, weight in enumerate(network.parameters()):
        weight.grad = torch.zeros_like(weight) if at in found else None
    optimizer.step()
    state = optimizer.state_dict()
    state["state"] = {
        at: {name: _like(part) for name, part in each.items()}
        for at, each in state["state"].items()
    }
    return state, before


def _like(part: Any) -> Any:
    return part.detach().cpu() if isinstance(part, Tensor) else part
