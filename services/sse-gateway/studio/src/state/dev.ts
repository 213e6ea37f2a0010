// What the server tells of builds and runs. The page shows it and owns none of it: with every tab closed the loop is
// the same.

import { batch, computed, effect, signal } from "@preact/signals";
import { ask, Refused, words } from "../net/ask.ts";
import { tab } from "../net/tab.ts";
import type { Frame } from "../net/stream.ts";
import { isLive, type Diagnostic, type ErrorFrame, type Manifest, type RebuildFrame, type Run, type RunFrame, type SwapFrame } from "../net/types.ts";
import { afterBuild, afterError, afterSwap, type Save } from "./saves.ts";
import { troubles } from "./troubles.ts";

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

const KEPT = "midrun.saves.2";
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

let newestRead = 0;
/** A frame came while the list was being read, and may be newer than what was read. */
let mayBeOld = false;

export async function loadRuns() {
  const read = ++newestRead;
  mayBeOld = false;
  try {
    const answer = await ask<{ runs: Run[] }>("GET", "/api/runs");
    if (read !== newestRead) return;
    batch(() => {
      runs.value = answer.runs;
      runsAreLoaded.value = true;
      runsError.value = null;
    });
    if (mayBeOld) loadRunsSoon();
  } catch (error) {
    if (read === newestRead) runsError.value = words(error);
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
  // The stream may have told of its end before the answer was here.
  loadRunsSoon();
}

function put(run: Run) {
  const place = runs.value.findIndex((known) => known.id === run.id);
  runs.value = place < 0 ? [run, ...runs.value] : runs.value.with(place, { ...runs.value[place], ...run });
}

/** The project's own entry, once it is known. */
let ownEntry: string | undefined;

// The first build that a server's stream tells of is how things stand, not something that happened just now.
let toldEpoch = kept?.position.split("-")[0];
/** Whose words the newest frame was. */
let writer: string | undefined;

function on(frame: Frame) {
  const epoch = frame.id?.split("-")[0];
  // Another one tells now, who does not say what became of runs meanwhile.
  if (writer !== undefined && epoch !== writer) loadRunsSoon();
  writer = epoch;
  const isBuild = frame.event === "ready" || frame.event === "rebuild" || frame.event === "error";
  const news = toldEpoch === epoch && frame.past !== true;
  if (isBuild) toldEpoch = epoch;
  batch(() => take(frame, news));
  keep(frame.id);
}

/** Where there is no room, a reload begins at the oldest save that was kept or that the server knows. */
function keep(position: string | undefined) {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ position, saves: saves.value }));
  } catch {
    // The stream must not break for it.
  }
}

function take({ event, data, id = "", past = false }: Frame, news: boolean) {
  switch (event) {
    case "ready":
    case "rebuild": {
      const frame = data as RebuildFrame;
      if (frame.entry === ownEntry && !past) build.value = { state: "good", trainer: frame.trainerName, entry: frame.entry };
      readBuildSoon();
      // What was built because a run needed it, nobody saved.
      if ((news || past) && frame.changed.length + frame.decisions.length > 0) saves.value = afterBuild(saves.value, frame, id);
      break;
    }
    case "error": {
      const frame = data as ErrorFrame;
      readBuildSoon();
      if (news || (past && frame.changed?.length)) saves.value = afterError(saves.value, frame, id);
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
      // How runs stand was asked for.
      if (!past) takeRun(data as RunFrame);
      break;
  }
}

function takeRun(frame: RunFrame) {
  mayBeOld = true;
  const { run: id, pid, status, ...more } = frame;
  const known = runOf(id);
  if (!known) return loadRunsSoon();
  const restarted = status === "early-stopping" && known.status !== status ? { reason: null } : {};
  put({ ...known, ...restarted, pid, status, ...more });
  // The frame does not tell when it ended, or by whom.
  if (!isLive(frame)) loadRunsSoon();
}

/** Follows what happens, from the oldest save that the server knows on. Called once. */
export function followDev() {
  tab.follow("dev", on, kept?.position ?? "oldest");
  effect(() => {
    if (tab.lives.value > 0) void loadRuns();
  });
  let troubled = false;
  effect(() => {
    const now = troubles.value.length > 0;
    // What could not be asked or was not told while a service was away.
    if (troubled && !now) loadRunsSoon();
    troubled = now;
  });
  if (kept) readBuildSoon();
}

let reading = false;
let readAgain = false;

function readBuildSoon() {
  readAgain = true;
  if (!reading) void readBuild();
}

/**
 * How the project's own entry stands. The stream also tells of entries that runs were started with, and an error does
 * not say whose it is.
 */
async function readBuild() {
  reading = true;
  while (readAgain) {
    readAgain = false;
    try {
      const manifest = await ask<Manifest>("GET", "/api/manifest");
      ownEntry = manifest.entry;
      build.value = { state: "good", trainer: manifest.trainer?.name ?? null, entry: manifest.entry };
    } catch (error) {
      if (error instanceof Refused && error.status === 400) {
        const diagnostics = error.data["diagnostics"];
        build.value = { state: "failing", message: error.message, diagnostics: Array.isArray(diagnostics) ? diagnostics : [] };
      }
    }
  }
  reading = false;
}
