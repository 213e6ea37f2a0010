// The losses of a job, and of the jobs that it goes on from: what the chart draws.
//
// The server picks what a picture of the visible range needs and computes figures over all points; what comes live is
// put behind that until there is enough of it to ask again. For a control plane that cannot do this, all events are
// read from the beginning and the page does the same by itself.

import { batch, signal, type Signal } from "@preact/signals";
import { append, bucketed, curveOf, noCurve, noPoints, pick, push, upTo, type Curve, type Points } from "../chart/points.ts";
import { statistics, type Statistics } from "../chart/statistics.ts";
import { ask, refusal, Refused, send, words } from "../net/ask.ts";
import type { Job, JobEvent } from "../net/types.ts";
import { isEnd, type JobFeed } from "./job-feed.ts";

export type Axis = "step" | "time";

export interface Range {
  axis: Axis;
  from: number;
  to: number;
}

interface Span {
  min: number;
  max: number;
}

export interface Picture {
  loss: Curve;
  evalLoss: Curve;
  /** Steps at which the job was saved. */
  checkpoints: number[];
  /** Steps at which the jobs that it goes on from were saved. */
  earlierCheckpoints: number[];
  /** Steps at which one job went on from another's checkpoint. */
  resumed: number[];
  /** All points so far, of this job. */
  count: number;
  /** From the first step to the last, whatever range is shown. */
  steps: Span;
  /** When the first point of all was logged, and the last. Relative time counts from the first. */
  times: Span;
  /** `false`: a sample, while a long job is being read. */
  exact: boolean;
}

interface Answer {
  lastSeq: number;
  exact: boolean;
  loss: Curve & { count: number };
  evalLoss: Curve & { count: number };
  checkpoints: number[];
  statistics?: Both;
}

export interface Both {
  loss: Statistics | null;
  evalLoss: Statistics | null;
}

/** An earlier job, drawn up to the step that its successor went on from. */
interface Earlier {
  job: string;
  upto: number;
  answer?: Answer;
}

const BUCKETS = 800;
/** Live points, more than which are asked for as a picture again. */
const MOST_LIVE = 3000;
const ASK_AGAIN = 400;
const SETTLE = 120;
const MOST_EARLIER = 20;
const FIGURES_EVERY = 5000;

export class LossSeries {
  readonly picture: Signal<Picture | null> = signal(null);
  readonly figures: Signal<Both | null> = signal(null);
  readonly error: Signal<string | null> = signal(null);
  private readonly feed: JobFeed;
  private readonly leave: () => void;
  private base: Answer | undefined;
  private live = { loss: noPoints(), evalLoss: noPoints(), ids: [] as { id: number; evaluated: boolean }[] };
  private checkpoints = new Set<number>();
  private earlier: Earlier[] = [];
  /** Everything, where the server picks nothing. */
  private all: { loss: Points; evalLoss: Points } | undefined;
  private range: Range | null = null;
  private steps = noSpan();
  private times = noSpan();
  private wantsFigures = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private figuresTimer: ReturnType<typeof setTimeout> | undefined;
  private asking = false;
  private askAgain = false;
  private drawing = false;
  private closed = false;

  constructor(feed: JobFeed) {
    this.feed = feed;
    this.leave = feed.listen((event) => this.take(event));
    for (const event of feed.newest()) this.take(event);
    void this.begin();
  }

  private async begin() {
    await this.feed.ready;
    await this.readEarlier(this.feed.job.value);
    await this.read();
  }

  private async readEarlier(job: Job | null) {
    let from = job?.resumeFrom;
    while (from && this.earlier.length < MOST_EARLIER) {
      const { jobId, step } = from;
      this.earlier.unshift({ job: jobId, upto: step });
      try {
        from = (await ask<{ job: Job }>("GET", `/api/jobs/${encodeURIComponent(jobId)}?events=0`)).job.resumeFrom;
      } catch {
        return;
      }
    }
  }

