// Runs as a person handles them: waiting, called off, stopped, swapped or not, many at once. Trainings are played by
// script.

import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { until } from "./server.mjs";
import { isAccessible, shot, Stage } from "./stage.mjs";

/** @type {Stage} */
let stage;
/** @type {import("playwright-core").Page} */
let page;
/** @param {string} name */
const gate = (name) => join(stage.project.home, name);
/** @param {string} name */
const open = (name) => writeFileSync(gate(name), "");
/** @param {number} step */
const log = (step) => ["emit", { type: "training.log", step, loss: 1 / step }];

// As NVIDIA's own program answers, while nothing is wrong with its driver.
const NVIDIA_SMI = `#!/bin/sh
if [ -e "$HOME/no-driver" ]; then echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18; fi
case "$1" in
  --query-gpu*) echo "0, GPU-a, NVIDIA H200, 37, 2048, 143771" ;;
  *) cat "$HOME/users" 2>/dev/null ;;
esac
`;

const CALLBACKS = `import { createTrainer } from "midrun";
export const trainer = createTrainer({
  name: "swapping", model: "scripted", dataset: { type: "none" }, extra: { script: [["hold"]] },
  callbacks: { onLog: () => console.log("first") },
});
`;

before(async () => {
  stage = await Stage.set((project) => {
    const gate = (/** @type {string} */ name) => ["await", join(project.home, name)];
    project.script({
      index: [log(1), ["hold"]],
      waiting: [log(1), ["checkpoint", 1], gate("waiting"), log(2), ["checkpoint", 2], ["hold"]],
      older: [log(1), ["checkpoint", 1], gate("older"), log(2), ["checkpoint", 2], ["hold"]],
      newer: [log(1), ["checkpoint", 1], gate("newer"), log(2), ["checkpoint", 2], ["hold"]],
    });
    writeFileSync(join(project.dir, "src/midrun/swapping.ts"), CALLBACKS);
    const programs = join(project.home, "bin");
    mkdirSync(programs);
    writeFileSync(join(programs, "nvidia-smi"), NVIDIA_SMI, { mode: 0o755 });
    project.environment = { PATH: `${programs}:${process.env["PATH"]}` };
  });
  page = await stage.page();
});

after(() => stage?.strike());

/** The run that `name` was started as, once it trains, and has told of its checkpoint. @param {string} name @param {number | null} checkpoint */
async function train(name, checkpoint = 1) {
  const job = await stage.server.train(name);
  const is = (/** @type {any} */ run) => run.jobId === job && run.status === "running" && (run.lastCheckpoint ?? null) === checkpoint;
  return until(`${name} training`, async () => (await stage.server.runs()).find(is));
}
/** @param {string} id */
const shown = async (id) => (await stage.server.ask("GET", `/api/runs/${id}`)).run;
/** @param {string} id @param {import("playwright-core").Page} [on] */
const card = (id, on = page) => on.locator(`.run-card[data-run="${id}"]`);
/** @param {string} id */
const stopped = async (id) => {
  await stage.server.ask("POST", `/api/runs/${id}/stop`, { mode: "now", reason: "the test is over" });
  await until("the run's end", async () => (await shown(id)).status === "exited");
};

test("a key that is held starts one run", async () => {
  let starts = 0;
  page.on("request", (request) => { if (request.method() === "POST" && request.url().endsWith("/api/runs")) starts += 1; });
  await page.getByRole("button", { name: "Run training: index" }).waitFor();
  await page.keyboard.down("r");
  await page.locator(".run-card[data-status=running]").waitFor();
  await page.locator("[data-testid=run]:enabled").waitFor();
  for (let repeat = 0; repeat < 5; repeat++) await page.keyboard.down("r");
  await page.keyboard.up("r");
  await page.keyboard.press("?");
  await page.getByRole("dialog").waitFor();
  assert.equal(starts, 1);
  await page.keyboard.press("Escape");
  const [run] = await stage.server.runs();
  await stopped(run.id);
});

