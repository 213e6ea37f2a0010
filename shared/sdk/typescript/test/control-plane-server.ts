/** A control plane in the test's own process: real HTTP, scripted events, and faults where a test asks for them. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";

export interface Seen {
  method: string;
  path: string;
  query: Record<string, string>;
  headers: IncomingMessage["headers"];
  body: any;
}

interface ServedJob {
  id: string;
  name: string;
  status: string;
  config: unknown;
  clientRunId: string;
  resumeFrom?: unknown;
}

type Fault = "destroy" | { status: number; body?: unknown; headers?: Record<string, string> };

export class ControlPlaneServer {
  readonly seen: Seen[] = [];
  readonly jobs = new Map<string, ServedJob>();
  /** The bytes of each event of the one job that tests stream, by id from 1. */
  readonly #events: string[] = [];
  readonly #streams = new Set<ServerResponse>();
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;
  #ended = false;
  /** What becomes of the next requests to a path that contains the key, one fault a request. */
  readonly faults: Record<string, Fault[]> = {};
  /** After how many bytes of events the next connections are cut, one number a connection. */
  cuts: number[] = [];
  /** Ignores where a client says it is, as a control plane that forgot would. */
  forgetful = false;
  /** The status that a job has in the answer to a cancel. */
  cancelledStatus = "cancelled";
  /** What a model answers, piece by piece. */
  pieces = ["4", "2"];

  private constructor() {
    this.#server = createServer((request, response) => void this.#handle(request, response));
    this.#server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
  }

  static async start(port = 0): Promise<ControlPlaneServer> {
    const plane = new ControlPlaneServer();
    await new Promise<void>((listening) => plane.#server.listen(port, "127.0.0.1", listening));
    return plane;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get environment(): Record<string, string> {
    return {
      MIDRUN_CONTROL_PLANE_URL: `http://127.0.0.1:${this.port}/`,
      MIDRUN_CONTROL_PLANE_TOKEN: "token-1",
      MIDRUN_ORG_SLUG: "org",
      MIDRUN_PROJECT_SLUG: "project",
    };
  }

  /** The requests to a path that contains `part`. */
  requests(part: string): Seen[] {
    return this.seen.filter(({ path }) => path.includes(part));
  }

  /** All the bytes that a stream has so far. */
  get streamed(): Buffer {
    return Buffer.from(this.#events.join(""));
  }

  /** Adds an event to the job's stream. */
  emit(type: string, data: object = {}): void {
    const id = this.#events.length + 1;
    const body = { type, jobId: "job-1", timestamp: "2026-01-02T03:04:05.678Z", ...data };
    this.#events.push(`id: ${id}\nevent: ${type}\ndata: ${JSON.stringify(body)}\n\n`);
    for (const stream of this.#streams) stream.write(this.#events[id - 1]);
  }

  /** Ends every open stream in good order, and those to come once they have told everything. */
  endStreams(): void {
    this.#ended = true;
    for (const stream of this.#streams) stream.end();
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((closed) => this.#server.close(() => closed()));
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", "http://127.0.0.1");
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString();
    const { method = "GET", headers } = request;
    const body: unknown = text === "" ? undefined : JSON.parse(text);
    this.seen.push({ method, path: url.pathname, query: Object.fromEntries(url.searchParams), headers, body });
    const fault = this.#nextFault(url.pathname);
    if (fault === "destroy") return void request.socket.destroy();
    if (fault !== undefined) return answer(response, fault.status, fault.body, fault.headers);
    this.#route(`${method} ${url.pathname}`, url.searchParams, body, headers, response);
  }

  #nextFault(path: string): Fault | undefined {
    const key = Object.keys(this.faults).find((part) => path.includes(part));
    return key === undefined ? undefined : this.faults[key]?.shift();
  }

  #route(what: string, query: URLSearchParams, body: any, headers: IncomingMessage["headers"], response: ServerResponse): void {
    if (what === "POST /v1/jobs") answer(response, 200, { job: this.#create(body) });
    else if (what === "POST /v1/jobs/cancel") this.#cancel(this.#byRun(query.get("clientRunId") ?? ""), response);
    else if (what === "POST /v1/jobs/job-1/cancel") this.#cancel(this.jobs.get("job-1"), response);
    else if (what === "GET /v1/jobs/job-1") answer(response, 200, { job: this.jobs.get("job-1"), events: [] });
    else if (/^GET .v1.jobs.job-\d+.events.stream$/.test(what)) this.#stream(Number(headers["last-event-id"] ?? 0), response);
    else if (what === "POST /v1/inference/chat") this.#chat(body, response);
    else answer(response, 404, { error: `no such thing: ${what}` });
  }

  #create(body: { name: string; config: unknown; clientRunId: string; resumeFrom?: unknown }): ServedJob {
    const known = this.#byRun(body.clientRunId);
    if (known !== undefined) return known;
    const job = { ...body, id: `job-${this.jobs.size + 1}`, status: "queued" };
    this.jobs.set(job.id, job);
    return job;
  }

  #byRun(clientRunId: string): ServedJob | undefined {
    return [...this.jobs.values()].find((job) => job.clientRunId === clientRunId);
  }

  #cancel(job: ServedJob | undefined, response: ServerResponse): void {
    if (job === undefined) return answer(response, 404, { error: "no such job" });
    if (["completed", "failed", "cancelled"].includes(job.status)) return answer(response, 409, { error: "already at its end" });
    job.status = this.cancelledStatus;
    answer(response, 200, { job });
  }

  #stream(after: number, response: ServerResponse): void {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write("retry: 2\n\n: hello\n\n");
    const told = this.#events.slice(this.forgetful ? 0 : after).join("");
    const cut = this.cuts.shift();
    if (cut !== undefined) {
      response.write(Buffer.from(told).subarray(0, cut), () => response.socket?.destroy());
      return;
    }
    response.write(told);
    if (this.#ended) return void response.end();
    this.#streams.add(response);
    response.on("close", () => this.#streams.delete(response));
  }

  #chat(body: { stream: boolean }, response: ServerResponse): void {
    if (!body.stream) return answer(response, 200, { choices: [{ message: { content: this.pieces.join("") } }] });
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const content of this.pieces) response.write(`data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`);
    response.end("data: [DONE]\n\n");
  }
}

function answer(response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(body === undefined ? "" : JSON.stringify(body));
}
