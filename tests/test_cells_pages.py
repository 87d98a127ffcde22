"""What is counted and said of a cell, in the terminal and in docs/cells."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import gatewise as gw
from gatewise.bench.shapes import Shape
from gatewise.bench.shapes import flop as counted_by_the_benchmark
from gatewise.cells.counts import Count, point_wise, products, weights
from gatewise.emit.account import describe, listing, parts, record, sheet
from gatewise.emit.diagram import svg
from gatewise.emit.equations import latex, text
from gatewise.emit.page import page, pages, write

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = Path(__file__).parents[1] / "docs" / "cells"
EVERY_CELL = pytest.mark.parametrize("name", gw.CELLS)
SIZES = pytest.mark.parametrize(("inputs", "units"), [(1, 1), (1, 6), (5, 7), (8, 3)])


def layer_of(cell, inputs, units, backend="auto"):
    torch.manual_seed(5)
    return gw.Recurrent(cell, inputs, units, dtype=torch.float64, backend=backend)


@EVERY_CELL
@SIZES
def test_a_layer_has_as_many_weights_as_are_counted(name, inputs, units):
    """Every number that is drawn is not zero; those that are zero stand for no connection."""
    drawn = layer_of(name, inputs, units).parameters()
    found = sum(int((parameter != 0).sum()) for parameter in drawn)
    assert found == units * weights(gw.CELLS[name]).at(inputs, units)


def test_weights_by_hand():
    assert str(weights(gw.CELLS["lstm"])) == "4 (I + H) + 8"
    assert str(weights(gw.CELLS["peephole"])) == "4 (I + H) + 11"
    assert str(weights(gw.CELLS["rnn_tanh"])) == "I + H + 2"
    assert str(weights(gw.CELLS["mingru"])) == "2 I + 2"
    assert str(weights(gw.CELLS["lstm_1997_truncated"])) == "3 I + 9 H + 6"
    assert str(weights(gw.CELLS["fgr"])) == "4 I + 13 H + 11"  # nine matrices beside the four


@EVERY_CELL
@SIZES
def test_products_are_what_torch_counts(name, inputs, units):
    """torch's own counter, on the reference, of one step of one sequence."""
    cell, layer = gw.CELLS[name], layer_of(name, inputs, units, "reference")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.randn(1, 1, inputs, dtype=torch.float64))
    # FGR's gates do not feed g, and the reference multiplies the zeros that say so
    zeros = 3 * 2 * units**2 if name == "fgr" else 0
    assert units * products(cell).at(inputs, units) == counter.get_total_flops() - zeros


@pytest.mark.parametrize("name", [n for n in gw.CELLS if n != "fgr"])
def test_products_are_counted_as_the_benchmark_counts(name):
    cell, shape = gw.CELLS[name], Shape(7, 3, 5, 6)
    a_step = shape.H * products(cell).at(shape.I, shape.H)
    assert shape.T * shape.B * a_step == counted_by_the_benchmark(cell, shape, "inference")
    assert 3 * shape.T * shape.B * a_step == counted_by_the_benchmark(cell, shape, "training")


# By hand, from the equations: +, -, *, / and what is as cheap; then σ, tanh, exp, log and softplus.
WORK = {
    "rnn_tanh": (0, 1),
    "rnn_relu": (1, 0),
    "lstm_1997": (7, 4),  # g = 4 σ - 2; c + i g; o (2 σ - 1)
    "lstm_1997_truncated": (7, 4),  # what is cut is not worked out again
    "lstm": (4, 5),
    "peephole": (10, 5),
    "coupled": (5, 4),
    "nig": (7, 4),
    "nfg": (7, 4),
    "nog": (7, 4),
    "niaf": (10, 4),
    "noaf": (10, 4),
    "cifg": (9, 4),
    "np": (4, 5),
    "fgr": (10, 5),
    "gru": (6, 3),
    "gru_2014": (5, 3),
    "mgu": (5, 2),
    "mingru": (4, 1),
    "minlstm": (7, 5),  # two signs, their difference, 1 - kept; kept h + (1 - kept) n
    # log f: -softplus(-a) 2, + m; n > 0; m: 2 products, their sum, 1 - n > 0, max; a - m; f: - m, 2 products;
    # c 3, n 2, o c / n 2
    "slstm": (20, 5),
    "lem": (8, 4),
}


