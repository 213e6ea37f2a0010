/**
 * How signals end a run: the first one asks for an early stop, the second one ends the process at once.
 *
 * What must hold: a signal that comes at any moment after the handlers are set is answered; the trainer is asked to
 * stop at most once; the wait for its stop has a limit, after which its job is cancelled.
 */
import { ability } from "./brands.ts";
import type { RunnerMessage } from "./control-channel.ts";
import type { RunnableTrainer } from "./discovery.ts";
import { sleep } from "./retry.ts";

/** The signals that stop a run, and the exit status of a stop that went well. */
const GRACEFUL_EXIT = { SIGTERM: 0, SIGINT: 130, SIGHUP: 129 } as const;
const NUMBER = { SIGTERM: 15, SIGINT: 2, SIGHUP: 1 } as const;
export type StopSignal = keyof typeof GRACEFUL_EXIT;
export const STOP_SIGNALS = Object.keys(GRACEFUL_EXIT) as StopSignal[];

/** The exit status of a process that ended by `signal`. */
export function exitBy(signal: StopSignal): number {
  return 128 + NUMBER[signal];
}

/** How a stop ended. */
export interface StopOutcome {
  readonly exitCode: number;
  /** What stood in the way. */
  readonly error?: unknown;
}

/** How long a trainer's own `cancel()` may take, milliseconds. */
const CANCEL_MS = 15_000;

export interface StopOptions {
  /** Absent until the user's code is imported: until then there is no job, and nothing to wait for. */
  readonly trainer: RunnableTrainer | undefined;
  /** Settles when `start()` has. */
  readonly started: Promise<unknown>;
  /** Whether the trainer was made by `createTrainer`, which can be stopped while it starts. */
  readonly ours: boolean;
  readonly timeoutMs: number;
  readonly send: (message: RunnerMessage) => void;
}

/** Stops the trainer after its next checkpoint, and says how far it is. */
export async function stopEarly(signal: StopSignal, options: StopOptions): Promise<StopOutcome> {
  const { trainer } = options;
  try {
    if (trainer !== undefined) {
      options.send({ type: "earlyStop", phase: "waiting" });
      await (options.ours ? askOurs(trainer, options) : askForeign(trainer, options));
    }
    options.send({ type: "earlyStop", phase: "done" });
    return { exitCode: GRACEFUL_EXIT[signal] };
  } catch (error) {
    options.send({ type: "earlyStop", phase: "failed" });
    return { exitCode: exitBy(signal), error };
  }
}

/** Asks a trainer to cancel its job, at most for a while. */
export async function cancelJob(trainer: RunnableTrainer): Promise<void> {
  await within(CANCEL_MS, (async () => trainer.cancel())());
}

/** `createTrainer` has its own limits for each part of a stop; this one is there for when they fail. */
async function askOurs(trainer: RunnableTrainer, { timeoutMs }: StopOptions): Promise<void> {
  const request = ability(trainer, "requestEarlyStop");
  if (request === undefined) return cancelJob(trainer);
  await within(timeoutMs + 2 * CANCEL_MS, Promise.resolve(request({ timeoutMs })));
}

/**
 * A trainer that somebody wrote by hand may not expect to be stopped before it was started, and may not be able to
 * wait for a checkpoint. Where it does not stop in time, or cannot, its job is cancelled.
 */
async function askForeign(trainer: RunnableTrainer, options: StopOptions): Promise<void> {
  const request = ability(trainer, "requestEarlyStop");
  const asked = async () => {
    await options.started.catch(() => undefined);
    if (request === undefined) throw new Error("the trainer cannot wait for a checkpoint");
    await request({ timeoutMs: options.timeoutMs });
  };
  await within(options.timeoutMs, asked()).catch(async () => {
    options.send({ type: "earlyStop", phase: "cancelling" });
    await cancelJob(trainer);
  });
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  const over = new AbortController();
  const late = sleep(ms, over.signal).then(() => Promise.reject(new Error(`it took longer than ${ms} ms`)));
  try {
    return await Promise.race([work, late]);
  } finally {
    over.abort();
    late.catch(() => undefined);
  }
}
