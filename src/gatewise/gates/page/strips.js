// What stands above and below the heat maps: the sequence itself, and what the model said of it.

const LINE_COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];

/** A picture of a strip on a canvas: lines, words or a piano roll. Texts are drawn, never parsed. */
export class StripView {
  /** `remark` is called with what a reader should know of the picture, after each drawing of words. */
  constructor(canvas, remark = () => {}) {
    this.canvas = canvas;
    this.remark = remark;
    this.context = canvas.getContext("2d");
  }

  show(strip) {
    this.strip = strip;
    this.range = strip.kind === "lines" ? extent(strip.values) : null;
  }

  resize() {
    const density = window.devicePixelRatio || 1;
    this.density = density;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * density));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * density));
  }

  draw(start, end, { range, step, hover }) {
    const { context, canvas, density } = this;
    const style = getComputedStyle(canvas);
    this.colour = (name) => style.getPropertyValue(name);
    context.setTransform(density, 0, 0, density, 0, 0);
    this.wide = canvas.width / density;
    this.tall = canvas.height / density;
    context.clearRect(0, 0, this.wide, this.tall);
    const own = this.strip.axis === "own";
    const [from, to] = own ? [0, this.strip.values[0].length] : [start, end];
    Object.assign(this, { from, to });
    this.x = (at) => ((at - from) / (to - from)) * this.wide;
    if (!own) {
      if (range) this.#band(range[0], range[1] + 1, "--range");
      this.#band(step, step + 1, "--chosen");
      if (hover !== null) this.#band(hover, hover + 1, "--hover");
    }
    this[this.strip.kind](from, to);
  }

  #band(from, to, name) {
    this.context.fillStyle = this.colour(name);
    this.context.fillRect(this.x(from), 0, Math.max(2, this.x(to) - this.x(from)), this.tall);
  }

  lines(from, to) {
    const { context } = this;
    const { values, names, per_step: perStep = 1 } = this.strip;
    const y = d3.scaleLinear(this.range, [this.tall - 6, 6]);
    context.font = "10px system-ui, sans-serif";
    context.strokeStyle = this.colour("--rule");
    context.fillStyle = this.colour("--soft");
    context.lineWidth = 1;
    for (const tick of y.ticks(2)) {
      context.beginPath();
      context.moveTo(0, y(tick));
      context.lineTo(this.wide, y(tick));
      context.stroke();
      context.fillText(y.tickFormat(2)(tick), 2, Math.max(10, y(tick) - 2));
    }
    values.forEach((line, k) => {
      context.strokeStyle = this.colour(LINE_COLOURS[k % LINE_COLOURS.length]);
      context.lineWidth = names.length > 3 ? 1 : 1.6;
      context.beginPath();
      let open = false;
      const first = Math.max(0, Math.floor((from - 1) * perStep));
      const last = Math.min(line.length, Math.ceil((to + 1) * perStep));
      for (let at = first; at < last; at++) {
        const value = line[at];
        if (value === null) { open = false; continue; }
        const x = this.x((at + 0.5) / perStep);
        if (open) context.lineTo(x, y(value));
        else context.moveTo(x - (line[at + 1] === null || at + 1 === last ? 1 : 0), y(value));
        if (!open && (line[at + 1] ?? null) === null) context.lineTo(x + 1, y(value));
        open = true;
      }
      context.stroke();
    });
    if (this.dragged) {
      context.fillStyle = this.colour("--accent");
      context.beginPath();
      context.arc(this.x((this.dragged.at + 0.5) / perStep), y(this.dragged.value), 4, 0, 2 * Math.PI);
      context.fill();
    }
  }

  /** Of lines, the place under a pointer, and the value at its height, with four digits. */
  under(event) {
    const { per_step: perStep = 1, values } = this.strip;
    const box = this.canvas.getBoundingClientRect();
    const [low, high] = this.range;
    const across = this.from + ((event.clientX - box.left) / box.width) * (this.to - this.from);
    const value = high - ((event.clientY - box.top - 6) / (box.height - 12)) * (high - low);
    const at = Math.max(0, Math.min(values[0].length - 1, Math.floor(across * perStep)));
    return { at, value: Number(value.toPrecision(4)) };
  }

  words(from, to) {
    const { context } = this;
    const { words, weights } = this.strip;
    const wide = this.x(1) - this.x(0);
    const letters = Math.max(1, ...words.map((word) => [...word].length));
    const size = Math.max(9, Math.min(14, wide / Math.min(letters, 6) * 1.5));
    context.font = `${size}px ui-monospace, monospace`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const first = Math.max(0, Math.floor(from));
    const last = Math.min(words.length, Math.ceil(to));
    let free = -Infinity; // the end of the last word that was drawn
    let drawn = 0;
    for (let at = first; at < last; at++) {
      if (weights) {
        context.fillStyle = this.colour("--line-1");
        const tall = weights[at] * (this.tall - 20);
        context.fillRect(this.x(at), this.tall - tall, Math.max(1, wide - 1), tall);
      }
      const word = words[at] === " " ? "␣" : words[at].replaceAll("\n", "⏎");
      const room = context.measureText(word).width;
      const middle = Math.max(room / 2, Math.min(this.wide - room / 2, this.x(at + 0.5)));
      if (middle - room / 2 < free) continue;
      context.fillStyle = this.colour("--ink");
      context.fillText(word, middle, weights ? 9 : this.tall / 2);
      free = middle + room / 2 + (letters > 1 ? 5 : 0);
      drawn++;
    }
    const visible = last - first;
    this.remark(drawn < visible ? `${drawn} of ${visible} fit: zoom in with + to read all` : "");
    context.textAlign = "start";
    context.textBaseline = "alphabetic";
  }

  /** Of a roll, the step and the pitch under a pointer. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const [low, high] = this.#pitches();
    const across = this.from + ((event.clientX - box.left) / box.width) * (this.to - this.from);
    return { at: Math.floor(across), pitch: Math.floor(high + 1 - ((event.clientY - box.top) / box.height) * (high + 1 - low)) };
  }

  /** The lowest and the highest pitch of a roll, with one more on each side. */
  #pitches() {
    const pitches = this.strip.notes.map((note) => note[2]);
    return [Math.min(...pitches, 60) - 1, Math.max(...pitches, 60) + 1];
  }

  roll(from, to) {
    const { context } = this;
    const [low, high] = this.#pitches();
    const y = d3.scaleLinear([low, high + 1], [this.tall, 0]);
    context.font = "10px system-ui, sans-serif";
    for (let pitch = Math.ceil(low / 12) * 12; pitch <= high; pitch += 12) {
      context.fillStyle = this.colour("--rule");
      context.fillRect(0, y(pitch), this.wide, 1);
      context.fillStyle = this.colour("--soft");
      context.fillText(`C${pitch / 12 - 1}`, 2, Math.max(10, y(pitch) - 2));
    }
    const tall = Math.max(2, y(0) - y(1) - 1);
    for (const [start, length, pitch, voice] of this.strip.notes) {
      if (start + length < from || start > to) continue;
      context.fillStyle = this.colour(LINE_COLOURS[voice % LINE_COLOURS.length]);
      const wide = this.x(start + length) - this.x(start);
      context.fillRect(this.x(start), y(pitch + 1), Math.max(1.5, wide - 1), tall);
    }
  }
}

