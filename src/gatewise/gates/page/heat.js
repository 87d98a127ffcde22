// Heat maps, units × steps, drawn from a picture of the whole sequence that is made once.
import { pixels } from "gatewise/colours";

const TILE = 8192; // steps; a canvas may not be much wider

/** The map of one value of the cell. */
export class HeatMap {
  #tiles = [];

  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
  }

  /** Colours the values. `order` has the units from the top. `bound` is the value of the last colour. */
  colour(values, order, bound, signed, theme) {
    const table = pixels(theme, signed);
    const factor = (signed ? 127.5 : 255) / bound;
    const middle = signed ? 127.5 : 0;
    const { steps, units } = this.values = values;
    this.#tiles = [];
    for (let first = 0; first < steps; first += TILE) {
      const wide = Math.min(TILE, steps - first);
      const tile = new OffscreenCanvas(wide, units);
      const context = tile.getContext("2d");
      const image = context.createImageData(wide, units);
      const target = new Uint32Array(image.data.buffer);
      for (let row = 0; row < units; row++) {
        const unit = order ? order[row] : row;
        let from = first * units + unit;
        for (let k = 0; k < wide; k++, from += units) {
          const at = middle + values.numbers[from] * factor;
          // a value that is not a number stays transparent
          if (at === at) target[row * wide + k] = table[at < 0 ? 0 : at > 255 ? 255 : at + 0.5 | 0];
        }
      }
      context.putImageData(image, 0, 0);
      this.#tiles.push({ first, wide, tile });
    }
  }

  /** Fits the canvas to its place on the page. */
  resize() {
    const density = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = Math.max(1, Math.round(clientWidth * density));
    this.canvas.height = Math.max(1, Math.round(clientHeight * density));
  }

  /** Draws the steps from `start` to `end`. */
  draw(start, end, marks) {
    const { context, canvas } = this;
    context.clearRect(0, 0, canvas.width, canvas.height);
    const scale = canvas.width / (end - start);
    context.imageSmoothingEnabled = scale < 1; // where a step is narrower than a pixel
    for (const { first, wide, tile } of this.#tiles) {
      if (first + wide <= start || first >= end) continue;
      const left = Math.max(start, first);
      const right = Math.min(end, first + wide);
      context.drawImage(tile, left - first, 0, right - left, tile.height,
        (left - start) * scale, 0, (right - left) * scale, canvas.height);
    }
    this.#mark(start, scale, marks);
  }

  #mark(start, scale, { range, step, row, hover, hoverRow, ink, accent }) {
    const { context, canvas } = this;
    const tall = canvas.height / this.values.units;
    if (range) {
      context.strokeStyle = accent;
      context.lineWidth = 2;
      for (const edge of [range[0], range[1] + 1]) {
        const x = (edge - start) * scale;
        context.beginPath();
        context.moveTo(x, 0);
        context.lineTo(x, canvas.height);
        context.stroke();
      }
    }
    const box = (at, line, colour) => {
      context.strokeStyle = colour;
      context.lineWidth = 1;
      context.strokeRect((at - start) * scale - 0.5, -1, Math.max(scale, 2) + 1, canvas.height + 2);
      if (line === null) return;
      context.strokeRect(-1, line * tall - 0.5, canvas.width + 2, Math.max(tall, 2) + 1);
    };
    if (hover !== null) box(hover, hoverRow, ink);
    box(step, row, accent);
  }
}
