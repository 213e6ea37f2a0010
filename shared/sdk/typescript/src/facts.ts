/** What an evaluated artifact says of its trainer: the facts that midrun decides by. */
import { ability, type Brand, brandOf, canSwap } from "./brands.ts";
import { findTrainer, missingTrainer } from "./discovery.ts";

export interface Facts {
  /** `null` when the module offers none; `hint` then says what to export. */
  readonly trainer: { readonly name: string } | null;
  readonly hint?: string;
  /** What `JSON.stringify` makes of the config, to the letter; `null` when the trainer does not tell. */
  readonly config: string | null;
  /** Each callback's name, with a digest of its source text. */
  readonly callbacks: Readonly<Record<string, string>>;
  readonly canSwap: boolean;
  readonly canEarlyStop: boolean;
  readonly brand: Brand | null;
}

/**
 * The facts about the trainer in `exports`.
 *
 * @throws what the trainer's own code throws, and what `JSON.stringify` throws for the config.
 */
export function factsOf(exports: Record<string, unknown>): Facts {
  const trainer = findTrainer(exports);
  if (trainer === null) {
    const hint = missingTrainer(exports);
    return { trainer: null, hint, config: null, callbacks: {}, canSwap: false, canEarlyStop: false, brand: null };
  }
  const { name, config, callbacks } = ability(trainer, "inspect")?.() ?? {};
  const names = [trainer.name, name].filter((name): name is string => typeof name === "string" && name !== "");
  return {
    trainer: { name: names[0] ?? "(unnamed)" },
    config: (JSON.stringify(config) as string | undefined) ?? null,
    callbacks: digests(callbacks ?? {}),
    canSwap: canSwap(trainer),
    canEarlyStop: ability(trainer, "requestEarlyStop") !== undefined,
    brand: brandOf(trainer),
  };
}

function digests(callbacks: object): Record<string, string> {
  const functions = Object.entries(callbacks).filter(([, value]) => typeof value === "function");
  return Object.fromEntries(functions.map(([name, callback]) => [name, digest(Function.prototype.toString.call(callback))]));
}

/**
 * 64 bits that tell one text from another. It names an edit for a person and protects nothing, and a hash of
 * `node:crypto` would cost each worker more memory than all the rest of it.
 */
export function digest(text: string): string {
  let a = 0x9e3779b9;
  let b = 0x85ebca6b;
  for (let at = 0; at < text.length; at += 1) {
    const unit = text.charCodeAt(at);
    a = Math.imul(a ^ unit, 0x01000193);
    b = Math.imul(b ^ unit, 0x5bd1e995) ^ (b >>> 15);
  }
  return [a ^ (b >>> 13), b ^ (a >>> 16)].map((half) => (half >>> 0).toString(16).padStart(8, "0")).join("");
}
