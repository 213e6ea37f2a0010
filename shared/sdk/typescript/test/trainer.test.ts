import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, beforeEach, test } from "node:test";

import { ability } from "../src/brands.ts";
import { ControlPlaneError, createMidrun, createTrainer } from "../src/index.ts";
import type { TrainerCallbacks, TrainerOptions } from "../src/types.ts";
import { ControlPlaneServer } from "./control-plane-server.ts";

let plane: ControlPlaneServer;
const home = mkdtempSync(join(tmpdir(), "midrun-sdk-"));
const untouched = { ...process.env };
after(() => rmSync(home, { recursive: true }));

beforeEach(async () => {
  plane = await ControlPlaneServer.start();
  // Whatever the one who runs the tests has configured must not be reached.
  Object.assign(process.env, { HOME: home, XDG_CONFIG_HOME: home, ...plane.environment });
});

afterEach(async () => {
  await plane.close();
  for (const name of Object.keys(process.env)) if (!(name in untouched)) delete process.env[name];
  Object.assign(process.env, untouched);
});

const BASE: TrainerOptions = { name: "t", model: "m", dataset: { type: "inline", data: "a\nb" } };

function trainer(callbacks: TrainerCallbacks = {}, more: Partial<TrainerOptions> = {}) {
  return createTrainer({ ...BASE, ...more, callbacks });
}

/** Callbacks that note every call; each takes a turn of the event loop, to be caught if they overlap. */
function recording(log: string[], onLog?: (step: number) => void): TrainerCallbacks {
  const noted = async (text: string) => {
    log.push(`<${text}`);
    await new Promise((turn) => setImmediate(turn));
    log.push(`${text}>`);
  };
  return {
    onStarted: () => noted("started"),
    onLog: async ({ step }) => {
      await noted(`log ${step}`);
      onLog?.(step);
    },
    onCheckpoint: ({ step }) => noted(`checkpoint ${step}`),
    onCompleted: () => noted("completed"),
    onFailed: ({ error }) => noted(`failed ${error}`),
  };
}

function course(steps: number): string[] {
  const logs = Array.from({ length: steps }, (_, index) => `log ${index + 1}`);
  return ["started", ...logs, "checkpoint 5", "completed"].flatMap((text) => [`<${text}`, `${text}>`]);
}

function play(steps: number): void {
  plane.emit("training.started");
  for (let step = 1; step <= steps; step += 1) plane.emit("training.log", { step, loss: 1 / step, note: "é 😀" });
  plane.emit("checkpoint.saved", { step: 5, artifacts: ["a.safetensors"] });
  plane.emit("training.completed", { artifacts: ["final"], metrics: { loss: 0.1 } });
}

test("creates the job as the contract says, and follows it to its end", async () => {
  Object.assign(process.env, { MIDRUN_RESUME_FROM: "job-0:40", MIDRUN_RUN_ID: "run-7" });
  const log: string[] = [];
  const made = trainer(recording(log), {
    lora: { r: 8, alpha: 16 }, maxSteps: 10, learningRate: 1e-3, batchSize: 4, seed: undefined, dryRun: false, extra: { layers: 2 },
  });
  assert.deepEqual(await made.start(), { jobId: "job-1" });
  play(2);
  const result = await made.wait();
  assert.deepEqual(log, course(2));
  assert.equal(result.job.status, "completed");
  assert.deepEqual([result.artifacts, result.metrics], [["final"], { loss: 0.1 }]);
  const [created] = plane.requests("/v1/jobs");
  assert.deepEqual(created?.query, { orgSlug: "org", projectSlug: "project" });
  assert.equal(created?.headers.authorization, "Bearer token-1");
  assert.deepEqual(created?.body, {
    name: "t",
    config: { model: "m", datasetSource: BASE.dataset, maxSteps: 10, learningRate: 1e-3, batchSize: 4, dryRun: false, loraR: 8, loraAlpha: 16, layers: 2 },
    clientRunId: "run-7",
    resumeFrom: { jobId: "job-0", step: 40 },
  });
  // A second trainer of the process is another run.
  await trainer().start();
  assert.notEqual(plane.requests("/v1/jobs").at(-1)?.body.clientRunId, "run-7");
  assert.equal(plane.requests("/v1/jobs").at(-1)?.body.resumeFrom, undefined);
});

test("a creation whose answer was lost is repeated under the same id", async () => {
  plane.faults["/v1/jobs"] = ["destroy", { status: 503 }, { status: 429, headers: { "retry-after": "0.01" } }];
  assert.deepEqual(await trainer().start(), { jobId: "job-1" });
  const ids = plane.requests("/v1/jobs").map(({ body }) => body.clientRunId);
  assert.equal(ids.length, 4);
  assert.equal(new Set(ids).size, 1);
});

test("a refusal is final and says why", async () => {
  plane.faults["/v1/jobs"] = [{ status: 400, body: { error: "unknown config key learningrate" } }];
  await assert.rejects(trainer().wait(), (error) => error instanceof ControlPlaneError && /400: unknown config key/.test(error.message));
  assert.equal(plane.requests("/v1/jobs").length, 1);
});

