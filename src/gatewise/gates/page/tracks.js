// The strips and heat maps over one axis of steps: pan, zoom, hover, choose, and select a range.
import { difference } from "gatewise/data";
import { HeatMap } from "gatewise/heat";
import { StripView, bars, legend, withBefore } from "gatewise/strips";

const NARROWEST = 6; // steps in view
const LETTER = 7; // pixels of a letter that can be read

export class Tracks {
  constructor(place, data, store, format) {
    Object.assign(this, { place, data, store, format, strips: [], maps: [], drag: null, press: null });
    this.axis = place.querySelector("#axis");
    this.tip = place.querySelector("#tip");
    store.on(["part", "sequence", "prediction", "difference"], () => this.fill());
    store.on(["order", "theme", "edits"], () => this.colour());
    store.on(["window", "step", "unit", "hover", "range"], () => this.draw());
    new ResizeObserver(() => this.resize()).observe(place);
    this.fill();
  }

  get steps() {
    return this.data.sequences[this.store.state.sequence].steps;
  }

  get order() {
    const { part, order } = this.store.state;
    return this.data.parts[part].orders[order] ?? null;
  }

  /** The unit in a row of the maps, and the row of a unit. */
  unitAt(row) {
    return this.order ? this.order[row] : row;
  }

  rowOf(unit) {
    return this.order ? this.order.indexOf(unit) : unit;
  }

