// The loop as a person sees it: train, edit, break, mend, restart. The example project really trains.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { until } from "./server.mjs";
import { fits, isAccessible, saved, shot, Stage } from "./stage.mjs";

/** @type {Stage} */
let stage;
/** @type {import("playwright-core").Page} */
let page;

before(async () => {
  stage = await Stage.set((project) => project.long());
  page = await stage.page();
});

after(() => stage?.strike());

const card = () => page.locator(".run-card").first();
/** @param {string | RegExp} text */
const state = (text) => card().locator(".pill").filter({ hasText: text }).first().waitFor();
/** @param {string | RegExp} text */
const logged = (text) => page.getByTestId("log").getByText(text).first().waitFor();
/** @param {string | RegExp} text */
const saveSays = (text) => page.getByTestId("saves").getByText(text).first().waitFor();
const step = async () => Number(/step ([\d,]+)/.exec((await card().locator(".pill").first().textContent()) ?? "")?.[1]?.replaceAll(",", "") ?? NaN);
const newestRun = async () => (await stage.server.runs())[0];

test("the trainer is found, and nothing is asked of another origin", async () => {
  await page.getByRole("button", { name: "Run training: adder" }).waitFor();
  await page.getByText("No run yet").waitFor();
  await page.getByText("No save yet").waitFor();
  await page.getByTestId("link").getByText("Live").waitFor();
  const origins = await page.evaluate(() => performance.getEntriesByType("resource").map((entry) => new URL(entry.name).origin));
  assert.deepEqual([...new Set(origins)], [new URL(stage.server.url).origin]);
  await isAccessible(page, "an overview without runs");
  await shot(page, "overview-ready");
});

test("Run trains: the step rises and the loss falls", async () => {
  await page.getByTestId("run").click();
  await state(/Starting|Training/);
  await state(/Training at step/);
  const first = await step();
  await page.waitForFunction((first) => {
    const now = Number(/step ([\d,]+)/.exec(document.querySelector(".run-card .pill")?.textContent ?? "")?.[1]?.replaceAll(",", ""));
    return now > first;
  }, first);
  await logged(/checkpoint at step \d+: /);
  await logged(/^step \d+ {2}loss/);
  const { loss } = await stage.server.ask("GET", `/api/jobs/${(await newestRun()).jobId}/series`);
  assert.ok(loss.value.at(-1) < loss.value[0] / 2, `from ${loss.value[0]} to ${loss.value.at(-1)}`);
  await isAccessible(page, "an overview with a run");
  await shot(page, "overview-training");
});

test("a callback edit is swapped into the same process, told in milliseconds, and its output shows without a reload", async () => {
  await page.evaluate(() => { /** @type {any} */ (globalThis).here = true; });
  const run = await newestRun();
  stage.project.edit("callbacks.ts", (text) => text.replace('console.log(`step', 'console.log(`\\u001b[1;31mEDITED\\u001b[0m step'));
  await page.getByTestId("swapped").getByText(/Hot-swapped in (under )?[\d.]+ m?s/).waitFor();
  await saveSays("callbacks.ts");
  await page.getByTestId("saves").locator(".pill", { hasText: /^swapped$/ }).first().waitFor();
  await saveSays(/ack (under )?[\d.]+ m?s/);
  await saveSays(/bundle (under )?[\d.]+ m?s/);
  await logged("EDITED");
  const colour = await page.getByTestId("log").getByText("EDITED").first().evaluate((element) => [getComputedStyle(element).color, getComputedStyle(element).fontWeight]);
  assert.deepEqual(colour, ["rgb(179, 38, 30)", "600"], "the theme's red, and bold");
  const same = await newestRun();
  assert.deepEqual([same.id, same.pid], [run.id, run.pid]);
  assert.equal(await page.evaluate(() => /** @type {any} */ (globalThis).here), true, "it was not loaded again");
  await shot(page, "overview-swapped");
  await page.getByTestId("swapped").waitFor({ state: "detached" });
});