def test_work_point_by_point_by_hand():
    functions = {"sigmoid", "tanh", "exp", "log", "softplus"}
    found = {}
    for name, cell in gw.CELLS.items():
        counted = point_wise(cell)
        dear = sum(n for op, n in counted.items() if op in functions)
        found[name] = (counted.total() - dear, dear)
    assert found == WORK
    assert dict(point_wise(gw.CELLS["lstm"])) == dict(sigmoid=3, tanh=2, mul=3, add=1)


def test_what_stands_twice_is_counted_once_and_other_numbers_are_not_the_same():
    @gw.cell(gates="i", state="h c", params="p q")
    def twice(a, s, p):
        u = gw.tanh(a.i * p.p) + gw.tanh(a.i * p.p)
        v = gw.tanh(a.i * p.q) + gw.tanh(s.c * p.p)
        return dict(h=u + v + 2.0 * s.c + 3.0 * s.c, c=gw.detach(s.c))

    assert dict(point_wise(twice)) == dict(mul=5, tanh=3, add=5)


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (Count(4, 4, 8), "4 (I + H) + 8"),
        (Count(1, 1), "I + H"),
        (Count(2, 0, 3), "2 I + 3"),
        (Count(1, 0), "I"),
        (Count(1, 3, 1), "I + 3 H + 1"),
        (Count(3, 1), "3 I + H"),
        (Count(0, 0, 5), "5"),
        (Count(0, 0), "0"),
    ],
)
def test_a_count_is_written_with_the_value_it_has(count, written):
    assert str(count) == written
    python = re.sub(r"(\d) (?=[IH(])", r"\1 * ", written)
    for I, H in ((1, 1), (3, 7), (128, 50)):  # noqa: E741
        assert count.at(I, H) == eval(python, {"I": I, "H": H})


def test_every_built_in_cell_says_what_it_is_and_where_it_is_from():
    for cell in gw.CELLS.values():
        told = describe(cell)
        assert told.summary.endswith(".") and len(told.summary) <= 100, cell.name  # noqa: PT018
        assert cell.doc.split("\n")[0] == told.summary, (
            "the first line is all of the first paragraph"
        )
        assert re.fullmatch(r"\w.*\b(19|20)\d\d", told.paper), cell.name
        assert told.source.startswith(told.paper)
        assert not any(note.startswith("Source") for note in told.notes)


def test_a_docstring_by_its_parts():
    @gw.cell(gates="i")
    def mine(a, s):
        """What it is, on
        two lines.

        First note.

        Source: A & B 1999, "C in 2001", section 2.

        Last note, with a
        second line."""
        return dict(h=gw.tanh(a.i))

    told = describe(mine)
    assert told.summary == "What it is, on two lines."
    assert told.source == 'A & B 1999, "C in 2001", section 2.'
    assert told.paper == "A & B 1999"
    assert told.notes == ("First note.", "Last note, with a second line.")


def test_a_cell_without_a_docstring_has_a_sheet_and_a_page():
    @gw.cell(gates="i j", state="h c", params="p")
    def mine(a, s, p):
        c = gw.sigmoid(a.i.x) * s.c + p.p
        return dict(c=c, h=c * a.j)

    assert describe(mine).summary == describe(mine).source == describe(mine).paper == ""
    assert sheet(mine, 3, 4, {}).splitlines()[0] == "mine:"
    assert "Source" not in sheet(mine, 3, 4, {}) + page(mine)
    assert "## Notes" not in page(mine)
    assert text(mine) in sheet(mine, 3, 4, {})


def test_parts():
    assert parts(gw.CELLS["peephole"]) == [
        *(("gate", gate, "inputs: x[t], h[t-1]") for gate in "ifgo"),
        ("state", "h", "output; recurrent input of i, f, g, o"),
        ("state", "c", "each unit reads its own previous value"),
        *(("parameter", name, "one number per unit") for name in ("pi", "pf", "po")),
    ]
    told = {name: what for _, name, what in parts(gw.CELLS["gru_2014"])}
    assert told["n"] == "inputs: x[t], r[t] ⊙ h[t-1]"
    assert told["h"] == "output; recurrent input of r, z; each unit reads its own previous value"
    first = parts(gw.CELLS["lstm_1997"])[:2]
    block = "inputs: x[t], h[t-1]; shared by all cells of a block, where the layer has a block_size"
    assert first == [("gate", "i", block), ("gate", "g", "inputs: x[t], h[t-1]")]


