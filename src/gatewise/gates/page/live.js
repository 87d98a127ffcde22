// The backend of a served page: the numbers in pieces, and edits that the server computes.

const PIECE = 4 << 20; // bytes of one request

let complete = Promise.resolve(); // when all numbers are there

/** The backend for the server that this page came from. */
export const live = {
  /**
   * The numbers of the page: a Float32Array that is complete up to `first`; the others follow, and
   * `arrived()` is called after each piece of them. They are NaN until then.
   */
  async numbers(count, first, arrived) {
    const bytes = new Uint8Array(count * 4);
    const found = new Float32Array(bytes.buffer).fill(NaN);
    const piece = async (start) => {
      const end = Math.min(start + PIECE, bytes.length);
      const answer = await fetch("numbers", { headers: { Range: `bytes=${start}-${end - 1}` } });
      if (answer.status !== 206) throw new Error(`the server answered ${answer.status} to a request for numbers`);
      bytes.set(new Uint8Array(await answer.arrayBuffer()), start);
      return end;
    };
    let at = 0;
    while (at < first * 4) at = await piece(at);
    const rest = async () => {
      while (at < bytes.length) {
        at = await piece(at);
        arrived();
      }
    };
    complete = rest();
    complete.catch((error) => console.warn(error.message)); // what is missing stays a dash
    return found;
  },

  /** The values of a sequence with edits: see `start` in main.js. */
  async trace(change, sizes) {
    await complete;
    const answer = await fetch("edit", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(change),
    }).catch(() => {
      throw new Error("the server does not answer: it may have been stopped");
    });
    if (!answer.ok) throw new Error((await answer.json()).error);
    const buffer = await answer.arrayBuffer();
    const begin = 4 + new DataView(buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, begin - 4)));
    const values = new Float32Array(buffer, begin);
    let at = 0;
    const numbers = sizes.map((names) => Object.fromEntries(Object.entries(names).map(
      ([name, size]) => [name, values.subarray(at, (at += size))])));
    return { ...head, numbers };
  },
};
