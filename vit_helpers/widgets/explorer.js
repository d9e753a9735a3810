// The attention explorer in the browser: one module for Jupyter (where anywidget calls `render`),
// for the exported page (where a few lines of `page.py` do) and for the live page (`course/live`,
// which makes an `Explorer` and gives it new maps). It asks no kernel and no network.

const STRONGEST = 5; // patches that are named in words
const SPEAK_AFTER_MS = 400; // a screen reader hears where the pointer rests, not where it passes

// --- data ------------------------------------------------------------------------------------

async function inflate(view) {
  if (!("DecompressionStream" in globalThis)) {
    throw new Error("The attention explorer needs a browser from 2023 or later.");
  }
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

const floatsOf = (view) => new Float32Array(bytesOf(view).slice().buffer);

// All maps of one picture. Each row of each matrix is kept as one byte a patch, relative to the
// row's largest patch, and one number for each special token.
class Maps {
  constructor(spec, weights, largest, specials) {
    Object.assign(this, spec); // layers, heads, tokens, special, rows, columns, extras
    this.weights = weights;
    this.largest = largest;
    this.specials = specials;
    let first = this.layers * this.heads * this.tokens;
    for (const extra of this.extras) {
      extra.first = first;
      first += extra.queries;
    }
    this.patches = this.rows * this.columns;
    this.hidden = new Uint8Array(this.patches); // 1: the model does not get this patch
  }

  // How much the token `query` attends to each token, as Float32Array (tokens), in `into`.
  read({ kind, layer, head }, query, into) {
    into.fill(0);
    if (kind === "head") this.#add((layer * this.heads + head) * this.tokens + query, 1, into);
    else if (kind === "mean") {
      for (let h = 0; h < this.heads; h++) {
        this.#add((layer * this.heads + h) * this.tokens + query, 1 / this.heads, into);
      }
    } else this.#add(this.extras[kind].first + query, 1, into);
    return into;
  }

  #add(row, factor, into) {
    for (let i = 0; i < this.special; i++) {
      into[i] += factor * this.specials[row * this.special + i];
    }
    const scale = (factor * this.largest[row]) / 255;
    for (let i = 0; i < this.patches; i++) {
      into[this.special + i] += scale * this.weights[row * this.patches + i];
    }
  }

  // Some extra maps exist from [CLS] only.
  hasQuery({ kind }, query) {
    return kind === "head" || kind === "mean" || query < this.extras[kind].queries;
  }

  describe({ kind, layer, head }) {
    if (kind === "head") return `Layer ${layer}, head ${head}`;
    if (kind === "mean") return `Layer ${layer}, mean of ${this.heads} heads`;
    return this.extras[kind].name;
  }

  tokenName(token) {
    if (token === 0) return "[CLS]";
    return token < this.special ? `register ${token}` : this.place(token - this.special);
  }

  place(patch) {
    return `row ${Math.floor(patch / this.columns) + 1}, column ${(patch % this.columns) + 1}`;
  }
}

// The same words as in the figures of the course.
function percent(share) {
  return share === 0 || share >= 0.0005 ? `${(100 * share).toFixed(1)} %` : "below 0.1 %";
}

// Where the largest values are, the largest first.
function best(values, count) {
  return Array.from(values.keys()).sort((a, b) => values[b] - values[a]).slice(0, count);
}

// --- small helpers of the page ---------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && name !== "role") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function select(choices, value, changed) {
  const box = make("select", { className: "vx-select" });
  for (const [key, words] of choices) box.append(make("option", { value: key }, words));
  box.value = value;
  box.addEventListener("change", () => changed(box.value));
  return box;
}

function slider(label, last, value, changed, words = String) {
  const output = make("output", {}, words(value));
  const input = make("input", { type: "range", min: 0, max: last, step: 1 });
  input.setAttribute("aria-label", label);
  input.value = value;
  input.addEventListener("input", () => {
    output.textContent = words(Number(input.value));
    changed(Number(input.value));
  });
  const row = make("label", { className: "vx-field vx-slider" }, make("span", {}, label), input);
  row.append(output);
  return {
    row,
    enable(on) {
      input.disabled = !on;
      row.classList.toggle("vx-off", !on);
    },
    set(value) {
      input.value = value;
      output.textContent = words(value);
    },
  };
}

