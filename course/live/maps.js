// The explorer's maps, filled block by block by the engine. Rollout is computed when it is asked.

import { Maps } from "live/explorer";

export class LiveMaps extends Maps {
  constructor(spec) {
    const rows = spec.layers * spec.heads * spec.tokens;
    super(
      { ...spec },
      new Uint8Array(rows * (spec.tokens - spec.special)),
      new Float32Array(rows),
      new Float32Array(rows * spec.special),
    );
    this.means = Array.from({ length: spec.layers }, () => new Float32Array(spec.tokens ** 2));
    this.norms = Array.from({ length: spec.layers }, () => new Float32Array(spec.tokens));
    this.changes = null;
  }

  set({ layer, weights, largest, specials, mean, norms }) {
    this.weights.set(weights, layer * weights.length);
    this.largest.set(largest, layer * largest.length);
    this.specials.set(specials, layer * specials.length);
    this.means[layer] = mean;
    this.norms[layer] = norms;
  }

  read(view, query, into) {
    return view.kind in this.extras ? this.rollout(query, into) : super.read(view, query, into);
  }

  // One row of the product of all (A + I) / 2, the last block first. A block that is skipped, or
  // has no head left, hands every token on as it is. (Abnar and Zuidema 2020, section 3.)
  rollout(query, into) {
    into.fill(0);
    into[query] = 1;
    const before = new Float32Array(this.tokens);
    for (let l = this.layers - 1; l >= 0; l--) {
      const mean = this.means[l];
      const on = this.changes.off.subarray(l * this.heads, (l + 1) * this.heads);
      if (this.changes.skipped[l] || on.every(Boolean)) continue;
      before.set(into);
      for (let j = 0; j < this.tokens; j++) into[j] = before[j] / 2;
      for (let i = 0; i < this.tokens; i++) {
        if (before[i] === 0) continue;
        const share = before[i] / 2;
        for (let j = 0; j < this.tokens; j++) into[j] += share * mean[i * this.tokens + j];
      }
    }
    return into;
  }

  describe(view) {
    const { kind, layer, head } = view;
    const words = super.describe(view);
    if (kind in this.extras || !this.changes) return words;
    if (this.changes.skipped[layer]) return `${words} (block skipped)`;
    const off = kind === "head" && this.changes.off[layer * this.heads + head];
    return off ? `${words} (off)` : words;
  }
}
