import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { after, test } from "node:test";

import { configHash, sha256 } from "../src/canonical.ts";
import { ControlPlaneServer } from "./control-plane-server.ts";
import { handwritten } from "./handwritten.ts";
import { compiled } from "./places.ts";
import { cleanUp, type Message, moduleFile, RunnerProcess } from "./runner-process.ts";

const servers: ControlPlaneServer[] = [];
after(async () => {
  cleanUp();
  await Promise.all(servers.map((server) => server.close()));
});

async function controlPlane(): Promise<ControlPlaneServer> {
  const plane = await ControlPlaneServer.start();
  servers.push(plane);
  return plane;
}

/** A module that uses the package. */
function withSdk(callbacks = "onLog: ({ step }) => console.log('LOG ' + step)", more = ""): string {
  return moduleFile(`import { createTrainer } from ${JSON.stringify(compiled("index.js"))};
export const trainer = createTrainer({ name: "sdk", model: "m", dataset: { type: "inline" }, callbacks: { ${callbacks} }, ${more} });`);
}

test("a run from ready to finished", async () => {
  const plane = await controlPlane();
  plane.emit("training.log", { step: 1 });
  plane.emit("checkpoint.saved", { step: 1 });
  plane.emit("training.completed");
  const artifact = withSdk();
  const runner = new RunnerProcess(artifact, { env: { ...plane.environment, MIDRUN_RUN_ID: "run-1", TRACEPARENT: "00-a-b-01" } });
  assert.equal(await runner.exited, 0);
  const baseUrl = `http://127.0.0.1:${plane.port}`;
  assert.deepEqual(runner.messages, [
    {
      type: "ready",
      contentHash: sha256(readFileSync(artifact)),
      configHash: configHash({ model: "m", datasetSource: { type: "inline" } }),
      trainer: "sdk",
      canSwap: true,
    },
    { type: "job", id: "job-1", orgSlug: "org", projectSlug: "project", baseUrl },
    { type: "checkpoint", step: 1 },
    { type: "finished", status: "completed" },
  ]);
  assert.deepEqual([runner.stdout, runner.stderr], ["LOG 1\n", ""]);
  assert.equal(plane.seen[0]?.body.clientRunId, "run-1");
});

test("a trainer that was written by hand runs, swaps and stops at its checkpoint", async () => {
  const runner = new RunnerProcess(moduleFile(handwritten()));
  const ready = await runner.message("ready");
  assert.deepEqual([ready["trainer"], ready["canSwap"]], ["hand", true]);
  assert.deepEqual(await runner.message("job"), { type: "job", id: `job-${runner.pid}` });
  await runner.printed("TICK v1");
  runner.swap(moduleFile(handwritten({ tag: "v2" })), "hash-2", { configHash: ready["configHash"], traceparent: "00-1-2-01" });
  const swapped = await runner.message("swapped");
  assert.deepEqual([swapped["contentHash"], swapped["traceparent"]], ["hash-2", "00-1-2-01"]);
  assert.ok(swapped["tookMs"] > 0 && swapped["tookMs"] < 5_000);
  await runner.printed("TICK v2");
  runner.ring("SIGTERM");
  assert.equal(await runner.exited, 0);
  assert.deepEqual(runner.types(), ["ready", "job", "swapped", "earlyStop", "earlyStop", "finished"]);
  assert.deepEqual(runner.messages.slice(-3).map(({ phase, status }) => phase ?? status), ["waiting", "done", "cancelled"]);
  assert.equal(runner.stdout.split("EARLY-STOP-ASKED").length, 2);
  assert.match(runner.stdout, /CHECKPOINT-STOP/);
});

test("the trainer is found in the order of the contract", async () => {
  const offer = (name: string) => `{ ...trainer, name: "${name}" }`;
  const cases: [exports: string, found: string][] = [
    [`export const midrun = { trainer: ${offer("a")} }; export const arkor = { trainer }; export { trainer };`, "a"],
    [`export const arkor = { trainer: ${offer("b")} }; const t = ${offer("x")}; export { t as trainer };`, "b"],
    [`const t = ${offer("c")}; export { t as trainer }; export default trainer;`, "c"],
    [`export default { _kind: "midrun", trainer: ${offer("d")} };`, "d"],
    [`export default ${offer("e")};`, "e"],
    [`export const trainer2 = 1; const t = 5; export { t as trainer }; export default { trainer: ${offer("f")} };`, "f"],
  ];
  for (const [exports, found] of cases) {
    const runner = new RunnerProcess(moduleFile(handwritten({ exports, steps: 1 })));
    assert.equal((await runner.message("ready"))["trainer"], found);
    assert.equal(await runner.exited, 0);
  }
});

