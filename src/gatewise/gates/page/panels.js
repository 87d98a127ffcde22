// Statistics: saturation plane, time scales, memory horizon, training. Each is an SVG with axes.

const WIDE = 320;
const TALL = 220;
const MARGIN = { left: 44, right: 12, top: 12, bottom: 36 };

function frame(title, description, { x, y, xName, yName, yTicks = 5 }) {
  const figure = d3.create("figure").attr("class", "panel");
  figure.append("figcaption").text(title);
  const svg = figure.append("svg").attr("viewBox", `0 0 ${WIDE} ${TALL}`)
    .attr("role", "img").attr("aria-label", description);
  const bottom = TALL - MARGIN.bottom;
  const ticks = (scale, count) => {
    const [low, high] = scale.domain();
    if (scale.base && high / low < 30) return d3.ticks(low, high, count).filter((t) => t > 0).map((t) => [t, String(t)]);
    const format = scale.tickFormat(count, scale.base && "~g");
    const written = scale.base ? (t) => short(t) : format;
    return scale.ticks(count).filter((t) => format(t)).map((t) => [t, written(t)]);
  };
  const short = (t) => d3.format(t < 1e-3 || t >= 1e5 ? ".0e" : "~g")(t); // 0.000001 is wider than the margin
  const whole = x.domain()[1] >= 2; // steps, units and rounds are counted
  for (const [t, text] of ticks(x, 5).filter(([t]) => !whole || Number.isInteger(t))) {
    svg.append("line").attr("class", "rule").attr("x1", x(t)).attr("x2", x(t)).attr("y1", MARGIN.top).attr("y2", bottom);
    svg.append("text").attr("x", x(t)).attr("y", bottom + 13).attr("text-anchor", "middle").text(whole ? d3.format(",d")(t) : text);
  }
  for (const [t, text] of ticks(y, yTicks)) {
    svg.append("line").attr("class", "rule").attr("x1", MARGIN.left).attr("x2", WIDE - MARGIN.right).attr("y1", y(t)).attr("y2", y(t));
    svg.append("text").attr("x", MARGIN.left - 5).attr("y", y(t) + 3).attr("text-anchor", "end").text(text);
  }
  svg.append("text").attr("x", (MARGIN.left + WIDE - MARGIN.right) / 2).attr("y", TALL - 6).attr("text-anchor", "middle").text(xName);
  svg.append("text").attr("transform", `translate(11 ${(MARGIN.top + bottom) / 2}) rotate(-90)`).attr("text-anchor", "middle").text(yName);
  return { figure, svg };
}

const across = [MARGIN.left, WIDE - MARGIN.right];
const up = [TALL - MARGIN.bottom, MARGIN.top];

/** For each gate and unit, how often it is nearly open and nearly closed (Karpathy et al. 2015). */
export function saturationPlane(part, store) {
  const gates = Object.entries(part.saturation);
  if (!gates.length) return null;
  const x = d3.scaleLinear([0, 1], across);
  const y = d3.scaleLinear([0, 1], up);
  const names = gates.map(([gate]) => gate).join(", ");
  const { figure, svg } = frame("Saturation", `Share of steps at which each unit's gate is open or closed, for ${names}`,
    { x, y, xName: "open (> .9), share of steps", yName: "closed (< .1), share" });
  svg.append("path").attr("class", "limit").attr("d", `M${x(0)} ${y(1)}L${x(1)} ${y(0)}`);
  gates.forEach(([gate, { open, closed }], k) => {
    svg.append("g").selectAll("circle").data(open).join("circle")
      .attr("class", `dot line-${(k % 6) + 1}`).attr("data-gate", gate).attr("data-unit", (_, unit) => unit)
      .attr("cx", (share) => x(share)).attr("cy", (_, unit) => y(closed[unit])).attr("r", 3.2)
      .each(function (share, unit) {
        d3.select(this).on("click", () => store.set({ unit }))
          .append("title").text(`unit ${unit}: ${gate} open ${(100 * share).toFixed(1)} %, closed ${(100 * closed[unit]).toFixed(1)} %`);
      });
  });
  figure.append(() => keys(gates.map(([gate]) => gate)));
  return figure.node();
}

/** How long each unit remembers: T = -1 / mean(ln f). */
export function timeScales(part, store) {
  const states = Object.entries(part.time_scales);
  if (!states.length) return null;
  const every = states.flatMap(([, scales]) => scales).filter((t) => t !== null && t > 0);
  if (!every.length) return null;
  const most = Math.max(...states.map(([, scales]) => scales.length));
  const x = d3.scaleLinear([0, most], across);
  const [low, high] = d3.extent(every);
  const y = d3.scaleLog([low / 1.3, high * 1.3], up);
  const { figure, svg } = frame("Time scales", "The time scale of each unit in steps, sorted",
    { x, y, xName: "units, sorted", yName: "steps", yTicks: 4 });
  states.forEach(([state, scales], k) => {
    const sorted = scales.map((scale, unit) => ({ scale, unit })).filter(({ scale }) => scale > 0)
      .sort((a, b) => b.scale - a.scale);
    svg.append("g").selectAll("circle").data(sorted).join("circle")
      .attr("class", `dot line-${(k % 6) + 1}`).attr("data-unit", ({ unit }) => unit)
      .attr("cx", (_, at) => x(at + 0.5)).attr("cy", ({ scale }) => y(scale)).attr("r", 3.2)
      .on("click", (_, { unit }) => store.set({ unit }))
      .append("title").text(({ scale, unit }) => `unit ${unit}: ${state} decays over ${scale.toPrecision(3)} steps`);
  });
  if (states.length > 1) figure.append(() => keys(states.map(([state]) => state)));
  return figure.node();
}

/** Lines over a common x: memory horizon, training losses. */
export function curves(title, description, lines, { xName, yName, first = 0, log = false }) {
  const every = lines.flatMap(([, values]) => values).filter((v) => v !== null && (!log || v > 0));
  const longest = Math.max(...lines.map(([, values]) => values.length));
  if (!every.length || longest < 2) return null;
  const x = d3.scaleLinear([first, first + longest - 1], across);
  const [low, high] = d3.extent(every);
  const y = log ? d3.scaleLog([low, high], up).nice() : d3.scaleLinear([low, high], up).nice();
  const { figure, svg } = frame(title, description, { x, y, xName, yName, yTicks: 4 });
  lines.forEach(([, values], k) => {
    const points = values.map((v, at) => [v, at]).filter(([v]) => v !== null && (!log || v > 0));
    svg.append("path").attr("class", `curve line-${(k % 6) + 1}`)
      .attr("d", points.map(([v, at], n) => `${n ? "L" : "M"}${x(first + at).toFixed(1)} ${y(v).toFixed(1)}`).join(""));
  });
  if (lines.length > 1) figure.append(() => keys(lines.map(([name]) => name)));
  return figure.node();
}

function keys(names) {
  const list = d3.create("p").attr("class", "legend");
  names.forEach((name, k) => list.append("span").style("--own", `var(--line-${(k % 6) + 1})`).text(name));
  return list.node();
}
