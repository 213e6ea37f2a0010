/**
 * The runner's line to its run-host: JSON objects a line, both ways, over an inherited socket.
 *
 * What must hold: it never keeps the process alive, never ends it, and never lets an error of the line reach the
 * user's code: without a host, training goes on. Node marks low inherited descriptors close-on-exec before any
 * user code runs, so the user's own children never get the socket.
 */
import { Socket } from "node:net";

import type { Started } from "./resume.ts";

/** From the runner to its host. */
export type RunnerMessage =
  | { type: "ready"; contentHash: string; configHash: string | null; trainer: string | null; canSwap: boolean }
  | { type: "job"; id: string; orgSlug?: string; projectSlug?: string; baseUrl?: string }
  | ({ type: "training" } & Started)
  | { type: "checkpoint"; step: number }
  | { type: "swapped"; contentHash: string; tookMs: number; traceparent?: string }
  | { type: "swapSkipped"; contentHash: string; reason: string; traceparent?: string }
  | { type: "callback"; contentHash: string; name: string; tookMs: number; ok: boolean; traceparent: string }
  | { type: "earlyStop"; phase: "waiting" | "cancelling" | "done" | "failed"; step?: number }
  | { type: "finished"; status: string; reason?: string };

/** From the host to its runner: the artifact that the next hot-swap signal means. */
export interface ArtifactMessage {
  type: "artifact";
  contentHash: string;
  path: string;
  configHash?: string;
  traceparent?: string;
}

/** Most characters of one line from the host. */
const LONGEST_LINE = 1024 * 1024;

/** How long the end of the process waits for the host to take what is written, milliseconds. */
const FLUSH_MS = 1_000;

export class ControlChannel {
  readonly #socket: Socket | undefined;

  /** Takes the socket that `MIDRUN_CONTROL_FD` names, and the variable with it: children have no such socket. */
  static fromEnvironment(env: NodeJS.ProcessEnv, onArtifact: (message: ArtifactMessage) => void): ControlChannel {
    const fd = env["MIDRUN_CONTROL_FD"];
    delete env["MIDRUN_CONTROL_FD"];
    if (fd === undefined || !/^\d+$/.test(fd)) return new ControlChannel(undefined, onArtifact);
    return new ControlChannel(Number(fd), onArtifact);
  }

  private constructor(fd: number | undefined, onArtifact: (message: ArtifactMessage) => void) {
    if (fd === undefined) return;
    const socket = opened(fd);
    if (socket === undefined) return;
    this.#socket = socket;
    socket.on("error", () => undefined);
    receiveLines(socket, onArtifact);
    socket.unref();
  }

  /** Whether a run-host listens or did. */
  get present(): boolean {
    return this.#socket !== undefined;
  }

  send(message: RunnerMessage): void {
    if (this.#socket?.writable === true) this.#socket.write(`${JSON.stringify(message)}\n`);
  }

  /** Waits until the system has taken everything that was sent, for a while. */
  async flush(): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined || !socket.writable) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, FLUSH_MS);
      const done = () => {
        clearTimeout(timer);
        resolve();
      };
      socket.once("close", done);
      socket.write("", done);
    });
  }
}

function opened(fd: number): Socket | undefined {
  try {
    return new Socket({ fd, readable: true, writable: true });
  } catch (error) {
    process.stderr.write(`midrun: MIDRUN_CONTROL_FD names ${fd}, which is no socket: ${(error as Error).message}\n`);
    return undefined;
  }
}

function receiveLines(socket: Socket, onArtifact: (message: ArtifactMessage) => void): void {
  let rest = "";
  socket.setEncoding("utf8");
  socket.on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    // No host writes such a line; what it was cut from cannot be understood any more.
    if (rest.length > LONGEST_LINE) rest = "";
    for (const line of lines) {
      const message = artifactMessage(line);
      if (message !== undefined) onArtifact(message);
    }
  });
}

function artifactMessage(line: string): ArtifactMessage | undefined {
  try {
    const message = JSON.parse(line) as Partial<ArtifactMessage> | null;
    const understood = message?.type === "artifact" && typeof message.path === "string" && typeof message.contentHash === "string";
    return understood ? (message as ArtifactMessage) : undefined;
  } catch {
    return undefined;
  }
}
