// The page: pictures in, changes in, everything that is shown out of the engine's answers.

import { Explorer, best, inGrey, make, percent } from "live/explorer";
import { LiveMaps } from "live/maps";
import { Refused, open, photograph } from "live/picture";
import { Changes, fromLink, toLink } from "live/state";
import { Tour } from "live/tour";
import { $, ARROWS, Board, Lens, Norms, Top, points, short, softmax } from "live/views";

const SPEAK_AFTER_MS = 600;

// --- what the page is made of ------------------------------------------------------------------

// A file of the page's folder, or out of the page itself where it is one file.
async function bytes(name) {
  const inside = document.querySelector(`script[data-asset="${name}"]`);
  const response = inside ? null : await fetch(name);
  if (response && !response.ok) throw new Error(`${name} is missing in the folder of this page.`);
  const raw = inside
    ? Uint8Array.from(atob(inside.textContent), (c) => c.charCodeAt(0))
    : new Uint8Array(await response.arrayBuffer());
  inside?.remove();
  const packed = raw[0] === 31 && raw[1] === 139; // some servers unpack it themselves
  if (!packed) return raw.buffer;
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// The engine in a worker of its own; beside the page where the browser allows none.
async function startEngine(receive) {
  const source =
    "let work; onmessage = async ({ data }) => { if (data.engine) { const { serve } = await " +
    "import(data.engine); work = serve((m, hand = []) => postMessage(m, hand)); postMessage({ type: 'ready' }); } " +
    "else work(data); };";
  const engine = import.meta.resolve("live/engine");
  try {
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const worker = new Worker(url);
    await new Promise((ready, failed) => {
      worker.onmessage = ready;
      worker.onerror = failed;
      worker.postMessage({ engine });
    });
    worker.onmessage = ({ data }) => receive(data);
    return (message, hand = []) => worker.postMessage(message, hand);
  } catch {
    const { serve } = await import(engine);
    return serve((message) => setTimeout(() => receive(message)));
  }
}

// WebAssembly with SIMD: a module whose one function makes a vector and drops it.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11];

function missing() {
  if (!globalThis.WebAssembly?.validate(Uint8Array.from(SIMD))) return "WebAssembly with SIMD";
  if (!("DecompressionStream" in globalThis)) return "DecompressionStream";
  if (!("OffscreenCanvas" in globalThis)) return "OffscreenCanvas";
  return null;
}

// --- the page ------------------------------------------------------------------------------------

class App {
  constructor(spec, colours) {
    Object.assign(this, { spec, colours });
    const { maps } = spec;
    this.patches = maps.tokens - maps.special;
    this.changes = new Changes({ ...maps, patches: this.patches });
    this.link = fromLink(location.hash, this.changes);
    this.base = new LiveMaps(maps); // of the unchanged model
    this.base.changes = new Changes({ ...maps, patches: this.patches });
    this.maps = new LiveMaps(maps);
    this.maps.changes = this.changes;
    this.top = new Top(spec.classes);
    this.lens = new Lens(spec.classes, maps.layers);
    this.board = new Board(maps, this);
    this.norms = new Norms(maps, this);
    this.busy = 0; // answers that are on their way
    this.photo = this.brush = this.cursor = null;
    this.#words();
    this.#listen();
    const show = (kind) => this.explorer?.panels[0].choose({ kind, layer: maps.layers - 1, head: 0 });
    const shows = { 3: () => show("head"), 4: () => show("0"), 5: () => this.#hideCentre() };
    this.tour = new Tour(shows);
  }

  async start() {
    this.loading = this.#load();
    await Promise.all([this.loading, this.#photos()]);
    if (!this.canvas) await this.take(...this.first, this.changes);
  }

  async #load() {
    const names = ["ort.wasm.gz", "weights.bin", "patches.onnx", ...this.spec.blocks, "head.onnx"];
    const engine = startEngine((message) => this.receive(message));
    const [send, ...loaded] = await Promise.all([engine, ...names.map(bytes)]);
    const assets = Object.fromEntries(names.map((name, i) => [name, loaded[i]]));
    const [ort, resample] = ["live/ort", "live/resample"].map((name) => import.meta.resolve(name));
    this.send = send;
    this.send({ type: "load", urls: { ort, resample }, assets, spec: this.spec }, loaded);
  }

  // --- from the engine ---------------------------------------------------------------------------

  receive(message) {
    if (message.type === "failed") {
      this.busy = 0;
      this.trouble(`The model stopped while it was to ${message.doing}: ${message.words}`);
    } else if (message.type === "seen") this.rgb = message.rgb;
    else if (message.type === "answer") this.answered(message);
    else if (message.type === "maps") {
      if (message.base) this.base.set(message.maps);
      this.maps.set(message.maps);
    } else if (message.type === "done") {
      this.busy -= 1;
      if (message.base) this.ready = true;
      if (this.explorer) this.explorer.update(this.maps, this.grey);
      else this.#explore();
      if (this.again) this.ask();
      document.body.dataset.state = this.busy ? "busy" : "ready";
    }
  }

  answered({ logits, base, ms }) {
    const { layers } = this.spec.maps;
    const classes = this.spec.classes.length;
    const shares = Array.from({ length: layers }, (_, l) =>
      softmax(logits.subarray(l * classes, (l + 1) * classes)),
    );
    this.logits = logits.slice((layers - 1) * classes);
    if (base) this.unchanged = shares.at(-1);
    this.shares = shares.at(-1);
    const same = base || this.changes.none;
    this.top.draw(this.shares, same ? this.shares : this.unchanged);
    this.lens.draw(shares, base ? this.base.changes.skipped : this.changes.skipped);
    $("time").textContent = `Computed in ${ms.toFixed(0)} ms on your machine.`;
    this.#tell(same);
  }

  // Ask the model about the picture as it is changed now; one question at a time.
  ask() {
    this.maps.hidden = this.changes.hidden;
    if (!this.unchangedAsked || !this.send) return;
    this.again = this.busy > 0;
    if (this.again) return;
    this.#send(this.changes.order, false);
  }

  #send(order, base) {
    this.busy += 1;
    document.body.dataset.state = "busy";
    this.send({ type: "answer", base, ...order });
  }

  #tell(same) {
    const [k] = best(this.shares, 1);
    const [before] = best(this.unchanged, 1);
    const [name, old] = [k, before].map((i) => short(this.spec.classes[i]));
    let words = `The model answers ${name}, ${percent(this.shares[k])}.`;
    if (!same) {
      const change = points(this.shares[before] - this.unchanged[before]);
      words = `With ${this.changes.words}: ${name}, ${percent(this.shares[k])}. `;
      words += `The unchanged model's ${old} moves by ${change}.`;
    }
    $("changes").textContent = same ? "" : words;
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => ($("spoken").textContent = words), SPEAK_AFTER_MS);
  }

  // --- pictures ------------------------------------------------------------------------------------

  async #photos() {
    const { photos } = this.spec;
    for (const { name, file } of photos) {
      const blob = new Blob([await bytes(file)]);
      const image = make("img", { src: URL.createObjectURL(blob), alt: "" });
      const button = make("button", { className: "photo", title: name }, image);
      button.setAttribute("aria-label", `Photograph: ${name}`);
      const opened = () => open(blob, name, 1);
      button.addEventListener("click", () => this.take(opened, name));
      $("photos").append(button);
      if (!this.first || name === this.link.photo) this.first = [opened, name];
    }
  }

  // Show a picture; `changes` are kept where the link brought them.
  async take(opened, photo = null, changes = null) {
    document.body.dataset.state = "busy";
    try {
      const [taken] = await Promise.all([opened(), this.loading]);
      if (!taken) return;
      this.trouble("");
      this.photo = photo;
      if (!changes) this.#reset();
      const { bitmap, canvas } = taken;
      this.send({ type: "look", bitmap }, [bitmap]);
      this.#send(this.base.changes.order, true); // it computes while the page draws
      this.canvas = canvas;
      this.grey = inGrey(canvas, canvas.width, canvas.height);
      this.norms.picture(this.grey);
      this.#paint();
      for (const button of $("photos").children) {
        button.setAttribute("aria-pressed", button.title === photo);
      }
      this.unchangedAsked = true;
      if (!this.changes.none) this.#send(this.changes.order, false);
      this.maps.hidden = this.changes.hidden;
      this.#remember();
    } catch (error) {
      this.trouble(error.message);
      if (!(error instanceof Refused)) throw error;
    } finally {
      if (!this.busy) document.body.dataset.state = "ready";
    }
  }

  trouble(words) {
    $("trouble").textContent = words;
    $("trouble").hidden = !words;
  }

  // --- changes -------------------------------------------------------------------------------------

  changed() {
    this.board.mark(this.view);
    this.#paint();
    this.ask();
    $("reset").disabled = this.changes.none;
    this.#remember();
  }

  #reset() {
    this.changes.reset();
    this.maps.hidden = this.changes.hidden;
    $("keep-on").checked = false;
    $("reset").disabled = true;
  }

  look(layer, head) {
    this.explorer?.panels[0].choose({ kind: "head", layer, head });
  }

  switchHead(layer, head) {
    this.changes.off[layer * this.spec.maps.heads + head] ^= 1;
    this.changed();
  }

  switchBlock(layer) {
    this.changes.skipped[layer] ^= 1;
    this.changed();
  }

  // Hide or show the patches under the brush. One patch stays: without any there is no picture.
  stroke(patch, hide) {
    const { columns, rows } = this.spec.maps;
    const reach = (Number($("brush-size").value) - 1) / 2;
    const [row, column] = [Math.floor(patch / columns), patch % columns];
    let moved = false;
    for (let y = Math.max(0, row - reach); y <= Math.min(rows - 1, row + reach); y++) {
      for (let x = Math.max(0, column - reach); x <= Math.min(columns - 1, column + reach); x++) {
        const i = y * columns + x;
        if (this.changes.hidden[i] === Number(hide)) continue;
        if (hide && this.changes.count.patches === this.patches - 1) continue;
        this.changes.hidden[i] = Number(hide);
        moved = true;
      }
    }
    if (!moved) return;
    $("keep-on").checked = false;
    this.changed();
  }

  // Keep the strongest patches of the map that the explorer shows, as the unchanged model has it.
  keepStrongest() {
    const count = Number($("keep").value);
    $("keep-count").textContent = `${count} of ${this.patches} patches`;
    if (!this.ready) return;
    this.changes.hidden.fill(0);
    if ($("keep-on").checked) {
      const weights = new Float32Array(this.base.tokens);
      this.base.read(this.view, this.query, weights);
      const order = best(weights.subarray(this.base.special), this.patches);
      for (const patch of order.slice(count)) this.changes.hidden[patch] = 1;
    }
    this.changed();
  }

  // --- the explorer ------------------------------------------------------------------------------

  get view() {
    const first = { kind: "mean", layer: this.spec.maps.layers - 1, head: 0 };
    return this.explorer?.panels[0].view ?? this.link.view ?? first;
  }

  get query() {
    return this.explorer?.panels[0].query ?? 0;
  }

  #explore() {
    const view = this.view;
    const spec = {
      colours: this.spec.colours,
      opacity: this.spec.opacity,
      start: [view, { ...view, layer: view.layer >> 1 }],
      compare: false,
    };
    this.explorer = new Explorer(spec, this.maps, this.colours, this.grey);
    this.explorer.drawn = () => this.drawn();
    $("explorer").append(this.explorer.element);
    if (this.link.norm !== null) $("norm-block").value = this.link.norm;
  }

  drawn() {
    this.board.draw(this.maps, this.query, this.view, this.colours);
    const { view } = this;
    const seen = `${view.kind} ${view.layer} ${view.head}`;
    if (seen !== this.seen) {
      this.seen = seen;
      this.#remember();
    }
    if (!this.busy && this.normsOf !== this.logits) {
      this.normsOf = this.logits;
      this.norms.draw(this.maps, this.colours);
    }
  }

  normChanged() {
    this.norms.draw(this.maps, this.colours);
    this.#remember();
  }

  // --- the picture and its brush ---------------------------------------------------------------

  #paint() {
    if (!this.canvas) return;
    const seen = $("seen");
    const cover = $("hidden-patches");
    const { width, height } = this.canvas;
    if (seen.source !== this.canvas) {
      Object.assign(seen, { width, height, source: this.canvas });
      seen.getContext("2d").drawImage(this.canvas, 0, 0);
      Object.assign(cover, { width: 2 * width, height: 2 * height });
      $("stage").style.aspectRatio = `${width} / ${height}`;
    }
    const { rows, columns } = this.spec.maps;
    const pen = cover.getContext("2d");
    const [w, h] = [cover.width / columns, cover.height / rows];
    pen.clearRect(0, 0, cover.width, cover.height);
    pen.strokeStyle = "rgb(255 255 255 / 28%)";
    pen.lineWidth = 1.5;
    pen.beginPath();
    for (let x = 1; x < columns; x++) pen.rect(x * w, 0, 0, cover.height);
    for (let y = 1; y < rows; y++) pen.rect(0, y * h, cover.width, 0);
    pen.stroke();
    this.changes.hidden.forEach((hidden, i) => {
      if (!hidden) return;
      const [x, y] = [(i % columns) * w, Math.floor(i / columns) * h];
      pen.fillStyle = "rgb(24 28 33 / 93%)";
      pen.fillRect(x, y, w, h);
      pen.strokeStyle = "rgb(255 255 255 / 30%)"; // a line across, so that black is not mistaken
      pen.beginPath();
      pen.moveTo(x, y + h);
      pen.lineTo(x + w, y);
      pen.stroke();
    });
  }

  #listenToStage() {
    const stage = $("stage");
    const { rows, columns } = this.spec.maps;
    const patchAt = (event) => {
      const box = stage.getBoundingClientRect();
      const at = (offset, size, count) =>
        Math.min(count - 1, Math.max(0, Math.floor((offset / size) * count)));
      const row = at(event.clientY - box.top, box.height, rows);
      return row * columns + at(event.clientX - box.left, box.width, columns);
    };
    const cursor = $("cursor");
    const point = (patch) => {
      this.cursor = patch;
      cursor.hidden = patch === null;
      if (patch === null) return;
      const size = Number($("brush-size").value);
      const reach = (size - 1) / 2;
      Object.assign(cursor.style, {
        left: `${(100 * ((patch % columns) - reach)) / columns}%`,
        top: `${(100 * (Math.floor(patch / columns) - reach)) / rows}%`,
        width: `${(100 * size) / columns}%`,
        height: `${(100 * size) / rows}%`,
      });
    };
    const hides = () => document.querySelector("input[name=brush]:checked").value === "hide";
    const paint = (event) => this.brush !== null && this.stroke(patchAt(event), this.brush);
    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      stage.setPointerCapture(event.pointerId);
      this.brush = hides();
      if (event.pointerType !== "touch") paint(event); // a finger may be about to scroll
    });
    stage.addEventListener("pointermove", (event) => {
      point(patchAt(event));
      paint(event);
    });
    stage.addEventListener("pointerup", (event) => {
      paint(event);
      this.brush = null;
    });
    stage.addEventListener("pointercancel", () => (this.brush = null));
    stage.addEventListener("pointerleave", () => point(null));
    stage.addEventListener("blur", () => point(null));
    stage.addEventListener("keydown", (event) => {
      const from = this.cursor ?? Math.floor(rows / 2) * columns + (columns >> 1);
      if (event.key in ARROWS) {
        const [down, right] = this.cursor === null ? [0, 0] : ARROWS[event.key];
        const row = Math.min(rows - 1, Math.max(0, Math.floor(from / columns) + down));
        point(row * columns + Math.min(columns - 1, Math.max(0, (from % columns) + right)));
      } else if (event.key === " " || event.key === "Enter") {
        point(from);
        this.stroke(from, !this.changes.hidden[from]);
      } else return;
      const where = `row ${Math.floor(this.cursor / columns) + 1}, column ${(this.cursor % columns) + 1}`;
      const state = this.changes.hidden[this.cursor] ? "hidden" : "shown";
      clearTimeout(this.speaking);
      $("spoken").textContent = `${where}: ${state}`;
      event.preventDefault();
    });
  }

  // --- words, buttons, link, tour ------------------------------------------------------------------

  // The sizes of the model go into the words of the page.
  #words() {
    const { maps, parameters, classes, patch, input, width, name } = this.spec;
    const sizes = { ...maps, patch, width, name, patches: this.patches, classes: classes.length };
    sizes.size = `${input.width} × ${input.height}`;
    sizes.millions = (parameters / 1e6).toFixed(parameters < 1e7 ? 1 : 0);
    for (const element of document.querySelectorAll(".fill")) {
      element.textContent = element.textContent.replace(/\{(\w+)\}/g, (_, key) => sizes[key]);
    }
    Object.assign($("keep"), { max: this.patches, value: Math.round(this.patches / 8) });
    $("keep-count").textContent = `${$("keep").value} of ${this.patches} patches`;
  }

  #listen() {
    this.#listenToStage();
    $("reset").addEventListener("click", () => {
      this.#reset();
      this.changed();
    });
    $("keep").addEventListener("input", () => {
      $("keep-on").checked = true;
      this.keepStrongest();
    });
    $("keep-on").addEventListener("change", () => this.keepStrongest());
    $("file").addEventListener("change", () => {
      this.files($("file").files);
      $("file").value = "";
    });
    $("camera").addEventListener("click", () =>
      this.take(() => photograph($("camera-dialog"), $("video"), $("shoot"), $("no-shot"))),
    );
    addEventListener("paste", (event) => this.files(event.clipboardData.files));
    addEventListener("dragover", (event) => {
      event.preventDefault();
      $("drop").hidden = false;
    });
    addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) $("drop").hidden = true;
    });
    addEventListener("drop", (event) => {
      event.preventDefault();
      $("drop").hidden = true;
      this.files(event.dataTransfer.files);
    });
    $("share").addEventListener("click", async () => {
      this.#remember();
      try {
        await navigator.clipboard.writeText(location.href);
        $("share").textContent = "Copied";
      } catch {
        $("share").textContent = "It is in the address bar";
      }
      setTimeout(() => ($("share").textContent = "Copy link"), 2000);
    });
    addEventListener("hashchange", () => location.reload()); // another link, typed or pasted
    $("theme").addEventListener("click", () => theme(!isDark()));
  }

  files([file]) {
    if (file) this.take(() => open(file, file.name || "The picture", this.spec.patch));
  }

  #remember() {
    const { changes, photo, view } = this;
    history.replaceState(null, "", toLink({ changes, photo, view, norm: this.norms.block }));
  }

  #hideCentre() {
    const { rows, columns } = this.spec.maps;
    this.#reset();
    for (let i = 0; i < this.patches; i++) {
      const [y, x] = [Math.floor(i / columns) + 0.5 - rows / 2, (i % columns) + 0.5 - columns / 2];
      if (Math.abs(y) < rows / 4 && Math.abs(x) < columns / 4) this.changes.hidden[i] = 1;
    }
    this.changed();
  }
}

// --- dark and light ------------------------------------------------------------------------------

const isDark = () => document.body.dataset.jpThemeLight === "false";

// The explorer looks at JupyterLab's attribute, so the page has the same.
function theme(dark) {
  document.body.dataset.jpThemeLight = String(!dark);
  $("theme").setAttribute("aria-pressed", dark);
  const app = globalThis.live;
  if (app?.ready) app.norms.draw(app.maps, app.colours);
}

theme(matchMedia("(prefers-color-scheme: dark)").matches);
const lacks = missing();
try {
  if (lacks) throw new Error(`This page needs ${lacks}: use a browser from 2023 or later.`);
  const [spec, colours] = await Promise.all([bytes("spec.json"), bytes("colours.bin")]);
  globalThis.live = new App(JSON.parse(new TextDecoder().decode(spec)), new Uint8Array(colours));
  await globalThis.live.start();
} catch (error) {
  $("trouble").textContent = error.message;
  $("trouble").hidden = false;
  console.warn(error);
}
