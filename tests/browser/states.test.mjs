// States that come seldom: failures, waiting, an absent server, a foreign token. Trainings are played by script.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { until } from "./server.mjs";
import { isAccessible, shot, Stage } from "./stage.mjs";

/** Together more than the page keeps of a log. */
const [LINES, MORE_LINES] = [48_000, 4_000];

/** @type {Stage} */
let stage;
/** @type {import("playwright-core").Page} */
let page;
/** @param {string} name */
const gate = (name) => join(stage.project.home, name);
/** @param {string} name */
const open = (name) => writeFileSync(gate(name), "");
/** @param {number} step @param {object} more */
const log = (step, more) => ["emit", { type: "training.log", step, ...more }];

before(async () => {
  stage = await Stage.set((project) => {
    const gate = (/** @type {string} */ name) => ["await", join(project.home, name)];
    project.script({
      quiet: [gate("quiet"), log(1, { evalLoss: 2.5 }), gate("quiet2"), log(2, { evalLoss: 2.25 }), gate("quiet3"), ["emit", { type: "training.completed", metrics: { accuracy: 0.5 } }]],
      failing: [log(1, { loss: 1 }), ["emit", { type: "training.failed", error: "CUDA out of memory: 12 GiB asked for, 11 there" }]],
      done: [
        log(1, { loss: 1 }), ["checkpoint", 4], log(9, { loss: 0.5 }), ["checkpoint", 9],
        ["emit", { type: "training.completed", artifacts: [{ kind: "final" }], metrics: { accuracy: 0.75 } }],
      ],
      holding: [log(1, { loss: 1 }), ["checkpoint", 1], gate("holding"), log(2, { loss: 0.5 }), ["hold"]],
      second: [["hold"]],
      third: [["hold"]],
      chatty: [log(1, { loss: 1 }), gate("chatty"), log(2, { loss: 1 }), ["hold"]],
    });
    // More lines than the page keeps, in two parts.
    const chatty = join(project.dir, "src/midrun/chatty.ts");
    const onLog = `({ step }) => { for (let n = 1; n <= (step === 1 ? ${LINES} : ${MORE_LINES}); n++) console.log(\`line \${n} of part \${step}\`); }`;
    writeFileSync(chatty, readFileSync(chatty, "utf8").replace("createTrainer({", `createTrainer({callbacks: { onLog: ${onLog} },`));
  });
  page = await stage.page("#/jobs");
});

after(() => stage?.strike());

test("no jobs yet", async () => {
  await page.getByText("No jobs yet").waitFor();
  await isAccessible(page, "an empty list");
  await shot(page, "jobs-none");
});

test("a job that says nothing waits, and shows an evaluation without a loss", async () => {
  const job = await stage.server.train("quiet");
  await page.locator(`[data-job="${job}"]`).getByText("running").waitFor();
  const other = await stage.page(`#/jobs/${job}`);
  await other.getByText("Waiting for training.log events…").waitFor();
  await shot(other, "job-waiting");
  open("quiet");
  await other.getByTestId("chart").waitFor();
  await other.getByTestId("legend").getByText("eval loss").waitFor();
  assert.equal(await other.getByTestId("chart").getAttribute("data-points"), "1");
  await other.getByLabel("Advanced").check();
  const counted = other.getByTestId("statistics").getByRole("row", { name: /^eval loss/ }).getByRole("cell").first();
  await counted.getByText("1", { exact: true }).waitFor();
  open("quiet2");
  await until("two points", async () => (await other.getByTestId("chart").getAttribute("data-points")) === "2");
  open("quiet3");
  await other.locator(".page-head").getByText("completed").waitFor();
  await other.getByRole("region", { name: "Artifacts" }).getByText("accuracy").waitFor();
  await counted.getByText("2", { exact: true }).waitFor();
  await other.route("**/points", (route) => route.fulfill({ status: 503, json: { error: "the control plane is busy" } }));
  await other.getByRole("button", { name: "CSV" }).click();
  await other.getByText("The points cannot be read: the control plane is busy").waitFor();
  await page.locator(`[data-job="${job}"]`).getByText("completed").waitFor();
  await other.context().close();
});

