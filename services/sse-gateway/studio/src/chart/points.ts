// Points of a series, and the few of them that a chart needs. The server does the same for jobs that it keeps; this is
// for control planes that do not, and for what comes live. Pure.

export interface Points {
  step: number[];
  /** Milliseconds since 1970. */
  time: number[];
  value: number[];
}

export const noPoints = (): Points => ({ step: [], time: [], value: [] });

export function push(points: Points, step: number, time: number, value: number) {
  points.step.push(step);
  points.time.push(time);
  points.value.push(value);
}

export function append(points: Points, more: Points) {
  // Not by spreading: that many arguments are too many.
  for (let at = 0; at < more.value.length; at++) push(points, more.step[at]!, more.time[at]!, more.value[at]!);
}

export function pick(points: Points, keep: (place: number) => boolean): Points {
  const kept = noPoints();
  for (let at = 0; at < points.value.length; at++) {
    if (keep(at)) push(kept, points.step[at]!, points.time[at]!, points.value[at]!);
  }
  return kept;
}

/** All points when they are few, else the smallest, the largest and the last of each bucket along `axis`. */
export function bucketed(points: Points, axis: "step" | "time", from: number, to: number, buckets: number): Points {
  const along = points[axis];
  const inside = pick(points, (at) => along[at]! >= from && along[at]! <= to);
  const count = inside.value.length;
  if (count <= buckets * 3) return inside;
  const place = inside[axis];
  let low = Infinity;
  let high = -Infinity;
  for (const at of place) {
    low = Math.min(low, at);
    high = Math.max(high, at);
  }
  const width = high - low;
  const kept = new Map<number, { least: number; most: number; last: number }>();
  for (let at = 0; at < count; at++) {
    const number = width === 0 ? 0 : Math.min(buckets - 1, Math.floor(((place[at]! - low) / width) * buckets));
    const bucket = kept.get(number);
    if (!bucket) {
      kept.set(number, { least: at, most: at, last: at });
      continue;
    }
    if (inside.value[at]! < inside.value[bucket.least]!) bucket.least = at;
    if (inside.value[at]! > inside.value[bucket.most]!) bucket.most = at;
    bucket.last = at;
  }
  const places = new Set<number>();
  for (const { least, most, last } of kept.values()) {
    places.add(least);
    places.add(most);
    places.add(last);
  }
  return pick(inside, (at) => places.has(at));
}

/** An exponential moving average without the pull of its start; `weight` from 0 (raw) to below 1. */
export function smoothed(values: number[], weight: number): number[] {
  if (weight <= 0) return values.slice();
  let sum = 0;
  let scale = 1;
  return values.map((value) => {
    sum = sum * weight + value * (1 - weight);
    scale *= weight;
    return sum / (1 - scale);
  });
}
