// One job's events, for everyone on the page who watches it: its newest events first, then those that follow.

import { batch, signal, type Signal } from "@preact/signals";
import { ask, Refused, words } from "../net/ask.ts";
import { tab } from "../net/tab.ts";
import type { Job, JobEvent } from "../net/types.ts";
import type { Frame } from "../net/stream.ts";

export const KEPT_EVENTS = 500;
/** A page that shows the same job again a moment later goes on with what is there. */
const LINGER = 2000;
/** Between two tries to read a job. */
const FIRST_PAUSE = 300;
const LONGEST_PAUSE = 5000;

export class JobFeed {
  readonly id: string;
  readonly job: Signal<Job | null> = signal(null);
  /** The newest ones, oldest first. Changes at most once a frame. */
  readonly events: Signal<readonly JobEvent[]> = signal([]);
  readonly step: Signal<number | null> = signal(null);
  readonly loss: Signal<number | null> = signal(null);
  /** Why nothing comes at the moment. */
  readonly interrupted: Signal<string | null> = signal(null);
  /** Why there is nothing to be had. */
  readonly missing: Signal<string | null> = signal(null);
  readonly ended = signal(false);
  /** Comes true when the newest events were read and the stream goes on behind them. */
  readonly ready: Promise<void>;
  private readonly ring: JobEvent[] = [];
  private readonly listeners = new Set<(event: JobEvent) => void>();
  private leave: (() => void) | undefined;
  private closed = false;
  private drawing = false;

  constructor(id: string) {
    this.id = id;
    this.ready = this.begin();
  }

  /** Hands every event from now on to `on`. */
  listen(on: (event: JobEvent) => void): () => void {
    this.listeners.add(on);
    return () => this.listeners.delete(on);
  }

  /** The newest events as they are at this moment. */
  newest(): readonly JobEvent[] {
    return this.ring;
  }

  private async begin() {
    let position: string | undefined;
    for (let pause = FIRST_PAUSE; !this.closed; pause = Math.min(pause * 2, LONGEST_PAUSE)) {
      try {
        const answer = await ask<{ job: Job; events: JobEvent[] }>("GET", `/api/jobs/${encodeURIComponent(this.id)}?events=${KEPT_EVENTS}`);
        this.interrupted.value = null;
        this.job.value = answer.job;
        for (const event of answer.events ?? []) this.take(event);
        const last = answer.events?.at(-1)?.id;
        if (last !== undefined) position = String(last);
        break;
      } catch (error) {
        if (error instanceof Refused && error.status === 404) {
          this.missing.value = words(error);
          return;
        }
        // A control plane that does not show one job still streams its events.
        if (error instanceof Refused && error.status < 500 && error.status !== 429) break;
        this.interrupted.value = words(error);
        await new Promise((go) => setTimeout(go, pause));
      }
    }
    if (!this.closed) this.leave = tab.follow(`job:${this.id}`, (frame) => this.on(frame), position);
  }

  /** Hands out all events again, from the first. */
  rewind() {
    this.leave?.();
    this.ring.length = 0;
    if (!this.closed) this.leave = tab.follow(`job:${this.id}`, (frame) => this.on(frame));
  }

  private on(frame: Frame) {
    switch (frame.event) {
      case "topic.open":
        return;
      case "topic.away":
        this.interrupted.value = frame.data?.error ?? "the stream broke";
        return;
      case "topic.missing":
        this.missing.value = frame.data?.error ?? "there is no such job";
        return;
      case "topic.end":
        batch(() => {
          this.ended.value = true;
          this.interrupted.value = null;
        });
        return;
      default:
        if (this.interrupted.value !== null) this.interrupted.value = null;
        this.take({ ...frame.data, id: frame.id });
    }
  }

  private take(event: JobEvent) {
    this.ring.push(event);
    if (this.ring.length > KEPT_EVENTS) this.ring.shift();
    for (const listener of this.listeners) listener(event);
    this.draw();
  }

  /** Hundreds of events a second make one change of the page a frame. */
  private draw() {
    if (this.drawing) return;
    this.drawing = true;
    const show = () => {
      this.drawing = false;
      batch(() => this.show());
    };
    if (document.hidden) setTimeout(show, 500);
    else requestAnimationFrame(show);
  }

  private show() {
    this.events.value = this.ring.slice();
    const log = this.ring.findLast(({ type }) => type === "training.log");
    this.step.value = this.ring.findLast(({ step }) => step !== undefined)?.step ?? this.step.value;
    this.loss.value = this.ring.findLast(({ loss }) => typeof loss === "number")?.loss ?? this.loss.value;
    const last = this.ring.at(-1);
    const job = this.job.value;
    if (last && job) this.job.value = after(job, last, log !== undefined);
  }

  close() {
    this.closed = true;
    this.leave?.();
  }
}

const ENDS: Record<string, Job["status"]> = {
  "training.completed": "completed",
  "training.failed": "failed",
  "training.cancelled": "cancelled",
};

/** Whether nothing of the job comes after `event`. */
export const isEnd = ({ type }: JobEvent) => type in ENDS;

/** The job as `event` leaves it. */
function after(job: Job, event: JobEvent, trains: boolean): Job {
  const status = ENDS[event.type];
  if (status) return { ...job, status, completedAt: event.timestamp, error: event.error ?? job.error };
  if (job.status === "queued" && (trains || event.type === "training.started")) {
    return { ...job, status: "running", startedAt: job.startedAt ?? event.timestamp };
  }
  return job;
}

const feeds = new Map<string, { feed: JobFeed; users: number; timer?: ReturnType<typeof setTimeout> }>();

/** The feed of `id`, shared. To be given back by `release`. */
export function jobFeed(id: string): JobFeed {
  let held = feeds.get(id);
  if (!held) feeds.set(id, (held = { feed: new JobFeed(id), users: 0 }));
  clearTimeout(held.timer);
  held.users += 1;
  return held.feed;
}

export function release(feed: JobFeed) {
  const held = feeds.get(feed.id);
  if (!held || held.feed !== feed) return;
  held.users -= 1;
  if (held.users > 0) return;
  held.timer = setTimeout(() => {
    feeds.delete(feed.id);
    feed.close();
  }, LINGER);
}
