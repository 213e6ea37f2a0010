// Writes midrun-env.d.ts, the types that `midrun init` puts into a project, from src/types.ts and the signatures
// below. A test checks that the file is what this makes, and that it agrees with src/index.ts.
import { readFileSync, writeFileSync } from "node:fs";

const HEAD = `// Types of the module "midrun", for editors. \`midrun init\` wrote this file; the module itself is in midrun.

declare module "midrun" {`;

const VALUES = `
  /** Describes a run; nothing happens before \`start()\` or \`wait()\`. */
  export function createTrainer(options: TrainerOptions): Trainer;

  /** A manifest: offers \`trainer\` under the export \`midrun\`. */
  export function createMidrun(options: { trainer: Trainer }): Manifest;

  /** The control plane said no, or said something that makes no sense. */
  export class ControlPlaneError extends Error {
    constructor(message: string, options: { status?: number; transient: boolean; retryAfterMs?: number | undefined; cause?: unknown });
    /** The HTTP status, where there was an answer. */
    readonly status: number | undefined;
    /** Whether the same request may succeed later. */
    readonly transient: boolean;
    /** How long the control plane asks to wait, milliseconds. */
    readonly retryAfterMs: number | undefined;
  }
}
`;

/** The text of midrun-env.d.ts. */
export function generate(root) {
  const types = readFileSync(new URL("src/types.ts", root), "utf8").replace(/^\/\*\*.*?\*\/\n/s, "");
  const indented = types.trimEnd().replace(/^(?=.)/gm, "  ");
  return `${HEAD}\n${indented.trimStart().replace(/^/, "  ")}\n${VALUES}`;
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const root = new URL("../", import.meta.url);
  writeFileSync(new URL("types/midrun-env.d.ts", root), generate(root));
}
