import assert from "node:assert/strict";
import { test } from "node:test";
import { configDiff } from "../src/state/config.ts";
import { afterBuild, afterError, afterSwap, MOST_SAVES, type Save } from "../src/state/saves.ts";
import { routeOf } from "../src/router.ts";
import { brief, bytes, figure, ms, span } from "../src/ui/format.ts";

test("numbers are as long as they need to be", () => {
  assert.deepEqual([0.2, 1.66, 41.4, 1234, 65_000].map(ms), ["under 1 ms", "1.7 ms", "41 ms", "1.2 s", "65 s"]);
  assert.deepEqual([0, 1023, 1536, 5 * 1024 ** 3].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
  assert.deepEqual([900, 61_000, 3_700_000, 200_000_000].map(span), ["1 s", "1 min 1 s", "1 h 1 min", "2 d 7 h"]);
  assert.deepEqual([0, 1.23456789, 12345.678, 1e-7, null, NaN].map((value) => figure(value)), ["0", "1.2346", "12345.7", "1.000e-7", "–", "–"]);
  assert.equal(brief("x".repeat(100), 10), '"xxxxxxxx…');
  assert.equal(brief(undefined), "not set");
});

test("every address has its page, and a wrong one says so", () => {
  assert.deepEqual(routeOf(""), { page: "overview" });
  assert.deepEqual(routeOf("#/"), { page: "overview" });
  assert.deepEqual(routeOf("#/jobs"), { page: "jobs" });
  assert.deepEqual(routeOf("#/jobs/a%2Fb"), { page: "job", id: "a/b" });
  assert.deepEqual(routeOf("#/runs/r1"), { page: "run", id: "r1" });
  assert.deepEqual(routeOf("#/playground?job=j1&step=40"), { page: "playground", job: "j1", step: "40" });
  assert.deepEqual(routeOf("#/terminal/t1"), { page: "terminal", id: "t1" });
  for (const odd of ["#/nothing", "#/jobs/a/b", "#/runs"]) assert.equal(routeOf(odd).page, "unknown", odd);
  assert.deepEqual(routeOf("#/jobs/%"), { page: "job", id: "%" });
});

test("a config's changes are named by path", () => {
  const before = { lr: 1, nested: { a: [1, 2], b: "x" }, gone: true };
  const after = { lr: 2, nested: { a: [1, 3], b: "x" }, fresh: null };
  assert.deepEqual(configDiff(before, after), [
    { path: "config.lr", from: 1, to: 2 },
    { path: "config.nested.a", from: [1, 2], to: [1, 3] },
    { path: "config.gone", from: true, to: undefined },
    { path: "config.fresh", from: undefined, to: null },
  ]);
  assert.deepEqual(configDiff(before, structuredClone(before)), []);
});

const rebuild = (contentHash: string) => ({
  type: "rebuild" as const, buildId: "b", entry: "e", contentHash, configHash: null, trainerName: "t", hotSwap: true,
  restart: false, changed: ["a.ts"], savedAt: "2026-01-01T00:00:00.000Z", configDiff: [], traceId: null,
  decisions: [{ run: "r1", pid: 1, decision: "hot-swap" as const, why: "only callbacks changed" }],
  timings: { bundleMs: 1, inspectMs: 2, dispatchMs: 3, totalMs: 6 },
});

test("a save gets its runner's word, is listed once, and the list is bounded", () => {
  let saves: Save[] = [];
  saves = afterBuild(saves, rebuild("h1"), "e-1");
  saves = afterBuild(saves, rebuild("h1"), "e-1");
  assert.equal(saves.length, 1);
  saves = afterBuild(saves, rebuild("h2"), "e-2");
  saves = afterSwap(saves, { run: "r1", pid: 1, contentHash: "h1", ok: true, tookMs: 1.5 });
  assert.deepEqual(saves[1]?.decisions[0]?.ack, { ok: true, reason: undefined, tookMs: 1.5 });
  assert.equal(saves[0]?.decisions[0]?.ack, undefined);
  assert.equal(afterSwap(saves, { run: "other", pid: 1, contentHash: "h1", ok: true }), saves);
  for (let n = 0; n < 80; n++) saves = afterError(saves, { type: "error", message: "one\ntwo", diagnostics: [], savedAt: "2026-01-01T00:00:01.000Z" }, `x-${n}`);
  assert.equal(saves.length, MOST_SAVES);
  assert.equal(saves[0]?.error, "one");
  assert.equal(saves[0]?.at, Date.UTC(2026, 0, 1, 0, 0, 1), "when it was saved, not when it was told");
});

test("a save keeps of a changed value what is shown of it", () => {
  const data = "1+1=2\n".repeat(200_000);
  const [save] = afterBuild([], { ...rebuild("h1"), configDiff: [{ path: "config.dataset.data", from: "none", to: data }, { path: "config.maxSteps", to: 8 }] }, "e-1");
  assert.deepEqual(save?.configDiff?.[1], { path: "config.maxSteps", from: "not set", to: "8" });
  assert.equal(save?.configDiff?.[0]?.from, '"none"');
  assert.ok(JSON.stringify(save).length < 1000);
});
