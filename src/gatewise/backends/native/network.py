"""A whole module in one call of the core: all layers and directions, where no gradient is asked for.

A call of one step on a small layer takes a few microseconds in the core, so that what is done on the
way there counts: the core itself looks at the input and the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gatewise.backends.contract import PLAIN
from gatewise.backends.native.calls import STORAGES
from gatewise.backends.native.cells import address
from gatewise.backends.native.library import core
from gatewise.cells.language import Cell


class Network:
    """One module's layers as the core runs them.

    Args:
        cell, sizes: the cell, and the module's input_size, hidden_size, proj_size, num_layers and
            bidirectional.
        weights: name and shape of each weight, for each layer and direction those of
            contract.Weights and then the per-unit parameters; of what there is not, None and None.
        dtype: of everything.

    Attributes:
        run: a function of the input, T×B×I, or B×T×I if it is batch first; the initial state, a
            tuple of several, or None; the weights by name; whether it is batch first; the number
            of threads; the address of the lengths, int64, or 0; and for resets, in one direction,
            the address of booleans laid out as the input and their two strides, or None. Gives
            the output, laid out as the input, and the final state or states; None if the input, a
            state, a weight or a length is not what this network takes.
    """

    def __init__(
        self,
        cell: Cell,
        sizes: tuple[int, int, int, int, bool],
        weights: Sequence[tuple[str, tuple[int, ...]] | tuple[None, None]],
        dtype: torch.dtype,
    ) -> None:
        self._made_of = (cell, sizes, weights, dtype)
        self.dtype = dtype
        names, shapes = ([each[k] for each in weights] for k in range(2))
        native = core().Network(
            *(address(cell), STORAGES[dtype], *sizes, names, shapes, dtype, list(PLAIN))
        )
        self.run: Callable[..., Any] = native.run

    def __reduce__(self) -> Any:
        return Network, self._made_of  # a copied or unpickled module makes its own
