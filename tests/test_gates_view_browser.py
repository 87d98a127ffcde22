"""The served page of gates in a browser: what is changed on it changes what the network computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gatewise as gw
from gatewise.gates.live import LivePage
from gatewise.gates.page.shown import InputEdit, Shown, with_numbers
from gatewise.gates.page.strips import bars, lines, words
from test_gates_browser import BROWSER, browser, choose, close, settle, until  # noqa: F401
from test_gates_view import serving, tunes

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: apt-get install chromium"),
]

STEPS, UNITS = 40, 6
EVIL = "<img src=x onerror='window.evil = 1'>"
LETTERS = ["a", "b", EVIL]


class Reader(torch.nn.Module):
    """An LSTM that reads two sequences: of one number a step, and of letters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.lstm = gw.LSTM(1, UNITS, num_layers=2, batch_first=True)
        self.values = np.sin(np.arange(STEPS))[:, None]
        self.letters = [LETTERS[k % 3] for k in range(STEPS)]

    def forward(self, x):
        return self.lstm(x)[0][:, -1].sigmoid()

    def shown(self, k, edits=()):
        if k == 0:
            values = with_numbers(self.values, edits)
            strip = lines("input", {"wave": values[:, 0]})
        else:
            letters = list(self.letters)
            for edit in edits:
                letters[edit.at] = edit.to
            values = np.array([[LETTERS.index(each) - 1.0] for each in letters])
            strip = words("text", letters)
        traces = gw.trace(self, torch.tensor(values, dtype=torch.float32)[None])
        rows = dict(zip(("yes", EVIL), traces.output[0].tolist(), strict=False))
        return Shown(traces, [f"sequence {k}"], [strip], [bars("probability", rows)])

    def both(self):
        each = [self.shown(k) for k in (0, 1)]
        joined = {
            name: gw.trace(self, torch.tensor(np.stack([self.values, self.as_numbers()])).float())[
                name
            ]
            for name in each[0].traces
        }
        around = [[one for shown in each for one in getattr(shown, name)]
                  for name in ("labels", "strips", "predictions")]  # fmt: skip
        return Shown(joined, *around).with_edits(self.shown)

    def as_numbers(self):
        return np.array([[LETTERS.index(each) - 1.0] for each in self.letters])


@pytest.fixture(scope="module")
def served(browser):  # noqa: F811
    reader = Reader()
    with serving(LivePage(reader, reader.both(), title=EVIL)) as server:
        yield reader, server, Visit(server, browser)


class Visit:
    def __init__(self, server, browser):  # noqa: F811
        self.messages, self.requests = [], []
        self.page = browser.new_page(viewport={"width": 1280, "height": 720})
        self.page.on("console", lambda m: self.messages.append(m.text) if m.type != "log" else None)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(server.url)
        self.page.wait_for_selector("html[data-ready=yes]")


@pytest.fixture
def page(served):
    """The page without changes."""
    page = served[2].page
    page.select_option("#sequence", "0")
    page.select_option("#part", "0")
    settle(page)
    if page.is_visible("#undo-all"):
        page.click("#undo-all")
        until(lambda: not page.is_visible("#undo-all"))
    settle(page)
    return page


def changed(page, press):
    """Presses a button and waits for the answer."""
    before = page.inner_text("#edits")
    press()
    until(
        lambda: page.inner_text("#edits") != before or page.locator("#what-if-said.error").count()
    )
    settle(page)


def value(page, name):
    return page.inner_text(f"#value-{name}")


def test_a_value_is_changed_and_restored(served, page):
    reader, server, visit = served
    choose(page, 20, 3)
    before = {name: value(page, name) for name in "ifgoch"}
    assert page.get_attribute("#edit-value", "placeholder") == "0.9129"
    assert page.locator(".was").count() == 0
    choose(page, 10, 3)
    page.fill("#edit-value", "-3.5")
    changed(page, lambda: page.click("#edit-line button"))
    choose(page, 20, 3)
    other = reader.shown(0, [InputEdit(10, -3.5)]).traces["lstm"]
    for name in "ifgoch":
        assert close(value(page, name), float(other[name][0][0][0, 20, 3]))
    was = page.locator("#readout div", has=page.locator("#value-c")).locator(".was")
    assert was.inner_text() == f"was {before['c']}"
    page.select_option("#part", "1")
    choose(page, 39, 5)
    assert close(value(page, "h"), float(other.h[1][0][0, 39, 5]))
    chance = reader.shown(0, [InputEdit(10, -3.5)]).predictions[0].values[0][0]
    now, old = page.locator("#prediction tbody tr").first.locator("td").all_inner_texts()[:2]
    assert close(now, chance)
    assert close(old, reader.shown(0).predictions[0].values[0][0])
    assert page.inner_text("#edits span") == "wave at step 10 = -3.5"
    page.select_option("#part", "0")
    page.click("#edits button")
    until(lambda: not page.is_visible("#undo-all"))
    choose(page, 20, 3)
    assert {name: value(page, name) for name in "ifgoch"} == before
    assert page.locator("#prediction thead").count() == 0
    assert all(url.startswith((server.url, "data:")) for url in visit.requests)
    assert visit.messages == []


