"""A flow chart on a fine grid: the boxes at their places, the shared lines below them, and all wires."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from gatewise.emit.flow import FUNCTION, LAYER, Box, Flow, Port, Wire
from gatewise.emit.places import Places, places_of
from gatewise.emit.routing import Grid, Point, straight
from gatewise.errors import CellError

RIGHT, LEFT, DOWN, UP = (1, 0), (-1, 0), (0, 1), (0, -1)
UNIT = 13  # pixels between two lines of the fine grid
_MARGIN = 6  # fine columns at the left, for the names of states


def tag_outside(box: Box) -> bool:
    """Whether the name of a box stands beside its upper left corner. In a layer box there is room for it."""
    return bool(box.name) and not (box.kind == LAYER and len(box.name) <= 2 and len(box.label) <= 5)


Source = Box | Port | tuple[str, ...]


@dataclass(frozen=True)
class Path:
    """A wire: its corners, and the box or the place where it ends.

    Attributes:
        source: the box or state whose value it carries; "x" or several states for a shared line.
        label: as in Wire.
        arrow: whether it ends at a box or at a result.
    """

    points: tuple[Point, ...]
    source: Source
    label: str = ""
    arrow: bool = True


@dataclass(frozen=True)
class Label:
    """A state or the input at the border: its name, where, and of which step."""

    at: Point
    names: tuple[str, ...]
    side: str  # "left", "right" or "below"


@dataclass
class Layout:
    """The places of everything, in fine columns and rows."""

    columns: int
    rows: int
    margin: int  # fine columns at the left of the frame, less two
    half: int  # half of a layer box's width
    centres: dict[Box, Point]
    paths: list[Path] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    joints: set[Point] = field(default_factory=set)  # where a wire branches

    def side(self, box: Box) -> int:
        """Half of a box's width. Every box is two rows high."""
        return {LAYER: self.half, FUNCTION: 2}.get(box.kind, 1)


def layout_of(flow: Flow) -> Layout:
    """Places the boxes and routes the wires.

    Raises:
        CellError: no places were found.
    """
    for room in range(6):
        if (made := _Drawing(flow, places_of(flow), room).routed()) is not None:
            return made
    raise CellError(
        f"cell '{flow.cell.name}' has no diagram: its {len(flow.boxes)} boxes and their wires cannot be placed; "
        f"return fewer values, or draw a part of the cell as a cell of its own"
    )


