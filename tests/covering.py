"""Some of the parameter sets of a test, chosen so that any two values that meet in one of all sets meet
in one of these too (a pairwise covering array). Most faults need one or two values to show.

``@pytest.mark.pairwise`` marks a test whose other sets are slow: `make test-all` runs them.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any

from gatewise.cells.language import Cell

PLAIN = (str, int, float, tuple, type(None))


def selected(sets: Sequence[Mapping[str, Any]]) -> list[int]:
    """The places of the parameter sets that are chosen, each given as values by their names."""
    keys = _keys(sets)
    return chosen([_factors(each, keys) for each in sets])


def _keys(sets: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Of each parameter that is a dictionary in all the sets, the keys that it has in any."""
    names = [name for name in sets[0] if all(isinstance(each[name], Mapping) for each in sets)]
    return {name: sorted({str(key) for each in sets for key in each[name]}) for name in names}


def _factors(params: Mapping[str, Any], keys: Mapping[str, Sequence[str]]) -> dict[str, Hashable]:
    """What varies in a set. Each key of a dictionary varies by itself."""
    found: dict[str, Hashable] = {}
    for name, value in params.items():
        if name in keys:
            found |= {f"{name}.{key}": repr(value.get(key, "absent")) for key in keys[name]}
        else:
            found[name] = _level(value)
    return found


def _level(value: Any) -> Hashable:
    """What tells a value from others: a cell's name; of other objects, which one it is."""
    if isinstance(value, PLAIN):
        return repr(value)
    return value.name if isinstance(value, Cell) else id(value)


def chosen(rows: Sequence[Mapping[str, Hashable]]) -> list[int]:
    """The places of rows that together have each pair of values that any row has, in rising order.

    Greedy: the row with the most pairs that are not there yet comes next, of equal ones the first. A row
    never gains, so that its last count is a bound, and few need to be counted anew.
    """
    left = [set(combinations(row.items(), 2)) or set(row.items()) for row in rows]
    covered: set[Any] = set()
    found = []
    heap = [(-len(pairs), place) for place, pairs in enumerate(left)]
    heapq.heapify(heap)
    while heap:
        _, place = heapq.heappop(heap)
        left[place] -= covered
        gain = len(left[place])
        if not gain:
            continue
        if heap and (-gain, place) > heap[0]:
            heapq.heappush(heap, (-gain, place))
            continue
        covered |= left[place]
        found.append(place)
    return sorted(found)
