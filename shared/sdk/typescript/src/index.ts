/** The public face of the package `midrun`. */
import type { Manifest, Trainer } from "./types.ts";

export { ControlPlaneError } from "./retry.ts";
export { createTrainer } from "./trainer.ts";
export type * from "./types.ts";

/** A manifest: offers `trainer` under the export `midrun`. */
export function createMidrun({ trainer }: { trainer: Trainer }): Manifest {
  return { _kind: "midrun", trainer };
}
