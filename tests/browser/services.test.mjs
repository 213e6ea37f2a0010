// Services in processes of their own: when one of them is away, the page says so.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import { chromium } from "playwright-core";

import { built, Project } from "./server.mjs";

const LIMIT_MS = 60_000;
const FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const BEHIND = ["build-watcher", "manifest-inspector", "train-registry", "cancel-broker", "control-plane"];

/** A process with some of the services. */
class Process {
  /** @param {Project} project @param {string[]} services @param {Record<string, string>} variables */
  constructor(project, services, variables) {
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(MIDRUN|OTEL|ARKOR|XDG)/.test(name)));
    this.child = spawn(built("midrun"), ["serve", ...services, "--project", project.dir, "--json"], {
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...env, HOME: project.home, XDG_CONFIG_HOME: `${project.home}/config`, XDG_STATE_HOME: `${project.home}/state`,
        XDG_RUNTIME_DIR: `${project.home}/run`, ...variables,
      },
    });
    this.said = "";
    this.child.stderr.on("data", (bytes) => { this.said += bytes; });
    /** @type {Record<string, string>} */
    this.urls = {};
    /** @type {Map<string, () => void>} */
    this.awaited = new Map();
    createInterface({ input: this.child.stdout }).on("line", (line) => {
      const { event, url } = JSON.parse(line);
      if (url) this.urls[event] = url;
      this.awaited.get(event)?.();
    });
    this.ended = new Promise((end) => this.child.once("exit", end));
  }

  /** The address in the line of `event`. @param {string} event */
  async told(event) {
    if (!this.urls[event]) {
      await new Promise((/** @type {(value?: unknown) => void} */ found, failed) => {
        this.awaited.set(event, () => found());
        setTimeout(() => failed(new Error(`no line of ${event}: ${this.said}`)), LIMIT_MS).unref();
        void this.ended.then((code) => failed(new Error(`it ended with ${code}: ${this.said}`)));
      });
    }
    return /** @type {string} */ (this.urls[event]).replace(/\/$/, "");
  }

  /** @param {NodeJS.Signals} signal */
  async end(signal) {
    this.child.kill(signal);
    await this.ended;
  }
}

const project = new Project();
/** @type {Process[]} */
const processes = [];
/** @param {string[]} services @param {Record<string, string>} variables */
const serve = (services, variables) => {
  const started = new Process(project, services, variables);
  processes.push(started);
  return started;
};

after(async () => {
  await Promise.all(processes.map((one) => one.end("SIGKILL")));
  project.remove();
});

test("a service that is away is named in the status line until it is back", async () => {
  const behind = serve(BEHIND, { MIDRUN_PEERS__LISTEN: "127.0.0.1:0" });
  const address = await behind.told("serving");
  const edge = serve(["sse-gateway"], {
    MIDRUN_PEERS__LISTEN: "127.0.0.1:0", MIDRUN_GATEWAY__PORT: "0",
    MIDRUN_PEERS__TRAIN_REGISTRY: address, MIDRUN_PEERS__CANCEL_BROKER: address,
  });
  const browser = await chromium.launch({ executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium", args: FLAGS });
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(LIMIT_MS);
    await page.goto(`${await edge.told("listening")}/#/`);
    const link = page.getByTestId("link");
    await link.getByText("Live").waitFor();
    assert.equal(await page.getByTestId("troubles").count(), 0);
    await behind.end("SIGKILL");
    await page.getByTestId("troubles").getByText("train-registry is away; trying again.").waitFor();
    await link.getByText("Limited").waitFor();
    const again = serve(BEHIND, { MIDRUN_PEERS__LISTEN: new URL(address).host });
    await again.told("serving");
    await page.getByTestId("troubles").waitFor({ state: "detached" });
    await link.getByText("Live").waitFor();
  } finally {
    await browser.close();
  }
  await edge.end("SIGINT");
});
