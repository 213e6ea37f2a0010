/** What a trainer is made of, what it does, and what its callbacks are given. Types only. */

/** A value that has a JSON form. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | { readonly [key: string]: JsonValue | undefined };

/**
 * What to learn from. The executor decides which types there are; the builtin one reads `inline`, with the examples
 * in `data`, and `blob`, a file at `url` whose content `sha256` can pin.
 */
export interface Dataset {
  readonly type: string;
  readonly [key: string]: JsonValue | undefined;
}

/** The adapter to train in place of the whole model, for executors that have adapters. */
export interface Lora {
  readonly r: number;
  readonly alpha: number;
}

/** What `createTrainer` is given. A change of anything but `name`, `callbacks` and `abortSignal` restarts a run. */
export interface TrainerOptions {
  /** Names the run; shown everywhere. */
  readonly name: string;
  /** The model to train, in the executor's words. */
  readonly model: string;
  readonly dataset: Dataset;
  readonly lora?: Lora | undefined;
  /** The step after which the run is complete. */
  readonly maxSteps?: number | undefined;
  /** The peak of the schedule. */
  readonly learningRate?: number | undefined;
  /** Examples a step. */
  readonly batchSize?: number | undefined;
  /** A checkpoint each so many steps. */
  readonly saveSteps?: number | undefined;
  /** A look at the held-out examples each so many steps. */
  readonly evalSteps?: number | undefined;
  /** An `onLog` each so many steps. */
  readonly loggingSteps?: number | undefined;
  readonly warmupSteps?: number | undefined;
  readonly weightDecay?: number | undefined;
  readonly optim?: string | undefined;
  readonly lrSchedulerType?: string | undefined;
  /** The most tokens of one example. */
  readonly maxLength?: number | undefined;
  readonly maxGradNorm?: number | undefined;
  /** Decides everything that is random. */
  readonly seed?: number | undefined;
  /** Check everything, train nearly nothing. */
  readonly dryRun?: boolean | undefined;
  /** Keys that this list lacks and the executor knows. */
  readonly extra?: { readonly [key: string]: JsonValue | undefined } | undefined;
  readonly callbacks?: TrainerCallbacks | undefined;
  /** Cancels the job; `wait()` then rejects with the signal's reason. */
  readonly abortSignal?: AbortSignal | undefined;
}

/**
 * Called one at a time, in the order of the job's events; the next waits for what the one before returned. A throw
 * rejects `wait()`. An edit that changes nothing else is taken into the live run with its next event.
 */
export interface TrainerCallbacks {
  onStarted?(event: StartedEvent): unknown;
  onLog?(event: LogEvent): unknown;
  onCheckpoint?(event: CheckpointEvent): unknown;
  onCompleted?(event: CompletedEvent): unknown;
  onFailed?(event: FailedEvent): unknown;
}

/** What every event has. */
export interface JobEvent {
  readonly jobId: string;
  /** RFC 3339, UTC. */
  readonly timestamp: string;
}

export interface StartedEvent extends JobEvent {
  readonly job: Job;
}

export interface LogEvent extends JobEvent {
  readonly step: number;
  readonly loss?: number | undefined;
  readonly evalLoss?: number | undefined;
  readonly learningRate?: number | undefined;
  readonly epoch?: number | undefined;
  readonly samplesPerSecond?: number | undefined;
  /** Whatever else the executor measures. */
  readonly [key: string]: unknown;
}

export interface CheckpointEvent extends JobEvent {
  readonly step: number;
  readonly artifacts: readonly Artifact[];
  /** Asks this checkpoint. */
  readonly infer: Infer;
}

export interface CompletedEvent extends JobEvent {
  readonly job: Job;
  readonly artifacts: readonly Artifact[];
  readonly metrics: { readonly [key: string]: unknown };
  /** Asks the finished model. */
  readonly infer: Infer;
}

export interface FailedEvent extends JobEvent {
  readonly job: Job;
  readonly error: string;
}

/** A file that training made, in the executor's words. */
export type Artifact = string | { readonly [key: string]: unknown };

export type JobStatus = "queued" | "running" | "completed" | "failed" | "cancelled";

/** A job as the control plane knows it. */
export interface Job {
  readonly id: string;
  readonly name: string;
  readonly status: JobStatus;
  readonly config: unknown;
  readonly error?: string | null | undefined;
  readonly createdAt?: string | null | undefined;
  readonly startedAt?: string | null | undefined;
  readonly completedAt?: string | null | undefined;
  readonly [key: string]: unknown;
}

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** A question to a model. A plain string is one message of the user. */
export interface InferRequest {
  readonly messages: readonly ChatMessage[];
  readonly temperature?: number | undefined;
  readonly topP?: number | undefined;
  readonly maxTokens?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface InferReply {
  /** What the model wrote. */
  readonly text: string;
}

export interface Infer {
  /** The whole answer. */
  (question: string | InferRequest): Promise<InferReply>;
  /** The answer as it is written, piece by piece. */
  stream(question: string | InferRequest): AsyncIterable<string>;
}

/** How training ended. */
export interface TrainingResult {
  readonly job: Job;
  readonly artifacts: readonly Artifact[];
  readonly metrics: { readonly [key: string]: unknown };
}

/** One run of one job. */
export interface Trainer {
  readonly name: string;
  /** Creates the job. Later calls give the same answer. */
  start(): Promise<{ jobId: string }>;
  /**
   * Starts if nobody did, calls the callbacks, and resolves when the job is at its end, however it ended. Rejects
   * with what a callback threw.
   */
  wait(): Promise<TrainingResult>;
  /** Asks the control plane to cancel the job. Nothing happens to a job that is at its end. */
  cancel(): Promise<void>;
}

/** What a module exports to offer its trainer under a name of its own; exporting the trainer does as well. */
export interface Manifest {
  readonly _kind: "midrun";
  readonly trainer: Trainer;
}