def test_a_gate_is_held_and_the_difference_shown(served, page):
    reader, _, visit = served
    choose(page, 12, 2)
    page.select_option("#clamp-name", "f")
    page.select_option("#clamp-units", "one")
    page.select_option("#clamp-steps", "later")
    page.fill("#clamp-value", "1")
    changed(page, lambda: page.click("#edit-clamp button"))
    page.fill("#clamp-value", "0")
    page.select_option("#clamp-name", "i")
    changed(page, lambda: page.click("#edit-clamp button"))
    assert (
        page.locator("#edits li")
        .all_inner_texts()[0]
        .startswith("f of lstm, layer 0, unit 2, steps 12–39 = 1")
    )
    assert page.inner_text("#value-f") == "1.000"
    choose(page, 11, 2)
    kept = value(page, "c")
    choose(page, 39, 2)  # f = 1 and i = 0 remember exactly
    assert value(page, "c") == kept
    with gw.gates.clamp(reader, "lstm", "f", to=1.0, units=2, steps=range(12, 40), layer=0), \
         gw.gates.clamp(reader, "lstm", "i", to=0.0, units=2, steps=range(12, 40), layer=0):  # fmt: skip
        wanted = reader.shown(0)
    page.select_option("#part", "1")
    choose(page, 39, 1)
    assert close(value(page, "h"), float(wanted.traces["lstm"].h[1][0][0, 39, 1]))
    page.select_option("#part", "0")
    settle(page)
    assert page.locator("#map-f .key").inner_text().split()[0] == "0"
    page.check("#difference")
    settle(page)
    held, free = (each.traces["lstm"].f[0][0] for each in (wanted, reader.shown(0)))
    most = float((held - free).abs().max())
    assert close(page.locator("#map-f .key span").last.inner_text(), most)
    assert page.locator("#map-f .key.signed").count() == 1
    page.uncheck("#difference")
    assert visit.messages == []


def test_of_an_ensemble_one_network_is_held_or_all(browser):  # noqa: F811
    torch.manual_seed(4)
    network = torch.nn.Module()
    network.members = torch.nn.ModuleList(gw.LSTM(1, 3, batch_first=True) for _ in range(2))
    x = torch.randn(1, 5, 1)
    network.forward = lambda x: sum(each(x)[0] for each in network.members) / 2

    def shown(*_):
        traces = gw.trace(network, x, modules=["members.0"])
        mean = {"mean": float(traces.output[0, -1, 0])}
        return Shown(traces, ["one"], [None], [bars("output", mean)])

    page = LivePage(network, shown().with_edits(shown), title="two")
    with serving(page) as server:
        visit = Visit(server, browser)
        tab = visit.page
        tab.select_option("#clamp-name", "o")
        tab.select_option("#clamp-units", "all")
        tab.select_option("#clamp-steps", "all")
        for which in ("one", "all"):
            tab.select_option("#clamp-members", which)
            changed(tab, lambda: tab.click("#edit-clamp button"))
            now = tab.locator("#prediction tbody td").first.inner_text()
            if which == "one":
                assert close(now, float(network.members[1](x)[0][0, -1, 0].detach()) / 2)
            else:
                assert close(now, 0.0)
        said = tab.locator("#edits li span").all_inner_texts()
        assert [", all networks" in each for each in said] == [False, True]
        assert visit.messages == []
        tab.close()


