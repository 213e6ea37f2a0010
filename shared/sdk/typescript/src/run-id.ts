/**
 * The id under which the control plane knows this process's run, so that creating its job twice makes one job and
 * so that others can cancel what this process cannot; and the checkpoint that the run goes on from.
 */
import { resumeFrom } from "./environment.ts";
import type { ResumeFrom } from "./resume.ts";

/** Shared by all instances of this module in the process: old and new code may each have their own. */
const CLAIMED = Symbol.for("midrun.runId.claimed");

/** What the environment says of the one job that a process is started for. */
export interface Claim {
  readonly clientRunId: string;
  readonly resumeFrom: ResumeFrom | undefined;
}

/**
 * `MIDRUN_RUN_ID` and `MIDRUN_RESUME_FROM` for the first trainer that asks; a process that starts another job starts
 * one of its own, from scratch.
 *
 * @throws Error when `MIDRUN_RESUME_FROM` has not its form.
 */
export function claimRun(): Claim {
  const shared = globalThis as { [CLAIMED]?: boolean };
  if (shared[CLAIMED] === true) return { clientRunId: crypto.randomUUID(), resumeFrom: undefined };
  const from = resumeFrom(process.env);
  Object.defineProperty(shared, CLAIMED, { value: true, configurable: true });
  return { clientRunId: process.env["MIDRUN_RUN_ID"] || crypto.randomUUID(), resumeFrom: from };
}