@SIZES
def test_the_list_has_each_cells_figures_and_what_it_is(inputs, units):
    lines = listing(gw.CELLS.values(), inputs, units).splitlines()
    assert f"I = {inputs} inputs and H = {units} units" in " ".join(lines[-2:])
    ends = [lines[0].rindex(head) + len(head) for head in ("weights", "FLOP per step")]
    for cell, figures, what in zip(gw.CELLS.values(), lines[1::2], lines[2::2], strict=False):
        assert figures.split()[0] == cell.name
        assert " ".join(cell.gates) in figures
        columns = re.split(r"  +", figures)
        connected = sum(int((p != 0).sum()) for p in layer_of(cell, inputs, units).parameters())
        work = products(cell).at(inputs, units) + sum(WORK[cell.name])
        assert columns[3:] == [
            str(weights(cell)),
            f"{connected:,}",
            f"{units * work:,}",
            describe(cell).paper,
        ]
        assert all(figures[end - 1].isdigit() and figures[end] == " " for end in ends)
        assert what.strip() == describe(cell).summary


def test_the_list_of_one_and_of_none():
    assert listing([gw.CELLS["gru"]], 3, 4).splitlines()[1].startswith("gru   r z n  h ")
    assert listing([], 3, 4).startswith("cell  gates")


@EVERY_CELL
def test_a_sheet_has_all_there_is_to_say(name):
    cell = gw.CELLS[name]
    printed = sheet(cell, 1000, 200, {"one": "runs it", "another": "no: it rests"})
    flat = " ".join(printed.split())
    assert printed.startswith(f"{name}: ")
    assert text(cell) in printed
    for paragraph in (describe(cell).summary, describe(cell).source, *describe(cell).notes):
        assert paragraph.replace("``", "") in flat
    assert f"traceable values: {', '.join(cell.values)}" in flat
    assert f"{weights(cell)} {200 * weights(cell).at(1000, 200):,}" in flat
    assert f"{products(cell)} {200 * products(cell).at(1000, 200):,}" in flat
    assert f"{sum(WORK[name])} {200 * sum(WORK[name]):,}" in flat
    assert printed.endswith("backend\none      runs it\nanother  no: it rests")


def test_a_record():
    found = record(gw.CELLS["peephole"], 3, 4)
    assert found["name"] == "peephole"
    assert found["paper"] == "Gers, Schraudolph & Schmidhuber 2002"
    assert found["parameters"] == ["pi", "pf", "po"]
    assert found["feedback"] == {"h": ["i", "f", "g", "o"]}
    assert found["traced"] == list(gw.CELLS["peephole"].values)
    assert found["equations"]["text"] == text(gw.CELLS["peephole"])
    assert found["weights"] == {"per_unit": "4 (I + H) + 11", "total": 4 * (4 * 7 + 11)}
    assert found["flop_per_step"]["total"] == 4 * (8 * 7 + 15)
    assert found["flop_per_step"]["elementwise_per_unit"] == dict(mul=6, add=4, sigmoid=3, tanh=2)
    assert "``" not in str([record(cell, 3, 4) for cell in gw.CELLS.values()])


def out_of_date(folder):
    """The pages in ``folder`` that are not what the source gives, those that are missing and those of
    cells that are gone."""
    wanted = pages(gw.CELLS.values())
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    return sorted(n for n in wanted | found if wanted.get(n) != found.get(n))


def test_the_pages_are_what_the_source_gives():
    differ = out_of_date(FOLDER)
    assert not differ, f"{', '.join(differ)}: run `gatewise cells --docs docs/cells`"


def test_a_page_that_differs_is_seen(tmp_path):
    folder = tmp_path / "new" / "cells"
    written = write(gw.CELLS.values(), folder)
    assert sorted(written) == sorted(folder.iterdir())
    assert out_of_date(folder) == []
    (folder / "gru.md").write_text(page(gw.CELLS["gru"]).replace(r"\odot", r"\cdot", 1), "utf-8")
    (folder / "lem.md").unlink()
    (folder / "lstm.svg").write_text(svg(gw.CELLS["gru"]), "utf-8")
    (folder / "lstn.md").write_text(page(gw.CELLS["lstm"]), "utf-8")
    assert out_of_date(folder) == ["gru.md", "lem.md", "lstm.svg", "lstn.md"]
    write(gw.CELLS.values(), folder)
    assert out_of_date(folder) == ["lstn.md"]  # what it did not write it does not take away