test("a failed job says why, in red", async () => {
  const job = await stage.server.train("failing");
  const other = await stage.page(`#/jobs/${job}`);
  await other.getByRole("alert").getByText("CUDA out of memory").waitFor();
  await other.locator(".page-head").getByText("failed").waitFor();
  await isAccessible(other, "a failed job");
  await shot(other, "job-failed");
  await other.context().close();
});

test("a job that trained to its end has its final model asked, and two of its checkpoints side by side", async () => {
  const job = await stage.server.train("done");
  const other = await stage.page(`#/jobs/${job}`);
  /** What the page asked for. @type {any[]} */
  const adapters = [];
  other.on("request", (request) => { if (request.url().endsWith("/api/inference/chat")) adapters.push(request.postDataJSON().adapter); });
  await other.locator(".page-head").getByText("completed").waitFor();
  const artifacts = other.getByRole("region", { name: "Artifacts" });
  await artifacts.getByText("2 checkpoints").waitFor();
  await artifacts.getByText("0.75").waitFor();
  const box = await other.locator(".u-over").boundingBox();
  assert.ok(box);
  await until("the mark of a checkpoint between two points", async () => {
    // Step 4 of 1 to 9; losses are at both ends only.
    await other.mouse.move(box.x + (box.width * 3) / 8 + 2, box.y + box.height / 2);
    return (await other.getByTestId("legend").getByText("checkpoint 4").count()) > 0;
  });
  await artifacts.getByRole("link", { name: "Try it: final model" }).click();
  const model = other.getByLabel("Model");
  await model.getByRole("option", { name: "Final model" }).waitFor({ state: "attached" });
  assert.equal(await model.inputValue(), "final");
  await other.getByLabel("Prompt").fill("2+2=");
  await other.getByRole("button", { name: "Ask" }).click();
  const answers = other.getByTestId("answer");
  await answers.getByText(`${job} at 9|2+2=`).waitFor();
  await answers.getByText(/\d+ ms|[\d.]+ s$/).waitFor();
  assert.deepEqual(adapters.splice(0), [{ kind: "final", jobId: job }]);

  await other.getByRole("button", { name: "Side by side" }).click();
  await other.getByLabel("Model").nth(0).selectOption({ label: "Checkpoint at step 4" });
  await other.getByLabel("Model").nth(1).selectOption({ label: "Checkpoint at step 9" });
  await other.getByRole("button", { name: "Ask" }).click();
  for (const [place, step] of [4, 9].entries()) await answers.nth(place).getByText(`${job} at ${step}|2+2=`).waitFor();
  adapters.sort((a, b) => a.step - b.step);
  assert.deepEqual(adapters, [4, 9].map((step) => ({ kind: "checkpoint", jobId: job, step })));
  await shot(other, "playground-two-checkpoints");
  await other.context().close();
});

test("who reads further up in a long log keeps the lines in sight when the oldest ones go", async () => {
  const job = await stage.server.train("chatty");
  const run = (await stage.server.runs()).find((/** @type {any} */ { jobId }) => jobId === job);
  const other = await stage.page(`#/runs/${run.id}`);
  const log = other.getByTestId("log");
  const lines = async () => Number(await log.getAttribute("data-lines"));
  await until("the first part", async () => (await lines()) > LINES);
  await log.evaluate((element) => { element.scrollTop = element.scrollHeight * 0.6; });
  await other.getByRole("button", { name: "Newest" }).waitFor();
  /** The line at the upper edge. */
  const first = () => log.evaluate((element) => {
    const { left, top } = element.getBoundingClientRect();
    return document.elementFromPoint(left + 20, top + 12)?.textContent ?? "";
  });
  const reading = await until("a line", first);
  assert.match(reading, /^line \d+ of part 1$/);
  open("chatty");
  await until("the second part", async () => (await lines()) > LINES + MORE_LINES);
  await other.getByText("earlier lines are not kept in this page").waitFor();
  assert.equal(await first(), reading);
  await other.context().close();
  await stage.server.ask("POST", `/api/jobs/${job}/cancel`);
  await until("room for other jobs", async () => (await stage.server.ask("GET", `/api/jobs/${job}`)).job.status === "cancelled");
});

