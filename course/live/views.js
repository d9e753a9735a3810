// What the page shows beside the explorer: the answer, the blocks, the heads, the lengths.

import { best, make, percent } from "live/explorer";

export const $ = (id) => document.getElementById(id);

export function softmax(logits) {
  const top = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const shares = Float64Array.from(logits, (x) => Math.exp(x - top));
  const sum = shares.reduce((a, b) => a + b, 0);
  return shares.map((x) => x / sum);
}

// ImageNet names a class by several words: the first is enough where there is little room.
export const short = (name) => name.split(",")[0];

export const points = (change) =>
  `${change < 0 ? "−" : "+"}${(100 * Math.abs(change)).toFixed(1)} points`;

// Rows and columns that a key moves by.
export const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

// --- the answer ------------------------------------------------------------------------------

// The five most probable classes, with a mark where the unchanged model was.
export class Top {
  constructor(classes, count = 5) {
    this.classes = classes;
    this.lines = Array.from({ length: Math.min(count, classes.length) }, () => {
      const line = {
        name: make("span", { className: "name" }),
        fill: make("i"),
        mark: make("u", { hidden: true }),
        value: make("b"),
        change: make("small"),
      };
      const bar = make("span", { className: "bar" }, line.fill, line.mark);
      line.element = make("li", {}, line.name, line.value, bar, line.change);
      $("top").append(line.element);
      return line;
    });
  }

  draw(shares, unchanged) {
    const changed = unchanged !== shares;
    best(shares, this.lines.length).forEach((k, i) => {
      const line = this.lines[i];
      line.name.textContent = short(this.classes[k]);
      line.name.title = this.classes[k];
      line.value.textContent = percent(shares[k]);
      line.fill.style.transform = `scaleX(${shares[k].toFixed(4)})`;
      line.mark.hidden = !changed;
      line.mark.style.left = `${(100 * unchanged[k]).toFixed(2)}%`;
      line.change.textContent = changed ? `${points(shares[k] - unchanged[k])}, before ${percent(unchanged[k])}` : "";
    });
  }
}

// --- the answer after each block -------------------------------------------------------------

export class Lens {
  constructor(classes, layers) {
    this.classes = classes;
    this.lines = Array.from({ length: layers }, (_, l) => {
      const name = make("span", { className: "name" });
      const line = { name, fill: make("i"), value: make("b") };
      const bar = make("span", { className: "bar" }, line.fill);
      const number = make("span", { className: "number" }, String(l));
      line.element = make("li", {}, number, line.name, bar, line.value);
      $("blocks").append(line.element);
      return line;
    });
  }

  draw(shares, skipped) {
    const answer = best(shares.at(-1), 1)[0];
    shares.forEach((row, l) => {
      const [k] = best(row, 1);
      const { element, name, fill, value } = this.lines[l];
      name.textContent = short(this.classes[k]);
      fill.style.transform = `scaleX(${row[k].toFixed(4)})`;
      value.textContent = percent(row[k]);
      element.classList.toggle("same", k === answer);
      element.classList.toggle("skipped", skipped[l] === 1);
      const final = k === answer ? "" : `; ${this.classes[answer]} ${percent(row[answer])}`;
      element.title = `After block ${l}: ${this.classes[k]} ${percent(row[k])}${final}`;
    });
  }
}

// --- all heads: a small map each, and a switch ------------------------------------------------

export class Board {
  constructor(spec, app) {
    this.spec = spec;
    this.app = app; // { changes, look(layer, head), switchHead(...), switchBlock(l) }
    const { layers, heads, rows, columns } = spec;
    this.canvas = $("maps-of-heads");
    this.canvas.width = heads * (columns + 1) - 1;
    this.canvas.height = layers * (rows + 1) - 1;
    const grid = $("heads");
    grid.style.setProperty("--heads", heads);
    grid.style.setProperty("--layers", layers);
    this.blocks = [];
    this.cells = [];
    for (let l = 0; l < layers; l++) {
      const block = make("button", { className: "block-switch" }, String(l));
      block.addEventListener("click", () => app.switchBlock(l));
      this.blocks.push(block);
      grid.append(block);
      for (let h = 0; h < heads; h++) {
        const cell = make("button", { className: "head", tabIndex: l + h ? -1 : 0 });
        cell.addEventListener("click", () => this.click(l, h));
        cell.addEventListener("focus", () => this.tell(l, h));
        cell.addEventListener("pointerenter", () => this.tell(l, h));
        this.cells.push(cell);
        grid.append(cell);
      }
    }
    grid.addEventListener("keydown", (event) => this.key(event));
    this.weights = new Float32Array(spec.tokens);
  }

