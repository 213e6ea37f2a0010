// The loss chart. It draws what it is given: points picked for the visible range.

import uPlot from "uplot";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { resolved, shade } from "../theme.ts";
import { clock, figure, span, whole } from "../ui/format.ts";
import type { Picture } from "../state/series.ts";
import { marksNear, marksOf, type Mark } from "./marks.ts";
import { tables, type XAxis } from "./table.ts";
import { byKey, within, type Zoom } from "./zoom.ts";

interface Props {
  picture: Picture;
  axis: XAxis;
  log: boolean;
  /** 0 to below 1. */
  smoothing: number;
  zoom: Zoom | null;
  onZoom: (zoom: Zoom | null) => void;
}

/** What the pointer is at: the nearest point, and marks close by. */
interface Hovered {
  place: number;
  marks: Mark[];
}

/** What the chart library's calls need of the newest drawing. */
interface Now {
  marks: Mark[];
  zoom: Zoom | null;
  extent: Zoom;
  onZoom: (zoom: Zoom | null) => void;
}

const HEIGHT = 320;
const LOW_HEIGHT = 240;
const NARROW = 560;
/** So few points are drawn one by one: a line has no beginning with one. */
const FEW = 12;
/** How far from a mark, pixels, the pointer still means it. */
const REACH = 6;
const FONT = "11px ui-sans-serif, system-ui, sans-serif";

export function LossChart(props: Props) {
  const { picture, axis, log, smoothing, zoom, onZoom } = props;
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [hover, setHover] = useState<Hovered | null>(null);
  const data = useMemo(() => {
    const { loss, evalLoss } = tables(picture.loss, picture.evalLoss, picture.times.min, axis, smoothing, log);
    return uPlot.join([loss as uPlot.AlignedData, evalLoss as uPlot.AlignedData]);
  }, [picture, axis, smoothing, log]);
  const marks = useMemo(() => marksOf(picture, axis), [picture, axis]);
  const extent = extentOf(picture, axis);
  const now = useRef<Now>({ marks, zoom, extent, onZoom });
  now.current = { marks, zoom, extent, onZoom };
  const look = shade.value;

  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const made = new uPlot(options(element, axis, log, now, setHover), data, element);
    plot.current = made;
    // The legend is our own; the library's canvas says nothing to who reads by ear.
    made.root.setAttribute("aria-hidden", "true");
    apply(made, zoom);
    const watch = new ResizeObserver(() => made.setSize(sizeOf(element)));
    watch.observe(element);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [axis, log, look]);

  useEffect(() => {
    const made = plot.current;
    if (!made) return;
    made.batch(() => {
      made.setData(data, false);
      made.setSeries(1, { show: true });
      apply(made, zoom);
    });
  }, [data, zoom, marks]);

  useEffect(() => {
    plot.current?.setSeries(2, { show: smoothing > 0 });
    element(plot.current)?.classList.toggle("smooth", smoothing > 0);
    plot.current?.redraw(true);
  }, [smoothing, axis, log, look]);

  const keys = (event: KeyboardEvent) => {
    // Keys come faster than the chart is drawn: each goes on from the one before, not from what is drawn.
    const to = byKey(event.key, now.current.zoom ?? now.current.extent, now.current.extent);
    if (to === undefined) return;
    event.preventDefault();
    now.current.zoom = to;
    onZoom(to);
  };

  return (
    <div class="chart">
      <Hover data={data} hovered={hover} axis={axis} smoothing={smoothing} picture={picture} />
      <div
        ref={box}
        class="chart-box"
        role="img"
        tabIndex={0}
        aria-label={summary(picture)}
        title="Drag to zoom, double click to see all. Keys: + - arrows 0"
        onKeyDown={keys}
        data-testid="chart"
        data-points={picture.loss.value.length + picture.evalLoss.value.length}
        data-highest={picture.loss.value.reduce((most, value) => Math.max(most, value), -Infinity)}
        data-range={`${data[0][0] ?? ""},${data[0].at(-1) ?? ""}`}
        data-zoom={zoom ? `${zoom.min},${zoom.max}` : ""}
      />
    </div>
  );
}