function extent(lines) {
  let low = Infinity;
  let high = -Infinity;
  for (const line of lines) {
    for (const value of line) {
      if (value !== null && value < low) low = value;
      if (value !== null && value > high) high = value;
    }
  }
  if (low > high) return [0, 1];
  return low === high ? [low - 1, high + 1] : [low, high];
}

/** The names of lines or voices, with their colours. */
export function legend(strip) {
  const list = document.createElement("span");
  list.className = "legend";
  const names = strip.kind === "lines" && strip.values.length > 1 ? strip.names : [];
  names.slice(0, 12).forEach((name, k) => {
    const entry = document.createElement("span");
    entry.style.setProperty("--own", `var(${LINE_COLOURS[k % LINE_COLOURS.length]})`);
    entry.textContent = name;
    list.append(entry);
  });
  return list;
}

/** A list of names with numbers, as a table with bars. */
export function bars(strip, format) {
  const table = document.createElement("table");
  table.className = "bars";
  const most = Math.max(...strip.numbers.map((number) => Math.abs(number ?? 0)));
  const full = (strip.full ?? most) || 1;
  if (strip.before) {
    const heads = table.createTHead().insertRow();
    for (const text of ["", "now", "before the changes", ""]) heads.append(Object.assign(document.createElement("th"), { textContent: text }));
  }
  const body = table.createTBody();
  strip.names.forEach((name, k) => {
    const row = body.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    row.insertCell().textContent = format(strip.numbers[k] ?? NaN);
    if (strip.before) row.insertCell().textContent = format(strip.before[k] ?? NaN);
    const bar = document.createElement("span");
    bar.style.width = `${(100 * Math.abs(strip.numbers[k] ?? 0)) / full}%`;
    bar.classList.toggle("negative", strip.numbers[k] < 0);
    row.insertCell().append(bar);
  });
  return table;
}

/** The strips that show a prediction, and beside it that before the edits. */
export function withBefore(strip, before) {
  if (!before || before.kind !== strip.kind) return [strip];
  if (strip.kind === "bars") return [{ ...strip, before: before.numbers }];
  if (strip.kind === "lines") {
    const at = Math.min(1, strip.names.length);
    return [{
      ...strip,
      names: strip.names.toSpliced(at, 0, `${before.names[0]} before the changes`),
      values: strip.values.toSpliced(at, 0, before.values[0]),
    }];
  }
  return [strip, { ...before, title: `${before.title}, before the changes` }];
}

/** What a strip has at a step, as text. */
export function described(strip, step, format) {
  if (strip.kind === "words") {
    const word = strip.words[step] ?? "";
    const weight = strip.weights ? ` (${format(strip.weights[step] ?? NaN)})` : "";
    return JSON.stringify(word) + weight;
  }
  if (strip.kind === "roll") {
    return notesAt(strip, step).map((note) => pitchName(note[2])).join(" ") || "rest";
  }
  if (strip.kind === "bars" || strip.axis === "own") return "";
  const perStep = strip.per_step ?? 1;
  const first = Math.floor(step * perStep);
  const last = Math.max(first, Math.ceil((step + 1) * perStep) - 1);
  return strip.names.slice(0, 4).map((name, k) => {
    const ends = (first === last ? [first] : [first, last]).map((at) => format(strip.values[k][at] ?? NaN));
    return `${name === strip.title ? "" : name} ${ends.join(" … ")}`;
  }).join(", ");
}

/** The notes of a roll that sound at a step. */
export function notesAt(strip, step) {
  return strip.notes.filter(([start, length]) => start <= step && step < start + length);
}

export function pitchName(pitch) {
  const names = ["C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B"];
  return `${names[pitch % 12]}${Math.floor(pitch / 12) - 1}`;
}
