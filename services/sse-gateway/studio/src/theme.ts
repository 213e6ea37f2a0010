// Light or dark: the system's choice, or the person's.

import { effect, signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";
const KEPT = "midrun.theme";
const THEMES: readonly Theme[] = ["system", "light", "dark"];

const kept = localStorage.getItem(KEPT) as Theme | null;
export const theme = signal<Theme>(kept !== null && THEMES.includes(kept) ? kept : "system");

/** Counts changes of what is really shown, for whoever draws with colours of its own. */
export const shade = signal(0);

effect(() => {
  if (theme.value === "system") localStorage.removeItem(KEPT);
  else localStorage.setItem(KEPT, theme.value);
  document.documentElement.dataset["theme"] = theme.value;
  shade.value = shade.peek() + 1;
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (shade.value += 1));

export function nextTheme() {
  theme.value = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length] ?? "system";
}

/** A style sheet's colour as a canvas understands it. */
export function resolved(name: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  probe.hidden = true;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}
