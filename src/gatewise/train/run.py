"""Where and with what a training runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from gatewise.arguments import AnyPath, Count, Kind, integer, options_of
from gatewise.errors import OptionError
from gatewise.options import whole
from gatewise.train.folder import Claim
from gatewise.train.history import History

_MEETING_PLACE = {"MASTER_ADDR", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS"}


def number_of_devices(name: str, devices: Any) -> int | str:
    """ "auto", or a positive integer.

    Raises:
        OptionError: it is neither.
    """
    if isinstance(devices, str) and devices == "auto":
        return "auto"
    try:
        return whole(name, devices)
    except OptionError as error:
        raise OptionError(
            f"{name} must be 'auto' or a positive integer, not {devices!r}"
        ) from error


Devices = Annotated[
    int | str,
    Kind(
        number_of_devices,
        lambda text: text if text == "auto" else integer(text),
        "auto or an integer",
        "N",
    ),
]


@dataclass(frozen=True)
class Run:
    """Where and with what a training runs; of all this ``precision`` alone changes what is learned.

    Args:
        out: the folder for checkpoints, the model and its report. Without one nothing is written.
        resume: go on from the checkpoint in ``out``, which must be of the same data and options; begin
            where there is none.
        devices: "auto" for one, or how many processes or GPUs on each node.
        nodes: how many machines.
        accelerator: "auto", "cpu", "gpu" or another one that Lightning knows.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        tensorboard: write logs for TensorBoard to ``out``.
        quiet: show no progress bar.
        claim: to the folder ``out``, for one who writes there after the training too; the training takes
            it. Without one it has a claim of its own, which ends with it.
        prepared: called with the batches and the recipe (:class:`gatewise.train.objective.Material`) before
            the training.
        after_round: called with the history after each round, in the first process; an exception that it
            raises ends the training.
    """

    out: AnyPath | None = None
    resume: bool = False
    devices: Devices = "auto"
    nodes: Count = 1
    accelerator: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    tensorboard: bool = False
    quiet: bool = False
    claim: Claim | None = None
    prepared: Callable[[Any], None] | None = None
    after_round: Callable[[History], None] | None = None

    def __post_init__(self) -> None:
        for name, option in options_of(Run).items():
            option.checked(getattr(self, name))
        if self.tensorboard and self.out is None:
            raise OptionError(
                "tensorboard writes its logs to the run's folder, and this run has none: give out="
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
        return None if self.out is None else Path(self.out)