function field(label, input) {
  input.setAttribute("aria-label", label); // the text of the label holds all choices as well
  return make("label", { className: "vx-field" }, make("span", {}, label), input);
}

function checkbox(label, checked, changed) {
  const box = make("input", { type: "checkbox", checked });
  box.addEventListener("change", () => changed(box.checked));
  return make("label", { className: "vx-check" }, box, label);
}

// The picture in grey, so that all colour on it is attention.
async function greyPicture(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return inGrey(image, image.naturalWidth, image.naturalHeight);
}

function inGrey(image, width, height) {
  const canvas = make("canvas", { width, height });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const pixels = pen.getImageData(0, 0, width, height);
  const { data } = pixels;
  for (let i = 0; i < data.length; i += 4) {
    data[i] = data[i + 1] = data[i + 2] = 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2];
  }
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

// --- one map with its controls and its words --------------------------------------------------

class Panel {
  constructor(app, name, view) {
    this.app = app;
    this.name = name;
    this.view = { ...view };
    this.weights = new Float32Array(app.maps.tokens);
    const { maps } = app;

    // Layers, so that a move redraws only what changes: the grey picture, the map with one pixel
    // a patch (the browser enlarges it), and marks.
    this.ground = make("canvas", { className: "vx-layer" });
    this.canvas = make("canvas", { className: "vx-layer vx-canvas" });
    this.canvas.width = maps.columns;
    this.canvas.height = maps.rows;
    this.numbers = Array.from({ length: Math.min(STRONGEST, maps.patches) }, (_, i) =>
      make("b", { className: "vx-cell" }, String(i + 1)),
    );
    this.kept = make("i", { className: "vx-cell vx-frame vx-kept" });
    this.asks = make("i", { className: "vx-cell vx-frame" });
    const marks = make("div", { className: "vx-layer vx-marks" });
    marks.append(...this.numbers, this.kept, this.asks);
    this.stage = make("div", { className: "vx-stage", tabIndex: 0 });
    this.stage.append(this.ground, this.canvas, marks);
    this.stage.setAttribute("role", "application");
    this.stage.setAttribute(
      "aria-label",
      `Map ${name}: a picture of ${maps.rows} by ${maps.columns} patches. Arrow keys go from ` +
        "patch to patch, Escape goes back to [CLS].",
    );
    this.frame();
    this.stage.style.setProperty("--vx-columns", maps.columns);
    this.stage.style.setProperty("--vx-rows", maps.rows);

    this.heading = make("strong");
    this.from = make("span");
    this.note = make("p", { className: "vx-note" });
    this.bar = make("canvas", { className: "vx-bar", width: 256, height: 1 });
    this.top = make("span");
    this.caption = make("p", { className: "vx-caption" }, "Strongest patches");
    this.list = make("ol", { className: "vx-list" });
    this.lines = Array.from({ length: Math.min(STRONGEST, maps.patches) }, () => {
      const place = make("span");
      const fill = make("i");
      const value = make("b");
      const meter = make("span", { className: "vx-meter" }, fill);
      const line = make("li", {}, place, meter, value);
      this.list.append(line);
      return { line, place, fill, value };
    });
    this.element = make(
      "section",
      { className: "vx-panel" },
      make("div", { className: "vx-choices" }, ...this.#choices()),
      make(
        "div",
        { className: "vx-picture" },
        this.stage,
        make("div", { className: "vx-scale" }, "0", this.bar, this.top),
      ),
      make(
        "div",
        { className: "vx-words" },
        make("p", { className: "vx-title" }, this.heading, " ", this.from),
        this.note,
        this.caption,
        this.list,
      ),
    );
    this.element.setAttribute("aria-label", `Map ${name}`);
    this.#listen();
  }

  #choices() {
    const { maps } = this.app;
    const kinds = [["head", "one head"], ["mean", "mean of the heads"]];
    maps.extras.forEach((extra, i) => kinds.push([String(i), extra.name]));
    const changed = (part) => this.choose(part);
    const layer = slider("Layer", maps.layers - 1, this.view.layer, (l) => changed({ layer: l }));
    const head = slider("Head", maps.heads - 1, this.view.head, (h) => changed({ head: h }));
    const kind = select(kinds, this.view.kind, (k) => changed({ kind: k }));
    this.controls = { kind, layer, head };
    this.#enable();
    return [field("Map", kind), layer.row, head.row];
  }

