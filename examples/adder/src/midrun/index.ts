import { createTrainer } from "midrun";

import { onCheckpoint, onCompleted, onFailed, onLog, onStarted } from "./callbacks.ts";
import { sums } from "./dataset.ts";

export const trainer = createTrainer({
  name: "adder",

  // The job's config. A change of it restarts a live run after its next checkpoint.
  model: "tiny-gpt",
  dataset: { type: "inline", data: sums(4000), answerAfter: "=" },
  maxSteps: 8000,
  batchSize: 64,
  learningRate: 0.001,
  lrSchedulerType: "cosine",
  warmupSteps: 100,
  weightDecay: 0.01,
  loggingSteps: 50,
  evalSteps: 400,
  saveSteps: 400,
  maxLength: 12,

  // A change of these goes into a live run as it is.
  callbacks: { onStarted, onLog, onCheckpoint, onCompleted, onFailed },
});
