// The one event stream of this tab. Whoever wants events names a topic; the stream is opened for all topics that
// somebody wants, and again behind the last event of each whenever it breaks or the topics change.
//
// What must hold: each event reaches its listener once and in order, however often the stream was opened. The
// positions are taken from the events themselves, after they were handed on. While the page is hidden for long no
// stream is open: a browser has six connections for all tabs of one server.

import { signal, type Signal } from "@preact/signals";
import { events } from "./sse.ts";

/** One event of one topic. */
export interface Frame {
  topic: string;
  event: string;
  id?: string;
  /** It happened before the stream was opened. */
  past?: boolean;
  data: any;
}

export type Link = "connecting" | "live" | "away";

/** What the stream needs of the world outside. */
export interface Outside {
  open(path: string, headers: Record<string, string>, abort: AbortSignal): Promise<Response>;
  /** Calls `act` after `ms`; gives what calls it off. */
  later(ms: number, act: () => void): () => void;
  random(): number;
}

interface Listener {
  position: string | undefined;
  on: (frame: Frame) => void;
}

const FIRST_PAUSE = 300;
const LONGEST_PAUSE = 5000;
/** Three heartbeats. */
const SILENCE = 45_000;
/** Topics that are named at about the same time are asked for together. */
const GATHER = 20;
const HIDDEN_GRACE = 30_000;

export class TabStream {
  readonly link: Signal<Link> = signal("connecting");
  /** Counts how often the stream came to life: what was asked for before may be out of date. */
  readonly lives: Signal<number> = signal(0);
  private readonly outside: Outside;
  private readonly listeners = new Map<string, Listener>();
  private abort: AbortController | undefined;
  // What calls off each of the things that wait for their time; each has a place of its own, since none of them may be
  // called off by another one.
  /** Topics are being gathered, and the stream is opened for them then. */
  private gathering: (() => void) | undefined;
  /** A stream that broke is opened again then. */
  private comeback: (() => void) | undefined;
  /** A page out of sight is without a stream from then on. */
  private hiding: (() => void) | undefined;
  private pause = FIRST_PAUSE;
  private hidden = false;
  private stopped = false;

  constructor(outside: Outside) {
    this.outside = outside;
  }

  /** Hands the events of `topic` to `on`, from behind `position` on. One listener a topic. Gives what ends it. */
  follow(topic: string, on: (frame: Frame) => void, position?: string): () => void {
    if (this.listeners.has(topic)) throw new Error(`${topic} is followed already`);
    const listener = { position, on };
    this.listeners.set(topic, listener);
    this.reopen();
    return () => {
      if (this.listeners.get(topic) !== listener) return;
      this.listeners.delete(topic);
      this.reopen();
    };
  }

  /** Where the listener of `topic` is. */
  position(topic: string): string | undefined {
    return this.listeners.get(topic)?.position;
  }

  /** Tells whether the page can be seen. One that was never seen yet has no stream until it is. */
  show(visible: boolean) {
    this.hiding?.();
    this.hiding = undefined;
    if (visible) {
      this.hidden = false;
      this.pause = FIRST_PAUSE;
      if (!this.abort && !this.gathering) this.open();
    } else if (this.lives.value === 0) this.hide();
    else this.hiding = this.outside.later(HIDDEN_GRACE, () => this.hide());
  }

  private hide() {
    this.hiding = undefined;
    this.hidden = true;
    this.comeback?.();
    this.comeback = undefined;
    this.abort?.abort();
    this.abort = undefined;
  }

  /** No stream any more: this page is not allowed in. */
  stop() {
    this.stopped = true;
    this.gathering?.();
    this.comeback?.();
    this.hiding?.();
    this.abort?.abort();
  }

  private reopen() {
    this.gathering?.();
    this.gathering = this.outside.later(GATHER, () => {
      this.gathering = undefined;
      this.abort?.abort();
      this.abort = undefined;
      this.open();
    });
  }

  private open() {
    this.comeback?.();
    this.comeback = undefined;
    if (this.stopped || this.hidden || this.listeners.size === 0) return;
    const abort = new AbortController();
    this.abort = abort;
    this.read(abort).then(
      () => this.lost(abort),
      () => this.lost(abort),
    );
  }

  private async read(abort: AbortController) {
    // Whoever follows the same topic anew waits for a stream that was asked for with its own position.
    const asking = new Set(this.listeners.values());
    const encode = (text: string) => encodeURIComponent(text).replaceAll("%3A", ":");
    const topics = [...this.listeners.keys()].map(topicName).join(",");
    const cursor = [...this.listeners].flatMap(([topic, { position }]) =>
      position === undefined ? [] : [`${encode(topic)}~${encode(position)}`]);
    const headers: Record<string, string> = { accept: "text/event-stream" };
    if (cursor.length > 0) headers["last-event-id"] = cursor.join(",");
    let quiet: (() => void) | undefined;
    const alive = () => {
      quiet?.();
      quiet = this.outside.later(SILENCE, () => abort.abort());
    };
    try {
      alive();
      const answer = await this.outside.open(`/api/events?topics=${encodeURIComponent(topics)}`, headers, abort.signal);
      if (!answer.ok || !answer.body) throw new Error(`the stream was answered ${answer.status}`);
      if (abort.signal.aborted) return;
      this.pause = FIRST_PAUSE;
      this.link.value = "live";
      this.lives.value += 1;
      for await (const event of events(answer.body, alive)) {
        if (abort.signal.aborted) return;
        this.hand(JSON.parse(event.data) as Frame, asking);
      }
    } finally {
      quiet?.();
    }
  }

  private hand(frame: Frame, asking: ReadonlySet<Listener>) {
    const listener = this.listeners.get(frame.topic);
    if (!listener || !asking.has(listener)) return;
    if (frame.id !== undefined) listener.position = frame.id;
    listener.on(frame);
  }

  private lost(abort: AbortController) {
    // Another one was opened in its place.
    if (this.abort !== abort) return;
    this.abort = undefined;
    if (this.stopped || this.hidden) return;
    this.link.value = "away";
    this.comeback = this.outside.later(this.pause * (0.7 + this.outside.random() * 0.6), () => this.open());
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE);
  }
}

/** As the address has it: ids are percent-encoded, so that a comma in one separates nothing. */
function topicName(topic: string): string {
  const colon = topic.indexOf(":");
  return colon < 0 ? topic : `${topic.slice(0, colon)}:${encodeURIComponent(topic.slice(colon + 1))}`;
}
