// A job's page and the playground, over a real training.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { until } from "./server.mjs";
import { isAccessible, saved, shot, Stage } from "./stage.mjs";

/** @type {Stage} */
let stage;
/** @type {import("playwright-core").Page} */
let page;
/** @type {string} */
let job;

before(async () => {
  stage = await Stage.set((project) => project.long());
  const { run } = await until("the first build", () => stage.server.ask("POST", "/api/runs", {}).catch(() => null));
  page = await stage.page(`#/runs/${run.id}`);
  job = await until("a job", async () => (await stage.server.ask("GET", `/api/runs/${run.id}`)).run.jobId);
});

after(() => stage?.strike());

const chart = () => page.getByTestId("chart");
const points = async () => Number(await chart().getAttribute("data-points"));
const zoom = () => chart().getAttribute("data-zoom");

test("a job's page is reached from its run, and waits for the first losses", async () => {
  await page.getByRole("link", { name: job.slice(-6) }).first().click();
  await page.getByRole("heading", { name: "adder" }).waitFor();
  assert.ok(page.url().endsWith(`#/jobs/${job}`));
  await chart().waitFor();
  await page.locator(".page-head").getByText("running").waitFor();
  const before = await points();
  await until("more points", async () => (await points()) > before);
});

test("hovering names the step and what is there; checkpoints are marked", async () => {
  await until("an eval loss and a checkpoint", async () => /eval loss.*checkpoints/.test((await chart().getAttribute("aria-label")) ?? ""));
  const box = await page.locator(".u-over").boundingBox();
  assert.ok(box);
  const seen = new Set();
  // The run trains on, so a mark may pass the mouse between two looks, which are narrower apart than what it reaches.
  await until("both under the mouse", async () => {
    for (let left = 4; left < box.width && seen.size < 2; left += 4) {
      await page.mouse.move(box.x + left, box.y + box.height / 2);
      const text = (await page.getByTestId("legend").textContent()) ?? "";
      assert.match(text, /step [\d,]+/);
      for (const word of ["eval loss", "checkpoint"]) if (text.includes(word)) seen.add(word);
    }
    return seen.size === 2;
  });
  assert.equal(await page.getByTestId("legend").getAttribute("data-hover"), "on");
  await shot(page, "job-training");
});

test("a zoom survives what comes live, and a double click ends it", async () => {
  const box = await page.locator(".u-over").boundingBox();
  assert.ok(box);
  await page.mouse.move(box.x + box.width * 0.2, box.y + 60);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.6, box.y + 60, { steps: 5 });
  await page.mouse.up();
  const zoomed = await until("a zoom", zoom);
  const count = async () => Number(/of ([\d,]+) points/.exec((await chart().getAttribute("aria-label")) ?? "")?.[1]?.replaceAll(",", ""));
  const before = await count();
  await until("more points", async () => (await count()) > before + 2);
  assert.equal(await zoom(), zoomed);
  await shot(page, "job-zoomed");
  await page.mouse.dblclick(box.x + box.width / 2, box.y + 60);
  await until("the whole", async () => (await zoom()) === "");
  await chart().focus();
  await page.keyboard.press("+");
  await until("a zoom by key", zoom);
  await page.keyboard.press("0");
  await until("the whole", async () => (await zoom()) === "");
});

test("smoothing, a logarithmic scale and every axis draw", async () => {
  const picture = async () => (await chart().screenshot()).toString("base64");
  let before = await picture();
  const changes = async (/** @type {string} */ what) => {
    before = String(await until(what, async () => { const now = await picture(); return now !== before && now; }));
  };
  await page.getByLabel("Smoothing").fill("0.8");
  await changes("smoothing");
  await page.mouse.move(0, 0);
  await page.getByLabel("Log scale").check();
  await changes("a log scale");
  for (const axis of ["Relative time", "Wall time", "Step"]) {
    await page.locator(".segments").getByText(axis, { exact: true }).click();
    await changes(axis);
  }
  await shot(page, "job-smoothed-log");
  await page.getByLabel("Log scale").uncheck();
  await page.getByLabel("Smoothing").fill("0");
});

