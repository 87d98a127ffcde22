"""Self-attention, and blocks in which it and a recurrence share the work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

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
from gatewise.nn.sequences import as_batch_first, check_width, cleared, laid_out
from gatewise.options import choice, flag, probability, whole

# What a block does, in order; what stands together sees the same input.
ORDERS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "recurrence-first": (("recurrence",), ("attention",)),
    "attention-first": (("attention",), ("recurrence",)),
    "parallel": (("recurrence", "attention"),),
}


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, "Attention Is All You Need", section 3.2), by
    torch's scaled_dot_product_attention.

    Parameters have the names and shapes of ``torch.nn.MultiheadAttention``'s, so that state dicts
    load from and into it.

    Args:
        size: D, width of input and output.
        heads: number of heads, which divides D.
        causal: whether a step draws on itself and those before it only.
        dropout: probability of dropping an attention weight, in training.
        batch_first: input and output are B×T×D instead of T×B×D.

    Raises:
        OptionError: an argument is out of its range.
    """

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
        self.size = size = whole("size", size)
        self.heads = heads = whole("heads", heads)
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
        """Draw the weights as ``torch.nn.MultiheadAttention`` does; the biases are zero."""
        self.out_proj.reset_parameters()
        self._draw()

    def _draw(self) -> None:
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        input: Tensor,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        need_weights: bool = False,
    ) -> Any:
        """Each step's view of the others.

        Args:
            input: T×B×D (B×T×D if ``batch_first``), or T×D for a single sequence.
            lengths: B integers from 0 to T: how much of each sequence is real. What lies
                beyond is never looked at, and the output there is zero.
            reset: booleans of the input's shape less its last dimension; where true, a piece
                begins. Steps draw on those of their own piece only.
            need_weights: also return how much each step drew on each other, which torch's fused
                attention doesn't tell: time and memory grow with T².

        Returns:
            The shape of the input; and where they were asked for the weights, B×heads×T×T (heads×T×T
            for a single sequence): a row for each step, without any dropout, zero for padding.

        Raises:
            ShapeError: a tensor does not fit; the message has both shapes.
        """
        if not isinstance(input, Tensor):
            asked = dict(lengths=lengths, reset=reset, need_weights=need_weights)
            return by_override(SelfAttention.forward, self, input, **asked)
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
        """What :meth:`_attend` weighs the values with."""
        steps = q.shape[-2]
        scores = (q / math.sqrt(q.shape[-1])) @ k.mT
        if mask is None and self.causal:
            mask = _no_later(steps, q)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = scores.softmax(-1)
        if lengths is None:
            return weights
        return torch.where(valid_steps(steps, lengths).T[:, None, :, None], weights, 0)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        p = self.dropout if self.training else 0.0
        alone = self.causal and mask is None
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=p, is_causal=alone)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def _mask(self, steps: int, lengths: Tensor | None, reset: Tensor | None) -> Tensor | None:
        """B×1×(1 or T)×T: what each step may draw on; None where causality alone decides.

        No row is ever empty, for that would make a gradient of NaN: padding may see padding.
        """
        if reset is None:
            # in a causal layer padding, which is at the end, is out of the real steps' sight
            if self.causal:
                # a record of is_causal in ONNX's older form is for the example's steps alone
                return _no_later(steps, self.in_proj_weight) if recorded_by() else None
            if lengths is None:
                return None
            return valid_steps(steps, lengths.clamp(min=1)).T[:, None, None]
        piece = reset.T.long().cumsum(-1)
        if lengths is not None:
            piece = torch.where(valid_steps(steps, lengths).T, piece, -1)
        mask = piece[:, :, None] == piece[:, None]
        return (mask.tril() if self.causal else mask)[:, None]


