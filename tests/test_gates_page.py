"""The page of gates: its numbers, what it says of the units, and what it refuses."""

from __future__ import annotations

import base64
import gzip
import json
import re

import numpy as np
import pytest
import torch

import gatewise as gw
from gatewise.errors import OptionError, ShapeError
from gatewise.gates.page.shown import first_steps, in_order, in_parts
from gatewise.gates.page.strips import bars, lines, roll, words
from gatewise.gates.page.summary import main_state, summary
from gatewise.gates.page.writer import json_text, write_page
from gatewise.nn.trace import Trace
from pages import run

pytestmark = pytest.mark.usefixtures("one_thread")


def read(path):
    """The record and the numbers of a page."""
    text = path.read_text("utf-8")
    record = json.loads(re.search(r'id="record">(.*?)</script>', text, re.S)[1])
    block = re.search(r'id="numbers">(.*?)</script>', text, re.S)[1]
    raw = gzip.decompress(base64.b64decode(block))
    return record, np.frombuffer(raw, "<f2" if record["precision"] == "float16" else "<f4")


def traced(layer, steps=7, batch=3, lengths=None, seed=0):
    torch.manual_seed(seed)
    x = torch.randn(batch, steps, layer.input_size)
    with torch.no_grad():
        return layer(x, lengths=lengths, trace=True)[2]


def check_numbers(path, traces, lengths):
    record, numbers = read(path)
    modules = [(n, k, d) for n, t in traces.items() for k, both in enumerate(t[t.names[0]])
               for d in range(len(both))]  # fmt: skip
    for sequence, steps in zip(record["sequences"], lengths, strict=True):
        assert sequence["steps"] == steps
    for at, sequence in enumerate(record["sequences"]):
        for (module, layer, direction), places in zip(modules, sequence["places"], strict=True):
            trace = traces[module]
            assert list(places) == list(trace.names)
            for name, start in places.items():
                wanted = trace[name][layer][direction][at, : sequence["steps"]].detach().numpy()
                found = numbers[start : start + wanted.size].reshape(wanted.shape)
                np.testing.assert_array_equal(found, wanted)


def test_the_pages_numbers_are_those_of_the_trace(tmp_path):
    layer = gw.LSTM(2, 5, num_layers=2, bidirectional=True, proj_size=3, batch_first=True)
    trace = traced(layer, lengths=torch.tensor([7, 2, 4]))
    path = write_page(
        tmp_path / "a" / "g.html", {"rnn": trace}, title="t", cells={"rnn": layer.cell}
    )
    check_numbers(path, {"rnn": trace}, [7, 2, 4])
    record, _ = read(path)
    assert [part["label"] for part in record["parts"]] == [
        f"rnn, layer {k}, {way}" for k in (0, 1) for way in ("forward", "backward")
    ]
    assert [part["backward"] for part in record["parts"]] == [False, True] * 2
    assert record["parts"][0]["units"] == {**dict.fromkeys("ifgoc", 5), "h": 3}


@pytest.mark.parametrize("name", ["gru", "slstm", "rnn_tanh", "lstm_1997_truncated"])
def test_every_cell_has_a_page(tmp_path, name):
    layer = gw.Recurrent(name, 2, 4, batch_first=True)
    trace = traced(layer)
    path = write_page(tmp_path / "g.html", {"model": trace}, title="t", cells={"model": layer.cell})
    check_numbers(path, {"model": trace}, [7, 7, 7])
    assert f'aria-label="The cell {name} as a flow chart"' in path.read_text("utf-8")


def test_layers_without_a_cell_have_heat_maps(tmp_path):
    layer = gw.MLSTM(4, 8, batch_first=True)
    with torch.no_grad():
        trace = layer(torch.randn(2, 5, 4), trace=True)[2]
    path = write_page(tmp_path / "g.html", {"model": trace}, title="t")
    record, _ = read(path)
    assert record["parts"][0]["cell"] is None
    assert 'id="diagram-0"' not in path.read_text("utf-8")


def test_many_numbers_are_rounded_to_three_digits_and_large_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr("gatewise.gates.page.record._MOST_EXACT", 10)
    values = torch.linspace(-3, 3, 40).view(1, 10, 4)
    path = write_page(tmp_path / "g.html", {"m": Trace({"c": [[values]]}, None)}, title="t")
    record, numbers = read(path)
    assert record["precision"] == "float16"
    np.testing.assert_allclose(numbers, values.flatten(), rtol=1e-3, atol=1e-4)
    path = write_page(tmp_path / "g.html", {"m": Trace({"c": [[values * 1e5]]}, None)}, title="t")
    assert read(path)[0]["precision"] == "float32"