@EVERY_CELL
def test_a_pages_code_runs_and_its_comments_are_true(name):
    content = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)\n```", content, re.DOTALL)
    values: dict = {}
    exec(code, values)
    assert f'gw.Recurrent("{name}", 8, 32)' in code
    cell = gw.CELLS[name]
    assert values["layer"].cell is cell
    assert values["x"].shape == (100, 4, 8)
    assert "# output: 100×4×32; " in code and values["output"].shape == (100, 4, 32)  # noqa: PT018
    states = values["state"] if len(cell.state) > 1 else (values["state"],)
    assert len(states) == len(cell.state)
    assert ": 1×4×32" in code and all(s.shape == (1, 4, 32) for s in states)  # noqa: PT018
    for state, again in zip(cell.state, states, strict=True):
        torch.testing.assert_close(values[state], again, rtol=1e-4, atol=1e-5)
    traced = code.splitlines()[-1]
    assert traced.endswith(": 4×100×32")
    assert eval(traced, values).shape == (4, 100, 32)


@EVERY_CELL
def test_a_page_has_the_cells_formulas_and_whole_tables(name):
    cell, content = gw.CELLS[name], page(gw.CELLS[name])
    assert re.findall(r"```math\n(.*?)\n```", content, re.DOTALL) == [latex(cell)]
    assert content.startswith(
        f"# {name}\n\n{describe(cell).summary}\n\nSource: {describe(cell).source}"
    )
    for note in describe(cell).notes:
        assert note.replace("``", "`") in content.partition("## Notes")[2]
    assert "``" not in content.replace("```", "")
    parts_of, counts = tables(content)
    assert [row[1].strip("`") for row in parts_of[1:]] == [*cell.gates, *cell.state, *cell.params]
    assert [row[1] for row in counts[1:3]] == [str(weights(cell)), str(products(cell))]
    assert counts[3][1] == str(sum(WORK[name]))
    assert counts[1][2] == f"{128 * weights(cell).at(128, 128):,}"


def test_the_sites_navigation_has_every_cell_in_the_catalogues_order():
    text = (FOLDER.parents[1] / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.findall(r"- cells/(\w+)\.md", text) == ["README", *gw.CELLS]


def test_the_index_has_every_cell_and_its_links_lead_somewhere():
    content = (FOLDER / "README.md").read_text(encoding="utf-8")
    (rows,) = tables(content)
    assert [row[0] for row in rows[1:]] == [f"[`{name}`]({name}.md)" for name in gw.CELLS]
    for cell, row in zip(gw.CELLS.values(), rows[1:], strict=True):
        assert row[1].replace("`", "") == describe(cell).summary.replace("`", "")
        assert row[2:4] == [" ".join(cell.gates), " ".join(cell.state)]
        assert row[4] == str(weights(cell))
        assert row[5] == str(
            Count(products(cell).inputs, products(cell).units, sum(WORK[cell.name]))
        )
        assert row[6] == describe(cell).paper
    for path in FOLDER.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]*)", path.read_text(encoding="utf-8")):
            assert (FOLDER / link).exists(), f"{path.name}: {link}"


def tables(content):
    """Each table's rows, less the rule, all with as many cells as the head."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", content, re.MULTILINE):
        head, rule, *rows = block.splitlines()
        split = [[c.strip() for c in row[1:-1].split(" | ")] for row in (head, *rows)]
        assert {len(row) for row in split} == {rule.count("---")}
        found.append(split)
    return found


def test_symbols_are_told_where_they_stand():
    assert "d is the bias of the recurrent part" in page(gw.CELLS["gru"])
    assert "[a; b]" in page(gw.CELLS["fgr"])
    assert "greater(a, b) is 1" in page(gw.CELLS["slstm"])
    assert "detach(a) is a" in page(gw.CELLS["lstm_1997_truncated"])
    plain = page(gw.CELLS["mingru"])
    assert "W are a gate's weights and b is its bias;" in plain
    assert not any(sign in plain for sign in ("d is the", "[a; b]", "greater", "detach", "W, U"))
