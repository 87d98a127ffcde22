"""The arguments of a call in the form that the time loops take, in Triton and in CUDA C++."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.backends.contract import Masks, valid_steps
from gatewise.backends.engine import Arguments
from gatewise.backends.gpu.accumulators import rows, shape_of
from gatewise.backends.gpu.activations import Sizes, widths
from gatewise.backends.gpu.plan import Divided


class Forward(NamedTuple):
    """The tensors that the forward pass reads and writes, as loops.py names them; None if not asked for.
    ``histories`` has one for each state."""

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
    """The tensors that the backward pass reads and writes, likewise."""

    histories: tuple[Tensor, ...]
    saved: Tensor
    normal: Tensor | None
    scales: Tensor | None
    of_output: Tensor | None
    of_final: tuple[Tensor | None, ...]
    grad_accumulators: Tensor
    before_norm: Tensor | None
    projected: Tensor | None
    of_initial: tuple[Tensor, ...]
    of_params: tuple[Tensor, ...]


class Prepared(ABC):
    """A forward or a backward pass that is to be run. An option that the call does not have is None. The
    per-unit weights are in the cell's order."""

    def __init__(self, given: Arguments, back: bool) -> None:
        self.cell, self.reverse, self.x, self.state, self.weights, masks = given
        self.shape = shape_of(self.cell)
        self.sizes = sizes_of(given)
        self.widths = widths(self.shape, self.sizes)
        of_state, H = self.shape.of_state, self.sizes.H
        norm_weight, projection = self.weights.norm_recurrent, self.weights.projection
        self.recurrent = rows(self.weights.recurrent, of_state, H)
        self.norm_weight = None if norm_weight is None else rows(norm_weight, of_state, H)
        self.projection = None if projection is None else projection.contiguous()
        biases = self.weights.input_bias, self.weights.recurrent_bias
        self.biases = tuple(None if bias is None else bias.contiguous() for bias in biases)
        per_unit = self.weights.per_unit
        self.per_unit = tuple(per_unit[name].contiguous() for name in self.cell.params)
        self.plan = self.divide(back)
        self._take(masks)

    @abstractmethod
    def divide(self, back: bool) -> Divided:
        """The plan of the call's forward or backward pass."""

    @property
    @abstractmethod
    def exchanged(self) -> bool:
        """Whether programs exchange the recurrent input, through the histories of the states."""

    @property
    @abstractmethod
    def at_once(self) -> bool:
        """Whether all tiles run at the same time."""

    @abstractmethod
    def forward(self, run: Forward) -> None:
        """Runs the forward pass."""

    @abstractmethod
    def backward(self, run: Backward) -> None:
        """Runs the backward pass."""

    def launches(self) -> Iterator[tuple[int, int]]:
        """The first sequence and the number of tiles of each launch: several, if not all tiles can run at once."""
        B, of_tile, tiles = self.sizes.B, self.plan.BT, self.plan.tiles
        for first in range(0, B if self.sizes.T else 0, tiles * of_tile):
            yield first, min(tiles, -(-(B - first) // of_tile))

    def _take(self, masks: Masks) -> None:
        T, B, device = self.sizes.T, self.sizes.B, self.x.device
        self.lengths = self.order = None
        if masks.lengths is not None:
            self.lengths = masks.lengths.to(device)
            # if tiles run one after the other, the longest sequences come first, so that the last tiles are short
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
        """T×B×… with zeros beyond each sequence's length, because NaN there would reach the weights' gradients."""
        if self.lengths is None:
            return of
        return torch.where(valid_steps(len(of), self.lengths)[..., None], of, 0)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Memory for what the loops write. They do not write beyond a sequence's length, where it is zero."""
        make = torch.empty if self.lengths is None else torch.zeros
        return make(shape, dtype=dtype or self.sizes.dtype, device=self.x.device)


def sizes_of(given: Arguments) -> Sizes:
    (T, B, _), H, P = given.x.shape, given.hidden_size, given.proj_size
    normalised = given.weights.norm_recurrent is not None
    return Sizes(T, B, H, P or H, given.x.dtype, P > 0, normalised)


def index_of(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def full_precision() -> bool:
    """Whether float32 is multiplied in full precision, and not in TF32. torch's setting says which."""
    matmul = torch.backends.cuda.matmul
    # the newer setting reflects the older one, which cannot be read once the newer was written
    newer = getattr(matmul, "fp32_precision", None)
    return not (newer == "tf32" or (newer is None and matmul.allow_tf32))