test("a token that was replaced is read anew", async () => {
  const file = join(home, "credentials.json");
  delete process.env["MIDRUN_CONTROL_PLANE_TOKEN"];
  process.env["MIDRUN_CREDENTIALS_FILE"] = file;
  writeFileSync(file, JSON.stringify({ token: "old" }));
  plane.faults["/v1/jobs"] = [{ status: 401 }];
  await trainer().start();
  assert.deepEqual(plane.requests("/v1/jobs").map(({ headers }) => headers.authorization), ["Bearer old", "Bearer old"]);
  plane.faults["/v1/jobs"] = [{ status: 401 }, { status: 401 }];
  writeFileSync(file, JSON.stringify({ token: "new" }));
  await assert.rejects(trainer().start(), /401.*is the token/);
  assert.equal(plane.requests("/v1/jobs").at(-1)?.headers.authorization, "Bearer new");
});

test("without a control plane the error says what to do", async () => {
  for (const name of Object.keys(plane.environment)) delete process.env[name];
  await assert.rejects(trainer().start(), /MIDRUN_CONTROL_PLANE_URL, .* not set\. Start the run with `midrun dev`/);
  process.env["ARKOR_CLOUD_API_URL"] = plane.environment["MIDRUN_CONTROL_PLANE_URL"];
  await assert.rejects(trainer().start(), /: MIDRUN_CREDENTIALS_FILE, MIDRUN_ORG_SLUG, MIDRUN_PROJECT_SLUG are not set/);
});

test("no step is lost or repeated, wherever the connection is cut", async () => {
  play(6);
  const whole = plane.streamed.length;
  for (let cut = 0; cut <= whole; cut += 7) {
    plane.cuts = [cut];
    const log: string[] = [];
    await trainer(recording(log)).wait();
    assert.deepEqual(log, course(6), `cut after ${cut} bytes`);
  }
  assert.ok(plane.requests("/events/stream").length >= (2 * whole) / 7, "the cuts were felt");
  plane.cuts = [0, 150, 150, 0, 300, 40, 700];
  const log: string[] = [];
  await trainer(recording(log)).wait();
  assert.deepEqual(log, course(6));
});

test("a control plane that forgot where we were repeats nothing to the callbacks", async () => {
  play(6);
  plane.forgetful = true;
  plane.cuts = [150, 400, 700, 900, 1100];
  const log: string[] = [];
  await trainer(recording(log)).wait();
  assert.deepEqual(log, course(6));
});

test("streams that end in good order, refuse for a while or go away are opened again", async () => {
  plane.faults["/events/stream"] = [{ status: 502 }, "destroy", { status: 503, headers: { "retry-after": "0.01" } }];
  const log: string[] = [];
  const waiting = trainer(recording(log, (step) => step === 3 && plane.endStreams())).wait();
  play(6);
  await waiting;
  assert.deepEqual(log, course(6));
});

test("what another program answers at the address of a control plane that told of events is no answer", async () => {
  const page = (status: number) => ({ status, headers: { "content-type": "text/html; charset=utf-8" } });
  const meets = async (faults: (typeof plane.faults)[string], log: string[] = []) => {
    plane.cuts = [300];
    const first = recording(log);
    const onStarted = (context: Parameters<NonNullable<TrainerCallbacks["onStarted"]>>[0]) => {
      plane.faults["/events/stream"] = faults;
      return first.onStarted?.(context);
    };
    await trainer({ ...first, onStarted }).wait();
    assert.deepEqual([faults, log], [[], course(6)]);
  };
  play(6);
  await meets([page(404), page(200), page(403)]);
  // A control plane's own word is final.
  await assert.rejects(meets([{ status: 404, body: { error: "no such job" } }]), /answered with 404: no such job/);
  // Who was told of none may have a wrong address, and is not kept waiting.
  for (const [status, reason] of [[404, /answered with 404/], [200, /answered with text\/html.* instead of events/]] as const) {
    plane.faults["/events/stream"] = [page(status)];
    await assert.rejects(trainer().wait(), reason);
  }
});

test("the end of the stream without a last event asks for the job", async () => {
  for (const [status, expected] of [["completed", ["<completed", "completed>"]], ["failed", ["<failed oom", "failed oom>"]], ["cancelled", []]] as const) {
    const log: string[] = [];
    const made = trainer(recording(log));
    await made.start();
    Object.assign(plane.jobs.get("job-1") ?? {}, { status, error: "oom" });
    plane.emit("end");
    assert.equal((await made.wait()).job.status, status);
    assert.deepEqual(log, expected);
    await plane.close();
    plane = await ControlPlaneServer.start();
    Object.assign(process.env, plane.environment);
  }
});

