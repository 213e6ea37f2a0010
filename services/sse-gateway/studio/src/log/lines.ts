// A run's log as lines, from records that are cut anywhere.
//
// What must hold: memory is bounded, and the page says what was let go of. A carriage return starts its line again, so
// a progress bar is one line. Each stream has a line of its own under way, so two of them never mix within a line.

import { parseLine, PLAIN, plain, type Style } from "./ansi.ts";
import type { LogRecord } from "../net/types.ts";

export type Source = "stdout" | "stderr" | "pty" | "life";

export interface Line {
  /** Counted from the first line there ever was. */
  number: number;
  source: Source;
  text: string;
  /** In which it begins. */
  style: Style;
  ts: string;
}

const MOST_LINES = 50_000;
/** A line that is longer goes on in the next. */
const LONGEST = 8_000;

interface Open {
  line: Line;
  /** A carriage return came last: the next character starts the line again. */
  returned: boolean;
}

export class LogLines {
  readonly lines: Line[] = [];
  /** Lines that were let go of. */
  dropped = 0;
  private readonly most: number;
  private readonly open = new Map<Source, Open>();
  private readonly styles = new Map<Source, Style>();
  private readonly decoders = new Map<Source, TextDecoder>();

  constructor(most = MOST_LINES) {
    this.most = most;
  }

  clear() {
    this.lines.length = 0;
    this.dropped = 0;
    this.open.clear();
    this.styles.clear();
    this.decoders.clear();
  }

  /** Takes an output record. */
  output(record: Pick<LogRecord, "stream" | "text" | "base64" | "ts">) {
    const source = record.stream ?? "stdout";
    // Text is whole characters: what an earlier record began and nobody ended is no character.
    const text =
      record.text === undefined ? this.decode(source, record.base64 ?? "") : (this.decoders.get(source)?.decode() ?? "") + record.text;
    this.write(source, text, record.ts);
  }

  /** A line of the run's life. */
  life(text: string, ts: string) {
    this.push({ number: 0, source: "life", text, style: PLAIN, ts });
  }

  /** Where output is missing. What was under way there never ends, and no style is known to go on. */
  gap(text: string, ts: string) {
    this.open.clear();
    this.styles.clear();
    this.decoders.clear();
    this.life(text, ts);
  }

  private decode(source: Source, base64: string): string {
    let decoder = this.decoders.get(source);
    if (!decoder) this.decoders.set(source, (decoder = new TextDecoder()));
    return decoder.decode(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)), { stream: true });
  }

  private write(source: Source, text: string, ts: string) {
    const parts = text.split("\n");
    parts.forEach((part, place) => {
      if (part !== "") this.append(source, part, ts);
      if (place < parts.length - 1) this.end(source, ts);
    });
  }

  private append(source: Source, part: string, ts: string) {
    let open = this.open.get(source);
    if (!open) {
      open = { line: this.push({ number: 0, source, text: "", style: this.styles.get(source) ?? PLAIN, ts }), returned: false };
      this.open.set(source, open);
    }
    let rest = part;
    if (open.returned || rest.includes("\r")) {
      const whole = (open.returned ? "\r" : "") + rest;
      open.returned = whole.endsWith("\r");
      const runs = whole.split("\r").filter((run) => run !== "");
      const begins = whole.startsWith("\r");
      if (runs.length === 0) return;
      if (begins || runs.length > 1) open.line.text = "";
      rest = runs.at(-1) ?? "";
    }
    open.line.text += rest;
    if (open.line.text.length > LONGEST) this.end(source, ts);
  }

  private end(source: Source, ts: string) {
    const open = this.open.get(source);
    if (!open) {
      this.push({ number: 0, source, text: "", style: this.styles.get(source) ?? PLAIN, ts });
      return;
    }
    this.styles.set(source, parseLine(open.line.text, open.line.style).end);
    this.open.delete(source);
  }

  private push(line: Line): Line {
    line.number = this.dropped + this.lines.length + 1;
    this.lines.push(line);
    if (this.lines.length > this.most) {
      // Many at once: letting go of one at each line would move all others each time.
      const gone = Math.max(1, Math.ceil(this.most / 10));
      this.lines.splice(0, gone);
      this.dropped += gone;
    }
    return line;
  }

  /** The whole of it as plain text. */
  text(): string {
    const before = this.dropped > 0 ? [`[${this.dropped} earlier lines are not kept in the page]`] : [];
    return [...before, ...this.lines.map((line) => plain(line.text))].join("\n") + "\n";
  }

  /** The places of the lines that contain `wanted`, whatever its case. */
  search(wanted: string): number[] {
    const needle = wanted.toLowerCase();
    if (needle === "") return [];
    const found: number[] = [];
    this.lines.forEach((line, place) => {
      if (plain(line.text).toLowerCase().includes(needle)) found.push(place);
    });
    return found;
  }
}
