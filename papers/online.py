"""On-line training: the forward and backward pass of a cell over one sequence, on arrays that are made once.

On-line training changes the weights after each sequence. A call through tensors and autograd would take longer
than the computation, so the C++ core is called directly here.
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

_ALIGNMENT = 64  # bytes; the width of the widest vector


class Online:
    """A cell that runs one sequence per call, from zero states, in float32.

    Callers write and read the arrays in place. The arrays are never replaced.

    Args:
        cell: the cell.
        inputs: I.
        units: H.
        longest: the largest number of steps of a sequence.

    Attributes:
        x: longest×I, the input. A sequence of T steps is in the first T rows.
        output: longest×H, the output, which ``forward`` writes.
        grad_output: longest×H, the gradient of the loss with respect to the output, which ``backward``
            reads.
        weights: the weights by name: "input" G·H×I, "recurrent" G·H×F, "input_bias" G·H, and the cell's
            per-unit parameters, H each.
        gradients: the gradients of the weights by name, which ``backward`` writes.

    Raises:
        BackendError: the core cannot run the cell.
    """

    def __init__(self, cell: Cell, inputs: int, units: int, longest: int) -> None:
        import torch

        if reason := unusable(cell):
            raise BackendError(f"on-line training needs the backend 'cpu', which {reason}")
        self.cell, self.longest = cell, longest
        rows = len(cell.gates) * units
        shapes: dict[str, tuple[int, ...]] = {
            "input": (rows, inputs),
            "recurrent": (rows, len(cell.feedback) * units),
        }
        shapes |= {"input_bias": (rows,)} | dict.fromkeys(cell.params, (units,))
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
        per_row, fixed = one.activations_size()
        self._activations = _aligned(((longest + 1) * per_row + fixed,))
        self._calls: dict[int, Any] = {}

    def forward(self, steps: int) -> np.ndarray:
        """Runs the first ``steps`` rows of ``x`` and returns these rows of ``output``.

        Raises:
            ShapeError: ``steps`` is not from 1 to ``longest``.
        """
        call = self._calls.get(steps)
        if call is None:
            call = self._calls[steps] = self._prepared(steps)
        call.forward()
        return self.output[:steps]

    def backward(self, steps: int) -> None:
        """Computes the gradients of all weights. ``forward`` with the same number of steps and the same weights
        must be the last call before it."""
        self._calls[steps].backward()

    def _prepared(self, steps: int) -> Any:
        if not 1 <= steps <= self.longest:
            raise ShapeError(f"steps must be from 1 to longest={self.longest}, not {steps}")
        call = self._call(steps)
        call.x(_steps(self.x))
        call.output(_steps(self.output))
        call.weights(self._addresses(self.weights))
        call.final_state([(s.ctypes.data, s.shape[1]) for s in self._states])
        call.activations(self._activations.ctypes.data)
        call.grad_output(_steps(self.grad_output))
        call.grad_weights(self._addresses(self.gradients))
        return call

    def _call(self, steps: int) -> Any:
        kind, (inputs, units) = self._sizes
        return core().Call(*kind, steps, 1, inputs, units, 0, False, 1, 0)

    def _addresses(self, arrays: Mapping[str, np.ndarray]) -> list[int]:
        """The addresses in the core's order; 0 for the recurrent bias, the projection and the norm weights."""
        first = [arrays[name].ctypes.data for name in ("input", "recurrent", "input_bias")]
        return [*first, 0, 0, 0, 0, *(arrays[name].ctypes.data for name in self.cell.params)]


def _steps(array: np.ndarray) -> tuple[int, int, int]:
    return array.ctypes.data, array.shape[1], array.shape[1]


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros at an address that is a multiple of _ALIGNMENT."""
    count = int(np.prod(shape))
    memory = np.zeros(count * 4 + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + count * 4].view(np.float32).reshape(shape)
