"""One sequence at a time: a cell's run and its gradient on arrays that are made once.

Where each sequence is followed by a step of learning, as in on-line training, a call through tensors
and autograd takes longer than the run itself. Here a sequence's call is the core's alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gatewise.backends.native.calls import STORAGES
from gatewise.backends.native.cells import address, unusable
from gatewise.backends.native.library import core
from gatewise.cells.language import Cell
from gatewise.errors import BackendError, ShapeError

_LANES = 64  # bytes; the widest vector


class Online:
    """A cell over one sequence after another, from zero states, in float32.

    The arrays are to be written and read in place, and are never replaced.

    Args:
        cell: the cell.
        inputs: I.
        units: H.
        longest: the most steps that a sequence may have.

    Attributes:
        x: longest×I; a sequence's input, from its first row on.
        output: longest×H; what ``forward`` finds.
        grad_output: longest×H; the loss's gradient of the output. ``backward`` reads as many rows as
            the sequence has steps.
        weights: by name: "input" G·H×I, "recurrent" G·H×F, "input_bias" G·H, and the cell's per-unit
            parameters, each H.
        gradients: the same of their gradients, which ``backward`` writes.

    Raises:
        BackendError: the core cannot run the cell.
    """

    def __init__(self, cell: Cell, inputs: int, units: int, longest: int) -> None:
        import torch

        if reason := unusable(cell):
            raise BackendError(f"on-line training needs gatewise's own kernels, and they {reason}")
        self.cell, self.longest = cell, longest
        stacked, fed = len(cell.gates) * units, len(cell.feedback) * units
        shapes: dict[str, tuple[int, ...]] = {
            "input": (stacked, inputs),
            "recurrent": (stacked, fed),
        }
        shapes |= {"input_bias": (stacked,)} | dict.fromkeys(cell.params, (units,))
        self.weights: Mapping[str, np.ndarray] = {k: _aligned(shape) for k, shape in shapes.items()}
        self.gradients: Mapping[str, np.ndarray] = {
            k: _aligned(shape) for k, shape in shapes.items()
        }
        self.x, self.output = _aligned((longest, inputs)), _aligned((longest, units))
        self.grad_output = _aligned((longest, units))
        self._states = [_aligned((1, units)) for _ in cell.state]
        self._sizes = (address(cell), STORAGES[torch.float32]), (inputs, units)
        one = self._call(1)
        one.weights(self._addresses(self.weights))
        row, beside = one.activations_size()
        self._tape = _aligned(((longest + 1) * row + beside,))
        self._calls: dict[int, Any] = {}

    def forward(self, steps: int) -> np.ndarray:
        """Runs the first ``steps`` rows of ``x``; gives these rows of ``output``.

        Raises:
            ShapeError: there are not so many.
        """
        call = self._calls.get(steps)
        if call is None:
            call = self._calls[steps] = self._prepared(steps)
        call.forward()
        return self.output[:steps]

    def backward(self, steps: int) -> None:
        """After ``forward`` of as many steps: the gradients of all weights, by the same weights."""
        self._calls[steps].backward()

    def _prepared(self, steps: int) -> Any:
        if not 1 <= steps <= self.longest:
            raise ShapeError(f"a sequence of {steps} steps; this was made for 1 to {self.longest}")
        call = self._call(steps)
        call.x(_steps(self.x))
        call.output(_steps(self.output))
        call.weights(self._addresses(self.weights))
        call.final_state([(s.ctypes.data, s.shape[1]) for s in self._states])
        call.activations(self._tape.ctypes.data)
        call.grad_output(_steps(self.grad_output))
        call.grad_weights(self._addresses(self.gradients))
        return call

    def _call(self, steps: int) -> Any:
        kind, (inputs, units) = self._sizes
        return core().Call(*kind, steps, 1, inputs, units, 0, False, 1)

    def _addresses(self, arrays: Mapping[str, np.ndarray]) -> list[int]:
        """In the core's order; the second bias, projection and gains are none."""
        first = [arrays[name].ctypes.data for name in ("input", "recurrent", "input_bias")]
        return [*first, 0, 0, 0, 0, *(arrays[name].ctypes.data for name in self.cell.params)]


def _steps(array: np.ndarray) -> tuple[int, int, int]:
    return array.ctypes.data, array.shape[1], array.shape[1]


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros that begin where a vector does."""
    count = int(np.prod(shape))
    room = np.zeros(count * 4 + _LANES, np.uint8)
    start = -room.ctypes.data % _LANES
    return room[start : start + count * 4].view(np.float32).reshape(shape)
