/**
 * The runner: `node RUNNER --artifact PATH` executes one trainer once.
 *
 * What must hold: handlers are set before any user code runs, and `ready` is sent only after the trainer is found;
 * what the user's code prints is all that stands on stdout and stderr while a run-host listens, except for the
 * reason when the run fails; the exit status says how the run ended.
 */
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { resolve } from "node:path";
import { inspect } from "node:util";

import { ability, canSwap } from "./brands.ts";
import { configHash, sha256 } from "./canonical.ts";
import { ControlChannel } from "./control-channel.ts";
import { findTrainer, missingTrainer, type RunnableTrainer } from "./discovery.ts";
import { drain } from "./drain.ts";
import { limits } from "./environment.ts";
import { reach } from "./failpoint.ts";
import { watchFirst } from "./first-callback.ts";
import { importArtifact } from "./import-artifact.ts";
import { cancelJob, exitBy, STOP_SIGNALS, stopEarly, type StopSignal } from "./stop.ts";
import { Swaps } from "./swap.ts";

/** How long a stopped trainer's `wait()` may still take, milliseconds: its last callback may be under way. */
const LAST_CALLBACK_MS = 5_000;

class Runner {
  readonly #artifact: string;
  readonly #channel: ControlChannel;
  readonly #earlyStopMs: number;
  readonly #started: Promise<unknown>;
  #startEnded!: (start: Promise<unknown>) => void;
  #trainer: RunnableTrainer | undefined;
  #swaps: Swaps | undefined;
  #contentHash = "";
  #stopping = false;
  #waiting: Promise<string> | undefined;
  /** Why the job failed, if it did. */
  #failure: string | undefined;

