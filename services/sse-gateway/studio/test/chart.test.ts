import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { append, bucketed, curveOf, noCurve, noPoints, push, smoothed, upTo, type Points } from "../src/chart/points.ts";
import { marksNear, marksOf } from "../src/chart/marks.ts";
import { statistics } from "../src/chart/statistics.ts";
import { byKey, within, type Zoom } from "../src/chart/zoom.ts";

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
  assert.deepEqual(bucketed(five, "step", 0, 10, 100), curveOf(five));
  assert.deepEqual(bucketed(five, "time", 2000, 3000, 100).step, [2, 3]);
  assert.deepEqual(bucketed(noPoints(), "step", 0, 10, 100), noCurve());
  const same = noPoints();
  for (let n = 0; n < 10; n++) push(same, 7, 7, n);
  assert.deepEqual(bucketed(same, "step", 0, 10, 1).value, [0, 9]);
});

const raw = (values: number[]) => curveOf(points(values.length, (step) => values[step - 1]!));

test("smoothing keeps a constant, starts at the first value, and follows", () => {
  assert.deepEqual(smoothed(raw([1, 2, 3]), 0), [1, 2, 3]);
  for (const value of smoothed(raw([4, 4, 4, 4]), 0.9)) assert.ok(Math.abs(value - 4) < 1e-12);
  const seen = smoothed(raw([10, 0, 0, 0]), 0.5);
  assert.equal(seen[0], 10);
  assert.ok(seen[1]! > seen[2]! && seen[2]! > seen[3]! && seen[3]! > 0);
});

/** A loss that falls, with noise and now and then a sample that sticks out far, upwards only. */
function noisy(count: number): Points {
  let seed = 1;
  const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
  return points(count, (step) => 1 + Math.exp(-step / (count / 4)) + (random() - 0.5) * 0.1 + (random() < 0.01 ? 5 : 0));
}

test("the smoothed line of a picture is that of all points, at each zoom", () => {
  const all = noisy(200_000);
  for (const [inertia, tolerance] of [[0.99, 0.1], [0.999, 0.05]] as const) {
    const exact = smoothed(curveOf(all), inertia);
    for (const [from, to] of [[-Infinity, Infinity], [100_000, 199_999], [150_000, 152_000], [199_000, 200_000]] as const) {
      const picture = bucketed(all, "step", from, to, 800);
      const line = smoothed(picture, inertia);
      assert.equal(line.length, picture.value.length);
      const end = exact[picture.step.at(-1)! - 1]!;
      assert.ok(Math.abs(line.at(-1)! - end) < tolerance, `${line.at(-1)} at the end of ${from} to ${to}, of all points ${end}`);
      const far = picture.step.filter((step, at) => Math.abs(line[at]! - exact[step - 1]!) > 3 * tolerance).length;
      // An average over the extremes alone would lie above it everywhere; at the very beginning there is none yet.
      assert.ok(far < picture.step.length * 0.05, `${far} of ${picture.step.length} points are far from the line of all, ${from} to ${to}`);
    }
  }
});

test("an average goes on from what was before the range, and over a restart", () => {
  const all = noisy(3000);
  const exact = smoothed(curveOf(all), 0.9);
  const part = bucketed(all, "step", 2001, 2400, 800);
  assert.equal(part.before.length, 1000);
  smoothed(part, 0.9).forEach((value, at) => assert.ok(Math.abs(value - exact[2000 + at]!) < 1e-9));
  const both = noCurve();
  append(both, upTo(bucketed(all, "step", 2001, 2400, 800), 2100));
  assert.equal(both.step.at(-1), 2100);
  append(both, bucketed(all, "step", 2101, 3000, 800));
  smoothed(both, 0.9).forEach((value, at) => assert.ok(Math.abs(value - exact[2000 + at]!) < 1e-9));
});

test("keys and drags lead to a part of what there is, never beyond it", () => {
  const whole = { min: 1, max: 1_000_001 };
  let zoom: Zoom | null = { min: 500_001, max: 500_201 };
  let presses = 0;
  for (; zoom && presses < 100; presses++) {
    assert.ok(zoom.min >= whole.min && zoom.max <= whole.max, JSON.stringify(zoom));
    zoom = byKey("-", zoom, whole) ?? null;
  }
  assert.equal(zoom, null, "at last all of it");
  assert.ok(presses < 20);
  zoom = { min: 1, max: 101 };
  assert.deepEqual(byKey("ArrowLeft", zoom, whole), zoom);
  for (let press = 0; press < 200; press++) zoom = byKey("+", zoom!, whole) ?? null;
  assert.ok(zoom && zoom.max > zoom.min && zoom.min >= 1);
  assert.deepEqual(byKey("ArrowRight", { min: 999_901, max: 1_000_001 }, whole), { min: 999_901, max: 1_000_001 });
  assert.equal(byKey("0", zoom, whole), null);
  assert.equal(byKey("x", zoom, whole), undefined);
  assert.deepEqual(within({ min: -50, max: 51 }, whole), { min: 1, max: 102 });
});

test("a mark is met when the pointer is near it, though no point is drawn there", () => {
  const loss = points(100, (step) => step);
  const picture = { loss, evalLoss: noPoints(), times: { min: 1000 }, checkpoints: [33, 66], earlierCheckpoints: [], resumed: [36] };
  const marks = marksOf(picture, "step");
  assert.deepEqual(marksNear(marks, 34, 2).map(({ step, kind }) => [step, kind]), [[33, "checkpoint"], [36, "restart"]]);
  assert.deepEqual(marksNear(marks, 50, 2), []);
  assert.deepEqual(marksNear(marks, 60, 30).map(({ step }) => step), [66, 36], "the nearest of each kind");
  assert.deepEqual(marksOf({ ...picture, times: { min: 1000 } }, "relative").map(({ at }) => at), [32, 65, 35]);
});
