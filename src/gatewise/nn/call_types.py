"""What calls of the layers return, for type checkers and editors: torch declares that a call returns Any.

A layer's class has ``if TYPE_CHECKING: __call__: LayerCall[...]``. Nothing here is used when a program runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gatewise.nn.sequences import State
from gatewise.nn.trace import Trace

if TYPE_CHECKING:
    from gatewise.nn.shapes import Bool, Lengths, Reset

# The type of an input, and of its output.
Sequences = TypeVar("Sequences", Tensor, PackedSequence)
# The types of the initial states, of the final states, and of the trace.
Initial = TypeVar("Initial", contravariant=True)
Final = TypeVar("Final", covariant=True)
Traced = TypeVar("Traced", covariant=True)

TwoStates = tuple[Tensor, Tensor]


class LayerCall(Protocol[Initial, Final, Traced]):
    """The call of a layer: output and final state, and the trace with ``trace=True``."""

    @overload
    def __call__(
        self,
        input: Tensor,
        hx: Initial | None = None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        trace: Literal[False] = False,
    ) -> tuple[Tensor, Final]: ...

    @overload
    def __call__(
        self,
        input: Tensor,
        hx: Initial | None = None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        *,
        trace: Literal[True],
    ) -> tuple[Tensor, Final, Traced]: ...

    @overload
    def __call__(
        self,
        input: Tensor,
        hx: Initial | None = None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        trace: bool = False,
    ) -> tuple[Any, ...]: ...


class PackedLayerCall(Protocol[Final]):
    """The call of a layer that also takes a PackedSequence, and then returns one."""

    @overload
    def __call__(
        self,
        input: Sequences,
        hx: State | None = None,
        lengths: Lengths | None = None,
        reset: Tensor | None = None,
        trace: Literal[False] = False,
    ) -> tuple[Sequences, Final]: ...

    @overload
    def __call__(
        self,
        input: Sequences,
        hx: State | None = None,
        lengths: Lengths | None = None,
        reset: Tensor | None = None,
        *,
        trace: Literal[True],
    ) -> tuple[Sequences, Final, Trace]: ...

    @overload
    def __call__(
        self,
        input: Sequences,
        hx: State | None = None,
        lengths: Lengths | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> tuple[Any, ...]: ...


class StepCall(Protocol[Final]):
    """The call of a single step: the states after it."""

    def __call__(self, input: Tensor, hx: State | None = None) -> Final: ...


class PoolingCall(Protocol):
    """The call of :class:`gatewise.AttentionPooling`."""

    @overload
    def __call__(
        self,
        states: Tensor,
        lengths: Lengths | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
        trace: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def __call__(
        self,
        states: Tensor,
        lengths: Lengths | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
        *,
        trace: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def __call__(
        self,
        states: Tensor,
        lengths: Lengths | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
        trace: bool = False,
    ) -> Any: ...


class SelfAttentionCall(Protocol):
    """The call of :class:`gatewise.SelfAttention`."""

    @overload
    def __call__(
        self,
        input: Tensor,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        need_weights: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def __call__(
        self,
        input: Tensor,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        *,
        need_weights: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def __call__(
        self,
        input: Tensor,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        need_weights: bool = False,
    ) -> Any: ...
