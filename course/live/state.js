// What a visitor has changed, and the link that brings it back.

export class Changes {
  constructor({ layers, heads, patches, special }) {
    Object.assign(this, { layers, heads, patches, special });
    this.reset();
  }

  reset() {
    this.off = new Uint8Array(this.layers * this.heads); // 1: this head is off
    this.skipped = new Uint8Array(this.layers); // 1: this block hands on what it gets
    this.hidden = new Uint8Array(this.patches); // 1: the model does not get this patch
  }

  get count() {
    const sum = (values) => values.reduce((a, b) => a + b, 0);
    return { heads: sum(this.off), blocks: sum(this.skipped), patches: sum(this.hidden) };
  }

  get none() {
    return Object.values(this.count).every((count) => count === 0);
  }

  // What the engine takes.
  get order() {
    const keep = Array.from({ length: this.special }, (_, i) => i);
    this.hidden.forEach((hidden, i) => hidden || keep.push(this.special + i));
    return {
      heads: Float32Array.from(this.off, (off) => 1 - off),
      gains: Float32Array.from(this.skipped, (skipped) => 1 - skipped),
      keep,
    };
  }

  get words() {
    const { heads, blocks, patches } = this.count;
    const some = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;
    const parts = [];
    if (heads) parts.push(`${some(heads, "head")} off`);
    if (blocks) parts.push(`${some(blocks, "block")} skipped`);
    if (patches) parts.push(`${some(patches, "patch").replace("patchs", "patches")} of ${this.patches} hidden`);
    return parts.join(", ");
  }
}

// Bits as hexadecimal digits, the first bit first; nothing where all are 0.
export function toHex(bits) {
  let text = "";
  for (let i = 0; i < bits.length; i += 4) {
    let digit = 0;
    for (let k = 0; k < 4; k++) digit = 2 * digit + (bits[i + k] ?? 0);
    text += digit.toString(16);
  }
  return /[^0]/.test(text) ? text.replace(/0+$/, "") : "";
}

export function fromHex(text, into) {
  for (let i = 0; i < into.length; i++) {
    const digit = parseInt(text?.[i >> 2] ?? "0", 16) || 0;
    into[i] = (digit >> (3 - (i % 4))) & 1;
  }
}

// The part of the address behind #: the changes and what is shown, without the picture; only a
// photograph of the page has a name that can stand there.
export function toLink({ changes, photo, view, norm }) {
  const parts = new URLSearchParams();
  const set = (name, value) => value !== "" && value !== null && parts.set(name, value);
  set("photo", photo);
  set("heads", toHex(changes.off));
  set("blocks", toHex(changes.skipped));
  set("patches", toHex(changes.hidden));
  set("map", `${view.kind}.${view.layer}.${view.head}`);
  set("norm", norm);
  return `#${parts}`;
}

export function fromLink(hash, changes) {
  const parts = new URLSearchParams(hash.slice(1));
  fromHex(parts.get("heads"), changes.off);
  fromHex(parts.get("blocks"), changes.skipped);
  fromHex(parts.get("patches"), changes.hidden);
  // Without a single patch there is nothing to look at.
  if (changes.hidden.every(Boolean)) changes.hidden.fill(0);
  const found = { photo: parts.get("photo"), norm: null, view: null };
  const [, kind, layer, head] = parts.get("map")?.match(/^(head|mean|0)\.(\d+)\.(\d+)$/) ?? [];
  if (kind && layer < changes.layers && head < changes.heads) {
    found.view = { kind, layer: Number(layer), head: Number(head) };
  }
  const norm = parts.get("norm");
  if (/^\d+$/.test(norm ?? "") && norm < changes.layers) found.norm = Number(norm);
  return found;
}
