/**
 * `createTrainer`: one run of one job, followed from its creation to its end.
 *
 * What must hold: callbacks run one at a time and in the order of the job's events; each event reaches exactly one
 * set of callbacks, so a replacement takes effect between two events; after the stop of a run no callback is called.
 */
import { grant, type RunObserver } from "./brands.ts";
import { ControlPlane } from "./control-plane.ts";
import { EarlyStop } from "./early-stop.ts";
import { connection, limits } from "./environment.ts";
import type { StreamEvent } from "./event-stream.ts";
import { reach } from "./failpoint.ts";
import { inferFrom } from "./infer.ts";
import { jobConfig } from "./options.ts";
import { assertResumed, type ResumeFrom, startedIn } from "./resume.ts";
import { ControlPlaneError } from "./retry.ts";
import { type Claim, claimRun } from "./run-id.ts";
import type { Artifact, Job, JobEvent, JobStatus, LogEvent, Trainer, TrainerCallbacks, TrainerOptions, TrainingResult } from "./types.ts";

/**
 * Describes a run; nothing happens before `start()` or `wait()`.
 *
 * @throws TypeError when `name`, `model` or `dataset` is missing.
 */
export function createTrainer(options: TrainerOptions): Trainer {
  const config = jobConfig(options);
  const run = new TrainingRun(options, config);
  const trainer: Trainer = {
    name: options.name,
    start: () => run.start(),
    wait: () => run.wait(),
    cancel: () => run.cancel(),
  };
  // What a live run takes from new code is what that code was written with, so a replacement does not show here.
  grant(trainer, "inspect", () => ({ name: options.name, config, callbacks: options.callbacks ?? {} }));
  grant(trainer, "replaceCallbacks", (callbacks) => run.replaceCallbacks(callbacks));
  grant(trainer, "requestEarlyStop", (asked) => run.requestEarlyStop(asked?.timeoutMs));
  grant(trainer, "observe", (observer) => run.observe(observer));
  return trainer;
}

/** How long after an accepted cancel its event is waited for, milliseconds. */
const CANCEL_EVENT_MS = 5_000;

const TERMINAL: readonly JobStatus[] = ["completed", "failed", "cancelled"];

class TrainingRun {
  readonly #options: TrainerOptions;
  readonly #config: object;
  readonly #latch = new EarlyStop((step) => this.#cancelForStop(step));
  /** Ends the following of events. */
  readonly #following = new AbortController();
  /** Ends the creation of the job. */
  readonly #creating = new AbortController();
  #callbacks: TrainerCallbacks;
  #observer: RunObserver | undefined;
  #started: Promise<Job> | undefined;
  #waiting: Promise<TrainingResult> | undefined;
  #cancelling: Promise<void> | undefined;
  #claim: Claim | undefined;
  #plane: ControlPlane | undefined;
  #job: Job | undefined;
  #result: TrainingResult | undefined;
  /** The job ended by itself, and its last callback is under way. */
  #ending = false;

  constructor(options: TrainerOptions, config: object) {
    this.#options = options;
    this.#config = config;
    this.#callbacks = options.callbacks ?? {};
  }

  observe(observer: RunObserver): void {
    this.#observer = observer;
  }

  replaceCallbacks(callbacks: object): void {
    this.#callbacks = callbacks as TrainerCallbacks;
  }

