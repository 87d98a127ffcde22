"""An n-gram language model with Kneser-Ney smoothing, the baseline of language models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Order:
    """The n-grams of one order: contexts of n-1 symbols, each with a symbol that follows it.

    Attributes:
        keys: the n-grams, sorted: the index of the context among those of the order below, times V, plus the
            symbol.
        discounted: the count of each n-gram, minus its discount.
        total: the sum of the counts of each context.
        rest: the sum of the discounts of each context.
    """

    keys: Array
    discounted: Array
    total: Array
    rest: Array


class KneserNey:
    """An interpolated n-gram model with modified Kneser-Ney smoothing.

    The highest order has counts of n-grams. The lower orders count in how many different contexts an n-gram
    occurs. Each order has three discounts, for the counts 1, 2 and more (Chen & Goodman 1999, "An empirical
    study of smoothing techniques for language modeling", section 3). The lowest order is interpolated with
    the uniform distribution, so that no symbol has probability 0.

    Args:
        symbols: the training text, a stream of symbols.
        vocabulary: V, the number of different symbols that can occur.
        order: the greatest n; that of a shorter text is its length.
    """

    def __init__(self, symbols: Array, vocabulary: int, order: int = 5) -> None:
        self.vocabulary, order = vocabulary, min(order, len(symbols))
        symbols = symbols.astype(np.int64)
        keys, ends = [], []  # of each order: the n-grams, and the one that ends at each place
        context = np.zeros(len(symbols), dtype=np.int64)
        for n in range(1, order + 1):
            found, at = np.unique(context[: len(symbols) - n + 1] * vocabulary + symbols[n - 1 :],
                                  return_inverse=True)  # fmt: skip
            keys.append(found)
            ends.append(at)
            context = at
        self.orders = []
        for n in range(order):
            highest = n == order - 1
            counts = np.bincount(ends[n], minlength=len(keys[n])) if highest else self._contexts(
                keys[n + 1], ends[n + 1], ends[n], len(keys[n])
            )  # fmt: skip
            contexts = len(keys[n - 1]) if n else 1
            self.orders.append(self._order(keys[n], counts, contexts))

    @staticmethod
    def _contexts(longer: Array, longer_ends: Array, ends: Array, count: int) -> Array:
        """In how many (n+1)-grams each n-gram is the end."""
        first = np.zeros(len(longer), dtype=np.int64)
        first[longer_ends] = ends[1:]  # the n-gram at the end of each (n+1)-gram
        return np.bincount(first, minlength=count)

    def _order(self, keys: Array, counts: Array, contexts: int) -> Order:
        of = keys // self.vocabulary
        discount = discounts(counts)[np.minimum(counts, 3)]
        return Order(
            keys,
            counts - discount,
            np.bincount(of, counts, contexts),
            np.bincount(of, discount, contexts),
        )

    def log_probabilities(self, symbols: Array, before: Array | None = None) -> Array:
        """T: the log probability of each symbol of a text, given those before it.

        Args:
            before: the symbols before the text.
        """
        given = 0 if before is None else len(before)
        text = np.concatenate([before, symbols] if before is not None else [symbols])
        text = text.astype(np.int64)
        p = np.full(len(text), 1 / self.vocabulary)
        context = np.zeros(len(text), dtype=np.int64)  # of each place; -1 where it is unknown
        for order in self.orders:
            keys = context * self.vocabulary + text
            at = np.minimum(np.searchsorted(order.keys, keys), len(order.keys) - 1)
            known = (context >= 0) & (order.keys[at] == keys)
            seen = (context >= 0) & (order.total[context] > 0)
            count, total = np.where(known, order.discounted[at], 0.0), order.total[context]
            p = np.where(seen, (count + order.rest[context] * p) / np.where(seen, total, 1), p)
            context = np.concatenate([[-1], np.where(known, at, -1)[:-1]])
        return np.log(p[given:])


def discounts(counts: Array) -> Array:
    """The discounts of the counts 0, 1, 2 and more (Chen & Goodman 1999, equation 17).

    Where a count from 1 to 4 does not occur, or a discount would not be above 0, all are the one discount of
    Ney et al. 1994, or 0.5 if that is not defined either."""
    n1, n2, n3, n4 = ((counts == k).sum() for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2) if n1 and n2 else 0.5
    single = np.array([0.0, y, y, y])
    if not (n1 and n2 and n3 and n4):
        return single
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return found if found[1:].min() > 0 else single


def unigram_log_probabilities(training: Array, symbols: Array, vocabulary: int) -> Array:
    """T: the log of each symbol's share of the training text, with one added to each count."""
    counts = np.bincount(training, minlength=vocabulary) + 1.0
    found: Array = np.log(counts / counts.sum())[symbols]
    return found