test("what cannot run says why and exits with 1", async () => {
  const cases: [text: string, says: RegExp][] = [
    ["export const a = 1;", /no trainer found: the module exports a\. Export one/],
    ["export const trainer = { start() {}, wait() {} };", /the trainer has no cancel\(\)/],
    ["throw new Error('boom at import');", /boom at import[\s\S]*artifact-/],
    ["export const trainer = { start() { throw new Error('no start'); }, wait() {}, cancel() {} };", /no start/],
    ["await new Promise(() => {});", /the import of the trainer can never end/],
    ["export const trainer = { start() {}, wait: () => new Promise(() => {}), cancel() {} };", /wait\(\) can never end/],
    ["export const trainer = { start() {}, wait: async () => ({ job: { id: 'j', status: 'failed', error: 'NaN' } }), cancel() {} };", /job j failed: NaN/],
  ];
  for (const [text, says] of cases) {
    const runner = new RunnerProcess(moduleFile(text));
    assert.equal(await runner.exited, 1, text);
    assert.match(runner.stderr, says);
    const { type, status, reason } = runner.messages.at(-1) as Message;
    assert.deepEqual([type, status], ["finished", "failed"]);
    assert.ok(runner.stderr.includes(reason.replace("the job failed: ", "")), `${reason} is told, and printed`);
  }
});

const SIGNALS = [["SIGTERM", 0, 143], ["SIGINT", 130, 130], ["SIGHUP", 129, 129]] as const;

for (const [signal, stopped, failed] of SIGNALS) {
  test(`${signal} stops after the next checkpoint: exit ${stopped}, or ${failed} when the cancel failed`, async () => {
    for (const [fault, expected, phase] of [[[], stopped, "done"], [[{ status: 403 }], failed, "failed"]] as const) {
      const plane = await controlPlane();
      plane.faults["/cancel"] = [...fault];
      const runner = new RunnerProcess(withSdk(), { env: plane.environment });
      plane.emit("training.log", { step: 1 });
      await runner.printed("LOG 1");
      runner.ring(signal);
      await runner.message("earlyStop");
      // The cancel of a failed stop is for the cancel broker; nothing may end the stop before the checkpoint.
      plane.emit("training.log", { step: 2 });
      await runner.printed("LOG 2");
      plane.emit("checkpoint.saved", { step: 2 });
      assert.equal(await runner.exited, expected);
      assert.deepEqual(runner.all("earlyStop").map(({ phase }) => phase), ["waiting", "cancelling", phase]);
      assert.deepEqual(runner.all("earlyStop")[1]?.["step"], 2, "the checkpoint that was waited for");
      assert.deepEqual(runner.messages.at(-1), { type: "finished", status: phase === "done" ? "cancelled" : "failed" });
      assert.equal(plane.requests("/cancel").length, 1);
    }
  });

  test(`a second signal after ${signal} ends the run at once`, async () => {
    for (const [second, code] of [["SIGTERM", 143], ["SIGINT", 130], ["SIGHUP", 129]] as const) {
      const runner = new RunnerProcess(moduleFile(handwritten({ abilities: ["inspect"], cancel: "await new Promise(() => {});" })));
      await runner.message("job");
      runner.ring(signal);
      await runner.printed("CANCEL-CALLED");
      runner.ring(second);
      assert.equal(await runner.exited, code);
    }
  });
}

test("training that ends by itself during a stop ends with its last callback, however long that takes", async () => {
  const plane = await controlPlane();
  // Longer than a cancelled trainer's wait() may take.
  const save = "onCompleted: async () => { console.log('SAVING'); await new Promise((done) => setTimeout(done, 5_500)); console.log('SAVED'); }";
  const runner = new RunnerProcess(withSdk(`onLog: ({ step }) => console.log('LOG ' + step), ${save}`), { env: plane.environment });
  plane.emit("training.log", { step: 1 });
  await runner.printed("LOG 1");
  runner.ring("SIGTERM");
  await runner.message("earlyStop");
  plane.emit("training.completed");
  assert.equal(await runner.exited, 0);
  assert.equal(runner.stdout, "LOG 1\nSAVING\nSAVED\n");
  assert.deepEqual(runner.all("earlyStop").map(({ phase }) => phase), ["waiting", "done"]);
  assert.deepEqual(runner.messages.at(-1), { type: "finished", status: "completed" });
  assert.equal(plane.requests("/cancel").length, 0);
});

test("a signal before ready is not lost", async () => {
  for (const [signal, code] of SIGNALS) {
    const runner = new RunnerProcess(moduleFile("console.log('IMPORTING'); setInterval(() => {}, 1000); await new Promise(() => {});"));
    await runner.printed("IMPORTING");
    runner.ring("SIGUSR2");
    runner.ring(signal);
    assert.equal(await runner.exited, code);
    assert.deepEqual(runner.messages, [{ type: "earlyStop", phase: "done" }, { type: "finished", status: "cancelled" }]);
  }
});

