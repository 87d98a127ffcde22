"""The flow chart of a cell as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import Any

from gatewise.cells.language import Cell, Value
from gatewise.emit.flow import LAYER, POINT, Box, Flow, Port, flow_of
from gatewise.emit.layout import UNIT, Label, Layout, Path, layout_of, tag_outside
from gatewise.emit.routing import Point

_ARROW, _ROUND = 6, 6
_OPERATORS = ("×", "+", "÷", ">")

STYLE = """\
.cell-diagram {
  --paper: #fff; --frame: #f3f6f9; --edge: #c4ced8; --wire: #3b4856; --road: #155e75;
  --layer: #fde9b8; --layer-edge: #b98a1c; --point: #f7cfc3; --point-edge: #b65a40;
  --text: #17202a; --soft: #52606d;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
.cell-diagram .paper { fill: var(--paper) }
.cell-diagram .frame { fill: var(--frame); stroke: var(--edge) }
.cell-diagram .wire { fill: none; stroke: var(--wire); stroke-width: 1.6 }
.cell-diagram .halo { fill: none; stroke: var(--frame); stroke-width: 6 }
.cell-diagram .wire.road { stroke: var(--road); stroke-width: 3 }
.cell-diagram .head, .cell-diagram .joint { fill: var(--wire) }
.cell-diagram .head.road, .cell-diagram .joint.road { fill: var(--road) }
.cell-diagram .shape { fill: var(--point); stroke: var(--point-edge) }
.cell-diagram .layer .shape { fill: var(--layer); stroke: var(--layer-edge) }
.cell-diagram text { fill: var(--text); font-size: 13px; text-anchor: middle }
.cell-diagram .tag, .cell-diagram .weight, .cell-diagram .number {
  paint-order: stroke; stroke: var(--frame); stroke-width: 4px; stroke-linejoin: round;
}
.cell-diagram .tag { font-style: italic; font-weight: 600; text-anchor: end }
.cell-diagram .tag.inside { text-anchor: start; stroke: none; font-size: 12px }
.cell-diagram .weight { font-size: 11px; fill: var(--soft) }
.cell-diagram .state { font-style: italic; font-size: 15px }
.cell-diagram .step { font-size: 10px; font-style: normal }
"""


def svg(cell: Cell, *, page: bool = False) -> str:
    """The diagram of a cell: the state as a road through the top, gates as valves on it, input at the bottom.

    Args:
        cell: a cell of the catalogue or one made by ``@gw.cell``.
        page: for use inside of an HTML page. The element then has no style of its own (see STYLE), and boxes can
            be reached by keyboard.

    Raises:
        CellError: the cell has too many operations for a diagram.
    """
    flow, layout = _drawn(cell)
    wide, tall = layout.columns * UNIT, layout.rows * UNIT + 4
    kind = "cell-diagram in-page" if page else "cell-diagram"
    title = f"The cell {cell.name} as a flow chart"
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" viewBox="0 0 {wide} {tall}" '
    opening += "" if page else f'width="{wide}" height="{tall}" '
    opening += f'role="{"group" if page else "img"}" aria-label="{escape(title)}">'
    parts = [opening, f"<title>{escape(title)}</title>" if not page else ""]
    parts += [] if page else [f"<style>{STYLE}</style>"]
    parts.append(f'<rect class="paper" width="{wide}" height="{tall}" rx="8"/>')
    parts.append(_frame(layout))
    parts += _wires(flow, layout)
    numbers = {box: k for k, box in enumerate(flow.boxes)}
    parts += [_box(box, layout, numbers[box], page) for box in flow.boxes]
    parts += [_weight(path) for path in layout.paths if path.label]
    parts += [_label(label) for label in layout.labels]
    return "\n".join([*filter(None, parts), "</svg>"]) + "\n"


def boxes(cell: Cell) -> list[dict[str, Any]]:
    """What each box of the diagram computes, for a page that shows its values: its label, name, equation, and
    its formula as nested lists, ``["mul", ["now", "i"], ["before", "c"]]``. Parts that need weights are null.
    """
    flow, _ = _drawn(cell)
    names = {value: name for name, value in reversed(list(cell.values.items()))}
    return [
        {
            "label": box.label,
            "name": box.name,
            "equation": box.equation,
            "value": ["now", box.name] if box.name else _expression(box.value, names),
        }
        for box in flow.boxes
    ]


@lru_cache(maxsize=64)
def _drawn(cell: Cell) -> tuple[Flow, Layout]:
    flow = flow_of(cell)
    return flow, layout_of(flow)


def _expression(value: Value, names: dict[Value, str]) -> Any:
    if value in names:
        return ["now", names[value]]
    if value.op == "state":
        return ["before", value.name]
    if value.op == "constant":
        return value.number
    if not value.args or value.op == "recurrent":
        return None
    args = [_expression(arg, names) for arg in value.args]
    return None if None in args else [value.op, *args]


# ------------------------------------------------------------------------------------------- parts


def _at(point: Point) -> tuple[int, int]:
    return point[0] * UNIT, point[1] * UNIT


def _frame(layout: Layout) -> str:
    left, top = (layout.margin - 2) * UNIT, UNIT // 2
    right, bottom = (layout.columns - 4) * UNIT - UNIT // 2, (layout.rows - 2) * UNIT
    return f'<rect class="frame" x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" rx="14"/>'


def _wires(flow: Flow, layout: Layout) -> list[str]:
    """Wires, the roads last and so on top; where two cross, the upper one interrupts the lower one."""
    on_road: set[Box | Port] = {box for road in flow.roads.values() for box in road}
    carried = {flow.ports[state] for state in flow.roads} | on_road

    def is_road(path: Path) -> bool:
        level = len({y for _, y in path.points}) == 1
        return level and path.source in carried and path.points[0][1] in roads

    roads = {layout.centres[road[0]][1] for road in flow.roads.values()}
    parts = []
    for path in sorted(layout.paths, key=is_road):
        kind = " road" if is_road(path) else ""
        line = _rounded([_at(p) for p in path.points])
        parts.append(f'<path class="halo" d="{line}"/><path class="wire{kind}" d="{line}"/>')
    on_roads = {p.points[0][1] for p in layout.paths if is_road(p)}
    for path in layout.paths:
        if path.arrow:
            parts.append(_head(path.points, " road" if is_road(path) else ""))
    for at in sorted(layout.joints):
        x, y = _at(at)
        kind = " road" if at[1] in on_roads else ""
        parts.append(f'<circle class="joint{kind}" cx="{x}" cy="{y}" r="3.2"/>')
    return parts


def _rounded(points: Sequence[tuple[int, int]]) -> str:
    """A path through the points with round corners."""
    written = [f"M{points[0][0]} {points[0][1]}"]
    for before, at, after in zip(points, points[1:], points[2:], strict=False):
        one, two = _toward(at, before), _toward(at, after)
        written.append(f"L{one[0]} {one[1]}Q{at[0]} {at[1]} {two[0]} {two[1]}")
    return "".join([*written, f"L{points[-1][0]} {points[-1][1]}"])


def _toward(at: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    def moved(a: int, b: int) -> int:
        return a + max(-_ROUND, min(_ROUND, b - a))

    return moved(at[0], other[0]), moved(at[1], other[1])


def _direction(points: Sequence[Point]) -> Point:
    (x, y), (u, v) = points[-2], points[-1]
    return (u > x) - (u < x), (v > y) - (v < y)


def _head(points: Sequence[Point], kind: str) -> str:
    (x, y), (dx, dy) = _at(points[-1]), _direction(points)
    back, half = _ARROW + (2 if kind else 0), _ARROW * (0.75 if kind else 0.6)
    one = (x - dx * back - dy * half, y - dy * back - dx * half)
    two = (x - dx * back + dy * half, y - dy * back + dx * half)
    corners = " ".join(f"{a:g},{b:g}" for a, b in ((x, y), one, two))
    return f'<polygon class="head{kind}" points="{corners}"/>'


def _box(box: Box, layout: Layout, number: int, page: bool) -> str:
    x, y = _at(layout.centres[box])
    side = layout.side(box) * UNIT
    if box.kind == POINT:
        shape = f'<circle class="shape" cx="{x}" cy="{y}" r="{UNIT}"/>'
    else:
        corner = 4 if box.kind == LAYER else UNIT
        shape = (
            f'<rect class="shape" x="{x - side}" y="{y - UNIT}" width="{2 * side}" height="{2 * UNIT}" '
            f'rx="{corner}"/>'
        )
    equation = f"{box.name}[t] = {box.equation}" if box.name else box.equation
    reach = f' tabindex="-1" role="button" aria-label="{escape(equation)}"' if page else ""
    middle = x + 6 if box.name and not tag_outside(box) else x
    lower = 6 if box.label in _OPERATORS else 4
    place = f'x="{middle}" y="{y + lower}" style="font-size:{_size(box)}px"'
    parts = [
        f'<g class="box {box.kind}" data-box="{number}"{reach}>',
        shape,
        f"<title>{escape(equation)}</title>",
        f'<text class="name" {place}>{_mathematics(box.label)}</text>',
    ]
    if box.name:
        inside = not tag_outside(box)
        at = (x - side + 4, y - 2) if inside else (x - side + 3, y - UNIT + 2)
        kind, tag = "tag inside" if inside else "tag", _mathematics(box.name)
        parts.append(f'<text class="{kind}" x="{at[0]}" y="{at[1]}">{tag}</text>')
    if page:
        at = (x, y + 9) if box.kind == LAYER else (x + side - 4, y + UNIT + 7)
        parts.append(f'<text class="number" x="{at[0]}" y="{at[1]}"></text>')
    return "".join([*parts, "</g>"])


def _size(box: Box) -> int:
    """The size of a label's letters, so that it fits into its box."""
    if box.label in _OPERATORS:
        return 18
    if box.kind == POINT:
        return 13 if len(box.label) < 3 else 9
    return 13 if len(box.label) < 5 else 11 if len(box.label) < 7 else 9


def _weight(path: Path) -> str:
    """The sign or weight of a wire, beside its end."""
    (x, y), (dx, dy) = _at(path.points[-1]), _direction(path.points)
    place = f'x="{x - dx * 10 if dx else x + 6}" y="{y - 5 if dx else y - dy * 12 + 4}"'
    anchor = "end" if dx > 0 else "start"
    text = _mathematics(path.label)
    return f'<text class="weight" {place} style="text-anchor:{anchor}">{text}</text>'


def _label(label: Label) -> str:
    x, y = _at(label.at)
    step = "t−1" if label.side == "left" else "t"
    names = '<tspan class="step">, </tspan>'.join(_state(name, step) for name in label.names)
    places = {"left": (10, y - 7), "right": (x, y - 7), "below": (x + 10, y - 2)}
    place = 'x="{}" y="{}"'.format(*places[label.side])
    anchor = "middle" if label.side == "right" else "start"
    return f'<text class="state" {place} style="text-anchor:{anchor}">{names}</text>'


def _state(name: str, step: str) -> str:
    head, _, index = name.partition("_")
    step = f"{index},{step}" if index else step
    return f'{escape(head)}<tspan class="step" dy="4">{escape(step)}</tspan><tspan dy="-4">&#8203;</tspan>'


def _mathematics(label: str) -> str:
    """A label with its subscript set low: "W_n x". A space of no width leads back to the line."""
    head, low, rest = label.partition("_")
    if not low or not rest:
        return escape(label)
    index, gap, after = rest.partition(" ")
    low = f'<tspan dy="3" style="font-size:75%">{escape(index)}</tspan>'
    return f'{escape(head)}{low}<tspan dy="-3">{escape(gap + after)}&#8203;</tspan>'
