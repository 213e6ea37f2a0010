import assert from "node:assert/strict";
import { after, test } from "node:test";

import { ability } from "../src/brands.ts";
import { EarlyStop } from "../src/early-stop.ts";
import { createTrainer } from "../src/index.ts";
import type { Trainer, TrainerCallbacks } from "../src/types.ts";
import { ControlPlaneServer } from "./control-plane-server.ts";

/** A cancel whose end the test decides. */
function cancelling() {
  const calls: { succeed: () => void; fail: (error: Error) => void }[] = [];
  const latch = new EarlyStop(() => new Promise((succeed, fail) => calls.push({ succeed, fail })));
  return { calls, latch };
}

async function turn(): Promise<void> {
  await new Promise((next) => setImmediate(next));
}

const LONG_MS = 60_000;

type Act = "request" | "checkpoint" | "giveUp" | "ending" | "terminal" | "cancelled" | "cancelFailed";

/** What is done, how often the job was cancelled by then, and how those who asked for the stop fare. */
const table: [acts: Act[], cancels: number, settled: "waiting" | "done" | "failed"][] = [
  [["request"], 0, "waiting"],
  [["request", "request"], 0, "waiting"],
  [["checkpoint", "request"], 0, "waiting"],
  [["request", "checkpoint"], 1, "waiting"],
  [["request", "checkpoint", "cancelled"], 1, "done"],
  [["request", "checkpoint", "cancelFailed"], 1, "failed"],
  [["request", "checkpoint", "checkpoint"], 1, "waiting"],
  [["request", "checkpoint", "request", "checkpoint", "cancelled"], 1, "done"],
  [["request", "checkpoint", "terminal"], 1, "done"],
  [["request", "checkpoint", "terminal", "cancelFailed"], 1, "done"],
  [["request", "checkpoint", "cancelFailed", "terminal"], 1, "failed"],
  [["request", "checkpoint", "cancelled", "request", "checkpoint"], 1, "done"],
  [["request", "terminal"], 0, "done"],
  [["request", "terminal", "checkpoint"], 0, "done"],
  [["terminal", "request"], 0, "done"],
  [["terminal", "request", "checkpoint", "giveUp"], 0, "done"],
  [["giveUp", "request"], 0, "waiting"],
  [["request", "giveUp", "cancelled"], 1, "done"],
  [["request", "giveUp", "checkpoint", "cancelFailed"], 1, "failed"],
  [["request", "ending"], 0, "waiting"],
  [["request", "ending", "checkpoint"], 0, "waiting"],
  [["request", "ending", "request", "terminal"], 0, "done"],
  [["request", "ending", "giveUp"], 0, "done"],
  [["ending", "request", "checkpoint"], 0, "waiting"],
  [["ending", "request", "terminal"], 0, "done"],
  [["request", "checkpoint", "ending", "cancelled"], 1, "waiting"],
  [["request", "checkpoint", "ending", "cancelFailed"], 1, "waiting"],
  [["request", "checkpoint", "ending", "cancelFailed", "terminal"], 1, "done"],
  [["request", "checkpoint", "cancelled", "ending"], 1, "done"],
  [["request", "checkpoint", "cancelFailed", "ending", "terminal"], 1, "failed"],
];

for (const [acts, cancels, settled] of table) {
  test(`the latch: ${acts.join(", ")}`, async () => {
    const { calls, latch } = cancelling();
    let state = "waiting";
    let asked: Promise<void> | undefined;
    for (const act of acts) {
      if (act === "request") {
        const again = latch.request(LONG_MS);
        assert.equal(asked ?? again, again, "all who ask wait for the same");
        asked = again;
        again.then(() => (state = "done"), () => (state = "failed"));
      } else if (act === "cancelled") calls[0]?.succeed();
      else if (act === "cancelFailed") calls[0]?.fail(new Error("502"));
      else if (act === "checkpoint") void latch.checkpoint(1);
      else void latch[act]();
      await turn();
    }
    assert.deepEqual([calls.length, state], [cancels, settled]);
    latch.terminal();
  });
}

test("without a checkpoint in time the job is cancelled", async () => {
  const { calls, latch } = cancelling();
  const asked = latch.request(20);
  while (calls.length === 0) await turn();
  calls[0]?.succeed();
  await asked;
  await latch.checkpoint(1);
  assert.equal(calls.length, 1);
});

test("the clock cancels no job that is at its end", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { calls, latch } = cancelling();
  const asked = latch.request(20);
  latch.ending();
  t.mock.timers.tick(LONG_MS);
  await turn();
  assert.equal(calls.length, 0);
  latch.terminal();
  await asked;
});

const servers: ControlPlaneServer[] = [];
after(() => Promise.all(servers.map((server) => server.close())));

async function running(callbacks: TrainerCallbacks = {}): Promise<{ plane: ControlPlaneServer; trainer: Trainer; stop: (timeoutMs?: number) => Promise<void> }> {
  const plane = await ControlPlaneServer.start();
  servers.push(plane);
  Object.assign(process.env, plane.environment);
  const trainer = createTrainer({ name: "t", model: "m", dataset: { type: "inline" }, callbacks });
  const stop = (timeoutMs = LONG_MS) => ability(trainer, "requestEarlyStop")?.({ timeoutMs }) ?? Promise.reject(new Error("no such ability"));
  return { plane, trainer, stop };
}

