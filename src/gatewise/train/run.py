"""The options of a training run: output folder, devices, precision."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from gatewise.arguments import AnyPath, Count, Kind, options_of, parse_integer
from gatewise.errors import OptionError
from gatewise.options import integer
from gatewise.train.folder import FolderLock
from gatewise.train.history import History

# At least one of these variables is set in the processes of a launcher for several nodes.
_LAUNCHER_VARIABLES = {"MASTER_ADDR", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS"}


def number_of_devices(name: str, devices: Any) -> int | str:
    """The number of devices: "auto" or a positive integer.

    Raises:
        OptionError: ``devices`` is neither.
    """
    if isinstance(devices, str) and devices == "auto":
        return "auto"
    try:
        return integer(name, devices)
    except OptionError as error:
        raise OptionError(
            f"{name} must be 'auto' or a positive integer, not {devices!r}"
        ) from error


Devices = Annotated[
    int | str,
    Kind(
        number_of_devices,
        lambda text: text if text == "auto" else parse_integer(text),
        "auto or an integer",
        "N",
    ),
]


@dataclass(frozen=True)
class Run:
    """The options of a training run. Only ``precision`` changes the result.

    Args:
        out: the folder for checkpoints, the model and its report. In Python, nothing is written without
            it.
        resume: continue from the checkpoint in ``out``, whose run must have had the same data and options.
            Without a checkpoint the run starts from the beginning.
        devices: the number of processes or GPUs on each node; "auto" is one.
        nodes: the number of machines.
        accelerator: "auto", "cpu", "gpu" or another accelerator of Lightning.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        tensorboard: write TensorBoard logs to ``out``.
        monitor: watch the gates while training. Vanishing and exploding gradients, saturated gates and dead
            units are warned of, and named in the report.
        quiet: hide the progress: the bar of a terminal, or the lines about rounds elsewhere. In Python there are
            no lines.
        lock: a lock on the folder ``out``, for a caller that also writes there after the training. ``fit``
            acquires it and the caller releases it. Without it ``fit`` uses a lock of its own.
        prepared: called with the batches and the recipe (:class:`gatewise.train.objective.TrainingData`)
            before the training.
        after_round: called with the history after each round, in the first process. If it raises an
            exception, the training ends.
    """

    out: AnyPath | None = None
    resume: bool = False
    devices: Devices = "auto"
    nodes: Count = 1
    accelerator: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    tensorboard: bool = False
    monitor: bool = False
    quiet: bool = False
    lock: FolderLock | None = None
    prepared: Callable[[Any], None] | None = None
    after_round: Callable[[History], None] | None = None

    def __post_init__(self) -> None:
        for name, option in options_of(Run).items():
            option.checked(getattr(self, name))
        if self.tensorboard and self.out is None:
            raise OptionError(
                "tensorboard=True writes logs to the run's folder, and this run has no folder: give out="
            )
        if self.nodes > 1 and not _LAUNCHER_VARIABLES & os.environ.keys():
            raise OptionError(
                f"nodes={self.nodes} needs a launcher: start the processes with torchrun or Slurm's srun, or "
                f"set MASTER_ADDR, MASTER_PORT and NODE_RANK for one process on each node"
            )

    @property
    def path(self) -> Path | None:
        """The folder ``out`` as a path; None without one."""
        return None if self.out is None else Path(self.out)
