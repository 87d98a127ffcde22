"""The network of the translator: a bidirectional encoder, attention, and a decoder that runs over all steps at once.

The decoder's first layer reads the target alone, so it runs over all steps in one call. Its outputs are the queries of
the attention. The second layer reads them with the contexts that the attention found. This is the order of Wu et
al. 2016, "Google's Neural Machine Translation System", section 3; the attention is the multiplicative one of Luong et
al. 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gatewise.nn.attention import MultiplicativeAttention
from gatewise.nn.dropout import Dropout
from gatewise.nn.layers import LSTM
from gatewise.nn.linear import Linear, linear


@dataclass(frozen=True)
class TranslationShape:
    """The sizes and options of the network.

    Attributes:
        source_symbols, target_symbols: the numbers of symbols of the two languages.
        embedding: E, the width of an embedding, and of the vector that the output layer reads.
        hidden: H, the units of each decoder layer; an encoder layer has H/2 in each direction.
        layers: the number of encoder layers.
        dropout: the dropout probability of embeddings, of layer outputs and of the output vector.
    """

    source_symbols: int
    target_symbols: int
    embedding: int
    hidden: int
    layers: int
    dropout: float


class Memory(NamedTuple):
    """What the decoder reads of the source: keys B×T×H, their lengths, and its initial state, each 1×B×H."""

    keys: Tensor
    lengths: Tensor | None
    state: tuple[Tensor, Tensor]


class TranslationNetwork(nn.Module):
    """The vectors from which the symbols of a target sequence are predicted, given a source sequence.

    The weights of the output layer are those of the target embedding (Press & Wolf 2017).
    """

    def __init__(self, shape: TranslationShape) -> None:
        super().__init__()
        embedding, hidden = shape.embedding, shape.hidden
        self.source_embedding = nn.Embedding(shape.source_symbols, embedding)
        self.target_embedding = nn.Embedding(shape.target_symbols, embedding)
        for each in (self.source_embedding, self.target_embedding):
            nn.init.normal_(each.weight, std=embedding**-0.5)
        options: dict[str, Any] = dict(batch_first=True, forget_bias=1.0)
        self.encoder = LSTM(
            embedding,
            hidden // 2,
            shape.layers,
            bidirectional=True,
            dropout=shape.dropout if shape.layers > 1 else 0.0,
            **options,
        )
        self.decoder = LSTM(embedding, hidden, **options)
        self.attention = MultiplicativeAttention(hidden, hidden)
        self.second = LSTM(2 * hidden, hidden, **options)
        self.combine = Linear(2 * hidden, embedding)
        self.bias = nn.Parameter(torch.zeros(shape.target_symbols))
        self.dropout = Dropout(shape.dropout)

    def encode(self, source: Tensor, lengths: Tensor | None) -> Memory:
        """The memory of source symbols B×T."""
        embedded = self.dropout(self.source_embedding(source))
        keys, (h, c) = self.encoder(embedded, lengths=lengths)
        first, second = (torch.cat([s[-2], s[-1]], -1)[None] for s in (h, c))
        return Memory(self.dropout(keys), lengths, (first, second))

    def decode(
        self, memory: Memory, target: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """B×S×E vectors for the output layer, and the attention's weights B×S×T (None without ``need_weights``),
        for the target symbols B×S before each step."""
        embedded = self.dropout(self.target_embedding(target))
        queries, _ = self.decoder(embedded, memory.state)
        context, weights = self.attention(
            queries, memory.keys, lengths=memory.lengths, need_weights=need_weights
        )
        output, _ = self.second(self.dropout(torch.cat([queries, context], -1)))
        return self.combined(output, context), weights

    def combined(self, output: Tensor, context: Tensor) -> Tensor:
        """The vectors that the output layer reads."""
        vectors: Tensor = self.dropout(torch.tanh(self.combine(torch.cat([output, context], -1))))
        return vectors

    def forward(
        self, source: Tensor, lengths: Tensor | None, target: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """B×S×E vectors for the output layer, and the attention's weights B×S×T.

        Args:
            source: B×T symbols.
            lengths: B, the numbers of source symbols.
            target: B×S, the symbols before each step.
        """
        return self.decode(self.encode(source, lengths), target, need_weights=True)

    def logits(self, vectors: Tensor) -> Tensor:
        """…×V for the vectors …×E."""
        return linear(vectors, self.target_embedding.weight, self.bias)


class StepDecoder:
    """The decoder of a network, one step at a time, with rows for each of B sources: see
    :class:`gatewise.models.beam.Decoder`.

    Its layers are streams, which run on the CPU in the network's dtype.

    Args:
        rows: the greatest number of rows of a source.
        never: symbols that are not predicted.
    """

    def __init__(
        self, network: TranslationNetwork, memory: Memory, rows: int, never: tuple[int, ...] = ()
    ) -> None:
        self.network, self.never, self.rows = network, list(never), 1
        weight = network.attention.weight
        assert weight is not None
        self.keys = memory.keys
        self.scored = (memory.keys @ weight.T).transpose(1, 2).contiguous()  # B×H×T
        steps = torch.arange(memory.keys.shape[1])
        lengths = memory.lengths
        self.outside = None if lengths is None else (steps >= lengths[:, None])[:, None]
        sources = torch.arange(len(memory.keys))
        self.first, self.second = (
            layer.stream(len(sources) * rows) for layer in (network.decoder, network.second)
        )
        for stream in (self.first, self.second):
            stream.select(sources)
        self.first.state = memory.state

    def step(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        network, shape = self.network, symbols.shape
        embedded = network.target_embedding(symbols.reshape(-1))
        queries = torch.from_numpy(self.first.step(embedded)).view(*shape, -1)
        scores = queries @ self.scored
        if self.outside is not None:
            scores.masked_fill_(self.outside, -torch.inf)
        weights = scores.softmax(-1)
        context = weights @ self.keys
        read = torch.cat([queries, context], -1).flatten(0, 1)
        output = torch.from_numpy(self.second.step(read)).view(*shape, -1)
        logits = network.logits(network.combined(output, context))
        log_p = torch.log_softmax(logits, -1, out=logits)
        log_p[..., self.never] = -torch.inf
        self.rows = symbols.shape[1]
        return log_p, weights

    def select(self, sources: Tensor, rows: Tensor) -> None:
        index = (rows + self.rows * sources[:, None]).flatten()
        for stream in (self.first, self.second):
            stream.select(index)
        if len(sources) < len(self.keys):
            self.keys, self.scored = self.keys[sources], self.scored[sources]
            self.outside = None if self.outside is None else self.outside[sources]