  get mode() {
    return document.querySelector("input[name=click]:checked").value;
  }

  click(l, h) {
    if (this.mode === "look") this.app.look(l, h);
    else this.app.switchHead(l, h);
    this.tell(l, h);
  }

  key(event) {
    const at = this.cells.indexOf(document.activeElement);
    if (at < 0) return;
    const { heads, layers } = this.spec;
    const [l, h] = [Math.floor(at / heads), at % heads];
    if (event.key === "x") this.app.switchHead(l, h);
    else if (event.key in ARROWS) {
      const [down, right] = ARROWS[event.key];
      const row = Math.min(layers - 1, Math.max(0, l + down));
      const column = Math.min(heads - 1, Math.max(0, h + right));
      this.cells[at].tabIndex = -1;
      const next = this.cells[row * heads + column];
      next.tabIndex = 0;
      next.focus();
    } else return;
    event.preventDefault();
  }

  tell(l, h) {
    const { maps, changes } = this.app;
    if (!maps) return;
    maps.read({ kind: "head", layer: l, head: h }, 0, this.weights);
    const cls = this.weights.subarray(0, maps.special).reduce((a, b) => a + b, 0);
    const off = changes.off[l * this.spec.heads + h] ? " It is off." : "";
    $("head-words").textContent =
      `Layer ${l}, head ${h}: [CLS] keeps ${percent(cls)} of its attention for itself.${off}`;
  }

  // Each head from the token that the explorer asks; bright is where it looks.
  draw(maps, query, view, colours) {
    const { layers, heads, rows, columns } = this.spec;
    const pen = this.canvas.getContext("2d");
    this.image ??= pen.createImageData(this.canvas.width, this.canvas.height);
    const { data, width } = this.image;
    for (let l = 0; l < layers; l++) {
      for (let h = 0; h < heads; h++) {
        const row = ((l * heads + h) * maps.tokens + query) * maps.patches;
        for (let i = 0; i < maps.patches; i++) {
          const x = h * (columns + 1) + (i % columns);
          const y = l * (rows + 1) + Math.floor(i / columns);
          const at = 4 * (y * width + x);
          const from = 3 * maps.weights[row + i];
          data[at] = colours[from];
          data[at + 1] = colours[from + 1];
          data[at + 2] = colours[from + 2];
          data[at + 3] = 255;
        }
      }
    }
    pen.putImageData(this.image, 0, 0);
    this.mark(view);
  }

  // Names and states of the switches. Text goes only where it changed: there are many.
  mark(view) {
    const { changes } = this.app;
    this.cells.forEach((cell, i) => {
      const [l, h] = [Math.floor(i / this.spec.heads), i % this.spec.heads];
      const off = changes.off[i] === 1 || changes.skipped[l] === 1;
      const here = view.kind === "head" && view.layer === l && view.head === h;
      const state = `${off ? "off" : "on"}${here ? ", shown" : ""}`;
      if (cell.dataset.state === state) return;
      cell.dataset.state = state;
      cell.classList.toggle("off", off);
      cell.classList.toggle("here", here);
      cell.setAttribute("aria-label", `Layer ${l}, head ${h}: ${state}`);
    });
    this.blocks.forEach((block, l) => {
      block.setAttribute("aria-pressed", changes.skipped[l] === 1);
      block.setAttribute("aria-label", `Skip block ${l}`);
      block.title = changes.skipped[l] ? `Block ${l} is skipped: click to use it` : `Skip block ${l}`;
    });
  }
}

// --- the lengths of the tokens -----------------------------------------------------------------

// The lengths of the patches that are not hidden, the shortest first.
const inOrder = (maps, norms) =>
  norms.subarray(maps.special).filter((_, i) => !maps.hidden[i]).sort();

export class Norms {
  constructor(spec, app) {
    this.spec = spec;
    const { layers, rows, columns } = spec;
    Object.assign($("norm-map"), { width: columns, height: rows });
    Object.assign($("norm-block"), { max: layers - 1, value: layers - 1 });
    $("norm-block").addEventListener("input", () => app.normChanged());
  }

  get block() {
    return Number($("norm-block").value);
  }

  picture(grey) {
    const ground = $("norm-ground");
    Object.assign(ground, { width: grey.width, height: grey.height });
    ground.getContext("2d").drawImage(grey, 0, 0);
    $("norm-stage").style.aspectRatio = `${grey.width} / ${grey.height}`;
  }

