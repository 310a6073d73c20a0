// The map of the latent space: a canvas of item means, the history as a path through it, and the answers as rings in the decoders' colours.

import { announce, byId, element, plural } from "./dom.js";

const REACH = 16; // pixels from the pointer to the point that it means
const PAD = 14;
const ZOOM = 1.5;
const MAX_SCALE = 40;
const STEP = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export class LatentSpace {
  /** `onAdd(item)` where an item is chosen, `onPoint(itemId or null)` where one is pointed at. */
  constructor(canvas, { onAdd, onPoint }) {
    Object.assign(this, { canvas, onAdd, onPoint });
    this.label = byId("map-label");
    this.points = [];
    this.reach = [1, 1];
    this.idToPoint = new Map();
    this.history = [];
    this.rings = new Map();
    this.pointed = null;
    this.view = { x: 0, y: 0, scale: 1 };
    this.listen();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    canvas.addEventListener("pointerleave", () => this.leave());
    canvas.addEventListener("pointerdown", (event) => this.grabbed(event));
    canvas.addEventListener("pointerup", (event) => this.released(event));
    canvas.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.pressed(event));
    canvas.addEventListener("blur", () => this.leave());
    byId("map-in").addEventListener("click", () => this.zoom(ZOOM));
    byId("map-out").addEventListener("click", () => this.zoom(1 / ZOOM));
    byId("map-all").addEventListener("click", () => this.all());
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  setMap(map) {
    this.points = map.points;
    this.reach = ["x", "y"].map((axis) => Math.max(...map.points.map((point) => Math.abs(point[axis])), 0.01));
    this.idToPoint = new Map(map.points.map((point) => [point.item_id, point]));
    const [along, across] = map.explained.map((share) => `${Math.round(100 * share)} %`);
    const shown = map.points.length < map.num_items ? `The ${plural(map.points.length, "item")} of most entries` : `All ${plural(map.points.length, "item")} with entries`;
    byId("map-note").textContent = `${shown}, each where the mean of its hidden states lies; ${along} of the variance across, ${across} up.`;
    this.draw();
  }

  setHistory(history) {
    const places = history.map((entry, index) => ({ point: this.idToPoint.get(entry.item_id), number: index + 1 }));
    this.history = places.filter(({ point }) => point);
    this.draw();
  }

  /** `rings`: for every decoder the ids of its items. */
  setAnswers(rings) {
    this.rings = rings;
    this.draw();
  }

  /** Show an item that is pointed at elsewhere. */
  point(itemId) {
    this.pointed = this.idToPoint.get(itemId) ?? null;
    this.draw();
  }

  // Coordinates: the map's are [-1, 1] with y upwards, the canvas's are CSS pixels.

  get frame() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    return { width, height, unit: Math.min((width / 2 - PAD) / this.reach[0], (height / 2 - PAD) / this.reach[1]) * this.view.scale };
  }

  place(point) {
    const { width, height, unit } = this.frame;
    return [width / 2 + (point.x - this.view.x) * unit, height / 2 - (point.y - this.view.y) * unit];
  }

  nearest(x, y) {
    let best = null;
    let reach = REACH ** 2;
    for (const point of this.points) {
      const [px, py] = this.place(point);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < reach) [best, reach] = [point, distance];
    }
    return best;
  }

  moved(event) {
    if (this.grip && event.buttons) {
      const { unit } = this.frame;
      this.grip.travelled += Math.hypot(event.offsetX - this.grip.x, event.offsetY - this.grip.y);
      this.view.x -= (event.offsetX - this.grip.x) / unit;
      this.view.y += (event.offsetY - this.grip.y) / unit;
      Object.assign(this.grip, { x: event.offsetX, y: event.offsetY });
      this.draw();
    } else {
      this.pointAt(this.nearest(event.offsetX, event.offsetY));
    }
  }

  pointAt(point) {
    if (point === this.pointed) return;
    this.pointed = point;
    this.onPoint(point?.item_id ?? null);
    this.draw();
  }

  leave() {
    this.grip = null;
    this.pointAt(null);
  }

  grabbed(event) {
    this.grip = { x: event.offsetX, y: event.offsetY, travelled: 0 };
  }

  released(event) {
    const isClick = this.grip && this.grip.travelled < 4;
    this.grip = null;
    const point = isClick && this.nearest(event.offsetX, event.offsetY);
    if (point) this.onAdd(point);
  }

  wheeled(event) {
    if (!event.ctrlKey && !event.metaKey) return; // the wheel alone scrolls the page
    event.preventDefault();
    this.zoom(event.deltaY < 0 ? ZOOM : 1 / ZOOM);
  }

  pressed(event) {
    if (STEP[event.key]) this.step(...STEP[event.key]);
    else if (event.key === "Enter" && this.pointed) this.onAdd(this.pointed);
    else if (event.key === "+" || event.key === "=") this.zoom(ZOOM);
    else if (event.key === "-") this.zoom(1 / ZOOM);
    else if (event.key === "0") this.all();
    else return;
    event.preventDefault();
  }

  /** To the nearest point that lies more in this direction than beside it; to the middle's where none is pointed at. */
  step(right, up) {
    const from = this.pointed ?? { x: this.view.x, y: this.view.y };
    const far = (point) => {
      const [dx, dy] = [point.x - from.x, point.y - from.y];
      const ahead = dx * right + dy * up;
      const beside = Math.abs(dx * up) + Math.abs(dy * right);
      return this.pointed && (ahead <= beside || ahead === 0) ? Infinity : Math.hypot(dx, dy);
    };
    const next = this.points.reduce((best, point) => (far(point) < far(best) ? point : best), this.points[0]);
    if (!next || far(next) === Infinity) return;
    this.pointAt(next);
    this.keepInView(next);
    announce(`${next.title}${this.history.some(({ point }) => point === next) ? ", in the history" : ""}`);
  }

  keepInView(point) {
    const [x, y] = this.place(point);
    const { width, height } = this.frame;
    if (x < PAD || y < PAD || x > width - PAD || y > height - PAD) Object.assign(this.view, { x: point.x, y: point.y });
    this.draw();
  }

  zoom(factor) {
    this.view.scale = Math.min(MAX_SCALE, Math.max(1, this.view.scale * factor));
    if (this.view.scale === 1) Object.assign(this.view, { x: 0, y: 0 });
    else if (this.pointed) Object.assign(this.view, { x: this.pointed.x, y: this.pointed.y });
    this.draw();
  }

  all() {
    this.view = { x: 0, y: 0, scale: 1 };
    this.draw();
  }

  draw() {
    cancelAnimationFrame(this.drawing);
    this.drawing = requestAnimationFrame(() => this.paint());
  }

  paint() {
    const { canvas } = this;
    const ratio = devicePixelRatio || 1;
    const { width, height } = this.frame;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    this.paintPoints(pen, colour("point"));
    this.paintPath(pen, colour("ink"), colour("paper"));
    [...this.rings].forEach(([decoder, ids], index) => this.paintRings(pen, colour(decoder), ids, 4 + 2 * index));
    if (this.pointed) ring(pen, this.place(this.pointed), 12, colour("ink"), 2);
    this.showLabel();
  }

  paintPoints(pen, colour) {
    pen.fillStyle = colour;
    const size = Math.min(2, Math.sqrt(this.view.scale));
    for (const point of this.points) dot(pen, this.place(point), size * (1.1 + 0.45 * Math.log10(point.num_entries + 1)));
  }

  paintPath(pen, ink, paper) {
    const places = this.history.map(({ point }) => this.place(point));
    pen.strokeStyle = ink;
    pen.lineWidth = 1;
    pen.setLineDash([2, 3]);
    pen.beginPath();
    for (const [x, y] of places) pen.lineTo(x, y);
    pen.stroke();
    pen.setLineDash([]);
    pen.font = "600 10px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    places.forEach(([x, y], index) => {
      pen.fillStyle = ink;
      dot(pen, [x, y], 7);
      pen.fillStyle = paper;
      pen.fillText(String(this.history[index].number), x, y + 0.5);
    });
  }

  paintRings(pen, colour, ids, radius) {
    for (const id of ids) {
      const point = this.idToPoint.get(id);
      if (point) ring(pen, this.place(point), radius, colour, 1.75);
    }
  }

  showLabel() {
    const { label, pointed } = this;
    label.hidden = pointed === null;
    if (!pointed) return;
    label.replaceChildren(element("strong", {}, pointed.title), ` ${plural(pointed.num_entries, "entry", "entries")}`);
    const [x, y] = this.place(pointed);
    const { width, height } = this.frame;
    const [wide, high] = [label.offsetWidth, label.offsetHeight];
    label.style.left = `${Math.max(4, Math.min(x + 14, width - wide - 4))}px`;
    label.style.top = `${y + 14 + high > height ? y - high - 14 : y + 14}px`;
  }
}

function dot(pen, [x, y], radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

function ring(pen, [x, y], radius, colour, width) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.stroke();
}
