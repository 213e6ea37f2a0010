// A server, a browser and a page on it, and what every test asks of a page.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { chromium } from "playwright-core";

import { Project, Server } from "./server.mjs";

const OUT = resolve(import.meta.dirname, "../out/screenshots");
export const LIMIT_MS = 60_000;
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--js-flags=--expose-gc",
];
const AXE = readFileSync(resolve(import.meta.dirname, "node_modules/axe-core/axe.min.js"), "utf8");
/** What a browser says of an answer that is a "no": the page shows those, and tests look at that. */
const REFUSED = /^Failed to load resource: the server responded with a status of [45]\d\d/;
/** What a browser says of a connection that was not made or broke. */
const BROKEN = /\bnet::ERR_[A-Z_]+/;

export class Stage {
  /** @param {(project: Project) => void} [prepare] */
  static async set(prepare) {
    mkdirSync(OUT, { recursive: true });
    const project = new Project();
    prepare?.(project);
    // First of all what a machine may lack: nothing is left running if it does.
    const browser = await chromium.launch({ executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium", args: FLAGS });
    const server = await Server.start(project).catch(async (error) => { await browser.close(); throw error; });
    return new Stage(project, server, browser);
  }

  /** @param {Project} project @param {Server} server @param {import("playwright-core").Browser} browser */
  constructor(project, server, browser) {
    this.project = project;
    this.server = server;
    this.browser = browser;
    /** @type {string[]} */
    this.complaints = [];
    /** Whether a test has announced that the server cannot be reached. */
    this.isAway = false;
    /** @type {WeakSet<import("playwright-core").Page>} */
    this.cutOff = new WeakSet();
  }

  /** @param {import("playwright-core").Page} page @param {import("playwright-core").ConsoleMessage} message */
  hear(page, message) {
    const text = message.text();
    if (message.type() !== "error" || REFUSED.test(text)) return;
    if (BROKEN.test(text) && (this.isAway || this.cutOff.has(page))) return;
    this.complaints.push(`${text} (${message.location().url})`);
  }

  /** @param {string} hash @param {import("playwright-core").BrowserContextOptions} [options] */
  async page(hash = "#/", options = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(LIMIT_MS);
    page.on("pageerror", (error) => this.complaints.push(`${error}`));
    page.on("console", (message) => this.hear(page, message));
    await page.goto(`${this.server.url}/${hash}`);
    return page;
  }

  /** Kills the server as a power cut does. Until `restart`, and until every page is live again, connections may break. */
  async kill() {
    this.isAway = true;
    await this.server.kill();
  }

  /** Stops the server and its runs. */
  async stop() {
    this.isAway = true;
    await this.server.stop();
  }

  /** Starts another server in place of the one that was killed or stopped. @param {number} port */
  async restart(port) {
    this.server = await Server.start(this.project, port);
    await Promise.all(this.browser.contexts().flatMap((context) => context.pages()).map(live));
    this.isAway = false;
  }

  /** While `act` runs, `page` has no event stream. @param {import("playwright-core").Page} page @param {() => Promise<void>} act */
  async withoutEvents(page, act) {
    this.cutOff.add(page);
    await page.route(EVENTS, (route) => route.abort());
    await act();
    await page.unroute(EVENTS);
    await live(page);
    this.cutOff.delete(page);
  }

  async strike() {
    await this.browser.close();
    await this.server.stop();
    // A run's host goes a moment after its last word.
    let left = this.project.leftovers();
    for (const end = Date.now() + 20_000; left.length > 0 && Date.now() < end; left = this.project.leftovers()) {
      await new Promise((wake) => setTimeout(wake, 50));
    }
    this.project.remove();
    assert.deepEqual(left, [], "processes are left");
    assert.deepEqual(this.complaints, [], "the page complained");
  }
}

const EVENTS = "**/api/events**";
/** @param {import("playwright-core").Page} page */
const live = (page) => page.getByTestId("link").getByText("Live").waitFor();

/** @param {import("playwright-core").Page} page @param {string} name */
export const shot = (page, name) => page.screenshot({ path: join(OUT, `${name}.png`), fullPage: true });

/** Nothing that axe calls serious or critical. @param {import("playwright-core").Page} page @param {string} where */
export async function isAccessible(page, where) {
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    const axe = /** @type {any} */ (globalThis).axe;
    const { violations } = await axe.run();
    return violations
      .filter((/** @type {any} */ { impact }) => impact === "serious" || impact === "critical")
      .map((/** @type {any} */ { id, nodes }) => `${id}: ${nodes.map((/** @type {any} */ node) => `${node.target} (${node.any[0]?.message ?? ""})`).join(", ")}`);
  });
  assert.deepEqual(found, [], where);
}

/** @param {import("playwright-core").Page} page @param {number} width @param {string} where */
export async function fits(page, width, where) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= width, `${where} is ${wide} px wide`);
}

/** The content of what `act` makes the page save. @param {import("playwright-core").Page} page @param {() => Promise<void>} act */
export async function saved(page, act) {
  const [download] = await Promise.all([page.waitForEvent("download"), act()]);
  return { name: download.suggestedFilename(), text: readFileSync(await download.path(), "utf8") };
}
