// What part of the chart is seen, and where keys lead from there. Pure.

export interface Zoom {
  min: number;
  max: number;
}

/** The smallest part of the whole that can be seen. */
const LEAST = 1e-6;

/** `zoom` as far as it lies in `whole`, no smaller than can be seen; nothing when that is all of it. */
export function within({ min, max }: Zoom, whole: Zoom): Zoom | null {
  const room = whole.max - whole.min;
  const width = Math.min(room, Math.max(max - min, room * LEAST));
  if (!(width < room)) return null;
  const from = Math.max(whole.min, Math.min((min + max - width) / 2, whole.max - width));
  return { min: from, max: from + width };
}

/** Where `key` leads from `now`: a part of `whole`, or all of it (nothing). `undefined`: it is no key of the chart. */
export function byKey(key: string, now: Zoom, whole: Zoom): Zoom | null | undefined {
  const width = now.max - now.min;
  const to = (less: number, more: number) => within({ min: now.min + less * width, max: now.max + more * width }, whole);
  switch (key) {
    case "+": return to(1 / 4, -1 / 4);
    case "-": return to(-1 / 2, 1 / 2);
    case "ArrowLeft": return to(-1 / 8, -1 / 8);
    case "ArrowRight": return to(1 / 8, 1 / 8);
    case "0": return null;
    default: return undefined;
  }
}
