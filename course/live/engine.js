// Runs the model: one ONNX graph a block, so that a change in block 8 computes block 8 and what
// follows, and no more. Lives in a worker, so that the page stays smooth while it computes.

// Floats of 16 bits as floats of 32: the bits moved to where they belong, and the bias of the
// exponent, 127 in place of 15, put right by a product, which is exact for small ones too.
export function widened(buffer) {
  const halves = new Uint16Array(buffer);
  const bits = new Uint32Array(halves.length);
  const floats = new Float32Array(bits.buffer);
  for (let i = 0; i < halves.length; i++) {
    bits[i] = ((halves[i] & 0x8000) << 16) | ((halves[i] & 0x7fff) << 13);
    floats[i] *= 2 ** 112;
  }
  return bits.buffer;
}

export class Engine {
  // urls: of onnxruntime-web and of resample.js. assets: the wasm file, weights and graphs, as bytes.
  static async load({ urls, assets, spec }) {
    const engine = new Engine();
    const [ort, resample] = await Promise.all([import(urls.ort), import(urls.resample)]);
    Object.assign(engine, { ort, resample, spec, steps: [] });
    ort.env.wasm.wasmBinary = assets["ort.wasm.gz"];
    // More threads need headers that neither a plain server nor a disk sends.
    if (!globalThis.crossOriginIsolated) ort.env.wasm.numThreads = 1;
    const path = "weights.bin"; // as the graphs call it
    const data = new Uint8Array(spec.half ? widened(assets[path]) : assets[path]);
    // More optimisation than this takes a second longer to load, and gains nothing that was measured.
    const options = { graphOptimizationLevel: "basic", externalData: [{ path, data }] };
    const session = (name) => ort.InferenceSession.create(new Uint8Array(assets[name]), options);
    engine.patches = await session("patches.onnx");
    engine.blocks = [];
    for (const name of spec.blocks) engine.blocks.push(await session(name));
    engine.head = await session("head.onnx");
    return engine;
  }

  // A picture (ImageBitmap) becomes tokens. Returns the bytes that the model sees.
  async look(bitmap) {
    const { width, height } = this.spec.input;
    const rgb = this.resample.resize(bitmap, this.spec.input);
    const pixels = this.resample.toPixels(rgb, this.spec.input);
    const input = new this.ort.Tensor("float32", pixels, [1, 3, height, width]);
    const { tokens } = await this.patches.run({ pixels: input });
    this.steps = []; // what each block got and gave
    this.tokens = tokens;
    return rgb;
  }

  // The answer after every block, with some heads, blocks and patches left out:
  // heads (layers x heads) and gains (layers) are 1 or 0, keep names the tokens that stay.
  async answer({ heads, gains, keep }) {
    const { ort } = this;
    const count = this.spec.maps.heads;
    const first = this.#firstChanged(heads, gains, keep);
    for (let l = first; l < this.blocks.length; l++) {
      const given = l === 0 ? this.tokens : this.steps[l - 1].out;
      const chosen = l === 0 ? keep : keep.map((_, i) => i); // later blocks keep all they get
      const on = heads.slice(l * count, (l + 1) * count);
      const found = await this.blocks[l].run({
        tokens: given,
        keep: new ort.Tensor("int64", BigInt64Array.from(chosen, BigInt), [keep.length]),
        heads: new ort.Tensor("float32", on, [count]),
        gain: new ort.Tensor("float32", gains.slice(l, l + 1), [1]),
      });
      this.steps[l] = { on, gain: gains[l], keep, ...found };
    }
    const width = this.spec.width;
    const cls = new Float32Array(this.blocks.length * width);
    this.steps.forEach(({ out }, l) => cls.set(out.data.subarray(0, width), l * width));
    const input = new ort.Tensor("float32", cls, [this.blocks.length, width]);
    const { logits } = await this.head.run({ cls: input });
    return { logits: logits.data, first };
  }

  #firstChanged(heads, gains, keep) {
    const count = this.spec.maps.heads;
    const same = (a, b) => a.length === b.length && a.every((value, i) => value === b[i]);
    const changed = this.blocks.findIndex((_, l) => {
      const step = this.steps[l];
      const on = heads.subarray(l * count, (l + 1) * count);
      return !step || step.gain !== gains[l] || !same(step.on, on) || !same(step.keep, keep);
    });
    return changed < 0 ? this.blocks.length : changed;
  }

  // The maps of one block as the explorer keeps them: each row of patches as bytes, relative to
  // its largest. Tokens that were left out get zeros. `mean` is over the heads that are on.
  maps(l) {
    const { heads, tokens, special } = this.spec.maps;
    const { attention, norms, keep, on } = this.steps[l];
    const data = attention.data;
    const patches = tokens - special;
    const weights = new Uint8Array(heads * tokens * patches);
    const largest = new Float32Array(heads * tokens);
    const specials = new Float32Array(heads * tokens * special);
    const mean = new Float32Array(tokens * tokens);
    const working = on.reduce((a, b) => a + b, 0);
    let from = 0;
    for (let h = 0; h < heads; h++) {
      for (const token of keep) {
        const row = h * tokens + token;
        let top = 0;
        for (let j = special; j < keep.length; j++) top = Math.max(top, data[from + j]);
        largest[row] = top;
        const scale = top > 0 ? 255 / top : 0;
        for (let j = 0; j < special; j++) specials[row * special + j] = data[from + j];
        for (let j = special; j < keep.length; j++) {
          weights[row * patches + keep[j] - special] = data[from + j] * scale + 0.5;
        }
        if (on[h]) {
          for (let j = 0; j < keep.length; j++) {
            mean[token * tokens + keep[j]] += data[from + j] / working;
          }
        }
        from += keep.length;
      }
    }
    const all = new Float32Array(tokens);
    keep.forEach((token, i) => (all[token] = norms.data[i]));
    return { layer: l, weights, largest, specials, mean, norms: all };
  }
}

// Answers messages, in a worker or beside the page. `reply` takes a message and what it hands over.
export function serve(reply) {
  let engine = null;
  const work = {
    async load(message) {
      engine = await Engine.load(message);
    },
    async look({ bitmap }) {
      const rgb = await engine.look(bitmap);
      bitmap.close();
      reply({ type: "seen", rgb }, [rgb.buffer]);
    },
    async answer({ heads, gains, keep, base }) {
      const start = performance.now();
      const { logits, first } = await engine.answer({ heads, gains, keep });
      reply({ type: "answer", logits, base, ms: performance.now() - start });
      for (let l = first; l < engine.blocks.length; l++) {
        const maps = engine.maps(l);
        const { weights, largest, specials, mean } = maps;
        reply({ type: "maps", base, maps }, [weights, largest, specials, mean].map((a) => a.buffer));
      }
      reply({ type: "done", base });
    },
  };
  let queue = Promise.resolve(); // one after the other
  return (message) => {
    queue = queue.then(() => work[message.type](message)).catch((error) => {
      reply({ type: "failed", doing: message.type, words: String(error?.message ?? error) });
    });
  };
}
