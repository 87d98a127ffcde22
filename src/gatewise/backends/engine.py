"""What runs a cell through time in one call: the native core on the CPU, the time loops on a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from gatewise.backends.contract import Masks, Spec, Weights
from gatewise.cells.language import Cell
from gatewise.emit.steps import layout


class Arguments(NamedTuple):
    """What an engine's call is given: tensors that fit each other, and what they do not say."""

    cell: Cell
    reverse: bool
    x: Tensor
    state: tuple[Tensor, ...]
    weights: Weights
    masks: Masks

    @property
    def hidden_size(self) -> int:
        return self.weights.input.shape[0] // len(self.cell.gates)

    @property
    def proj_size(self) -> int:
        """P, or 0 where there is no projection."""
        projection = self.weights.projection
        return 0 if projection is None else projection.shape[0]

    def tensors(self) -> list[Tensor | None]:
        """All of which a gradient may be asked for: x, the states and the weights."""
        return [self.x, *self.state, *self.weights.listed(self.cell)]


def unfit(spec: Spec) -> str | None:
    """What no engine can do, as the end of the sentence "it ...", or None."""
    if spec.transformed:
        return "has no rule for vmap, jvp and other transforms of torch.func"
    if spec.recorded:
        return "is no operator that torch.jit.trace and ONNX know"
    if not spec.input_size or not spec.hidden_size:
        return "needs at least one input and one unit"
    if spec.trace and spec.differentiated:
        return "does not differentiate what it traces"
    return unnormalised(spec.cell) if spec.layer_norm else None


def unnormalised(cell: Cell) -> str | None:
    """Why no engine can normalise the cell's pre-activations, as the end of the sentence "it ...", or None."""
    if cell.second_stage:
        return (
            f"normalises the recurrent product of all gates at once, and '{cell.name}' takes that of "
            f"{', '.join(cell.second_stage)} later, with a value of the same step"
        )
    plan = layout(cell)
    if not plan.from_input == plan.from_state == len(cell.gates):
        return f"normalises every part of every gate, and '{cell.name}' does not use them all"
    return None


class Engine(Protocol):
    """Calls on tensors that fit each other; what they give has no gradient of its own."""

    @property
    def DTYPES(self) -> tuple[torch.dtype, ...]:  # noqa: N802  a constant of a module
        """What it computes in."""

    def unusable(self, cell: Cell) -> str | None:
        """Why it cannot have the cell, as the end of the sentence "it ...", or None."""

    def forward(self, given: Arguments) -> list[Tensor]:
        """The output and each state at its end."""

    def forward_saving(self, given: Arguments) -> list[Tensor]:
        """The same, and the saved activations that ``backward`` needs."""

    def traced(self, given: Arguments) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The output and the states, and every named value, each T×B×H."""

    def activations_like(self, given: Arguments) -> Tensor:
        """Room for the saved activations of a run. Only its size matters, so the arguments may be fake
        tensors."""

    def backward(
        self,
        given: Arguments,
        activations: Tensor,
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """The gradients of x, the states and the weights, in that order; None where not ``wanted``.

        ``grads`` are those of the output and of the final states."""


# Each is a module, or what a module has by that name.
_ENGINES = {"cpu": ("native.calls", None), "cuda": ("gpu.call", "engine")}


def engine_for(device: torch.device) -> Engine | None:
    """The engine of a kind of device, imported when first asked for."""
    if device.type not in _ENGINES:
        return None
    place, name = _ENGINES[device.type]
    module = importlib.import_module(f"gatewise.backends.{place}")
    return cast(Engine, getattr(module, name) if name else module)
