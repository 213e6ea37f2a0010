/**
 * The early-stop latch: ends a job after its next checkpoint.
 *
 * What must hold: it is armed at most once; it is disarmed before its own cancel, so that nothing that the cancel
 * sets off can fire it again; a terminal event settles it in any state, but not before the callback of that event is
 * done; without a checkpoint in time it cancels.
 *
 *     idle --request--> armed --checkpoint, timeout, giveUp--> cancelling --ok--> done
 *       |                 |                                        |---error--> failed
 *       '----- ending ----'-------------- ending -----------------'--> ending --terminal, giveUp--> done
 *
 * `terminal` leads from everywhere to done.
 */
export class EarlyStop {
  readonly #cancel: (step: number | undefined) => Promise<void>;
  readonly #settled: Promise<void>;
  #resolve!: () => void;
  #reject!: (reason: unknown) => void;
  #state: "idle" | "armed" | "cancelling" | "ending" | "settled" = "idle";
  #timer: NodeJS.Timeout | undefined;

  /** `cancel` resolves when the job is cancelled or was at its end. It is told the checkpoint that was waited for, if one came. */
  constructor(cancel: (step: number | undefined) => Promise<void>) {
    this.#cancel = cancel;
    this.#settled = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // A failed stop is for those who asked for it; nobody may have.
    this.#settled.catch(() => undefined);
  }

  /** Stop after the next checkpoint, or after `timeoutMs`. Settles when the job is cancelled or at its end. */
  request(timeoutMs: number): Promise<void> {
    if (this.#state === "idle") {
      this.#state = "armed";
      this.#timer = setTimeout(() => void this.#fire(), timeoutMs);
    }
    return this.#settled;
  }

  /** The checkpoint of `step` was saved and its callback is done. Resolves, when this is the one waited for, after the cancel. */
  async checkpoint(step: number): Promise<void> {
    await this.#fire(step);
  }

  /** No checkpoint can be seen any more: cancel at once if somebody waits for one. A job at its end needs no cancel. */
  async giveUp(): Promise<void> {
    if (this.#state === "ending") this.terminal();
    else await this.#fire();
  }

  /** The job is at its end and its last callback is under way: nothing cancels it now, and a stop waits for `terminal`. */
  ending(): void {
    if (this.#state === "settled") return;
    clearTimeout(this.#timer);
    this.#state = "ending";
  }

  /** The job is at its end, whoever ended it, and so are its callbacks. */
  terminal(): void {
    this.#settle(() => this.#resolve());
  }

  async #fire(step?: number): Promise<void> {
    if (this.#state !== "armed") return;
    this.#state = "cancelling";
    clearTimeout(this.#timer);
    await this.#cancel(step).then(
      () => this.#cancelled(() => this.#resolve()),
      (error: unknown) => this.#cancelled(() => this.#reject(error)),
    );
  }

  /** How the cancel went does not matter to a job that came to its end meanwhile. */
  #cancelled(settle: () => void): void {
    if (this.#state === "cancelling") this.#settle(settle);
  }

  #settle(settle: () => void): void {
    if (this.#state === "settled") return;
    clearTimeout(this.#timer);
    this.#state = "settled";
    settle();
  }
}
