// The loss of one job as a line.

const WIDTH = 600, HEIGHT = 120, MOST = 1200;
const SVG = "http://www.w3.org/2000/svg";

export class Chart {
  constructor(svg, now, empty) {
    Object.assign(this, { svg, now, empty });
    this.clear();
  }

  clear() {
    this.loss = [];
    this.evalLoss = [];
    this.draw();
  }

  // One `training.log` event.
  add({ step, loss, evalLoss }) {
    if (!Number.isFinite(step)) return;
    if (Number.isFinite(loss)) this.loss = thin([...this.loss, { step, value: loss }]);
    if (Number.isFinite(evalLoss)) this.evalLoss = thin([...this.evalLoss, { step, value: evalLoss }]);
    if (!this.due) {
      this.due = true;
      requestAnimationFrame(() => { this.due = false; this.draw(); });
    }
  }

  draw() {
    const all = [...this.loss, ...this.evalLoss];
    this.empty.hidden = all.length > 0;
    this.svg.toggleAttribute("hidden", all.length === 0);
    this.svg.replaceChildren();
    this.now.textContent = "";
    if (!all.length) return;
    const values = all.map((point) => point.value);
    const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    const first = all.reduce((a, b) => Math.min(a, b.step), Infinity), last = all.reduce((a, b) => Math.max(a, b.step), 0);
    const x = (step) => last === first ? WIDTH : ((step - first) / (last - first)) * WIDTH;
    const y = (value) => high === low ? HEIGHT / 2 : HEIGHT - ((value - low) / (high - low)) * (HEIGHT - 6) - 3;
    this.shape("line", { x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT });
    for (const [points, kind] of [[this.evalLoss, "eval"], [this.loss, "loss"]]) {
      if (!points.length) continue;
      const line = points.length === 1 ? [{ ...points[0], step: first }, points[0]] : points;
      const at = line.map(({ step, value }) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
      this.shape("polyline", { points: at, class: kind });
    }
    const newest = this.loss.at(-1) ?? this.evalLoss.at(-1);
    const said = `step ${newest.step}  loss ${newest.value.toPrecision(4)}` +
      (this.evalLoss.length ? `  eval ${this.evalLoss.at(-1).value.toPrecision(4)}` : "");
    this.now.textContent = said;
    this.svg.setAttribute("aria-label", `Loss from step ${first} to ${last}, between ${low.toPrecision(3)} and ${high.toPrecision(3)}; now ${said}`);
  }

  shape(name, attributes) {
    const shape = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
    this.svg.append(shape);
  }
}

// Every second point once there are too many; the newest stays.
const thin = (points) => points.length <= MOST ? points : points.filter((_, place) => (points.length - 1 - place) % 2 === 0);