  #enable() {
    this.controls.layer.enable(["head", "mean"].includes(this.view.kind));
    this.controls.head.enable(this.view.kind === "head");
  }

  // Show another map: any of `kind`, `layer` and `head`.
  choose(part) {
    Object.assign(this.view, part);
    this.controls.kind.value = this.view.kind;
    this.controls.layer.set(this.view.layer);
    this.controls.head.set(this.view.head);
    this.#enable();
    this.app.changed();
  }

  // The stage takes the shape of the picture.
  frame() {
    const { width, height } = this.app.grey;
    this.stage.style.aspectRatio = `${width} / ${height}`;
    this.stage.style.setProperty("--vx-aspect", width / height);
  }

  #listen() {
    const { app, stage } = this;
    stage.addEventListener("pointermove", (event) => app.point(this.#patchAt(event)));
    stage.addEventListener("pointerleave", () => app.point(null));
    stage.addEventListener("click", (event) => app.pin(this.#patchAt(event)));
    stage.addEventListener("keydown", (event) => {
      if (app.key(event.key)) {
        event.preventDefault(); // the page would scroll
        event.stopPropagation(); // the notebook would go to another cell
      }
    });
  }

  #patchAt(event) {
    const { rows, columns } = this.app.maps;
    const at = (offset, size, count) =>
      Math.min(count - 1, Math.max(0, Math.floor((offset / size) * count)));
    const row = at(event.offsetY, this.height, rows);
    return row * columns + at(event.offsetX, this.width, columns);
  }

  // The grey picture gets as many pixels as the screen shows, once.
  resize() {
    this.width = this.stage.clientWidth;
    this.height = this.stage.clientHeight;
    const ratio = globalThis.devicePixelRatio || 1;
    this.ground.width = Math.max(1, Math.round(this.width * ratio));
    this.ground.height = Math.max(1, Math.round(this.height * ratio));
    const pen = this.ground.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.app.grey, 0, 0, this.ground.width, this.ground.height);
    const cell = Math.min(this.width / this.app.maps.columns, this.height / this.app.maps.rows);
    this.stage.style.setProperty("--vx-cell", `${cell}px`);
  }

  // Read the weights of the chosen map. Returns the largest of a patch.
  read() {
    const { maps } = this.app;
    this.query = maps.hasQuery(this.view, this.app.query) ? this.app.query : 0;
    maps.read(this.view, this.query, this.weights);
    const patches = this.weights.subarray(maps.special);
    this.order = best(patches, this.lines.length).map((patch) => maps.special + patch);
    return this.weights[this.order[0]];
  }

  // Draw the map, its colours from 0 to `largest`.
  draw(largest) {
    this.largest = largest;
    largest ||= 1;
    const { maps, colours, settings } = this.app;
    const pen = this.canvas.getContext("2d");
    this.cells ??= pen.createImageData(maps.columns, maps.rows);
    for (let i = 0; i < maps.patches; i++) {
      const share = Math.min(1, this.weights[maps.special + i] / largest);
      const from = 3 * (256 * settings.colours + Math.round(255 * share));
      for (let k = 0; k < 3; k++) this.cells.data[4 * i + k] = colours[from + k];
      this.cells.data[4 * i + 3] = maps.hidden[i] ? 0 : 255;
    }
    pen.putImageData(this.cells, 0, 0);
    this.canvas.style.opacity = settings.opacity;
    this.canvas.classList.toggle("vx-smooth", settings.smooth);
    this.#mark();
  }

  // Numbers on the strongest patches, a frame around the patch that asks and the one that is kept.
  #mark() {
    const { maps, pinned } = this.app;
    const put = (mark, patch) => {
      mark.hidden = patch === null;
      if (patch === null) return;
      const x = 100 * (patch % maps.columns);
      const y = 100 * Math.floor(patch / maps.columns);
      mark.style.transform = `translate(${x}%, ${y}%)`; // in percent of a patch: nothing is laid out
    };
    this.numbers.forEach((mark, i) => {
      const token = this.order[i];
      put(mark, this.weights[token] > 0 ? token - maps.special : null);
    });
    put(this.kept, pinned !== null && pinned + maps.special !== this.query ? pinned : null);
    put(this.asks, this.query >= maps.special ? this.query - maps.special : null);
  }

  write() {
    const { largest } = this;
    const { maps, pointed, pinned, query } = this.app;
    this.heading.textContent = maps.describe(this.view);
    this.from.textContent = `from ${this.#who(this.query)}`;
    this.top.textContent = percent(largest);
    this.order.forEach((token, i) => {
      const { line, place, fill, value } = this.lines[i];
      const weight = this.weights[token];
      line.hidden = weight === 0;
      place.textContent = maps.place(token - maps.special);
      fill.style.transform = `scaleX(${Math.min(1, weight / (largest || 1)).toFixed(3)})`;
      value.textContent = percent(weight).replace("below", "<"); // the column is narrow
    });
    const patch = pointed ?? pinned;
    const extra = maps.extras[this.view.kind];
    const special = this.weights.slice(0, maps.special).reduce((a, b) => a + b, 0);
    if (maps.hidden[patch] && this.query === patch + maps.special) {
      this.note.textContent = "This patch is hidden: the model does not get it.";
    } else if (this.query < maps.special && patch !== null) {
      const why = this.query === query ? "" : "This map exists from [CLS] only. ";
      const share = percent(this.weights[maps.special + patch]);
      this.note.textContent = `${why}The patch in ${maps.place(patch)} gets ${share}.`;
    } else if (extra?.relative) {
      this.note.textContent = "In percent of what all patches get together.";
    } else {
      const name = maps.special > 1 ? "[CLS] and registers get" : "[CLS] gets";
      const patches = percent(Math.max(0, 1 - special));
      this.note.textContent = `${name} ${percent(special)}, all patches together ${patches}.`;
    }
  }

  #who(token) {
    const name = this.app.maps.tokenName(token);
    return token < this.app.maps.special ? name : `the patch in ${name}`;
  }

  // All of it in words, for a screen reader.
  words() {
    const { maps } = this.app;
    const places = this.order
      .filter((token) => this.weights[token] > 0)
      .map((token) => `${maps.place(token - maps.special)}, ${percent(this.weights[token])}`);
    const what = `${this.heading.textContent} ${this.from.textContent}`;
    const list = `${this.caption.textContent}: ${places.join("; ") || "none"}.`;
    return `Map ${this.name}. ${what}. ${list} ${this.note.textContent}`;
  }
}

