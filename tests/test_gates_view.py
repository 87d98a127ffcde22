"""`gatewise view`: who gets an answer, and what changes of input, units and gates answer."""

from __future__ import annotations

import _thread
import http.client
import io
import json
import socket
import struct
import threading
from contextlib import contextmanager

import numpy as np
import polars as pl
import pytest
import torch

import gatewise as gw
from gatewise.cli import main
from gatewise.errors import OptionError
from gatewise.gates.live import LivePage
from gatewise.gates.page.record import PageData
from gatewise.gates.page.shown import InputEdit
from gatewise.gates.view import PageServer, serve
from gatewise.train.run import Run

pytest.importorskip("lightning")
pytestmark = pytest.mark.usefixtures("one_thread")

QUIET = Run(quiet=True)
LINES = ["the (cat) sat on the mat\n", "the dog (sat) on the log\n"] * 4


@contextmanager
def serving(page):
    with PageServer(page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).normal(size=(24, 9, 2))


@pytest.fixture(scope="module")
def classifier(data):
    small = dict(hidden=4, epochs=1, members=2, filters=0)
    return gw.Classifier(**small).fit(data, np.arange(24) % 2)


@pytest.fixture(scope="module")
def language_model():
    made = gw.LanguageModel("char", hidden=4, layers=2, epochs=1, batch=2, window=10)
    return made.fit(LINES, run=QUIET)


@pytest.fixture(scope="module")
def page(classifier, data):
    shown = classifier.shown(data[:3], 3, 6)
    return LivePage(classifier.network_, shown, title="A title", history={"train": [1.0]})


@pytest.fixture(scope="module")
def server(page):
    with serving(page) as found:
        yield found


def asked(server, method, path, body=None, **headers):
    """The status, the headers and the body of an answer."""
    host = f"127.0.0.1:{server.server_port}"
    there = http.client.HTTPConnection(host, timeout=20)
    names = {"Host": host} | {name.replace("_", "-"): value for name, value in headers.items()}
    there.request(method, path, body, names)
    answer = there.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    there.close()
    return found


def edited(page, edits, sequence=0):
    """What an answer has: its JSON, and the values by part and name."""
    raw = page.answer({"sequence": sequence, "edits": edits})
    size = struct.unpack("<I", raw[:4])[0]
    numbers = np.frombuffer(raw[4 + size :], "<f4")
    found, at = [], 0
    for part in page._data.parts:
        found.append({})
        for name, value in page._data.values(part, sequence).items():
            found[-1][name] = numbers[at : at + value.size].reshape(value.shape)
            at += value.size
    assert at == len(numbers)
    return json.loads(raw[4 : 4 + size]), found


def recorded(strip):
    """A strip as JSON has it."""
    return json.loads(json.dumps(strip.record()))


def clamped(**changes):
    whole = dict(kind="clamp", part=0, name="f", unit=None, first=0, last=5, value=1)
    return whole | changes


# ------------------------------------------------------------------------------------------ server


def test_the_page_and_its_numbers_in_pieces(page, server):
    place = f"/{server.token}/"
    status, headers, body = asked(server, "GET", place)
    assert (status, body.decode()) == (200, page.html)
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in page.html
    assert "connect-src 'self'" in page.html
    size = len(page.numbers)
    half = size // 8 * 4
    pieces = [
        asked(server, "GET", place + "numbers", Range=f"bytes={first}-{last}")
        for first, last in ((0, half - 1), (half, size - 1))
    ]
    assert [piece[0] for piece in pieces] == [206, 206]
    assert pieces[1][1]["Content-Range"] == f"bytes {half}-{size - 1}/{size}"
    assert b"".join(piece[2] for piece in pieces) == bytes(page.numbers)
    for wrong in (
        "bytes=0-", f"bytes=0-{size}", f"bytes={size}-{size}", "bytes=5-3", "chars=0-1", "", "bytes=0-1,4-5",
    ):  # fmt: skip
        assert asked(server, "GET", place + "numbers", Range=wrong)[0] == 416, wrong


