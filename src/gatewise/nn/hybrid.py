"""Self-attention, and blocks in which it and a recurrence share the work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.backends.contract import valid_steps
from gatewise.backends.tracing import recorded_by
from gatewise.cells.language import Cell
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.autocast import autocast_dtype
from gatewise.nn.checks import check_input
from gatewise.nn.lengths import checked_lengths, checked_reset
from gatewise.nn.overrides import by_override
from gatewise.nn.recurrent import Recurrent
from gatewise.nn.sequences import State, as_batch_first, check_width, cleared, laid_out
from gatewise.nn.trace import Trace
from gatewise.options import choice, flag, integer, probability

if TYPE_CHECKING:
    from gatewise.nn.call_types import LayerCall, SelfAttentionCall
    from gatewise.nn.shapes import Float, Lengths, Reset

# The parts of a block in their order. Parts in one tuple have the same input.
ORDERS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "recurrence-first": (("recurrence",), ("attention",)),
    "attention-first": (("attention",), ("recurrence",)),
    "parallel": (("recurrence", "attention"),),
}


class SelfAttention(nn.Module):
    """Multi-head self-attention, computed by torch's scaled_dot_product_attention.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.2. Parameters have the names and shapes of
    ``torch.nn.MultiheadAttention``, so that state dicts fit both.

    Args:
        size: D, the width of input and output.
        heads: the number of heads; D must be a multiple of it.
        causal: whether a step attends only to itself and earlier steps.
        dropout: the probability of dropping an attention weight in training.
        batch_first: input and output are B×T×D instead of T×B×D.

    Raises:
        OptionError: an argument is not valid.
    """

    if TYPE_CHECKING:
        __call__: SelfAttentionCall

    def __init__(
        self,
        size: int,
        heads: int,
        causal: bool = False,
        dropout: float = 0.0,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.size = size = integer("size", size)
        self.heads = heads = integer("heads", heads)
        if size % heads:
            raise OptionError(f"size must be a multiple of heads={heads}, not {size}")
        self.causal = flag("causal", causal)
        self.dropout = probability("dropout", dropout)
        self.batch_first = flag("batch_first", batch_first)
        made: dict[str, Any] = dict(device=device, dtype=dtype)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size, size, **made))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * size, **made))
        self.out_proj = nn.Linear(size, size, **made)
        self._draw()

    def reset_parameters(self) -> None:
        """Draws the weights as ``torch.nn.MultiheadAttention`` does; biases are zero."""
        self.out_proj.reset_parameters()
        self._draw()

    def _draw(self) -> None:
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        input: Float[Tensor, "*steps D"],
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        need_weights: bool = False,
    ) -> Float[Tensor, "*steps D"] | tuple[Float[Tensor, "*steps D"], Float[Tensor, "*heads T T"]]:
        """The output of each step.

        Args:
            input: T×B×D (B×T×D if ``batch_first``), or T×D for a single sequence.
            lengths: B integers from 0 to T, the length of each sequence. Padding is not read, and its
                output is zero.
            reset: booleans with the shape of the input without its last dimension: true where a new
                piece of the sequence starts. A step attends only to steps of its own piece.
            need_weights: also return the attention weights. torch's fused attention does not return
                them, so time and memory grow with T².

        Returns:
            The output, with the shape of the input. With ``need_weights`` also the weights,
            B×heads×T×T (heads×T×T for a single sequence): a row for each step, without dropout, zero
            for padding.

        Raises:
            ShapeError: a tensor does not fit; the message has the shape and the expected shape.
        """
        if not isinstance(input, Tensor):
            options = dict(lengths=lengths, reset=reset, need_weights=need_weights)
            return by_override(SelfAttention.forward, self, input, **options)
        check_width(input, self.size, "size")
        if autocast_dtype(input) is None:
            check_input(input, self.in_proj_weight)
        x = as_batch_first(input, self.batch_first)
        given = checked_lengths(lengths, x.transpose(0, 1))
        resets = checked_reset(reset, input, not self.batch_first)
        mask = self._mask(x.shape[1], given, resets)
        q, k, v = self._parts(cleared(x, given))
        y = laid_out(cleared(self._attend(q, k, v, mask), given), input, self.batch_first)
        if not need_weights:
            return y
        weights = self._weights(q, k, mask, given)
        return y, weights if input.dim() == 3 else weights[0]

    def extra_repr(self) -> str:
        defaults = dict(causal=False, dropout=0.0, batch_first=False)
        shown = [f"{k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v]
        return ", ".join([f"{self.size}, {self.heads}", *shown])

    def _parts(self, x: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values, each B×heads×T×(D / heads)."""
        parts = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        return parts.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()

    def _weights(self, q: Tensor, k: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """The weights that :meth:`_attend` uses, without dropout."""
        steps = q.shape[-2]
        scores = (q / math.sqrt(q.shape[-1])) @ k.mT
        if mask is None and self.causal:
            mask = _causal_mask(steps, q)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = scores.softmax(-1)
        if lengths is None:
            return weights
        return torch.where(valid_steps(steps, lengths).T[:, None, :, None], weights, 0)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        p = self.dropout if self.training else 0.0
        is_causal = self.causal and mask is None
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=p, is_causal=is_causal)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def _mask(self, steps: int, lengths: Tensor | None, reset: Tensor | None) -> Tensor | None:
        """B×1×(1 or T)×T: true where a step may attend to another; None for causality alone or no mask.

        Padding may attend to padding, because a row without any step would have a gradient of NaN.
        """
        if reset is None:
            # padding is at the end: in a causal layer no step of the sequence attends to it
            if self.causal:
                # ONNX's older exporter would record is_causal for the example's number of steps only
                return _causal_mask(steps, self.in_proj_weight) if recorded_by() else None
            if lengths is None:
                return None
            return valid_steps(steps, lengths.clamp(min=1)).T[:, None, None]
        piece = reset.T.long().cumsum(-1)
        if lengths is not None:
            piece = torch.where(valid_steps(steps, lengths).T, piece, -1)
        mask = piece[:, :, None] == piece[:, None]
        return (mask.tril() if self.causal else mask)[:, None]