test("the log stays at its end until somebody scrolls up, finds, copies and downloads", async () => {
  const box = page.getByTestId("log");
  const lines = () => box.evaluate((element) => Number(/** @type {HTMLElement} */ (element).dataset["lines"]));
  const top = () => box.evaluate((element) => element.scrollTop);
  await page.waitForFunction(() => { const box = document.querySelector('[data-testid="log"]'); return box !== null && box.scrollHeight > box.clientHeight * 1.2; });
  assert.ok((await box.locator(".row").count()) < 150, "only rows in sight are in the document");
  await box.evaluate((element) => { element.scrollTop = 0; });
  await page.getByRole("button", { name: "Newest" }).waitFor();
  const before = await lines();
  await until("more lines", async () => (await lines()) > before);
  assert.equal(await top(), 0, "it yields to who scrolled up");
  await page.getByRole("button", { name: "Newest" }).click();
  await page.getByRole("button", { name: "Newest" }).waitFor({ state: "detached" });
  assert.ok((await top()) > 0);
  await page.keyboard.press("/");
  await page.keyboard.type("CHECKPOINT at");
  await page.locator(".log-bar").getByText(/^\d+\/\d+$/).waitFor();
  assert.ok((await box.locator("mark").count()) > 0);
  await page.keyboard.press("Enter");
  await page.getByLabel("Search the log").fill("no such words");
  await page.locator(".log-bar").getByText("none").waitFor();
  await page.keyboard.press("Escape");
  const file = await saved(page, () => page.getByRole("button", { name: "Download the log" }).click());
  assert.match(file.name, /\.log$/);
  assert.match(file.text, /^adder is training$/m);
  assert.match(file.text, /^EDITED step \d+/m);
  assert.ok(!file.text.includes("\u001b"));
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.getByRole("button", { name: "Copy the log" }).click();
  await until("the copy", async () => /adder is training/.test(await page.evaluate(() => navigator.clipboard.readText())));
});

