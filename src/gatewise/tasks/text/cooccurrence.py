"""Vectors of symbols from how often they stand near each other in unlabelled text.

The vectors are a truncated singular value decomposition of the positive pointwise mutual information (Levy, Goldberg
& Dagan 2015, "Improving Distributional Similarity with Lessons Learned from Word Embeddings"). Of a few hundred
thousand words they are better than those that a language model learns, and take seconds.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from gatewise.data.tokens import PAD, UNKNOWN
from gatewise.tasks.text.examples import Encoded

Array = np.ndarray

WINDOW = 5  # symbols on each side; a pair counts less the farther apart it stands
DEVIATION = 0.1  # of a vector's entries, as of an embedding that starts at random
_SMOOTHING = 0.75  # the power of a context's count (Levy et al. 2015, section 3.2)
_SINGULAR = 0.5  # the power of the singular values (section 3.3)
_TOGETHER = 1 << 20  # symbols that are counted at once


def vectors_from_counts(texts: Encoded, symbols: int, width: int, seed: int) -> Array:
    """V×E vectors in float32, for ``symbols`` V and ``width`` E.

    Those of padding and of the unknown symbol are zero. Where E is greater than the rank of the counts, the last
    entries are zero.
    """
    from sklearn.utils.extmath import randomized_svd

    information = _information(_counts(texts, symbols))
    vectors = np.zeros((symbols, width), np.float32)
    if not information.nnz:  # no two symbols stand beside each other more often than by chance
        return vectors
    # more vectors than asked for, because the last ones of a randomised decomposition are not exact
    found, singular, _ = randomized_svd(
        information,
        min(width, symbols - 1),
        n_oversamples=width // 2,
        n_iter=3,
        random_state=seed,
    )
    found = found * singular**_SINGULAR
    vectors[:, : found.shape[1]] = found * (DEVIATION / found[UNKNOWN + 1 :].std())
    vectors[[PAD, UNKNOWN]] = 0  # not only nearly
    return vectors


def _counts(texts: Encoded, symbols: int) -> Any:
    """V×V, sparse: how often each symbol has each other one within WINDOW; farther ones count less."""
    from scipy.sparse import csr_matrix

    total = csr_matrix((symbols, symbols), dtype=np.float32)
    ends = np.searchsorted(texts.starts, np.arange(_TOGETHER, texts.starts[-1], _TOGETHER))
    bounds = np.unique([0, *ends, len(texts)])
    for first, last in pairwise(bounds):
        values = np.asarray(texts.values[texts.starts[first] : texts.starts[last]])
        text = np.repeat(np.arange(first, last), np.diff(texts.starts[first : last + 1]))
        for apart in range(1, min(WINDOW, len(values) - 1) + 1):
            same = text[apart:] == text[:-apart]
            before, after = values[:-apart][same], values[apart:][same]
            weight = np.full(len(before), (WINDOW - apart + 1) / WINDOW, np.float32)
            pairs = csr_matrix((weight, (before, after)), total.shape)
            total = total + pairs + pairs.T
    return total


def _information(counts: Any) -> Any:
    """V×V, sparse: the positive pointwise mutual information of a symbol and a symbol near it.

    Padding and the unknown symbol have none."""
    from scipy.sparse import csr_matrix

    pairs = counts.tocoo()
    of_symbol = np.bincount(pairs.row, pairs.data, counts.shape[0])
    of_context = np.bincount(pairs.col, pairs.data, counts.shape[0]) ** _SMOOTHING
    by_chance = of_symbol[pairs.row] * of_context[pairs.col] / of_context.sum()
    information = np.log(pairs.data / by_chance)
    special = (PAD, UNKNOWN)
    kept = (information > 0) & ~np.isin(pairs.row, special) & ~np.isin(pairs.col, special)
    return csr_matrix((information[kept], (pairs.row[kept], pairs.col[kept])), counts.shape)
