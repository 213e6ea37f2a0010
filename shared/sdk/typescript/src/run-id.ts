/**
 * The id under which the control plane knows this process's run, so that creating its job twice makes one job and
 * so that others can cancel what this process cannot.
 */

/** Shared by all instances of this module in the process: old and new code may each have their own. */
const CLAIMED = Symbol.for("midrun.runId.claimed");

/** `MIDRUN_RUN_ID` for the first trainer that asks; a process that starts another job starts one of its own. */
export function claimRunId(): string {
  const shared = globalThis as { [CLAIMED]?: boolean };
  const given = process.env["MIDRUN_RUN_ID"];
  if (given === undefined || given === "" || shared[CLAIMED] === true) return crypto.randomUUID();
  Object.defineProperty(shared, CLAIMED, { value: true, configurable: true });
  return given;
}
