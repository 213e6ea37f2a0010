// This tab's stream, and its comebacks.

import { effect, signal } from "@preact/signals";
import { send, tokenIsForeign } from "./ask.ts";
import { TabStream } from "./stream.ts";

export const tab = new TabStream({
  open: (path, headers, abort) => send(path, { headers, signal: abort }),
  later: (ms, act) => {
    const timer = setTimeout(act, ms);
    return () => clearTimeout(timer);
  },
  random: Math.random,
});

document.addEventListener("visibilitychange", () => tab.show(!document.hidden));
// A link that is opened in the background shows nothing to anybody yet.
if (document.hidden) tab.show(false);

/** `reloading`: the token changed and the page fetches the new one. `shut`: that did not help. */
export const admission = signal<"in" | "reloading" | "shut">("in");

const RELOADED = "midrun.reloaded";
const RELOAD_AFTER = 1200;
/** A reload that ended here again within this time did not help. */
const AGAIN = 15_000;

effect(() => {
  if (!tokenIsForeign.value) return;
  tab.stop();
  const last = Number(sessionStorage.getItem(RELOADED) ?? 0);
  if (Date.now() - last < AGAIN) {
    admission.value = "shut";
    return;
  }
  admission.value = "reloading";
  sessionStorage.setItem(RELOADED, String(Date.now()));
  setTimeout(() => location.reload(), RELOAD_AFTER);
});