  async start(): Promise<{ jobId: string }> {
    this.#started ??= this.#create();
    return { jobId: (await this.#started).id };
  }

  wait(): Promise<TrainingResult> {
    this.#waiting ??= this.#follow();
    return this.#waiting;
  }

  async cancel(): Promise<void> {
    await (this.#cancelling ??= this.#cancelJob());
  }

  async requestEarlyStop(timeoutMs?: number): Promise<void> {
    const settled = this.#latch.request(timeoutMs ?? limits(process.env).earlyStopMs);
    // Without a job there will be no checkpoint.
    if (this.#job === undefined) await this.#latch.giveUp();
    await settled;
  }

  async #create(): Promise<Job> {
    const { abortSignal, name } = this.#options;
    abortSignal?.throwIfAborted();
    this.#creating.signal.throwIfAborted();
    abortSignal?.addEventListener("abort", () => this.#abort(abortSignal.reason), { once: true });
    this.#plane = new ControlPlane(connection(process.env), limits(process.env));
    this.#claim = claimRun();
    reach("runner.job-asked");
    this.#job = await created(this.#plane.createJob({ name, config: this.#config, ...this.#claim }, this.#creating.signal), this.#claim);
    reach("runner.job-created");
    const { orgSlug, projectSlug, url } = this.#plane.connection;
    this.#observer?.job({ id: this.#job.id, orgSlug, projectSlug, baseUrl: url });
    return this.#job;
  }

  async #follow(): Promise<TrainingResult> {
    await this.start();
    const plane = this.#plane as ControlPlane;
    const { id } = this.#job as Job;
    try {
      for await (const event of plane.follow(id, this.#following.signal)) {
        await this.#handle(event);
        if (this.#result !== undefined) return this.#result;
      }
    } catch (error) {
      if (this.#result !== undefined && error === FOLLOWED_TO_THE_END) return this.#result;
      // Nobody will see the next checkpoint now.
      await this.#latch.giveUp();
      throw error;
    }
    throw new Error("the event stream never ends by itself");
  }

  async #handle(event: StreamEvent): Promise<void> {
    const data = parsed(event);
    const job = this.#job as Job;
    const base: JobEvent = { jobId: job.id, timestamp: String(data["timestamp"] ?? "") };
    const callbacks = this.#callbacks;
    switch (data["type"] ?? event.event) {
      case "training.started":
        this.#job = { ...job, status: "running", startedAt: base.timestamp };
        this.#began(data);
        await callbacks.onStarted?.({ ...base, job: this.#job });
        break;
      case "training.log":
        await callbacks.onLog?.({ ...data, ...base } as LogEvent);
        break;
      case "checkpoint.saved":
        await this.#checkpoint(base, data, callbacks);
        break;
      case "training.completed":
        await this.#completed(base, data, callbacks);
        break;
      case "training.failed":
        await this.#failed(base, String(data["error"] ?? "no reason given"), callbacks);
        break;
      case "training.cancelled":
        this.#conclude({ ...job, status: "cancelled", completedAt: base.timestamp });
        break;
      case "end":
        await this.#ended(base, callbacks);
        break;
    }
  }

  #began(data: EventData): void {
    const started = startedIn(data);
    this.#observer?.training(started);
    const from = this.#claim?.resumeFrom;
    if (from !== undefined) assertResumed(started, from, this.#config);
  }

  async #checkpoint(base: JobEvent, data: EventData, callbacks: TrainerCallbacks): Promise<void> {
    const step = Number(data["step"]);
    this.#observer?.checkpoint(step);
    const infer = inferFrom(this.#plane as ControlPlane, { kind: "checkpoint", jobId: base.jobId, step });
    await callbacks.onCheckpoint?.({ ...base, step, artifacts: artifacts(data), infer });
    await this.#latch.checkpoint(step);
  }

  async #completed(base: JobEvent, data: EventData, callbacks: TrainerCallbacks): Promise<void> {
    this.#atEnd();
    const job = { ...(this.#job as Job), status: "completed", completedAt: base.timestamp } as const;
    const metrics = (data["metrics"] ?? {}) as TrainingResult["metrics"];
    const infer = inferFrom(this.#plane as ControlPlane, { kind: "final", jobId: base.jobId });
    await callbacks.onCompleted?.({ ...base, job, artifacts: artifacts(data), metrics, infer });
    this.#conclude(job, artifacts(data), metrics);
  }

  async #failed(base: JobEvent, error: string, callbacks: TrainerCallbacks): Promise<void> {
    this.#atEnd();
    const job = { ...(this.#job as Job), status: "failed", error, completedAt: base.timestamp } as const;
    await callbacks.onFailed?.({ ...base, job, error });
    this.#conclude(job);
  }

  /** The stream has no more events. Its last one may have been lost with a control plane that came back. */
  async #ended(base: JobEvent, callbacks: TrainerCallbacks): Promise<void> {
    const job = await (this.#plane as ControlPlane).job(base.jobId, this.#following.signal);
    if (job.status === "completed") await this.#completed(base, {}, callbacks);
    else if (job.status === "failed") await this.#failed(base, job.error ?? "no reason given", callbacks);
    else if (job.status === "cancelled") this.#conclude(job);
  }

  /** From here on only the last callback has a say in when the run is over. */
  #atEnd(): void {
    this.#ending = true;
    this.#latch.ending();
  }

  #conclude(job: Job, made: readonly Artifact[] = [], metrics: TrainingResult["metrics"] = {}): void {
    this.#latch.terminal();
    this.#job = job;
    this.#result ??= { job, artifacts: made, metrics };
    this.#following.abort(FOLLOWED_TO_THE_END);
  }

  async #cancelForStop(step: number | undefined): Promise<void> {
    this.#observer?.cancelling(step);
    await this.cancel();
  }

  async #cancelJob(): Promise<void> {
    this.#creating.abort(new Error("the run was stopped before it had a job"));
    // The creation may have gone through all the same; then there is a job to cancel.
    await this.#started?.catch(() => undefined);
    if (this.#result !== undefined || this.#plane === undefined) return;
    const job = this.#job;
    reach("runner.cancelling");
    try {
      if (job !== undefined) this.#cancelled(job, await this.#plane.cancelJob(job.id));
      else if (this.#claim !== undefined) await this.#plane.cancelRun(this.#claim.clientRunId);
      reach("runner.cancelled");
    } catch (error) {
      // A later cancel may succeed.
      this.#cancelling = undefined;
      throw error;
    }
  }

  /** The cancel was accepted. Where the answer does not show the end, its event is waited for, for a while. */
  #cancelled(job: Job, answer: Job | undefined): void {
    const conclude = (end: Job) => {
      if (!this.#ending) this.#conclude(end);
    };
    if (answer !== undefined && TERMINAL.includes(answer.status)) conclude(answer);
    else if (answer !== undefined) {
      const timer = setTimeout(() => conclude({ ...job, status: "cancelled" }), CANCEL_EVENT_MS);
      this.#following.signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
    }
  }

  #abort(reason: unknown): void {
    this.#following.abort(reason);
    this.cancel().catch(() => undefined);
  }
}

/** The job; when the control plane refuses to go on from a checkpoint, an error that says so. */
async function created(creation: Promise<Job>, { resumeFrom }: Claim): Promise<Job> {
  return creation.catch((error: unknown) => {
    if (resumeFrom === undefined || !(error instanceof ControlPlaneError) || error.transient) throw error;
    throw refusedToResume(resumeFrom, error);
  });
}

function refusedToResume({ jobId, step }: ResumeFrom, error: ControlPlaneError): ControlPlaneError {
  const { status, transient } = error;
  const message = `cannot go on from step ${step} of job ${jobId}: ${error.message}. Start the run again to train from scratch`;
  return new ControlPlaneError(message, { ...(status !== undefined && { status }), transient, cause: error });
}

const FOLLOWED_TO_THE_END = new Error("the job is at its end");

type EventData = Record<string, unknown>;

function parsed(event: StreamEvent): EventData {
  try {
    const data: unknown = JSON.parse(event.data);
    if (typeof data === "object" && data !== null) return data as EventData;
  } catch {
    // Said below, as for JSON that is no object.
  }
  throw new ControlPlaneError(`the control plane sent a ${event.event} event that is no JSON object`, { transient: false });
}

function artifacts(data: EventData): readonly Artifact[] {
  return Array.isArray(data["artifacts"]) ? (data["artifacts"] as Artifact[]) : [];
}
