"""The continual embedded Reber grammar: endless streams of strings of the embedded grammar.

The state of a stream is its place in the grammar, an integer. Many streams take a step at once.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from papers.reber import ARROWS, SYMBOLS

Random = np.random.Generator

_INNER = 8  # places of a string that begins with T (2 to 9) or with P (10 to 17)


def _place(outer: int, node: int) -> int:
    return 2 + _INNER * outer + node


def _arrows() -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """For each place of the embedded grammar, its two arrows: a symbol, and the place that it leads to.

    Place 0 is before a string's B, and place 1 before its T or P. The nodes of the inner grammar follow, once for T
    and once for P; after the last of them T or P comes again. The last place is before the E."""
    end = _place(2, 0)
    places = [(("B", 1), ("B", 1)), (("T", _place(0, 0)), ("P", _place(1, 0)))]
    for outer, symbol in enumerate("TP"):
        for arrows in ARROWS.values():  # a node with one arrow has it twice
            one, two = ((s, _place(outer, node)) for s, node in (arrows[0], arrows[-1]))
            places.append((one, two))
        places.append(((symbol, end), (symbol, end)))
    return [*places, (("E", 0), ("E", 0))]


_SYMBOL = np.array([[SYMBOLS.index(symbol) for symbol, _ in each] for each in _arrows()])
_NEXT = np.array([[place for _, place in each] for each in _arrows()])

LEGAL = np.zeros((len(_SYMBOL), len(SYMBOLS)), np.float32)  # by place: which symbols may come next
np.put_along_axis(LEGAL, _SYMBOL, 1.0, axis=1)


def advance(place: np.ndarray, coin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The next symbol of each stream, and the place after it. ``coin``, 0 or 1, chooses the arrow."""
    arrow = 2 * place + coin
    return _SYMBOL.ravel()[arrow], _NEXT.ravel()[arrow]


_AT_ONCE = 8  # symbols per table lookup


@cache
def _tabled() -> np.ndarray:
    """For each place and each sequence of eight coins (the bits of a number), the symbols and places, 2×8."""
    places, numbers = len(_SYMBOL), 2**_AT_ONCE
    place = np.repeat(np.arange(places), numbers)
    coins = np.tile(np.arange(numbers), places)
    table = np.empty((places * numbers, 2, _AT_ONCE), np.int64)
    for t in range(_AT_ONCE):
        table[:, 0, t], place = advance(place, coins >> t & 1)
        table[:, 1, t] = place
    return table


def walk(rng: Random, place: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The next symbols of n streams that are at ``place``, and the place after each symbol, both steps×n.

    Place 0 means that a string has ended."""
    table, numbers = _tabled(), 2**_AT_ONCE
    coins = rng.integers(numbers, size=(-(-steps // _AT_ONCE), len(place)))
    rows = np.empty_like(coins)
    for row, coin in zip(rows, coins, strict=True):
        row[:] = numbers * place + coin
        place = table[row, 1, -1]
    symbols, places = table[rows].transpose(2, 0, 3, 1).reshape(2, -1, coins.shape[1])[:, :steps]
    return symbols, places