  constructor(artifact: string) {
    this.#artifact = artifact;
    this.#channel = ControlChannel.fromEnvironment(process.env, (message) => this.#swaps?.name(message));
    this.#earlyStopMs = limits(process.env).earlyStopMs;
    this.#started = new Promise((settle) => (this.#startEnded = settle));
    this.#started.catch(() => undefined);
    process.on(hotSwapSignal(process.env), () => this.#ring());
    for (const signal of STOP_SIGNALS) process.on(signal, () => void this.#stop(signal));
    process.on("beforeExit", () => void this.#stuck());
  }

  async run(): Promise<void> {
    try {
      const trainer = await this.#arm();
      this.#startEnded((async () => trainer.start())());
      const started = (await this.#started) as { jobId?: unknown } | undefined;
      if (typeof started?.jobId === "string") this.#tellJob(started.jobId);
      this.#waiting = Promise.resolve(trainer.wait()).then((result) => this.#finalStatus(result));
      const status = await this.#waiting;
      if (!this.#stopping) await this.#finish(status, status === "failed" ? 1 : 0);
    } catch (error) {
      // A stop that is under way has the last word.
      if (!this.#stopping) await this.#fail(error);
    }
  }

  /** Imports the artifact, finds the trainer and says so. */
  async #arm(): Promise<RunnableTrainer> {
    reach("runner.started");
    this.#contentHash = sha256(readFileSync(this.#artifact));
    const exports = await importArtifact(this.#artifact);
    const trainer = findTrainer(exports);
    if (trainer === null) throw new Error(missingTrainer(exports));
    const hash = hashOfConfig(trainer);
    ability(trainer, "observe")?.({
      job: (job) => this.#channel.send({ type: "job", ...job }),
      training: (started) => this.#channel.send({ type: "training", ...started }),
      checkpoint: (step) => this.#channel.send({ type: "checkpoint", step }),
      cancelling: (step) => this.#channel.send({ type: "earlyStop", phase: "cancelling", ...(step !== undefined && { step }) }),
    });
    this.#trainer = trainer;
    this.#watchFirst(trainer);
    this.#swaps = new Swaps({ trainer, configHash: hash }, (message) => this.#channel.send(message));
    const name = typeof trainer.name === "string" ? trainer.name : null;
    reach("runner.imported");
    this.#channel.send({
      type: "ready",
      contentHash: this.#contentHash,
      configHash: hash,
      trainer: name,
      canSwap: canSwap(trainer),
    });
    return trainer;
  }

  /** A run that was started because of a save stands in that save's trace with its first callback. */
  #watchFirst(trainer: RunnableTrainer): void {
    const traceparent = process.env["TRACEPARENT"];
    const [inspect, replace] = [ability(trainer, "inspect"), ability(trainer, "replaceCallbacks")];
    if (!traceparent || !this.#channel.present || !this.#ours || inspect === undefined) return;
    const code = { contentHash: this.#contentHash, traceparent };
    replace?.(watchFirst(inspect().callbacks ?? {}, code, (message) => this.#channel.send(message)));
  }

  /** Whether `createTrainer` made the trainer. */
  get #ours(): boolean {
    return this.#trainer !== undefined && ability(this.#trainer, "observe") !== undefined;
  }

  #tellJob(id: string): void {
    if (!this.#channel.present) process.stdout.write(`Started job ${id}\n`);
    // A trainer of ours has told it, with where the job lives.
    else if (!this.#ours) this.#channel.send({ type: "job", id });
  }

  #ring(): void {
    const swaps = this.#swaps;
    if (swaps === undefined) return;
    if (!this.#channel.present) {
      // In a terminal nobody names an artifact: it is the file that the run was started with, if that changed.
      const contentHash = hashOfFile(this.#artifact);
      if (contentHash === undefined || contentHash === this.#contentHash) return;
      this.#contentHash = contentHash;
      swaps.name({ type: "artifact", contentHash, path: this.#artifact });
    }
    swaps.ring();
  }

  async #stop(signal: StopSignal): Promise<void> {
    if (this.#stopping) process.exit(exitBy(signal));
    this.#stopping = true;
    this.#swaps?.close("the run is stopping");
    if (!this.#channel.present) process.stderr.write("midrun: stopping at the next checkpoint; once more stops at once\n");
    const outcome = await stopEarly(signal, {
      trainer: this.#trainer,
      started: this.#started,
      ours: this.#ours,
      timeoutMs: this.#earlyStopMs,
      send: (message) => this.#channel.send(message),
    });
    if (outcome.error !== undefined) process.stderr.write(`midrun: the job could not be cancelled: ${shown(outcome.error)}\n`);
    // A job that goes on has no status to wait for.
    if (outcome.error !== undefined) return this.#finish("failed", outcome.exitCode);
    const status = await this.#statusAfterStop();
    await this.#finish(status, status === "failed" ? 1 : outcome.exitCode);
  }

  /** What `wait()` says after a stop; it may be in a callback that takes its time. */
  async #statusAfterStop(): Promise<string> {
    const waited = this.#waiting?.catch((error: unknown) => {
      // Rejecting is how a trainer that was written by hand may end after its cancel; ours means a failure by it.
      if (!this.#ours) return "cancelled";
      process.stderr.write(`${shown(error)}\n`);
      return "failed";
    });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<string>((settle) => (timer = setTimeout(() => settle("cancelled"), LAST_CALLBACK_MS)));
    return Promise.race([waited ?? "cancelled", late]).finally(() => clearTimeout(timer));
  }

  /** Nothing is left that could make the run go on. */
  async #stuck(): Promise<void> {
    const part = this.#trainer === undefined ? "the import of the trainer" : "the trainer's start() or wait()";
    if (!this.#stopping) await this.#fail(new Error(`${part} can never end: nothing is left that it could wait for`));
  }

  /** The job must not go on without a run that follows it. */
  async #fail(error: unknown): Promise<void> {
    this.#stopping = true;
    process.stderr.write(`${shown(error)}\n`);
    if (this.#trainer !== undefined) await cancelJob(this.#trainer).catch(() => undefined);
    await this.#finish("failed", 1, inShort(error));
  }

  /** How the job ended, by what `wait()` resolved to. A trainer that says nothing has come to its end. */
  #finalStatus(result: unknown): string {
    const { job } = (result ?? {}) as { job?: { id?: unknown; status?: unknown; error?: unknown } };
    if (job?.status === "failed") {
      const error = String(job.error ?? "no reason given");
      this.#failure = inShort(`the job failed: ${error}`);
      process.stderr.write(`midrun: job ${String(job.id)} failed: ${error}\n`);
    }
    return typeof job?.status === "string" ? job.status : "completed";
  }

  async #finish(status: string, exitCode: number, reason = this.#failure): Promise<never> {
    this.#channel.send({ type: "finished", status, ...(reason !== undefined && { reason }) });
    await Promise.all([this.#channel.flush(), drain([process.stdout, process.stderr])]);
    reach("runner.exiting");
    process.exit(exitCode);
  }
}

function hashOfConfig(trainer: RunnableTrainer): string | null {
  const ask = ability(trainer, "inspect");
  return ask === undefined ? null : configHash(ask().config);
}

function hashOfFile(path: string): string | undefined {
  try {
    return sha256(readFileSync(path));
  } catch {
    return undefined;
  }
}

function shown(error: unknown): string {
  return error instanceof Error ? inspect(error) : String(error);
}

/** Most characters of a reason that is told besides being printed. */
const LONGEST_REASON = 1_000;

/** The first line of what went wrong, for a list of runs. */
function inShort(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return (text.split("\n", 1)[0] ?? "").slice(0, LONGEST_REASON);
}

/** `MIDRUN_HOT_SWAP_SIGNAL`, a name or a number: other code in the process may have claimed SIGUSR2. */
function hotSwapSignal(env: NodeJS.ProcessEnv): NodeJS.Signals {
  const asked = env["MIDRUN_HOT_SWAP_SIGNAL"] ?? "SIGUSR2";
  const known = Object.entries(constants.signals);
  const [name] = known.find(([name, number]) => name === asked || String(number) === asked) ?? [];
  if (name === undefined) throw new Error(`MIDRUN_HOT_SWAP_SIGNAL is ${JSON.stringify(asked)}; it is a signal such as SIGUSR2`);
  return name as NodeJS.Signals;
}

function artifactArgument(args: readonly string[]): string {
  const path = args[args.indexOf("--artifact") + 1];
  if (!args.includes("--artifact") || path === undefined) {
    process.stderr.write("usage: node RUNNER --artifact PATH\n");
    process.exit(2);
  }
  return resolve(path);
}

void new Runner(artifactArgument(process.argv.slice(2))).run();