test("Advanced shows figures over all points, and the CSV has all of them", async () => {
  await page.getByLabel("Advanced").check();
  const row = page.getByTestId("statistics").getByRole("row", { name: /^loss/ });
  await row.waitFor();
  assert.match((await row.textContent()) ?? "", /±/);
  await page.getByTestId("statistics").getByRole("row", { name: /^eval loss/ }).waitFor();
  const file = await saved(page, () => page.getByRole("button", { name: "CSV" }).click());
  assert.equal(file.name, `job-${job}.csv`);
  const lines = file.text.trim().split("\n");
  assert.equal(lines[0], "series,step,timestamp,value");
  const losses = lines.filter((line) => line.startsWith("loss,")).map((line) => Number(line.split(",")[3]));
  const told = await stage.server.ask("GET", `/api/jobs/${job}/series?statistics=true`);
  assert.ok(losses.length > 5 && losses.length <= told.statistics.loss.count);
  const share = told.loss.value.slice(0, losses.length);
  assert.deepEqual(losses, share);
  await isAccessible(page, "a job's page");
});

test("the event log is by columns, the newest first", async () => {
  const rows = page.locator(".event-rows .event-row");
  const events = page.getByTestId("events");
  await events.evaluate((element) => { element.scrollTop = 0; });
  const first = rows.first();
  assert.match((await first.textContent()) ?? "", /^\d\d:\d\d:\d\d(training\.log|checkpoint\.saved)/);
  assert.ok((await rows.count()) < 60, "only rows in sight are in the document");
});

test("the playground asks a checkpoint while it trains, two side by side, and stops", async () => {
  await page.getByRole("link", { name: /^Try it: checkpoint/ }).first().click();
  await page.getByRole("heading", { name: "Playground" }).waitFor();
  await page.getByLabel("Model").getByRole("option", { name: /Checkpoint at step/ }).first().waitFor({ state: "attached" });
  await page.getByLabel("Prompt").fill("27+15=");
  await page.getByLabel("Most tokens").fill("4");
  const answers = page.getByTestId("answer");
  /** The steps that were asked. @type {string[]} */
  const asked = [];
  page.on("request", (request) => { if (request.url().endsWith("/api/inference/chat")) asked.push(String(request.postDataJSON().adapter.step)); });
  /** Presses the button; what the answers held before is gone when this returns. @param {number} sides */
  const ask = async (sides) => {
    const before = asked.length;
    await page.getByRole("button", { name: "Ask" }).click();
    await until("the question to be sent", async () => asked.length === before + sides);
  };
  /** What the model of an early checkpoint says is anything of at most four tokens, or nothing. @param {number} place */
  const answered = async (place) => {
    const answer = answers.nth(place);
    await answer.and(page.locator('[aria-busy="false"]')).waitFor();
    const { said, below } = await answer.evaluate((element) => ({ said: element.querySelector("pre")?.textContent ?? "", below: element.querySelector("p")?.textContent ?? "" }));
    assert.match(said, /^[\d+=]{0,4}$/);
    assert.match(below, said === "" ? /^The model said nothing\. [\d.]+ m?s$/ : /^[\d.]+ m?s$/);
  };
  await ask(1);
  await answered(0);
  await page.getByRole("button", { name: "Side by side" }).click();
  const models = page.getByLabel("Model");
  const [left = "", right = ""] = await until("two checkpoints", async () => {
    const values = await models.nth(1).getByRole("option").evaluateAll((options) => options.map((option) => /** @type {HTMLOptionElement} */ (option).value));
    const steps = [...new Set(values)].filter((value) => /^\d+$/.test(value));
    return steps.length >= 2 ? steps : null;
  });
  await models.nth(0).selectOption(left);
  await models.nth(1).selectOption(right);
  await ask(2);
  for (const place of [0, 1]) await answered(place);
  assert.deepEqual(asked.slice(1).sort(), [left, right].sort(), "each side asks its own checkpoint");
  await isAccessible(page, "the playground");
  await shot(page, "playground-two");
});

test("Cancel is pressed twice, and the page says that the job is cancelled", async () => {
  await page.goto(`${stage.server.url}/#/jobs/${job}`);
  const again = page.getByRole("button", { name: "Press again to cancel" });
  // The first press is forgotten after a few seconds.
  await until("the second press", async () => {
    await page.getByRole("button", { name: "Cancel", exact: true }).click({ timeout: 2000 }).catch(() => {});
    return again.click({ timeout: 2000 }).then(() => true, () => false);
  });
  await page.locator(".page-head").getByText("cancelled").waitFor();
  await page.getByRole("button", { name: /ancel/ }).waitFor({ state: "detached" });
  await page.locator(".event-row.training-cancelled").first().waitFor();
  await shot(page, "job-cancelled");
});
