"""Engines, which run a cell through time in one call: the C++ core on the CPU, the time loops on a GPU."""

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
    """The arguments of an engine's call. The tensors' shapes must fit each other."""

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
        """P, or 0 without a projection."""
        projection = self.weights.projection
        return 0 if projection is None else projection.shape[0]

    def state_sizes(self) -> list[int]:
        """The width of each state."""
        units = self.hidden_size
        return [self.proj_size or units, *[units] * (len(self.cell.state) - 1)]

    def tensors(self) -> list[Tensor | None]:
        """All tensors that may need a gradient: x, the states and the weights."""
        return [self.x, *self.state, *self.weights.listed(self.cell)]


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the kernels compute, and in which pre-activations and the CPU's saved activations are."""
    return torch.promote_types(dtype, torch.float32)


def unfit(spec: Spec) -> str | None:
    """Why no engine can run ``spec``, as the end of the sentence "it ...", or None."""
    if spec.transformed:
        return "has no rule for vmap, jvp and other transforms of torch.func"
    if spec.recorded:
        return "has no operator that torch.jit.trace or ONNX can record"
    if not spec.input_size or not spec.hidden_size:
        return "needs at least one input and one unit"
    if spec.trace and spec.differentiated and (reason := _undifferentiable(spec)):
        return f"cannot trace a call that needs a gradient {reason}"
    return unnormalised(spec.cell) if spec.layer_norm else None


def _undifferentiable(spec: Spec) -> str | None:
    """Why no engine can trace a call that needs a gradient, as the end of a sentence, or None."""
    if spec.device.type != "cpu":
        return f"on '{spec.device.type}'"
    return "in a graph of torch.export or another tracer" if spec.in_graph else None


def unnormalised(cell: Cell) -> str | None:
    """Why no engine can normalise the cell's pre-activations, as the end of the sentence "it ...", or None."""
    if cell.second_stage:
        return (
            f"normalises the recurrent product of all gates at once, and '{cell.name}' computes that of "
            f"{', '.join(cell.second_stage)} later, from a value of the same step"
        )
    plan = layout(cell)
    if not plan.from_input == plan.from_state == len(cell.gates):
        return f"normalises every part of every gate, and '{cell.name}' does not use them all"
    return None


class Engine(Protocol):
    """The functions of an engine. Their results have no gradient; gradient.py adds it."""

    @property
    def DTYPES(self) -> tuple[torch.dtype, ...]:  # noqa: N802  a constant of a module
        """The dtypes in which it computes."""

    def unusable(self, cell: Cell) -> str | None:
        """Why it cannot run the cell, as the end of the sentence "it ...", or None."""

    def forward(self, given: Arguments) -> list[Tensor]:
        """The output and the final states."""

    def forward_saving(self, given: Arguments) -> list[Tensor]:
        """The output, the final states, and the saved activations that ``backward`` needs."""

    def traced(self, given: Arguments) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The output and the final states; and every named value, T×B×H."""

    def activations_like(self, given: Arguments) -> Tensor:
        """An uninitialised tensor for the saved activations. The arguments may be fake tensors."""

    def backward(
        self,
        given: Arguments,
        activations: Tensor,
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """The gradients of x, the states and the weights, in that order; None if not ``wanted``.

        ``grads`` are the gradients of the output and the final states."""


# For each type of device, the module that is the engine.
_ENGINES = {"cpu": "native.calls", "cuda": "gpu.calls"}


def engine_for(device: torch.device) -> Engine | None:
    """The engine of a type of device, or None. It is imported at its first use."""
    if device.type not in _ENGINES:
        return None
    module = importlib.import_module(f"gatewise.backends.{_ENGINES[device.type]}")
    return cast(Engine, module)
