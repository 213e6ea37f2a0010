// What is said of services that cannot do their work. Pure.

import type { Trouble } from "../net/types.ts";

/** One sentence a service; those that cannot be reached are tried again by the server. */
export function troubleWords(troubles: readonly Trouble[]): string {
  return troubles.map(({ service, why }) => {
    if (why.includes("cannot be reached")) return `${service} is away; trying again.`;
    if (why.includes("is being restarted")) return `${service} failed and is being restarted.`;
    return `${service}: ${why}.`;
  }).join(" ");
}

/** When the oldest of them began, in milliseconds; nothing while all is well. */
export function troubledSince(troubles: readonly Trouble[]): number | null {
  const times = troubles.map(({ since }) => Date.parse(since)).filter((time) => !Number.isNaN(time));
  return times.length === 0 ? null : Math.min(...times);
}
