// The cell's flow chart with the numbers of the chosen unit and step in its boxes.
import { isDark, scale } from "gatewise/colours";

export class Diagram {
  constructor(place, equation, data, store, format) {
    Object.assign(this, { place, equation, data, store, format, at: null });
    this.hint = document.getElementById("diagram-wide");
    place.addEventListener("scroll", () => this.#edges(), { passive: true });
    new ResizeObserver(() => this.#edges()).observe(place);
    store.on(["part", "theme"], () => this.#fill());
    store.on(["part", "sequence", "step", "unit", "theme", "edits"], () => this.update());
    this.#fill();
  }

  /** Shows on which sides there is more of a chart that is wider than its place. */
  #edges() {
    const { scrollLeft, scrollWidth, clientWidth, classList } = this.place;
    classList.toggle("more-left", scrollLeft > 1);
    classList.toggle("more-right", scrollLeft + clientWidth < scrollWidth - 1);
    this.hint.hidden = this.place.hidden || scrollWidth <= clientWidth + 1;
  }

  /** Puts the chart of the part's cell in place. */
  #fill() {
    const part = this.data.parts[this.store.state.part];
    const template = document.getElementById(`diagram-${part.cell}`);
    this.place.replaceChildren();
    this.boxes = [];
    this.at = null;
    this.place.hidden = this.hint.hidden = !template;
    this.equation.textContent = template
      ? "Point at a box, or move to it with the Tab key: its equation and its number stand here."
      : "This layer has no diagram.";
    if (!template) return;
    this.place.append(template.content.cloneNode(true));
    const svg = this.place.firstElementChild;
    svg.style.minWidth = `${Math.round(0.82 * svg.viewBox.baseVal.width)}px`; // else it cannot be read
    svg.style.maxWidth = `${Math.round(1.3 * svg.viewBox.baseVal.width)}px`;
    const described = this.data.record.cells[part.cell].boxes;
    this.boxes = [...this.place.querySelectorAll(".box")].map((node) => {
      const box = { node, ...described[Number(node.dataset.box)] };
      node.setAttribute("tabindex", "0");
      for (const event of ["pointerenter", "focus"]) node.addEventListener(event, () => this.#say(box));
      node.addEventListener("click", () => this.#show(box));
      node.addEventListener("keydown", (event) => {
        if (event.key === "Enter") this.#show(box);
      });
      return box;
    });
    this.#edges();
    this.update();
  }

  #value(box) {
    const { part, sequence, step, unit } = this.store.state;
    return this.data.evaluate(box.value, part, sequence, step, unit);
  }

  update() {
    const { theme, part } = this.store.state;
    const { ranges } = this.data.parts[part];
    const colour = scale(theme, false);
    for (const box of this.boxes) {
      const value = this.#value(box);
      box.node.querySelector(".number").textContent = this.format(value);
      box.node.classList.toggle("unknown", Number.isNaN(value));
      const gate = box.name in ranges && !ranges[box.name].signed && value >= 0 && value <= 1;
      const shape = box.node.querySelector(".shape");
      if (gate && box.node.classList.contains("layer")) {
        const filled = colour(value);
        shape.style.fill = filled;
        box.node.style.setProperty("--text", isDark(filled) ? "#fff" : "#17202a");
      } else {
        shape.style.fill = "";
        box.node.style.removeProperty("--text");
      }
    }
    if (this.at) this.#say(this.at);
  }

  #say(box) {
    this.at = box;
    const equation = box.name ? `${box.name}[t] = ${box.equation}` : box.equation;
    const value = this.#value(box);
    const unknown = "its value is not traced";
    this.equation.textContent = `${equation}  =  ${Number.isNaN(value) ? unknown : this.format(value)}`;
  }

  /** Brings the heat map of a box's value into view. */
  #show(box) {
    this.#say(box);
    if (box.name) document.getElementById(`map-${box.name}`)?.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }
}
