// Which units are on throughout a range of steps, and where else the same units are on (as LSTMVis asks).

/** The units that are above the threshold at every step from `first` to `last`. */
export function unitsOn(values, first, last, threshold) {
  const found = [];
  for (let unit = 0; unit < values.units; unit++) {
    let on = true;
    for (let step = first; on && step <= last; step++) on = values.at(step, unit) > threshold;
    if (on) found.push(unit);
  }
  return found;
}

/** The longest ranges of steps in which at least this share of the units is on at every step. */
export function rangesOn(values, units, threshold, share) {
  const needed = Math.max(1, Math.ceil(units.length * share));
  const found = [];
  let first = -1;
  for (let step = 0; step <= values.steps; step++) {
    let count = 0;
    if (step < values.steps) {
      for (const unit of units) if (values.at(step, unit) > threshold) count++;
    }
    if (count >= needed && units.length) {
      if (first < 0) first = step;
    } else if (first >= 0) {
      found.push([first, step - 1]);
      first = -1;
    }
  }
  return found;
}

/** Where else the units of a range are on: in all sequences, the ranges of nearly the same length first. */
export function alike(data, { part, sequence, shown, range, threshold, share }) {
  const own = data.values(part, sequence, shown);
  const units = unitsOn(own, range[0], range[1], threshold);
  const length = range[1] - range[0] + 1;
  const ranges = [];
  data.sequences.forEach((_, k) => {
    if (!data.partsOf(k).includes(part)) return;
    for (const [first, last] of rangesOn(data.values(part, k, shown), units, threshold, share)) {
      if (k === sequence && first <= range[1] && last >= range[0]) continue;
      ranges.push({ sequence: k, first, last });
    }
  });
  const difference = ({ first, last }) => Math.abs(Math.log((last - first + 1) / length));
  ranges.sort((a, b) => difference(a) - difference(b) || a.sequence - b.sequence || a.first - b.first);
  return { units, ranges };
}
