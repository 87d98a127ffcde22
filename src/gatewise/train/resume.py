"""A run taken up from its checkpoint: whether it is the same run, and a checkpoint that it could have written."""

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
from gatewise.train.objective import Material, Training
from gatewise.train.record import check_same
from gatewise.train.run import Run


def checkpoint_to_resume(
    module: Training, trainer: lightning.Trainer, material: Material, run: Run
) -> dict[str, Any] | None:
    """The checkpoint that the run goes on from, or None where it begins; an earlier run's checkpoint is
    removed where it begins.

    Raises:
        OptionError: the checkpoint is of other data or options.
        ModelFileError: it is damaged.
    """
    if run.path is None:
        return None
    path = folder.checkpoint_of(run.path)
    if not (run.resume and path.exists()):
        if trainer.is_global_zero:
            folder.clear(run.path)
        return None
    checkpoint = load(path)
    check_same(checkpoint.get("run"), material.record, material.recipe, run.path)
    try:
        _check(checkpoint, module, trainer, material)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ModelFileError(
            f"the checkpoint {path} does not fit this run: {error}. Fit without --resume "
            f"(resume=False)"
        ) from error
    return checkpoint


def _check(
    checkpoint: dict[str, Any], module: Training, trainer: lightning.Trainer, material: Material
) -> None:
    """Raise ValueError where the checkpoint is not one that this training could have written."""
    rounds = material.recipe.rounds
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
        "losses": [[0.0] * done, [0.0] * done if material.validation is not None else []],
    }
    found = {name: part for name, part in checkpoint.items() if name != "run"}
    # what a kind of precision adds, such as the scale of losses in float16
    added = {name: part for name, part in found.items() if name not in expected}
    for name, part in added.items():
        if name != type(trainer.precision_plugin).__qualname__:
            raise ValueError(f"it has a part {name!r} that is not known")
        check_like(part, trainer.precision_plugin.state_dict(), 1 << 40, name)
    parts = (material.training, material.validation)
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
    """What the states of optimizer and schedule are like after a step of those weights that ``found``
    has a state of; values do not matter."""
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
