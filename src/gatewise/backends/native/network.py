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
from gatewise.backends.native.cells import address
from gatewise.backends.native.library import core
from gatewise.cells.language import Cell


class Network:
    """One module's layers as the core runs them.

    Args:
        cell, sizes: the cell, and the module's input_size, hidden_size, proj_size, num_layers and
            bidirectional.
        state_sizes: the width of each of the cell's states.
        shapes: of every weight, in the order in which ``run`` takes them: for each layer and
            direction those of contract.Weights, None for what there is not, and then the per-unit
            parameters.
        dtype: of everything.
    """

    def __init__(
        self,
        cell: Cell,
        sizes: tuple[int, int, int, int, bool],
        state_sizes: Sequence[int],
        shapes: Sequence[tuple[int, ...] | None],
        dtype: torch.dtype,
    ) -> None:
        self._made_of = (cell, sizes, state_sizes, shapes, dtype)
        self.dtype = dtype
        self._native = core().Network(address(cell), STORAGES[dtype], *sizes)
        self._stack = sizes[3] * (1 + sizes[4])
        self._state_sizes = tuple(state_sizes)
        self._output_size = state_sizes[0] * (1 + sizes[4])
        self._shapes = tuple(shapes)
        self._checked: list[Any] = []
        self._addresses: list[int] = []

    def __reduce__(self) -> Any:
        return Network, self._made_of  # a copied or unpickled module makes its own

    def run(
        self,
        x: Tensor,
        state: Sequence[Tensor] | None,
        weights: Sequence[Tensor | None],
        batch_first: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """The output, laid out as ``x``, and the final states; None if a weight is not as it was.

        x is T×B×I, or B×T×I if ``batch_first``; ``x`` and ``state`` are checked.
        """
        if not self._as_made(weights):
            return None
        if x.stride(2) != 1:
            x = x.contiguous()
        outer, inner, _ = x.shape
        width = self._output_size
        output = x.new_empty(outer, inner, width)
        if batch_first:
            steps, batch = inner, outer
            read = (x.data_ptr(), x.stride(1), x.stride(0))
            written = (output.data_ptr(), width, inner * width)
        else:
            steps, batch = outer, inner
            read = (x.data_ptr(), x.stride(0), x.stride(1))
            written = (output.data_ptr(), inner * width, width)
        final = self._final(x, batch)
        given = [] if state is None else [s.contiguous() for s in state]
        self._native.run(
            *(steps, batch, torch.get_num_threads(), read, written),
            *([s.data_ptr() for s in given], [s.data_ptr() for s in final], self._addresses),
        )
        return output, final

    def _final(self, x: Tensor, batch: int) -> tuple[Tensor, ...]:
        """Room for the final states: taken at once where they are of one size, which is quicker."""
        sizes = self._state_sizes
        if len(set(sizes)) == 1:
            return x.new_empty(len(sizes), self._stack, batch, sizes[0]).unbind()
        return tuple([x.new_empty(self._stack, batch, n) for n in sizes])

    def _as_made(self, weights: Sequence[Tensor | None]) -> bool:
        """Whether every weight has its shape, type and place; what was found so isn't looked into twice."""
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
                and weight.dtype == self.dtype
                and weight.device.type == "cpu"
                and weight.is_contiguous()
                and not weight.is_neg()
            ):
                return False
        self._checked = seen
        self._addresses = [0 if w is None else w.data_ptr() for w in weights]
        return True