const element = (made: uPlot | null) => made?.root;

function sizeOf(box: HTMLElement) {
  const width = Math.max(200, box.clientWidth);
  return { width, height: width < NARROW ? LOW_HEIGHT : HEIGHT };
}

function apply(made: uPlot, zoom: Zoom | null) {
  const xs = made.data[0];
  const [first, last] = [xs[0], xs.at(-1)];
  if (zoom) made.setScale("x", zoom);
  else if (first !== undefined && last !== undefined) made.setScale("x", first === last ? { min: first - 1, max: last + 1 } : { min: first, max: last });
}

/** All that there is along `axis`, whatever part of it is shown. */
function extentOf({ steps, times }: Picture, axis: XAxis): Zoom {
  if (axis === "step") return steps;
  const from = axis === "relative" ? times.min : 0;
  return { min: (times.min - from) / 1000, max: (times.max - from) / 1000 };
}

function summary({ loss, evalLoss, checkpoints, count }: Picture): string {
  const newest = loss.value.at(-1);
  const tested = evalLoss.value.at(-1);
  const parts = [
    `Loss chart of ${whole(count)} points`,
    newest !== undefined && `newest loss ${figure(newest)} at step ${loss.step.at(-1)}`,
    tested !== undefined && `newest eval loss ${figure(tested)}`,
    checkpoints.length > 0 && `${checkpoints.length} checkpoints`,
  ];
  return parts.filter(Boolean).join(", ");
}

function Hover({ data, hovered, axis, smoothing, picture }: { data: uPlot.AlignedData; hovered: Hovered | null; axis: XAxis; smoothing: number; picture: Picture }) {
  const place = hovered?.place ?? data[0].length - 1;
  const x = data[0][place];
  if (x === undefined) return <div class="legend" />;
  const [raw, smooth, tested] = [data[1]?.[place], data[2]?.[place], data[3]?.[place]];
  const steps = axis === "step" ? x : stepAt(picture, x, axis);
  const when = axis === "relative" ? span(x * 1000) : axis === "wall" ? clock(x * 1000) : null;
  return (
    <div class="legend" data-testid="legend" data-hover={hovered ? "on" : ""}>
      <span class="mono">{hovered ? "" : "newest: "}step {steps === undefined ? "–" : whole(steps)}{when && ` · ${when}`}</span>
      {raw !== undefined && raw !== null && <span class={smoothing > 0 ? "key loss faint" : "key loss"}><i />loss <b class="mono">{figure(raw)}</b></span>}
      {smoothing > 0 && smooth !== undefined && smooth !== null && <span class="key loss"><i />smoothed <b class="mono">{figure(smooth)}</b></span>}
      {tested !== undefined && tested !== null && <span class="key eval"><i />eval loss <b class="mono">{figure(tested)}</b></span>}
      {hovered?.marks.map(({ kind, step }) => <span key={kind} class={`key ${kind}`}><i />{kind === "restart" ? "restarted here" : "checkpoint"} <b class="mono">{whole(step)}</b></span>)}
    </div>
  );
}

function stepAt({ loss, evalLoss, times }: Picture, x: number, axis: XAxis): number | undefined {
  const time = Math.round(axis === "relative" ? x * 1000 + times.min : x * 1000);
  for (const points of [loss, evalLoss]) {
    const place = points.time.findIndex((one) => Math.abs(one - time) < 1);
    if (place >= 0) return points.step[place];
  }
  return undefined;
}

