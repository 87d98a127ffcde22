"""The baselines of the music model: note frequencies, and n-grams of each value of a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


class NGrams:
    """The probabilities of each value of a step given the values before it, by Witten-Bell smoothing.

    The K values of a step are independent of each other. The probability after a context is interpolated with
    that after the context without its oldest value; below all contexts stands the uniform distribution.

    Source: Witten & Bell 1991, "The zero-frequency problem", method C.

    Args:
        symbols: the number of symbols of each value.
        keys: a number for each (column, context, symbol) that was seen, sorted.
        counts: how often each was seen.
        order: the length of the context and the symbol together.
    """

    def __init__(self, symbols: int, keys: Array, counts: Array, order: int = 3) -> None:
        self.symbols, self.keys, self.counts, self.order = symbols, keys, counts, order
        self._tables = [self._table(length) for length in range(1, order + 1)]

    @classmethod
    def fitted(cls, tunes: Sequence[Array], symbols: int, order: int = 3) -> NGrams:
        """The n-grams of tunes, each T×K."""
        every = np.concatenate([_keys(tune, symbols, order).reshape(-1) for tune in tunes])
        return cls(symbols, *np.unique(every, return_counts=True), order)

    def _table(self, length: int) -> tuple[Array, Array, Array, Array, Array]:
        """For contexts of ``length - 1`` values: the keys with their counts, and the contexts with the number of
        their occurrences and of different symbols."""
        base = self.symbols + 1
        column, rest = np.divmod(self.keys, base**self.order)
        shortened = column * base**length + rest % base**length
        keys, where = np.unique(shortened, return_inverse=True)
        counts = np.bincount(where, self.counts).astype(np.int64)
        contexts, of_context = np.unique(keys // base, return_inverse=True)
        return keys, counts, contexts, np.bincount(of_context, counts), np.bincount(of_context)

    def probabilities(self, keys: Array, length: int) -> Array:
        """The probability of the symbol of each key, after the last ``length - 1`` values of its context."""
        if length == 0:
            return np.full(keys.shape, 1 / self.symbols)
        base = self.symbols + 1
        column, rest = np.divmod(keys, base**self.order)
        own = column * base**length + rest % base**length
        known, counts, contexts, totals, kinds = self._tables[length - 1]
        count = _looked_up(own, known, counts)
        total, different = (_looked_up(own // base, contexts, each) for each in (totals, kinds))
        shorter = self.probabilities(keys, length - 1)
        seen = total + different
        return np.where(seen > 0, (count + different * shorter) / np.maximum(seen, 1), shorter)

    def nll(self, tune: Array, length: int) -> Array:
        """T: the negative log-likelihood in nats of each step of a tune, T×K, with contexts of ``length - 1``."""
        keys = _keys(tune, self.symbols, self.order)
        losses: Array = -np.log(self.probabilities(keys, length)).sum(1)
        return losses

    def sample(self, steps: int, columns: int, draw: np.random.Generator, end: int = -1) -> Array:
        """A tune of at most ``steps`` steps; it ends earlier after the symbol ``end``."""
        base, symbols = self.symbols + 1, np.arange(self.symbols)
        rows = [np.full(columns, self.symbols)] * (
            self.order - 1
        )  # what stands before the first step
        while len(rows) < steps + self.order - 1 and rows[-1][0] != end:
            contexts = np.arange(columns)
            for row in rows[len(rows) - self.order + 1 :]:
                contexts = contexts * base + row
            shares = self.probabilities(contexts[:, None] * base + symbols, self.order)
            rows.append(np.array([draw.choice(symbols, p=share / share.sum()) for share in shares]))
        return np.array(rows[self.order - 1 :])


def _keys(tune: Array, symbols: int, order: int) -> Array:
    """T×K: the number of each (column, context, symbol). Before the first step stands a symbol of its own."""
    base, columns = symbols + 1, tune.shape[1]
    padded = np.concatenate([np.full((order - 1, columns), symbols), tune])
    keys = np.broadcast_to(np.arange(columns), tune.shape).astype(np.int64)
    for back in range(order):
        keys = keys * base + padded[back : back + len(tune)]
    return keys


def _looked_up(wanted: Array, known: Array, values: Array) -> Array:
    """The value of each wanted key; 0 for those that are not known."""
    at = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return np.where(known[at] == wanted, values[at], 0)
