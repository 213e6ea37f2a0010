// Requests to the server. The token goes in a header, so it never stands in an address.

import { signal } from "@preact/signals";

const meta = (name: string) => document.querySelector<HTMLMetaElement>(`meta[name="${name}"]`)?.content ?? "";
const token = meta("midrun-token");
export const version = meta("midrun-version");
/** Where traces are looked at, `{traceId}` in it; empty when no such address is set. */
export const traceUi = /^https?:/.test(meta("midrun-trace-ui")) ? meta("midrun-trace-ui") : "";

/** The server knows another token: it was started anew. */
export const tokenIsForeign = signal(false);
const OWN_SCHEME = "X-Midrun-Token";

/** A "no" of the server, in its own words. */
export class Refused extends Error {
  readonly status: number;
  readonly data: Record<string, unknown>;

  constructor(status: number, message: string, data: Record<string, unknown>) {
    super(message);
    this.status = status;
    this.data = data;
  }
}

export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  headers.set("X-Midrun-Token", token);
  const answer = await fetch(path, { ...init, headers, cache: "no-store" });
  // A 401 of the control plane is passed on, and means something else.
  if (answer.status === 401 && answer.headers.get("www-authenticate") === OWN_SCHEME) tokenIsForeign.value = true;
  return answer;
}

export async function refusal(answer: Response): Promise<Refused> {
  const data = (await answer.json().catch(() => ({}))) as Record<string, unknown>;
  const words = typeof data["error"] === "string" ? data["error"] : `the server answered ${answer.status}`;
  return new Refused(answer.status, words, data);
}

/** The JSON of an answer. Throws `Refused`, or a `TypeError` when the server is away. */
export async function ask<T>(method: string, path: string, body?: unknown): Promise<T> {
  const init: RequestInit = { method };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { "content-type": "application/json" };
  }
  const answer = await send(path, init);
  if (!answer.ok) throw await refusal(answer);
  return (answer.status === 204 ? undefined : await answer.json()) as T;
}

/** What to tell a person about something that was thrown. */
export function words(error: unknown): string {
  if (error instanceof Refused) return error.message;
  if (error instanceof TypeError) return "the server cannot be reached";
  return error instanceof Error ? error.message : String(error);
}
