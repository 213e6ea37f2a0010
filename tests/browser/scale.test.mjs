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
/** On a quiet machine, 500 ms; this leaves room for one that does much else. */
const FIRST_PAINT_MS = 1500;
/** 17 ms is smooth; more than this is not, even on a machine that does much else. */
const MEDIAN_FRAME_MS = 50;
const LONGEST_FRAME_MS = 250;
/** What garbage that is not yet collected, and points that come and go, may differ by. */
const HEAP_NOISE_MB = 4;
/** The step of the sample that sticks out. */
const SPIKE = 777_778;

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
  await stage.stop();
  const database = find(stage.project.dir, "control-plane.db");
  large = execFileSync(built("examples/many_points"), [database, String(POINTS), String(JOBS)], { encoding: "utf8" }).trim();
  await stage.restart(port);
});

after(() => stage?.strike());

/** @param {import("playwright-core").Page} page @returns {Promise<[number, number]>} */
async function middle(page) {
  const box = await page.locator(".u-over").boundingBox();
  assert.ok(box);
  return [box.x + box.width / 2, box.y + 60];
}

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

/** What is measured, at the first of a few times that is good: a machine may do something else at any one of them. */
/** @template T @param {() => Promise<T>} measure @param {(measured: T) => boolean} isGood */
async function best(measure, isGood) {
  for (let left = 5; ; left--) {
    const measured = await measure();
    if (isGood(measured) || left === 1) return measured;
  }
}

test("a job of a million points is painted soon, and exactly a little later", async () => {
  /** @type {import("playwright-core").Page | undefined} */
  let page;
  const took = await best(async () => {
    await page?.context().close();
    page = await stage.page("#/");
    await page.getByTestId("link").getByText("Live").waitFor();
    return page.evaluate(async (job) => {
      const begun = performance.now();
      location.hash = `#/jobs/${job}`;
      while (!document.querySelector(".chart-box canvas")) await new Promise(requestAnimationFrame);
      await new Promise(requestAnimationFrame);
      return performance.now() - begun;
    }, large);
  }, (took) => took < FIRST_PAINT_MS);
  console.log(`first paint of ${POINTS} points: ${took.toFixed(0)} ms`);
  assert.ok(page && took < FIRST_PAINT_MS, `${took} ms`);
  const chart = page.getByTestId("chart");
  await until("the sample that sticks out", async () => (await chart.getAttribute("data-highest")) === "9");
  assert.ok(Number(await chart.getAttribute("data-points")) < 10_000);
  await page.getByLabel("Advanced").check();
  await page.getByTestId("statistics").getByText("1,000,000").waitFor();
  await shot(page, "job-million");
  await page.context().close();
});

test("a zoom asks for the points of its range, keeps the sample that sticks out, and a double click ends it", async () => {
  const page = await stage.page(`#/jobs/${large}`);
  const chart = page.getByTestId("chart");
  const highest = async () => Number(await chart.getAttribute("data-highest"));
  await until("the sample that sticks out", async () => (await highest()) === 9);
  /** Steps that the newest request for points was about. @type {{ from: number, to: number } | null} */
  let asked = null;
  page.on("request", (request) => {
    const { pathname, searchParams } = new URL(request.url());
    if (!pathname.endsWith("/series")) return;
    const [from, to] = [searchParams.get("from"), searchParams.get("to")];
    asked = from === null || to === null ? null : { from: Number(from), to: Number(to) };
  });
  /** Drags over this part of the chart; the steps that were asked for. @param {number} from @param {number} to */
  const drag = async (from, to) => {
    const box = await page.locator(".u-over").boundingBox();
    assert.ok(box);
    asked = null;
    await page.mouse.move(box.x + box.width * from, box.y + 60);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * to, box.y + 60, { steps: 5 });
    await page.mouse.up();
    await until("a request for the range", async () => asked);
    return /** @type {{ from: number, to: number }} */ (/** @type {unknown} */ (asked));
  };
  /** Whether the points that are drawn are those from `from` to `to`, on whatever axis. */
  const shows = async (/** @type {number} */ from, /** @type {number} */ to) => {
    const [first, last] = ((await chart.getAttribute("data-range")) ?? "").split(",").map(Number);
    const near = (/** @type {number | undefined} */ one, /** @type {number} */ other) => Math.abs((one ?? NaN) - other) <= Math.max(1, (to - from) / 20);
    return near(first, from) && near(last, to);
  };
  const around = await drag(0.7, 0.85);
  assert.ok(around.from > 650_000 && around.from < SPIKE && around.to > SPIKE && around.to < 900_000, JSON.stringify(around));
  await until("finer points", () => shows(around.from, around.to));
  assert.equal(await highest(), 9);
  await shot(page, "job-million-zoomed");
  await chart.focus();
  for (let press = 0; press < 7; press++) await page.keyboard.press("+");
  await until("every point of a small range", async () => {
    const width = asked ? asked.to - asked.from : Infinity;
    return asked && width < 2400 && (await shows(asked.from, asked.to)) && Number(await chart.getAttribute("data-points")) > width;
  });
  await page.mouse.dblclick(...(await middle(page)));
  await until("the whole", async () => (await chart.getAttribute("data-zoom")) === "" && (await shows(1, POINTS)));
  assert.equal(await highest(), 9);
  await drag(0.4, 0.41);
  await until("a zoom", () => chart.getAttribute("data-zoom"));
  /** @type {string[]} */
  const odd = [];
  page.on("response", (answer) => { if (answer.status() >= 400) odd.push(`${answer.status()} ${answer.url()}`); });
  await chart.focus();
  for (let press = 0; press < 80; press++) await page.keyboard.press("-");
  await until("the whole again", async () => (await chart.getAttribute("data-zoom")) === "" && (await shows(1, POINTS)));
  for (let press = 0; press < 80; press++) await page.keyboard.press("ArrowRight");
  await page.keyboard.press("+");
  await until("a half", async () => asked && asked.from > 200_000 && (await shows(asked.from, asked.to)));
  assert.deepEqual(odd, [], "no key asks for what the server does not understand");
  assert.ok(Number(await chart.getAttribute("data-points")) < 10_000, "nor reads every event");
  await page.keyboard.press("0");
  const quiet = await drag(0.1, 0.3);
  assert.ok(quiet.to < SPIKE);
  await until("only the range", () => shows(quiet.from, quiet.to));
  assert.ok((await highest()) < 2);
  await page.locator(".segments").getByText("Relative time", { exact: true }).click();
  await until("the whole time", () => shows(0, POINTS / 10));
  await drag(0.5, 0.6);
  const [from = NaN, to = NaN] = ((await chart.getAttribute("data-zoom")) ?? "").split(",").map(Number);
  assert.ok(from > 40_000 && to < 70_000, `zoomed to ${from} to ${to} seconds`);
  await until("the same seconds of it", () => shows(from, to));
  await page.context().close();
});

