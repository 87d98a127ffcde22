// What if: edits of the input and of units and gates, the list of them, and the differences that they make.
import { byId } from "gatewise/controls";
import { notesAt, pitchName } from "gatewise/strips";

const PIANO = [21, 108]; // its lowest and its highest pitch

/** The controls for edits. `apply(edits)` computes the sequence with them and shows the result. */
export class WhatIf {
  constructor(place, data, store, tracks, format, apply) {
    Object.assign(this, { place, data, store, tracks, format, apply, edits: new Map(), busy: Promise.resolve() });
    place.replaceChildren(...this.#form());
    store.on(["part", "sequence", "step", "unit", "range", "edits"], () => this.show());
    this.#names();
    store.on(["part"], () => this.#names());
    this.show();
  }

  get own() {
    return this.edits.get(this.store.state.sequence) ?? [];
  }

  get strip() {
    return this.data.sequences[this.store.state.sequence].strip;
  }

  /** Adds an edit, which replaces one of the same place. */
  async add(edit) {
    await this.#change((own) => [...own.filter((other) => place(other) !== place(edit)), edit]);
  }

  /** One request after the other, so that the last edit is the one that is shown. */
  #change(next) {
    const { sequence } = this.store.state;
    this.busy = this.busy.then(async () => {
      const edits = next(this.edits.get(sequence) ?? []);
      this.#say("computing…");
      try {
        await this.apply(sequence, edits);
        this.edits.set(sequence, edits);
        this.#say(edits.length ? this.#difference(sequence) : "");
      } catch (error) {
        this.#say(error.message, true);
      }
      this.show();
    });
    return this.busy;
  }

  #say(text, isError = false) {
    const said = byId("what-if-said");
    said.textContent = text;
    said.classList.toggle("error", isError);
  }

