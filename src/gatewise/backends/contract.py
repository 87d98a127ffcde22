"""The contract of a backend, which runs one cell in one direction over all steps of one layer.

A backend is a module with these functions:

* ``supports(spec) -> str | None``: ``None``, or the reason why it cannot run ``spec``, as the end
  of the sentence "it ...";
* ``forward(spec, x, state, weights, masks) -> Outcome``: the differentiable results;
* ``describe(spec) -> str``: a few words that describe what it runs;
* optional, ``outrun(spec) -> tuple[str, str] | None``: the name of a backend that is faster for ``spec``
  if it can run it, and the reason, as the end of the sentence "it ...";
* optional, ``settings(spec) -> str | None``: what torch's global settings change of such a call now, as a part of
  a sentence, or None;
* optional, ``network(...)`` and ``stream(...)``: see ``WholeNetworks``.

A :class:`Spec` has only what the choice of a backend depends on. A ``forward`` looks at the tensors for
the rest: the weights show whether there are biases, a projection or layer normalisation, and the masks
show whether there are lengths, resets, dropout or zoneout. ``layer_norm``, ``proj_size`` and ``masks`` are
in the Spec too, because some backends do not support them.

Shapes: T time, B batch, I input size, H hidden size, P projection size (H without a projection),
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
    """The description of a call from which a backend says whether it can run it.

    Attributes:
        masks: the names of the fields of :class:`Masks` that the call has, except ``lengths``, which every
            backend supports.
        differentiated: whether a gradient may be needed.
        steps, batch: the sizes of a call on a GPU, because the faster backend depends on them. 0 on the
            CPU, and in a graph for any sizes.
        transformed: whether a transform of torch.func (vmap, jvp, grad, …) is active.
        recorded: the tool that records torch's operators (see tracing.py), or "".
        single: whether the call is that of a RecurrentCell, which has one step.
        in_graph: whether a tracer other than torch.compile records the operations of a traced call.
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
    in_graph: bool = False

    @property
    def output_size(self) -> int:
        return self.proj_size or self.hidden_size

    def state_size(self, k: int) -> int:
        """The width of the k-th state. The first state is the output, which may be projected."""
        return self.output_size if k == 0 else self.hidden_size


def lacking(spec: Spec, reasons: Mapping[str, str]) -> str | None:
    """The reason for the first option or mask in ``reasons`` that the spec has; None if it has none."""
    for option, reason in reasons.items():
        if option in spec.masks or getattr(spec, option, False):
            return reason
    return None


# What the recurrent layers of torch and ONNX lack, with the reasons for ``supports``.
LACKED_BY_FIXED_LAYERS: Mapping[str, str] = {
    "trace": "does not return its gates",
    "reset": "cannot reset its states within a sequence",
    "layer_norm": "has no layer normalisation",
    "recurrent": "has no recurrent dropout",
    "zoneout": "has no zoneout",
}


@dataclass(frozen=True)
class Choice:
    """The backend that was chosen for a call: its name, the call's Spec, and the reason as a sentence.

    ``key`` identifies the choice in a graph of torch.compile, which can contain text but no such object.
    """

    backend: str
    spec: Spec
    reason: str
    key: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"


