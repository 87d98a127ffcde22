"""Attention over a recurrent layer's states: which of them a query, or a summary, draws on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.backends.contract import check_tensor, valid_steps
from gatewise.errors import OptionError, ShapeError
from gatewise.nn.autocast import autocast_dtype
from gatewise.nn.checks import not_a_tensor, shape_of
from gatewise.nn.lengths import checked_lengths
from gatewise.options import choice, flag, whole


class AdditiveAttention(nn.Module):
    """Attention by a small network (Bahdanau et al. 2015, "Neural Machine Translation by Jointly
    Learning to Align and Translate", section A.1.2): the score of a query s with a key h is
    v · tanh(W s + U h).

    ``query_weight`` is W, units×Q; ``key_weight`` is U, units×K; ``score_weight`` is v, units.

    Args:
        query_size: Q, width of a query, for example a decoder's state.
        key_size: K, width of a key, for example an encoder's output.
        units: width of the hidden layer.

    Raises:
        OptionError: a size is out of its range.
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
        self.query_size = whole("query_size", query_size)
        self.key_size = whole("key_size", key_size)
        self.units = whole("units", units)
        made: dict[str, Any] = dict(device=device, dtype=dtype)
        self.query_weight = nn.Parameter(torch.empty(self.units, self.query_size, **made))
        self.key_weight = nn.Parameter(torch.empty(self.units, self.key_size, **made))
        self.score_weight = nn.Parameter(torch.empty(self.units, **made))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw each weight from U(-1/√n, 1/√n), n its last dimension."""
        for weight in self.parameters():
            _draw(weight)

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Each query's mean over the values, weighted by how well the keys fit it.

        Args:
            query: B×S×Q, or B×Q for one query a sequence.
            keys: B×T×K.
            values: B×T×V; the keys themselves if not given.
            lengths: B integers from 0 to T: how many of each sequence's keys are real.
            mask: booleans B×T, or B×S×T for each query its own: true where a key may be drawn on.
                With ``lengths``, both must allow it.

        Returns:
            ``context, weights``: B×S×V and B×S×T (no S where the query has none). A weight that is
            not allowed is exactly 0, and what no query is allowed is never looked at; where nothing
            is, all weights and the context are 0. Other weights of a query sum to 1.

        Raises:
            ShapeError: a tensor does not fit; the message has both shapes.
        """
        sizes = (self.query_size, self.key_size)
        given = _checked(query, keys, values, lengths, mask, sizes, self.key_weight)
        from_query = F.linear(given.query, self.query_weight).unsqueeze(2)
        from_keys = F.linear(given.keys, self.key_weight).unsqueeze(1)
        scores = torch.tanh(from_query + from_keys) @ self.score_weight
        return _drawn_on(given, scores, query)

    def extra_repr(self) -> str:
        return f"{self.query_size}, {self.key_size}, {self.units}"


class MultiplicativeAttention(nn.Module):
    """Attention by a product (Luong et al. 2015, "Effective Approaches to Attention-based Neural
    Machine Translation", equation 8): the score of a query h with a key k is h · W k ("general"),
    or h · k ("dot").

    ``weight`` is W, Q×K; "dot" has no parameters. As in the paper the scores are not scaled.

    Args:
        query_size: Q, width of a query, for example a decoder's state.
        key_size: K, width of a key, for example an encoder's output; "dot" needs it equal to Q.
        kind: "general" or "dot".

    Raises:
        OptionError: an argument is out of its range.
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
        self.query_size = query_size = whole("query_size", query_size)
        self.key_size = key_size = whole("key_size", key_size)
        self.kind = kind = choice("kind", kind, ("general", "dot"))
        if kind == "dot" and query_size != key_size:
            raise OptionError(
                f"kind='dot' needs queries as wide as keys, not query_size={query_size} and "
                f"key_size={key_size}; kind='general' takes both"
            )
        weight = None
        if kind == "general":
            weight = nn.Parameter(torch.empty(query_size, key_size, device=device, dtype=dtype))
        self.register_parameter("weight", weight)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from U(-1/√K, 1/√K)."""
        if self.weight is not None:
            _draw(self.weight)

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        mask: Tensor | None = None,
        need_weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """As :meth:`AdditiveAttention.forward`; without ``need_weights`` the weights are None, and
        torch's scaled_dot_product_attention finds the context without forming them."""
        sizes = (self.query_size, self.key_size)
        given = _checked(query, keys, values, lengths, mask, sizes, self.weight)
        asked = given.query if self.weight is None else given.query @ self.weight
        if need_weights:
            return _drawn_on(given, asked @ given.keys.transpose(1, 2), query)
        context = _context_alone(asked, given)
        return context.squeeze(1) if query.dim() == 2 else context, None

    def extra_repr(self) -> str:
        return f"{self.query_size}, {self.key_size}, kind={self.kind!r}"


class AttentionPooling(nn.Module):
    """A sequence's states as one vector: their mean, weighted by a learned sense of what matters
    (Yang et al. 2016, "Hierarchical Attention Networks for Document Classification", equations 5
    to 7): the score of a state h is v · tanh(W h + b).

    ``project`` holds W and b, ``score_weight`` is v.

    Args:
        size: D, width of the states.
        units: width of the hidden layer; D if not given.
        batch_first: states are B×T×D instead of T×B×D.

    Raises:
        OptionError: an argument is out of its range.
    """

    def __init__(
        self,
        size: int,
        units: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.size = whole("size", size)
        self.batch_first = flag("batch_first", batch_first)
        units = self.size if units is None else whole("units", units)
        made: dict[str, Any] = dict(device=device, dtype=dtype)
        self.project = nn.Linear(self.size, units, **made)
        self.score_weight = nn.Parameter(torch.empty(units, **made))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as torch's linear layer does, v from U(-1/√units, 1/√units)."""
        self.project.reset_parameters()
        _draw(self.score_weight)

    def forward(
        self,
        states: Tensor,
        lengths: Tensor | Sequence[int] | None = None,
        mask: Tensor | None = None,
        trace: bool = False,
    ) -> Any:
        """Pool each sequence.

        Args:
            states: T×B×D (B×T×D if ``batch_first``), or T×D for a single sequence.
            lengths: B integers from 0 to T: how much of each sequence is real. What lies
                beyond has weight 0 and is never looked at.
            mask: booleans B×T (T for a single sequence), true where a state counts; others have
                weight 0 and are never looked at.
            trace: also return the weights.

        Returns:
            B×D (D for a single sequence), zero for a sequence of which nothing counts; and where
            ``trace`` was asked for the weights, B×T (T).

        Raises:
            ShapeError: a tensor does not fit; the message has both shapes.
        """
        if not isinstance(states, Tensor):
            raise not_a_tensor(states, "states")
        if states.dim() not in (2, 3):
            raise ShapeError(
                f"states need 2 or 3 dimensions, these have the shape {shape_of(states)}"
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
    """B×S×Q, B×T×K, B×T×V and B×1×T or B×S×T booleans, or None where all is allowed."""

    query: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None


def _checked(
    query: Tensor,
    keys: Tensor,
    values: Tensor | None,
    lengths: Tensor | Sequence[int] | None,
    mask: Tensor | None,
    sizes: tuple[int, int],
    weight: Tensor | None,
) -> _Given:
    """``sizes`` are Q and K; ``weight`` has the type and device that all must have."""
    if query.dim() not in (2, 3):
        raise ShapeError(f"query needs 2 or 3 dimensions, this has the shape {shape_of(query)}")
    if keys.dim() != 3:
        raise ShapeError(f"keys need 3 dimensions (B×T×K), these have the shape {shape_of(keys)}")
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
            f"query has the shape {shape_of(query)}, keys have the shape {shape_of(keys)}: expected "
            f"the same batch in both, first"
        )
    asked = query.unsqueeze(1) if query.dim() == 2 else query
    allowed = _allowed(keys, lengths, mask, asked.shape[1])
    return _Given(asked, _cleared(keys, allowed), _cleared(values, allowed), allowed)


def _check_values(name: str, x: Tensor, width: int, like: Tensor, of: str) -> None:
    if autocast_dtype(x) is not None:
        like = like.to(x.dtype)  # torch casts both
    check_tensor(name, x, (*x.shape[:-1], width), like, of)


def _allowed(
    keys: Tensor, lengths: Tensor | Sequence[int] | None, mask: Tensor | None, queries: int
) -> Tensor | None:
    """B×1×T or B×S×T: which keys a query may draw on; None where all."""
    batch, steps = keys.shape[:2]
    allowed = None
    given = checked_lengths(lengths, keys.transpose(0, 1))
    if given is not None:
        allowed = valid_steps(steps, given).T[:, None]
    if mask is None:
        return allowed
    if mask.dtype != torch.bool:
        raise ShapeError(f"mask must be boolean, true where a key counts; this is {mask.dtype}")
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
    """B×T×N with zeros where no query draws: a NaN there would reach sums and gradients."""
    return x if mask is None else torch.where(mask.any(1)[..., None], x, 0)


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Over the last dimension; exactly 0 where not allowed, also where nothing in a row is."""
    if mask is None:
        return scores.softmax(-1)
    # not -inf: a row of nothing else would be NaN on its way, and so would its gradient
    least = torch.finfo(scores.dtype).min
    return torch.where(mask, torch.where(mask, scores, least).softmax(-1), 0)


def _drawn_on(given: _Given, scores: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    weights = _softmax(scores, given.mask)
    context = weights @ given.values
    return (context.squeeze(1), weights.squeeze(1)) if query.dim() == 2 else (context, weights)


def _context_alone(asked: Tensor, given: _Given) -> Tensor:
    """B×S×V through torch's fused kernels, which take a dimension of heads."""
    mask, some = None, None
    if given.mask is not None:
        some = given.mask.any(-1, keepdim=True)
        # not every kernel gives zero for a row without keys, so that row has all, and is cut below
        mask = (given.mask | ~some)[:, None]
    context = F.scaled_dot_product_attention(
        asked[:, None], given.keys[:, None], given.values[:, None], mask, scale=1.0
    ).squeeze(1)
    return context if some is None else torch.where(some, context, 0)


def _draw(weight: Tensor) -> None:
    bound = 1.0 / math.sqrt(weight.shape[-1])
    nn.init.uniform_(weight, -bound, bound)