test("jobs are found by name and id, one status at a time, and live", async () => {
  const running = await stage.server.train("holding");
  for (const name of ["second", "third"]) await stage.server.train(name);
  const queued = await stage.server.train("second");
  await page.locator(`[data-job="${queued}"]`).getByText("queued").waitFor();
  const rows = page.locator("[data-job]");
  await page.getByLabel("Search jobs by name or id").fill("HOLD");
  await until("one row", async () => (await rows.count()) === 1);
  await page.getByLabel("Search jobs by name or id").fill(queued.toUpperCase());
  await page.locator(`[data-job="${queued}"]`).waitFor();
  assert.equal(await rows.count(), 1);
  await page.getByLabel("Search jobs by name or id").fill("nothing like it");
  await page.getByText("No matches").waitFor();
  assert.equal(await page.getByText("No jobs yet").count(), 0);
  await shot(page, "jobs-no-matches");
  await page.getByRole("button", { name: "Show all jobs" }).click();
  for (const [chip, name] of [["Failed", "failing"], ["Completed", "quiet"], ["Queued", "second"], ["Running", "holding"]]) {
    await page.getByRole("radio", { name: chip }).click();
    await rows.filter({ hasText: name }).first().waitFor();
    assert.equal(await page.getByRole("radio", { checked: true }).count(), 1);
    for (const status of await rows.locator(".pill").allTextContents()) assert.equal(status, chip?.toLowerCase());
  }
  await page.getByRole("radio", { name: "Running" }).focus();
  await page.keyboard.press("ArrowLeft");
  await page.getByRole("radio", { name: "All", checked: true }).waitFor();
  let answer = () => {};
  const held = new Promise((go) => { answer = () => go(undefined); });
  await page.route("**/api/jobs/brief**", async (route) => { await held; await route.continue(); });
  await page.getByRole("button", { name: "Refresh" }).click();
  await page.locator(".spin").waitFor();
  answer();
  await page.locator(".spin").waitFor({ state: "detached" });
  await page.unroute("**/api/jobs/brief**");
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.locator(`[data-job="${running}"]`).getByRole("button", { name: /^Copy the id/ }).click();
  await until("the copy", async () => (await page.evaluate(() => navigator.clipboard.readText())) === running);
  await isAccessible(page, "a list of jobs");
  await shot(page, "jobs");
  await page.locator(`[data-job="${running}"] a`).click();
  await page.getByRole("heading", { name: "holding" }).waitFor();
});

test("without a stream the list of jobs is read again and again", async () => {
  const other = await stage.page("#/jobs");
  await other.locator("[data-job]").first().waitFor();
  await stage.withoutEvents(other, async () => {
    await other.reload();
    await other.getByTestId("link").getByText("Reconnecting").waitFor();
    const job = await stage.server.train("third");
    await other.locator(`[data-job="${job}"]`).waitFor();
  });
  await other.context().close();
});

test("with a stream the list of jobs is told, not read", async () => {
  const other = await stage.page("#/jobs");
  await other.clock.install();
  await other.reload();
  await other.getByText(/^(\d+) of \1$/).waitFor();
  await other.getByTestId("link").getByText("Live").waitFor();
  let read = 0;
  other.on("request", (request) => { if (/\/api\/jobs(\/brief)?\?/.test(request.url())) read += 1; });
  // Beyond the time of a poll, several times.
  for (let jump = 0; jump < 4; jump++) await other.clock.fastForward(6000);
  const job = await stage.server.train("third");
  await other.locator(`[data-job="${job}"]`).waitFor();
  assert.equal(read, 0);
  await stage.withoutEvents(other, async () => {
    await other.reload();
    await other.locator(`[data-job="${job}"]`).waitFor();
    await other.getByTestId("link").getByText("Reconnecting").waitFor();
    const before = read;
    await until("a poll", async () => { await other.clock.fastForward(6000); return read > before; });
  });
  await other.context().close();
  await stage.server.ask("POST", `/api/jobs/${job}/cancel`);
});