  fill() {
    const { part, sequence } = this.store.state;
    const { strip, prediction } = this.data.sequences[sequence];
    const names = Object.keys(this.data.parts[part].units);
    const above = this.place.querySelector("#input");
    const maps = this.place.querySelector("#maps");
    const below = this.place.querySelector("#prediction");
    this.strips = [];
    this.maps = [];
    above.replaceChildren(...(strip ? [this.#stripTrack(strip, true)] : []));
    const kept = this.data.originals.get(sequence)?.prediction;
    const predictions = prediction ? withBefore(prediction, kept) : [];
    below.replaceChildren(...predictions.map((each) => this.#stripTrack(each, false)));
    maps.replaceChildren(...names.map((name) => this.#mapTrack(name)));
    this.place.classList.toggle("no-strip", !strip);
    this.colour();
    this.resize();
  }

  #track(title, note) {
    const track = document.createElement("div");
    track.className = "track";
    const head = document.createElement("div");
    head.className = "track-head";
    const strong = document.createElement("strong");
    strong.textContent = title;
    const small = document.createElement("span");
    small.className = "note";
    small.textContent = note;
    head.append(strong, small);
    track.append(head);
    return { track, head, small };
  }

  #stripTrack(strip, selects) {
    const { track, head, small } = this.#track(strip.title, "");
    small.classList.add("remark");
    const remark = (more) => {
      small.textContent = [selects && "drag to select steps", strip.note, more].filter(Boolean).join(" · ");
    };
    remark("");
    head.append(legend(strip));
    if (strip.kind === "bars") {
      track.append(bars(strip, this.format));
      return track;
    }
    const canvas = document.createElement("canvas");
    canvas.className = `strip ${strip.kind}`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${strip.title}, over the steps`);
    track.append(canvas);
    const view = new StripView(canvas, remark);
    view.show(strip);
    this.strips.push(view);
    if (selects && strip.kind === "lines") this.#dragValues(view);
    if (selects && strip.kind === "roll") this.#pressPlaces(view);
    if (strip.axis !== "own") this.#listen(canvas, selects ? "select" : "pan", null);
    return track;
  }

  /** While there is a function `drag`, a pointer on the lines of the input moves a value and selects no steps. */
  #dragValues(view) {
    let at = null;
    const moved = (event) => {
      if (event.type === "pointerdown" && this.drag) {
        at = view.under(event).at;
        view.canvas.setPointerCapture(event.pointerId);
      }
      if (at === null) return;
      event.stopImmediatePropagation();
      view.dragged = { at, value: view.under(event).value };
      if (event.type === "pointerup") this.drag?.(view.dragged);
      if (event.type === "pointerup" || event.type === "pointercancel") at = view.dragged = null;
      this.draw();
    };
    for (const type of ["pointerdown", "pointermove", "pointerup", "pointercancel"]) view.canvas.addEventListener(type, moved);
  }

  /** While there is a function `press`, a pointer on the roll of the input presses a place and selects no steps. */
  #pressPlaces(view) {
    view.canvas.addEventListener("pointerdown", (event) => {
      if (!this.press) return;
      event.stopImmediatePropagation();
      this.press(view.place(event));
    });
  }

  #mapTrack(name) {
    const part = this.data.parts[this.store.state.part];
    const equation = this.data.record.cells[part.cell]?.equations[name] ?? "";
    const { track, head } = this.#track(name, equation);
    track.id = `map-${name}`;
    const { bound, signed } = this.#range(name);
    head.append(this.#scaleKey(bound, signed));
    const canvas = document.createElement("canvas");
    canvas.className = "map";
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Heat map of ${name}: ${part.units[name]} units, ${this.steps} steps`);
    track.append(canvas);
    const map = new HeatMap(canvas);
    this.maps.push({ name, map, bound, signed });
    this.#listen(canvas, "pan", name);
    return track;
  }

  /** The range of a map's colours: that of the value, or of its difference from before the edits. */
  #range(name) {
    const change = this.#change(name);
    return change ? { bound: change.bound, signed: true } : this.data.parts[this.store.state.part].ranges[name];
  }

  /** The difference that a map shows; null if it shows the value itself. */
  #change(name) {
    const { part, sequence, difference: asked } = this.store.state;
    const before = asked ? this.data.before(part, sequence, name) : null;
    return before && difference(this.data.values(part, sequence, name), before);
  }

  #scaleKey(bound, signed) {
    const key = document.createElement("span");
    key.className = `key ${signed ? "signed" : "gate"}`;
    const end = this.format(bound);
    const texts = [signed ? `−${end}` : "0", "", end];
    texts.forEach((text, k) => {
      const part = document.createElement("span");
      if (k === 1) part.className = "ramp";
      else part.textContent = text;
      key.append(part);
    });
    return key;
  }

  colour() {
    const { part, sequence, theme } = this.store.state;
    for (const { name, map, bound, signed } of this.maps) {
      const values = this.#change(name)?.values ?? this.data.values(part, sequence, name);
      const ordered = this.order?.length === values.units ? this.order : null;
      map.colour(values, ordered, bound, signed, theme);
    }
    this.draw();
  }

  resize() {
    for (const strip of this.strips) strip.resize();
    for (const { map } of this.maps) map.resize();
    this.draw();
  }

  draw() {
    const { window: [start, end], step, unit, hover, range } = this.store.state;
    const style = getComputedStyle(this.place);
    const marks = {
      range, step, hover: hover?.step ?? null,
      ink: style.getPropertyValue("--ink"), accent: style.getPropertyValue("--accent"),
    };
    for (const strip of this.strips) strip.draw(start, end, marks);
    const row = this.rowOf(unit);
    for (const { map } of this.maps) {
      if (!map.values) continue;
      const inside = (r) => (r !== null && r < map.values.units ? r : null);
      const hoverRow = hover && hover.unit !== null ? inside(this.rowOf(hover.unit)) : null;
      map.draw(start, end, { ...marks, row: inside(row), hoverRow });
    }
    this.#drawAxis(start, end);
  }

  #drawAxis(start, end) {
    const x = d3.scaleLinear([start, end], [0, 100]);
    const count = Math.max(2, Math.min(12, Math.floor(this.place.clientWidth / 70)));
    const ticks = d3.ticks(start, end - 1, count).filter(Number.isInteger);
    const labels = this.data.sequences[this.store.state.sequence].step_labels;
    this.axis.replaceChildren(...ticks.map((tick) => {
      const mark = document.createElement("span");
      mark.style.left = `${x(tick + 0.5)}%`;
      mark.textContent = labels?.[tick] ?? tick;
      return mark;
    }));
  }

  // ------------------------------------------------------------------------------------ pointer