# ------------------------------------------------------------------------------- what it says of units

LSTM = gw.CELLS["lstm"]


def planted(**gates):
    """The values of an LSTM with these gates, 200×H, the others at random."""
    draw = np.random.default_rng(0)
    units = len(next(iter(gates.values()))[0])
    values = {name: draw.uniform(0.2, 0.8, (200, units)) for name in ("i", "f", "o")}
    values |= {name: draw.uniform(-0.7, 0.7, (200, units)) for name in ("g", "c", "h")}
    return {**values, **gates}


def test_planted_time_scales():
    forget = np.tile([0.5, 0.9, 0.99, 1.0, 0.0], (200, 1))
    found = summary(LSTM, planted(f=forget))
    np.testing.assert_allclose(found["time_scales"]["c"][:3], [1.443, 9.491, 99.5], rtol=1e-3)
    assert found["time_scales"]["c"][3:] == [None, 0.0]  # it keeps everything, it clears everything
    assert found["orders"]["time scale"] in ([3, 2, 1, 0, 4], [2, 1, 0, 4, 3])


def test_what_a_cell_keeps_is_read_from_its_equations():
    """Also where the state's old value stands twice: h + d (n - h) keeps 1 - d."""

    @gw.cell(gates="d n")
    def blend(a, s):
        d = gw.sigmoid(a.d)
        n = gw.tanh(a.n)
        return dict(d=d, n=n, h=s.h + d * (n - s.h))

    layer = gw.Recurrent(blend, 3, 4, batch_first=True)
    trace = layer(torch.randn(2, 9, 3), trace=True)[2]
    values = {name: trace[name][0][0].detach().flatten(0, 1).numpy() for name in trace.names}
    keep = 1 - values["d"].astype(float)
    found = summary(layer.cell, values)["time_scales"]["h"]
    np.testing.assert_allclose(found, -1 / np.log(keep).mean(0), rtol=1e-5)
    of = {"lstm": "c", "lstm_1997": "c", "slstm": "c", "lem": "z", "gru": "h", "rnn_tanh": "h"}
    for name, state in of.items():
        cell = gw.CELLS[name]
        assert main_state(cell, dict.fromkeys(cell.values, keep)) == state


def test_saturation_is_counted_for_gates_alone():
    forget = np.repeat([[0.95, 0.05, 0.5]], 200, 0)
    forget[:50] = [0.5, 0.5, 0.5]
    found = summary(LSTM, planted(f=forget))["saturation"]
    assert sorted(found) == ["f", "i", "o"]
    assert found["f"] == {"open": [0.75, 0.0, 0.0], "closed": [0.0, 0.75, 0.0]}


def test_units_of_similar_states_are_neighbours():
    steps = np.linspace(0, 20, 200)
    waves = np.stack([np.sin(steps), np.cos(steps), np.sin(steps) + 0.01, np.cos(steps) - 0.01], 1)
    order = summary(LSTM, planted(c=waves))["orders"]["similarity"]
    assert sorted(order) == [0, 1, 2, 3]
    places = {unit: place for place, unit in enumerate(order)}
    assert abs(places[0] - places[2]) in (1, 3)
    assert abs(places[1] - places[3]) in (1, 3)


def test_activity_and_colours():
    state = np.array([[0.1, -3.0, 1.0]]).repeat(200, 0)
    found = summary(LSTM, planted(c=state))
    assert found["orders"]["activity"] == [1, 2, 0]
    assert found["ranges"]["c"] == {"bound": 3.0, "signed": True}
    assert found["ranges"]["f"] == {"bound": 1.0, "signed": False}
    assert found["ranges"]["g"]["signed"]


# ------------------------------------------------------------------------------------------- bad input


def test_data_cannot_end_the_script_they_stand_in(tmp_path):
    layer = gw.LSTM(2, 3, batch_first=True)
    evil = "</script><script>alert(1)</script><!--{{record}}"
    path = write_page(
        tmp_path / "g.html",
        {"model": traced(layer, steps=2, batch=1)},
        title=evil,
        strips=[words(evil, [evil, "b"])],
        labels=[evil],
    )
    text = path.read_text("utf-8")
    assert "alert(1)" in text
    assert "<script>alert" not in text
    record, _ = read(path)
    assert record["sequences"][0]["label"] == record["sequences"][0]["strip"]["words"][0] == evil
    assert json.loads(json_text({"a": "\u2028<"})) == {"a": "\u2028<"}
    assert "\u2028" not in json_text("\u2028")


