// What a run does at the moment, in a few words. Pure.

import type { Run } from "../net/types.ts";
import type { Tone } from "../ui/parts.tsx";

export function stateOf(run: Pick<Run, "status" | "exitCode" | "endedBy" | "replacedBy">, step: number | null): { tone: Tone; text: string } {
  switch (run.status) {
    case "starting": return { tone: "busy", text: "Starting" };
    case "running": return { tone: "good", text: step === null ? "Training" : `Training at step ${step.toLocaleString("en-US")}` };
    case "early-stopping": return { tone: "busy", text: "Stopping at next checkpoint" };
    case "restarting": return { tone: "busy", text: run.replacedBy ? "Restarted" : "Restarting" };
    case "stopping": return { tone: "busy", text: "Stopping now" };
    case "lost": return { tone: "bad", text: "Lost" };
    case "exited": return ended(run);
  }
}

function ended({ endedBy, exitCode }: Pick<Run, "exitCode" | "endedBy">): { tone: Tone; text: string } {
  switch (endedBy) {
    case "finished": return { tone: "idle", text: "Finished" };
    case "user": return { tone: "idle", text: "Stopped" };
    case "replaced": return { tone: "idle", text: "Replaced" };
    case "reaped": return { tone: "bad", text: "Reaped" };
    case "lost": return { tone: "bad", text: "Lost" };
    default: return exitCode ? { tone: "bad", text: `Failed, exit ${exitCode}` } : { tone: endedBy === "failed" ? "bad" : "idle", text: endedBy === "failed" ? "Failed" : "Ended" };
  }
}

/** The runs that replaced one another, oldest first, with `id` among them. */
export function lineage<R extends Pick<Run, "id" | "replaces" | "replacedBy">>(runs: readonly R[], id: string): R[] {
  const known = new Map(runs.map((run) => [run.id, run]));
  const chain: R[] = [];
  const seen = new Set<string>();
  const add = (run: R | undefined, put: (run: R) => void, next: (run: R) => string | null | undefined) => {
    for (let now = run; now && !seen.has(now.id); now = known.get(next(now) ?? "")) {
      seen.add(now.id);
      put(now);
    }
  };
  const start = known.get(id);
  add(start, (run) => chain.unshift(run), (run) => run.replaces);
  const successor = start && (start.replacedBy ?? runs.find(({ replaces }) => replaces === start.id)?.id);
  add(known.get(successor ?? ""), (run) => chain.push(run), (run) => run.replacedBy ?? runs.find(({ replaces }) => replaces === run.id)?.id);
  return chain;
}
