// Terminal sessions: shells on ptys, each in a host of its own, that outlive this page.

import { signal } from "@preact/signals";
import { ask, Refused, refusal, send, words } from "../net/ask.ts";
import { PtyPast } from "../log/past.ts";
import type { Frame } from "../net/stream.ts";
import { tab } from "../net/tab.ts";
import type { LogRecord, Terminal } from "../net/types.ts";

export const terminals = signal<readonly Terminal[]>([]);
export const terminalsAre = signal<"unread" | "read" | "absent">("unread");
export const terminalsError = signal<string | null>(null);

export async function readTerminals() {
  try {
    terminals.value = (await ask<{ terminals: Terminal[] }>("GET", "/api/terminals")).terminals;
    terminalsAre.value = "read";
    terminalsError.value = null;
  } catch (error) {
    if (error instanceof Refused && error.status === 404) terminalsAre.value = "absent";
    else terminalsError.value = words(error);
  }
}

const path = (id: string) => `/api/terminals/${encodeURIComponent(id)}`;

export async function openTerminal(): Promise<Terminal> {
  const { terminal } = await ask<{ terminal: Terminal }>("POST", "/api/terminals", {});
  await readTerminals();
  return terminal;
}

export async function closeTerminal(id: string) {
  await ask("DELETE", path(id));
  await readTerminals();
}

/** A command that `midrun term run` or a program gave, and how it ended. */
export interface Command {
  id: string;
  text: string;
  exitCode?: number | null;
  durationMs?: number;
}

const MOST_COMMANDS = 100;

/** Takes what a session wrote. `old`: it was written before anybody here could answer. */
export type Reader = (bytes: string | Uint8Array, old: boolean) => void;

/** One session: what it wrote, and a way to type into it. */
export class TerminalSession {
  readonly id: string;
  readonly ended = signal<string | null>(null);
  /** Why nothing comes at the moment. */
  readonly away = signal<string | null>(null);
  readonly commands = signal<readonly Command[]>([]);
  /** Why what was typed did not get there. */
  readonly refused = signal<string | null>(null);
  private readonly past = new PtyPast();
  private readonly readers = new Set<Reader>();
  private leave = () => {};
  private closed = false;
  private typed = "";
  private sending = false;
  private size = "";

  constructor(id: string) {
    this.id = id;
    void this.begin();
  }

  feed(to: Reader): () => void {
    for (const part of this.past.parts) to(part, true);
    this.readers.add(to);
    return () => this.readers.delete(to);
  }

  /** Sends what is typed, in order: one request is under way, what comes meanwhile goes with the next. */
  type(text: string) {
    if (this.ended.value !== null) return;
    this.typed += text;
    if (!this.sending) void this.send();
  }

  private async send() {
    this.sending = true;
    while (this.typed !== "") {
      const part = this.typed.slice(0, 8192);
      try {
        const answer = await send(`${path(this.id)}/input`, { method: "POST", body: part, headers: { "content-type": "text/plain" } });
        if (answer.ok) {
          this.typed = this.typed.slice(part.length);
          this.refused.value = null;
        } else if (answer.status === 429) await new Promise((go) => setTimeout(go, 200));
        else throw await refusal(answer);
      } catch (error) {
        this.refused.value = words(error);
        this.typed = "";
      }
    }
    this.sending = false;
  }

  async resize(rows: number, columns: number) {
    const size = `${rows}x${columns}`;
    if (size === this.size || this.ended.value !== null || rows < 1 || columns < 1) return;
    this.size = size;
    await ask("POST", `${path(this.id)}/resize`, { rows, columns }).catch(() => {});
  }

  private async begin() {
    try {
      await ask("GET", path(this.id));
    } catch (error) {
      // What an address names may be no terminal at all: that would be no topic either.
      if (error instanceof Refused && error.status === 404) {
        this.ended.value = words(error);
        return;
      }
    }
    if (!this.closed) this.leave = tab.follow(`terminal:${this.id}`, (frame) => this.on(frame));
  }

  private on({ event, data, past = false }: Frame) {
    this.away.value = event === "topic.away" ? (data?.error ?? "its source is away") : null;
    if (event === "topic.missing") this.ended.value ??= data?.error ?? "there is no such terminal";
    else if (event === "topic.end") this.ended.value ??= "The shell ended.";
    else if (!event.startsWith("topic.")) this.take(event, data as LogRecord, past);
  }

  private take(name: string, record: LogRecord, old: boolean) {
    if (name === "output") {
      const part = record.text ?? Uint8Array.from(atob(record.base64 ?? ""), (letter) => letter.charCodeAt(0));
      this.past.push(part);
      for (const reader of this.readers) reader(part, old);
    } else if (name === "input") {
      const command = { id: String(record["command"]), text: record.text ?? "" };
      this.commands.value = [command, ...this.commands.value].slice(0, MOST_COMMANDS);
    } else if (name === "completed") {
      const { command, exitCode, durationMs } = record as unknown as { command: string; exitCode: number | null; durationMs: number };
      this.commands.value = this.commands.value.map((one) => (one.id === command ? { ...one, exitCode, durationMs } : one));
    } else if (name === "exit") {
      const code = record["exitCode"];
      this.ended.value = typeof code === "number" ? `The shell ended with ${code}.` : String(record["reason"] ?? "The shell ended.");
      void readTerminals();
    }
  }

  close() {
    this.closed = true;
    this.leave();
  }
}
