// What is chosen on the page, and who wants to know when it changes.
export class Store {
  #listeners = [];
  #pending = new Set();

  constructor(state) {
    this.state = state;
  }

  /** Calls `listener(state)` at the next frame after any of these keys has changed. */
  on(keys, listener) {
    this.#listeners.push({ keys, listener });
  }

  set(changes) {
    for (const [key, value] of Object.entries(changes)) {
      if (Object.is(this.state[key], value)) continue;
      this.state[key] = value;
      if (!this.#pending.size) requestAnimationFrame(() => this.#notify());
      this.#pending.add(key);
    }
  }

  #notify() {
    const changed = this.#pending;
    this.#pending = new Set();
    for (const { keys, listener } of this.#listeners) {
      if (keys.some((key) => changed.has(key))) listener(this.state);
    }
  }
}
