"""One layer in one direction of a call, for code that runs it in place of a backend.

A recurrent module calls its ``runner``, if it has one, for each layer and direction. The interventions and
attributions of ``gatewise.gates`` set it for the time of a ``with`` block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn.functional import linear

from gatewise.backends.contract import Masks, Outcome, Weights
from gatewise.backends.reference import Product
from gatewise.cells.language import Cell


class Execute(Protocol):
    """Runs some steps by a backend. With ``any_backend`` the module's option ``backend`` is not used."""

    def __call__(
        self,
        x: Tensor,
        state: tuple[Tensor, ...],
        masks: Masks,
        trace: bool,
        any_backend: bool = False,
    ) -> Outcome: ...


@dataclass(frozen=True)
class LayerRun:
    """The arguments with which one layer is run in one direction.

    Attributes:
        layer, reverse: the layer's index, and whether the steps are run from the last to the first.
        x, state: the input T×B×…, and the initial states, each B×….
        trace: whether the outcome must have a trace.
        execute: runs the layer by a backend.
        product: the product of values and a weight, ``linear`` or a convolution.
        places: T×B, the step of the module's input that each step is; None where they are the same.
        alone: whether the layer has no other direction, also where ``reverse`` is true.
    """

    cell: Cell
    layer: int
    reverse: bool
    x: Tensor
    state: tuple[Tensor, ...]
    weights: Weights
    masks: Masks
    trace: bool
    execute: Execute
    product: Product = linear
    places: Tensor | None = None
    alone: bool = False

    @property
    def direction(self) -> int:
        """The index of the direction in a trace."""
        return 0 if self.alone else int(self.reverse)


Runner = Callable[[LayerRun], Outcome]
