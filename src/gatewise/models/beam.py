"""Beam search: the most probable sequences of a decoder that is asked one step at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gatewise.nn.linear import few_sizes


class Decoder(Protocol):
    """A decoder with K rows for each of N sources, whose state follows the search. It begins with one row each."""

    def step(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """N×K×V log probabilities of the next symbol, and N×K×T attention weights, after the symbols N×K. The
        search overwrites the probabilities."""

    def select(self, sources: Tensor, rows: Tensor) -> None:
        """Only the A sources with these indices remain. Their rows are replaced by those with the indices A×K."""


@dataclass(frozen=True)
class Hypothesis:
    """A sequence that the search found.

    Attributes:
        symbols: S, without the beginning and the end.
        score: the log probability, divided by the length, with the end, to the power of the normalisation.
        weights: S×T, the attention of each symbol over the source.
    """

    symbols: Tensor
    score: float
    weights: Tensor


def beam_search(
    decoder: Decoder,
    limits: Tensor,
    begin: int,
    end: int,
    beam: int = 5,
    normalisation: float = 1.0,
) -> list[Hypothesis]:
    """The best hypothesis for each of N sources.

    A source is finished once ``beam`` of its hypotheses have ended, or at its limit. What a source gets does not
    depend on the others.

    Args:
        limits: N, the greatest number of symbols for each source.
        begin, end: the symbols before and after a sequence.
        beam: K, the number of hypotheses that are kept at each step; 1 is greedy search.
        normalisation: the power of the length by which log probabilities are divided (Wu et al. 2016, without
            its offset); 0 for none, which prefers short sequences.
    """
    search = _Search(limits, beam, normalisation, end)
    symbols = torch.full((len(limits), 1), begin)
    while len(search.active):
        parents, symbols = search.extend(*decoder.step(symbols))
        kept = search.kept()
        symbols = symbols[kept]
        if len(kept):
            decoder.select(kept, parents[kept])
    return search.found()


_BLOCK = 64


def largest(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``x.topk(count)`` of a matrix, in less than half of its time for long rows.

    The largest numbers are in those blocks of a row that have the largest maxima.
    """
    blocks = x.shape[1] // _BLOCK
    if blocks < 4 * count:
        values, places = x.topk(count)
        return values, places
    whole = blocks * _BLOCK
    maxima = x[:, :whole].unflatten(1, (blocks, _BLOCK)).amax(2)
    first = maxima.topk(count).indices[..., None] * _BLOCK
    among = (first + torch.arange(_BLOCK)).flatten(1)
    rest = torch.arange(whole, x.shape[1]).expand(len(x), -1)
    among = torch.cat([among, rest], 1)
    values, places = x.gather(1, among).topk(count)
    return values, among.gather(1, places)


class _Step(NamedTuple):
    """The rows after a step: sources A, parents and symbols A×K, and the attention of the parents A×K×T."""

    sources: Tensor
    parents: Tensor
    symbols: Tensor
    weights: Tensor


class _Search:
    """The hypotheses of N sources."""

    def __init__(self, limits: Tensor, beam: int, normalisation: float, end: int) -> None:
        count = len(limits)
        self.limits, self.beam, self.normalisation, self.end = limits, beam, normalisation, end
        self.active = torch.arange(count)  # the sources that the decoder still has
        self.scores = torch.zeros(count, 1)
        self.open = torch.ones(count, dtype=torch.bool)
        self.ended = torch.zeros(count, dtype=torch.long)  # hypotheses of each source
        # of the best hypothesis that has ended: its score, its length and its last row
        self.score = torch.full((count,), -torch.inf)
        self.length, self.row = torch.zeros(2, count, dtype=torch.long)
        self.taken = 0  # steps
        self.steps: list[_Step] = []

    def extend(self, log_p: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The parents and symbols, A×K, of the rows after one more step of the A active sources."""
        beam, symbols = self.beam, log_p.shape[2]
        total = log_p.add_(self.scores[:, :, None]).flatten(1)
        # of 2K candidates at most K are ends
        scores, found = largest(total, min(2 * beam, total.shape[1]))
        parents, chosen = found // symbols, found % symbols
        ends = chosen == self.end
        self.taken += 1
        self._end(scores[:, :beam], parents[:, :beam], ends[:, :beam], end=True)
        self.scores, order = scores.masked_fill(ends, -torch.inf).topk(min(beam, scores.shape[1]))
        parents, chosen = parents.gather(1, order), chosen.gather(1, order)
        self.steps.append(_Step(self.active, parents, chosen, weights))
        late = self.open & (self.taken >= self.limits)
        if bool(late.any()):  # a source without any end takes its best row
            cut = (late & (self.ended == 0))[self.active, None].expand(self.scores.shape)
            rows = torch.arange(self.scores.shape[1]).expand(self.scores.shape)
            self._end(self.scores, rows, cut, end=False)
        self.open &= ~late & (self.ended < beam)
        return parents, chosen

    def _end(self, scores: Tensor, rows: Tensor, ends: Tensor, end: bool) -> None:
        """Notes those hypotheses, A×K, of open sources that end: with the symbol of the ``end``, or cut."""
        # rows that no hypothesis has taken yet have the score -inf
        ends = ends & self.open[self.active, None] & (scores > -torch.inf)
        scores = (scores / self.taken**self.normalisation).masked_fill(~ends, -torch.inf)
        best, at = scores.max(1)
        better = (best > self.score[self.active]).nonzero()[:, 0]
        where = self.active[better]
        self.score[where], self.length[where] = best[better], self.taken - end
        self.row[where] = rows[better, at[better]]
        self.ended[self.active] += ends.sum(1)

    def kept(self) -> Tensor:
        """The places of the open sources among the active ones, which are then those alone, and finished ones up to
        one of few numbers: see gatewise.nn.linear."""
        open_ = self.open[self.active]
        count = min(few_sizes(int(open_.sum()), 3), len(open_))
        kept = open_.byte().argsort(descending=True, stable=True)[:count].sort().values
        self.active, self.scores = self.active[kept], self.scores[kept]
        return kept

    def found(self) -> list[Hypothesis]:
        """The best hypothesis of each source, followed from its last row back to the beginning."""
        steps = int(self.length.max()) if len(self.length) else 0
        symbols = torch.zeros(len(self.length), steps, dtype=torch.long)
        weights = [torch.zeros(0)] * steps
        rows = self.row.clone()
        for k in reversed(range(steps)):
            step = self.steps[k]
            which = (self.length > k).nonzero()[:, 0]
            place = torch.searchsorted(step.sources, which)
            symbols[which, k] = step.symbols[place, rows[which]]
            rows[which] = step.parents[place, rows[which]]
            full = step.weights.new_zeros(len(rows), step.weights.shape[-1])
            full[which] = step.weights[place, rows[which]]
            weights[k] = full
        width = self.steps[0].weights.shape[-1] if self.steps else 0
        all_weights = torch.stack(weights, 1) if steps else torch.zeros(len(rows), 0, width)
        lengths = self.length.tolist()
        return [
            Hypothesis(symbols[k, :n], score, all_weights[k, :n])
            for k, (n, score) in enumerate(zip(lengths, self.score.tolist(), strict=True))
        ]
