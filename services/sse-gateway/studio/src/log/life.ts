// What the log says of a run's life, and of what is missing in it. Pure.

import type { LogRecord } from "../net/types.ts";
import { bytes, span } from "../ui/format.ts";

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
  alone: ({ aloneMs, stopMs }) =>
    `no server has been there for ${span(Number(aloneMs))}: it stops at its next checkpoint, and by force after ${span(Number(stopMs))}`,
  dropped: ({ bytes: size, others, why }) =>
    `${bytes(Number(size))} of output are gone here${Number(others ?? 0) > 0 ? `, and ${others} other records` : ""}: ${why}`,
  note: ({ text }) => String(text),
  exit: ({ code, exitCode, reason }) =>
    typeof (exitCode ?? code) === "number" ? `exit ${exitCode ?? code}` : String(reason ?? "ended"),
};

/** Nothing for a record that is no news to who reads the log. */
export const lifeWords = (record: LogRecord): string | undefined => WORDS[record.type]?.(record);