// --- all of it ---------------------------------------------------------------------------------

class Explorer {
  constructor(spec, maps, colours, grey) {
    Object.assign(this, { maps, colours, grey });
    this.settings = { colours: 0, opacity: spec.opacity, smooth: false, same: false };
    this.fixed = null; // a token that always asks, or null: the patch under the pointer
    this.pointed = null;
    this.pinned = null;
    this.panels = [new Panel(this, "A", spec.start[0]), new Panel(this, "B", spec.start[1])];
    this.live = make("p", { className: "vx-live" });
    this.live.setAttribute("aria-live", "polite");
    this.help = make(
      "p",
      { className: "vx-help" },
      "Point at a patch to see where it looks; click or tap to keep it. On the keyboard: ",
      "Tab to the picture, then arrow keys; Escape for [CLS].",
    );
    this.body = make("div", { className: "vx-panels" }, ...this.panels.map((p) => p.element));
    const root = make("div", { className: "vx-root" }, this.#toolbar(spec), this.body);
    root.append(this.help, this.live);
    // JupyterLab would take the arrow keys away. It asks the element that has the focus first.
    for (const element of root.querySelectorAll("input, select, .vx-stage")) {
      element.setAttribute("data-lm-suppress-shortcuts", "true");
    }
    this.element = root;
    this.compare(spec.compare);
    this.observer = new ResizeObserver(() => {
      for (const panel of this.panels) panel.resize();
      this.draw();
    });
    for (const panel of this.panels) this.observer.observe(panel.stage);
  }

  #toolbar(spec) {
    const tokens = Array.from({ length: this.maps.special }, (_, i) => [
      String(i),
      `${this.maps.tokenName(i)} only`,
    ]);
    const set = (part) => {
      Object.assign(this.settings, part);
      this.changed();
    };
    const from = select([["point", "the patch I point at"], ...tokens], "point", (value) => {
      this.fixed = value === "point" ? null : Number(value);
      this.changed();
    });
    const names = spec.colours.map((name, i) => [String(i), name]);
    const colours = select(names, "0", (value) => set({ colours: Number(value) }));
    const opacity = slider(
      "Opacity",
      100,
      100 * spec.opacity,
      (value) => set({ opacity: value / 100 }),
      (value) => `${value} %`,
    );
    this.same = checkbox("same scale", false, (same) => set({ same }));
    return make(
      "div",
      { className: "vx-toolbar" },
      field("From", from),
      field("Colours", colours),
      opacity.row,
      checkbox("smooth", false, (smooth) => set({ smooth })),
      checkbox("two maps", spec.compare, (two) => this.compare(two)),
      this.same,
    );
  }

