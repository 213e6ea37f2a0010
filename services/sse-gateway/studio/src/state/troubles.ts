// The server's services that cannot do their work, as the server tells.

import { signal } from "@preact/signals";
import { tab } from "../net/tab.ts";
import type { Trouble } from "../net/types.ts";

export const troubles = signal<Trouble[]>([]);

/** Follows what is wrong from now on. Called once. */
export function followTroubles() {
  tab.follow("troubles", ({ event, data }) => {
    if (event === "troubles") troubles.value = data.list;
  });
}