class _Drawing:
    """The boxes on the fine grid, and the routes of the wires. ``room`` is how much wider it is than usual."""

    def __init__(self, flow: Flow, places: Places, room: int) -> None:
        self.flow, self.places = flow, places
        lines = len(flow.lines)
        self.half = max(2, (lines + 2) // 2)
        self.wide, self.tall = 2 * self.half + 3 + room, 6 + room
        last = max((row for _, row in places.at.values()), default=0)
        self.bottom = 3 + last * self.tall + 4  # the first shared line
        entering = [[n for n in line if n != "x" and n not in flow.roads] for line in flow.lines]
        widest = max((sum(len(n) * 8 + 18 for n in names) for names in entering), default=0)
        self.margin = max(_MARGIN, 3 + -(-widest // UNIT))
        self.entry_of_x = self.margin + 1 + len(flow.roads)
        self.left = self.margin + 1  # of what enters the shared lines from roads and from below
        first = self.left + len(flow.roads) + 2
        self.columns = first + places.columns * self.wide + 4
        rows = self.bottom + 2 * lines + 3
        centres = {
            box: (first + self.half + k * self.wide, 3 + row * self.tall)
            for box, (k, row) in places.at.items()
        }
        self.grid = Grid(self.columns, rows)
        self.grid.block(self.columns - 2, 0, self.columns - 1, rows - 1)
        self.layout = Layout(self.columns, rows, self.margin, self.half, centres)
        self.nets: dict[object, int] = {}
        self.points: dict[int, set[Point]] = {}  # where a branch of the net may begin
        self.used: set[Point] = set()
        for box, (x, y) in centres.items():
            side = self.layout.side(box)
            self.grid.block(x - side, y - 1, x + side, y + 1)
            if tag_outside(box):
                before = 1 + (len(box.name) * 8 - 4) // UNIT
                self.grid.block(x - side - before, y - 1, x - side, y - 1)

    def net(self, source: object) -> int:
        return self.nets.setdefault(source, len(self.nets))

    def routed(self) -> Layout | None:
        self._lines()
        ends = self._road_wires()
        hung = [
            (box, wire)
            for box in self.layout.centres
            for wire in box.wires
            if (box, wire.source) not in ends
        ]
        hung.sort(key=lambda pair: self._urgency(*pair))
        results = [(s, r) for s, r in self.flow.results.items() if s not in self.flow.roads]
        for box, wire in hung:
            if not self._connect(wire.source, self._entries(box), wire):
                return None
        for state, result in results:
            if not self._result(state, result):
                return None
        self._find_joints()
        return self.layout

    def _add(
        self, source: Source, points: list[Point], label: str = "", arrow: bool = True
    ) -> None:
        net = self.net(source)
        self.grid.occupy(net, points)
        here = self.points.setdefault(net, set())
        for one, other in pairwise(points):
            here.update(straight(one, other))
        self.layout.paths.append(Path(tuple(points), source, label, arrow))

    # --- shared lines at the bottom

    def _lines(self) -> None:
        """The lines that the layers tap, with the states that come in from the left and x from below."""
        tapping = {
            line: [b for b in self.flow.boxes if set(line) & set(b.taps)]
            for line in self.flow.lines
        }
        down = self.left
        for k, line in enumerate(self.flow.lines):
            y = self.bottom + 2 * k
            states = [name for name in line if name != "x"]
            from_road = [s for s in states if s in self.flow.roads]
            entering = tuple(s for s in states if s not in self.flow.roads)
            right = max(self._tap(box, line) for box in tapping[line])
            left = 2 if entering else down if from_road else self.entry_of_x
            source = self.flow.ports.get(line[0], line) if len(line) == 1 else line
            self._add(source, [(left, y), (right, y)], arrow=False)
            if entering:
                self.layout.labels.append(Label((left, y), entering, "left"))
            for state in from_road:
                top = 3 + self.places.roads[state] * self.tall
                self._add(
                    source if len(line) == 1 else self.flow.ports[state],
                    [(down, top), (down, y)],
                    arrow=False,
                )
                down += 1
            if "x" in line:
                x = self.entry_of_x
                end = self.grid.rows - 1
                self._add(source, [(x, end), (x, y)], arrow=False)
                self.layout.labels.append(Label((x, end), ("x",), "below"))
            for box in tapping[line]:
                at = self._tap(box, line)
                self._add(source, [(at, y), (at, self.layout.centres[box][1] + 1)])

    def _tap(self, box: Box, line: tuple[str, ...]) -> int:
        """The column in which a layer taps a line."""
        its = [each for each in self.flow.lines if set(each) & set(box.taps)]
        x = self.layout.centres[box][0]
        return x + 2 * its.index(line) - (len(its) - 1)

    # --- roads

    def _road_wires(self) -> set[tuple[Box, Box | Port]]:
        """Draws the roads, and returns the wires that they are made of."""
        drawn: set[tuple[Box, Box | Port]] = set()
        for state, road in self.flow.roads.items():
            y = 3 + self.places.roads[state] * self.tall
            source: Box | Port = self.flow.ports[state]
            left = 2
            self.layout.labels.append(Label((left, y), (state,), "left"))
            for box in road:
                x, side = self.layout.centres[box][0], self.layout.side(box)
                self._add(source, [(left, y), (x - side, y)])
                self.used.add((x - side, y))
                drawn.add((box, source))
                source, left = box, x + side
                self.used.add((left, y))
            right = self.columns - 3
            self._add(source, [(left, y), (right, y)])
            self.layout.labels.append(Label((right, y), (state,), "right"))
        return drawn

    # --- all other wires

    def _urgency(self, box: Box, wire: Wire) -> tuple[bool, bool, int]:
        """The order in which wires are routed: straight ones, those with labels, short ones."""
        if isinstance(wire.source, Port):
            return True, not wire.label, 1000
        (x, y), (u, v) = self.layout.centres[box], self.layout.centres[wire.source]
        return x != u, not wire.label, abs(x - u) + abs(y - v)

    def _entries(self, box: Box) -> dict[Point, Point]:
        """The free places where a wire may enter a box, with the direction in which it arrives."""
        x, y = self.layout.centres[box]
        if box.kind == LAYER:
            h = self.half
            places = {(x - h, y + k): RIGHT for k in (0, -1, 1)}
            places |= {(x + h, y + k): LEFT for k in (0, -1, 1)}
            places |= {(x + k, y - 1): DOWN for k in (-1, 1)}
        else:
            side = self.layout.side(box)
            places = {(x, y + 1): UP, (x, y - 1): DOWN, (x - side, y): RIGHT, (x + side, y): LEFT}
        return {point: step for point, step in places.items() if point not in self.used}

    def _exits(self, source: Box) -> list[tuple[Point, Point]]:
        x, y = self.layout.centres[source]
        side = self.layout.side(source)
        places = [((x, y - 1), UP), ((x + side, y), RIGHT), ((x - side, y), LEFT)]
        if source.kind != LAYER:
            places.append(((x, y + 1), DOWN))
        return [(point, step) for point, step in places if point not in self.used]

    def _connect(self, source: Box | Port, ends: dict[Point, Point], wire: Wire) -> bool:
        net = self.net(source)
        starts = [(point, (0, 0)) for point in self.points.get(net, ())]
        if not starts and isinstance(source, Box):
            starts = self._exits(source)
        elif not starts and isinstance(source, Port):
            starts = self._enter(source)
        path = self._straight_in(net, starts, ends) or self.grid.route(net, starts, ends)
        if path is None:
            return False
        self.used |= {path[0], path[-1]}
        self._add(source, path, wire.label)
        if wire.label:
            self._keep_clear(path)
        return True

    def _keep_clear(self, path: list[Point]) -> None:
        """No wire runs through the label at the end of a path."""
        (x, y), (u, v) = path[-1], path[-2]
        if y == v:
            step = 1 if u > x else -1
            self.grid.blocked |= {(x + step, y - 1), (x + 2 * step, y - 1)}
        else:
            self.grid.blocked.add((x + 1, y + (1 if v > y else -1)))

    def _straight_in(
        self, net: int, starts: list[tuple[Point, Point]], ends: dict[Point, Point]
    ) -> list[Point] | None:
        """A path whose last corner, if it has one, is not close to its end, so that there is room for its
        arrow and label."""
        before = {}
        for (x, y), (dx, dy) in ends.items():
            ahead = (x - dx, y - dy)
            if self.grid.free(ahead):
                before[ahead] = (dx, dy)
        path = self.grid.route(net, starts, before)
        if path is None:
            return None
        (x, y), (dx, dy) = path[-1], before[path[-1]]
        return [*path[:-1], (x + dx, y + dy)]

    def _enter(self, port: Port) -> list[tuple[Point, Point]]:
        """A free place at the left border for a state that comes in."""
        rows = self.places.rows * self.tall
        first = 3 + len(self.places.roads) * self.tall
        tried = [*range(first, rows), *range(3, first)]
        y = next(y for y in tried if self._free_row(2, y))
        self.layout.labels.append(Label((2, y), (port.name,), "left"))
        return [((2, y), RIGHT)]

    def _free_row(self, x: int, y: int) -> bool:
        labelled = (label.at for label in self.layout.labels if label.at[0] == x)
        return self.grid.free((x, y)) and all(abs(y - v) > 2 for _, v in labelled)

    def _result(self, state: str, result: Box | Port) -> bool:
        """A wire from a new value to the right border."""
        x = self.columns - 3
        height = self.layout.centres[result][1] if isinstance(result, Box) else 3
        rows = sorted(range(2, self.bottom - 1), key=lambda y: (abs(y - height), y))
        y = next((y for y in rows if self._free_row(x, y)), None)
        if y is None or not self._connect(result, {(x, y): RIGHT}, Wire(result)):
            return False
        self.layout.labels.append(Label((x, y), (state,), "right"))
        return True

    def _find_joints(self) -> None:
        """Where three or more segments of a net meet."""
        arms: dict[tuple[int, Point], set[Point]] = {}
        for path in self.layout.paths:
            net = self.net(path.source)
            for one, other in pairwise(path.points):
                line = straight(one, other)
                for at, after in pairwise(line):
                    step = (after[0] - at[0], after[1] - at[1])
                    arms.setdefault((net, at), set()).add(step)
                    arms.setdefault((net, after), set()).add((-step[0], -step[1]))
        self.layout.joints = {at for (_, at), steps in arms.items() if len(steps) > 2}
