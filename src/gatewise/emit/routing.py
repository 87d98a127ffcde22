"""Wires on a grid: paths of horizontal and vertical segments that never run along each other.

The wires of one net, which all carry the same value, may share segments. Wires of two nets may only cross.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

Point = tuple[int, int]  # column and row of the grid

_STEPS = ((1, 0), (-1, 0), (0, 1), (0, -1))
_TURN, _CROSSING, _BESIDE = 4, 5, 2  # costs, in steps


@dataclass
class Grid:
    """A grid of ``columns`` × ``rows``, what stands on it, and the nets that are routed."""

    columns: int
    rows: int
    blocked: set[Point] = field(default_factory=set)
    reserved: dict[Point, int] = field(default_factory=dict)  # points that only this net may use
    across: dict[Point, int] = field(default_factory=dict)  # the net of the horizontal wire
    down: dict[Point, int] = field(default_factory=dict)  # the net of the vertical wire

    def block(self, left: int, top: int, right: int, bottom: int) -> None:
        """Nothing is routed through these points, the last ones included."""
        self.blocked |= {(x, y) for x in range(left, right + 1) for y in range(top, bottom + 1)}

    def occupy(self, net: int, path: list[Point]) -> None:
        """Adds a path of the net."""
        for (x, y), (u, v) in pairwise(path):
            wires = self.across if y == v else self.down
            for point in straight((x, y), (u, v)):
                wires[point] = net
        for at in _corners(path):
            self.across[at] = self.down[at] = net

    def free(self, point: Point) -> bool:
        """Whether nothing is at the point."""
        return point not in self.blocked and point not in self.across and point not in self.down

    def route(
        self, net: int, starts: Iterable[tuple[Point, Point]], ends: dict[Point, Point]
    ) -> list[Point] | None:
        """The cheapest path from one of ``starts`` to one of ``ends``, or None. It is not yet added.

        Args:
            starts: points with the direction in which a path must leave them; (0, 0) for any direction.
            ends: points with the direction in which a path must arrive at them.
        """
        if not ends:
            return None

        def ahead_of(point: Point) -> int:  # never more than the cost of the rest of a path
            return min(abs(point[0] - x) + abs(point[1] - y) for x, y in ends)

        queue: list[tuple[int, int, int, Point, Point]] = []
        best: dict[tuple[Point, Point], int] = {}
        came: dict[tuple[Point, Point], tuple[Point, Point] | None] = {}
        order = 0
        for point, ahead in starts:
            for step in _STEPS if ahead == (0, 0) else (ahead,):
                best[point, step], came[point, step] = 0, None
                heapq.heappush(queue, (ahead_of(point), 0, order, point, step))
                order += 1
        while queue:
            _, cost, _, point, step = heapq.heappop(queue)
            if cost > best[point, step]:
                continue
            if ends.get(point) == step and came[point, step] is not None:
                return _path(came, (point, step))
            for turn in _STEPS:
                if turn == (-step[0], -step[1]) or (
                    turn != step and not self._may_turn(net, point)
                ):
                    continue
                if turn != step and came[point, step] is None and point in ends:
                    continue
                after = (point[0] + turn[0], point[1] + turn[1])
                price = self._price(net, after, turn, after in ends)
                if price is None:
                    continue
                total = cost + price + (_TURN if turn != step else 0)
                if total < best.get((after, turn), 1 << 30):
                    best[after, turn], came[after, turn] = total, (point, step)
                    heapq.heappush(queue, (total + ahead_of(after), total, order, after, turn))
                    order += 1
        return None

    def _may_turn(self, net: int, point: Point) -> bool:
        return all(wires.get(point, net) == net for wires in (self.across, self.down))

    def _price(self, net: int, point: Point, step: Point, ends: bool) -> int | None:
        """The cost of a step to the point, or None where the net cannot go."""
        x, y = point
        if not (0 <= x < self.columns and 0 <= y < self.rows):
            return None
        if not ends and (point in self.blocked or self.reserved.get(point, net) != net):
            return None
        along, over = (self.across, self.down) if step[0] else (self.down, self.across)
        if along.get(point, net) != net:
            return None
        price = 1 + (_CROSSING if over.get(point, net) != net else 0)
        sides = ((x, y - 1), (x, y + 1)) if step[0] else ((x - 1, y), (x + 1, y))
        return price + sum(_BESIDE for side in sides if along.get(side, net) != net)


def straight(one: Point, other: Point) -> list[Point]:
    """The points of a horizontal or vertical segment, both ends included."""
    (x, y), (u, v) = one, other
    if y == v:
        return [(k, y) for k in range(min(x, u), max(x, u) + 1)]
    return [(x, k) for k in range(min(y, v), max(y, v) + 1)]


def _corners(path: list[Point]) -> list[Point]:
    return [
        at
        for before, at, after in zip(path, path[1:], path[2:], strict=False)
        if (before[0] == at[0]) != (at[0] == after[0])
    ]


def _path(
    came: dict[tuple[Point, Point], tuple[Point, Point] | None], last: tuple[Point, Point]
) -> list[Point]:
    """Start, corners and end."""
    points = []
    at: tuple[Point, Point] | None = last
    while at is not None:
        points.append(at[0])
        at = came[at]
    points.reverse()
    return [points[0], *_corners(points), points[-1]]
