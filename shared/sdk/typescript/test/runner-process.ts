/** A real runner process, seen the way its run-host sees it. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { compiled } from "./places.ts";

export type Message = { type: string; [key: string]: any };

/** How long anything may take before a test fails, milliseconds. */
const LIMIT_MS = 20_000;

const folder = mkdtempSync(join(tmpdir(), "midrun-runner-"));
const live = new Set<RunnerProcess>();
let modules = 0;

/** Ends what a failed test left. */
export function cleanUp(): void {
  for (const runner of live) runner.child.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
}

/** A new module with this text. */
export function moduleFile(text: string): string {
  modules += 1;
  const path = join(folder, `artifact-${modules}.mjs`);
  writeFileSync(path, text);
  return path;
}

export interface RunnerOptions {
  env?: Record<string, string>;
  /** Without a run-host, as in a terminal. */
  alone?: boolean;
}

export class RunnerProcess {
  readonly child: ChildProcess;
  readonly messages: Message[] = [];
  stdout = "";
  stderr = "";
  readonly #changed = new Set<() => void>();
  readonly exited: Promise<number | string>;

  constructor(artifact: string, options: RunnerOptions = {}) {
    const env: NodeJS.ProcessEnv = { PATH: process.env["PATH"], HOME: folder, ...options.env };
    if (!options.alone) env["MIDRUN_CONTROL_FD"] = "3";
    this.child = spawn(process.execPath, [compiled("runner.js"), "--artifact", artifact], {
      env,
      cwd: folder,
      stdio: ["ignore", "pipe", "pipe", options.alone ? "ignore" : "pipe"],
    });
    live.add(this);
    this.#collect("stdout");
    this.#collect("stderr");
    if (!options.alone) this.#listen(this.channel);
    this.exited = new Promise((resolve) => {
      this.child.on("close", (code, signal) => {
        live.delete(this);
        resolve(code ?? (signal as string));
        this.#tell();
      });
    });
  }

  get channel(): Socket {
    return this.child.stdio[3] as Socket;
  }

  get pid(): number {
    return this.child.pid as number;
  }

  types(): string[] {
    return this.messages.map(({ type }) => type);
  }

  all(type: string): Message[] {
    return this.messages.filter((message) => message.type === type);
  }

  /** Waits until `holds`; fails with what the runner said when it does not come true. */
  async until(what: string, holds: () => boolean): Promise<void> {
    const deadline = performance.now() + LIMIT_MS;
    while (!holds()) {
      const left = deadline - performance.now();
      const ended = this.child.exitCode !== null || this.child.signalCode !== null;
      if (left <= 0 || (ended && this.child.stdout?.destroyed)) {
        const seen = JSON.stringify(this.messages.slice(-8));
        throw new Error(`never ${what}; messages ${seen}; stdout ${this.stdout.slice(-300)}; stderr ${this.stderr.slice(-600)}`);
      }
      await new Promise<void>((wake) => {
        const timer = setTimeout(done, left);
        const changed = this.#changed;
        function done() {
          clearTimeout(timer);
          changed.delete(done);
          wake();
        }
        changed.add(done);
      });
    }
  }

  async message(type: string, count = 1): Promise<Message> {
    await this.until(`${count} ${type}`, () => this.all(type).length >= count);
    return this.all(type)[count - 1] as Message;
  }

  async printed(text: string): Promise<void> {
    await this.until(`printed ${text}`, () => this.stdout.includes(text));
  }

  /** Names an artifact, as a run-host does before it rings. */
  name(path: string, contentHash: string, more: object = {}): void {
    this.channel.write(`${JSON.stringify({ type: "artifact", contentHash, path, ...more })}\n`);
  }

  ring(signal: NodeJS.Signals = "SIGUSR2"): void {
    this.child.kill(signal);
  }

  swap(path: string, contentHash: string, more: object = {}): void {
    this.name(path, contentHash, more);
    this.ring();
  }

  #collect(name: "stdout" | "stderr"): void {
    this.child[name]?.setEncoding("utf8").on("data", (text: string) => {
      this[name] += text;
      this.#tell();
    });
    this.child[name]?.on("close", () => this.#tell());
  }

  #listen(channel: Socket): void {
    let rest = "";
    channel.on("error", () => undefined);
    channel.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      this.messages.push(...lines.map((line) => JSON.parse(line) as Message));
      this.#tell();
    });
  }

  #tell(): void {
    for (const wake of this.#changed) wake();
  }
}