class HybridBlock(nn.Module):
    """A block of a recurrent layer, self-attention and a feed-forward network.

    Each part has a residual connection and layer normalisation before it (pre-norm: Xiong et al. 2020,
    "On Layer Normalization in the Transformer Architecture"). A block is called like a recurrent layer,
    and its output is as wide as its input, so that a :class:`gatewise.Stack` can contain it.

    Args:
        size: D, the width of input and output.
        heads: the number of attention heads; D must be a multiple of it.
        recurrent: a cell or the name of a built-in cell, for one forward layer of D units; or a
            :class:`gatewise.Recurrent` with D inputs and D outputs.
        order: "recurrence-first", "attention-first", or "parallel". In "parallel" both have the same
            normalised input, and their outputs are added.
        causal: whether the output of a step depends only on that step and earlier steps.
        dropout: the probability, in training, of dropping an attention weight, a hidden value of the
            feed-forward network, or a value of a part's output.
        feed_forward: the width of the feed-forward network's hidden layer, which has GELU; the default
            is 4·D.
        batch_first: input and output are B×T×D instead of T×B×D.
        backend: the recurrent layer's backend, as for :class:`gatewise.Recurrent`.

    Raises:
        OptionError: an argument is not valid, or the recurrent layer does not fit.
    """

    if TYPE_CHECKING:
        __call__: LayerCall[None, State, Trace]

    def __init__(
        self,
        size: int,
        heads: int,
        recurrent: str | Cell | Recurrent = "lstm",
        order: str = "recurrence-first",
        causal: bool = False,
        dropout: float = 0.0,
        feed_forward: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        made: dict[str, Any] = dict(device=device, dtype=dtype)
        self.attention = SelfAttention(size, heads, causal, dropout, batch_first=True, **made)
        size, dropout = self.attention.size, self.attention.dropout
        self.order = order = choice("order", order, ORDERS)
        self.batch_first = flag("batch_first", batch_first)
        if not isinstance(recurrent, Recurrent):
            recurrent = Recurrent(recurrent, size, size, backend=backend, **made)
        elif backend != "auto":
            raise OptionError(
                f"backend={backend!r} cannot be given with a layer: the given recurrent layer has "
                f"backend={recurrent.backend!r}"
            )
        _check_recurrence(recurrent, size, self.attention.causal)
        width = 4 * size if feed_forward is None else integer("feed_forward", feed_forward)
        self.input_size = self.output_size = size
        self.recurrent = recurrent
        self.norms = nn.ModuleList(nn.LayerNorm(size, **made) for _ in ORDERS[order])
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(size, **made),
            nn.Linear(size, width, **made),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, size, **made),
        )
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        input: Float[Tensor, "*steps D"],
        hx: None = None,
        lengths: Lengths | None = None,
        reset: Reset | None = None,
        trace: bool = False,
    ) -> tuple[Float[Tensor, "*steps D"], State] | tuple[Float[Tensor, "*steps D"], State, Trace]:
        """Runs the block over a batch of sequences.

        Args:
            input: T×B×D (B×T×D if ``batch_first``), or T×D for a single sequence.
            hx: must be None. Recurrent layers have this argument. Attention needs the earlier steps
                themselves, which a state does not contain.
            lengths: B integers from 0 to T, the length of each sequence. Padding is not read, and its
                output is zero.
            reset: booleans with the shape of the input without its last dimension: true where a new
                piece of the sequence starts. The result is that of the pieces, each run separately.
            trace: also return the recurrent layer's trace.

        Returns:
            ``output, state``, and with ``trace`` a :class:`Trace`. The output has the shape of the
            input; the state is the recurrent layer's final state.

        Raises:
            ShapeError: a tensor does not fit; the message has the shape and the expected shape.
        """
        if hx is not None:
            raise ShapeError(
                "hx must be None for a HybridBlock: it cannot continue from a state, because its attention "
                "needs the earlier steps themselves; give the whole sequence"
            )
        if not isinstance(input, Tensor):
            options = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(HybridBlock.forward, self, input, **options)
        check_width(input, self.input_size, "size")
        if autocast_dtype(input) is None:
            check_input(input, self.attention.in_proj_weight)
        x = as_batch_first(input, self.batch_first)
        lengths = checked_lengths(lengths, x.transpose(0, 1))
        resets = checked_reset(reset, input, not self.batch_first)
        x = cleared(x, lengths)
        state: Any = None
        traced: list[Any] = []
        for norm, parts in zip(self.norms, ORDERS[self.order], strict=True):
            n = norm(x)
            if "recurrence" in parts:
                y, state, *traced = self._recurrence(n, lengths, resets, trace)
                x = x + self.drop(y)
            if "attention" in parts:
                each = None if resets is None else resets.T
                x = x + self.drop(self.attention(n, lengths=lengths, reset=each))
        x = x + self.drop(self.feed_forward(x))
        output = laid_out(cleared(x, lengths), input, self.batch_first)
        return output, _unbatched(state) if input.dim() == 2 else state, *traced

    def extra_repr(self) -> str:
        return f"order={self.order!r}, batch_first={self.batch_first}"

    def _recurrence(
        self, x: Tensor, lengths: Tensor | None, reset: Tensor | None, trace: bool
    ) -> tuple[Any, ...]:
        """The recurrent layer on B×T×D, in the layer's own layout."""
        if self.recurrent.batch_first:
            each = None if reset is None else reset.T
            return self.recurrent(x, lengths=lengths, reset=each, trace=trace)
        x = x.transpose(0, 1)
        y, *rest = self.recurrent(x, lengths=lengths, reset=reset, trace=trace)
        return y.transpose(0, 1), *rest


def _causal_mask(steps: int, like: Tensor) -> Tensor:
    """T×T on the device of ``like``: true where a step may attend to itself or to an earlier step."""
    return torch.ones(steps, steps, dtype=torch.bool, device=like.device).tril()


def _unbatched(state: Any) -> Any:
    """The state of a single sequence, without the batch dimension."""
    if isinstance(state, Tensor):
        return state.squeeze(1).clone()  # a tensor of its own, no view
    return tuple(_unbatched(s) for s in state)


def _check_recurrence(recurrent: Recurrent, size: int, causal: bool) -> None:
    takes, gives = recurrent.input_size, recurrent.output_size
    if (takes, gives) != (size, size):
        raise OptionError(
            f"the recurrent layer has {takes} inputs and {gives} outputs; both must be size={size}"
        )
    if causal and recurrent.bidirectional:
        raise OptionError(
            "causal=True needs a recurrent layer with one direction, and the given one is bidirectional"
        )
