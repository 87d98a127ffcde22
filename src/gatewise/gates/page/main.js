// Starts the page.
import { alike } from "gatewise/alike";
import { Controls, byId } from "gatewise/controls";
import { Data, formatter, lengthOf, unpack } from "gatewise/data";
import { Diagram } from "gatewise/diagram";
import { curves, saturationPlane, timeScales } from "gatewise/panels";
import { Store } from "gatewise/store";
import { described } from "gatewise/strips";
import { Tracks } from "gatewise/tracks";
import { WhatIf } from "gatewise/what-if";

const MOST_RANGES = 40; // ranges that are listed

/**
 * Starts the page on the data that stand in it.
 *
 * A served page passes a `backend`. Its `trace({sequence, edits}, sizes)` returns a promise of
 * `{numbers, strip, prediction}`: for each part and name the values of the sequence with the edits, and what
 * stands above and below then. It may have the numbers of the page too, see live.js. Without a backend, as in
 * a file, there are no controls for edits.
 */
export async function start(backend = null) {
  const record = JSON.parse(byId("record").textContent);
  const arrived = () => store.set({ edits: store.state.edits + 1 });
  const numbers = backend?.numbers
    ? await backend.numbers(record.count, lengthOf(record, 0), arrived)
    : await unpack(byId("numbers").textContent, record.precision);
  const data = new Data(record, numbers);
  const format = formatter(record.precision);
  const store = new Store({
    sequence: 0, part: 0, unit: 0, step: 0, order: "index", hover: null, range: null, playing: false,
    window: [0, data.sequences[0].steps], theme: document.documentElement.dataset.theme,
    shown: data.parts[0].shown, threshold: 0.3, share: 1, edits: 0, prediction: 0, difference: false,
  });
  const tracks = new Tracks(byId("tracks"), data, store, format);
  store.set({ window: tracks.first(0) });
  const controls = new Controls(data, store, tracks);
  new Diagram(byId("diagram"), byId("equation"), data, store, formatter(record.precision, 3));
  readout(data, store, format);
  findAlike(data, store, controls);
  statistics(data, store);
  byId("what-if").hidden = backend === null;
  const whatIf = backend && new WhatIf(byId("what-if"), data, store, tracks, format, edit);
  document.documentElement.dataset.ready = "yes";

  /** Shows a sequence with the edits, as the backend computes it; without any, as it was at first. */
  async function edit(sequence, edits) {
    if (edits.length) data.replace(sequence, await backend.trace({ sequence, edits }, data.sizes(sequence)));
    else data.restore(sequence);
    store.set({ edits: store.state.edits + 1, prediction: store.state.prediction + 1 });
  }
  return { data, store, tracks, controls, whatIf };
}

/** The values of the chosen unit and step, as a table and for screen readers. */
function readout(data, store, format) {
  const table = byId("readout");
  const show = () => {
    const { part, sequence, step, unit, playing } = store.state;
    const { strip, prediction, step_labels: labels } = data.sequences[sequence];
    const rows = Object.keys(data.parts[part].units).map((name) => {
      const values = data.values(part, sequence, name);
      return [name, unit < values.units ? format(values.at(step, unit)) : "–"];
    });
    const there = [`step ${labels?.[step] ?? step}`, `unit ${unit}`];
    if (strip) there.push(`${strip.title} ${described(strip, step, format)}`);
    const said = prediction ? described(prediction, step, format) : "";
    if (said) there.push(`${prediction.title} ${said}`);
    byId("where").textContent = there.join(" · ");
    table.replaceChildren(...rows.map(([name, value]) => {
      const cell = document.createElement("div");
      const head = document.createElement("dt");
      const body = document.createElement("dd");
      head.textContent = name;
      body.textContent = value;
      body.id = `value-${name}`;
      cell.append(head, body);
      const before = data.before(part, sequence, name);
      const was = before && unit < before.units ? format(before.at(step, unit)) : value;
      if (was !== value) {
        const old = document.createElement("span");
        old.className = "was";
        old.textContent = `was ${was}`;
        cell.append(old);
      }
      return cell;
    }));
    if (!playing) byId("live").textContent = [...there, ...rows.map((row) => row.join(" "))].join(", ");
  };
  store.on(["part", "sequence", "step", "unit", "edits"], show);
  show();
}

function findAlike(data, store, controls) {
  const list = byId("alike-list");
  const select = byId("shown");
  const fill = () => {
    const names = Object.keys(data.parts[store.state.part].units);
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    select.value = store.state.shown;
  };
  const show = () => {
    const { range, threshold, share } = store.state;
    byId("threshold-value").textContent = threshold.toFixed(2);
    byId("alike-result").hidden = !range;
    byId("alike-hint").hidden = Boolean(range);
    if (!range) return;
    const { units, ranges } = alike(data, store.state);
    const many = units.length > 24 ? ` and ${units.length - 24} more` : "";
    byId("units-on").textContent = units.length
      ? `${units.length} ${units.length > 1 ? "units" : "unit"} on throughout: ${units.slice(0, 24).join(", ")}${many}`
      : "No unit is on throughout. Choose a lower threshold or fewer steps.";
    const others = share === 1 ? "the same units are on" : `at least ${100 * share} % of them are on`;
    byId("ranges-on").textContent = units.length ? `${ranges.length} other ${ranges.length === 1 ? "range" : "ranges"} where ${others}:` : "";
    list.replaceChildren(...ranges.slice(0, MOST_RANGES).map(({ sequence, first, last }) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text(data.sequences[sequence], first, last);
      button.addEventListener("click", () => controls.open(sequence, [first, last]));
      item.append(button);
      return item;
    }));
  };
  select.addEventListener("change", () => store.set({ shown: select.value }));
  byId("threshold").addEventListener("input", (event) => store.set({ threshold: Number(event.target.value) }));
  byId("share").addEventListener("change", (event) => store.set({ share: Number(event.target.value) }));
  store.on(["part"], fill);
  store.on(["part", "sequence", "range", "shown", "threshold", "share", "edits"], show);
  fill();
  show();
}

/** A range in words: its sequence, its steps, and the words there, if it has any. */
function text({ label, strip, step_labels: labels }, first, last) {
  const at = (step) => labels?.[step] ?? step;
  const where = `${label}: ${at(first)}${last > first ? `–${at(last)}` : ""}`;
  if (strip?.kind !== "words") return where;
  const words = strip.words.slice(first, Math.min(last + 1, first + 30));
  const gap = words.every((word) => [...word].length === 1) ? "" : " ";
  return `${where}  “${words.join(gap)}”`;
}

function statistics(data, store) {
  const { history, horizon } = data.record;
  const show = () => {
    const part = data.parts[store.state.part];
    const found = [saturationPlane(part, store), timeScales(part, store)];
    if (horizon) {
      found.push(curves("Memory horizon", "Size of the gradient of the output to the input k steps before, per layer",
        horizon.lines, { xName: "steps back", yName: "gradient", log: true }));
    }
    if (history) {
      found.push(curves("Training", "Training and validation loss by round",
        [["training", history.train], ["validation", history.validation]].filter(([, v]) => v.length),
        { xName: "round", yName: "loss", first: 1 }));
    }
    byId("panels").replaceChildren(...found.filter(Boolean));
    byId("statistics").hidden = !found.some(Boolean);
    mark();
  };
  const mark = () => {
    const { unit } = store.state;
    for (const dot of document.querySelectorAll("#panels .dot")) {
      dot.classList.toggle("chosen", Number(dot.dataset.unit) === unit);
    }
  };
  store.on(["part"], show);
  store.on(["unit"], mark);
  show();
}