def test_a_page_asks_for_nothing_and_is_small(tmp_path):
    layer = gw.LSTM(2, 3, batch_first=True)
    path = write_page(
        tmp_path / "g.html", {"model": traced(layer)}, title="t", cells={"model": layer.cell}
    )
    text = path.read_text("utf-8")
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", text)
    assert "default-src 'none'" in text
    assert path.stat().st_size < 400_000
    assert "Copyright 2010-2026 Mike Bostock" in text


def test_strips_that_do_not_fit_are_refused(tmp_path):
    layer = gw.LSTM(2, 3, batch_first=True)
    traces = {"model": traced(layer, steps=4, batch=2)}

    def page(**given):
        return write_page(tmp_path / "g.html", traces, title="t", **given)

    for given, error in (
        (dict(strips=[None]), "there are 1 strips for 2 sequences"),
        (dict(labels=["a", "b", "c"]), "there are 3 labels for 2 sequences"),
        (dict(strips=[words("text", "abc"), None]), "'text' has 3 words; there must be 4"),
        (dict(strips=[words("text", "abcd", [1.0]), None]), "1 weights for 4 words"),
        (
            dict(strips=[lines("input", {"a": np.zeros(5)}, per_step=2), None]),
            "'a' of the strip 'input' has 5 values; there must be 8: 2 for each of the 4 steps",
        ),
        (dict(step_labels=[["a"], None]), "sequence 0 has 1 step_labels and 4 steps"),
    ):
        with pytest.raises(ShapeError, match=error):
            page(**given)
    assert not (tmp_path / "g.html").exists()
    page(strips=[roll("tune", [(0, 2, 60, 0)]), lines("x", {"a": np.zeros(4)})],
         predictions=[bars("p", {"a": np.nan}), lines("f", {"q": [1.0, 2.0]}, over_steps=False)])  # fmt: skip
    assert read(tmp_path / "g.html")[0]["sequences"][0]["prediction"]["numbers"] == [None]


def test_traces_without_steps_or_with_different_ones_are_refused(tmp_path):
    layer = gw.LSTM(2, 3, batch_first=True)
    with pytest.raises(OptionError, match="no recurrent layer whose gates could be shown"):
        write_page(tmp_path / "g.html", {}, title="t")
    with pytest.raises(OptionError, match="sequence 1 has no steps"):
        write_page(
            tmp_path / "g.html", {"m": traced(layer, lengths=torch.tensor([7, 0, 1]))}, title="t"
        )
    with pytest.raises(ShapeError, match="'a' and 'b' ran over different steps"):
        write_page(
            tmp_path / "g.html", {"a": traced(layer), "b": traced(layer, steps=6)}, title="t"
        )


def test_parts_first_steps_and_orders_of_a_trace():
    values = torch.arange(14.0).view(1, 7, 2)
    parts = in_parts(Trace({"c": [[values]]}, None), 3)
    assert parts.lengths.tolist() == [3, 3, 1]
    assert parts.c[0][0].tolist()[1] == values[0, 3:6].tolist()
    assert parts.c[0][0][2].tolist() == [*values[0, 6:].tolist(), [0, 0], [0, 0]]
    whole = Trace({"c": [[torch.arange(12.0).view(3, 2, 2)]]}, torch.tensor([2, 1, 2]))
    assert first_steps(whole, 1).c[0][0].shape == (3, 1, 2)
    assert first_steps(whole, 1).lengths.tolist() == [1, 1, 1]
    turned = in_order(whole, [2, 0, 1])
    assert turned.lengths.tolist() == [2, 2, 1]
    assert turned.c[0][0][0].tolist() == whole.c[0][0][2].tolist()


def test_the_documented_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("gates/page.md")
    check_numbers(tmp_path / "gates.html", {"model": names["trace"]}, [120])


def test_a_page_takes_the_trace_of_a_layer(tmp_path):
    trace = Trace({"h": [[torch.zeros(1, 3, 2)]]}, None)
    assert read(write_page(tmp_path / "g.html", trace, title="t"))[0]["parts"]
    with pytest.raises(OptionError, match=r"expected traces, as gw.trace.*, not Tensor"):
        write_page(tmp_path / "x.html", trace.h[0][0], title="t")