  /** The largest change, in words. */
  #difference(sequence) {
    const { part } = this.store.state;
    let most = { size: 0 };
    for (const name of Object.keys(this.data.parts[part].units)) {
      const now = this.data.values(part, sequence, name);
      const before = this.data.before(part, sequence, name);
      for (let k = 0; k < now.numbers.length; k++) {
        const size = Math.abs(now.numbers[k] - before.numbers[k]);
        if (size > most.size) most = { size, name, step: Math.floor(k / now.units), unit: k % now.units, now, before };
      }
    }
    if (!most.size) return "Nothing changes in this layer.";
    const { name, step, unit, now, before } = most;
    const label = this.data.parts.length > 1 ? ` in ${this.data.parts[part].label}` : "";
    return `Largest change${label}: ${name} of unit ${unit} at step ${step}, from ${this.format(before.at(step, unit))} `
      + `to ${this.format(now.at(step, unit))}.`;
  }

  show() {
    const { strip, own } = this;
    const { step, unit, range } = this.store.state;
    byId("edit-line").hidden = strip?.kind !== "lines" || strip.axis === "own";
    byId("edit-word").hidden = strip?.kind !== "words";
    if (!byId("edit-line").hidden) {
      const line = byId("edit-which");
      if (line.length !== strip.names.length) line.replaceChildren(...strip.names.map((name, k) => new Option(name, k)));
      line.parentElement.hidden = strip.names.length < 2;
      byId("edit-place").max = strip.per_step;
      byId("edit-place").parentElement.hidden = strip.per_step <= 1;
      byId("edit-value").placeholder = this.format(strip.values[Number(line.value)][this.#at()] ?? NaN);
    }
    if (!byId("edit-word").hidden) byId("edit-text").placeholder = JSON.stringify(strip.words[step]).slice(1, -1);
    const { members } = this.data.record;
    byId("edit-members").hidden = members < 2;
    byId("clamp-members").options[1].textContent = `all ${members} networks`;
    byId("edit-note").hidden = strip?.kind !== "roll";
    if (!byId("edit-note").hidden) {
      const voice = byId("edit-voice");
      if (voice.length !== strip.voices) voice.replaceChildren(...Array.from({ length: strip.voices }, (_, k) => new Option(k + 1, k)));
      voice.parentElement.hidden = strip.voices < 2;
      const sounds = this.#sounds(step, Number(byId("edit-pitch").value), Number(voice.value));
      byId("edit-note").querySelector("button").textContent = sounds ? "take it away" : "add it";
    }
    byId("clamp-units").options[0].textContent = `unit ${unit}`;
    byId("clamp-steps").options[0].textContent = `step ${step}`;
    byId("clamp-steps").options[1].textContent = `step ${step} and later`;
    byId("clamp-steps").options[2].disabled = !range;
    byId("edits").replaceChildren(...own.map((edit) => {
      const item = document.createElement("li");
      const text = document.createElement("span");
      const button = document.createElement("button");
      text.textContent = described(edit, this.data, strip);
      button.type = "button";
      button.textContent = "undo";
      button.setAttribute("aria-label", `Undo: ${text.textContent}`);
      button.addEventListener("click", () => this.#change((edits) => edits.filter((other) => other !== edit)));
      item.append(text, button);
      return item;
    }));
    byId("what-if-after").hidden = !own.length;
  }

  /** Whether a voice has a pitch at a step. */
  #sounds(at, pitch, voice) {
    return notesAt(this.strip, at).some((note) => note[2] === pitch && note[3] === voice);
  }

  /** Adds a note of one step, or takes it away. A change of the same place is undone. */
  #note(at, pitch, voice) {
    const edit = { kind: "note", at, pitch, voice, on: !this.#sounds(at, pitch, voice) };
    const same = this.own.find((other) => place(other) === place(edit));
    return same ? this.#change((edits) => edits.filter((other) => other !== same)) : this.add(edit);
  }

  /** The place in the line of the chosen step. */
  #at() {
    const { per_step: perStep } = this.strip;
    return this.store.state.step * perStep + Math.min(perStep, Math.max(1, Number(byId("edit-place").value))) - 1;
  }

  /** A place of the roll is pressed: the note there is taken away, or one of the chosen voice is added. */
  #press({ at, pitch }) {
    const there = notesAt(this.strip, at).find((note) => note[2] === pitch);
    return this.#note(at, pitch, there ? there[3] : Number(byId("edit-voice").value));
  }

  #names() {
    const names = Object.keys(this.data.parts[this.store.state.part].units);
    byId("clamp-name").replaceChildren(...names.map((name) => new Option(name, name)));
  }

  #clamp() {
    const { part, step, unit, range, sequence } = this.store.state;
    const last = this.data.sequences[sequence].steps - 1;
    const ends = { step: [step, step], later: [step, last], selected: range, all: [0, last] };
    const [first, end] = ends[byId("clamp-steps").value] ?? [step, step];
    const units = byId("clamp-units").value === "all" ? null : unit;
    const value = Number(byId("clamp-value").value);
    const everywhere = byId("clamp-members").value === "all" ? { all_members: true } : {};
    const name = byId("clamp-name").value;
    return this.add({ kind: "clamp", part, name, unit: units, first, last: end, value, ...everywhere });
  }

  #form() {
    const template = byId("what-if-form").content.cloneNode(true);
    const on = (id, listener) => template.getElementById(id).addEventListener("submit", (event) => {
      event.preventDefault();
      listener();
    });
    on("edit-line", () => this.add({
      kind: "value", line: Number(byId("edit-which").value), at: this.#at(), value: Number(byId("edit-value").value),
    }));
    on("edit-word", () => this.add({ kind: "word", at: this.store.state.step, word: byId("edit-text").value }));
    on("edit-note", () => this.#note(this.store.state.step, Number(byId("edit-pitch").value), Number(byId("edit-voice").value)));
    const [low, high] = PIANO;
    const names = Array.from({ length: high - low + 1 }, (_, k) => new Option(pitchName(low + k), low + k));
    template.getElementById("edit-pitch").replaceChildren(...names);
    template.getElementById("edit-pitch").value = 60;
    for (const id of ["edit-pitch", "edit-voice"]) template.getElementById(id).addEventListener("change", () => this.show());
    template.getElementById("press-notes").addEventListener("change", ({ target }) => {
      this.tracks.press = target.checked ? (there) => this.#press(there) : null;
    });
    on("edit-clamp", () => this.#clamp());
    template.getElementById("edit-which").addEventListener("change", () => this.show());
    template.getElementById("edit-place").addEventListener("change", () => this.show());
    template.getElementById("drag-values").addEventListener("change", ({ target }) => {
      const line = () => Number(byId("edit-which").value);
      this.tracks.drag = target.checked ? ({ at, value }) => this.add({ kind: "value", line: line(), at, value }) : null;
    });
    template.getElementById("undo-all").addEventListener("click", () => this.#change(() => []));
    template.getElementById("difference").addEventListener("change", ({ target }) => {
      this.store.set({ difference: target.checked });
    });
    return template.children;
  }
}

/** What an edit is of, as text: of two edits of the same, the later one counts. */
function place({ kind, line, at, pitch, voice, part, name, unit, first, last, all_members: everywhere }) {
  return JSON.stringify(kind === "clamp" ? [kind, part, name, unit, first, last, everywhere] : [kind, line, at, pitch, voice]);
}

function described(edit, data, strip) {
  if (edit.kind === "word") return `step ${edit.at}: ${JSON.stringify(edit.word)}`;
  if (edit.kind === "note") {
    const of = strip.voices > 1 ? ` of voice ${edit.voice + 1}` : "";
    return `step ${edit.at}: ${edit.on ? "" : "no "}${pitchName(edit.pitch)}${of}`;
  }
  if (edit.kind === "value") {
    const step = Math.floor(edit.at / strip.per_step);
    const within = strip.per_step > 1 ? `, value ${edit.at % strip.per_step + 1}` : "";
    return `${strip.names[edit.line]} at step ${step}${within} = ${edit.value}`;
  }
  const where = data.parts.length > 1 ? ` of ${data.parts[edit.part].label}` : "";
  const steps = edit.first === edit.last ? `step ${edit.first}` : `steps ${edit.first}–${edit.last}`;
  const networks = edit.all_members ? ", all networks" : "";
  return `${edit.name}${where}, ${edit.unit === null ? "all units" : `unit ${edit.unit}`}${networks}, ${steps} = ${edit.value}`;
}
