/** The control plane's `/v1`, as far as a trainer needs it. Knows requests and answers, nothing of a run's course. */
import type { Connection, Limits } from "./environment.ts";
import { followEvents, type StreamEvent } from "./event-stream.ts";
import type { ResumeFrom } from "./resume.ts";
import { ControlPlaneError, retrying } from "./retry.ts";
import type { Job } from "./types.ts";

export interface NewJob {
  readonly name: string;
  readonly config: unknown;
  /** The control plane gives the same job to the same id, which makes creating repeatable. */
  readonly clientRunId: string;
  readonly resumeFrom?: ResumeFrom | undefined;
}

/** How long a control plane may be away while a job is created, milliseconds. */
const CREATE_LIMIT_MS = 60_000;
/** How long cancelling is tried before it has failed, milliseconds. What fails here is left to the cancel broker. */
const CANCEL_LIMIT_MS = 10_000;
/** How long a model may be away or busy, milliseconds. */
const INFER_LIMIT_MS = 60_000;
/** How long one request may take to be answered, milliseconds. */
const ANSWER_MS = 30_000;
/** The control plane pings more often than this, milliseconds. */
const SILENT_MS = 60_000;

export class ControlPlane {
  readonly connection: Connection;
  readonly #limits: Limits;

  constructor(connection: Connection, limits: Limits) {
    this.connection = connection;
    this.#limits = limits;
  }

  /** Creates the job, or finds it created already. */
  async createJob(job: NewJob, signal: AbortSignal): Promise<Job> {
    const answer = await this.#json("POST", "/v1/jobs", { body: job, signal, limitMs: CREATE_LIMIT_MS });
    return jobIn(answer);
  }

  /** The job as it stands. */
  async job(id: string, signal?: AbortSignal): Promise<Job> {
    return jobIn(await this.#json("GET", `/v1/jobs/${encodeURIComponent(id)}`, { signal, limitMs: CREATE_LIMIT_MS }));
  }

  /** Cancels the job. Answers with the job where the control plane does; nothing if it was at its end already. */
  async cancelJob(id: string): Promise<Job | undefined> {
    return this.#cancel(`/v1/jobs/${encodeURIComponent(id)}/cancel`, {}, [409]);
  }

  /** Cancels the job of a run whose creation nobody saw the end of. There may be none. */
  async cancelRun(clientRunId: string): Promise<Job | undefined> {
    return this.#cancel("/v1/jobs/cancel", { clientRunId }, [404, 409]);
  }

  /**
   * The job's events from the first on, without end. A control plane that told of some and is away may have its address
   * taken by another program: what that one answers is no answer.
   */
  follow(id: string, signal: AbortSignal): AsyncGenerator<StreamEvent, never> {
    const path = `/v1/jobs/${encodeURIComponent(id)}/events/stream`;
    const open = async (lastEventId: string | undefined, connection: AbortController) => {
      const headers: Record<string, string> = { accept: "text/event-stream" };
      const known = lastEventId !== undefined;
      if (known) headers["last-event-id"] = lastEventId;
      const late = setTimeout(() => connection.abort(new DOMException("no answer in time", "TimeoutError")), ANSWER_MS);
      const response = await this.#send("GET", path, { headers, signal: connection.signal }, known).finally(() => clearTimeout(late));
      const type = response.headers.get("content-type") ?? "";
      if (!type.startsWith("text/event-stream")) {
        throw new ControlPlaneError(`${this.#at(path)} answered with ${type || "no type"} instead of events`, { transient: known });
      }
      return response;
    };
    return followEvents({ open, signal, awayMs: this.#limits.awayMs, silentMs: SILENT_MS });
  }

  /** Asks a model for the whole answer. */
  async chat(body: object, signal: AbortSignal | undefined): Promise<unknown> {
    return this.#json("POST", "/v1/inference/chat", { body, signal, limitMs: INFER_LIMIT_MS, answerMs: INFER_LIMIT_MS });
  }

  /** Asks a model for its answer as it is written. The caller reads the body. */
  async chatStream(body: object, signal: AbortSignal | undefined): Promise<Response> {
    return retrying(INFER_LIMIT_MS, signal, () => this.#send("POST", "/v1/inference/chat", { body, signal }));
  }

  async #cancel(path: string, query: Record<string, string>, settled: number[]): Promise<Job | undefined> {
    try {
      const answer = await this.#json("POST", path, { query, limitMs: CANCEL_LIMIT_MS, answerMs: CANCEL_LIMIT_MS / 2 });
      return (answer as { job?: Job } | null)?.job;
    } catch (error) {
      if (error instanceof ControlPlaneError && error.status !== undefined && settled.includes(error.status)) return undefined;
      throw error;
    }
  }

  async #json(method: string, path: string, request: Request & { limitMs: number; answerMs?: number }): Promise<unknown> {
    return retrying(request.limitMs, request.signal, async () => {
      const late = AbortSignal.timeout(request.answerMs ?? ANSWER_MS);
      const signal = request.signal === undefined ? late : AbortSignal.any([late, request.signal]);
      const response = await this.#send(method, path, { ...request, signal });
      const text = await response.text().catch((error: unknown) => {
        throw new ControlPlaneError(`${this.#at(path)} broke off its answer`, { transient: true, cause: error });
      });
      if (text === "") return null;
      try {
        return JSON.parse(text) as unknown;
      } catch {
        throw new ControlPlaneError(`${this.#at(path)} answered with something that is no JSON`, { transient: false });
      }
    });
  }

  /**
   * One request. An answer that is not 2xx is an error; one that no control plane gives is a passing one where `known` says
   * that there is a control plane.
   */
  async #send(method: string, path: string, request: Request, known = false): Promise<Response> {
    const first = await this.#fetch(method, path, request);
    if (first.ok) return first;
    // A token may have been replaced since it was read; it is read anew for each request.
    const response = first.status === 401 ? await this.#fetch(method, path, request) : first;
    if (response.ok) return response;
    throw await refused(response, `${method} ${this.#at(path)}`, known);
  }

  async #fetch(method: string, path: string, request: Request): Promise<Response> {
    const { orgSlug, projectSlug, token } = this.connection;
    const query = new URLSearchParams({ orgSlug, projectSlug, ...request.query });
    const headers: Record<string, string> = { authorization: `Bearer ${token()}`, ...request.headers };
    const body = request.body === undefined ? null : JSON.stringify(request.body);
    if (body !== null) headers["content-type"] = "application/json";
    try {
      return await fetch(`${this.connection.url}${path}?${query}`, { method, headers, body, signal: request.signal ?? null });
    } catch (error) {
      throw new ControlPlaneError(`the control plane at ${this.#at(path)} cannot be reached: ${said(error)}`, { transient: true, cause: error });
    }
  }

