// One run's log, read from its first record and followed.

import { signal, type Signal } from "@preact/signals";
import { lifeWords } from "../log/life.ts";
import { LogLines } from "../log/lines.ts";
import { PtyPast } from "../log/past.ts";
import { tab } from "../net/tab.ts";
import type { LogRecord } from "../net/types.ts";

export class RunLog {
  readonly id: string;
  readonly lines = new LogLines();
  /** Counts changes, at most one a frame. */
  readonly version: Signal<number> = signal(0);
  readonly ended = signal(false);
  readonly missing: Signal<string | null> = signal(null);
  /** The run has a terminal. */
  readonly terminal = signal(false);
  private readonly raw = new Set<(bytes: string | Uint8Array) => void>();
  private readonly past = new PtyPast();
  private readonly leave: () => void;
  private drawing = false;

  constructor(id: string) {
    this.id = id;
    this.leave = tab.follow(`run:${id}`, ({ event, data }) => {
      if (event === "topic.end") this.ended.value = true;
      else if (event === "topic.missing") this.missing.value = data?.error ?? "there is no such run";
      else if (event === "topic.away") this.missing.value = `The log cannot be read at the moment: ${data?.error ?? "its source is away"}. It is tried again.`;
      else this.missing.value = null;
      if (!event.startsWith("topic.")) this.take(data as LogRecord);
      this.draw();
    });
  }

  /** Everything that a terminal is to be fed, from the first byte that is kept on. */
  feed(to: (bytes: string | Uint8Array) => void): () => void {
    for (const part of this.past.parts) to(part);
    this.raw.add(to);
    return () => this.raw.delete(to);
  }

  private take(record: LogRecord) {
    if (record.type === "output") {
      this.lines.output(record);
      if (record.stream === "pty") this.tellTerminal(record);
      return;
    }
    const words = lifeWords(record);
    if (words === undefined) return;
    if (record.type === "dropped") this.lines.gap(words, record.ts);
    else this.lines.life(words, record.ts);
  }

  private tellTerminal(record: LogRecord) {
    const part = record.text ?? Uint8Array.from(atob(record.base64 ?? ""), (letter) => letter.charCodeAt(0));
    this.terminal.value = true;
    this.past.push(part);
    for (const to of this.raw) to(part);
  }

  private draw() {
    if (this.drawing) return;
    this.drawing = true;
    const show = () => {
      this.drawing = false;
      this.version.value += 1;
    };
    if (document.hidden) setTimeout(show, 500);
    else requestAnimationFrame(show);
  }

  close() {
    this.leave();
  }
}

const LINGER = 2000;
const logs = new Map<string, { log: RunLog; users: number; timer?: ReturnType<typeof setTimeout> }>();

/** The log of run `id`, shared. To be given back by `releaseLog`. */
export function runLog(id: string): RunLog {
  let held = logs.get(id);
  if (!held) logs.set(id, (held = { log: new RunLog(id), users: 0 }));
  clearTimeout(held.timer);
  held.users += 1;
  return held.log;
}

export function releaseLog(log: RunLog) {
  const held = logs.get(log.id);
  if (!held || held.log !== log) return;
  held.users -= 1;
  if (held.users > 0) return;
  held.timer = setTimeout(() => {
    logs.delete(log.id);
    log.close();
  }, LINGER);
}
