"""The page of gates in a browser: what it shows is the trace, and everything on it works."""

from __future__ import annotations

import math
import re
import shutil
import time

import numpy as np
import pytest
import torch

import gatewise as gw
from gatewise.gates.page.strips import bars, lines, words
from gatewise.gates.page.summary import summary
from gatewise.gates.page.writer import write_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: apt-get install chromium"),
]

STEPS, UNITS = 60, 8
EVIL = "<script>window.evil = 1</script>"


class Opened:
    """The page in a browser, beside the traces that it was made of."""

    def __init__(self, path, trace, lengths):
        self.path, self.trace, self.lengths = path, trace, lengths
        self.messages, self.requests = [], []

    def said(self, message):
        if message.type == "error":
            self.messages.append(message.text)

    def visit(self, browser, **options):
        self.page = browser.new_page(**options)
        self.page.on("console", self.said)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(self.path.as_uri())
        self.page.wait_for_selector("html[data-ready=yes]")
        return self.page

    def value(self, name, step, unit, sequence=0, layer=0):
        return float(self.trace[name][layer][0][sequence, step, unit])


def number(text):
    """A number as the page writes it."""
    return float(text.replace("−", "-"))


def close(text, value):
    return math.isclose(number(text), value, rel_tol=6e-4, abs_tol=1e-9)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of two sequences and two layers; in the first layer unit 3 is on from step 20 to 29 and from 40 to
    44 of the first sequence and from 5 to 14 of the second, unit 4 with it but for the second."""
    torch.manual_seed(1)
    layer = gw.LSTM(2, UNITS, num_layers=2, batch_first=True)
    lengths = torch.tensor([STEPS, 30])
    with torch.no_grad():
        trace = layer(torch.randn(2, STEPS, 2), lengths=lengths, trace=True)[2]
    state = trace.c[0][0].clamp_(-0.25, 0.25)
    state[0, 20:30, [3, 4]] = state[0, 40:45, [3, 4]] = 0.9
    state[1, 5:15, 3] = 0.9
    letters = [*"the quick brown fox", EVIL]
    return Opened(
        write_page(
            tmp_path_factory.mktemp("page") / "gates.html",
            {"model": trace},
            title="A title",
            cells={"model": layer.cell},
            labels=["first", EVIL],
            strips=[
                lines("input", {"a": np.arange(STEPS), "b": -np.arange(STEPS)}),
                words("text", (letters * 3)[:30]),
            ],
            predictions=[
                bars("probability", {"yes": 0.5, "no": -0.25}, full=1.0),
                words("next", ["x"] * 30),
            ],
            history={"train": [3.0, 2.0], "validation": [3.5, 2.5]},
            horizon={"layer 0": [1.0, 0.1, 0.01]},
        ),
        trace,
        lengths,
    )


@pytest.fixture(scope="module")
def opened(made, browser):
    made.visit(browser, viewport={"width": 1280, "height": 720})
    return made


@pytest.fixture
def page(opened):
    """The page as it is at first."""
    page = opened.page
    page.select_option("#sequence", "0")
    page.select_option("#part", "0")
    page.select_option("#order", "index")
    page.click("#no-range")
    page.click("#whole")
    choose(page, 0, 0)
    return page


def choose(page, step, unit):
    page.fill("#step", str(step))
    page.fill("#unit", str(unit))
    page.press("#unit", "Tab")
    settle(page)


def settle(page):
    """Waits for the next frame, in which the page shows what has changed."""
    page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def until(done, seconds=10):
    """Waits until ``done()``; the page's policy lets no test wait in it."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def canvas_place(page, name, step, row, window=(0, STEPS)):
    """The place of a step and a row in the map of a value."""
    page.locator(f"#map-{name}").scroll_into_view_if_needed()
    box = page.locator(f"#map-{name} canvas").bounding_box()
    across = (step + 0.5 - window[0]) / (window[1] - window[0])
    return box["x"] + box["width"] * across, box["y"] + box["height"] * (row + 0.5) / UNITS


