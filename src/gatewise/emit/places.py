"""The places of a flow chart's boxes: states as roads through the top, layers in a row at the bottom, all else
between, each to the right of what it reads.

Places are columns and rows of a coarse grid. The wires between them run on a finer one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gatewise.emit.flow import FUNCTION, LAYER, Box, Flow


@dataclass
class Places:
    """Coarse columns, and rows from the top: roads, then the rows between, then the layers."""

    at: dict[Box, tuple[int, int]]
    columns: int
    roads: dict[str, int]  # the row of each road
    rows: int


def places_of(flow: Flow) -> Places:
    order = _road_order(flow)
    on_road = {box: k for k, state in enumerate(order) for box in flow.roads[state]}
    before = _ancestors(on_road)  # what roads read
    column: dict[Box, int] = {}
    height: dict[Box, int] = {}
    level: dict[Box, int] = {}
    taken: set[tuple[str, int, int]] = set()
    readers = Counter(wire.source for box in flow.boxes for wire in box.wires)
    read = set(readers) | set(flow.results.values())
    last = -1

    def place(box: Box) -> None:
        nonlocal last
        below = [w.source for w in box.wires if isinstance(w.source, Box)]
        off = [b for b in below if b not in on_road]
        if box in on_road:
            first = max([column[b] for b in off], default=0)
            road = flow.roads[order[on_road[box]]]
            at = road.index(box)
            if at:
                first = max(first, column[road[at - 1]] + 1)
            while any(column.get(b) == first for b in road if b is not box):
                first += 1
            column[box] = first
        elif box.kind == LAYER:
            column[box] = last + 1
        else:
            passed = [column[b] + 1 for b in below if b in on_road]
            up = box in before or box not in read
            depth, kind = (height, "up") if up else (level, "down")
            depth[box] = 1 + max([depth.get(b, 0) for b in off], default=0)
            first = max([column[b] for b in off] + passed, default=last + 1)
            if (passed and not up) or (box.kind == FUNCTION and any(readers[b] > 1 for b in off)):
                first = max(first, last + 1)
            while (kind, first, depth[box]) in taken:
                first += 1
            taken.add((kind, first, depth[box]))
            column[box] = first
        last = max(last, column[box])

    for box in _in_order(flow, order):
        place(box)
    middle = max([0, *height.values(), *level.values()])
    roads = len(order)
    at = {}
    for box, k in column.items():
        if box in on_road:
            row = on_road[box]
        elif box.kind == LAYER:
            row = roads + middle
        elif box in height:
            row = roads + middle - height[box]
        else:
            row = roads + level[box] - 1
        at[box] = (k, row)
    _separate(at)
    rows = {state: k for k, state in enumerate(order)}
    return Places(at, 1 + max((k for k, _ in at.values()), default=0), rows, roads + middle + 1)


def _separate(at: dict[Box, tuple[int, int]]) -> None:
    """Moves a box to a free place at the right where two have one place."""
    taken: set[tuple[int, int]] = set()
    for box, (k, row) in at.items():
        while (k, row) in taken:
            k += 1
        taken.add((k, row))
        at[box] = (k, row)


def _road_order(flow: Flow) -> list[str]:
    """The states with roads, the one that is needed first at the end, because roads are placed from the bottom."""
    states = list(flow.roads)
    needs = {s: _ancestors(flow.roads[s]) for s in states}
    return sorted(
        states,
        key=lambda s: -sum(s != o and flow.roads[o][0] in needs[s] for o in states),
    )


def _ancestors(boxes: Iterable[Box]) -> set[Box]:
    found: set[Box] = set()
    ahead = list(boxes)
    while ahead:
        for wire in ahead.pop().wires:
            if isinstance(wire.source, Box) and wire.source not in found:
                found.add(wire.source)
                ahead.append(wire.source)
    return found


def _in_order(flow: Flow, order: list[str]) -> Iterator[Box]:
    """The boxes from left to right: along the roads, each after what it reads."""
    done: set[Box] = set()
    roads = [flow.roads[state] for state in reversed(order)]
    ends = [box for road in roads for box in road]
    ends += [box for box in flow.results.values() if isinstance(box, Box)]
    for end in [*ends, *flow.boxes]:
        stack = [(end, False)]
        while stack:
            box, ready = stack.pop()
            if box in done:
                continue
            if ready:
                done.add(box)
                yield box
                continue
            stack.append((box, True))
            below = [w.source for w in box.wires if isinstance(w.source, Box)]
            stack += [(b, False) for b in reversed(below) if b not in done]