test("a syntax error is shown with its frame, leaves the run alone, and mends", async () => {
  const run = await newestRun();
  const mend = stage.project.edit("callbacks.ts", (text) => `${text}\nexport const broken = (;\n`);
  await page.getByTestId("caption").getByText(/^Couldn't read manifest: /).waitFor();
  await page.getByTestId("frame").getByText("callbacks.ts").first().waitFor();
  await page.getByTestId("frame").getByText("broken = (;").waitFor();
  assert.ok(await page.getByTestId("run").isDisabled());
  await saveSays("Build failed");
  await isAccessible(page, "a broken build");
  await shot(page, "overview-broken");
  await page.reload();
  await page.getByTestId("frame").getByText("broken = (;").waitFor();
  await saveSays("Build failed");
  mend();
  await page.getByTestId("frame").waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Run training: adder" }).waitFor();
  const same = await newestRun();
  assert.deepEqual([same.pid, same.status], [run.pid, "running"]);
});

test("an entry without a trainer says what to export", async () => {
  const back = stage.project.edit("index.ts", (text) => text.replace("export const trainer", "const trainer"));
  await page.getByTestId("caption").getByText(/^No trainer in src\/midrun\/index\.ts yet\./).waitFor();
  assert.ok(await page.getByTestId("run").isDisabled());
  await shot(page, "overview-no-trainer");
  await page.reload();
  await page.getByTestId("caption").getByText(/^No trainer in src\/midrun\/index\.ts yet\./).waitFor();
  back();
  await page.getByRole("button", { name: "Run training: adder" }).waitFor();
  await page.reload();
  await page.getByTestId("caption").getByText("src/midrun/index.ts").waitFor();
});

test("a config edit stops at the next checkpoint, shows the difference, and restarts", async () => {
  const old = await newestRun();
  /** @type {string[]} */
  const seen = [];
  await page.exposeFunction("saw", (/** @type {string} */ text) => seen.push(text));
  await page.evaluate(() => {
    const look = () => document.querySelectorAll(".run-card").forEach((card) => /** @type {any} */ (globalThis).saw(`${/** @type {HTMLElement} */ (card).dataset["status"]}: ${card.textContent}`));
    new MutationObserver(look).observe(document.body, { childList: true, subtree: true, characterData: true });
  });
  stage.project.edit("index.ts", (text) => text.replace(/learningRate: [\d.e-]+/, "learningRate: 0.00123"));
  await saveSays(/config\.learningRate: .*→ 0\.00123/);
  const successor = await until("successor", async () => (await stage.server.runs()).find((/** @type {any} */ run) => run.replaces === old.id && run.status === "running"));
  await page.locator(`.run-card[data-run="${successor.id}"][data-status="running"]`).waitFor();
  assert.ok(seen.some((text) => /^early-stopping:.*Stopping at next checkpoint/.test(text)), "it stopped at a checkpoint");
  assert.ok(seen.some((text) => /^(early-stopping|restarting):.*learningRate.*0\.00123/.test(text)), "with the difference");
  await card().locator(".changes").getByText("0.00123").waitFor();
  await page.locator(".log-panel").getByText(successor.id.slice(-6)).first().waitFor();
  await logged(/step \d+/);
  await page.locator(".run-list").getByText(old.id.slice(-6)).waitFor();
  await shot(page, "overview-restarted");
});

test("a job shows which run came before it, and what changed", async () => {
  const run = await until("a job", async () => { const run = await newestRun(); return run.jobId && run; });
  const other = await stage.page(`#/jobs/${run.jobId}`);
  const lineage = other.getByRole("region", { name: "Lineage" });
  await lineage.getByText("learningRate").first().waitFor();
  await lineage.getByText("0.00123").first().waitFor();
  await lineage.getByText(run.replaces.slice(-6)).first().waitFor();
  await other.getByTestId("chart").waitFor();
  await shot(other, "job-lineage");
  await other.context().close();
});

test("a run's page shows its processes, output and lineage", async () => {
  const run = await newestRun();
  const other = await stage.page(`#/runs/${run.id}`);
  await other.getByTestId("processes").getByText(String(run.pid), { exact: true }).waitFor();
  await other.getByTestId("processes").getByText(/executor/).waitFor();
  await other.getByTestId("processes").getByText(/[\d.]+ %/).first().waitFor();
  await other.getByTestId("log").getByText(/step \d+/).first().waitFor();
  await other.getByRole("region", { name: "Lineage" }).getByText(run.replaces.slice(-6)).waitFor();
  await isAccessible(other, "a run's page");
  await shot(other, "run");
  await other.context().close();
});

test("a tab that is opened later lists the saves from before, and calls none of them news", async () => {
  const later = await stage.page();
  /** @param {import("playwright-core").Page} tab */
  const listed = (tab) => tab.getByTestId("saves").locator("li").evaluateAll((items) => items.map((item) => item.textContent));
  const known = await listed(page);
  assert.ok(known.length >= 3, "what was edited until here");
  await later.getByTestId("saves").locator("li").nth(known.length - 1).waitFor();
  assert.deepEqual(await listed(later), known);
  assert.equal(await later.getByTestId("swapped").count(), 0);
  await later.context().close();
});

test("two tabs show the same, and a closed tab changes nothing", async () => {
  const run = await newestRun();
  const [one, two] = [await stage.page(), await stage.page()];
  for (const tab of [one, two]) await tab.locator(`.run-card[data-run="${run.id}"]`).waitFor();
  stage.project.edit("callbacks.ts", (text) => text.replace("EDITED", "AGAIN"));
  for (const tab of [one, two]) await tab.getByTestId("swapped").waitFor();
  await one.context().close();
  await two.getByTestId("log").getByText("AGAIN").first().waitFor();
  await two.context().close();
  const same = await newestRun();
  assert.deepEqual([same.id, same.pid, same.status], [run.id, run.pid, "running"]);
});

test("the keyboard is enough", async () => {
  await page.locator("h1").first().waitFor({ state: "attached" });
  await page.keyboard.press("?");
  await page.getByRole("dialog").getByText("stop the run shown, or the newest live one, at its next checkpoint").waitFor();
  await isAccessible(page, "the help");
  await shot(page, "help");
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  for (const [letter = "", there] of /** @type {const} */ ([["j", page.getByRole("heading", { name: "Jobs" })], ["o", page.getByTestId("run")]])) {
    // The second key must come soon.
    await until(`the page of g ${letter}`, async () => {
      await page.keyboard.press("g");
      await page.keyboard.press(letter);
      return there.waitFor({ timeout: 2000 }).then(() => true, () => false);
    });
  }
  const run = await newestRun();
  await page.keyboard.press("s");
  await until("its end at a checkpoint", async () => { const now = (await stage.server.ask("GET", `/api/runs/${run.id}`)).run; return now.status === "exited" && now; });
  await page.locator(".run-list").getByText(run.id.slice(-6)).waitFor();
  await page.keyboard.press("r");
  const next = await until("another run", async () => { const now = await newestRun(); return now.id !== run.id && now; });
  await page.locator(`.run-card[data-run="${next.id}"]`).waitFor();
});

test("Stop now ends the run", async () => {
  const run = await newestRun();
  await page.locator(`.run-card[data-run="${run.id}"]`).getByRole("button", { name: "Stop now" }).click();
  await page.locator(`.run-card[data-run="${run.id}"]`).waitFor({ state: "detached" });
  await page.locator(".run-list li").filter({ hasText: run.id.slice(-6) }).getByText("Stopped").waitFor();
});

test("every page fits a phone, in both themes, after a reload too", async () => {
  const run = await newestRun();
  const pages = { overview: "#/", jobs: "#/jobs", job: `#/jobs/${(await stage.server.runs()).find((/** @type {any} */ one) => one.jobId).jobId}`, run: `#/runs/${run.id}`, playground: "#/playground", terminal: "#/terminal" };
  for (const [size, viewport] of Object.entries({ phone: { width: 360, height: 740 }, desktop: { width: 1280, height: 900 } })) {
    for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
      const other = await stage.page("#/", { viewport, colorScheme, reducedMotion: "reduce" });
      for (const [name, hash] of Object.entries(pages)) {
        await other.goto(`${stage.server.url}/${hash}`);
        await other.reload();
        await other.locator("h1").first().waitFor({ state: "attached" });
        await other.waitForLoadState("load");
        await until(`${name} to be filled`, async () => (await other.getByText(/^(Reading|Loading|Looking|Computing)…$/).count()) === 0);
        await fits(other, viewport.width, `${name} on a ${size}`);
        await isAccessible(other, `${name} on a ${size}, ${colorScheme}`);
        await shot(other, `${name}-${size}-${colorScheme}`);
      }
      const moves = await other.evaluate(() => document.getAnimations().filter((one) => Number(one.effect?.getTiming().duration) > 10).length);
      assert.equal(moves, 0, "reduced motion is respected");
      await other.context().close();
    }
  }
});

test("the theme can be chosen, and is kept", async () => {
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await background();
  for (let press = 0; press < 2; press++) await page.getByRole("button", { name: /^Colours/ }).click();
  await page.getByRole("button", { name: "Colours: dark" }).waitFor();
  const dark = await background();
  assert.notEqual(dark, light);
  await page.reload();
  await page.getByRole("button", { name: "Colours: dark" }).waitFor();
  assert.equal(await background(), dark);
  await page.getByRole("button", { name: /^Colours/ }).click();
});