  draw(maps, colours) {
    const block = this.block;
    const norms = maps.norms[block];
    const order = inOrder(maps, norms);
    const [least, middle, most] = [order[0], order[order.length >> 1], order.at(-1)];
    const pen = $("norm-map").getContext("2d");
    const cells = pen.createImageData(maps.columns, maps.rows);
    for (let i = 0; i < maps.patches; i++) {
      const share = (norms[maps.special + i] - least) / (most - least || 1);
      const from = 3 * Math.max(0, Math.min(255, Math.round(255 * share)));
      cells.data.set([...colours.subarray(from, from + 3), maps.hidden[i] ? 0 : 255], 4 * i);
    }
    pen.putImageData(cells, 0, 0);
    $("norm-number").textContent = String(block);
    const longest = maps.place(norms.subarray(maps.special).indexOf(most));
    const figure = (x) => x.toFixed(1);
    $("norm-words").textContent =
      `Patches: ${figure(least)} to ${figure(most)}, half of them below ${figure(middle)}. ` +
      `The longest is in ${longest}. [CLS]: ${figure(norms[0])}.`;
    this.#curve(maps);
  }

  // How the lengths grow: the middle half of the patches, the longest, and [CLS], by block.
  #curve(maps) {
    const canvas = $("norm-curve");
    const style = getComputedStyle(document.body);
    const [ink, soft, accent, tint] = ["--ink", "--soft", "--accent", "--accent-tint"].map((name) =>
      style.getPropertyValue(name),
    );
    const rows = maps.norms.map((norms) => {
      const order = inOrder(maps, norms);
      const at = (share) => order[Math.round(share * (order.length - 1))];
      return { low: at(0.25), high: at(0.75), middle: at(0.5), most: at(1), cls: norms[0] };
    });
    const top = Math.max(...rows.map((row) => Math.max(row.most, row.cls)));
    const pen = canvas.getContext("2d");
    // As wide as it is shown, so that its words are as large as the others on a phone too.
    const [width, height] = [Math.min(640, canvas.clientWidth || 640), 220];
    Object.assign(canvas, { width: 2 * width, height: 2 * height });
    canvas.style.aspectRatio = `${width} / ${height}`;
    pen.scale(2, 2);
    const x = (l) => 34 + (l / Math.max(1, rows.length - 1)) * (width - 104);
    const y = (value) => height - 34 - (value / top) * (height - 50);
    pen.fillStyle = tint;
    pen.beginPath();
    rows.forEach((row, l) => pen.lineTo(x(l), y(row.high)));
    [...rows].reverse().forEach((row, i) => pen.lineTo(x(rows.length - 1 - i), y(row.low)));
    pen.fill();
    pen.font = "15px system-ui, sans-serif";
    pen.lineWidth = 2;
    const lines = [
      ["cls", "[CLS]", ink, [7, 4]],
      ["most", "longest", soft, [2, 4]],
      ["middle", "middle", accent, []],
    ];
    const ends = [];
    for (const [key, name, colour, dash] of lines) {
      pen.strokeStyle = pen.fillStyle = colour;
      pen.setLineDash(dash);
      pen.beginPath();
      rows.forEach((row, l) => pen.lineTo(x(l), y(row[key])));
      pen.stroke();
      let place = y(rows.at(-1)[key]) + 5;
      while (ends.some((other) => Math.abs(other - place) < 17)) place += 3;
      ends.push(place);
      pen.fillText(name, x(rows.length - 1) + 9, place);
    }
    pen.setLineDash([]);
    pen.fillStyle = soft;
    pen.textAlign = "right";
    for (const value of [0, top]) pen.fillText(value.toFixed(0), 27, y(value) + 5);
    pen.textAlign = "center";
    for (const l of [0, rows.length - 1]) pen.fillText(l === 0 ? "block 0" : String(l), x(l), height - 8);
    pen.textAlign = "left";
    pen.strokeStyle = soft;
    pen.lineWidth = 1;
    pen.strokeRect(x(this.block), 8, 0, height - 42);
    const last = rows.at(-1);
    canvas.setAttribute(
      "aria-label",
      `Lengths by block. Middle patch: ${rows[0].middle.toFixed(1)} after block 0, ` +
        `${last.middle.toFixed(1)} after the last. [CLS]: ${rows[0].cls.toFixed(1)}, then ${last.cls.toFixed(1)}.`,
    );
  }
}
