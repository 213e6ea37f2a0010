// What the server tells of builds and runs. The page shows it and owns none of it: with every tab closed the loop is
// the same.

import { batch, computed, effect, signal } from "@preact/signals";
import { ask, words } from "../net/ask.ts";
import { tab } from "../net/tab.ts";
import type { Frame } from "../net/stream.ts";
import { isLive, type Diagnostic, type ErrorFrame, type RebuildFrame, type Run, type RunFrame, type SwapFrame } from "../net/types.ts";
import { afterBuild, afterError, afterSwap, type Save } from "./saves.ts";

export type Build =
  | { state: "pending" }
  | { state: "good"; trainer: string | null; entry: string }
  | { state: "failing"; message: string; diagnostics: Diagnostic[] };

export const build = signal<Build>({ state: "pending" });
/** Newest first. */
export const runs = signal<Run[]>([]);
export const runsAreLoaded = signal(false);
export const runsError = signal<string | null>(null);
export const saves = signal<Save[]>([]);
/** The newest word of each run's runner on a swap that happened while this page was open. */
export const swaps = signal<Record<string, { ok: boolean; tookMs: number | null; reason?: string | undefined; at: number }>>({});

export const liveRuns = computed(() => runs.value.filter(isLive));
export const runOf = (id: string) => runs.value.find((run) => run.id === id);

const KEPT = "midrun.saves";
const GATHER = 60;

// A reload goes on where the page was, so what happened on save is not lost with it.
const kept = readKept();
saves.value = kept?.saves ?? [];

function readKept(): { position: string; saves: Save[] } | undefined {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT) ?? "null") ?? undefined;
  } catch {
    return undefined;
  }
}

let loading: ReturnType<typeof setTimeout> | undefined;
export function loadRunsSoon() {
  loading ??= setTimeout(() => {
    loading = undefined;
    void loadRuns();
  }, GATHER);
}

export async function loadRuns() {
  try {
    const answer = await ask<{ runs: Run[] }>("GET", "/api/runs");
    batch(() => {
      runs.value = answer.runs;
      runsAreLoaded.value = true;
      runsError.value = null;
    });
  } catch (error) {
    runsError.value = words(error);
  }
}

export async function startRun(): Promise<Run> {
  const { run } = await ask<{ run: Run }>("POST", "/api/runs", {});
  loadRunsSoon();
  return run;
}

export async function stopRun(id: string, mode: "checkpoint" | "now") {
  const { run } = await ask<{ run: Run }>("POST", `/api/runs/${encodeURIComponent(id)}/stop`, { mode, reason: "asked to in Studio" });
  put(run);
}

function put(run: Run) {
  const place = runs.value.findIndex((known) => known.id === run.id);
  runs.value = place < 0 ? [run, ...runs.value] : runs.value.with(place, { ...runs.value[place], ...run });
}

// The first build that a server's stream tells of is how things stand, not something that happened just now.
let toldEpoch = kept?.position.split("-")[0];

function on(frame: Frame) {
  const epoch = frame.id?.split("-")[0];
  const isBuild = frame.event === "ready" || frame.event === "rebuild" || frame.event === "error";
  const news = toldEpoch === epoch;
  if (isBuild) toldEpoch = epoch;
  batch(() => take(frame, news));
  sessionStorage.setItem(KEPT, JSON.stringify({ position: frame.id, saves: saves.value }));
}

function take({ event, data, id = "" }: Frame, news: boolean) {
  switch (event) {
    case "ready":
    case "rebuild": {
      const frame = data as RebuildFrame;
      build.value = { state: "good", trainer: frame.trainerName, entry: frame.entry };
      if (news) saves.value = afterBuild(saves.value, frame, id, Date.now());
      break;
    }
    case "error": {
      const frame = data as ErrorFrame;
      build.value = { state: "failing", message: frame.message, diagnostics: frame.diagnostics };
      if (news) saves.value = afterError(saves.value, frame, id, Date.now());
      break;
    }
    case "swap": {
      const frame = data as SwapFrame;
      saves.value = afterSwap(saves.value, frame);
      const { ok, tookMs = null, reason } = frame;
      if (news) swaps.value = { ...swaps.value, [frame.run]: { ok, tookMs, reason, at: Date.now() } };
      break;
    }
    case "run":
      takeRun(data as RunFrame);
      break;
  }
}

function takeRun(frame: RunFrame) {
  const { run: id, pid, status, ...more } = frame;
  const known = runOf(id);
  if (!known) return loadRunsSoon();
  const restarted = status === "early-stopping" && known.status !== status ? { reason: null } : {};
  put({ ...known, ...restarted, pid, status, ...more });
  // The frame does not tell when it ended, or by whom.
  if (!isLive(frame)) loadRunsSoon();
}

/** Follows what happens from now on. Called once. */
export function followDev() {
  tab.follow("dev", on, kept?.position);
  effect(() => {
    if (tab.lives.value > 0) void loadRuns();
  });
  if (kept) void readBuild();
}

/** How the build stands, when the stream goes on behind the word of it. */
async function readBuild() {
  try {
    const { trainer } = await ask<{ trainer: { name: string } | null }>("GET", "/api/manifest");
    if (build.value.state === "pending") build.value = { state: "good", trainer: trainer?.name ?? null, entry: "" };
  } catch (error) {
    const data = (error as { data?: { error?: string; diagnostics?: Diagnostic[] } }).data;
    if (data?.error && data.diagnostics && build.value.state === "pending") {
      build.value = { state: "failing", message: data.error, diagnostics: data.diagnostics };
    }
  }
}