test("a run that is still being created is stopped too", async () => {
  const plane = await controlPlane();
  plane.faults["/v1/jobs"] = Array.from({ length: 100 }, () => "destroy" as const);
  const runner = new RunnerProcess(withSdk(), { env: { ...plane.environment, MIDRUN_RUN_ID: "run-9" } });
  await runner.message("ready");
  while (plane.seen.length === 0) await new Promise((turn) => setImmediate(turn));
  plane.faults["/v1/jobs"] = [];
  runner.ring("SIGTERM");
  assert.equal(await runner.exited, 0);
  assert.equal(plane.requests("/v1/jobs/cancel")[0]?.query["clientRunId"], "run-9");
});

test("without a checkpoint in time the job is cancelled", async () => {
  const plane = await controlPlane();
  const env = { ...plane.environment, MIDRUN_EARLY_STOP_TIMEOUT_MS: "80" };
  const artifacts = [withSdk(), moduleFile(handwritten().replaceAll("resolveStop()", "0").replaceAll("asked &&", "false &&"))];
  for (const artifact of artifacts) {
    const runner = new RunnerProcess(artifact, { env });
    await runner.message("job");
    runner.ring("SIGTERM");
    assert.equal(await runner.exited, 0);
    assert.deepEqual(runner.all("earlyStop").map(({ phase }) => phase), ["waiting", "cancelling", "done"]);
    assert.equal(runner.all("earlyStop")[1]?.["step"], undefined);
  }
});

test("a trainer without abilities is cancelled instead of stopped, and never swapped", async () => {
  const runner = new RunnerProcess(moduleFile(handwritten({ abilities: [] })));
  const ready = await runner.message("ready");
  assert.deepEqual([ready["configHash"], ready["canSwap"]], [null, false]);
  runner.swap(moduleFile(handwritten({ tag: "v2" })), "hash-2");
  assert.match((await runner.message("swapSkipped"))["reason"], /cannot take new callbacks/);
  runner.ring("SIGTERM");
  assert.equal(await runner.exited, 0);
  assert.match(runner.stdout, /CANCEL-CALLED/);
});

test("a throw in a callback ends the run with 1 and leaves no job behind", async () => {
  const plane = await controlPlane();
  plane.emit("training.log", { step: 1 });
  const runner = new RunnerProcess(withSdk("onLog: () => { throw new RangeError('from onLog'); }"), { env: plane.environment });
  assert.equal(await runner.exited, 1);
  assert.match(runner.stderr, /RangeError: from onLog[\s\S]*artifact-/);
  assert.equal(plane.jobs.get("job-1")?.status, "cancelled");
});

/** A run that is told to go on from step 40 of job-0. */
function resumed(plane: ControlPlaneServer, more = "learningRate: 0.0003, warmupSteps: undefined"): RunnerProcess {
  return new RunnerProcess(withSdk("onLog: ({ step }) => console.log('LOG ' + step)", more), {
    env: { ...plane.environment, MIDRUN_RUN_ID: "run-1", MIDRUN_RESUME_FROM: "job-0:40" },
  });
}

const DECLARED = { resumedFrom: 40, resumableKeys: ["learningRate"], config: { model: "m", learningRate: 0.0003, warmupSteps: 0 } };

test("a run goes on from a checkpoint, and its host is told what the executor says", async () => {
  const plane = await controlPlane();
  plane.emit("training.started", { ...DECLARED, config: { ...DECLARED.config, long: "x".repeat(5000) }, model: "m", examples: 3 });
  plane.emit("training.log", { step: 41 });
  plane.emit("training.completed");
  const runner = resumed(plane);
  assert.equal(await runner.exited, 0);
  assert.deepEqual(plane.requests("/v1/jobs")[0]?.body.resumeFrom, { jobId: "job-0", step: 40 });
  assert.deepEqual(await runner.message("training"), { type: "training", ...DECLARED });
  assert.equal(runner.stdout, "LOG 41\n");
});

test("an executor that says nothing of checkpoints is taken at its word", async () => {
  const plane = await controlPlane();
  plane.emit("training.started");
  plane.emit("training.completed");
  const runner = resumed(plane);
  assert.equal(await runner.exited, 0);
  assert.deepEqual(await runner.message("training"), { type: "training" });
});

