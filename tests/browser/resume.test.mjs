// A config edit keeps the work: the successor goes on from the checkpoint, and every page says from where and with what.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { until } from "./server.mjs";
import { fits, isAccessible, shot, Stage } from "./stage.mjs";

/** @type {Stage} */
let stage;
/** @type {any} */
let first;
/** @type {any} */
let second;

before(async () => {
  stage = await Stage.set((project) => project.small());
  first = (await until("the first build", () => stage.server.ask("POST", "/api/runs", {}).catch(() => null))).run;
  await until("a checkpoint", async () => (await run(first.id)).lastCheckpoint > 0);
  stage.project.edit("index.ts", (text) => text.replace("learningRate: 0.001", "learningRate: 0.0005"));
  second = await until("a successor that told what it uses", async () => {
    const next = (await stage.server.runs()).find((/** @type {any} */ one) => one.replaces === first.id);
    return next?.resume && next.jobId && next.config?.[0]?.effective !== null && next.config?.[0]?.effective !== undefined && next;
  });
  first = await run(first.id);
});

after(() => stage?.strike());

/** @param {string} id */
const run = async (id) => (await stage.server.ask("GET", `/api/runs/${id}`)).run;

test("the run's page shows each changed key before, in the checkpoint and in effect", async () => {
  const page = await stage.page(`#/runs/${second.id}`);
  const table = page.getByRole("region", { name: "Changed config keys" });
  const row = table.getByRole("row", { name: /^learningRate/ });
  await row.waitFor();
  assert.deepEqual(await row.getByRole("cell").allTextContents(), ["0.001", "0.001", "0.0005"]);
  await page.getByText(`step ${second.resume.step} of job`).waitFor();
  await page.getByRole("region", { name: "Lineage" }).getByText(first.id.slice(-6)).waitFor();
  await isAccessible(page, "a resumed run");
  await shot(page, "run-resumed");
  await page.setViewportSize({ width: 360, height: 740 });
  await fits(page, 360, "a resumed run on a phone");
  assert.equal(await page.getByRole("button", { name: "Newest" }).count(), 0, "a smaller window is no scrolling up");
  await shot(page, "run-resumed-phone");
  await page.context().close();
});

test("the job's chart is one continuous line through the restart, which is marked", async () => {
  const page = await stage.page(`#/jobs/${second.jobId}`);
  const chart = page.getByTestId("chart");
  const { step } = second.resume;
  const range = async () => ((await chart.getAttribute("data-range")) ?? "").split(",").map(Number);
  await until("both jobs' losses", async () => { const [from, to] = await range(); return from !== undefined && to !== undefined && from < step && to > step; });
  const own = await stage.server.ask("GET", `/api/jobs/${second.jobId}/series`);
  assert.ok(own.loss.step[0] > step, `the job's own first step is ${own.loss.step[0]}, behind ${step}`);
  assert.ok(((await range())[0] ?? Infinity) < 40, "the first job's first steps are there");
  const box = await page.locator(".u-over").boundingBox();
  assert.ok(box);
  await until("the mark of the restart", async () => {
    const [from = 0, to = 0] = await range();
    await page.mouse.move(box.x + (box.width * (step - from)) / (to - from), box.y + box.height / 2);
    return (await page.getByTestId("legend").getByText("restarted here").count()) > 0;
  });
  await until("a mark of the first job's checkpoint", async () => {
    const [from = 0, to = 0] = await range();
    await page.mouse.move(box.x + (box.width * (40 - from)) / (to - from), box.y + box.height / 2);
    return (await page.getByTestId("legend").getByText("checkpoint").count()) > 0;
  });
  const lineage = page.getByRole("region", { name: "Lineage" });
  await lineage.getByText(`went on from step ${step.toLocaleString("en-US")}`).waitFor();
  await lineage.getByText("0.0005").first().waitFor();
  await lineage.getByRole("link", { name: new RegExp(first.jobId.slice(-6)) }).waitFor();
  await isAccessible(page, "a resumed job");
  await shot(page, "job-resumed");
  await page.locator(".segments").getByText("Relative time", { exact: true }).click();
  await until("time since the first job began", async () => (await range())[0] === 0);
  await shot(page, "job-resumed-relative");
  await page.context().close();
});

test("the overview tells of it in the card and in the list of saves", async () => {
  const page = await stage.page();
  const card = page.locator(`.run-card[data-run="${second.id}"]`);
  await card.getByText(`goes on from step ${second.resume.step} with`).waitFor();
  await card.getByText("0.0005").first().waitFor();
  await shot(page, "overview-resumed");
  await page.context().close();
});

test("a save shows where its time went, what was decided and why", async () => {
  const page = await stage.page();
  await page.locator(`.run-card[data-run="${second.id}"]`).waitFor();
  stage.project.edit("callbacks.ts", (text) => text.replace("is training", "trains"));
  const save = page.getByTestId("saves").locator("li").first();
  await save.getByText("swapped", { exact: true }).waitFor();
  await save.getByText("only callbacks changed: onStarted").waitFor();
  await save.getByRole("link", { name: second.id.slice(-6) }).waitFor();
  const bars = await save.locator(".times-bar i").evaluateAll((bars) => bars.map((bar) => bar.getBoundingClientRect().width));
  assert.equal(bars.length, 4, "bundle, inspect, dispatch and acknowledgement");
  assert.ok(bars.reduce((sum, width) => sum + width, 0) > 100);
  await shot(page, "overview-saved");
  await page.context().close();
});
