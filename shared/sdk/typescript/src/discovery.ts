/** Finds the trainer in a module: the one rule that the runner and the inspector share. */

/** What every trainer has. Its other abilities are in `brands.ts`. */
export interface RunnableTrainer {
  name?: unknown;
  start(): unknown;
  wait(): unknown;
  cancel(): unknown;
}

const METHODS = ["start", "wait", "cancel"] as const;

/**
 * The trainer that `exports` offers, or `null`. The order: the export `midrun` or `arkor` (a manifest with a
 * `trainer`), the export `trainer`, the default export (a manifest, a trainer, or an object with a `trainer`).
 */
export function findTrainer(exports: Record<string, unknown>): RunnableTrainer | null {
  const standard = exports["default"];
  const candidates = [
    member(exports["midrun"], "trainer"),
    member(exports["arkor"], "trainer"),
    exports["trainer"],
    member(standard, "trainer"),
    standard,
  ];
  return candidates.find(isTrainer) ?? null;
}

/** Why there is no trainer, for the person who has to write one. */
export function missingTrainer(exports: Record<string, unknown>): string {
  const offered = [exports["trainer"], member(exports["midrun"], "trainer"), exports["default"]];
  const almost = offered.find((value) => METHODS.some((method) => typeof member(value, method) === "function"));
  if (almost !== undefined) {
    const missing = METHODS.filter((method) => typeof member(almost, method) !== "function");
    return `the trainer has no ${missing.join("(), no ")}(); a trainer has start(), wait() and cancel()`;
  }
  const names = Object.keys(exports);
  const there = names.length === 0 ? "the module exports nothing" : `the module exports ${names.join(", ")}`;
  return `no trainer found: ${there}. Export one: \`export const trainer = createTrainer({ … })\``;
}

function isTrainer(value: unknown): value is RunnableTrainer {
  return METHODS.every((method) => typeof member(value, method) === "function");
}

function member(value: unknown, key: string): unknown {
  if (value === null || (typeof value !== "object" && typeof value !== "function")) return undefined;
  return Reflect.get(value, key);
}