test("ten thousand jobs scroll, and are searched as one types", async () => {
  const page = await stage.page("#/jobs");
  await page.getByText(`${(JOBS + 1).toLocaleString("en-US")} of`).waitFor();
  const list = page.getByTestId("jobs");
  const { median, longest, rows } = await best(() => list.evaluate(async (element) => {
    /** @type {number[]} */
    const frames = [];
    let rows = 0;
    let before = await new Promise(requestAnimationFrame);
    for (let part = 0; part <= 120; part++) {
      element.scrollTop = (element.scrollHeight * part) / 120;
      const now = await new Promise(requestAnimationFrame);
      frames.push(now - before);
      before = now;
      rows = Math.max(rows, document.querySelectorAll("[data-job]").length);
    }
    frames.sort((a, b) => a - b);
    return { median: frames[Math.floor(frames.length / 2)] ?? NaN, longest: frames.at(-1) ?? NaN, rows };
  }), ({ median, longest }) => median < MEDIAN_FRAME_MS && longest < LONGEST_FRAME_MS);
  console.log(`frames while scrolling ${JOBS} jobs: median ${median.toFixed(0)} ms, longest ${longest.toFixed(0)} ms`);
  assert.ok(median < MEDIAN_FRAME_MS, `the median frame takes ${median} ms`);
  assert.ok(longest < LONGEST_FRAME_MS, `the longest frame takes ${longest} ms`);
  assert.ok(rows > 0 && rows < 80, `${rows} rows in the document`);
  await page.getByLabel("Search jobs by name or id").fill("filler-9999");
  await page.locator('[data-job="filler-9999"]').waitFor();
  await shot(page, "jobs-many");
  await page.context().close();
});

test("a zoom stays where it is while points come by the hundred", async () => {
  const job = await stage.server.train("busy");
  const page = await stage.page(`#/jobs/${job}`);
  const chart = page.getByTestId("chart");
  await until("a thousand points", async () => Number(await chart.getAttribute("data-points")) > 1000);
  const [x, y] = await middle(page);
  await page.mouse.move(x - 200, y);
  await page.mouse.down();
  await page.mouse.move(x + 100, y, { steps: 5 });
  await page.mouse.up();
  const zoom = String(await until("a zoom", () => chart.getAttribute("data-zoom")));
  const said = async () => Number(/of ([\d,]+) points/.exec((await chart.getAttribute("aria-label")) ?? "")?.[1]?.replaceAll(",", ""));
  const before = await said();
  await until("2000 more points", async () => (await said()) > before + 2000);
  assert.equal(await chart.getAttribute("data-zoom"), zoom);
  await page.mouse.dblclick(x, y);
  await until("the whole", async () => Number((await chart.getAttribute("data-range"))?.split(",")[1]) > before + 2000);
  assert.equal(await chart.getAttribute("data-zoom"), "");
  await page.context().close();
  await stage.server.ask("POST", `/api/jobs/${job}/cancel`);
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
  let middle = NaN;
  /** @type {number[]} */
  const frames = [];
  while (Date.now() - begun < seconds * 1000) {
    if (Number.isNaN(middle) && Date.now() - begun > seconds * 500) middle = await heap();
    frames.push(await page.evaluate(async () => {
      const begun = performance.now();
      await new Promise((go) => setTimeout(go, 50));
      return performance.now() - begun - 50;
    }));
  }
  const last = await heap();
  // What was sent until now is shown, sooner or later.
  const [due, asked] = [from + (RATE * 0.9 * (Date.now() - begun)) / 1000, Date.now()];
  await until("what was sent until now", async () => (await newest()) >= due);
  const lag = Date.now() - asked;
  frames.sort((a, b) => a - b);
  const late = frames[Math.floor(frames.length * 0.95)] ?? NaN;
  console.log(`${RATE} events/s for ${seconds} s: the newest of them shown ${lag} ms later, 95 % of timers at most ${late.toFixed(0)} ms late, heap ${first.toFixed(1)} MB, half way ${middle.toFixed(1)} MB, then ${last.toFixed(1)} MB`);
  assert.ok(lag < 10_000, `the page is ${lag} ms behind`);
  assert.ok(late < 500, `timers are ${late} ms late`);
  // However long it goes on: what is kept is full by half the time.
  assert.ok(last < middle + HEAP_NOISE_MB, `heap grew from ${middle} to ${last} MB in the second half`);
  assert.equal(await page.getByTestId("events").getAttribute("data-count"), "500");
  await page.context().close();
});
