/**
 * Going on from a checkpoint: what an executor says of it when training starts, and whether it really does.
 *
 * What must hold: a run that was to go on from a checkpoint never trains from scratch, or with a value that was edited
 * and not taken, as if nothing had happened.
 */

/** A checkpoint of another job. */
export interface ResumeFrom {
  readonly jobId: string;
  readonly step: number;
}

/** What the executor said. All of it is absent for one that says nothing of checkpoints. */
export interface Started {
  /** The step of the checkpoint that it goes on from. */
  readonly resumedFrom?: number;
  /** The keys of the config that may differ when a run goes on from a checkpoint of this one. */
  readonly resumableKeys?: readonly string[];
  /** The config in effect. */
  readonly config?: Readonly<Record<string, unknown>>;
}

/** Most characters of one value that is handed on. A config may hold a dataset. */
const LONGEST_VALUE = 4_000;

/** What `data`, a `training.started`, says. */
export function startedIn(data: Readonly<Record<string, unknown>>): Started {
  const { resumedFrom, resumableKeys, config } = data;
  return {
    ...(typeof resumedFrom === "number" && { resumedFrom }),
    ...(Array.isArray(resumableKeys) && { resumableKeys: resumableKeys.filter((key) => typeof key === "string") }),
    ...(isObject(config) && { config: Object.fromEntries(Object.entries(config).filter(([, value]) => isShort(value))) }),
  };
}

/**
 * Checks that a run that was to go on from `from` does, with the `config` that was asked for. An executor that declares
 * no resumable keys knows nothing of this and is taken at its word.
 *
 * @throws Error that names what was ignored.
 */
export function assertResumed(started: Started, from: ResumeFrom, config: object): void {
  if (started.resumableKeys === undefined) return;
  const point = `step ${from.step} of job ${from.jobId}`;
  if (started.resumedFrom !== from.step) {
    const instead = started.resumedFrom === undefined ? "started from scratch" : `went on from step ${started.resumedFrom}`;
    throw new Error(`the executor was to go on from ${point} and ${instead}`);
  }
  // As it went over the wire, where a key without a value is none.
  const asked = JSON.parse(JSON.stringify(config)) as Record<string, unknown>;
  for (const [key, used] of Object.entries(started.config ?? {})) {
    const wanted = asked[key];
    if (wanted === undefined || wanted === null || same(wanted, used)) continue;
    throw new Error(
      `the executor ignores config.${key} when it goes on from ${point}: asked for ${shown(wanted)}, it uses ${shown(used)}. ` +
        "Change it back, or restart from scratch (restart.from in midrun.toml)",
    );
  }
}

/** Whether two values that came from JSON are the same. */
function same(a: unknown, b: unknown): boolean {
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return a === b;
  const [left, right] = [Object.entries(a), new Map(Object.entries(b))];
  return Array.isArray(a) === Array.isArray(b) && left.length === right.size && left.every(([key, value]) => right.has(key) && same(value, right.get(key)));
}

function shown(value: unknown): string {
  return JSON.stringify(value).slice(0, 100);
}

function isShort(value: unknown): boolean {
  return JSON.stringify(value).length <= LONGEST_VALUE;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
