"""What every backend takes and gives: one cell, one direction, all steps of one layer.

A backend is a module with

* ``supports(spec) -> str | None``: ``None``, or the reason why it cannot run ``spec``, as the end
  of the sentence "it ...";
* ``forward(spec, x, state, weights, masks) -> Outcome``, whose results carry their gradient;
* ``describe(spec) -> str``: what it runs, in a few words;
* where there is one, ``outrun(spec) -> tuple[str, str] | None``: the name of a backend that is faster
  here if it can run ``spec``, and the reason, as the end of the sentence "it ...".

Shapes: T time, B batch, I input size, H hidden size, P projection size (H where there is none),
G gates, F states fed back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from gatewise.cells.language import Cell
from gatewise.errors import ShapeError


@dataclass(frozen=True)
class Spec:
    """What is to be run; all that a backend needs to know to say whether it can."""

    cell: Cell
    input_size: int
    hidden_size: int
    proj_size: int
    reverse: bool
    lengths: bool
    trace: bool
    dtype: torch.dtype
    device: torch.device
    reset: bool = False
    layer_norm: bool = False
    recurrent_dropout: bool = False
    zoneout: bool = False
    differentiated: bool = False  # a gradient may be asked for
    steps: int = 0  # on a GPU, where they are known: which backend is faster rests on them
    batch: int = 0
    transformed: bool = False  # by torch.func (vmap, jvp, grad, …)
    recorded: str = ""  # operator by operator, by one of tracing.py
    single: bool = False  # one step, whatever the input: no loop

    @property
    def output_size(self) -> int:
        return self.proj_size or self.hidden_size

    def state_size(self, k: int) -> int:
        """Width of the k-th state: the first, the output, is as wide as its projection."""
        return self.output_size if k == 0 else self.hidden_size


class Weights(NamedTuple):
    """One layer's parameters in one direction.

    input G·H×I, recurrent G·H×F with F the sum of the widths of the fed-back states, biases G·H or
    None, projection P×H or None, the gains G·H of the two layer normalisations or None, and the
    per-unit parameters, each H. With layer normalisation (Ba et al. 2016, equation 20) the gates
    see norm_input * n(W x) + norm_recurrent * n(U h) + biases, n over all G·H values of a step.
    """

    input: Tensor
    recurrent: Tensor
    input_bias: Tensor | None = None
    recurrent_bias: Tensor | None = None
    projection: Tensor | None = None
    norm_input: Tensor | None = None
    norm_recurrent: Tensor | None = None
    per_unit: Mapping[str, Tensor] = {}


class Masks(NamedTuple):
    """What a batch's sequences bring beside their values.

    lengths: B, or None where all are full. What lies beyond is never looked at.
    reset: T×B booleans or None; where true, every state is zero before this step, in the order in
    which this direction takes the steps.
    recurrent: B×F factors or None; what is fed back is multiplied by them on its way into the
    recurrent product, at every step (variational dropout, Gal & Ghahramani 2016).
    zoneout: for each state a tensor that broadcasts to T×B×(its width): the share of its old value
    that it keeps (Krueger et al. 2017); or None. It acts last, after the projection.
    """

    lengths: Tensor | None = None
    reset: Tensor | None = None
    recurrent: Tensor | None = None
    zoneout: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Outcome:
    """output T×B×P, zero beyond each sequence's length; the state after each sequence's own last
    step (for a reversed run: its first); the traced values by name, each T×B×H, zero beyond the
    length. A traced state is what the next step sees: projected (T×B×P), and after zoneout."""

    output: Tensor
    state: tuple[Tensor, ...]
    trace: Mapping[str, Tensor] = field(default_factory=dict)


class Backend(Protocol):
    def supports(self, spec: Spec) -> str | None: ...

    def describe(self, spec: Spec) -> str: ...

    def forward(
        self,
        spec: Spec,
        x: Tensor,
        state: tuple[Tensor, ...],
        weights: Weights,
        masks: Masks,
    ) -> Outcome: ...


NORM_EPSILON = 1e-5  # added to the variance in layer normalisation, as torch's LayerNorm has it


# Layer normalisation of so few values divides by a deviation that may be next to nothing, and passes the
# rounding errors of the products on enlarged: in float32 gradients of layers of one or two units were
# found wrong in the second digit, torch's own layer_norm being no better.
_FEW = 32


def in_double(cell: Cell, hidden_size: int, dtype: torch.dtype) -> bool:
    """Whether a layer-normalised run of these is to be in double precision, given and giving float32."""
    return dtype == torch.float32 and len(cell.gates) * hidden_size < _FEW


def valid_steps(steps: int, lengths: Tensor) -> Tensor:
    """T×B, true where a step lies within its sequence."""
    return torch.arange(steps, device=lengths.device)[:, None] < lengths


def check_tensor(
    name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor, of: str = "the input"
) -> None:
    """Raises ShapeError unless ``tensor`` has that shape, and the type and device of ``like``."""
    if not isinstance(tensor, Tensor):
        raise ShapeError(f"{name} is {tensor!r}, expected a tensor of shape {shape}")
    if tensor.shape != shape:
        raise ShapeError(f"{name} has the shape {tuple(tensor.shape)}, expected {shape}")
    if tensor.dtype != like.dtype:
        raise ShapeError(f"{name} is {tensor.dtype}, {of} is {like.dtype}")
    if tensor.device != like.device:
        raise ShapeError(f"{name} is on '{tensor.device}', {of} is on '{like.device}'")


def check_lengths(lengths: Tensor, steps: int) -> None:
    """Raises ShapeError unless every length is from 0 to ``steps``."""
    as_signed = lengths.long()  # a uint64 too great for it becomes negative
    wrong = (as_signed < 0) | (as_signed > steps)
    if wrong.any():
        b = int(wrong.nonzero()[0])
        raise ShapeError(f"length {lengths[b].tolist()} of sequence {b} is not in 0…{steps}")


def differentiated(tensors: Iterable[Tensor | None]) -> bool:
    """Whether a gradient may be asked for of what is made of these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


# The types of tensor that are plain arrays of numbers: no fake, functional or user's tensor.
PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
_PLAIN_OR_NONE = frozenset({*PLAIN, type(None)})


def in_memory(tensors: Iterable[object]) -> bool:
    """Whether each is a plain array of numbers, or None."""
    return _PLAIN_OR_NONE.issuperset(map(type, tensors))


def recorded(tensors: Iterable[Tensor | None]) -> bool:
    """Whether operations on these are for torch's dispatcher to see, not to be done at once: it
    traces (compile, export, make_fx), or one of the tensors is no array in memory."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or not in_memory(tensors)
        or any(t is not None and t.is_neg() for t in tensors)
    )


_Function = TypeVar("_Function", bound=Callable[..., object])


def constant(function: _Function) -> _Function:
    """What it gives is constant in what torch.compile makes: as torch.compiler.assume_constant_result
    does, but without importing the compiler."""
    setattr(function, "_dynamo_marked_constant", True)  # noqa: B010  for mypy
    return function
