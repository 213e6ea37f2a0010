/**
 * The inspector's worker: a warm process that evaluates artifacts and tells the facts about their trainers.
 *
 * JSON objects a line, both ways, on the socket that is file descriptor 3, which must be in blocking mode at this
 * end. A request is `{id, path}` and is answered with `{id, ok: true, …facts}` or `{id, ok: false, error}`. An
 * artifact that hangs in a top-level await does not keep the next request from being served, which is said at once
 * with `{id, started: true}`; one that hangs in a loop does, and only the worker's end helps.
 *
 * What must hold: what the artifact does to its process (output, exit, exceptions that nobody catches) cannot be
 * taken for an answer; a worker whose host is gone ends.
 */
import { read, statSync, writeSync } from "node:fs";

import { evaluateModule } from "./evaluate-module.ts";
import { type Facts, factsOf } from "./facts.ts";

const CONTROL_FD = 3;
/** A pause long enough for the run to have taken the new code, milliseconds: the collector needs a core too. */
const IDLE_MS = 40;
/** Source text that may be held before a pause comes. */
const MOST_BYTES_HELD = 1024 * 1024;
const LONGEST_STACK = 16_384;

interface Request {
  id: number;
  path: string;
}

interface ErrorFacts {
  name: string;
  message: string;
  stack: string;
}

type Reply =
  | { hello: true; node: string }
  | { id: number; started: true }
  | ({ id: number; ok: true; evaluateMs: number; rssBytes: number } & Facts)
  | { id: number; ok: false; error: ErrorFacts; rssBytes: number }
  | { id: number | null; exit: number }
  | { stray: ErrorFacts };

/** The requests that are being evaluated, oldest first. */
const evaluating = new Set<number>();

function send(reply: Reply): void {
  try {
    writeSync(CONTROL_FD, `${JSON.stringify(reply)}\n`);
  } catch {
    // The host is gone; the end of the socket ends this process.
  }
}

async function inspect({ id, path }: Request): Promise<void> {
  // To the host this says that what still hangs does so without holding up this one.
  if (evaluating.size > 0) send({ id, started: true });
  evaluating.add(id);
  const begin = performance.now();
  try {
    evaluatedBytes += statSync(path).size;
    const facts = factsOf(await evaluateModule(path));
    const evaluateMs = performance.now() - begin;
    // A rejection that nobody handles would end the run; Node tells of it before the next turn.
    await new Promise((turn) => setImmediate(turn));
    answer(id, { id, ok: true, ...facts, evaluateMs, rssBytes: process.memoryUsage.rss() });
  } catch (error) {
    answer(id, { id, ok: false, error: described(error), rssBytes: process.memoryUsage.rss() });
  }
}

/** Each request is answered once. */
function answer(id: number, reply: Reply): void {
  if (evaluating.delete(id)) send(reply);
  if (evaluatedBytes > MOST_BYTES_HELD) setImmediate(() => void reclaim());
  else idle.refresh();
}

/** An exception or a rejection that nobody caught: it would have ended the run. */
function uncaught(error: unknown): void {
  const [id] = [...evaluating].slice(-1);
  if (id === undefined) send({ stray: described(error) });
  else answer(id, { id, ok: false, error: described(error), rssBytes: process.memoryUsage.rss() });
}

function described(error: unknown): ErrorFacts {
  try {
    if (error instanceof Error || (typeof error === "object" && error !== null && "stack" in error)) {
      const { name, message, stack } = error as Error;
      return { name: String(name), message: String(message), stack: String(stack).slice(0, LONGEST_STACK) };
    }
    return { name: "thrown value", message: typeof error === "string" ? error : (JSON.stringify(error) ?? String(error)), stack: "" };
  } catch {
    return { name: "thrown value", message: "something was thrown that cannot be shown", stack: "" };
  }
}

let collect: (() => void) | undefined;
let evaluatedBytes = 0;

/** In a pause, since the next save must not wait for it; or when a burst of saves leaves none. */
const idle = setTimeout(() => void reclaim(), IDLE_MS);

/** Returns to the system what earlier artifacts held. */
async function reclaim(): Promise<void> {
  if (evaluating.size > 0) return;
  evaluatedBytes = 0;
  collect ??= await collector().catch(() => () => undefined);
  collect();
}

/**
 * V8's collector, and no cache of compiled code, which would hold every artifact. Had at run time: as options of the
 * process they would make Node refuse the code cache of its own modules, 6 ms at each start.
 */
async function collector(): Promise<() => void> {
  const [{ setFlagsFromString }, { runInNewContext }] = await Promise.all([import("node:v8"), import("node:vm")]);
  setFlagsFromString("--no-compilation-cache");
  // It collects in pauses; of what V8 adds to that of itself when nothing has happened for a while, once is enough.
  setFlagsFromString("--memory-reducer-single-gc");
  // Only what is really hot is worth the optimising compiler, whose code alone is 3 MB.
  setFlagsFromString("--max-bytecode-size-for-early-opt=0");
  setFlagsFromString("--interrupt-budget=1000000");
  setFlagsFromString("--expose-gc");
  const gc: unknown = runInNewContext("gc");
  setFlagsFromString("--no-expose-gc");
  return typeof gc === "function" ? () => gc() : () => undefined;
}

/**
 * The artifact ends the process. Node would wait for the thread that reads the socket, which waits for the host, so
 * the rest of the end is cut short.
 */
function leave(exit: number): void {
  if (hostGone) return;
  send({ id: [...evaluating].slice(-1)[0] ?? null, exit });
  process.kill(process.pid, "SIGKILL");
}

let hostGone = false;

function receive(): void {
  const chunk = Buffer.allocUnsafe(16_384);
  let rest = Buffer.alloc(0);
  const next = () => read(CONTROL_FD, chunk, 0, chunk.length, null, taken);
  const taken = (error: Error | null, count: number) => {
    if (error !== null || count === 0) {
      hostGone = true;
      process.exit(0);
    }
    rest = Buffer.concat([rest, chunk.subarray(0, count)]);
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      void inspect(JSON.parse(rest.toString("utf8", 0, end)) as Request);
      rest = rest.subarray(end + 1);
    }
    next();
  };
  next();
}

process.on("uncaughtException", uncaught);
process.on("unhandledRejection", uncaught);
process.on("exit", leave);
receive();
send({ hello: true, node: process.version });