class Weights(NamedTuple):
    """The weights of one layer in one direction.

    input is G·H×I, recurrent G·H×F. The biases are G·H or None, the projection P×H or None, the norm
    weights of the two layer normalisations G·H or None. The per-unit parameters are H each. With layer
    normalisation (Ba et al. 2016, equation 20) the pre-activations are
    norm_input * n(W x) + norm_recurrent * n(U h) + biases, where n normalises the G·H values of a step.
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
        """All weights in the order of the fields, with the per-unit parameters of ``cell`` at the end.

        Autograd and the kernels use this order."""
        *named, per_unit = self
        return [*named, *[per_unit[name] for name in cell.params]]

    def double(self) -> Weights:
        """The weights in double precision."""
        *named, per_unit = self
        wide = [None if weight is None else weight.double() for weight in named]
        return Weights._make((*wide, {name: weight.double() for name, weight in per_unit.items()}))

    @classmethod
    def from_list(cls, listed: Sequence[Tensor | None], cell: Cell) -> Weights:
        """The weights of ``cell`` from the result of ``listed``."""
        first = len(NAMED_WEIGHTS)
        per_unit: Any = dict(zip(cell.params, listed[first:], strict=True))
        return cls._make((*listed[:first], per_unit))


# The names of all weights except the per-unit parameters.
NAMED_WEIGHTS = Weights._fields[:-1]


class Masks(NamedTuple):
    """The lengths, resets and random masks of a batch. Each is None if the call does not have it.

    lengths: B, the length of each sequence. Padding is never read.
    reset: T×B booleans: true where all states are set to zero before the step. "Before" means in the
    order in which this direction runs the steps.
    recurrent: B×F factors of the recurrent inputs, the same at every step (variational dropout, Gal &
    Ghahramani 2016). The cell's equations use the states without them.
    zoneout: for each state a tensor that broadcasts to T×B×(its width): the share of the old value that
    is kept (Krueger et al. 2017). Zoneout is applied after the projection.
    """

    lengths: Tensor | None = None
    reset: Tensor | None = None
    recurrent: Tensor | None = None
    zoneout: tuple[Tensor, ...] | None = None

    def listed(self) -> list[Tensor | None]:
        """All masks in the order of the fields, with one item for each state's zoneout."""
        return [self.lengths, self.reset, self.recurrent, *(self.zoneout or ())]

    @classmethod
    def from_list(cls, listed: Sequence[Tensor | None]) -> Masks:
        """The masks from the result of ``listed``."""
        lengths, reset, recurrent, *zoneout = listed
        return cls(lengths, reset, recurrent, tuple(zoneout) or None)  # type: ignore[arg-type]


