// Which page is shown: the part of the address behind `#`. It works after a reload and as a deep link.

import { signal } from "@preact/signals";

export type Route =
  | { page: "overview" }
  | { page: "jobs" }
  | { page: "job"; id: string }
  | { page: "run"; id: string }
  | { page: "playground"; job?: string; step?: string }
  | { page: "terminal"; id?: string }
  | { page: "unknown"; path: string };

export function routeOf(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#/, "").split("?");
  const [first = "", second, ...more] = path.split("/").filter(Boolean).map(decode);
  const asked = new URLSearchParams(query);
  if (more.length > 0) return { page: "unknown", path };
  if (second === undefined) {
    if (first === "") return { page: "overview" };
    if (first === "jobs") return { page: "jobs" };
    if (first === "playground") {
      const [job, step] = [asked.get("job"), asked.get("step")];
      return { page: "playground", ...(job !== null && { job }), ...(step !== null && { step }) };
    }
    if (first === "terminal") return { page: "terminal" };
  } else {
    if (first === "jobs") return { page: "job", id: second };
    if (first === "runs") return { page: "run", id: second };
    if (first === "terminal") return { page: "terminal", id: second };
  }
  return { page: "unknown", path };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const jobPath = (id: string) => `#/jobs/${encodeURIComponent(id)}`;
export const runPath = (id: string) => `#/runs/${encodeURIComponent(id)}`;

export const route = signal<Route>(typeof location === "undefined" ? { page: "overview" } : routeOf(location.hash));

/** Follows the address. Called once. */
export function followAddress() {
  addEventListener("hashchange", () => (route.value = routeOf(location.hash)));
}
