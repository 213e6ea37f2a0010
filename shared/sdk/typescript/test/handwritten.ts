/** Texts of trainers that were written by hand, in the manner of projects that midrun did not make. */

export interface Handwritten {
  /** What its callback prints. */
  tag?: string;
  learningRate?: number;
  profile?: "midrun" | "arkor";
  /** The abilities it has. */
  abilities?: readonly ("inspect" | "replaceCallbacks" | "requestEarlyStop")[];
  /** Text before everything else. */
  before?: string;
  /** The body of `cancel()`. */
  cancel?: string;
  /** The statement that offers the trainer. */
  exports?: string;
  /** Ends by itself after so many steps. */
  steps?: number;
}

const ALL = ["inspect", "replaceCallbacks", "requestEarlyStop"] as const;

/** A module with a trainer that steps each 5 ms and has a checkpoint each 10 steps. */
export function handwritten(options: Handwritten = {}): string {
  const { tag = "v1", learningRate = 0.001, profile = "arkor", abilities = ALL, before = "", steps = 1e9 } = options;
  const { cancel = "", exports = "export const arkor = { _kind: 'arkor', trainer };" } = options;
  const implementations = {
    inspect: "() => ({ name: trainer.name, config, callbacks: { onTick } })",
    replaceCallbacks: "(next) => { console.log('REPLACED'); callbacks = next; }",
    requestEarlyStop: "() => { console.log('EARLY-STOP-ASKED'); asked = true; return stopped; }",
  };
  const brands = abilities.map(
    (name) => `Object.defineProperty(trainer, Symbol.for("${profile}.trainer.${name}"), { value: ${implementations[name]} });`,
  );
  return `${before}
const onTick = (step) => { if (step % 5 === 0) console.log("TICK ${tag} " + step); };
const config = { model: "m", learningRate: ${learningRate} };
let callbacks = { onTick };
let asked = false, cancelled = false, resolveStop;
const stopped = new Promise((resolve) => (resolveStop = resolve));
const trainer = {
  name: "hand",
  start: async () => ({ jobId: "job-" + process.pid }),
  wait: async () => {
    let step = 0;
    while (step < ${steps} && !cancelled) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      callbacks.onTick(++step);
      if (asked && step % 10 === 0) { console.log("CHECKPOINT-STOP"); resolveStop(); cancelled = true; }
    }
    return { job: { id: "job", status: cancelled ? "cancelled" : "completed" }, artifacts: [] };
  },
  cancel: async () => { console.log("CANCEL-CALLED"); ${cancel} cancelled = true; },
};
${brands.join("\n")}
${exports}
`;
}
