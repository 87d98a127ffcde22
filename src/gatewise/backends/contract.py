"""What every backend takes and gives: one cell, one direction, all steps of one layer.

A backend is a module with

* ``supports(spec) -> str | None``: ``None``, or the reason why it cannot run ``spec``, as the end
  of the sentence "it ...";
* ``forward(spec, x, state, weights, masks) -> Outcome``, whose results carry their gradient;
* ``describe(spec) -> str``: what it runs, in a few words;
* where there is one, ``outrun(spec) -> tuple[str, str] | None``: the name of a backend that is faster
  here if it can run ``spec``, and the reason, as the end of the sentence "it ...";
* where it can, ``network(...)`` and ``stream(...)``: see ``WholeNetworks``.

A :class:`Spec` holds what a choice of backend rests on, and nothing else. What a run needs beside it
is in the tensors: whether there are biases or a projection in the weights, lengths, resets and draws
in the masks. ``layer_norm``, ``proj_size`` and ``masks`` stand in the Spec because some backends
refuse them; a ``forward`` looks at the weights and the masks themselves.

Shapes: T time, B batch, I input size, H hidden size, P projection size (H where there is none),
G gates, F the sum of the widths of the recurrent inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gatewise.backends.torch_private import dispatch_modes
from gatewise.cells.language import Cell
from gatewise.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is to be run; all that a backend needs to know to say whether it can.

    Attributes:
        masks: the kinds of :class:`Masks` that the run has, ``lengths`` aside: every backend takes those.
        differentiated: whether a gradient may be asked for.
        steps, batch: on a GPU, where they are known, else 0: which backend is faster rests on them.
        transformed: whether torch.func (vmap, jvp, grad, …) is at work.
        recorded: what records torch's operators one by one, see tracing.py; "" if nothing does.
        single: whether it is one step, whatever the input: no loop.
    """

    cell: Cell
    input_size: int
    hidden_size: int
    proj_size: int = 0
    reverse: bool = False
    trace: bool = False
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009  immutable
    layer_norm: bool = False
    masks: tuple[str, ...] = ()
    differentiated: bool = False
    steps: int = 0
    batch: int = 0
    transformed: bool = False
    recorded: str = ""
    single: bool = False

    @property
    def output_size(self) -> int:
        return self.proj_size or self.hidden_size

    def state_size(self, k: int) -> int:
        """Width of the k-th state: the first, the output, is as wide as its projection."""
        return self.output_size if k == 0 else self.hidden_size


def lacking(spec: Spec, reasons: Mapping[str, str]) -> str | None:
    """The first of the reasons whose key is an option that the spec has, or a kind of its masks."""
    for option, reason in reasons.items():
        if option in spec.masks or getattr(spec, option, False):
            return reason
    return None


@dataclass(frozen=True)
class Choice:
    """The backend that is to run a call: its name, the call's Spec, and for people the reason. ``key``
    stands for it where a graph of torch.compile takes text alone."""

    backend: str
    spec: Spec
    reason: str
    key: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"


