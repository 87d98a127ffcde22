"""Attention over the states of a recurrent layer, for a decoder's queries and for pooling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.backends.contract import check_tensor, valid_steps
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.autocast import autocast_dtype
from gatewise.nn.checks import not_a_tensor, shape_of
from gatewise.nn.lengths import checked_lengths
from gatewise.nn.linear import Linear, linear
from gatewise.options import choice, flag, integer

if TYPE_CHECKING:
    from gatewise.nn.call_types import PoolingCall
    from gatewise.nn.shapes import Bool, Float, Lengths


class AdditiveAttention(nn.Module):
    """Additive attention: the score of a query s and a key h is v · tanh(W s + U h).

    Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and Translate",
    section A.1.2. ``query_weight`` is W, units×Q; ``key_weight`` is U, units×K; ``score_weight`` is v,
    units.

    Args:
        query_size: Q, the width of a query, for example a decoder's state.
        key_size: K, the width of a key, for example an encoder's output.
        units: the width of the hidden layer.

    Raises:
        OptionError: a size is not a positive integer.
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        units: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.query_size = integer("query_size", query_size)
        self.key_size = integer("key_size", key_size)
        self.units = integer("units", units)
        made: dict[str, Any] = dict(device=device, dtype=dtype)
        self.query_weight = nn.Parameter(torch.empty(self.units, self.query_size, **made))
        self.key_weight = nn.Parameter(torch.empty(self.units, self.key_size, **made))
        self.score_weight = nn.Parameter(torch.empty(self.units, **made))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws each weight from U(-1/√n, 1/√n), where n is its last dimension."""
        for weight in self.parameters():
            _draw(weight)

    def forward(
        self,
        query: Float[Tensor, "B S Q"] | Float[Tensor, "B Q"],
        keys: Float[Tensor, "B T K"],
        values: Float[Tensor, "B T V"] | None = None,
        lengths: Lengths | None = None,
        mask: Bool[Tensor, "B T"] | Bool[Tensor, "B S T"] | None = None,
    ) -> (
        tuple[Float[Tensor, "B S V"], Float[Tensor, "B S T"]]
        | tuple[Float[Tensor, "B V"], Float[Tensor, "B T"]]
    ):
        """The mean of the values for each query, weighted by the softmax of the scores.

        Args:
            query: B×S×Q, or B×Q for one query per sequence.
            keys: B×T×K.
            values: B×T×V; the default is the keys.
            lengths: B integers from 0 to T, the number of keys of each sequence; others are padding.
            mask: booleans B×T, or B×S×T for a mask of each query: true where a query may attend to
                a key. With ``lengths``, both must allow it.

        Returns:
            ``context, weights``: B×S×V and B×S×T (without S where the query has none). The weights of
            a query sum to 1. A weight that is not allowed is exactly 0. A key that no query may attend
            to is not read. Where a query may attend to no key, its weights and context are 0.

        Raises:
            ShapeError: a tensor does not fit; the message has the shape and the expected shape.
        """
        sizes = (self.query_size, self.key_size)
        given = _checked(query, keys, values, lengths, mask, sizes, self.key_weight)
        from_query = F.linear(given.query, self.query_weight).unsqueeze(2)
        from_keys = F.linear(given.keys, self.key_weight).unsqueeze(1)
        scores = torch.tanh(from_query + from_keys) @ self.score_weight
        return _context_and_weights(given, scores, query)

    if TYPE_CHECKING:
        __call__ = forward  # torch declares that a call returns Any

    def extra_repr(self) -> str:
        return f"{self.query_size}, {self.key_size}, {self.units}"


class MultiplicativeAttention(nn.Module):
    """Multiplicative attention: the score of a query h and a key k is h · W k, or h · k.

    Luong et al. 2015, "Effective Approaches to Attention-based Neural Machine Translation", equation 8.
    ``weight`` is W, Q×K. The scores are not scaled, as in the paper.

    Args:
        query_size: Q, the width of a query, for example a decoder's state.
        key_size: K, the width of a key, for example an encoder's output. "dot" needs K = Q.
        kind: "general" for h · W k, or "dot" for h · k, which has no parameters.

    Raises:
        OptionError: an argument is not valid.
    """

    weight: nn.Parameter | None

    def __init__(
        self,
        query_size: int,
        key_size: int,
        kind: str = "general",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.query_size = query_size = integer("query_size", query_size)
        self.key_size = key_size = integer("key_size", key_size)
        self.kind = kind = choice("kind", kind, ("general", "dot"))
        if kind == "dot" and query_size != key_size:
            raise OptionError(
                f"kind='dot' needs query_size == key_size, not query_size={query_size} and "
                f"key_size={key_size}; use kind='general'"
            )
        weight = None
        if kind == "general":
            weight = nn.Parameter(torch.empty(query_size, key_size, device=device, dtype=dtype))
        self.register_parameter("weight", weight)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weight from U(-1/√K, 1/√K)."""
        if self.weight is not None:
            _draw(self.weight)

    def forward(
        self,
        query: Float[Tensor, "B S Q"] | Float[Tensor, "B Q"],
        keys: Float[Tensor, "B T K"],
        values: Float[Tensor, "B T V"] | None = None,
        lengths: Lengths | None = None,
        mask: Bool[Tensor, "B T"] | Bool[Tensor, "B S T"] | None = None,
        need_weights: bool = True,
    ) -> (
        tuple[Float[Tensor, "B S V"], Float[Tensor, "B S T"] | None]
        | tuple[Float[Tensor, "B V"], Float[Tensor, "B T"] | None]
    ):
        """The context and weights of :meth:`AdditiveAttention.forward`.

        Without ``need_weights`` the weights are None. Then torch's scaled_dot_product_attention computes
        the context, and does not store the weights.
        """
        sizes = (self.query_size, self.key_size)
        given = _checked(query, keys, values, lengths, mask, sizes, self.weight)
        projected = given.query if self.weight is None else linear(given.query, self.weight.t())
        if need_weights:
            return _context_and_weights(given, projected @ given.keys.transpose(1, 2), query)
        context = _context(projected, given)
        return context.squeeze(1) if query.dim() == 2 else context, None

    if TYPE_CHECKING:
        __call__ = forward  # torch declares that a call returns Any

    def extra_repr(self) -> str:
        return f"{self.query_size}, {self.key_size}, kind={self.kind!r}"