test("a restart that waits for a good build is shown with its difference, and can be called off", async () => {
  const run = await train("waiting");
  await card(run.id).waitFor();
  stage.project.edit("waiting.ts", (text) => text.replace('"model":"scripted"', '"model":"scripted-b"'));
  await card(run.id).getByText("Stopping at next checkpoint").waitFor();
  await card(run.id).locator(".changes").getByText("scripted-b").waitFor();
  stage.project.edit("waiting.ts", (text) => `${text}\nexport const broken = (;\n`);
  await page.getByTestId("saves").getByText("Build failed").first().waitFor();
  const read = page.waitForResponse(async (answer) => answer.url().endsWith("/api/runs") && (await answer.text()).includes('"restarting"'));
  open("waiting");
  await read;
  await page.locator(`.run-card[data-run="${run.id}"][data-status="restarting"]`).waitFor();
  assert.notEqual((await shown(run.id)).endedAt, null);
  for (const reload of [false, true]) {
    if (reload) await page.reload();
    await card(run.id).getByText("Restarting", { exact: true }).waitFor();
    await card(run.id).getByText("restarts with").waitFor();
    await card(run.id).locator(".changes").getByText("scripted-b").waitFor();
    await card(run.id).getByText(/waits for/).waitFor();
  }
  assert.equal(await page.locator(".run-list").getByText(run.id.slice(-6)).count(), 0, "it is not over");
  await isAccessible(page, "a restart that waits");
  await shot(page, "overview-restart-waits");
  await card(run.id).getByRole("button", { name: "Do not restart" }).click();
  await card(run.id).waitFor({ state: "detached" });
  await page.locator(".run-list li").filter({ hasText: run.id.slice(-6) }).getByText("Stopped").waitFor();
});

test("a run is stopped at its next checkpoint by its own page's button, and by the key on that page", async () => {
  const older = await train("older");
  const newer = await train("newer");
  const other = await stage.page(`#/runs/${older.id}`);
  const state = other.locator(".page-head .pill").first();
  await state.getByText(/^Training/).waitFor();
  await other.keyboard.press("s");
  await state.getByText("Stopping at next checkpoint").waitFor();
  assert.equal((await shown(newer.id)).status, "running", "the newest run is another one");
  open("older");
  await state.getByText("Stopped").waitFor();
  await other.keyboard.press("s");
  await other.getByText("This run is not training").waitFor();
  assert.equal((await shown(newer.id)).status, "running");
  await other.goto(`${stage.server.url}/#/runs/${newer.id}`);
  await other.getByRole("button", { name: "Stop at checkpoint" }).click();
  await state.getByText("Stopping at next checkpoint").waitFor();
  open("newer");
  await state.getByText("Stopped").waitFor();
  for (const run of [older, newer]) assert.equal((await shown(run.id)).endedBy, "user");
  await other.goto(`${stage.server.url}/#/jobs`);
  await other.getByRole("radio", { name: "Cancelled" }).click();
  await other.locator(`[data-job="${newer.jobId}"]`).getByText("cancelled").waitFor();
  for (const status of await other.locator("[data-job] .pill").allTextContents()) assert.equal(status, "cancelled");
  await other.context().close();
});

test("a run's page shows the GPUs, or why there is nothing to show", async () => {
  const run = await train("swapping", null);
  writeFileSync(gate("users"), `${run.pid}, GPU-a, 512\n`);
  const other = await stage.page(`#/runs/${run.id}`);
  const gpu = other.locator(".gpus li");
  await gpu.getByText("NVIDIA H200").waitFor();
  await gpu.getByText("37 %").waitFor();
  await gpu.getByText("2.0 GiB of 140 GiB, this run 512 MiB").waitFor();
  await isAccessible(other, "a run with a GPU");
  await shot(other, "run-gpu");
  open("no-driver");
  await other.getByText("No GPU figures: nvidia-smi failed: Failed to initialize NVML: Driver/library version mismatch.").waitFor();
  assert.equal(await gpu.count(), 0);
  await other.context().close();
});

test("a hot swap is told to those who want no motion, too", async () => {
  const [run] = await stage.server.runs();
  const other = await stage.page("#/", { reducedMotion: "reduce" });
  await card(run.id, other).waitFor();
  stage.project.edit("swapping.ts", (text) => text.replace("first", "second"));
  const note = other.getByTestId("swapped");
  await note.waitFor();
  assert.equal(await note.evaluate((element) => getComputedStyle(element).opacity), "1");
  await other.context().close();
});

test("a page that may keep nothing goes on with its one stream", async () => {
  const [run] = await stage.server.runs();
  const other = await stage.page();
  await other.addInitScript(() => {
    Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); };
  });
  await other.goto("about:blank");
  /** @type {string[]} */
  const streams = [];
  other.on("request", (request) => { if (request.url().includes("/api/events")) streams.push(request.url()); });
  await other.goto(`${stage.server.url}/#/`);
  await card(run.id, other).waitFor();
  await other.getByTestId("link").getByText("Live").waitFor();
  await other.locator(".log-panel").getByText("started, process").waitFor();
  stage.project.edit("swapping.ts", (text) => text.replace("second", "third"));
  await other.getByTestId("saves").locator(".pill", { hasText: /^swapped$/ }).first().waitFor();
  await other.getByTestId("swapped").waitFor();
  assert.ok(streams.length > 0);
  assert.deepEqual(streams, [...new Set(streams)], "none is opened again for the same topics");
  await other.context().close();
});

