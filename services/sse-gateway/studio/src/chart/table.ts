// From points to the columns that the chart library draws. Pure.

import { smoothed, type Curve, type Points } from "./points.ts";

export type XAxis = "step" | "relative" | "wall";

/** The place on the axis of each point. Relative time is in seconds since `start`. */
export function along(points: Points, axis: XAxis, start: number): number[] {
  if (axis === "step") return points.step;
  if (axis === "relative") return points.time.map((time) => (time - start) / 1000);
  return points.time.map((time) => time / 1000);
}

/** When step `step` was, by the points on both sides of it. */
export function timeAt(points: Points, step: number): number | undefined {
  const { step: steps, time } = points;
  if (steps.length === 0) return undefined;
  let low = 0;
  let high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle]! < step) low = middle + 1;
    else high = middle;
  }
  const [before, after] = [Math.max(0, low - 1), low];
  const width = steps[after]! - steps[before]!;
  const share = width === 0 ? 1 : Math.max(0, Math.min(1, (step - steps[before]!) / width));
  return time[before]! + share * (time[after]! - time[before]!);
}

/** Logarithms know no zero. */
const positive = (values: number[]) => values.map((value) => (value > 0 ? value : null));

export interface Tables {
  /** x, raw loss, smoothed loss. */
  loss: [number[], (number | null)[], (number | null)[]];
  /** x, eval loss. */
  evalLoss: [number[], (number | null)[]];
}

export function tables(loss: Curve, evalLoss: Points, start: number, axis: XAxis, inertia: number, log: boolean): Tables {
  const value = log ? positive : (values: number[]) => values;
  // The average is that of the values, not of their logarithms.
  return {
    loss: [along(loss, axis, start), value(loss.value), value(smoothed(loss, inertia))],
    evalLoss: [along(evalLoss, axis, start), value(evalLoss.value)],
  };
}