def test_only_the_page_itself_on_this_machine_gets_an_answer(server):
    assert server.server_address[0] == "127.0.0.1"
    place, host = f"/{server.token}/", f"127.0.0.1:{server.server_port}"
    for path in ("/", "/numbers", "/wrong/", f"/{server.token[:-1]}/", "//", "/%20/"):
        assert asked(server, "GET", path)[0] == 403, path
    assert asked(server, "GET", place + "other")[0] == 404
    assert asked(server, "GET", place + "edit")[0] == 404
    # another site's name that leads to this machine, and a page of another site
    for name in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1", ""):
        assert asked(server, "GET", place, Host=name)[0] == 421, name
    assert asked(server, "GET", place, Host=f"localhost:{server.server_port}")[0] == 200
    assert asked(server, "GET", place, Origin="http://evil.example")[0] == 403
    body = json.dumps({"sequence": 0, "edits": []})
    json_type = dict(Content_Type="application/json")
    for origin in (
        {},
        dict(Origin="null"),
        dict(Origin=f"https://{host}"),
        dict(Origin=f"http://{host}1"),
    ):
        assert asked(server, "POST", place + "edit", body, **json_type, **origin)[0] == 403, origin
    own = dict(Origin=f"http://{host}")
    assert asked(server, "POST", place + "edit", body, **json_type, **own)[0] == 200
    assert asked(server, "POST", place + "edit", body, Content_Type="text/plain", **own)[0] == 415
    long = dict(Content_Length=str(2**21))
    assert asked(server, "POST", place + "edit", body, **json_type, **own, **long)[0] == 413
    for wrong in ("{", "[" * 100_000, "\udcff".encode("utf8", "surrogateescape"), "[]"):
        status, _, answer = asked(server, "POST", place + "edit", wrong, **json_type, **own)
        assert status == 400, wrong[:10]
        assert json.loads(answer)["error"]
    assert asked(server, "PUT", place)[0] == 501


def test_a_port_in_use_is_an_error(page):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=f"the port {port} is in use: give another one"):
            PageServer(page, port)


def test_the_address_is_printed_at_once_into_a_pipe_too(page, monkeypatch):
    raw = io.BytesIO()
    pipe = io.TextIOWrapper(raw)
    monkeypatch.setattr("sys.stdout", pipe)
    monkeypatch.setattr(PageServer, "serve_forever", lambda self: None)
    serve(page, browser=False)
    assert raw.getvalue().startswith(b"http://127.0.0.1:")


def test_the_command_ends_with_ctrl_c(tmp_path, classifier, data, capsys, monkeypatch):
    made = tmp_path / "run"
    rows = [
        dict(id=n, t=t, a=a, b=b, y=n % 2) for n in range(12) for t, (a, b) in enumerate(data[n])
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "data.csv")
    columns = dict(series="id", time="t", label="y")
    gw.Classifier(**columns, hidden=4, epochs=1, members=1).fit(tmp_path / "data.csv").save(made)
    capsys.readouterr()
    answers = []

    def browse(url):
        def look():
            server = type("There", (), dict(server_port=int(url.split(":")[2].split("/")[0])))
            answers.append(asked(server, "GET", "/" + url.split("/", 3)[3])[0])
            _thread.interrupt_main()

        threading.Thread(target=look).start()

    monkeypatch.setattr("webbrowser.open", browse)
    assert main(["view", str(made), str(tmp_path / "data.csv"), "--limit", "2"]) == 0
    assert answers == [200]
    said = capsys.readouterr().out
    assert said.startswith("http://127.0.0.1:")
    assert said.endswith("stopped\n")
    assert main(["view", str(made), str(tmp_path / "data.csv"), "--port", "70000"]) == 2
    assert "port must be an integer from 0 to 65535" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- changes


def test_no_change_and_another_input(page, classifier, data):
    before = page._data.values(page._data.parts[0], 1)
    found, values = edited(page, [], 1)
    for name, value in before.items():
        np.testing.assert_allclose(values[0][name], value, atol=1e-6)
    changed = data[:3].copy()
    changed[1, 2, 1] = 45.0
    found, values = edited(page, [dict(kind="value", line=1, at=2, value=45)], 1)
    trace = classifier.shown(changed, 3, 6).traces["members.0.recurrent"]
    for part, direction in ((0, 0), (1, 1)):
        np.testing.assert_allclose(values[part]["c"], trace.c[0][direction][1], atol=1e-6)
    assert found["strip"]["values"][1][2] == 45
    wanted = classifier.predict_proba(changed)[1]
    np.testing.assert_allclose(found["prediction"]["numbers"], wanted, rtol=1e-4)
    assert abs(wanted - classifier.predict_proba(data[:3])[1]).max() > 1e-4


