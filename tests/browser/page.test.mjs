// The page in a real browser, over the built binary with the example project really training.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

import { Project, Server } from "./server.mjs";

const OUT = resolve(import.meta.dirname, "../out/screenshots");
const LIMIT_MS = 60_000;
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

const project = new Project();
/** @type {Server} */
let server;
/** @type {import("playwright-core").Browser} */
let browser;
/** @type {import("playwright-core").Page} */
let page;
/** @type {string[]} */
const complaints = [];

before(async () => {
  mkdirSync(OUT, { recursive: true });
  server = await Server.start(project);
  browser = await chromium.launch({ executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium", args: FLAGS });
  page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.setDefaultTimeout(LIMIT_MS);
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => { if (message.type() === "error") complaints.push(message.text()); });
  await page.goto(server.url);
});

after(async () => {
  await browser?.close();
  await server?.stop();
  const left = project.leftovers();
  project.remove();
  assert.deepEqual(left, [], "processes are left");
});

/** @param {string} text */
const status = (text) => page.locator("#status-text", { hasText: text }).waitFor();
/** @param {string | RegExp} text */
const logged = (text) => page.locator("#log").getByText(text).first().waitFor();
/** @param {string} name */
const shot = (name) => page.screenshot({ path: join(OUT, `${name}.png`), fullPage: true });

/** The newest loss on the page, once it is below `bound`. @param {number} bound */
async function lossBelow(bound) {
  const shown = await page.waitForFunction((bound) => {
    const text = /loss ([\d.e-]+)/.exec(document.getElementById("loss-now")?.textContent ?? "")?.[1];
    return text !== undefined && Number(text) < bound ? { value: Number(text) } : null;
  }, bound);
  return (await shown.jsonValue())?.value ?? NaN;
}

async function runs() {
  const answer = await fetch(`${server.url}/api/runs`, { headers: { "x-midrun-token": server.token } });
  return (await answer.json()).runs;
}

test("the trainer is found, and nothing is asked of another origin", async () => {
  await page.locator("#trainer", { hasText: "adder" }).waitFor();
  const origins = await page.evaluate(() =>
    performance.getEntriesByType("resource").map((entry) => new URL(entry.name).origin));
  assert.deepEqual([...new Set(origins)], [new URL(server.url).origin]);
  await shot("ready");
});

test("Run trains: the loss appears and falls", async () => {
  await page.locator("#run").click();
  await status("Training");
  const first = await lossBelow(Infinity);
  assert.ok(first > 0.5, `it starts at ${first}: the model knew before it learned`);
  await lossBelow(first / 2);
  await logged(/checkpoint at step/);
  await shot("training");
});

test("a callback edit is swapped into the same process, and its output shows", async () => {
  const [run] = await runs();
  project.edit("callbacks.ts", (text) => text.replaceAll("console.log(", 'console.log("EDITED", '));
  await status("Callbacks hot-swapped");
  await logged(/EDITED/);
  const [same] = await runs();
  assert.equal(same.id, run.id);
  assert.equal(same.pid, run.pid);
  await page.locator("#saves").getByText(/swapped · only callbacks changed/).first().waitFor();
  await shot("swapped");
});

test("a syntax error is shown with its place, leaves the run alone, and mends", async () => {
  const [run] = await runs();
  const mend = project.edit("callbacks.ts", (text) => `${text}\nexport const broken = (;\n`);
  await status("Build failed, runs are untouched");
  await page.locator("#frame", { hasText: "callbacks.ts" }).waitFor();
  await shot("broken");
  mend();
  await page.locator("#frame").waitFor({ state: "hidden" });
  const [same] = await runs();
  assert.equal(same.pid, run.pid);
  assert.equal(same.status, "running");
});

test("a config edit stops at the next checkpoint and restarts on the new code", async () => {
  const [old] = await runs();
  project.edit("index.ts", (text) => text.replace(/learningRate: [\d.e-]+/, "learningRate: 0.00123"));
  await page.locator("#saves").getByText(/config\.learningRate .* -> 0\.00123/).first().waitFor();
  await status("Restarted on the new code");
  const [successor] = await runs();
  assert.equal(successor.replaces, old.id);
  assert.equal(successor.status, "running");
  await logged(new RegExp(`goes on as run ${successor.id.slice(-6)}`));
  await shot("restarted");
});

test("two tabs and a closed tab change nothing", async () => {
  const [run] = await runs();
  const second = await browser.newPage();
  await second.goto(server.url);
  await second.locator("#trainer", { hasText: "adder" }).waitFor();
  await second.close();
  const [same] = await runs();
  assert.deepEqual([same.id, same.pid, same.status], [run.id, run.pid, "running"]);
});

test("it fits a phone, in the dark too", async () => {
  for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
    const phone = await browser.newPage({ viewport: { width: 360, height: 740 }, colorScheme });
    await phone.goto(server.url);
    await phone.locator("#trainer", { hasText: "adder" }).waitFor();
    const wide = await phone.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= 360, `the page is ${wide} px wide`);
    await phone.screenshot({ path: join(OUT, `phone-${colorScheme}.png`), fullPage: true });
    await phone.close();
  }
});

test("Stop now ends the run", async () => {
  await page.locator("#stop-now").click();
  await page.waitForFunction(() => /ended|failed/.test(document.getElementById("status-text")?.textContent ?? ""));
  const live = (await runs()).filter((/** @type {{ status: string }} */ run) => !["exited", "lost"].includes(run.status));
  assert.deepEqual(live, []);
});

test("the server is away, and comes back with another token", async () => {
  const { port } = server;
  await server.stop();
  await page.locator("#link", { hasText: "Reconnecting" }).waitFor();
  await shot("away");
  server = await Server.start(project, port);
  await page.locator("#link", { hasText: "Connected" }).waitFor();
  await page.locator("#trainer", { hasText: "adder" }).waitFor();
});

test("the page complained of nothing but the server's absence", () => {
  const real = complaints.filter((text) => !/ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|401|Failed to fetch|network error|400 \(Bad Request\)/.test(text));
  assert.deepEqual(real, []);
});