  /** Shows this range, or all. */
  show(range: Range | null) {
    const same = range?.axis === this.range?.axis && range?.from === this.range?.from && range?.to === this.range?.to;
    if (same) return;
    this.range = range;
    if (this.all) return this.draw();
    this.readSoon(SETTLE);
  }

  /** Whether the figures are looked at. */
  want(figures: boolean) {
    this.wantsFigures = figures;
    if (figures) this.figuresSoon(0);
  }

  /** Computes the figures after so long, whatever comes meanwhile. */
  private figuresSoon(after: number) {
    if (!this.wantsFigures || (this.figuresTimer !== undefined && after > 0)) return;
    clearTimeout(this.figuresTimer);
    this.figuresTimer = setTimeout(() => {
      this.figuresTimer = undefined;
      if (this.closed || !this.wantsFigures) return;
      if (this.all) this.figures.value = { loss: statistics(this.all.loss.value), evalLoss: statistics(this.all.evalLoss.value) };
      else void this.read();
    }, after);
  }

  private readSoon(after: number) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.read(), after);
  }

  private async read() {
    if (this.closed || this.all) return;
    if (this.asking) {
      this.askAgain = true;
      return;
    }
    this.asking = true;
    try {
      const [own] = await Promise.all([
        this.fetch(this.feed.id, this.wantsFigures),
        ...this.earlier.map(async (one) => { one.answer = await this.fetch(one.job, false, one.upto); }),
      ]);
      this.settle(own!);
      this.error.value = null;
    } catch (error) {
      if (error instanceof Refused && [404, 405].includes(error.status)) this.readAll();
      else {
        this.error.value = words(error);
        this.readSoon(5000);
      }
    } finally {
      this.asking = false;
    }
    if (this.askAgain) {
      this.askAgain = false;
      void this.read();
    }
  }

  private async fetch(job: string, figures: boolean, upto?: number): Promise<Answer> {
    const query = new URLSearchParams({ buckets: String(BUCKETS) });
    let to = Infinity;
    if (this.range) {
      // A little more on both sides, so that the line goes on to the edges.
      const edge = (this.range.to - this.range.from) * 0.02 + 1;
      query.set("axis", this.range.axis);
      query.set("from", String(Math.floor(this.range.from - edge)));
      to = Math.ceil(this.range.to + edge);
    }
    if (upto !== undefined && this.range?.axis !== "time") to = Math.min(to, upto);
    if (to < Infinity) query.set("to", String(to));
    if (figures) query.set("statistics", "true");
    const answer = await ask<Answer>("GET", `/api/jobs/${encodeURIComponent(job)}/series?${query}`);
    const { loss, evalLoss } = answer;
    return { ...answer, loss: { ...curveOf(loss), count: loss.count }, evalLoss: { ...curveOf(evalLoss), count: evalLoss.count } };
  }

  private settle(answer: Answer) {
    this.base = answer;
    for (const step of answer.checkpoints) this.checkpoints.add(step);
    // What the answer knows is live no more.
    let at = { loss: 0, evalLoss: 0 };
    const kept = this.live.ids.filter(({ id }) => id > answer.lastSeq);
    const gone = this.live.ids.filter(({ id }) => id <= answer.lastSeq);
    for (const { evaluated } of gone) at = evaluated ? { ...at, evalLoss: at.evalLoss + 1 } : { ...at, loss: at.loss + 1 };
    this.live = {
      loss: pick(this.live.loss, (place) => place >= at.loss),
      evalLoss: pick(this.live.evalLoss, (place) => place >= at.evalLoss),
      ids: kept,
    };
    if (answer.statistics) this.figures.value = answer.statistics;
    this.draw();
    if (!answer.exact) this.readSoon(ASK_AGAIN);
  }

  /** There is nobody to ask: all events once more, from the first. */
  private readAll() {
    this.all = { loss: noPoints(), evalLoss: noPoints() };
    this.live = { loss: noPoints(), evalLoss: noPoints(), ids: [] };
    this.feed.rewind();
  }

  private take(event: JobEvent) {
    if (event.type === "checkpoint.saved" && event.step !== undefined) this.checkpoints.add(event.step);
    else if (event.type === "training.log" && event.step !== undefined) this.takePoint(event, event.step);
    else if (isEnd(event)) this.figuresSoon(0);
    this.drawSoon();
  }

  private takePoint(event: JobEvent, step: number) {
    const time = Date.parse(event.timestamp);
    const to = this.all ?? this.live;
    const id = Number(event.id);
    for (const [name, value] of [["loss", event.loss], ["evalLoss", event.evalLoss]] as const) {
      if (typeof value !== "number" || !Number.isFinite(value)) continue;
      if (!this.all && this.base && id <= this.base.lastSeq) continue;
      push(to[name], step, time, value);
      if (!this.all) this.live.ids.push({ id, evaluated: name === "evalLoss" });
    }
    if (!this.all && this.base && this.live.ids.length > MOST_LIVE) this.readSoon(0);
    this.figuresSoon(FIGURES_EVERY);
  }

  private drawSoon() {
    if (this.drawing) return;
    this.drawing = true;
    const show = () => {
      this.drawing = false;
      if (this.base || this.all) this.draw();
    };
    if (document.hidden) setTimeout(show, 500);
    else requestAnimationFrame(show);
  }

  private draw() {
    if (this.closed) return;
    const loss = noCurve();
    const evalLoss = noCurve();
    for (const { answer, upto } of this.earlier) {
      if (!answer) continue;
      append(loss, upTo(answer.loss, upto));
      append(evalLoss, upTo(answer.evalLoss, upto));
    }
    let count = 0;
    if (this.all) {
      const { axis, from, to } = this.range ?? { axis: "step" as const, from: -Infinity, to: Infinity };
      append(loss, bucketed(this.all.loss, axis, from, to, BUCKETS));
      append(evalLoss, bucketed(this.all.evalLoss, axis, from, to, BUCKETS));
      count = this.all.loss.value.length + this.all.evalLoss.value.length;
    } else if (this.base) {
      append(loss, this.base.loss);
      append(loss, this.live.loss);
      append(evalLoss, this.base.evalLoss);
      append(evalLoss, this.live.evalLoss);
      count = this.base.loss.count + this.base.evalLoss.count + this.live.ids.length;
    }
    for (const points of this.all ? [this.all.loss, this.all.evalLoss, loss, evalLoss] : [loss, evalLoss]) {
      this.steps = stretched(this.steps, points.step);
      this.times = stretched(this.times, points.time);
    }
    batch(() => {
      this.picture.value = {
        loss,
        evalLoss,
        checkpoints: [...this.checkpoints].sort((a, b) => a - b),
        earlierCheckpoints: this.earlier.flatMap(({ answer, upto }) => answer?.checkpoints.filter((step) => step < upto) ?? []),
        resumed: this.earlier.map(({ upto }) => upto),
        count,
        steps: this.steps,
        times: this.times,
        exact: this.all !== undefined || (this.base?.exact ?? true),
      };
    });
  }

  /** Every point, as CSV. */
  async csv(): Promise<Blob> {
    if (!this.all) {
      const answer = await send(`/api/jobs/${encodeURIComponent(this.feed.id)}/points`);
      if (!answer.ok) throw await refusal(answer);
      return answer.blob();
    }
    const rows = ["series,step,timestamp,value"];
    for (const [name, { step, time, value }] of Object.entries(this.all)) {
      value.forEach((one, place) => rows.push(`${name},${step[place]},${new Date(time[place]!).toISOString()},${one}`));
    }
    return new Blob([`${rows.join("\n")}\n`], { type: "text/csv" });
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    clearTimeout(this.figuresTimer);
    this.leave();
  }
}

const noSpan = (): Span => ({ min: Infinity, max: -Infinity });

/** `span`, and what lies between the first and the last of `places`. */
function stretched(span: Span, places: number[]): Span {
  if (places.length === 0) return span;
  return { min: Math.min(span.min, places[0]!), max: Math.max(span.max, places.at(-1)!) };
}