test("a run stops after its next checkpoint, once, and calls nobody afterwards", async () => {
  const log: string[] = [];
  const { plane, trainer, stop } = await running({
    onLog: ({ step }) => log.push(`log ${step}`),
    onCheckpoint: ({ step }) => log.push(`checkpoint ${step}`),
  });
  await trainer.start();
  const waiting = trainer.wait();
  const stops = [stop(), stop()];
  plane.emit("training.log", { step: 1 });
  plane.emit("checkpoint.saved", { step: 1 });
  plane.emit("training.log", { step: 2 });
  plane.emit("checkpoint.saved", { step: 2 });
  await Promise.all(stops);
  assert.equal((await waiting).job.status, "cancelled");
  assert.deepEqual(log, ["log 1", "checkpoint 1"]);
  assert.equal(plane.requests("/cancel").length, 1);
});

test("a job that ends by itself needs no cancel", async () => {
  const { plane, trainer, stop } = await running();
  await trainer.start();
  const waiting = trainer.wait();
  const stopping = stop();
  plane.emit("training.completed");
  await stopping;
  assert.equal((await waiting).job.status, "completed");
  await stop();
  assert.equal(plane.requests("/cancel").length, 0);
});

for (const [type, callback, status] of [["training.completed", "onCompleted", "completed"], ["training.failed", "onFailed", "failed"]] as const) {
  test(`a stop is not over before ${callback} is`, async () => {
    let begin!: () => void, goOn!: () => void;
    const begun = new Promise<void>((resolve) => (begin = resolve));
    const gate = new Promise<void>((resolve) => (goOn = resolve));
    const { plane, trainer, stop } = await running({ [callback]: () => (begin(), gate) });
    await trainer.start();
    const waiting = trainer.wait();
    const stopping = stop();
    let over = false;
    void stopping.then(() => (over = true));
    plane.emit(type);
    await begun;
    await turn();
    assert.equal(over, false);
    goOn();
    await stopping;
    assert.equal((await waiting).job.status, status);
    assert.equal(plane.requests("/cancel").length, 0);
  });

  test(`a stop is over when ${callback} throws`, async () => {
    const { plane, trainer, stop } = await running({ [callback]: () => Promise.reject(new Error("from the last one")) });
    await trainer.start();
    const waiting = trainer.wait();
    const stopping = stop();
    plane.emit(type);
    await assert.rejects(waiting, /from the last one/);
    await stopping;
    assert.equal(plane.requests("/cancel").length, 0);
  });
}

test("a cancel that is answered during the last callback neither cuts it nor changes how the job ended", async () => {
  let cancelled!: () => void, goOn!: () => void;
  const answered = new Promise<void>((resolve) => (cancelled = resolve));
  const gate = new Promise<void>((resolve) => (goOn = resolve));
  const run = await running({
    onCompleted: async () => {
      await run.trainer.cancel();
      cancelled();
      await gate;
    },
  });
  await run.trainer.start();
  const waiting = run.trainer.wait();
  let over = false;
  const stopping = run.stop().then(() => (over = true));
  run.plane.emit("training.completed");
  await answered;
  await turn();
  assert.equal(over, false);
  goOn();
  await stopping;
  assert.equal((await waiting).job.status, "completed");
});

test("a job that ended while it was being cancelled is no failed stop", async () => {
  const { plane, trainer, stop } = await running();
  await trainer.start();
  const waiting = trainer.wait();
  plane.faults["/cancel"] = [{ status: 409, body: { error: "already at its end" } }];
  const stopping = stop();
  plane.emit("checkpoint.saved", { step: 1 });
  await stopping;
  plane.emit("training.completed");
  assert.equal((await waiting).job.status, "completed");
});

test("a cancel that fails for good is a failed stop", async () => {
  const { plane, trainer, stop } = await running();
  await trainer.start();
  const waiting = trainer.wait();
  plane.faults["/cancel"] = [{ status: 403, body: { error: "not yours" } }];
  const stopping = stop();
  plane.emit("checkpoint.saved", { step: 1 });
  await assert.rejects(stopping, /403: not yours/);
  // The job goes on, and a cancel may succeed later.
  await trainer.cancel();
  assert.equal((await waiting).job.status, "cancelled");
});

test("a cancel is tried again while the control plane is away for a moment", async () => {
  const { plane, trainer, stop } = await running();
  await trainer.start();
  void trainer.wait();
  plane.faults["/cancel"] = ["destroy", { status: 502 }];
  const stopping = stop();
  plane.emit("checkpoint.saved", { step: 1 });
  await stopping;
  assert.equal(plane.requests("/cancel").length, 3);
});

test("when a callback throws, whoever waits for a checkpoint gets the cancel at once", async () => {
  const { plane, trainer, stop } = await running({ onLog: () => { throw new Error("from onLog"); } });
  await trainer.start();
  const waiting = trainer.wait();
  const stopping = stop();
  plane.emit("training.log", { step: 1 });
  await assert.rejects(waiting, /from onLog/);
  await stopping;
  assert.equal(plane.jobs.get("job-1")?.status, "cancelled");
});

test("a run that has no job yet is stopped without one, or with the one that was created unseen", async () => {
  const idle = await running();
  await idle.stop();
  await assert.rejects(idle.trainer.start(), /stopped before it had a job/);
  assert.equal(idle.plane.seen.length, 0);

  const unseen = await running();
  unseen.plane.faults["/v1/jobs"] = Array.from({ length: 50 }, () => "destroy" as const);
  const starting = assert.rejects(unseen.trainer.start(), /stopped before it had a job/);
  while (unseen.plane.seen.length === 0) await turn();
  unseen.plane.faults["/v1/jobs"] = [];
  await unseen.stop();
  await starting;
  const [cancel] = unseen.plane.requests("/v1/jobs/cancel");
  assert.equal(cancel?.query["clientRunId"], unseen.plane.seen[0]?.body.clientRunId);
});
