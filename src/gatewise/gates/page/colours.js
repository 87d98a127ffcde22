// Colour scales of the heat maps. Both are readable with every kind of colour blindness: their lightness is
// monotone for gates, and symmetric around the middle for signed values, whose ends are brown and teal.
const SCALES = {
  light: {
    gate: ["#f6f8fa", "#b9d3df", "#5f97b5", "#235a86", "#0c2747"],
    signed: ["#7a4406", "#cf9b4f", "#f5f5f2", "#5fb3a8", "#01574f"],
  },
  dark: {
    gate: ["#10171e", "#1d4059", "#2f739d", "#77b9d8", "#eaf7fd"],
    signed: ["#f3b673", "#9a6423", "#161e26", "#1f7f76", "#72e0d2"],
  },
};

/** A function of a number from 0 to 1 that gives a colour as text. */
export function scale(theme, signed) {
  return d3.piecewise(d3.interpolateRgb, SCALES[theme][signed ? "signed" : "gate"]);
}

/** 256 colours as 32-bit pixels, for ImageData. */
export function pixels(theme, signed) {
  const colour = scale(theme, signed);
  const table = new Uint32Array(256);
  for (let k = 0; k < 256; k++) {
    const { r, g, b } = d3.rgb(colour(k / 255));
    table[k] = (255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r);
  }
  return table;
}

/** Whether text on this colour should be white. */
export function isDark(colour) {
  const { r, g, b } = d3.rgb(colour);
  return 0.299 * r + 0.587 * g + 0.114 * b < 140;
}