def test_the_readout_and_the_diagram_have_the_traces_numbers(opened, page):
    for part, step, unit in ((0, 17, 5), (1, 33, 2)):
        page.select_option("#part", str(part))
        choose(page, step, unit)
        now = {name: opened.value(name, step, unit, layer=part) for name in "ifgoch"}
        for name, value in now.items():
            assert close(page.inner_text(f"#value-{name}"), value), name
        before = opened.value("c", step - 1, unit, layer=part)
        boxes = page.evaluate(
            """() => [...document.querySelectorAll("#diagram .box")].map(box =>
            [box.querySelector("title").textContent, box.querySelector(".number").textContent])"""
        )
        shown = {title.partition(" = ")[0]: text for title, text in boxes}
        wanted = {f"{name}[t]": value for name, value in now.items()}
        wanted["f[t] ⊙ c[t-1]"] = now["f"] * before
        wanted["i[t] ⊙ g[t]"] = now["i"] * now["g"]
        wanted["tanh(c[t])"] = math.tanh(now["c"])
        assert shown.keys() == wanted.keys()
        for title, value in wanted.items():
            assert math.isclose(number(shown[title]), value, rel_tol=6e-3), title


def test_what_comes_before_the_first_step_is_not_made_up(page):
    choose(page, 0, 1)
    assert page.locator("#diagram .box.unknown .number").all_text_contents() == ["–"]


def test_hovering_says_the_value_there(opened, page):
    x, y = canvas_place(page, "g", 12, 6)
    page.mouse.move(x, y)
    said = page.inner_text("#tip")
    assert said.startswith("step 12 · unit 6 · g = ")
    assert close(said.rpartition(" ")[2], opened.value("g", 12, 6))
    page.mouse.click(x, y)
    settle(page)
    assert (page.input_value("#step"), page.input_value("#unit")) == ("12", "6")
    assert "input a 12.00, b −12.00" in page.inner_text("#where")


def test_the_colours_are_those_of_the_values(opened, page):
    """Rows are units, in the order that was chosen, and darker is more open."""

    def lightness():
        return page.evaluate(
            """([units]) => {
            const canvas = document.querySelector("#map-f canvas");
            const context = canvas.getContext("2d");
            return Array.from({length: units}, (_, row) => {
              const y = canvas.height * (row + 0.5) / units;
              const [r, g, b] = context.getImageData(canvas.width * 0.7, y, 1, 1).data;
              return r + g + b;
            });}""",
            [UNITS],
        )

    step = int(0.7 * STEPS)
    forget = [opened.value("f", step, unit) for unit in range(UNITS)]
    assert np.argsort(lightness()).tolist() == np.argsort(forget)[::-1].tolist()
    page.select_option("#order", "time scale")
    settle(page)
    values = {n: np.concatenate([opened.trace[n][0][0][k, :t].numpy() for k, t in
              enumerate(opened.lengths)]) for n in opened.trace.names}  # fmt: skip
    order = summary(gw.CELLS["lstm"], values)["orders"]["time scale"]
    assert order != list(range(UNITS))
    assert np.argsort(lightness()).tolist() == np.argsort([forget[u] for u in order])[::-1].tolist()


def test_a_range_finds_the_units_that_are_on_and_where_else_they_are(page):
    box = page.locator("#input canvas").bounding_box()
    at = lambda step: box["x"] + box["width"] * (step + 0.5) / STEPS  # noqa: E731
    page.mouse.move(at(20), box["y"] + 20)
    page.mouse.down()
    page.mouse.move(at(24), box["y"] + 20)
    page.mouse.move(at(29), box["y"] + 20)
    page.mouse.up()
    settle(page)
    assert (page.input_value("#range-first"), page.input_value("#range-last")) == ("20", "29")
    assert page.inner_text("#units-on") == "2 units on throughout: 3, 4"
    assert page.locator("#alike-list button").all_inner_texts() == ["first: 40–44"]
    page.select_option("#share", "0.5")
    settle(page)
    found = page.locator("#alike-list button").all_inner_texts()
    assert found == [f"{EVIL}: 5–14 “uick brown”", "first: 40–44"]
    page.locator("#alike-list button").first.click()
    settle(page)
    assert page.input_value("#sequence") == "1"
    assert (page.input_value("#range-first"), page.input_value("#range-last")) == ("5", "14")
    page.select_option("#share", "1")
    page.evaluate("threshold.value = 1; threshold.dispatchEvent(new Event('input'))")
    settle(page)
    assert page.inner_text("#units-on").startswith("No unit is on throughout")
    page.evaluate("threshold.value = 0.3; threshold.dispatchEvent(new Event('input'))")


def test_playing_goes_on_step_by_step(page):
    page.click("#play")
    until(lambda: int(page.input_value("#step")) >= 2)
    assert page.get_attribute("#play", "aria-label") == "Pause"
    page.click("#play")
    stopped = page.input_value("#step")
    page.wait_for_timeout(400)
    assert page.input_value("#step") == stopped
    page.click("#on")
    settle(page)
    assert page.input_value("#step") == str(int(stopped) + 1)
    page.fill("#step", str(STEPS - 2))
    page.press("#step", "Tab")
    page.click("#play")
    until(lambda: page.get_attribute("#play", "aria-label") == "Play")
    assert page.input_value("#step") == str(STEPS - 1)