test("a control plane that stays away ends the wait at the limit", async () => {
  process.env["MIDRUN_CONTROL_PLANE_RETRY_MS"] = "300";
  const made = trainer();
  await made.start();
  await plane.close();
  await assert.rejects(made.wait(), /away for more than 0.3 s \(MIDRUN_CONTROL_PLANE_RETRY_MS\).*ECONNREFUSED/);
  plane = await ControlPlaneServer.start();
});

test("a throw in a callback rejects wait() and is not tried again", async () => {
  play(3);
  let calls = 0;
  const made = trainer({
    onLog: async ({ step }) => {
      calls += 1;
      if (step === 2) throw new RangeError("from onLog");
    },
  });
  await assert.rejects(made.wait(), new RangeError("from onLog"));
  await assert.rejects(made.wait(), new RangeError("from onLog"));
  assert.equal(calls, 2);
  assert.equal(plane.requests("/events/stream").length, 1);
});

test("a failed job is told to onFailed and is no rejection", async () => {
  plane.emit("training.failed", { error: "loss is NaN" });
  const log: string[] = [];
  const { job } = await trainer(recording(log)).wait();
  assert.deepEqual([job.status, job.error, log], ["failed", "loss is NaN", ["<failed loss is NaN", "failed loss is NaN>"]]);
});

test("a checkpoint can be asked, at once and piece by piece, and a busy model is asked again", async () => {
  const answers: string[] = [];
  plane.faults["/inference/"] = [{ status: 503, headers: { "retry-after": "0.01" } }];
  plane.emit("checkpoint.saved", { step: 20, artifacts: [] });
  plane.emit("training.completed", {});
  await trainer({
    onCheckpoint: async ({ infer }) => {
      answers.push((await infer("27+15=")).text);
      for await (const piece of infer.stream({ messages: [{ role: "user", content: "x" }], maxTokens: 4 })) answers.push(piece);
    },
    onCompleted: async ({ infer }) => void answers.push((await infer("1")).text),
  }).wait();
  assert.deepEqual(answers, ["42", "4", "2", "42"]);
  const [, whole, pieces, last] = plane.requests("/inference/").map(({ body }) => body);
  const checkpoint = { kind: "checkpoint", jobId: "job-1", step: 20 };
  assert.deepEqual(whole, { messages: [{ role: "user", content: "27+15=" }], adapter: checkpoint, stream: false });
  assert.deepEqual([pieces.maxTokens, pieces.stream, last.adapter], [4, true, { kind: "final", jobId: "job-1" }]);
});

test("new callbacks take over between two events", async () => {
  const log: string[] = [];
  const made = trainer({
    onLog: async ({ step }) => {
      log.push(`old ${step}`);
      if (step === 2) ability(made, "replaceCallbacks")?.({ onLog: ({ step }: { step: number }) => log.push(`new ${step}`) });
      await new Promise((turn) => setImmediate(turn));
      log.push(`old ${step} ends`);
    },
  });
  play(4);
  await made.wait();
  assert.deepEqual(log, ["old 1", "old 1 ends", "old 2", "old 2 ends", "new 3", "new 4"]);
  // What new code takes from old code is what the old code was written with.
  const inspection = ability(made, "inspect")?.();
  assert.match(String(Reflect.get(inspection?.callbacks ?? {}, "onLog")), /old/);
});

test("abilities are out of sight", () => {
  const made = trainer();
  assert.deepEqual(Object.keys(made), ["name", "start", "wait", "cancel"]);
  assert.deepEqual(Object.getOwnPropertyDescriptors(made)[Symbol.for("midrun.trainer.inspect") as never]?.["enumerable"], false);
  assert.deepEqual(createMidrun({ trainer: made }), { _kind: "midrun", trainer: made });
});

test("what every job needs is asked for", () => {
  for (const [missing, text] of [["name", /`name` is missing/], ["model", /`model` is missing/], ["dataset", /`dataset` is missing/]] as const) {
    assert.throws(() => createTrainer({ ...BASE, [missing]: undefined } as unknown as TrainerOptions), text);
  }
});

test("cancel() ends the run; a job at its end needs none", async () => {
  const made = trainer();
  await made.start();
  const waiting = made.wait();
  await Promise.all([made.cancel(), made.cancel()]);
  assert.equal((await waiting).job.status, "cancelled");
  await made.cancel();
  assert.equal(plane.requests("/cancel").length, 1);
});

test("a cancel that is only under way waits for its event", async () => {
  plane.cancelledStatus = "running";
  const made = trainer();
  await made.start();
  const waiting = made.wait();
  await made.cancel();
  plane.emit("training.cancelled");
  assert.equal((await waiting).job.status, "cancelled");
});

test("an abort cancels the job and rejects with its reason", async () => {
  const abort = new AbortController();
  const made = trainer({}, { abortSignal: abort.signal });
  await made.start();
  const waiting = made.wait();
  abort.abort(new Error("enough"));
  await assert.rejects(waiting, /enough/);
  await made.cancel();
  assert.equal(plane.jobs.get("job-1")?.status, "cancelled");
  await assert.rejects(trainer({}, { abortSignal: AbortSignal.abort(new Error("before")) }).start(), /before/);
});