def test_a_gate_that_is_held(page, classifier, data):
    before, untouched = edited(page, [])
    found, values = edited(page, [clamped(unit=2, first=3, last=4, value=0.25)])
    held = np.zeros((6, 4), bool)
    held[3:5, 2] = True
    assert (values[0]["f"][held] == 0.25).all()
    np.testing.assert_allclose(values[0]["f"][:3], untouched[0]["f"][:3], atol=1e-6)
    np.testing.assert_allclose(values[1]["f"], untouched[1]["f"], atol=1e-6)  # the other direction
    c, f = values[0]["c"], values[0]["f"]
    np.testing.assert_allclose(
        c[1:], f[1:] * c[:-1] + (values[0]["i"] * values[0]["g"])[1:], atol=1e-6
    )
    # the prediction is that of the network with the gate held, in all its steps
    inputs = classifier.inputs(data[:1])
    with gw.gates.clamp(
        classifier.network_, "members.0.recurrent", "f", to=0.25, units=2, steps=[3, 4], direction=0
    ), torch.no_grad():  # fmt: skip
        wanted = classifier.network_(*inputs)[0].softmax(-1)
    np.testing.assert_allclose(found["prediction"]["numbers"], wanted, rtol=1e-4)
    assert found["prediction"]["numbers"] != before["prediction"]["numbers"]
    # and nothing stays
    again, values = edited(page, [])
    assert again == before
    np.testing.assert_array_equal(values[0]["f"], untouched[0]["f"])


def test_a_gate_is_held_in_one_network_of_an_ensemble_or_in_all(page, classifier, data):
    inputs = classifier.inputs(data[:1])
    first, second = (
        gw.gates.clamp(
            *(classifier.network_, f"members.{k}.recurrent", "f"),
            to=1.0,
            steps=range(6),
            direction=0,
        )
        for k in (0, 1)
    )
    with torch.no_grad(), first:
        in_one = classifier.network_(*inputs)[0].softmax(-1)
        with second:
            in_all = classifier.network_(*inputs)[0].softmax(-1)
    assert abs(in_one - in_all).max() > 1e-4
    for given, wanted in (({}, in_one), ({"all_members": True}, in_all)):
        found, values = edited(page, [clamped(**given)])
        np.testing.assert_allclose(found["prediction"]["numbers"], wanted, rtol=1e-5)
        assert (values[0]["f"] == 1).all()
    assert "first of 2 networks; the prediction is their mean" in page.html


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (clamped(all_members=1), "all_members must be true or false, not 1"),
        (clamped(name="q"), "no value of the cell lstm 'q'"),
        (clamped(part=2), "no part 2: there are 2"),
        (clamped(unit=4), "no unit 4: f of"),
        (clamped(last=6), "no last 6: there are 6"),
        (clamped(first=-1), "first must be an integer from 0, not -1"),
        (clamped(first=4, last=2), "no step is chosen"),
        (clamped(value="1"), "value must be a number, not '1'"),
        (clamped(value=float("nan")), "value must be a finite number"),
        (clamped(value=10**400), "value must be a finite number"),
        (clamped(value=True), "value must be a number, not True"),
        (dict(kind="value", line=2, at=0, value=1), "no value 0 of the line 2"),
        (dict(kind="value", line=0, at=9, value=1), "no value 9 of the line 0"),
        (dict(kind="word", at=0, word="a"), "the input is numbers"),
        (dict(kind="word", at=0, word=3), "word must be a text"),
        (dict(kind="other"), "an edit has the kind"),
        (dict(), "an edit has the kind"),
        (3, "an edit must be a JSON object"),
    ],
)  # fmt: skip
def test_changes_that_cannot_be(page, edit, said):
    with pytest.raises(OptionError) as error:
        page.answer({"sequence": 0, "edits": [edit]})
    assert said in str(error.value)


def test_requests_that_cannot_be(page):
    for request, said in (
        ({"sequence": 3, "edits": []}, "no sequence 3"),
        ({"sequence": 0}, "edits must be a list"),
        ({"sequence": 0, "edits": [{}] * 1001}, "at most 1000"),
        ([], "the request must be a JSON object"),
    ):
        with pytest.raises(OptionError, match=said):
            page.answer(request)


