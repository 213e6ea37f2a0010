/** Trying again: with backoff and jitter, within a limit, and only what may be tried again. */

/** The control plane said no, or said something that makes no sense. */
export class ControlPlaneError extends Error {
  /** The HTTP status, where there was an answer. */
  readonly status: number | undefined;
  /** Whether the same request may succeed later. */
  readonly transient: boolean;
  /** How long the control plane asks to wait, milliseconds. */
  readonly retryAfterMs: number | undefined;

  constructor(message: string, options: { status?: number; transient: boolean; retryAfterMs?: number | undefined; cause?: unknown }) {
    super(message, { cause: options.cause });
    this.name = "ControlPlaneError";
    this.status = options.status;
    this.transient = options.transient;
    this.retryAfterMs = options.retryAfterMs;
  }
}

/** Longest pause between two tries, milliseconds. */
const LONGEST_PAUSE_MS = 15_000;

/** Pauses that grow from try to try, each shortened by chance so that many clients do not come back at once. */
export class Backoff {
  firstMs: number;
  #failures = 0;
  #since: number | undefined;

  constructor(firstMs: number) {
    this.firstMs = firstMs;
  }

  /** A try succeeded. */
  reset(): void {
    this.#failures = 0;
    this.#since = undefined;
  }

  /** A try failed. How long it has been failing for, milliseconds. */
  failed(): number {
    this.#failures += 1;
    this.#since ??= performance.now();
    return performance.now() - this.#since;
  }

  /** The pause before the next try, milliseconds. */
  pause(askedMs = 0): number {
    const grown = Math.min(LONGEST_PAUSE_MS, this.firstMs * 2 ** Math.min(20, Math.max(0, this.#failures - 1)));
    return Math.max(Math.min(askedMs, LONGEST_PAUSE_MS), grown * (0.5 + Math.random() / 2));
  }
}

/** First pause between two tries, milliseconds. */
export const FIRST_PAUSE_MS = 250;

/**
 * Calls `attempt` until it succeeds, fails for good, `limitMs` is over or `signal` aborts.
 *
 * @throws what the last try threw, or the signal's reason.
 */
export async function retrying<T>(limitMs: number, signal: AbortSignal | undefined, attempt: () => Promise<T>): Promise<T> {
  const backoff = new Backoff(FIRST_PAUSE_MS);
  for (;;) {
    signal?.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof ControlPlaneError) || !error.transient) throw error;
      const failingMs = backoff.failed();
      const pause = backoff.pause(error.retryAfterMs);
      if (failingMs + pause > limitMs) throw error;
      await sleep(pause, signal);
    }
  }
}

/** Waits. Rejects with the signal's reason if it aborts meanwhile. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const aborted = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", aborted);
      resolve();
    }, ms);
    signal?.addEventListener("abort", aborted, { once: true });
  });
}
