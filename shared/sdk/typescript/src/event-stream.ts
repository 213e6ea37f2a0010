/**
 * A stream of server-sent events that goes on where it broke off.
 *
 * What must hold: every event is given out once, in order, whatever the connection does. The position moves only
 * when the reader comes back for the next event, so an event whose handling did not end is not counted as read.
 */
import { Backoff, ControlPlaneError, FIRST_PAUSE_MS, sleep } from "./retry.ts";

export interface StreamEvent {
  /** Empty when the server gave none. */
  readonly id: string;
  readonly event: string;
  readonly data: string;
}

/** Most characters of one event: a server that never ends one must not fill the memory. */
const LONGEST_EVENT = 16 * 1024 * 1024;

/** Takes server-sent events apart, wherever the pieces were cut. */
export class EventStreamParser {
  #rest = "";
  #id = "";
  #event = "";
  #data: string[] = [];
  #size = 0;
  #first = true;
  /** The pause before reconnecting that the server asked for, milliseconds. */
  retryMs: number | undefined;

  /** The events that `text` completes. */
  push(text: string): StreamEvent[] {
    const events: StreamEvent[] = [];
    let rest = this.#rest + text;
    if (this.#first && rest !== "") {
      this.#first = false;
      if (rest.startsWith("\uFEFF")) rest = rest.slice(1);
    }
    let start = 0;
    for (;;) {
      const end = lineEnd(rest, start);
      if (end === undefined) break;
      const event = this.#line(rest.slice(start, end.at));
      if (event !== undefined) events.push(event);
      start = end.next;
    }
    this.#rest = rest.slice(start);
    if (this.#rest.length + this.#size > LONGEST_EVENT) {
      throw new ControlPlaneError("the control plane sent an event of more than 16 MiB", { transient: false });
    }
    return events;
  }

  #line(line: string): StreamEvent | undefined {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return undefined;
    const field = colon < 0 ? line : line.slice(0, colon);
    const raw = colon < 0 ? "" : line.slice(colon + 1);
    const value = raw.startsWith(" ") ? raw.slice(1) : raw;
    if (field === "data") {
      this.#data.push(value);
      this.#size += value.length;
    } else if (field === "event") this.#event = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
    return undefined;
  }

  #dispatch(): StreamEvent | undefined {
    const event = { id: this.#id, event: this.#event || "message", data: this.#data.join("\n") };
    const empty = this.#data.length === 0;
    this.#event = "";
    this.#data = [];
    this.#size = 0;
    return empty ? undefined : event;
  }
}

/** The next end of a line in `text`. A CR at the very end is none yet: its LF may be in the next piece. */
function lineEnd(text: string, from: number): { at: number; next: number } | undefined {
  for (let at = from; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 10) return { at, next: at + 1 };
    if (code === 13) {
      if (at + 1 === text.length) return undefined;
      return { at, next: text.charCodeAt(at + 1) === 10 ? at + 2 : at + 1 };
    }
  }
  return undefined;
}

export interface FollowOptions {
  /** Opens the stream after the event `lastEventId`; throws `ControlPlaneError`. */
  readonly open: (lastEventId: string | undefined, connection: AbortController) => Promise<Response>;
  readonly signal: AbortSignal;
  /** Give up after so long without a sign of life, milliseconds. */
  readonly awayMs: number;
  /** A connection that is silent for so long is taken for dead, milliseconds. */
  readonly silentMs: number;
}

/**
 * The events, for as long as the reader wants them: the stream is opened again whenever it ends.
 *
 * @throws ControlPlaneError when the control plane refuses or stays away too long; the signal's reason on abort.
 */
export async function* followEvents(options: FollowOptions): AsyncGenerator<StreamEvent, never> {
  const backoff = new Backoff(FIRST_PAUSE_MS);
  let position: string | undefined;
  for (;;) {
    try {
      for await (const event of oneConnection(options, position, backoff)) {
        backoff.reset();
        if (isReplay(event.id, position)) continue;
        yield event;
        if (event.id !== "") position = event.id;
      }
    } catch (error) {
      options.signal.throwIfAborted();
      if (!(error instanceof ControlPlaneError) || !error.transient) throw error;
      if (backoff.failed() > options.awayMs) {
        throw new ControlPlaneError(
          `the control plane was away for more than ${options.awayMs / 1000} s (MIDRUN_CONTROL_PLANE_RETRY_MS): ${error.message}`,
          { transient: false, cause: error },
        );
      }
      await sleep(backoff.pause(error.retryAfterMs), options.signal);
      continue;
    }
    // The server ended the stream in good order; without a pause, one that always does would be asked in a loop.
    backoff.failed();
    await sleep(backoff.pause(), options.signal);
  }
}

/** Whether a server that forgot our position tells again what was read. Only ids that are numbers show an order. */
function isReplay(id: string, position: string | undefined): boolean {
  if (id === "" || position === undefined) return false;
  if (id === position) return true;
  return /^\d+$/.test(id) && /^\d+$/.test(position) && BigInt(id) < BigInt(position);
}

async function* oneConnection(options: FollowOptions, position: string | undefined, backoff: Backoff): AsyncGenerator<StreamEvent> {
  const connection = new AbortController();
  const abort = () => connection.abort(options.signal.reason);
  options.signal.throwIfAborted();
  options.signal.addEventListener("abort", abort, { once: true });
  try {
    const response = await options.open(position, connection);
    const parser = new EventStreamParser();
    for await (const text of chunks(response, connection, options.silentMs)) {
      const events = parser.push(text);
      if (parser.retryMs !== undefined) backoff.firstMs = parser.retryMs;
      yield* events;
    }
  } finally {
    options.signal.removeEventListener("abort", abort);
    connection.abort(new ControlPlaneError("the stream was left", { transient: true }));
  }
}

/** The body as text. The time that the reader takes between two pieces does not count as silence. */
async function* chunks(response: Response, connection: AbortController, silentMs: number): AsyncGenerator<string> {
  if (response.body === null) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  for (;;) {
    const dead = () => connection.abort(new ControlPlaneError(`the event stream was silent for ${silentMs} ms`, { transient: true }));
    const timer = setTimeout(dead, silentMs);
    try {
      const { done, value } = await reader.read();
      if (done) return;
      yield decoder.decode(value, { stream: true });
    } catch (error) {
      if (error instanceof ControlPlaneError) throw error;
      throw new ControlPlaneError("the event stream broke off", { transient: true, cause: error });
    } finally {
      clearTimeout(timer);
    }
  }
}