  #at(path: string): string {
    return `${this.connection.url}${path}`;
  }
}

interface Request {
  readonly body?: unknown;
  readonly query?: Record<string, string>;
  readonly headers?: Record<string, string>;
  readonly signal?: AbortSignal | undefined;
}

/** What went wrong below `fetch`, which itself only says "fetch failed". */
function said(error: unknown): string {
  const { message, cause } = error as { message?: string; cause?: { code?: string; message?: string } };
  return cause?.code ?? cause?.message ?? message ?? String(error);
}

function jobIn(answer: unknown): Job {
  const job = (answer as { job?: Job } | null)?.job;
  if (typeof job?.id !== "string") throw new ControlPlaneError("the control plane answered without a job", { transient: false });
  return job;
}

const TRANSIENT = [408, 425, 429];

async function refused(response: Response, what: string, known: boolean): Promise<ControlPlaneError> {
  const isForeign = known && !(response.headers.get("content-type") ?? "").startsWith("application/json");
  const text = await response.text().catch(() => "");
  const status = response.status;
  const hint = status === 401 || status === 403 ? " (is the token, or the org and project, still right?)" : "";
  const seconds = Number(response.headers.get("retry-after") ?? "");
  return new ControlPlaneError(`${what} was answered with ${status}: ${reason(text)}${hint}`, {
    status,
    transient: isForeign || status >= 500 || TRANSIENT.includes(status),
    retryAfterMs: seconds > 0 ? seconds * 1000 : undefined,
  });
}

function reason(text: string): string {
  try {
    const { error } = JSON.parse(text) as { error?: unknown };
    if (typeof error === "string") return error;
  } catch {
    // Not JSON: the text itself is all there is to show.
  }
  return text.slice(0, 500) || "no reason given";
}
