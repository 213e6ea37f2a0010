// One run's log, read from its first record and followed.

import { signal, type Signal } from "@preact/signals";
import { LogLines } from "../log/lines.ts";
import { tab } from "../net/tab.ts";
import type { LogRecord } from "../net/types.ts";

/** By the numbers that they have on Linux. */
const SIGNALS: Record<number, string> = { 1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 9: "SIGKILL", 10: "SIGUSR1", 12: "SIGUSR2", 15: "SIGTERM" };

const WORDS: Record<string, (record: LogRecord) => string> = {
  spawned: ({ pid }) => `started, process ${pid}`,
  signal: ({ signal, why }) => `${SIGNALS[Number(signal)] ?? `signal ${signal}`}: ${why}`,
  swap: ({ ok, reason, tookMs }) =>
    ok ? `callbacks swapped${typeof tookMs === "number" ? ` in ${Math.round(tookMs * 10) / 10} ms` : ""}` : `callbacks not swapped: ${reason}`,
  checkpoint: ({ step }) => `checkpoint at step ${step}`,
  job: ({ id }) => `job ${id}`,
  earlyStop: ({ phase }) => `stop at checkpoint: ${phase}`,
  finished: ({ status }) => `training ended: ${status}`,
  note: ({ text }) => String(text),
  exit: ({ code, exitCode, reason }) =>
    typeof (exitCode ?? code) === "number" ? `exit ${exitCode ?? code}` : String(reason ?? "ended"),
};

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
  private readonly past: (string | Uint8Array)[] = [];
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
    for (const part of this.past) to(part);
    this.raw.add(to);
    return () => this.raw.delete(to);
  }

  private take(record: LogRecord) {
    if (record.type === "output") {
      this.lines.output(record);
      if (record.stream === "pty") this.tellTerminal(record);
      return;
    }
    const words = WORDS[record.type]?.(record);
    if (words !== undefined) this.lines.life(words, record.ts);
  }

  private tellTerminal(record: LogRecord) {
    const part = record.text ?? Uint8Array.from(atob(record.base64 ?? ""), (letter) => letter.charCodeAt(0));
    this.terminal.value = true;
    this.past.push(part);
    if (this.past.length > MOST_PARTS) this.past.splice(0, MOST_PARTS / 10);
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

const MOST_PARTS = 20_000;
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
