// Points of a series, the few of them that a chart needs, and their average. The server picks the points of jobs that
// it keeps; this is for control planes that do not, and for what comes live. Pure.

export interface Points {
  step: number[];
  /** Milliseconds since 1970. */
  time: number[];
  value: number[];
}

/** Points picked from among many, and what an average over all of the many needs. */
export interface Curve extends Points {
  /** How many values end with each point; 0 for one that is there only because it sticks out. */
  weight: number[];
  /** Their mean. */
  mean: number[];
  /** Values before the first point, the newest last. */
  before: number[];
}

export const noPoints = (): Points => ({ step: [], time: [], value: [] });
export const noCurve = (): Curve => ({ ...noPoints(), weight: [], mean: [], before: [] });

/** Values before a range that its average begins with. The same number as in the server. */
const MOST_BEFORE = 1000;

export function push(points: Points, step: number, time: number, value: number) {
  points.step.push(step);
  points.time.push(time);
  points.value.push(value);
}

/** `points` as a curve, of which every point is there unless it says otherwise. */
export function curveOf({ step, time, value, weight, mean, before }: Points & Partial<Curve>): Curve {
  return { step, time, value, weight: weight ?? value.map(() => 1), mean: mean ?? value, before: before ?? [] };
}

/** Puts `more` behind `curve`. */
export function append(curve: Curve, more: Points & Partial<Curve>) {
  if (curve.value.length === 0) for (const value of more.before ?? []) curve.before.push(value);
  // Not by spreading: that many arguments are too many.
  for (let at = 0; at < more.value.length; at++) {
    push(curve, more.step[at]!, more.time[at]!, more.value[at]!);
    curve.weight.push(more.weight?.[at] ?? 1);
    curve.mean.push(more.mean?.[at] ?? more.value[at]!);
  }
}

export function pick(points: Points, keep: (place: number) => boolean): Points {
  const kept = noPoints();
  for (let at = 0; at < points.value.length; at++) {
    if (keep(at)) push(kept, points.step[at]!, points.time[at]!, points.value[at]!);
  }
  return kept;
}

/** The points of `curve` up to `step`. */
export function upTo(curve: Curve, step: number): Curve {
  const keep = (_: number, at: number) => curve.step[at]! <= step;
  const [steps, time, value, weight, mean] = [curve.step, curve.time, curve.value, curve.weight, curve.mean].map((column) => column.filter(keep));
  return { step: steps!, time: time!, value: value!, weight: weight!, mean: mean!, before: curve.before };
}

/** All points when they are few, else the smallest, the largest and the last of each bucket along `axis`. */
export function bucketed(points: Points, axis: "step" | "time", from: number, to: number, buckets: number): Curve {
  const along = points[axis];
  const before = points.value.filter((_, at) => along[at]! < from && along[at]! <= to).slice(-MOST_BEFORE);
  const inside = pick(points, (at) => along[at]! >= from && along[at]! <= to);
  const count = inside.value.length;
  if (count <= buckets * 3) return curveOf({ ...inside, before });
  const place = inside[axis];
  let low = Infinity;
  let high = -Infinity;
  for (const at of place) {
    low = Math.min(low, at);
    high = Math.max(high, at);
  }
  const width = high - low;
  const kept = new Map<number, { least: number; most: number; last: number; count: number; sum: number }>();
  for (let at = 0; at < count; at++) {
    const number = width === 0 ? 0 : Math.min(buckets - 1, Math.floor(((place[at]! - low) / width) * buckets));
    const value = inside.value[at]!;
    const bucket = kept.get(number);
    if (!bucket) {
      kept.set(number, { least: at, most: at, last: at, count: 1, sum: value });
      continue;
    }
    if (value < inside.value[bucket.least]!) bucket.least = at;
    if (value > inside.value[bucket.most]!) bucket.most = at;
    bucket.last = at;
    bucket.count += 1;
    bucket.sum += value;
  }
  const ends = new Map<number, { weight: number; mean: number }>();
  for (const { least, most, last, count, sum } of kept.values()) {
    for (const one of [least, most]) if (one !== last) ends.set(one, { weight: 0, mean: 0 });
    ends.set(last, { weight: count, mean: sum / count });
  }
  const places = [...ends.keys()].sort((a, b) => a - b);
  const figures = places.map((at) => ends.get(at)!);
  return { ...pick(inside, (at) => ends.has(at)), weight: figures.map(({ weight }) => weight), mean: figures.map(({ mean }) => mean), before };
}

/**
 * An exponential moving average over all values of which `curve` is a picture, without the pull of its start; `inertia`
 * from 0 (raw) to below 1. A bucket counts as its mean, as often as it has values. Points that only stick out count for
 * nothing: they get what the line has where they are.
 */
export function smoothed({ step, value, weight, mean, before }: Curve, inertia: number): number[] {
  if (inertia <= 0) return value.slice();
  let sum = 0;
  let scale = 1;
  const take = (value: number, count: number) => {
    const kept = inertia ** count;
    sum = sum * kept + value * (1 - kept);
    scale *= kept;
    return sum / (1 - scale);
  };
  let last: number | undefined;
  for (const value of before) last = take(value, 1);
  const line: number[] = [];
  let lastStep = step[0] ?? 0;
  for (let at = 0; at < value.length; at++) {
    if (weight[at] === 0) continue;
    const now = take(mean[at]!, weight[at]!);
    const [from, width] = [last ?? now, step[at]! - lastStep];
    while (line.length < at) {
      const share = width === 0 ? 1 : (step[line.length]! - lastStep) / width;
      line.push(from + (now - from) * share);
    }
    line.push(now);
    last = now;
    lastStep = step[at]!;
  }
  while (line.length < value.length) line.push(last ?? value[line.length]!);
  return line;
}
