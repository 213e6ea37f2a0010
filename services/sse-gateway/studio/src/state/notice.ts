// A word at the page's edge about what was just asked for.

import { signal } from "@preact/signals";
import type { Tone } from "../ui/parts.tsx";

export const notice = signal<{ key: number; tone: Tone; text: string } | null>(null);

const SHOWN = 6000;
let count = 0;

export function say(tone: Tone, text: string) {
  const key = ++count;
  notice.value = { key, tone, text };
  // What went wrong stays until it was read.
  if (tone === "bad") return;
  setTimeout(() => {
    if (notice.value?.key === key) notice.value = null;
  }, SHOWN);
}