def test_the_keyboard_does_everything(page):
    page.focus("#tracks")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowRight", "["):
        page.keyboard.press(key)
    for key in ("ArrowRight", "ArrowRight", "]", "+"):
        page.keyboard.press(key)
    settle(page)
    assert (page.input_value("#step"), page.input_value("#unit")) == ("14", "1")
    assert (page.input_value("#range-first"), page.input_value("#range-last")) == ("12", "14")
    shown = page.locator("#axis span").all_inner_texts()
    assert int(shown[-1]) - int(shown[0]) < 0.75 * STEPS
    page.keyboard.press("Escape")
    page.keyboard.press("0")
    page.keyboard.press("End")
    settle(page)
    assert page.input_value("#range-first") == ""
    assert page.input_value("#step") == str(STEPS - 1)
    page.focus("#diagram .box >> nth=0")
    settle(page)
    assert re.fullmatch(r"[a-z]\[t\] = .* = −?[\d.e−]+", page.inner_text("#equation"))


def test_panning_and_zooming_move_the_window(page):
    page.click("#closer")
    page.click("#closer")
    settle(page)
    before = page.locator("#axis span").first.inner_text()
    x, y = canvas_place(page, "i", 30, 2)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y)
    page.mouse.move(x + 160, y)
    page.mouse.up()
    settle(page)
    assert int(page.locator("#axis span").first.inner_text()) < int(before)
    assert page.input_value("#step") == "0"  # a drag chooses nothing


def test_names_and_words_are_shown_and_never_run(opened, page):
    page.select_option("#sequence", "1")
    choose(page, 19, 0)
    assert EVIL in page.inner_text("#where").replace('\\"', '"')
    assert page.locator("#sequence option").all_inner_texts() == ["first", EVIL]
    assert page.evaluate("window.evil") is None


def test_statistics_choose_a_unit(page):
    assert page.locator("#panels figcaption").all_inner_texts() == [
        *("Saturation", "Time scales", "Memory horizon", "Training")
    ]
    page.locator("#panels .dot[data-unit='5']").last.dispatch_event("click")
    settle(page)
    assert page.input_value("#unit") == "5"
    assert page.locator("#panels .dot.chosen").count() == 4  # of three gates, and the time scale


