"""A whole module in one call of the core: all layers and directions, where no gradient is asked for.

A call of one step on a small layer takes a few microseconds in the core; what is done here on the way
there is kept as short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gatewise.backends.native.calls import STORAGES
from gatewise.backends.native.cells import address, unusable
from gatewise.backends.native.library import core
from gatewise.cells.language import Cell
from gatewise.errors import BackendError


class Network:
    """One module's layers as the core runs them.

    Args:
        cell, input_size, hidden_size, proj_size, num_layers, bidirectional: the module's.
        state_sizes: the width of each of the cell's states.
        shapes: of every weight, in the order in which ``run`` takes them: for each layer and
            direction those of backends.contract.Weights with None for what there is not, the
            per-unit parameters last.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        proj_size: int,
        num_layers: int,
        bidirectional: bool,
        state_sizes: Sequence[int],
        shapes: Sequence[tuple[int, ...] | None],
        dtype: torch.dtype,
    ) -> None:
        sizes = (input_size, hidden_size, proj_size, num_layers, bidirectional)
        self._native = core().Network(address(cell), STORAGES[dtype], *sizes)
        self._stack = num_layers * (1 + bidirectional)
        self._state_sizes = tuple(state_sizes)
        self._output_size = state_sizes[0] * (1 + bidirectional)
        self._shapes = tuple(shapes)
        self._dtype = dtype
        self._checked: list[Any] = []
        self._addresses: list[int] = []

    def run(
        self,
        x: Tensor,
        state: Sequence[Tensor] | None,
        weights: Sequence[Tensor | None],
        lengths: Tensor | None,
        batch_first: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """The output, laid out as ``x``, and the final states; None if a weight is not as it was.

        x is T×B×I, or B×T×I if ``batch_first``; lengths are checked int64; state is checked.
        """
        if not self._as_checked(weights):
            return None
        outer, inner, _ = x.shape
        if x.stride(2) != 1:
            x = x.contiguous()
        output = torch.empty(outer, inner, self._output_size, dtype=self._dtype)
        x_steps = (x.data_ptr(), x.stride(0), x.stride(1))
        out_steps = (output.data_ptr(), inner * self._output_size, self._output_size)
        steps, batch = outer, inner
        if batch_first:
            steps, batch = inner, outer
            x_steps = (x_steps[0], x_steps[2], x_steps[1])
            out_steps = (out_steps[0], out_steps[2], out_steps[1])
        final = tuple(
            [torch.empty(self._stack, batch, n, dtype=self._dtype) for n in self._state_sizes]
        )
        given = [] if state is None else [s.contiguous() for s in state]
        self._native.run(
            *(steps, batch, torch.get_num_threads(), x_steps, out_steps),
            *([s.data_ptr() for s in given], [s.data_ptr() for s in final]),
            *(self._addresses, 0 if lengths is None else lengths.data_ptr()),
        )
        return output, final

    def _as_checked(self, weights: Sequence[Tensor | None]) -> bool:
        """Whether every weight has its shape, type and place; what was found so is not looked at twice."""
        seen = [
            None if w is None else (w.data_ptr(), w.shape, w.dtype, w.is_contiguous())
            for w in weights
        ]
        if seen == self._checked:
            return True
        for weight, shape in zip(weights, self._shapes, strict=True):
            if (weight is None) != (shape is None):
                return False
            if weight is not None and not (
                weight.shape == shape
                and weight.dtype == self._dtype
                and weight.device.type == "cpu"
                and weight.is_contiguous()
            ):
                return False
        self._checked = seen
        self._addresses = [0 if w is None else w.data_ptr() for w in weights]
        return True


def usable(cell: Cell, dtype: torch.dtype) -> bool:
    """Whether the core is there and can have ``cell``."""
    if dtype not in STORAGES:
        return False
    try:
        core()
    except BackendError:
        return False
    return unusable(cell) is None
