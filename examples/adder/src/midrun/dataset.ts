/**
 * `count` of the 10,000 sums of two numbers below 100, a line each: "27+15=42".
 *
 * They are part of the config, and a run restarts when its config changes: each import must give the same ones. The
 * executor holds a tenth of them out; the sums that are not among them, the model never sees at all.
 */
export function sums(count: number): string {
  const pairs = Uint16Array.from({ length: 10_000 }, (_, index) => index);
  const lines: string[] = [];
  let state = 1;
  for (let place = 0; place < count; place++) {
    // The first draws of a shuffle, by a generator that always draws the same.
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const drawn = place + Math.floor((state / 2 ** 32) * (pairs.length - place));
    const pair = pairs[drawn]!;
    pairs[drawn] = pairs[place]!;
    const a = Math.floor(pair / 100);
    const b = pair % 100;
    lines.push(`${a}+${b}=${a + b}`);
  }
  return lines.join("\n");
}