test("an interrupted stream says so until the next frame, and nothing is lost or doubled", async () => {
  await page.getByTestId("chart").waitFor();
  const before = Number(await page.getByTestId("events").getAttribute("data-count"));
  const job = page.url().split("/").at(-1);
  const other = await stage.page("#/");
  await stage.withoutEvents(other, async () => {
    await other.goto(`${stage.server.url}/#/jobs/${job}`);
    await other.getByText("Event stream interrupted.").waitFor();
    await other.getByTestId("link").getByText("Reconnecting").waitFor();
    await shot(other, "job-interrupted");
  });
  open("holding");
  await other.getByText("Event stream interrupted.").waitFor({ state: "detached" });
  for (const tab of [page, other]) {
    await until("the new event, once", async () => Number(await tab.getByTestId("events").getAttribute("data-count")) === before + 1);
    assert.equal(await tab.getByTestId("chart").getAttribute("data-points"), "2");
  }
  await other.context().close();
});

test("a job that cannot be read at first is read again", async () => {
  const job = page.url().split("/").at(-1);
  // No page that reads jobs by itself.
  const other = await stage.page("#/terminal");
  let refused = 0;
  await other.route(`**/api/jobs/${job}?events=500`, (route) => (refused++ < 2 ? route.fulfill({ status: 502, json: { error: "the control plane is away" } }) : route.continue()));
  await other.goto(`${stage.server.url}/#/jobs/${job}`);
  await other.getByRole("heading", { name: "holding" }).waitFor();
  await other.getByText("Event stream interrupted.").waitFor({ state: "detached" });
  assert.ok(refused > 2);
  await other.context().close();
});

test("the playground streams, stops, and says what the model refuses", async () => {
  await page.goto(`${stage.server.url}/#/playground`);
  await page.getByLabel("Job").selectOption({ label: (await page.getByRole("option", { name: /^holding/ }).first().textContent()) ?? "" });
  await page.getByLabel("Model").getByRole("option", { name: "Checkpoint at step 1" }).waitFor({ state: "attached" });
  await page.getByLabel("Prompt").fill(`gate ${gate("never")}`);
  await page.getByRole("button", { name: "Ask" }).click();
  const answer = page.getByTestId("answer");
  await answer.getByText("gate ").waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await answer.getByText("Stopped.").waitFor();
  await page.getByLabel("Prompt").fill("refuse");
  await page.getByRole("button", { name: "Ask" }).click();
  await answer.getByText(/the vocabulary does not fit/).waitFor();
  await shot(page, "playground-refused");
});

test("what is not there says so", async () => {
  for (const [hash, text] of [["#/jobs/no-such-job", /has no job "no-such-job"/], ["#/runs/rnone", /there is no run rnone/], ["#/nowhere", /There is no page at/]]) {
    await page.goto(`${stage.server.url}/${hash}`);
    await page.getByText(text ?? "").first().waitFor();
  }
});

test("a page with a foreign token reloads once and then says what to do", async () => {
  const other = await stage.page("#/");
  let loads = 0;
  let seen = () => {};
  const banner = new Promise((go) => { seen = () => go(undefined); });
  await other.route(`${stage.server.url}/`, async (route) => {
    // The next document comes when what this one says was seen.
    if (++loads > 1) await banner;
    const answer = await route.fetch();
    await route.fulfill({ response: answer, body: (await answer.text()).replaceAll(stage.server.token, "0123456789abcdef-not-the-token") });
  });
  await other.reload();
  await other.getByText("has a new token. Reloading this page.").waitFor();
  seen();
  await other.getByText("This page is not allowed in").waitFor();
  await isAccessible(other, "a page that is not allowed in");
  await shot(other, "token-wrong");
  await other.unrouteAll();
  await other.getByRole("button", { name: "Reload" }).click();
  await other.getByTestId("link").getByText("Live").waitFor();
  await other.context().close();
});

test("the server is killed and comes back with another token: the page goes on", async () => {
  await page.goto(`${stage.server.url}/#/`);
  await page.locator(".run-card").first().waitFor();
  const { port, token } = stage.server;
  await stage.kill();
  await page.getByTestId("link").getByText("Reconnecting").waitFor();
  await page.getByText("The server is away.").waitFor();
  await isAccessible(page, "a page without its server");
  await shot(page, "server-away");
  await stage.restart(port);
  assert.notEqual(stage.server.token, token);
  await page.getByTestId("link").getByText("Live").waitFor();
  await page.getByText("The server is away.").waitFor({ state: "detached" });
  await page.locator(".run-card, .run-list li").first().waitFor();
});
