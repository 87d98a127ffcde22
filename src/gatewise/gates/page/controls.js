// Everything that is pressed or typed: choices, transport, zoom, range, theme, keyboard.

const PER_SECOND = 6; // steps while playing

export class Controls {
  constructor(data, store, tracks) {
    Object.assign(this, { data, store, tracks });
    this.#choices();
    this.#transport();
    this.#view();
    this.#range();
    this.#theme();
    document.addEventListener("keydown", (event) => this.#key(event));
    store.on(["part", "sequence", "step", "unit", "order"], () => this.show());
    store.on(["range", "sequence"], () => this.#showRange());
    this.show();
  }

  get part() {
    return this.data.parts[this.store.state.part];
  }

  // What the inputs show.
  show() {
    const { sequence, part, order, step, unit } = this.store.state;
    const last = this.tracks.steps - 1;
    byId("sequence").value = sequence;
    byId("part").value = part;
    byId("order").value = order;
    for (const id of ["step", "step-slider", "range-first", "range-last"]) byId(id).max = last;
    byId("step-slider").value = step;
    put("step", step);
    byId("step-slider").setAttribute("aria-valuetext", this.#label(step));
    byId("unit").max = this.part.hidden - 1;
    put("unit", unit);
  }

  #showRange() {
    const { range } = this.store.state;
    put("range-first", range?.[0] ?? "");
    put("range-last", range?.[1] ?? "");
  }

  #label(step) {
    const label = this.data.sequences[this.store.state.sequence].step_labels?.[step];
    return label === undefined ? `step ${step}` : `step ${step}, ${label}`;
  }

  #choices() {
    options(byId("sequence"), this.data.sequences.map(({ label }, k) => [k, label]));
    this.#parts();
    byId("sequence").parentElement.hidden = this.data.sequences.length < 2;
    this.#orders();
    byId("sequence").addEventListener("change", (event) => this.open(Number(event.target.value)));
    byId("part").addEventListener("change", (event) => this.#choosePart(Number(event.target.value)));
    byId("order").addEventListener("change", (event) => this.store.set({ order: event.target.value }));
  }

  /** Lists the parts that read the sequence. */
  #parts() {
    const own = this.data.partsOf(this.store.state.sequence);
    options(byId("part"), own.map((part) => [part, this.data.parts[part].label]));
    byId("part").parentElement.hidden = own.length < 2;
  }