test("a swap that the runner refuses says so, and why", async () => {
  const [run] = await stage.server.runs();
  stage.project.edit("swapping.ts", (text) => `${text.replace("third", "fourth")}if (process.env["MIDRUN_RUN_ID"]) throw new Error("not in a run");\n`);
  await card(run.id).getByText(/^Not swapped: .*not in a run/).waitFor();
  const save = page.getByTestId("saves").locator("li").first();
  await save.getByText("not swapped", { exact: true }).waitFor();
  await save.getByText(/not in a run/).waitFor();
  assert.equal((await shown(run.id)).status, "running");
  await isAccessible(page, "a swap that was refused");
  await shot(page, "overview-not-swapped");
  await stopped(run.id);
});

test("a tab that is opened in the background takes no connection until it is looked at", async () => {
  const other = await stage.page();
  await other.addInitScript(() => {
    let hidden = true;
    Object.defineProperty(document, "hidden", { get: () => hidden });
    Object.assign(globalThis, { lookAtIt: () => { hidden = false; document.dispatchEvent(new Event("visibilitychange")); } });
  });
  await other.goto("about:blank");
  let streams = 0;
  other.on("request", (request) => { if (request.url().includes("/api/events")) streams += 1; });
  await other.goto(`${stage.server.url}/#/`);
  await other.getByTestId("run").waitFor();
  await other.waitForFunction(() => performance.now() > 1000);
  assert.equal(streams, 0);
  await other.evaluate(() => /** @type {any} */ (globalThis).lookAtIt());
  await other.getByTestId("link").getByText("Live").waitFor();
  await other.getByRole("button", { name: "Run training: index" }).waitFor();
  await other.context().close();
});

test("forty live runs are shown, the first of them with their jobs' numbers", async () => {
  const other = await stage.page();
  const [known] = await stage.server.runs();
  const runs = Array.from({ length: 40 }, (_, place) => ({
    ...known, id: `r${String(place).padStart(14, "0")}`, jobId: `job-${place}`, status: "running", pid: 4_000_000 + place, endedAt: null, endedBy: null, exitCode: null, reason: null,
  }));
  await other.route("**/api/runs", (route) => route.fulfill({ json: { runs } }));
  await other.route("**/api/jobs/job-*", (route) => {
    const id = /job-\d+/.exec(route.request().url())?.[0];
    return route.fulfill({ json: { job: { id, name: id, status: "running", error: null, createdAt: known.startedAt, startedAt: known.startedAt, completedAt: null }, events: [{ id: 1, type: "training.log", jobId: id, timestamp: known.startedAt, step: 7, loss: 0.5 }] } });
  });
  /** @type {number[]} */
  const answers = [];
  let topics = 0;
  other.on("response", (answer) => {
    const { pathname, searchParams } = new URL(answer.url());
    if (pathname !== "/api/events") return;
    answers.push(answer.status());
    topics = (searchParams.get("topics") ?? "").split(",").filter((topic) => topic.startsWith("job:")).length;
  });
  await other.reload();
  await until("forty cards", async () => (await other.locator(".run-card").count()) === 40);
  await until("the jobs' topics", async () => topics > 0 && answers.at(-1) !== undefined && topics >= 24);
  assert.deepEqual([topics, [...new Set(answers)]], [24, [200]]);
  await other.getByTestId("link").getByText("Live").waitFor();
  await until("steps of the first", async () => (await other.getByText("Training at step 7").count()) === 24);
  await other.context().close();
});

test("where restarts are off, a save says that it would restart", async () => {
  const calm = await Stage.set((project) => {
    project.script({ index: [log(1), ["hold"]] });
    project.environment = { MIDRUN_RUN__HOT_ONLY: "true" };
  });
  try {
    const other = await calm.page();
    await other.getByTestId("run").and(other.locator(":enabled")).click();
    await other.locator(".run-card[data-status=running]").getByText("Training at step 1").waitFor();
    calm.project.edit("index.ts", (text) => text.replace('"model":"scripted"', '"model":"scripted-b"'));
    const save = other.getByTestId("saves").locator("li").first();
    await save.getByText("would restart", { exact: true }).waitFor();
    await save.getByText(/scripted-b/).first().waitFor();
    assert.equal((await calm.server.runs())[0].status, "running");
  } finally {
    await calm.strike();
  }
});