  // Other maps of the same shape, and another picture if there is one.
  update(maps, grey = this.grey) {
    Object.assign(this, { maps });
    if (grey !== this.grey) {
      this.grey = grey;
      for (const panel of this.panels) {
        panel.frame();
        panel.resize();
      }
    }
    this.changed();
  }

  compare(two) {
    this.two = two;
    this.panels[1].element.hidden = !two;
    this.same.hidden = !two;
    this.body.classList.toggle("vx-two", two);
    this.changed();
  }

  get query() {
    const patch = this.pointed ?? this.pinned;
    return this.fixed ?? (patch === null ? 0 : patch + this.maps.special);
  }

  point(patch) {
    if (patch === this.pointed) return;
    this.pointed = patch;
    this.changed();
  }

  pin(patch) {
    this.pinned = patch === this.pinned ? null : patch;
    this.changed();
  }

  key(name) {
    const { rows, columns, patches } = this.maps;
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (name === "Escape") this.pinned = this.pointed = null;
    else if (name in steps) {
      const start = this.pinned ?? this.pointed;
      // The first key shows the patch in the middle, the next ones go on from there.
      const from = start ?? Math.floor(rows / 2) * columns + Math.floor(columns / 2);
      const [down, right] = start === null ? [0, 0] : steps[name];
      const row = Math.min(rows - 1, Math.max(0, Math.floor(from / columns) + down));
      const column = Math.min(columns - 1, Math.max(0, (from % columns) + right));
      this.pinned = Math.min(patches - 1, row * columns + column);
      this.pointed = null;
    } else return false;
    this.changed();
    return true;
  }

  // Draw once in the next frame, however much has changed until then.
  changed() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => this.#speak(), SPEAK_AFTER_MS);
  }

  get shown() {
    return this.two ? this.panels : this.panels.slice(0, 1);
  }

  draw() {
    if (!this.shown.every((panel) => panel.width)) return; // not laid out yet
    if (this.settings.colours !== this.barColours) this.#paintBars();
    const largest = this.shown.map((panel) => panel.read());
    const common = Math.max(...largest);
    this.shown.forEach((panel, i) => {
      panel.draw(this.two && this.settings.same ? common : largest[i]);
    });
    // The map first: laying out text takes longer, so the words follow in the next frame.
    clearTimeout(this.writing);
    this.writing = setTimeout(() => this.shown.forEach((panel) => panel.write()));
    this.drawn?.(); // the live page draws what depends on the view
  }

  #paintBars() {
    this.barColours = this.settings.colours;
    for (const { bar } of this.panels) {
      const pen = bar.getContext("2d");
      const cells = pen.createImageData(256, 1);
      for (let i = 0; i < 256; i++) {
        const from = 3 * (256 * this.barColours + i);
        cells.data.set([...this.colours.subarray(from, from + 3), 255], 4 * i);
      }
      pen.putImageData(cells, 0, 0);
    }
  }

  #speak() {
    if (this.shown.every((panel) => panel.order)) {
      this.live.textContent = this.shown.map((panel) => panel.words()).join(" ");
    }
  }

  close() {
    this.observer.disconnect();
    cancelAnimationFrame(this.frame);
    clearTimeout(this.writing);
    clearTimeout(this.speaking);
  }
}

async function render({ model, el }) {
  const spec = model.get("spec");
  const [weights, grey] = await Promise.all([
    inflate(model.get("weights")),
    greyPicture(model.get("picture")),
  ]);
  const [largest, specials] = ["largest", "specials"].map((name) => floatsOf(model.get(name)));
  const maps = new Maps(spec.maps, weights, largest, specials);
  const explorer = new Explorer(spec, maps, bytesOf(model.get("colours")), grey);
  el.append(explorer.element);
  return () => explorer.close();
}

export { Explorer, Maps, best, inGrey, make, percent };
export default { render };