  #choosePart(part) {
    const { unit, order } = this.store.state;
    const next = this.data.parts[part];
    this.store.set({
      part,
      unit: Math.min(unit, next.hidden - 1),
      order: order in next.orders ? order : "index",
      shown: next.shown,
    });
    this.#orders();
  }

  #orders() {
    const names = ["index", ...Object.keys(this.part.orders).filter((name) => name !== "index")];
    options(byId("order"), names.map((name) => [name, name]));
  }

  /** Shows a sequence, and in it a range if one is given. */
  open(sequence, range = null) {
    const steps = this.data.sequences[sequence].steps;
    const step = range ? range[0] : Math.min(this.store.state.step, steps - 1);
    this.store.set({ sequence, step, window: this.tracks.first(sequence), range, hover: null });
    this.tracks.reveal(step);
    const own = this.data.partsOf(sequence);
    if (!own.includes(this.store.state.part)) this.#choosePart(own[0]);
    this.#parts();
    if (range) {
      const room = Math.max(20, 2 * (range[1] - range[0]));
      this.tracks.look(range[0] - room, range[1] + 1 + room);
    }
  }

  choose(step, unit = this.store.state.unit) {
    const inside = (value, most) => Math.max(0, Math.min(most, Math.round(value) || 0));
    const chosen = inside(step, this.tracks.steps - 1);
    this.store.set({ step: chosen, unit: inside(unit, this.part.hidden - 1) });
    this.tracks.reveal(chosen);
  }

  #transport() {
    const { store } = this;
    byId("play").addEventListener("click", () => this.play(!store.state.playing));
    byId("back").addEventListener("click", () => this.choose(store.state.step - 1));
    byId("on").addEventListener("click", () => this.choose(store.state.step + 1));
    byId("step").addEventListener("change", ({ target }) => {
      this.choose(Number(target.value));
      target.value = store.state.step;
    });
    byId("step-slider").addEventListener("input", (event) => this.choose(Number(event.target.value)));
    byId("unit").addEventListener("change", ({ target }) => {
      this.choose(store.state.step, Number(target.value));
      target.value = store.state.unit;
    });
  }

  play(playing) {
    const { store } = this;
    const atEnd = store.state.step >= this.tracks.steps - 1;
    if (playing && atEnd) this.choose(0);
    store.set({ playing });
    byId("play").textContent = playing ? "❚❚" : "▶";
    byId("play").setAttribute("aria-label", playing ? "Pause" : "Play");
    clearInterval(this.timer);
    if (!playing) return;
    this.timer = setInterval(() => {
      if (store.state.step >= this.tracks.steps - 1) this.play(false);
      else this.choose(store.state.step + 1);
    }, 1000 / PER_SECOND);
  }

  #view() {
    byId("closer").addEventListener("click", () => this.tracks.zoom(0.6));
    byId("wider").addEventListener("click", () => this.tracks.zoom(1 / 0.6));
    byId("whole").addEventListener("click", () => this.tracks.look(0, this.tracks.steps));
  }

  #range() {
    const read = () => {
      const first = byId("range-first").value;
      const last = byId("range-last").value;
      if (first === "" || last === "") return;
      const inside = (text) => Math.max(0, Math.min(this.tracks.steps - 1, Number(text)));
      const ends = [inside(first), inside(last)].sort((a, b) => a - b);
      this.store.set({ range: ends });
    };
    byId("range-first").addEventListener("change", read);
    byId("range-last").addEventListener("change", read);
    byId("no-range").addEventListener("click", () => this.store.set({ range: null }));
  }

  #theme() {
    const system = matchMedia("(prefers-color-scheme: dark)");
    let asked = null;
    const apply = () => {
      const theme = asked ?? (system.matches ? "dark" : "light");
      document.documentElement.dataset.theme = theme;
      byId("theme").setAttribute("aria-label", theme === "dark" ? "Light colours" : "Dark colours");
      byId("theme").textContent = theme === "dark" ? "☀" : "☾";
      this.store.set({ theme });
    };
    system.addEventListener("change", apply);
    byId("theme").addEventListener("click", () => {
      asked = this.store.state.theme === "dark" ? "light" : "dark";
      apply();
    });
    apply();
    byId("help").addEventListener("click", () => byId("help-text").showModal());
  }

  #key(event) {
    const { store, tracks } = this;
    const { step, unit, range } = store.state;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea, dialog")) return;
    const onButton = event.target.closest("button, summary, a");
    const row = tracks.rowOf(unit);
    const last = tracks.steps - 1;
    const actions = {
      ArrowLeft: () => this.choose(step - (event.shiftKey ? 10 : 1)),
      ArrowRight: () => this.choose(step + (event.shiftKey ? 10 : 1)),
      ArrowUp: () => this.choose(step, tracks.unitAt(Math.max(0, row - 1))),
      ArrowDown: () => this.choose(step, tracks.unitAt(Math.min(this.part.hidden - 1, row + 1))),
      Home: () => this.choose(0),
      End: () => this.choose(last),
      "+": () => tracks.zoom(0.6),
      "-": () => tracks.zoom(1 / 0.6),
      0: () => tracks.look(0, tracks.steps),
      "[": () => store.set({ range: [step, Math.max(step, range?.[1] ?? step)] }),
      "]": () => store.set({ range: [Math.min(step, range?.[0] ?? step), step] }),
      Escape: () => store.set({ range: null }),
      "?": () => byId("help-text").showModal(),
    };
    if (!onButton) actions[" "] = () => this.play(!store.state.playing);
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }
}

export function byId(id) {
  return document.getElementById(id);
}

/** Shows a number in an input, unless somebody is typing there. */
function put(id, value) {
  if (byId(id) !== document.activeElement) byId(id).value = value;
}

/** Fills a select. Texts are set as text, never as HTML. */
function options(select, entries) {
  select.replaceChildren(...entries.map(([value, text]) => {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    return option;
  }));
}
