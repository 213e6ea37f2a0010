/**
 * What midrun can ask of a trainer beyond its public methods. Each ability is a function behind a `Symbol.for`
 * name, so that it crosses module instances and stays out of the public type. `arkor.*` names are as good.
 */
import type { Started } from "./resume.ts";

/** What a trainer says of itself. */
export interface Inspection {
  name?: unknown;
  /** The job config, for `JSON.stringify`. */
  config?: unknown;
  callbacks?: object | null;
}

/** What a trainer made by `createTrainer` tells the process it runs in. */
export interface RunObserver {
  job(job: { id: string; orgSlug: string; projectSlug: string; baseUrl: string }): void;
  /** What the executor said when training started. */
  training(started: Started): void;
  checkpoint(step: number): void;
  /** An early stop no longer waits: its cancel is under way. `step` is the checkpoint it waited for, if one came. */
  cancelling(step: number | undefined): void;
}

interface Abilities {
  /** Name, config and the callbacks that the trainer was made with. */
  inspect: () => Inspection;
  /** Takes effect with the next event. */
  replaceCallbacks: (callbacks: object) => void;
  /** Resolves when the job is cancelled or at its end; rejects when it could not be cancelled. */
  requestEarlyStop: (options: { timeoutMs: number }) => Promise<void>;
  /** Tells `observer` from now on. Only trainers made by `createTrainer` have this. */
  observe: (observer: RunObserver) => void;
}

const PROFILES = ["midrun", "arkor"] as const;

/** Which family of names a trainer uses. */
export type Brand = (typeof PROFILES)[number];

/** Gives `trainer` an ability, out of sight of enumeration. */
export function grant<K extends keyof Abilities>(trainer: object, ability: K, implementation: Abilities[K]): void {
  Object.defineProperty(trainer, Symbol.for(`midrun.trainer.${ability}`), { value: implementation, configurable: true });
}

/** The ability of `trainer`, bound to it, if it has it under either name. */
export function ability<K extends keyof Abilities>(trainer: object, name: K): Abilities[K] | undefined {
  for (const profile of PROFILES) {
    const found: unknown = Reflect.get(trainer, Symbol.for(`${profile}.trainer.${name}`));
    if (typeof found === "function") return found.bind(trainer) as Abilities[K];
  }
  return undefined;
}

/** The family of names that `trainer` uses, if it has any ability at all. */
export function brandOf(trainer: object): Brand | null {
  const abilities = ["inspect", "replaceCallbacks", "requestEarlyStop"];
  const uses = (profile: Brand) =>
    abilities.some((name) => typeof Reflect.get(trainer, Symbol.for(`${profile}.trainer.${name}`)) === "function");
  return PROFILES.find(uses) ?? null;
}

/** Whether new callbacks can go into a live run of `trainer`: they can be taken in, and read from the new code. */
export function canSwap(trainer: object): boolean {
  return ability(trainer, "replaceCallbacks") !== undefined && ability(trainer, "inspect") !== undefined;
}