test("an executor that ignores the checkpoint, or an edited key, fails the run and its job is cancelled", async () => {
  const cases: [said: object, reason: RegExp][] = [
    [{ ...DECLARED, resumedFrom: undefined }, /^the executor was to go on from step 40 of job job-0 and started from scratch$/],
    [{ ...DECLARED, resumedFrom: 20 }, /and went on from step 20$/],
    [
      { ...DECLARED, config: { ...DECLARED.config, learningRate: 0.001 } },
      /^the executor ignores config.learningRate when it goes on from step 40 of job job-0: asked for 0.0003, it uses 0.001\./,
    ],
  ];
  for (const [said, reason] of cases) {
    const plane = await controlPlane();
    plane.emit("training.started", said);
    plane.emit("training.log", { step: 1 });
    const runner = resumed(plane);
    assert.equal(await runner.exited, 1);
    const finished = await runner.message("finished");
    assert.equal(finished["status"], "failed");
    assert.match(finished["reason"], reason);
    assert.equal(runner.stdout, "", "no callback is called for what was not asked for");
    assert.equal(plane.jobs.get("job-1")?.status, "cancelled");
  }
});

test("a checkpoint that is gone fails the run, which says so", async () => {
  const plane = await controlPlane();
  plane.faults["/v1/jobs"] = [{ status: 404, body: { error: "job job-0 has no checkpoint at step 40; it has: []" } }];
  const runner = resumed(plane);
  assert.equal(await runner.exited, 1);
  assert.match((await runner.message("finished"))["reason"], /^cannot go on from step 40 of job job-0: .*404.*has no checkpoint at step 40/);
  assert.match(runner.stderr, /cannot go on from step 40 of job job-0/);
  assert.equal(plane.jobs.size, 0);
});

test("a job that failed gives its reason", async () => {
  const plane = await controlPlane();
  plane.emit("training.failed", { error: "cannot go on from the checkpoint, because model differ\nand more" });
  const runner = resumed(plane);
  assert.equal(await runner.exited, 1);
  const reason = "the job failed: cannot go on from the checkpoint, because model differ";
  assert.deepEqual(await runner.message("finished"), { type: "finished", status: "failed", reason });
});

test("training goes on without its host", async () => {
  const runner = new RunnerProcess(moduleFile(handwritten({ steps: 40 })));
  await runner.message("job");
  runner.channel.destroy();
  assert.equal(await runner.exited, 0);
  assert.match(runner.stdout, /TICK v1 40/);
});

test("children of the trainer get neither the socket nor its number", async () => {
  const before = `import { execFileSync } from "node:child_process";
import { readlinkSync } from "node:fs";
const look = \`const fs = require("node:fs");
for (const fd of fs.readdirSync("/proc/self/fd")) { try { console.log(fs.readlinkSync("/proc/self/fd/" + fd)); } catch {} }
console.log("number " + process.env.MIDRUN_CONTROL_FD);\`;
const own = readlinkSync("/proc/self/fd/3");
const seen = execFileSync(process.execPath, ["-e", look], { encoding: "utf8" });
console.log("SEEN " + JSON.stringify({ own, seen: seen.trim().split("\\n") }));`;
  const runner = new RunnerProcess(moduleFile(handwritten({ before, steps: 1 })));
  assert.equal(await runner.exited, 0);
  const { own, seen } = JSON.parse(/SEEN (.*)/.exec(runner.stdout)?.[1] ?? "") as { own: string; seen: string[] };
  assert.match(own, /^socket:/);
  assert.ok(seen.length >= 3 && !seen.includes(own), `${own} in ${seen}`);
  assert.equal(seen.at(-1), "number undefined");
});

test("what the trainer prints is all there is on stdout, byte for byte", async () => {
  const before = `const line = "0123456789abcdef".repeat(64) + "\\n";
for (let count = 0; count < 20_000; count += 1) process.stdout.write(line);`;
  const runner = new RunnerProcess(moduleFile(handwritten({ before, steps: 3 })));
  assert.equal(await runner.exited, 0);
  const line = `${"0123456789abcdef".repeat(64)}\n`;
  assert.equal(sha256(runner.stdout), sha256(line.repeat(20_000)));
  assert.equal(runner.stderr, "");
});

test("without a host: the job is named, the same signals are obeyed", async () => {
  const artifact = moduleFile(handwritten());
  const runner = new RunnerProcess(artifact, { alone: true });
  await runner.printed(`Started job job-${runner.pid}`);
  runner.ring();
  writeFileSync(artifact, handwritten({ tag: "v2" }));
  runner.ring();
  await runner.printed("TICK v2");
  runner.ring("SIGINT");
  assert.equal(await runner.exited, 130);
  assert.equal(runner.stdout.split("REPLACED").length, 2);
  assert.match(runner.stderr, /stopping at the next checkpoint; once more stops at once/);
});
