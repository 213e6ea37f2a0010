/**
 * Named places between two durable facts, where a test stops this process to kill it or another one.
 *
 * What must hold: nothing happens unless `MIDRUN_RUNNER_FAILPOINTS` names a folder, which only a run-host that was built
 * for tests says; a place is armed by a file in that folder, for the first process that comes there.
 */
import { renameSync } from "node:fs";

/** The runner's part of `shared/failpoint`, which says what has just happened at each. */
export type Place =
  | "runner.started"
  | "runner.imported"
  | "runner.job-asked"
  | "runner.job-created"
  | "runner.swap-imported"
  | "runner.swapped"
  | "runner.swap-told"
  | "runner.cancelling"
  | "runner.cancelled"
  | "runner.exiting";

const folder = process.env["MIDRUN_RUNNER_FAILPOINTS"];

/** The process is at `place`. Stops it if a test armed that place. */
export function reach(place: Place): void {
  if (folder === undefined) return;
  try {
    renameSync(`${folder}/${place}`, `${folder}/${place}@${process.pid}`);
  } catch {
    return;
  }
  process.kill(process.pid, "SIGSTOP");
}
