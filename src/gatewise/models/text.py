"""The network of the text classifier: an embedding, bidirectional recurrent layers, attention pooling, a head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.cells.language import Cell
from gatewise.nn.attention import AttentionPooling
from gatewise.nn.dropout import Dropout
from gatewise.nn.layers import LSTM
from gatewise.nn.linear import Linear
from gatewise.nn.recurrent import Recurrent

PADDING = 0
UNKNOWN = 1
_WIDTHS = (3, 4, 5)  # neighbouring symbols that a filter covers
_TOGETHER = 1024  # predictions whose outputs of all symbols are in memory at once


@dataclass(frozen=True)
class TextShape:
    """The sizes and options of the network."""

    symbols: int
    outputs: int
    embedding: int
    hidden: int
    layers: int
    dropout: float
    embedding_dropout: float
    word_dropout: float
    members: int = 1
    filters: int = 0


class TextEncoder(nn.Module):
    """An embedding of V symbols, and bidirectional recurrent layers.

    In training a symbol is replaced by the unknown one with probability ``word_dropout``, and each entry of the
    embedding is zero for a whole text with probability ``embedding_dropout``.

    The first recurrent layer is a module of its own, so that it can learn as a language model: its two
    directions have not seen each other.
    """

    def __init__(self, cell: Cell | str, shape: TextShape) -> None:
        super().__init__()
        self.word_dropout, self.embedding_dropout = shape.word_dropout, shape.embedding_dropout
        self.embedding = nn.Embedding(shape.symbols, shape.embedding, padding_idx=PADDING)
        with torch.no_grad():
            self.embedding.weight.normal_(std=0.1)[PADDING] = 0
        self.first = _recurrent(cell, shape.embedding, shape.hidden, 1)
        self.dropout = Dropout(shape.dropout)
        if shape.layers > 1:
            self.upper = _recurrent(
                cell, 2 * shape.hidden, shape.hidden, shape.layers - 1, shape.dropout
            )

    def embedded(self, symbols: Tensor) -> Tensor:
        """B×T×E: the inputs of the recurrent layers."""
        return self.thinned(self.words(symbols))

    def words(self, symbols: Tensor) -> Tensor:
        """B×T×E: the embedding of B×T symbols, in training with words replaced by the unknown one."""
        if self.training and self.word_dropout:
            dropped = torch.rand(symbols.shape, device=symbols.device) < self.word_dropout
            symbols = symbols.masked_fill(dropped & (symbols != PADDING), UNKNOWN)
        found: Tensor = self.embedding(symbols)
        return found

    def thinned(self, x: Tensor) -> Tensor:
        """B×T×E embedded symbols, in training with entries that are zero for a whole text."""
        if self.training and self.embedding_dropout:
            kept = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) >= self.embedding_dropout
            x = x * (kept / (1 - self.embedding_dropout))
        return x

    def states(self, embedded: Tensor, lengths: Tensor, trace: bool = False) -> Any:
        """B×T×2H outputs of the last layer for B×T×E embedded symbols. With ``trace`` a tuple of these and the
        first layer's trace."""
        result = self.first(embedded, lengths=lengths, trace=trace)
        output = result[0]
        if hasattr(self, "upper"):
            output = self.upper(self.dropout(output), lengths=lengths)[0]
        return (output, result[2]) if trace else output


def _recurrent(
    cell: Cell | str, inputs: int, hidden: int, layers: int, dropout: float = 0.0
) -> Recurrent:
    options: dict[str, Any] = dict(
        batch_first=True, bidirectional=True, dropout=dropout if layers > 1 else 0.0
    )
    if cell == "lstm":
        return LSTM(inputs, hidden, layers, forget_bias=1.0, **options)
    return Recurrent(cell, inputs, hidden, layers, **options)


