// Edit these while the adder trains: the run goes on, with the new code, from its next event.
import type { CheckpointEvent, CompletedEvent, FailedEvent, LogEvent, StartedEvent } from "midrun";

export function onStarted({ job }: StartedEvent) {
  console.log(`${job.name} is training`);
}

export function onLog({ step, loss, evalAccuracy }: LogEvent) {
  const heldOut = typeof evalAccuracy === "number" ? `  held-out sums right: ${percent(evalAccuracy)}` : "";
  console.log(`step ${step}  loss ${loss?.toFixed(4)}${heldOut}`);
}

export async function onCheckpoint({ step, infer }: CheckpointEvent) {
  const question = "27+15=";
  const { text } = await infer({ messages: [{ role: "user", content: question }], maxTokens: 4, temperature: 0 });
  console.log(`checkpoint at step ${step}: ${question}${text}`);
}

export function onCompleted({ metrics }: CompletedEvent) {
  console.log(`done: adds ${percent(Number(metrics["accuracy"]))} of ${metrics["heldOut"]} held-out sums correctly`);
}

export function onFailed({ error }: FailedEvent) {
  console.error(`failed: ${error}`);
}

function percent(share: number) {
  return `${(100 * share).toFixed(1)} %`;
}