class AttentionPooling(nn.Module):
    """Attention pooling: one vector per sequence, the weighted mean of its states.

    The score of a state h is v · tanh(W h + b) (Yang et al. 2016, "Hierarchical Attention Networks for
    Document Classification", equations 5 to 7). ``project`` has W and b, ``score_weight`` is v.

    Args:
        size: D, the width of the states.
        units: the width of the hidden layer; the default is D.
        batch_first: states are B×T×D instead of T×B×D.

    Raises:
        OptionError: an argument is not valid.
    """

    if TYPE_CHECKING:
        __call__: PoolingCall

    def __init__(
        self,
        size: int,
        units: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.size = integer("size", size)
        self.batch_first = flag("batch_first", batch_first)
        units = self.size if units is None else integer("units", units)
        made: dict[str, Any] = dict(device=device, dtype=dtype)
        self.project = Linear(self.size, units, **made)
        self.score_weight = nn.Parameter(torch.empty(units, **made))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws W and b as torch's linear layer does, and v from U(-1/√units, 1/√units)."""
        self.project.reset_parameters()
        _draw(self.score_weight)

    def forward(
        self,
        states: Float[Tensor, "*steps D"],
        lengths: Lengths | None = None,
        mask: Bool[Tensor, "B T"] | Bool[Tensor, " T"] | None = None,
        trace: bool = False,
    ) -> Float[Tensor, "*batch D"] | tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch T"]]:
        """The pooled vector of each sequence.

        Args:
            states: T×B×D (B×T×D if ``batch_first``), or T×D for a single sequence.
            lengths: B integers from 0 to T, the length of each sequence. Padding has weight 0 and is
                not read.
            mask: booleans B×T (T for a single sequence): true for the states that count. Others
                have weight 0 and are not read.
            trace: also return the weights.

        Returns:
            B×D (D for a single sequence); zero for a sequence without any state that counts. With
            ``trace`` also the weights, B×T (T).

        Raises:
            ShapeError: a tensor does not fit; the message has the shape and the expected shape.
        """
        if not isinstance(states, Tensor):
            raise not_a_tensor(states, "states")
        if states.dim() not in (2, 3):
            raise ShapeError(
                f"states must have 2 or 3 dimensions, not the shape {shape_of(states)}"
            )
        single = states.dim() == 2
        x = states[None] if single else states if self.batch_first else states.transpose(0, 1)
        _check_values("states", x, self.size, self.project.weight, "the layer's weight")
        if mask is not None:
            _check_states_mask(mask, states.shape[:1] if single else x.shape[:2])
            mask = mask[None] if single else mask
        mask = _allowed(x, lengths, mask, 1)
        x = _cleared(x, mask)
        scores = torch.tanh(self.project(x)) @ self.score_weight
        weights = _softmax(scores[:, None], mask)
        pooled, weights = (weights @ x).squeeze(1), weights.squeeze(1)
        if single:
            pooled, weights = pooled[0], weights[0]
        return (pooled, weights) if trace else pooled


class _Given(NamedTuple):
    """Checked tensors: B×S×Q, B×T×K, B×T×V; the mask is B×1×T or B×S×T, or None for no mask."""

    query: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None


def _checked(
    query: Tensor,
    keys: Tensor,
    values: Tensor | None,
    lengths: Lengths | None,
    mask: Tensor | None,
    sizes: tuple[int, int],
    weight: Tensor | None,
) -> _Given:
    """The checked arguments. ``sizes`` are Q and K; all tensors must have the dtype and device of ``weight``."""
    if query.dim() not in (2, 3):
        raise ShapeError(f"query must have 2 or 3 dimensions, not the shape {shape_of(query)}")
    if keys.dim() != 3:
        raise ShapeError(f"keys must have 3 dimensions (B×T×K), not the shape {shape_of(keys)}")
    values = keys if values is None else values
    if values.dim() != 3 or values.shape[:2] != keys.shape[:2]:
        batch, steps = keys.shape[:2]
        raise ShapeError(
            f"values have the shape {shape_of(values)}, expected ({batch}, {steps}, V) for keys of "
            f"the shape {shape_of(keys)}"
        )
    like, of = (keys, "keys") if weight is None else (weight, "the layer's weight")
    for name, x, width in (
        ("query", query, sizes[0]),
        ("keys", keys, sizes[1]),
        ("values", values, values.shape[2]),
    ):
        _check_values(name, x, width, like, of)
    if query.shape[0] != keys.shape[0]:
        raise ShapeError(
            f"query has the shape {shape_of(query)} and keys have the shape {shape_of(keys)}: their "
            f"first dimensions, the batch, must be equal"
        )
    queries = query.unsqueeze(1) if query.dim() == 2 else query
    allowed = _allowed(keys, lengths, mask, queries.shape[1])
    return _Given(queries, _cleared(keys, allowed), _cleared(values, allowed), allowed)


def _check_values(name: str, x: Tensor, width: int, like: Tensor, of: str) -> None:
    if autocast_dtype(x) is not None:
        like = like.to(x.dtype)  # autocast casts both
    check_tensor(name, x, (*x.shape[:-1], width), like, of)


def _allowed(
    keys: Tensor, lengths: Lengths | None, mask: Tensor | None, queries: int
) -> Tensor | None:
    """B×1×T or B×S×T: true where a query may attend to a key; None if every query may to every key."""
    batch, steps = keys.shape[:2]
    allowed = None
    given = checked_lengths(lengths, keys.transpose(0, 1))
    if given is not None:
        allowed = valid_steps(steps, given).T[:, None]
    if mask is None:
        return allowed
    if mask.dtype != torch.bool:
        raise ShapeError(
            f"mask must be boolean, true where a query may attend to a key, not {mask.dtype}"
        )
    if mask.shape not in ((batch, steps), (batch, queries, steps)):
        raise ShapeError(
            f"mask has the shape {shape_of(mask)}, expected ({batch}, {steps}) or "
            f"({batch}, {queries}, {steps})"
        )
    mask = (mask if mask.dim() == 3 else mask[:, None]).to(keys.device)
    return mask if allowed is None else mask & allowed


def _check_states_mask(mask: Tensor, expected: torch.Size) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != expected:
        found = (
            f"{shape_of(mask)} of {mask.dtype}"
            if isinstance(mask, Tensor)
            else f"{type(mask).__name__}"
        )
        raise ShapeError(
            f"mask must be a boolean tensor {tuple(expected)}, true where a state counts, not {found}"
        )


def _cleared(x: Tensor, mask: Tensor | None) -> Tensor:
    """B×T×N, with zeros where no query attends, because a NaN there would reach sums and gradients."""
    return x if mask is None else torch.where(mask.any(1)[..., None], x, 0)


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """The softmax over the last dimension: 0 where ``mask`` is false, also in a row that is all false."""
    if mask is None:
        return scores.softmax(-1)
    # not -inf: a row of -inf alone has a NaN as its softmax and gradient
    least = torch.finfo(scores.dtype).min
    return torch.where(mask, torch.where(mask, scores, least).softmax(-1), 0)


def _context_and_weights(given: _Given, scores: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    weights = _softmax(scores, given.mask)
    context = weights @ given.values
    return (context.squeeze(1), weights.squeeze(1)) if query.dim() == 2 else (context, weights)


def _context(projected: Tensor, given: _Given) -> Tensor:
    """B×S×V, by torch's fused kernels, which need a dimension of heads."""
    mask, attends = None, None
    if given.mask is not None:
        attends = given.mask.any(-1, keepdim=True)
        # some kernels do not give zero for a row without keys: give it all keys, and set it to zero below
        mask = (given.mask | ~attends)[:, None]
    context = F.scaled_dot_product_attention(
        projected[:, None], given.keys[:, None], given.values[:, None], mask, scale=1.0
    ).squeeze(1)
    return context if attends is None else torch.where(attends, context, 0)


def _draw(weight: Tensor) -> None:
    bound = 1.0 / math.sqrt(weight.shape[-1])
    nn.init.uniform_(weight, -bound, bound)