def test_every_control_has_a_name_and_nothing_was_asked_for_or_complained_of(opened, page):
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, canvas, svg, section")].filter(each =>
        each.offsetParent && !each.getAttribute("aria-label") && !each.closest("label") &&
        !each.textContent.trim()).map(each => each.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    assert page.is_hidden("#what-if")
    assert page.is_hidden("#diagram-wide")  # the diagram fits a screen of this width
    assert opened.messages == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [opened.path.as_uri()]


def test_on_a_phone_and_in_the_dark(made, browser):
    phone = Opened(made.path, made.trace, made.lengths)
    options = dict(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    page = phone.visit(browser, **options)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    edges = "[...document.getElementById('diagram').classList].sort()"
    assert page.evaluate(edges) == ["more-right"]
    assert page.is_visible("#diagram-wide")
    page.evaluate("document.getElementById('diagram').scrollLeft = 50")
    until(lambda: page.evaluate(edges) == ["more-left", "more-right"])
    page.evaluate("document.getElementById('diagram').scrollLeft = 1000")
    until(lambda: page.evaluate(edges) == ["more-left"])
    colours = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colours)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.click("#theme")
    settle(page)
    assert page.evaluate(colours) != dark
    box = page.locator("#map-c canvas").bounding_box()
    page.locator("#map-c canvas").scroll_into_view_if_needed()
    box = page.locator("#map-c canvas").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + 4)
    settle(page)
    assert (page.input_value("#step"), page.input_value("#unit")) == (str(STEPS // 2), "0")
    assert phone.messages == []
    page.close()


SERVED = """
const changes = [];
const app = await start({ async trace(change) {
  changes.push(change);
  const { units } = app.data.parts[0];
  const numbers = app.data.parts.map((part) => Object.fromEntries(Object.entries(part.units).map(
    ([name, size]) => [name, new Float32Array(60 * size).fill(name === "f" ? 1 : 0.5)])));
  return { numbers, prediction: { kind: "bars", title: "probability", names: ["yes"], numbers: [0.125] } };
} });
globalThis.served = { app, changes };
"""


def test_a_served_page_shows_what_its_backend_answers(made, browser, tmp_path):
    """The place where a live server, or a model in WebAssembly, is put into the page."""
    path = tmp_path / "served.html"
    path.write_text(made.path.read_text("utf-8").replace("\nstart();", SERVED), "utf-8")
    served = Opened(path, made.trace, made.lengths)
    page = served.visit(browser)
    assert page.locator("#what-if").get_attribute("hidden") is None
    choose(page, 7, 2)
    assert not close(page.inner_text("#value-f"), 1)
    edit = dict(kind="clamp", part=0, name="f", unit=None, first=0, last=59, value=1)
    page.evaluate("edit => served.app.whatIf.add(edit)", edit)
    settle(page)
    assert page.inner_text("#value-f") == "1.000"
    assert page.inner_text("#value-c") == "0.5000"
    assert page.locator("#prediction td").first.inner_text() == "0.1250"
    asked = page.evaluate("served.changes")
    assert asked == [{"sequence": 0, "edits": [edit]}]
    assert served.messages == []
    page.close()


def test_a_sequence_has_the_layers_that_read_it(tmp_path, browser):
    torch.manual_seed(3)
    encoder, decoder = gw.LSTM(2, 5, batch_first=True), gw.GRU(2, 3, batch_first=True)
    with torch.no_grad():
        traces = {
            "encoder": encoder(torch.randn(2, 9, 2), trace=True)[2],
            "decoder": decoder(torch.randn(2, 4, 2), trace=True)[2],
        }
    places = [(("encoder",), 0), (("decoder",), 0), (("encoder",), 1), (("decoder",), 1)]
    path = write_page(tmp_path / "p.html", traces, title="two", places=places)
    both = Opened(path, traces["encoder"], None)
    page = both.visit(browser)

    def layers():
        return page.evaluate("[...document.getElementById('part').options].map((o) => o.text)")

    choose(page, 8, 4)
    assert layers() == ["encoder"]
    page.select_option("#sequence", "3")
    settle(page)
    assert layers() == ["decoder"]
    assert (page.input_value("#step"), page.input_value("#unit")) == ("3", "2")
    assert close(page.inner_text("#value-h"), float(traces["decoder"].h[0][0][1, 3, 2]))
    page.evaluate("document.getElementById('threshold').value = -1")
    page.dispatch_event("#threshold", "input")
    page.fill("#range-first", "0")
    page.fill("#range-last", "3")
    page.press("#range-last", "Enter")
    settle(page)
    found = page.locator("#alike-list button").all_inner_texts()
    assert found == ["sequence 1: 0–3"]  # the encoder's sequences have no such units
    page.select_option("#sequence", "2")
    settle(page)
    assert close(page.inner_text("#value-c"), float(traces["encoder"].c[0][0][1, 3, 2]))
    assert both.messages == []
    page.close()


def test_a_bar_is_as_long_as_its_number(page):
    lengths = page.evaluate("""[...document.querySelectorAll(".bars span")].map((bar) => [
        bar.offsetWidth / bar.parentElement.clientWidth, getComputedStyle(bar).backgroundColor])""")
    assert [round(share, 2) for share, _ in lengths] == [0.5, 0.25]
    assert lengths[0][1] != lengths[1][1]  # the second number is negative


def test_a_strip_says_what_it_does_not_show(tmp_path, browser):
    """Letters that do not fit, and the values of a step that has several."""
    layer = gw.LSTM(1, 2, batch_first=True)
    with torch.no_grad():
        trace = layer(torch.zeros(2, 400, 1), trace=True)[2]
    path = write_page(
        tmp_path / "gates.html",
        {"model": trace},
        title="Strips",
        strips=[
            words("text", "abcd" * 100),
            lines("load", {"load": np.arange(1200)}, per_step=3).with_note("a step has 3 values"),
        ],
    )
    of_letters = Opened(path, trace, None)
    page = of_letters.visit(browser, viewport={"width": 1280, "height": 720})
    settle(page)
    note = page.locator("#input .note")
    assert note.inner_text() == "drag to select steps"  # at first there are as many as can be read
    page.click("#whole")
    settle(page)
    fit = re.fullmatch(
        r"drag to select steps · (\d+) of 400 fit: zoom in with \+ to read all", note.inner_text()
    )
    assert fit
    assert 40 < int(fit[1]) < 400
    for _ in range(6):
        page.click("#closer")
    settle(page)
    assert note.inner_text() == "drag to select steps"
    page.select_option("#sequence", "1")
    settle(page)
    assert page.locator("#axis span").last.inner_text() == "350"  # lines are shown whole
    choose(page, 5, 0)
    assert note.inner_text() == "drag to select steps · a step has 3 values"
    choose(page, 390, 0)
    page.select_option("#sequence", "0")
    settle(page)
    assert int(page.locator("#axis span").last.inner_text()) >= 390  # the chosen step is in view
    choose(page, 5, 0)
    page.select_option("#sequence", "1")
    settle(page)
    assert "load 15.00 … 17.00" in re.sub(" +", " ", page.inner_text("#where"))
    assert of_letters.messages == []
    page.close()


FRAMES = """
async (keys) => {
  const canvas = document.querySelector("#map-f canvas");
  const { left, top } = canvas.getBoundingClientRect();
  const frames = [];
  for (let k = 0, last = performance.now(); k < 120; k++) {
    const deltaY = k % 60 < 30 ? -60 : 60;
    const at = { clientX: left + 200, clientY: top + 20, bubbles: true, cancelable: true };
    canvas.dispatchEvent(new WheelEvent("wheel", { deltaY, ...at, ...keys }));
    await new Promise(requestAnimationFrame);
    frames.push(performance.now() - last);
    last = performance.now();
  }
  return frames;
}
"""


@pytest.mark.slow
def test_2000_steps_of_256_units(tmp_path, browser):
    """The page is 5 MB plus its data at most, and goes at 30 frames a second."""
    torch.manual_seed(0)
    layer = gw.LSTM(4, 256, batch_first=True)
    with torch.no_grad():
        trace = layer(torch.randn(1, 2000, 4).cumsum(1) / 10, trace=True)[2]
    path = write_page(tmp_path / "large.html", trace, title="large")
    content = path.read_text("utf-8")
    data = sum(
        len(re.search(rf'id="{part}">(.*?)</script>', content, re.S)[1])
        for part in ("numbers", "record")
    )
    assert data > 5e6
    assert len(content.encode()) - data < 300_000
    large = Opened(path, trace, None)
    page = large.visit(browser, viewport={"width": 1280, "height": 720})
    for keys in ({"ctrlKey": True}, {"shiftKey": True}):  # zoom, pan
        page.evaluate(FRAMES, keys)
        assert np.median(page.evaluate(FRAMES, keys)) < 1000 / 30
    window = "document.querySelector('#axis').textContent"
    before = page.evaluate(window)
    page.press("#whole", "+")
    settle(page)
    assert page.evaluate(window) != before
    assert large.messages == []
    page.close()


@pytest.mark.parametrize("wide", [1280, 390])
def test_no_label_of_a_page_is_cut_or_covers_another(browser, tmp_path, wide):
    torch.manual_seed(1)
    layer = gw.LSTM(2, UNITS, batch_first=True)
    with torch.no_grad():
        trace = layer(torch.randn(1, 300, 2), trace=True)[2]
    path = write_page(
        tmp_path / "gates.html",
        {"model": trace},
        title="A title",
        cells={"model": layer.cell},
        strips=[lines("input", {"a": np.arange(300)})],
        history={"train": [3.0, 2.0, 1.0], "validation": [3.5, 2.5, 2.0]},
        horizon={"layer 0": (0.75 ** np.arange(60)).tolist()},
    )
    made = Opened(path, {}, None)
    page = made.visit(browser, viewport={"width": wide, "height": 844})
    boxes = page.evaluate(
        """() => [...document.querySelectorAll(".panel svg")].map(
          (svg) => [svg, ...svg.querySelectorAll("text")].map((e) => {
            const r = e.getBoundingClientRect();
            return [e.textContent, r.left, r.top, r.right, r.bottom];
          }))"""
    )
    assert len(boxes) == 4
    for (_, left, top, right, bottom), *labels in boxes:
        for text, a, b, c, d in labels:
            assert left - 1 <= a < c <= right + 1, text
            assert top - 1 <= b < d <= bottom + 1, text
        for k, (text, a, b, c, d) in enumerate(labels):
            for other, e, f, g, h in labels[:k]:
                # the first labels of both axes stand at one corner
                assert min(c, g) - max(a, e) < 2 or min(d, h) - max(b, f) < 6, (text, other)
    written = [[label[0] for label in labels] for _, *labels in boxes]
    assert "1e-6" in written[2]
    assert written[3][:3] == ["1", "2", "3"]
    if wide == 390:
        step, unit = (page.locator(f"#{name}").bounding_box() for name in ("step", "unit"))
        title, theme = (page.locator(name).bounding_box() for name in ("h1", "#theme"))
        assert step["y"] == unit["y"]
        assert theme["y"] < title["y"] + title["height"]
    page.close()