class PhraseFilters(nn.Module):
    """Filters over the embeddings of three, four and five neighbouring symbols, each with a rectifier (Kim 2014).

    Args:
        inputs: E, the width of the embedding.
        filters: how many filters there are of each width.
    """

    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.of_width = nn.ModuleList(
            nn.Conv1d(inputs, filters, width, padding=width // 2) for width in _WIDTHS
        )

    def forward(self, x: Tensor, after: Tensor) -> Tensor:
        """B×F: the largest output of each of the F filters over the steps of a text.

        ``x`` is B×T×E; ``after``, B×T×1, says which steps are behind a text's end.
        """
        steps = x.masked_fill(after, 0).transpose(1, 2)
        behind = after.transpose(1, 2)
        found = [
            torch.relu(each(steps)[..., : x.shape[1]]).masked_fill(behind, 0).amax(2)
            for each in self.of_width
        ]
        return torch.cat(found, 1)


class TextNetwork(nn.Module):
    """The encoder, attention pooling of its outputs beside their maximum over the steps, and a linear head.

    With ``filters`` there is a second part: filters over neighbouring symbols, and a linear head of their own. The
    output is the mean of both. The filters read the embedding without ``embedding_dropout``.
    """

    def __init__(self, cell: Cell | str, shape: TextShape) -> None:
        super().__init__()
        self.encoder = TextEncoder(cell, shape)
        self.attention = AttentionPooling(2 * shape.hidden, batch_first=True)
        self.dropout = Dropout(shape.dropout)
        self.head = nn.Linear(4 * shape.hidden, shape.outputs)
        if shape.filters:
            self.phrases = PhraseFilters(shape.embedding, shape.filters)
            self.phrase_head = nn.Linear(len(_WIDTHS) * shape.filters, shape.outputs)

    def forward(self, symbols: Tensor, lengths: Tensor, trace: bool = False) -> Any:
        """B×outputs for B×T symbols. With ``trace`` a tuple of these and the trace of the first layer."""
        words = self.encoder.words(symbols)
        result = self.encoder.states(self.encoder.thinned(words), lengths, trace)
        outputs = _mean(self._heads(words, result[0] if trace else result, lengths)[0])
        return (outputs, result[1]) if trace else outputs

    def parts(self, symbols: Tensor, lengths: Tensor) -> list[Tensor]:
        """B×outputs of each part of the network, whose mean is the output."""
        return self._parts(symbols, lengths)[0]

    def with_weights(self, symbols: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """B×outputs, and B×T, the weight of each symbol in the attention pooling; a text's weights sum to 1."""
        outputs, weights = self._parts(symbols, lengths)
        return _mean(outputs), weights

    def _parts(self, symbols: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        words = self.encoder.words(symbols)
        return self._heads(
            words, self.encoder.states(self.encoder.thinned(words), lengths), lengths
        )

    def _heads(self, words: Tensor, states: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        pooled, weights = self.attention(states, lengths=lengths, trace=True)
        after = (torch.arange(states.shape[1], device=states.device) >= lengths[:, None])[..., None]
        highest = states.masked_fill(after, -torch.inf).amax(1)
        outputs = [self.head(self.dropout(torch.cat([pooled, highest], 1)))]
        if hasattr(self, "phrases"):
            outputs.append(self.phrase_head(self.dropout(self.phrases(words, after))))
        return outputs, weights


def _mean(outputs: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(outputs)).mean(0)


class TextEnsemble(nn.Module):
    """Networks that differ in their initial weights. The output is the mean of theirs."""

    def __init__(self, cell: Cell | str, shape: TextShape) -> None:
        super().__init__()
        self.members = nn.ModuleList(TextNetwork(cell, shape) for _ in range(shape.members))

    @property
    def encoders(self) -> list[TextEncoder]:
        """The members' encoders."""
        return [each.encoder for each in cast(Iterable[TextNetwork], self.members)]

    def forward(self, symbols: Tensor, lengths: Tensor, trace: bool = False) -> Any:
        """B×outputs for B×T symbols. With ``trace`` a tuple of these and the trace of the first member's first
        layer."""
        first, *others = self.members
        outputs, *traced = first(symbols, lengths, True) if trace else (first(symbols, lengths),)
        mean = _mean([outputs, *[each(symbols, lengths) for each in others]])
        return (mean, *traced) if trace else mean

    def parts(self, symbols: Tensor, lengths: Tensor) -> list[Tensor]:
        """B×outputs of each part of each member, whose mean is the output."""
        members = cast(Iterable[TextNetwork], self.members)
        return [part for each in members for part in each.parts(symbols, lengths)]

    def with_weights(self, symbols: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """B×outputs, and B×T, the mean of the members' attention weights; a text's weights sum to 1."""
        members = cast(Iterable[TextNetwork], self.members)
        outputs, weights = zip(
            *(each.with_weights(symbols, lengths) for each in members), strict=True
        )
        return _mean(outputs), _mean(weights)


class PretrainingNetwork(nn.Module):
    """Two language models that share an encoder's embedding: the forward direction of its first layer predicts
    the next word, the backward direction the word before.

    The output weights are those of the embedding (Press & Wolf 2017). In training the softmax is over the
    target and a sample of other symbols (Jean et al. 2015, section 3).

    Args:
        counts: V, how often each symbol occurs. Symbols are sampled by their counts to the power 0.75.
        sampled: the number of sampled symbols.
    """

    counts: Tensor

    def __init__(
        self, cell: Cell | str, shape: TextShape, counts: Tensor, sampled: int = 512
    ) -> None:
        super().__init__()
        self.encoder = TextEncoder(cell, shape)
        self.dropout = Dropout(shape.dropout)
        self.outputs = nn.ModuleList(Linear(shape.hidden, shape.embedding) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(shape.symbols))
        self.register_buffer("counts", counts, persistent=False)
        self.sampled = sampled

    def forward(self, symbols: Tensor, lengths: Tensor) -> Tensor:
        """B: the mean negative log-likelihood of each text's symbols, in nats, over both directions.

        ``symbols`` is B×T. Each text has a beginning and an end, which are not words: two symbols or more.
        """
        x = self.encoder.embedded(symbols)
        states = self.dropout(self.encoder.first(x, lengths=lengths)[0])
        forward, backward = states.chunk(2, -1)
        inside = torch.arange(1, symbols.shape[1], device=symbols.device) < lengths[:, None]
        # from each step to the next one, and back
        queries = torch.cat([self.outputs[0](forward[:, :-1][inside]),
                             self.outputs[1](backward[:, 1:][inside])])  # fmt: skip
        targets = torch.cat([symbols[:, 1:][inside], symbols[:, :-1][inside]])
        losses = self._losses(queries, targets)
        text = inside.nonzero()[:, 0].repeat(2)
        sums = losses.new_zeros(len(symbols)).index_add(0, text, losses)
        return sums / (2 * (lengths - 1))

    def _losses(self, queries: Tensor, targets: Tensor) -> Tensor:
        """The negative log-likelihood of each target."""
        weight = self.encoder.embedding.weight
        if not self.training or self.sampled >= len(weight):
            # in parts: the outputs of all symbols for a batch of long texts would take gigabytes
            parts = zip(queries.split(_TOGETHER), targets.split(_TOGETHER), strict=True)
            return torch.cat([
                F.cross_entropy(F.linear(query, weight, self.bias), target, reduction="none")
                for query, target in parts
            ])  # fmt: skip
        likely = self.counts.double().pow(0.75)
        drawn = torch.multinomial(likely, self.sampled)  # without replacement
        # the logarithm of the probability that a symbol is in the sample
        correction = torch.log(-torch.expm1(-self.sampled * likely / likely.sum())).to(weight)
        theirs = queries @ F.embedding(drawn, weight).T + (self.bias[drawn] - correction[drawn])
        theirs = theirs.masked_fill(drawn == targets[:, None], -torch.inf)
        own = (
            (queries * F.embedding(targets, weight)).sum(1)
            + self.bias[targets]
            - correction[targets]
        )
        return torch.logsumexp(torch.cat([own[:, None], theirs], 1), 1) - own