def test_a_letter_is_replaced_and_nothing_in_it_is_run(served, page):
    reader, _, visit = served
    page.select_option("#sequence", "1")
    choose(page, 3, 0)
    page.fill("#edit-text", EVIL)
    changed(page, lambda: page.press("#edit-text", "Enter"))
    assert page.inner_text("#edits span").startswith('step 3: "<img')
    other = reader.shown(1, [InputEdit(3, EVIL)]).traces["lstm"]
    assert close(value(page, "c"), float(other.c[0][0][0, 3, 0]))
    assert EVIL in page.inner_text("#where").replace('\\"', '"')
    assert page.evaluate("window.evil") is None
    assert page.title() == EVIL
    page.select_option("#sequence", "0")  # another sequence has its own changes
    settle(page)
    assert not page.is_visible("#undo-all")
    page.select_option("#sequence", "1")
    settle(page)
    page.click("#undo-all")
    until(lambda: not page.is_visible("#undo-all"))
    assert visit.messages == []


def test_a_value_is_dragged(served, page):
    reader, _, visit = served
    page.check("#drag-values")
    box = page.locator("#input canvas").bounding_box()
    x = box["x"] + box["width"] * 5.5 / STEPS
    page.mouse.move(x, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(x, box["y"] + 40)
    page.mouse.move(x, box["y"] + box["height"] / 2)
    changed(page, page.mouse.up)
    name, _, number = page.inner_text("#edits span").partition(" = ")
    assert name == "wave at step 5"
    assert abs(float(number)) < 0.05
    choose(page, 5, 1)
    other = reader.shown(0, [InputEdit(5, float(number))]).traces["lstm"]
    assert close(value(page, "g"), float(other.g[0][0][0, 5, 1]))
    assert page.input_value("#range-first") == ""
    page.uncheck("#drag-values")
    assert visit.messages == []


def test_notes_are_pressed(browser, tmp_path):  # noqa: F811
    model, path = tunes(tmp_path, grid=1)
    with serving(LivePage(model.network_, model.shown(str(path), 1, 100), title="t")) as server:
        visit = Visit(server, browser)
        tab = visit.page
        choose(tab, 2, 0)
        assert "D4" in tab.inner_text("#where")
        before = value(tab, "c")
        tab.select_option("#edit-pitch", "62")
        settle(tab)
        assert tab.inner_text("#edit-note button") == "take it away"
        changed(tab, lambda: tab.click("#edit-note button"))
        assert tab.inner_text("#edits span") == "step 2: no D4"
        assert tab.inner_text("#edit-note button") == "add it"
        assert "rest" in tab.inner_text("#where")
        assert value(tab, "c") != before
        changed(tab, lambda: tab.click("#edit-note button"))  # as it was at first
        assert not tab.is_visible("#undo-all")
        assert value(tab, "c") == before
        tab.check("#press-notes")
        tab.locator("#input canvas").scroll_into_view_if_needed()
        box = tab.locator("#input canvas").bounding_box()
        # the notes are C4 to B4, with a row above and one below
        x, y = box["x"] + box["width"] * 3.5 / 8, box["y"] + box["height"] * (1 - 8.5 / 14)
        changed(tab, lambda: tab.mouse.click(x, y))
        assert tab.inner_text("#edits span") == "step 3: G4"
        choose(tab, 3, 0)
        assert "G4 E4" in tab.inner_text("#where")
        assert tab.input_value("#range-first") == ""
        tab.uncheck("#press-notes")
        assert visit.messages == []
        tab.close()


def test_a_change_that_the_server_refuses_is_said(served, page):
    choose(page, 4, 0)
    page.fill("#clamp-value", "1e39")
    page.click("#edit-clamp button")
    until(lambda: page.locator("#what-if-said.error").count() == 1)
    assert "value must be a finite number of float32" in page.inner_text("#what-if-said")
    assert not page.is_visible("#undo-all")
    served[2].messages.clear()  # the browser logs the status 400


def test_the_page_in_a_notebook(browser, tmp_path):  # noqa: F811
    trace = Reader().shown(0).traces["lstm"]
    note = tmp_path / "cell.html"
    shown = trace.view(title='x"<b>', height=500)
    note.write_text(f"<p>a cell</p>{shown._repr_html_()}", "utf-8")
    page = browser.new_page()
    messages = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(note.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready=yes]").wait_for(state="attached")
    assert frame.locator("h1").inner_text() == 'x"<b>'
    assert close(frame.locator("#value-f").inner_text(), float(trace.f[0][0][0, 0, 0]))
    assert messages == []
    page.close()
