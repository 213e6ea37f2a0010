// The keyboard. A page says which keys mean something while it is shown.

import { useLayoutEffect } from "preact/hooks";

export interface Shortcut {
  keys: string;
  what: string;
  act: () => void;
}

const known: Shortcut[] = [];
let pending = "";
let timer: ReturnType<typeof setTimeout> | undefined;

/** How long `g` waits for the letter behind it. */
const PATIENCE = 1200;

export const shortcuts = (): readonly Shortcut[] => known;

/** Gives `shortcuts` their meaning while the caller is shown. */
export function useShortcuts(shortcuts: Shortcut[]) {
  // With what is drawn: a key that is pressed when the page says that it means something does.
  useLayoutEffect(() => {
    known.push(...shortcuts);
    return () => {
      for (const shortcut of shortcuts) known.splice(known.indexOf(shortcut), 1);
    };
  });
}

const isTyping = (target: EventTarget | null) =>
  target instanceof HTMLElement && (target.isContentEditable || target.closest("input, textarea, select, .xterm, dialog[open]") !== null);

addEventListener("keydown", (event) => {
  // A key that is held means what it means once.
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || isTyping(event.target)) return;
  const keys = pending + event.key;
  pending = "";
  clearTimeout(timer);
  // The newest one wins: a page's own before the shell's.
  const shortcut = known.findLast((one) => one.keys === keys) ?? known.findLast((one) => one.keys === event.key);
  if (shortcut) {
    event.preventDefault();
    shortcut.act();
  } else if (known.some((one) => one.keys.length > 1 && one.keys.startsWith(event.key))) {
    pending = event.key;
    timer = setTimeout(() => (pending = ""), PATIENCE);
  }
});