class Adjoints(Protocol):
    """The gradients of a number with respect to the traced values at every step, along all paths that lead
    from them to the number, those through later steps too. Only a trace that is differentiable has them."""

    def inputs(self) -> list[Tensor]:
        """The tensors that ``torch.autograd.grad`` gets as its inputs."""

    def gradients(self, found: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """The gradients by name, T×B×H, from those of ``inputs``."""


@dataclass(frozen=True)
class Outcome:
    """The results of a backend.

    Attributes:
        output: T×B×P, zero in the padding.
        state: the states after the last step of each sequence; in the reversed direction that is the
            sequence's first step.
        trace: the traced values by name, T×B×H, zero in the padding. A traced state is the state that the
            next step reads: projected (T×B×P) and after zoneout.
        adjoints: of the traced values, if they are differentiable.
    """

    output: Tensor
    state: tuple[Tensor, ...]
    trace: Mapping[str, Tensor] = field(default_factory=dict)
    adjoints: Adjoints | None = None


class Backend(Protocol):
    """The functions that every backend has. The module's docstring describes them."""

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


class KnownOutput(Protocol):
    """The optional function of a backend that is faster where the output is known already."""

    def run_with_output(
        self,
        spec: Spec,
        x: Tensor,
        state: tuple[Tensor, ...],
        weights: Weights,
        masks: Masks,
        output: Tensor,
    ) -> Outcome | None:
        """The outcome with a trace and without a gradient; None if it cannot use the output.

        Args:
            output: T×B×P, what another implementation has computed. Each step reads it as the state before the
                step. The outcome's output is computed from that, and agrees with it where both are right."""


class Network(Protocol):
    """All stacked layers and directions of a layer in one call, without gradients; and with gradients, if there is
    one layer in one direction.

    Attributes:
        dtype: the dtype of the input, the states and the weights.
        cell: the cell, or None if there are several layers or directions.
        names: of each parameter, in the order of ``weights`` of ``WholeNetworks.network``; None for one that
            the layer lacks.
        run: a function of these arguments, in order: the input, T×B×I, or B×T×I if batch first; the
            initial state, a tuple of states, or None; the parameters by name; whether it is batch first;
            the number of threads; the address of the lengths (int64), or 0; for a layer with one
            direction, the address of the resets (booleans in the layout of the input) and their two
            strides, or None. It returns the output, in the layout of the input, and the final state or
            states. It returns None if the network cannot use the input, a state, a weight or a length.
        run_saving: a function of a tuple of tensors, whether the input is batch first, and the number of threads.
            The tensors are the input, all initial states or none, and the parameters that the layer has. It
            returns the output, each final state and the saved activations; or None as ``run`` does.
        gradients: a function of the same tuple with the saved activations at its end, whether the input is batch
            first, the gradients of the output and of the final states (None for some), and whether the gradient
            of each of the tensors is wanted. It returns these gradients, None if not wanted; or None in place
            of all, if a given gradient is not a plain array in memory.
    """

    dtype: torch.dtype
    cell: Cell | None
    names: Sequence[str | None]
    run: Callable[..., Any]
    run_saving: Callable[..., Any]
    gradients: Callable[..., Any]


class WholeNetworks(Protocol):
    """The optional functions of a backend that runs all stacked layers in one call."""

    def network(
        self,
        cell: Cell,
        sizes: tuple[int, int, int, int, bool],
        weights: Sequence[tuple[str, tuple[int, ...]] | tuple[None, None]],
        dtype: torch.dtype,
    ) -> Network:
        """A network for layers of ``cell``.

        Args:
            sizes: input_size, hidden_size, proj_size, num_layers and bidirectional.
            weights: the name and shape of each parameter, for each layer and direction in the order of
                ``Weights.listed``; a pair of None for a parameter that the layer lacks.
            dtype: the dtype of the input, the states and the weights."""

    def stream(
        self,
        cell: Cell,
        states: Sequence[Sequence[Tensor]],
        weights: Sequence[Weights],
        zoneout: tuple[Tensor, ...] | None,
    ) -> Any:
        """An object whose ``step(row)`` runs one step of all stacked layers.

        It updates each layer's states in place. It copies the weights, so later changes have no effect. After
        ``resize(batch)`` it reads and updates so many rows, the first of all."""


NORM_EPSILON = 1e-5  # added to the variance in layer normalisation, as in torch's LayerNorm


# With fewer values than this, layer normalisation may divide by a standard deviation near zero, which
# enlarges the rounding errors of the products. In float32, gradients of layers with one or two units were
# wrong in the second digit. torch's own layer_norm was no better.
_FEW_VALUES = 32


def in_double(cell: Cell, hidden_size: int, dtype: torch.dtype) -> bool:
    """Whether a float32 call with layer normalisation is computed in double precision."""
    return dtype == torch.float32 and len(cell.gates) * hidden_size < _FEW_VALUES


def valid_steps(steps: int, lengths: Tensor) -> Tensor:
    """T×B: true for steps within their sequence, false for padding."""
    return torch.arange(steps, device=lengths.device)[:, None] < lengths


def check_tensor(
    name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor, of: str = "the input"
) -> None:
    """Raises ShapeError unless ``tensor`` has that shape, and the dtype and device of ``like``.

    ``of`` is what the message calls ``like``."""
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
    as_signed = lengths.long()  # a uint64 that int64 cannot hold becomes negative
    wrong = (as_signed < 0) | (as_signed > steps)
    if wrong.any():
        b = int(wrong.nonzero()[0])
        raise ShapeError(f"length {lengths[b].tolist()} of sequence {b} is not in 0…{steps}")


def differentiated(tensors: Iterable[Tensor | None]) -> bool:
    """Whether a result computed from these tensors may need a gradient."""
    if torch.is_grad_enabled():
        for tensor in tensors:  # a loop is faster than any(), and this runs at every call
            if tensor is not None and tensor.requires_grad:
                return True
    return False


# The types of tensors that are plain arrays in memory. Fake and functional tensors and users' subclasses
# have other types.
PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
_PLAIN_OR_NONE = frozenset({*PLAIN, type(None)})


def in_memory(tensors: Iterable[object]) -> bool:
    """Whether each is a plain array in memory, or None."""
    return _PLAIN_OR_NONE.issuperset(map(type, tensors))


# A tensor without memory has its offset into the storage as its address; most programs' memory lies above.
_LARGEST_OFFSET = 1 << 36


def address_of(tensor: Tensor) -> int:
    """The address of the tensor's first number.

    Raises:
        ShapeError: the tensor has numbers but no memory.
    """
    address = tensor.data_ptr()
    low = address < _LARGEST_OFFSET and tensor.numel() > 0
    if low and not (address and tensor.untyped_storage().data_ptr()):
        raise ShapeError(
            f"a tensor of the shape {tuple(tensor.shape)} has no memory: its storage was freed, or it is "
            "a zero of torch without memory; restore the storage, or give a clone of the zero"
        )
    return address


def recorded(tensors: Sequence[Tensor | None]) -> bool:
    """Whether torch's dispatcher must see the operations on these tensors.

    That is so while torch traces (compile, export, make_fx), and for a tensor that is not a plain array in
    memory. Otherwise kernels are called directly."""
    if torch.compiler.is_compiling() or dispatch_modes() > 0 or not in_memory(tensors):
        return True
    for tensor in tensors:  # noqa: SIM110  a loop is faster than any(), and this runs at every call
        if tensor is not None and tensor.is_neg():
            return True
    return False
