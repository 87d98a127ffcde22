"""The flow charts of cells: everything in the graph is in the picture, and nothing lies on anything else."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from xml.etree import ElementTree

import pytest

import gatewise as gw
from gatewise.cells.activations import KERAS
from gatewise.cells.language import exp, maximum, sigmoid, tanh
from gatewise.cells.variants import lstm_cell
from gatewise.cli import main
from gatewise.emit.diagram import boxes, svg
from gatewise.emit.flow import LAYER, Box, flow_of
from gatewise.emit.layout import layout_of
from gatewise.emit.routing import straight
from gatewise.errors import CellError


@gw.cell(
    gates="i f g o k",
    state="h c q",
    params="p w",
    feedback={"h": "i f g o k", "q": "i k", "c": "o"},
)
def of_a_user(a, s, p):
    i, f, g, o = sigmoid(a.i + p.p * s.c - s.q), sigmoid(a.f), tanh(a.g), sigmoid(a.o + s.q)
    c = f * s.c + i * g
    q = 0.9 * s.q + p.w * g * maximum(c, a.k)
    return dict(i=i, f=f, g=g, o=o, c=c, q=q, h=o * tanh(c) / (1 + exp(q)))


@gw.cell(gates="a", state="h k")
def passing_on(a, s):
    return dict(h=tanh(a.a) * s.k, k=s.h)


@gw.cell(gates="a", state="h b c")
def meeting(a, s):
    both = s.b + s.c
    return dict(h=tanh(a.a + both), b=2 * both, c=both * s.h)


hard = lstm_cell(KERAS["hard_sigmoid"], tanh, tanh, clip=3.0, peepholes=True)
CELLS = {
    **gw.CELLS,
    "of_a_user": of_a_user,
    "passing_on": passing_on,
    "meeting": meeting,
    "hard": hard,
}
EVERY_CELL = pytest.mark.parametrize("name", CELLS)


@cache
def placed(name):
    flow = flow_of(CELLS[name])
    return flow, layout_of(flow)


def labels(cell):
    return {box.name or f"{box.label}:{box.equation}": box.label for box in flow_of(cell).boxes}


def test_the_lstms_flow_chart():
    flow = flow_of(gw.CELLS["lstm"])
    assert labels(gw.CELLS["lstm"]) == {
        **{"i": "σ", "f": "σ", "g": "tanh", "o": "σ", "c": "+", "h": "×"},
        "×:f[t] ⊙ c[t-1]": "×",
        "×:i[t] ⊙ g[t]": "×",
        "tanh:tanh(c[t])": "tanh",
    }
    assert {s: [box.label for box in road] for s, road in flow.roads.items()} == {"c": ["×", "+"]}
    assert flow.lines == (("h", "x"),)


@pytest.mark.parametrize(
    ("name", "road", "lines"),
    [
        ("gru", {"h": ["×", "+"]}, (("h",), ("x",))),
        ("rnn_tanh", {}, (("h", "x"),)),
        ("fgr", {"c": ["×", "+"]}, (("h", "x"), ("i", "f", "o"))),
        ("mingru", {"h": ["×", "+"]}, (("x",),)),
        ("lem", {"h": ["×", "+"], "z": ["×", "+"]}, (("h",), ("x",))),
    ],
)
def test_roads_and_shared_lines(name, road, lines):
    flow = flow_of(gw.CELLS[name])
    assert {s: [box.label for box in each] for s, each in flow.roads.items()} == road
    assert flow.lines == lines


def test_peepholes_and_functions_of_one_variable_are_one_box():
    found = {box.name: box for box in flow_of(gw.CELLS["peephole"]).boxes}
    assert [wire.label for wire in found["o"].wires] == ["po"]
    assert found["o"].wires[0].source is found["c"]
    assert labels(gw.CELLS["lstm_1997"])["g"] == "4σ−2"
    assert {labels(hard)[gate] for gate in "ifgo"} == {"ƒ"}  # pieces of hard sigmoid and clip


@EVERY_CELL
def test_every_value_is_a_box_and_every_argument_a_wire(name):
    cell = CELLS[name]
    flow, layout = placed(name)
    assert {box.name for box in flow.boxes} >= set(cell.values) - {""}
    ends = {path.points[-1] for path in layout.paths if path.arrow}
    wanted = sum(len(box.wires) for box in flow.boxes)
    taps = sum(
        sum(bool(set(line) & set(box.taps)) for line in flow.lines)
        for box in flow.boxes
        if box.kind == LAYER
    )
    drawn = [path for path in layout.paths if path.arrow]
    assert len(drawn) == wanted + taps + len(cell.state)
    assert len(ends) == len(drawn)  # no two arrows at one place
    right = [label.names for label in layout.labels if label.side == "right"]
    assert sorted(right) == sorted((state,) for state in cell.state)


@EVERY_CELL
def test_wires_cross_and_never_share_a_segment_nor_run_through_a_box(name):
    _, layout = placed(name)
    areas = {}
    for box, (x, y) in layout.centres.items():
        side = layout.side(box)
        for point in ((u, v) for u in range(x - side, x + side + 1) for v in range(y - 1, y + 2)):
            assert areas.setdefault(point, box) is box
    segments = {}
    for path in layout.paths:
        for one, other in pairwise(path.points):
            line = straight(one, other)
            for at, after in pairwise(line):
                assert segments.setdefault((at, after), path.source) is path.source
        inner = [p for a, b in pairwise(path.points) for p in straight(a, b)]
        hit = {areas[p] for p in inner if p in areas and p not in (path.points[0], path.points[-1])}
        assert not hit


@EVERY_CELL
def test_the_file_is_valid_and_says_what_each_box_computes(name):
    cell = CELLS[name]
    tree = ElementTree.fromstring(svg(cell))
    titles = [each.text for each in tree.iter() if each.tag.endswith("title")][1:]
    assert titles == [
        f"{box['name']}[t] = {box['equation']}" if box["name"] else box["equation"]
        for box in boxes(cell)
    ]
    _, _, wide, tall = map(float, tree.get("viewBox").split())
    for each in tree.iter():
        for axis, most in (("x", wide), ("y", tall), ("cx", wide), ("cy", tall)):
            assert 0 <= float(each.get(axis, 0)) <= most


@gw.cell(gates="f n")
def with_a_long_label(a, s):
    f, n = gw.sigmoid(a.f), gw.tanh(a.n)
    return dict(f=f, n=n, h=f * s.h + (1 - gw.sigmoid(a.f - 1)) * n)


@pytest.mark.parametrize("cell", [*gw.CELLS.values(), with_a_long_label], ids=lambda c: c.name)
def test_labels_fit_into_their_boxes(cell):
    """A letter is at most about .6 of its size wide."""
    labelled = re.findall(
        r'<rect class="shape"[^>]* width="(\d+)"[^>]*/><title>[^<]*</title>'
        r'<text class="name"[^>]*font-size:(\d+)px">(.*?)</text>',
        svg(cell),
    )
    assert labelled
    for wide, size, label in labelled:
        letters = re.sub(r"<.*?>|&#8203;", "", label)
        assert 0.6 * int(size) * len(letters) <= int(wide), letters


def test_a_box_has_its_formula_for_pages_that_compute_it():
    found = {box["equation"]: box["value"] for box in boxes(gw.CELLS["lstm"])}
    assert found["f[t] ⊙ c[t-1]"] == ["mul", ["now", "f"], ["before", "c"]]
    assert found["tanh(c[t])"] == ["tanh", ["now", "c"]]
    linear = next(box for box in boxes(gw.CELLS["gru"]) if box["label"] == "U_n h")
    assert linear["value"] is None


def test_a_cell_with_too_many_operations_is_refused():
    @gw.cell(gates="a")
    def long(a, s):
        h = tanh(a.a)
        for _ in range(300):
            h = tanh(h) * s.h
        return dict(h=h)

    with pytest.raises(
        CellError, match=r"cell 'long' has 60. operations; a diagram shows at most 250"
    ):
        svg(long)


def test_names_are_written_and_not_read(tmp_path):
    @gw.cell(gates="a", name="<script>")
    def odd(a, s):
        return dict(h=tanh(a.a))

    assert "<script" not in svg(odd)
    assert "&lt;script&gt;" in svg(odd)


def test_the_verb_writes_a_file(tmp_path, capsys):
    target = tmp_path / "new" / "gru.svg"
    assert main(["equations", "gru", "--diagram", str(target)]) == 0
    assert target.read_text("utf-8") == svg(gw.CELLS["gru"])
    assert capsys.readouterr().out == f"diagram   {target}\n"
    assert main(["equations", "gru", "--diagram", str(tmp_path / "gru.png")]) == 2
    assert "an .svg file, not" in capsys.readouterr().err
    assert main(["equations", "--diagram", str(target)]) == 2
    assert re.search("none is given: name one of .*lstm", capsys.readouterr().err)


def test_the_kinds_of_box_are_told_apart():
    assert all(isinstance(box, Box) for box in flow_of(gw.CELLS["lstm"]).boxes)
    kinds = re.findall(r'class="box (\w+)"', svg(gw.CELLS["gru"]))
    assert sorted(kinds) == ["function", *["layer"] * 4, *["point"] * 4]
