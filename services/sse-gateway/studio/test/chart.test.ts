import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { bucketed, noPoints, push, smoothed, type Points } from "../src/chart/points.ts";
import { statistics } from "../src/chart/statistics.ts";

test("statistics are what numpy computes", () => {
  const cases = JSON.parse(readFileSync("test/fixtures/statistics.json", "utf8")) as Record<string, any>[];
  assert.ok(cases.length >= 8);
  for (const known of cases) {
    const seen = statistics(known["values"]) as Record<string, any> | null;
    assert.ok(seen);
    for (const key of ["count", "mean", "ci95", "stdDev", "variance", "p90", "p95"]) {
      const a = seen[key] as number | null;
      const b = known[key] as number | null;
      if (b === null || a === null) assert.equal(a, b, key);
      else assert.ok(Math.abs(a - b) <= 1e-9 * Math.max(Math.abs(b), 1e-9), `${key} of ${known["count"]} values: ${a}, numpy says ${b}`);
    }
  }
  assert.equal(statistics([]), null);
});

function points(count: number, value: (step: number) => number): Points {
  const all = noPoints();
  for (let step = 1; step <= count; step++) push(all, step, step * 1000, value(step));
  return all;
}

test("one sample that sticks out is in the picture wherever it is", () => {
  for (const spike of [1, 77, 99_999, 200_000]) {
    const seen = bucketed(points(200_000, (step) => (step === spike ? 99 : 1)), "step", 0, Infinity, 400);
    assert.ok(seen.value.length <= 1200);
    assert.equal(seen.step[seen.value.indexOf(99)], spike);
    assert.equal(seen.step.at(-1), 200_000);
    assert.deepEqual(seen.step, seen.step.toSorted((a, b) => a - b));
  }
});

test("few points are all there, and only those asked for", () => {
  const five = points(5, (step) => step);
  assert.deepEqual(bucketed(five, "step", 0, 10, 100), five);
  assert.deepEqual(bucketed(five, "time", 2000, 3000, 100).step, [2, 3]);
  assert.deepEqual(bucketed(noPoints(), "step", 0, 10, 100), noPoints());
  const same = noPoints();
  for (let n = 0; n < 10; n++) push(same, 7, 7, n);
  assert.deepEqual(bucketed(same, "step", 0, 10, 1).value, [0, 9]);
});

test("smoothing keeps a constant, starts at the first value, and follows", () => {
  assert.deepEqual(smoothed([1, 2, 3], 0), [1, 2, 3]);
  for (const value of smoothed([4, 4, 4, 4], 0.9)) assert.ok(Math.abs(value - 4) < 1e-12);
  const seen = smoothed([10, 0, 0, 0], 0.5);
  assert.equal(seen[0], 10);
  assert.ok(seen[1]! > seen[2]! && seen[2]! > seen[3]! && seen[3]! > 0);
});