  #listen(canvas, drag, name) {
    const pointers = new Map();
    let origin = null;
    const stepAt = (event) => {
      const box = canvas.getBoundingClientRect();
      const [start, end] = this.store.state.window;
      const at = start + ((event.clientX - box.left) / box.width) * (end - start);
      return Math.max(0, Math.min(this.steps - 1, Math.floor(at)));
    };
    const unitAt = (event) => {
      if (name === null) return null;
      const box = canvas.getBoundingClientRect();
      const units = this.data.parts[this.store.state.part].units[name];
      const row = Math.floor(((event.clientY - box.top) / box.height) * units);
      const inside = Math.max(0, Math.min(units - 1, row));
      return this.order?.length === units ? this.unitAt(inside) : inside;
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, event.clientX);
      const window = [...this.store.state.window];
      origin = { x: event.clientX, window, step: stepAt(event), moved: false, spread: spread(pointers) };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!pointers.has(event.pointerId)) {
        this.#hover(event, name, stepAt(event), unitAt(event));
        return;
      }
      pointers.set(event.pointerId, event.clientX);
      if (Math.abs(event.clientX - origin.x) > 3 || pointers.size > 1) origin.moved = true;
      if (!origin.moved) return;
      const wide = origin.window[1] - origin.window[0];
      if (pointers.size > 1) {
        const middle = (origin.window[0] + origin.window[1]) / 2;
        const after = wide * (origin.spread || 1) / Math.max(10, spread(pointers));
        this.look(middle - after / 2, middle + after / 2);
      } else if (drag === "select") {
        const here = stepAt(event);
        this.store.set({ range: [Math.min(here, origin.step), Math.max(here, origin.step)] });
      } else {
        const by = ((origin.x - event.clientX) / canvas.clientWidth) * wide;
        this.look(origin.window[0] + by, origin.window[1] + by);
      }
    });
    const release = (event) => {
      if (pointers.delete(event.pointerId) && event.type === "pointerup" && !origin.moved) {
        const unit = unitAt(event);
        this.store.set({ step: stepAt(event), ...(unit === null ? {} : { unit }) });
      }
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", () => {
      this.tip.hidden = true;
      this.store.set({ hover: null });
    });
    canvas.addEventListener("wheel", (event) => {
      const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
      const [start, end] = this.store.state.window;
      if (event.ctrlKey || event.metaKey || event.altKey) {
        const box = canvas.getBoundingClientRect();
        this.zoom(Math.exp(event.deltaY * 0.002), (event.clientX - box.left) / box.width);
      } else if (sideways) {
        const by = ((event.deltaX || event.deltaY) / canvas.clientWidth) * (end - start);
        this.look(start + by, end + by);
      } else {
        return;
      }
      event.preventDefault();
    }, { passive: false });
  }

  #hover(event, name, step, unit) {
    this.store.set({ hover: { step, unit } });
    const { part, sequence } = this.store.state;
    const label = this.data.sequences[sequence].step_labels?.[step] ?? step;
    const parts = [`step ${label}`];
    if (unit !== null) {
      const value = this.data.values(part, sequence, name).at(step, unit);
      const was = this.data.before(part, sequence, name)?.at(step, unit) ?? value;
      const before = was === value ? "" : ` (was ${this.format(was)})`;
      parts.push(`unit ${unit}`, `${name} = ${this.format(value)}${before}`);
    }
    this.tip.textContent = parts.join(" · ");
    this.tip.hidden = false;
    const box = this.place.getBoundingClientRect();
    const left = Math.min(event.clientX - box.left + 14, box.width - this.tip.offsetWidth - 4);
    this.tip.style.left = `${Math.max(0, left)}px`;
    this.tip.style.top = `${event.clientY - box.top + 16}px`;
  }

  // ------------------------------------------------------------------------------------ window

  /** The steps that are in view at first: all, or of a text of letters those that can be read. */
  first(sequence) {
    const { steps, strip } = this.data.sequences[sequence];
    const letters = strip?.kind === "words" && strip.words.every((word) => [...word].length < 2);
    const room = Math.max(NARROWEST, Math.floor(this.place.clientWidth / LETTER));
    return [0, letters ? Math.min(steps, room) : steps];
  }

  /** Shows the steps from `start` to `end`, as far as there are any. */
  look(start, end) {
    const wide = Math.min(this.steps, Math.max(NARROWEST, end - start));
    const middle = (start + end) / 2;
    const first = Math.max(0, Math.min(this.steps - wide, middle - wide / 2));
    this.store.set({ window: [first, first + wide] });
  }

  /** Zooms around a place in the window, by default around the chosen step. */
  zoom(factor, at = this.#chosen()) {
    const [start, end] = this.store.state.window;
    const fixed = start + at * (end - start);
    this.look(fixed - (fixed - start) * factor, fixed + (end - fixed) * factor);
  }

  /** The place of the chosen step in the window, from 0 to 1; the middle if it is not in it. */
  #chosen() {
    const { window: [start, end], step } = this.store.state;
    const at = (step + 0.5 - start) / (end - start);
    return at >= 0 && at <= 1 ? at : 0.5;
  }

  /** Moves the window so that a step is in it. */
  reveal(step) {
    const [start, end] = this.store.state.window;
    if (step >= start && step < end) return;
    this.look(step + 0.5 - (end - start) / 2, step + 0.5 + (end - start) / 2);
  }
}

function spread(pointers) {
  const places = [...pointers.values()];
  return places.length > 1 ? Math.abs(places[0] - places[1]) : 0;
}
