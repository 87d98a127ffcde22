"""All stacked layers and directions in one call of the core; with gradients, one layer in one direction.

In the core, one step of a small layer takes a few microseconds. To keep the whole call short, the core itself
checks the input and the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gatewise.backends.contract import PLAIN
from gatewise.backends.engine import computed_in
from gatewise.backends.native.calls import STORAGES, uses_every_part
from gatewise.backends.native.cells import address
from gatewise.backends.native.factors import allowed
from gatewise.backends.native.library import core
from gatewise.cells.language import Cell


class Network:
    """The core's network of a layer: see ``Network`` and ``WholeNetworks`` in contract.py."""

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
        rounds = dtype == torch.float32 and core().tiles()
        native = core().Network(
            *(address(cell), STORAGES[dtype], *sizes, names, shapes, list(PLAIN)),
            *(allowed if rounds else None, computed_in(dtype), uses_every_part(cell)),
        )
        *_, layers, both_ways = sizes
        self.cell = cell if layers == 1 and not both_ways else None
        self.names = names
        self.run: Callable[..., Any] = native.run
        self.run_saving: Callable[..., Any] = native.run_saving
        self.gradients: Callable[..., Any] = native.gradients

    def __reduce__(self) -> Any:
        return Network, self._made_of  # a copied or unpickled module makes a new network
