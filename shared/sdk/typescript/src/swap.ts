/**
 * Hot swaps of a live run: imports the newest artifact that was named, and puts its callbacks into the trainer.
 *
 * What must hold: every artifact that was named gets exactly one answer; at most the newest one is swapped in; a
 * module that fails, hangs or has another config leaves the run as it was.
 */
import { ability } from "./brands.ts";
import { configHash } from "./canonical.ts";
import type { ArtifactMessage, RunnerMessage } from "./control-channel.ts";
import { findTrainer, type RunnableTrainer } from "./discovery.ts";
import { reach } from "./failpoint.ts";
import { watchFirst } from "./first-callback.ts";
import { importArtifact } from "./import-artifact.ts";

/** How long an artifact may take to be imported, milliseconds. */
const IMPORT_MS = 10_000;

export interface SwapTarget {
  readonly trainer: RunnableTrainer;
  /** The hash of the config that the run was started with, if it tells. */
  readonly configHash: string | null;
}

export class Swaps {
  readonly #target: SwapTarget;
  readonly #send: (message: RunnerMessage) => void;
  #named: ArtifactMessage | undefined;
  #importing: ArtifactMessage | undefined;
  #closedBecause: string | undefined;

  constructor(target: SwapTarget, send: (message: RunnerMessage) => void) {
    this.#target = target;
    this.#send = send;
  }

  /** The host names what its next signal means. */
  name(artifact: ArtifactMessage): void {
    if (this.#named !== undefined) this.#skip(this.#named, SUPERSEDED);
    this.#named = artifact;
  }

  /** The signal. Without an artifact that was named since the last one, it means nothing. */
  ring(): void {
    const artifact = this.#named;
    if (artifact === undefined) return;
    this.#named = undefined;
    if (this.#closedBecause !== undefined) return this.#skip(artifact, this.#closedBecause);
    if (this.#importing !== undefined) this.#skip(this.#importing, SUPERSEDED);
    this.#importing = artifact;
    void this.#swap(artifact, performance.now());
  }

  /** From now on nothing is swapped. */
  close(because: string): void {
    this.#closedBecause = because;
    if (this.#importing !== undefined) this.#skip(this.#importing, because);
    this.#importing = undefined;
  }

  async #swap(artifact: ArtifactMessage, rangAt: number): Promise<void> {
    const outcome = await inTime(imported(artifact.path));
    reach("runner.swap-imported");
    // Answered when a newer one took its place.
    if (this.#importing !== artifact) return;
    this.#importing = undefined;
    const refused = "reason" in outcome ? outcome.reason : this.#replace(outcome.exports, artifact);
    if (refused !== undefined) return this.#skip(artifact, refused);
    reach("runner.swapped");
    const tookMs = Math.round((performance.now() - rangAt) * 1000) / 1000;
    this.#send({ type: "swapped", contentHash: artifact.contentHash, tookMs, ...trace(artifact) });
    reach("runner.swap-told");
  }

  /** Why the callbacks were not replaced, if they were not. */
  #replace(exports: Record<string, unknown>, artifact: ArtifactMessage): string | undefined {
    const replace = ability(this.#target.trainer, "replaceCallbacks");
    if (replace === undefined) return "the running trainer cannot take new callbacks";
    const trainer = findTrainer(exports);
    if (trainer === null) return "the new code offers no trainer";
    const inspect = ability(trainer, "inspect");
    if (inspect === undefined) return "the new trainer does not show its callbacks";
    try {
      const { config, callbacks } = inspect();
      const hash = configHash(config);
      if (hash === null || this.#target.configHash === null) return "without its config nobody can tell whether it changed";
      if (hash !== this.#target.configHash) return "the config is another than the run was started with";
      replace(watchFirst(callbacks ?? {}, artifact, this.#send));
      return undefined;
    } catch (error) {
      return `the callbacks could not be taken over: ${said(error)}`;
    }
  }

  #skip(artifact: ArtifactMessage, reason: string): void {
    this.#send({ type: "swapSkipped", contentHash: artifact.contentHash, reason, ...trace(artifact) });
  }
}

const SUPERSEDED = "superseded";

type Imported = { exports: Record<string, unknown> } | { reason: string };

async function imported(path: string): Promise<Imported> {
  try {
    return { exports: await importArtifact(path) };
  } catch (error) {
    return { reason: `the new code failed while it was imported: ${said(error)}` };
  }
}

function inTime(outcome: Promise<Imported>): Promise<Imported> {
  const reason = `the new code was not imported within ${IMPORT_MS / 1000} s; a top-level await may be hanging`;
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve({ reason }), IMPORT_MS).unref();
    void outcome.then((ended) => {
      clearTimeout(timer);
      resolve(ended);
    });
  });
}

function trace(artifact: ArtifactMessage): { traceparent?: string } {
  return artifact.traceparent === undefined ? {} : { traceparent: artifact.traceparent };
}

function said(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}