class HybridBlock(nn.Module):
    """A recurrence, self-attention and a feed-forward part, each with its input normalised and
    added to its output (pre-norm: Xiong et al. 2020, "On Layer Normalization in the Transformer
    Architecture"). Input and output are as wide, and it is called as a recurrent layer is, so that
    a :class:`gatewise.Stack` stacks it.

    Args:
        size: D, width of input and output.
        heads: number of attention heads, which divides D.
        recurrent: the recurrence: a cell or a built-in one's name, for one layer of D units in
            time's direction; or a :class:`gatewise.Recurrent` that takes and gives D values a step.
        order: "recurrence-first", "attention-first", or "parallel", where both see the same
            normalised input and their outputs are added.
        causal: whether an output rests on its own step and those before it only.
        dropout: probability, in training, of dropping an attention weight, a hidden value of the
            feed-forward part, and a value of each part's output.
        feed_forward: width of the feed-forward part's hidden layer, which is followed by GELU; 4·D
            if not given.
        batch_first: input and output are B×T×D instead of T×B×D.
        backend: for the recurrence, as :class:`gatewise.Recurrent` takes it.

    Raises:
        OptionError: an argument is out of its range, or the recurrence does not fit.
    """

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
                f"backend={backend!r} is for a recurrence made here; the one given has "
                f"backend={recurrent.backend!r}"
            )
        _check_recurrence(recurrent, size, self.attention.causal)
        width = 4 * size if feed_forward is None else whole("feed_forward", feed_forward)
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
        input: Tensor,
        hx: None = None,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        trace: bool = False,
    ) -> Any:
        """Run the block over a batch of sequences.

        Args:
            input: T×B×D (B×T×D if ``batch_first``), or T×D for a single sequence.
            hx: must be None; here because recurrent layers have it. Attention needs the steps that
                a state has been carried over from, and they are not in it.
            lengths: B integers from 0 to T: how much of each sequence is real. What lies
                beyond is never looked at, and the output there is zero.
            reset: booleans of the input's shape less its last dimension; where true, the sequence
                starts afresh: the result is that of its pieces, each run by itself.
            trace: also return the recurrence's trace.

        Returns:
            ``output, state``, and a :class:`Trace` where it was asked for: the shape of the input,
            and the recurrence's final state.

        Raises:
            ShapeError: a tensor does not fit; the message has both shapes.
        """
        if hx is not None:
            raise ShapeError(
                "a HybridBlock cannot go on from a state, hx must be None: its attention needs the "
                "earlier steps themselves; give the whole sequence"
            )
        if not isinstance(input, Tensor):
            asked = dict(lengths=lengths, reset=reset, trace=trace)
            return by_override(HybridBlock.forward, self, input, **asked)
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
        return output, _of_one(state) if input.dim() == 2 else state, *traced

    def extra_repr(self) -> str:
        return f"order={self.order!r}, batch_first={self.batch_first}"

    def _recurrence(
        self, x: Tensor, lengths: Tensor | None, reset: Tensor | None, trace: bool
    ) -> tuple[Any, ...]:
        """The recurrence on B×T×D, in the layout that it was made with."""
        if self.recurrent.batch_first:
            each = None if reset is None else reset.T
            return self.recurrent(x, lengths=lengths, reset=each, trace=trace)
        x = x.transpose(0, 1)
        y, *rest = self.recurrent(x, lengths=lengths, reset=reset, trace=trace)
        return y.transpose(0, 1), *rest


def _no_later(steps: int, like: Tensor) -> Tensor:
    """T×T on the device of ``like``: true where a step draws on itself or one before it."""
    return torch.ones(steps, steps, dtype=torch.bool, device=like.device).tril()


def _of_one(state: Any) -> Any:
    """The state of a single sequence, less its batch dimension."""
    if isinstance(state, Tensor):
        return state.squeeze(1).clone()  # a tensor of its own, no view
    return tuple(_of_one(s) for s in state)


def _check_recurrence(recurrent: Recurrent, size: int, causal: bool) -> None:
    takes, gives = recurrent.input_size, recurrent.output_size
    if (takes, gives) != (size, size):
        raise OptionError(
            f"the recurrence takes {takes} values a step and gives {gives}, expected size={size} "
            f"for both"
        )
    if causal and recurrent.bidirectional:
        raise OptionError(
            "causal=True needs a recurrence in time's direction, this one is bidirectional"
        )
