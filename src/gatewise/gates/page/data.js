// The traces in the page: a record (JSON) that says what is where, and one block of numbers.

/** The numbers of the page: base64 of gzip of float32 or float16, as a Float32Array. */
export async function unpack(text, precision) {
  const packed = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text.trim()) : decode(text.trim());
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  return precision === "float16" ? halves(new Uint16Array(buffer)) : new Float32Array(buffer);
}

function decode(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let k = 0; k < letters.length; k++) bytes[k] = letters.charCodeAt(k);
  return bytes;
}

function halves(bits) {
  const table = new Float32Array(65536);
  for (let k = 0; k < 65536; k++) {
    const exponent = (k >> 10) & 31;
    const fraction = k & 1023;
    const sign = k & 32768 ? -1 : 1;
    if (exponent === 31) table[k] = fraction ? NaN : sign * Infinity;
    else if (exponent === 0) table[k] = sign * fraction * 2 ** -24;
    else table[k] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return Float32Array.from(bits, (k) => table[k]);
}

/** One value of a cell over a sequence: T steps of H units. */
class Values {
  constructor(numbers, steps, units) {
    Object.assign(this, { numbers, steps, units });
  }

  at(step, unit) {
    return this.numbers[step * this.units + unit];
  }
}

/** The number of values of a sequence, over all names of the parts that read it. */
export function lengthOf({ parts, sequences }, sequence) {
  const { steps, places } = sequences[sequence];
  const units = places.flatMap((names, part) => Object.keys(names).map((name) => parts[part].units[name]));
  return steps * units.reduce((sum, each) => sum + each, 0);
}

/** The difference of two values of the same size, and its largest number. */
export function difference(now, before) {
  const numbers = now.numbers.map((value, k) => value - before.numbers[k]);
  const bound = numbers.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return { values: new Values(numbers, now.steps, now.units), bound: bound || 1 };
}

/** The record and its numbers. A part is one layer of a module in one direction. */
export class Data {
  constructor(record, numbers) {
    this.record = record;
    this.parts = record.parts;
    this.sequences = record.sequences;
    this.numbers = numbers;
    this.originals = new Map(); // by sequence, what it was before its edits
  }

  /** The parts that read a sequence. */
  partsOf(sequence) {
    const { places } = this.sequences[sequence];
    return [...this.parts.keys()].filter((part) => Object.keys(places[part]).length);
  }

  /** The values with this name, of one part and one sequence. */
  values(part, sequence, name) {
    const { steps, places } = this.sequences[sequence];
    const units = this.parts[part].units[name];
    const start = places[part][name];
    return new Values(this.numbers.subarray(start, start + steps * units), steps, units);
  }

  /** The values before the edits of the sequence; null if it has none. */
  before(part, sequence, name) {
    const kept = this.originals.get(sequence);
    if (!kept) return null;
    const { steps, places } = this.sequences[sequence];
    const units = this.parts[part].units[name];
    const start = places[part][name] - kept.start;
    return new Values(kept.numbers.subarray(start, start + steps * units), steps, units);
  }

  /** For each part and name the number of values of a sequence. */
  sizes(sequence) {
    const { places, steps } = this.sequences[sequence];
    return places.map((names, part) => Object.fromEntries(
      Object.keys(names).map((name) => [name, steps * this.parts[part].units[name]])));
  }

  /** Replaces the numbers of a sequence and what stands around them, as a backend computes them with edits. */
  replace(sequence, { numbers, strip, prediction }) {
    const shown = this.sequences[sequence];
    if (!this.originals.has(sequence)) {
      const start = Math.min(...shown.places.flatMap((names) => Object.values(names)));
      const kept = this.numbers.slice(start, start + lengthOf(this.record, sequence));
      this.originals.set(sequence, { start, numbers: kept, strip: shown.strip, prediction: shown.prediction });
    }
    shown.places.forEach((names, part) => {
      for (const [name, start] of Object.entries(names)) this.numbers.set(numbers[part][name], start);
    });
    if (strip) shown.strip = strip;
    if (prediction) shown.prediction = prediction;
  }

  /** Makes a sequence what it was before its edits. */
  restore(sequence) {
    const kept = this.originals.get(sequence);
    if (!kept) return;
    this.originals.delete(sequence);
    this.numbers.set(kept.numbers, kept.start);
    Object.assign(this.sequences[sequence], { strip: kept.strip, prediction: kept.prediction });
  }

  /** The result of a formula of the cell for one unit and step; NaN where it needs what is not traced. */
  evaluate(formula, part, sequence, step, unit) {
    if (formula === null) return NaN;
    if (typeof formula === "number") return formula;
    const [op, ...args] = formula;
    if (op === "now" || op === "before") {
      const backward = this.parts[part].backward;
      const at = op === "now" ? step : step + (backward ? 1 : -1);
      if (!(args[0] in this.parts[part].units)) return NaN;
      const values = this.values(part, sequence, args[0]);
      const inside = at >= 0 && at < values.steps && unit < values.units;
      return inside ? values.at(at, unit) : NaN;
    }
    return OPERATIONS[op](...args.map((arg) => this.evaluate(arg, part, sequence, step, unit)));
  }
}

const OPERATIONS = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  neg: (a) => -a,
  sigmoid: (a) => 1 / (1 + Math.exp(-a)),
  tanh: Math.tanh,
  relu: (a) => Math.max(a, 0),
  exp: Math.exp,
  log: Math.log,
  softplus: (a) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a))),
  maximum: Math.max,
  minimum: Math.min,
  greater: (a, b) => (a > b ? 1 : 0),
  detach: (a) => a,
};

/** A number as text: as many digits as the page's numbers have, at most `most`. */
export function formatter(precision, most = 4) {
  const digits = Math.min(most, precision === "float16" ? 3 : 4);
  return (value) => {
    if (Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    const text = size && (size < 1e-3 || size >= 1e5) ? value.toExponential(digits - 2) : value.toPrecision(digits);
    return text.replaceAll("-", "−");
  };
}