def test_a_character_is_replaced_where_the_state_is_carried(language_model):
    shown = language_model.shown(LINES, 3, 10)
    assert list(shown.begins) == [0, 10, 20]
    page = LivePage(language_model.network_, shown, title="t")
    found, values = edited(page, [dict(kind="word", at=4, word="o")], 1)
    text = "\n" + "".join(LINES)
    symbols = [language_model.tokenizer_.index[c] for c in text[:14] + "o" + text[15:20]]
    with torch.no_grad():
        logits, trace = language_model.network_(torch.tensor(symbols)[None], trace=True)
    assert "".join(found["strip"]["words"]) == text[10:14] + "o" + text[15:20]
    for layer in (0, 1):
        np.testing.assert_allclose(values[layer]["c"], trace.c[layer][0][0, 10:20], atol=1e-6)
    chances = logits[0, 10:].softmax(-1).max(-1).values
    np.testing.assert_allclose(found["prediction"]["weights"], chances, rtol=1e-4)
    # a step of the second part is one of the whole text
    _, values = edited(page, [clamped(part=1, first=2, last=2, value=0.5)], 1)
    assert ((values[1]["f"] == 0.5).all(1) == (np.arange(10) == 2)).all()
    with pytest.raises(OptionError, match="the model does not know '€'"):
        edited(page, [dict(kind="word", at=4, word="€")], 1)


def test_words_are_replaced_and_all_layers_are_there():
    texts = [f"a {word} film {k}" for k in range(12) for word in ("good", "bad")]
    model = gw.TextClassifier(
        hidden=4, embedding=4, layers=2, epochs=1, unit="word", min_count=1, seed=1
    )
    model.fit(texts, [k % 2 for k in range(24)])
    page = LivePage(model.network_, model.shown(texts, 2, 100), title="t")
    names = [part[0] for part in page._data.parts]
    assert names == ["members.0.encoder.first"] * 2 + ["members.0.encoder.upper"] * 2
    found, values = edited(page, [dict(kind="word", at=2, word="bad")])
    other = model.shown(["a bad film 0"], 1, 100)
    assert found["strip"] == recorded(other.strips[0])
    assert found["prediction"] == recorded(other.predictions[0])
    data = PageData(other.traces, {})
    for part, there in zip(data.parts, values, strict=True):
        np.testing.assert_allclose(there["h"], data.values(part, 0)["h"], atol=1e-6)
    before = edited(page, [])[0]["prediction"]["numbers"]
    held = edited(page, [clamped(part=2, name="h", last=5, value=1)])[0]
    assert held["prediction"]["numbers"] != before  # in the copy in float64 too


def test_words_of_a_text_and_of_its_translation_are_replaced():
    texts, into = ["one two", "two three one", "three"] * 8, ["1 2", "2 3 1", "3"] * 8
    model = gw.Translator(unit="word", embedding=8, hidden=8, epochs=1, bleu_words="none")
    model.fit((texts, into), validation=0, test=0, run=Run(quiet=True))
    page = LivePage(model.network_, model.shown(texts, 2, 100), title="t")
    found, values = edited(page, [dict(kind="word", at=1, word="three")])
    other = model.shown(["one three"], 1, 100)
    assert found == {
        "strip": recorded(other.strips[0]),
        "prediction": recorded(other.predictions[0]),
    }
    np.testing.assert_allclose(values[1]["c"], other.traces["encoder"].c[0][1][0], atol=1e-6)
    assert values[2] == values[3] == {}  # the decoder does not read the text
    symbols = page._data.lengths[1]
    found, values = edited(page, [dict(kind="word", at=symbols - 1, word=" 3 ")], 1)
    assert found["strip"]["words"][-1] == "3"
    before = PageData(page._shown.traces, {}, page._shown.places).values(("decoder", 0, 0), 1)
    assert np.abs(values[2]["c"][:-1] - before["c"][:-1]).max(initial=0) < 1e-6
    assert values[0] == values[1] == {}
    _, values = edited(page, [clamped(part=3, last=0, value=0.25)], 1)
    assert (values[3]["f"][0] == 0.25).all()
    with pytest.raises(OptionError, match="the layer 'second' does not read this sequence"):
        edited(page, [clamped(part=3, last=0)])