function options(
  box: HTMLElement,
  axis: XAxis,
  log: boolean,
  now: { current: Now },
  onHover: (hovered: Hovered | null) => void,
): uPlot.Options {
  const colour = {
    text: resolved("--muted"), grid: resolved("--line"), loss: resolved("--chart-loss"), faint: resolved("--chart-loss-faint"),
    tested: resolved("--chart-eval"), checkpoint: resolved("--chart-checkpoint"), restart: resolved("--chart-restart"),
  };
  const axisStyle = { stroke: colour.text, font: FONT, grid: { stroke: colour.grid, width: 1 }, ticks: { stroke: colour.grid, width: 1, size: 4 } };
  const xValues: Partial<uPlot.Axis> =
    axis === "wall" ? {} : { values: (_, splits) => splits.map((split) => (axis === "step" ? whole(split) : span(split * 1000))) };
  return {
    ...sizeOf(box),
    padding: [8, 28, 0, 0],
    legend: { show: false },
    scales: { x: { time: axis === "wall", auto: false }, y: log ? { distr: 3, log: 10 } : {} },
    axes: [
      { ...axisStyle, ...xValues, size: 32, space: axis === "step" ? 70 : 90 },
      { ...axisStyle, size: 58, values: (_, splits) => splits.map((split) => (split === null ? "" : figure(split))) },
    ],
    series: [
      {},
      { stroke: (self) => (self.root.classList.contains("smooth") ? colour.faint : colour.loss), width: 1.5, points: { show: (_self, _series, from, to) => to - from < FEW, size: 5, fill: colour.loss } },
      { stroke: colour.loss, width: 2, points: { show: false }, show: false },
      { stroke: colour.tested, width: 1.5, dash: [6, 4], points: { show: (self, _series, from, to) => sparse(self, from, to), size: 6, fill: colour.tested, stroke: colour.tested } },
    ],
    cursor: {
      drag: { x: true, y: false, setScale: false },
      points: { size: 7 },
      bind: { dblclick: () => () => { now.current.onZoom(null); return null; } },
    },
    hooks: {
      setSelect: [(self) => {
        if (self.select.width < 4) return;
        const zoom = { min: self.posToVal(self.select.left, "x"), max: self.posToVal(self.select.left + self.select.width, "x") };
        self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        now.current.onZoom(within(zoom, now.current.extent));
      }],
      setCursor: [(self) => onHover(hoveredAt(self, now.current.marks))],
      draw: [(self) => drawMarks(self, now.current.marks, colour)],
    },
  };
}

function hoveredAt(self: uPlot, marks: Mark[]): Hovered | null {
  const { idx, left } = self.cursor;
  if (idx === null || idx === undefined || left === undefined || left < 0) return null;
  const at = self.posToVal(left, "x");
  return { place: idx, marks: marksNear(marks, at, self.posToVal(left + REACH, "x") - at) };
}

/** Closer than this, pixels, markers would hide the line that they stand on. */
const MARKER_SPACE = 9;

function sparse(self: uPlot, from: number, to: number): boolean {
  const values = self.data[3] ?? [];
  let count = 0;
  for (let place = from; place <= to; place++) if (typeof values[place] === "number") count += 1;
  return count * MARKER_SPACE <= self.bbox.width / devicePixelRatio;
}

/** More checkpoints than this in sight would be a wall. */
const MOST_MARKS = 120;

function drawMarks(self: uPlot, marks: Mark[], colour: { checkpoint: string; restart: string; text: string }) {
  const { ctx } = self;
  const { left, top, width, height } = self.bbox;
  const { min, max } = self.scales["x"] ?? {};
  if (min === undefined || max === undefined || min === null || max === null) return;
  const seen = marks.filter(({ at }) => at >= min && at <= max);
  const every = Math.ceil(seen.length / MOST_MARKS);
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  seen.forEach(({ at, kind }, place) => {
    if (kind === "checkpoint" && place % every !== 0) return;
    const x = Math.round(self.valToPos(at, "x", true)) + 0.5;
    ctx.strokeStyle = colour[kind];
    ctx.fillStyle = colour[kind];
    ctx.lineWidth = kind === "restart" ? 2 : 1;
    ctx.setLineDash(kind === "restart" ? [] : [2, 4]);
    ctx.beginPath();
    ctx.moveTo(x, top);
    ctx.lineTo(x, top + height);
    ctx.stroke();
    ctx.setLineDash([]);
    const size = 4 * devicePixelRatio;
    ctx.beginPath();
    ctx.moveTo(x - size, top + height);
    ctx.lineTo(x + size, top + height);
    ctx.lineTo(x, top + height - size * 1.5);
    ctx.fill();
  });
  ctx.restore();
}
