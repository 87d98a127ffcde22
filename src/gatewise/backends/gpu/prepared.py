"""What both directions of a call are given, as the time loops take it, whichever language they are in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.backends.contract import Masks, valid_steps
from gatewise.backends.engine import Arguments
from gatewise.backends.gpu.plan import Divided
from gatewise.backends.gpu.sums import rows, shape_of
from gatewise.backends.gpu.tape import Sizes, widths


class Forward(NamedTuple):
    """What the way forward reads and writes, see loops.py: None where it is not asked for. ``histories`` are those
    of each state."""

    inputs: Tensor
    initial: tuple[Tensor, ...]
    histories: tuple[Tensor | None, ...]
    final: tuple[Tensor, ...]
    saved: Tensor | None
    late: Tensor | None
    unprojected: Tensor | None
    normal: Tensor | None
    scales: Tensor | None
    values: Tensor | None


class Backward(NamedTuple):
    """What the way back reads and writes, likewise."""

    histories: tuple[Tensor, ...]
    saved: Tensor
    normal: Tensor | None
    scales: Tensor | None
    of_output: Tensor | None
    of_final: tuple[Tensor | None, ...]
    of_sums: Tensor
    before_norm: Tensor | None
    projected: Tensor | None
    of_initial: tuple[Tensor, ...]
    of_params: tuple[Tensor, ...]


class Prepared(ABC):
    """A call whose way forward or back is to be run. What comes without ``lengths`` has None for them.
    Per-unit weights stand by themselves, in the cell's order."""

    def __init__(self, given: Arguments, back: bool) -> None:
        self.cell, self.reverse, self.x, self.state, self.weights, masks = given
        self.shape = shape_of(self.cell)
        self.sizes = sizes_of(given)
        self.widths = widths(self.shape, self.sizes)
        of_state, H = self.shape.of_state, self.sizes.H
        gain, projection = self.weights.norm_recurrent, self.weights.projection
        self.recurrent = rows(self.weights.recurrent, of_state, H)
        self.gain = None if gain is None else rows(gain, of_state, H)
        self.projection = None if projection is None else projection.contiguous()
        biases = self.weights.input_bias, self.weights.recurrent_bias
        self.biases = tuple(None if bias is None else bias.contiguous() for bias in biases)
        per_unit = self.weights.per_unit
        self.per_unit = tuple(per_unit[name].contiguous() for name in self.cell.params)
        self.plan = self.divide(back)
        self._take(masks)

    @abstractmethod
    def divide(self, back: bool) -> Divided:
        """How the call is divided, on its way forward or back."""

    @property
    @abstractmethod
    def exchanged(self) -> bool:
        """Whether programs exchange the states that are fed back through their histories."""

    @property
    @abstractmethod
    def at_once(self) -> bool:
        """Whether all tiles run at once."""

    @abstractmethod
    def forward(self, run: Forward) -> None:
        """Runs the way forward."""

    @abstractmethod
    def backward(self, run: Backward) -> None:
        """Runs the way back."""

    def launches(self) -> Iterator[tuple[int, int]]:
        """Each launch's first sequence, and its tiles; several where not all can run at once."""
        B, of_tile, tiles = self.sizes.B, self.plan.BT, self.plan.tiles
        for first in range(0, B if self.sizes.T else 0, tiles * of_tile):
            yield first, min(tiles, -(-(B - first) // of_tile))

    def _take(self, masks: Masks) -> None:
        T, B, device = self.sizes.T, self.sizes.B, self.x.device
        self.lengths = self.order = None
        if masks.lengths is not None:
            self.lengths = masks.lengths.to(device)
            # where tiles follow each other the longest come first, so that the last are done early
            if not self.at_once:
                self.order = self.lengths.argsort(descending=True)
        reset, factor = masks.reset, masks.recurrent
        self.reset = None if reset is None else reset.contiguous().view(torch.uint8)
        self.factor = None if factor is None else factor.contiguous()
        self.zoneout: tuple[Tensor, ...] | None = None
        self.zone_steps: tuple[int, ...] = ()
        if masks.zoneout is not None:
            shares = [z.contiguous().expand(T, B, z.shape[-1]) for z in masks.zoneout]
            self.zoneout = tuple(shares)
            self.zone_steps = tuple(step for z in shares for step in z.stride()[:2])

    def real(self, of: Tensor) -> Tensor:
        """T×B×… with zeros beyond each sequence's length: NaN there would reach the weights."""
        if self.lengths is None:
            return of
        return torch.where(valid_steps(len(of), self.lengths)[..., None], of, 0)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Room for what the loops write, which do not write beyond a sequence's length."""
        make = torch.empty if self.lengths is None else torch.zeros
        return make(shape, dtype=dtype or self.sizes.dtype, device=self.x.device)


def sizes_of(given: Arguments) -> Sizes:
    (T, B, _), H, P = given.x.shape, given.hidden_size, given.proj_size
    normalised = given.weights.norm_recurrent is not None
    return Sizes(T, B, H, P or H, given.x.dtype, P > 0, normalised)


def index_of(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def full_precision() -> bool:
    """Whether float32 is multiplied as exactly as it is, not in TF32, as torch's products may be."""
    matmul = torch.backends.cuda.matmul
    # the newer setting reflects the older one, which cannot be read once the newer was written
    newer = getattr(matmul, "fp32_precision", None)
    return not (newer == "tf32" or (newer is None and matmul.allow_tf32))