class Weights(NamedTuple):
    """One layer's parameters in one direction.

    input G·H×I, recurrent G·H×F with F the sum of the widths of the recurrent inputs, biases G·H or
    None, projection P×H or None, the norm weights G·H of the two layer normalisations or None, and the
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

    def listed(self, cell: Cell) -> list[Tensor | None]:
        """All of them in this order, the per-unit ones of ``cell`` last: as autograd and kernels take
        them."""
        *named, per_unit = self
        return [*named, *[per_unit[name] for name in cell.params]]

    def double(self) -> Weights:
        """The same in double precision."""
        per_unit = {name: weight.double() for name, weight in self.per_unit.items()}
        given: dict[str, Any] = self._asdict()
        there = [name for name in NAMED_WEIGHTS if given[name] is not None]
        wide = {name: given[name].double() for name in there}
        return Weights(**wide, per_unit=per_unit)

    @classmethod
    def from_list(cls, listed: Sequence[Tensor | None], cell: Cell) -> Weights:
        """The weights of ``cell`` that were ``listed``."""
        first = len(NAMED_WEIGHTS)
        per_unit: Any = dict(zip(cell.params, listed[first:], strict=True))
        return cls._make((*listed[:first], per_unit))


# The names of all weights but the per-unit ones, whose names are the cell's.
NAMED_WEIGHTS = Weights._fields[:-1]


class Masks(NamedTuple):
    """What a batch's sequences bring beside their values.

    lengths: B, or None where all are full. What lies beyond is never looked at.
    reset: T×B booleans or None; where true, every state is zero before this step, in the order in
    which this direction takes the steps.
    recurrent: B×F factors or None; the recurrent inputs are multiplied by them on their way into the
    recurrent product, at every step (variational dropout, Gal & Ghahramani 2016).
    zoneout: for each state a tensor that broadcasts to T×B×(its width): the share of its old value
    that it keeps (Krueger et al. 2017); or None. It acts last, after the projection.
    """

    lengths: Tensor | None = None
    reset: Tensor | None = None
    recurrent: Tensor | None = None
    zoneout: tuple[Tensor, ...] | None = None

    def listed(self) -> list[Tensor | None]:
        """All of them in this order, the shares of zoneout last."""
        return [self.lengths, self.reset, self.recurrent, *(self.zoneout or ())]

    @classmethod
    def from_list(cls, listed: Sequence[Tensor | None]) -> Masks:
        """The masks that were ``listed``."""
        lengths, reset, recurrent, *zoneout = listed
        return cls(lengths, reset, recurrent, tuple(zoneout) or None)  # type: ignore[arg-type]


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


class Network(Protocol):
    """A layer's whole call as one of a backend's: all stacked layers and directions, without a gradient.

    Attributes:
        dtype: of the input, the states and the weights.
        run: a function of the input, T×B×I, or B×T×I if it is batch first; the initial state, a
            tuple of several, or None; the parameters by name; whether it is batch first; the number
            of threads; the address of the lengths, int64, or 0; and for resets, in one direction,
            the address of booleans laid out as the input and their two strides, or None. Gives
            the output, laid out as the input, and the final state or states; None if the input, a
            state, a weight or a length is not what this network takes.
    """

    dtype: torch.dtype
    run: Callable[..., Any]


class WholeNetworks(Protocol):
    """What some backends have beside the rest: whole layers in one call."""

    def network(
        self,
        cell: Cell,
        sizes: tuple[int, int, int, int, bool],
        weights: Sequence[tuple[str, tuple[int, ...]] | tuple[None, None]],
        dtype: torch.dtype,
    ) -> Network:
        """A layer of which ``sizes`` are input_size, hidden_size, proj_size, num_layers and
        bidirectional. ``weights``: name and shape of each parameter, for each layer and direction in
        the order of ``Weights.listed``; None and None for those that the layer has not."""

    def stream(
        self,
        cell: Cell,
        states: Sequence[Sequence[Tensor]],
        weights: Sequence[Weights],
        zoneout: tuple[Tensor, ...] | None,
    ) -> Any:
        """What runs stacked layers one step at a time, by ``step(row)``. Each layer's states are
        kept up to date in place; its weights are read here and not looked at again."""


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
    if torch.is_grad_enabled():
        for tensor in tensors:  # no generator: this is asked at every call
            if tensor is not None and tensor.requires_grad:
                return True
    return False


# The types of tensor that are plain arrays of numbers: no fake, functional or user's tensor.
PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
_PLAIN_OR_NONE = frozenset({*PLAIN, type(None)})


def in_memory(tensors: Iterable[object]) -> bool:
    """Whether each is a plain array of numbers, or None."""
    return _PLAIN_OR_NONE.issuperset(map(type, tensors))


def recorded(tensors: Sequence[Tensor | None]) -> bool:
    """Whether operations on these are for torch's dispatcher to see, not to be done at once: it
    traces (compile, export, make_fx), or one of the tensors is no array in memory."""
    if torch.compiler.is_compiling() or dispatch_modes() > 0 or not in_memory(tensors):
        return True
    for tensor in tensors:  # noqa: SIM110  no generator: this is asked at every call
        if tensor is not None and tensor.is_neg():
            return True
    return False
