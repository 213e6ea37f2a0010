/** The types that `midrun init` writes into a project agree with the module: checked by the compiler alone. */
import type * as env from "midrun";

import type * as real from "../src/index.ts";

/** Fails to compile unless `A` and `B` can stand for each other. */
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : never) : never;

export const AGREED: Record<string, true> = {
  createTrainer: true satisfies Same<typeof env.createTrainer, typeof real.createTrainer>,
  createMidrun: true satisfies Same<typeof env.createMidrun, typeof real.createMidrun>,
  controlPlaneError: true satisfies Same<env.ControlPlaneError, real.ControlPlaneError>,
  exports: true satisfies Same<keyof typeof env, keyof typeof real>,
  options: true satisfies Same<env.TrainerOptions, real.TrainerOptions>,
  result: true satisfies Same<env.TrainingResult, real.TrainingResult>,
  checkpoint: true satisfies Same<env.CheckpointEvent, real.CheckpointEvent>,
};
