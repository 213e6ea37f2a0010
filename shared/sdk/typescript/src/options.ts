/** From what `createTrainer` is given to the job config that the control plane gets. */
import type { TrainerOptions } from "./types.ts";

/**
 * The job config. A key that nobody here knows goes along: the executor, which knows best, says what it does not
 * know.
 *
 * @throws TypeError when what every job needs is missing.
 */
export function jobConfig(options: TrainerOptions): Record<string, unknown> {
  if (typeof options !== "object" || options === null) throw new TypeError("createTrainer takes an object: { name, model, dataset, … }");
  requireText(options.name, "name", "what the run is called");
  requireText(options.model, "model", "what to train");
  if (typeof options.dataset !== "object" || options.dataset === null) {
    throw new TypeError('createTrainer: `dataset` is missing; say what to learn from, such as { type: "inline", data: "…" }');
  }
  const { name: _name, callbacks: _callbacks, abortSignal: _abortSignal, lora, dataset, model, extra, ...others } = options;
  const adapter = lora === undefined || lora === null ? {} : { loraR: lora.r, loraAlpha: lora.alpha };
  return { model, datasetSource: dataset, ...others, ...adapter, ...extra };
}

function requireText(value: unknown, key: string, meaning: string): void {
  if (typeof value !== "string" || value === "") throw new TypeError(`createTrainer: \`${key}\` is missing; it says ${meaning}`);
}