def test_a_day_of_a_forecast_is_changed():
    days = np.datetime64("2020-01-01") + np.arange(60)
    sales = np.arange(60) % 7 + 10.0
    table = pl.DataFrame(dict(day=days, sales=sales))
    made = gw.Forecaster(
        7, "sales", "day", context=28, season=7, hidden=4, steps=3, calendar=False
    ).fit(table, run=QUIET)
    shown = made.shown(table, 1, 3)  # of four weeks the last three
    assert list(shown.begins) == [1]
    page = LivePage(made.network_, shown, title="t")
    found, values = edited(page, [dict(kind="value", line=0, at=8, value=50.0)])
    changed = sales.copy()
    changed[60 - 7 - 21 + 8] = 50
    other = made.shown(table.with_columns(sales=pl.Series(changed)), 1, 3)
    assert found["strip"] == recorded(other.strips[0])
    assert found["prediction"] == recorded(other.predictions[0])
    assert found["prediction"] != recorded(shown.predictions[0])
    np.testing.assert_allclose(values[0]["c"], other.traces["lstm"].c[0][0][0], atol=1e-6)
    held = edited(page, [clamped(first=1, last=1, value=0)])[1][0]["f"]
    assert ((held == 0).all(1) == [False, True, False]).all()


ABC = (
    "X:1\nT:one\nM:4/4\nL:1/4\nK:C\nCDEF|GABc|\n\nX:2\nT:two\nM:4/4\nL:1/4\nK:C\nCCEE|GGcc|C4|\n\n"
)


def tunes(folder, **options):
    """A model of four short tunes, and their file."""
    pytest.importorskip("music21")
    path = folder / "tunes.abc"
    path.write_text(ABC + ABC.replace("X:1", "X:3").replace("X:2", "X:4"))
    model = gw.MusicModel(hidden=4, epochs=1, batch=2, **options)
    return model.fit(str(path), run=QUIET, validation=1, test=0), path


def test_an_event_of_a_tune_is_changed(tmp_path):
    model, path = tunes(tmp_path, unit="event")
    shown = model.shown(str(path), 2, 100)
    events = shown.strips[1].words
    at = events.index("on:60")
    other = shown.edited(1, [InputEdit(at, "on:62")])
    assert other.strips[0].words == (*events[:at], "on:62", *events[at + 1 :])
    one, changed = (each["lstm"].c[0][0] for each in (shown.traces, other.traces))
    assert torch.allclose(one[1, :at], changed[0, :at], atol=1e-6)
    assert (one[1, at] - changed[0, at]).abs().max() > 1e-5
    losses, new = (each.predictions[k].values[0] for each, k in ((shown, 1), (other, 0)))
    differ = ~np.isclose(losses, new, rtol=1e-6)
    assert differ[at - 1 :].any()
    assert not differ[: at - 1].any()
    with pytest.raises(OptionError, match="there is no text at step"):
        shown.edited(0, [InputEdit(0, "on:62")])


@pytest.mark.parametrize("notes", ["independent", "voices"])
def test_notes_of_a_tune_are_added_and_taken_away(tmp_path, notes):
    model, path = tunes(tmp_path, grid=1, notes=notes)
    page = LivePage(model.network_, model.shown(str(path), 1, 100), title="t")
    note = dict(kind="note", pitch=60, voice=0, at=1, on=False)
    before, untouched = edited(page, [])
    assert before["strip"]["notes"][:3] == [[1, 1, 60, 0], [2, 1, 62, 0], [3, 1, 64, 0]]
    found, values = edited(page, [note, note | dict(at=2, pitch=65, on=True)])
    kept = [] if notes == "voices" else [[2, 1, 62, 0]]  # a voice has one note at a time
    assert sorted(found["strip"]["notes"])[: 1 + len(kept)] == [*kept, [2, 1, 65, 0]]
    np.testing.assert_array_equal(values[0]["c"][0], untouched[0]["c"][0])
    assert abs(values[0]["c"] - untouched[0]["c"])[1:].max(1).min() > 0
    assert found["prediction"] != before["prediction"]
    # it is what the model makes of a file with these notes
    line = "z[DF]EF" if notes == "independent" else "zFEF"
    changed = tmp_path / "changed.abc"
    changed.write_text(ABC.partition("X:2")[0].replace("CDEF", line))
    other = model.shown(str(changed), 1, 100)
    np.testing.assert_allclose(values[0]["c"], other.traces[page._data.parts[0][0]].c[0][0][0])
    assert found["prediction"] == recorded(other.predictions[0])
    for wrong, said in (
        (dict(at=0), "no note is read at step 0: there are notes in the steps 1 to 7"),
        (dict(at=8), "no note is read at step 8"),
        (dict(pitch=109), "no pitch 109: a piano has 21 to 108"),
        (dict(voice=1), "no voice 1: there are 1, counted from 0"),
        (dict(on=1), "on must be true or false, not 1"),
        (dict(kind="word", word="C4"), "the input is notes: give one"),
    ):
        with pytest.raises(OptionError, match=said):
            edited(page, [note | wrong])
