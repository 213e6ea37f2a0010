// What happened on each save, newest first. Pure.

import type { ErrorFrame, RebuildFrame, SwapFrame } from "../net/types.ts";
import { briefly, type BriefChange } from "./config.ts";

export interface Save {
  /** What it is known by in a list. */
  key: string;
  at: number;
  files: string[];
  error?: string;
  contentHash?: string;
  traceId?: string | null;
  timings?: RebuildFrame["timings"];
  /** In brief: a value may be a whole data set. */
  configDiff?: BriefChange[];
  decisions: { run: string; decision: string; why: string; ack?: Ack }[];
}

export interface Ack {
  ok: boolean;
  reason?: string | undefined;
  tookMs?: number | null | undefined;
}

export const MOST_SAVES = 50;

const add = (saves: Save[], save: Save) => [save, ...saves.filter((known) => known.key !== save.key)].slice(0, MOST_SAVES);

export function afterBuild(saves: Save[], frame: RebuildFrame, key: string): Save[] {
  return add(saves, {
    key,
    at: Date.parse(frame.savedAt),
    files: frame.changed,
    contentHash: frame.contentHash,
    traceId: frame.traceId,
    timings: frame.timings,
    configDiff: frame.configDiff.map(briefly),
    decisions: frame.decisions.map(({ run, decision, why }) => ({ run, decision, why })),
  });
}

export function afterError(saves: Save[], frame: ErrorFrame, key: string): Save[] {
  const error = frame.message.split("\n")[0] ?? "";
  return add(saves, { key, at: Date.parse(frame.savedAt), files: frame.changed ?? [], error, decisions: [] });
}

/** The runner's word goes to the newest save of those bytes. */
export function afterSwap(saves: Save[], frame: SwapFrame): Save[] {
  const place = saves.findIndex(
    (save) => save.contentHash === frame.contentHash && save.decisions.some(({ run }) => run === frame.run),
  );
  const save = saves[place];
  if (!save) return saves;
  const ack: Ack = { ok: frame.ok, reason: frame.reason, tookMs: frame.tookMs };
  const decisions = save.decisions.map((one) => (one.run === frame.run ? { ...one, ack } : one));
  return saves.with(place, { ...save, decisions });
}
