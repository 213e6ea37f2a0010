// What is large: a million points, ten thousand jobs, two hundred events a second.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { built, until } from "./server.mjs";
import { shot, Stage } from "./stage.mjs";

const POINTS = 1_000_000;
const JOBS = 10_000;
const RATE = 200;

/** @type {Stage} */
let stage;
/** @type {string} */
let large;

before(async () => {
  stage = await Stage.set((project) => project.script({
    seed: [["emit", { type: "training.log", step: 1, loss: 1 }], ["emit", { type: "training.completed" }]],
    busy: [["stream", 1_000_000, RATE], ["hold"]],
  }));
  const job = await stage.server.train("seed");
  await until("its end", async () => (await stage.server.ask("GET", `/api/jobs/${job}`)).job.status === "completed");
  const { port } = stage.server;
  await stage.server.stop();
  const database = find(stage.project.dir, "control-plane.db");
  large = execFileSync(built("examples/many_points"), [database, String(POINTS), String(JOBS)], { encoding: "utf8" }).trim();
  await stage.restart(port);
});

after(() => stage?.strike());

/** @param {string} dir @param {string} name @returns {string} */
function find(dir, name) {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isFile() && entry.name === name) return path;
    if (entry.isDirectory() && existsSync(path)) {
      const found = find(path, name);
      if (found) return found;
    }
  }
  return "";
}

test("a job of a million points is painted soon, and exactly a little later", async () => {
  const page = await stage.page("#/");
  await page.getByTestId("link").getByText("Live").waitFor();
  const took = await page.evaluate(async (job) => {
    const begun = performance.now();
    location.hash = `#/jobs/${job}`;
    while (!document.querySelector(".chart-box canvas")) await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    return performance.now() - begun;
  }, large);
  console.log(`first paint of ${POINTS} points: ${took.toFixed(0)} ms`);
  assert.ok(took < 5000, `${took} ms`);
  const chart = page.getByTestId("chart");
  await until("the sample that sticks out", async () => (await chart.getAttribute("data-highest")) === "9");
  assert.ok(Number(await chart.getAttribute("data-points")) < 10_000);
  await page.getByLabel("Advanced").check();
  await page.getByTestId("statistics").getByText("1,000,000").waitFor();
  await shot(page, "job-million");
  await page.context().close();
});

test("ten thousand jobs scroll, and are searched as one types", async () => {
  const page = await stage.page("#/jobs");
  await page.getByText(`${(JOBS + 1).toLocaleString("en-US")} of`).waitFor();
  const list = page.getByTestId("jobs");
  const { longest, rows } = await list.evaluate(async (element) => {
    let longest = 0;
    let rows = 0;
    for (let part = 0; part <= 60; part++) {
      const begun = performance.now();
      element.scrollTop = (element.scrollHeight * part) / 60;
      await new Promise(requestAnimationFrame);
      await new Promise(requestAnimationFrame);
      longest = Math.max(longest, performance.now() - begun);
      rows = Math.max(rows, document.querySelectorAll("[data-job]").length);
    }
    return { longest, rows };
  });
  console.log(`longest two frames while scrolling ${JOBS} jobs: ${longest.toFixed(0)} ms`);
  assert.ok(rows > 0 && rows < 80, `${rows} rows in the document`);
  await page.getByLabel("Search jobs by name or id").fill("filler-9999");
  await page.locator('[data-job="filler-9999"]').waitFor();
  await shot(page, "jobs-many");
  await page.context().close();
});

test("two hundred events a second leave the page responsive and its memory flat", async () => {
  const seconds = Number(process.env["SECONDS_OF_EVENTS"] ?? 25);
  const job = await stage.server.train("busy");
  const page = await stage.page(`#/jobs/${job}`);
  await page.getByTestId("chart").waitFor();
  const heap = () => page.evaluate(() => { /** @type {any} */ (globalThis).gc(); return /** @type {any} */ (performance).memory.usedJSHeapSize / 1e6; });
  const newest = async () => Number((await page.locator(".event-rows .event-row").first().locator("span").nth(1).textContent())?.replaceAll(",", ""));
  await until("a full event log", async () => (await page.getByTestId("events").getAttribute("data-count")) === "500");
  const [first, from, begun] = [await heap(), await newest(), Date.now()];
  /** @type {number[]} */
  const frames = [];
  while (Date.now() - begun < seconds * 1000) {
    frames.push(await page.evaluate(async () => {
      const begun = performance.now();
      await new Promise((go) => setTimeout(go, 50));
      return performance.now() - begun - 50;
    }));
  }
  const last = await heap();
  const rate = ((await newest()) - from) / ((Date.now() - begun) / 1000);
  frames.sort((a, b) => a - b);
  const late = frames[Math.floor(frames.length * 0.95)] ?? NaN;
  console.log(`${rate.toFixed(0)} events/s for ${seconds} s: 95 % of timers at most ${late.toFixed(0)} ms late, heap ${first.toFixed(1)} MB, then ${last.toFixed(1)} MB`);
  assert.ok(rate > RATE / 2, `${rate} events/s`);
  assert.ok(late < 500, `timers are ${late} ms late`);
  assert.ok(last < first + 15, `heap grew from ${first} to ${last} MB`);
  assert.equal(await page.getByTestId("events").getAttribute("data-count"), "500");
  await page.context().close();
});
