// Services in processes of their own: when one of them is away, the page says so.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import { chromium } from "playwright-core";

import { built, Project, until } from "./server.mjs";

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
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill(signal);
    const giveUp = setTimeout(() => this.child.kill("SIGKILL"), LIMIT_MS);
    await this.ended;
    clearTimeout(giveUp);
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
    await page.getByTestId("troubles").waitFor({ state: "detached" });
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

test("six processes: a page goes on when the registry was away, and when the control plane was", async () => {
  const six = new Project();
  /** @param {string} name */
  const gate = (name) => join(six.home, name);
  const steps = (/** @type {string} */ name) => [
    ["emit", { type: "training.log", step: 1, loss: 1 }], ["checkpoint", 1], ["await", gate(`${name}1`)],
    ["emit", { type: "training.log", step: 2, loss: 0.5 }], ["checkpoint", 2],
  ];
  six.script({ ending: [...steps("ending"), ["emit", { type: "training.completed" }]], staying: [...steps("staying"), ["await", gate("staying2")], ["checkpoint", 3], ["hold"]] });
  /** @type {Record<string, string>} */
  const variables = {};
  /** @param {string} service @param {Record<string, string>} more */
  const start = (service, more = {}) => {
    const started = new Process(six, [service], { MIDRUN_PEERS__LISTEN: "127.0.0.1:0", ...variables, ...more });
    processes.push(started);
    return started;
  };
  /** @param {string} service @param {string} variable @param {string} [event] */
  const place = async (service, variable, event = "serving") => {
    const started = start(service);
    variables[variable] = await started.told(event);
    return started;
  };
  await place("build-watcher", "MIDRUN_PEERS__BUILD_WATCHER");
  await place("manifest-inspector", "MIDRUN_PEERS__MANIFEST_INSPECTOR");
  await place("cancel-broker", "MIDRUN_PEERS__CANCEL_BROKER");
  const controlPlane = await place("control-plane", "MIDRUN_CONTROL_PLANE_URL", "control-plane");
  const registry = await place("train-registry", "MIDRUN_PEERS__TRAIN_REGISTRY");
  const edge = start("sse-gateway", { MIDRUN_GATEWAY__PORT: "0" });
  const url = await edge.told("listening");
  const browser = await chromium.launch({ executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium", args: FLAGS });
  try {
    /** @param {string} hash */
    const open = async (hash) => {
      const page = await (await browser.newContext()).newPage();
      page.setDefaultTimeout(LIMIT_MS);
      await page.goto(`${url}/${hash}`);
      return page;
    };
    const list = await open("#/");
    await list.getByRole("button", { name: /^Run training: / }).waitFor();
    /** @param {string} name */
    const train = (name) => list.evaluate(async (file) => {
      const token = /** @type {HTMLMetaElement} */ (document.querySelector('meta[name="midrun-token"]')).content;
      const answer = await fetch("/api/runs", { method: "POST", headers: { "x-midrun-token": token, "content-type": "application/json" }, body: JSON.stringify({ file }) });
      return (await answer.json()).run.id;
    }, `src/midrun/${name}.ts`);
    const [ending, staying] = [await train("ending"), await train("staying")];
    for (const run of [ending, staying]) await list.locator(`.run-card[data-run="${run}"]`).getByText("Training at step 1").waitFor();
    const page = await open(`#/runs/${staying}`);
    const log = page.getByTestId("log");
    await log.getByText("checkpoint at step 1").waitFor();
    await page.getByTestId("processes").getByText("scripted-executor").first().waitFor();
    const job = await open((await page.getByRole("region", { name: "Run" }).locator('a[href^="#/jobs/"]').getAttribute("href")) ?? "");
    await job.getByTestId("chart").waitFor();

    await registry.end("SIGKILL");
    await page.getByTestId("troubles").getByText("train-registry is away").waitFor();
    for (const name of ["ending1", "staying1"]) writeFileSync(gate(name), "");
    await page.getByText("The processes cannot be seen at the moment").waitFor();
    await page.getByText("The log cannot be read at the moment").waitFor();
    await job.locator(".page-head").getByText("running").waitFor();
    await (await start("train-registry", { MIDRUN_PEERS__LISTEN: new URL(variables["MIDRUN_PEERS__TRAIN_REGISTRY"] ?? "").host })).told("serving");
    await list.locator(".run-list li").filter({ hasText: ending.slice(-6) }).getByText("Finished").waitFor();
    await list.locator(`.run-card[data-run="${staying}"]`).getByText("Training at step 2").waitFor();
    await log.getByText("checkpoint at step 2").waitFor();
    for (const text of ["The log cannot be read", "The processes cannot be seen"]) await page.getByText(text).waitFor({ state: "detached" });
    await page.getByTestId("processes").getByText("scripted-executor").first().waitFor();
    await page.getByTestId("link").getByText("Live").waitFor();
    assert.equal(await log.getByText("checkpoint at step 1").count(), 1, "nothing is told twice");

    await controlPlane.end("SIGKILL");
    await job.getByText("Event stream interrupted.").waitFor();
    assert.notEqual(await job.getByTestId("link").textContent(), "Reconnecting", "the tab's own stream lives");
    const port = new URL(variables["MIDRUN_CONTROL_PLANE_URL"] ?? "").port;
    await start("control-plane", { MIDRUN_CONTROL_PLANE__PORT: port }).told("control-plane");
    writeFileSync(gate("staying2"), "");
    await job.getByText("Event stream interrupted.").waitFor({ state: "detached" });
    await log.getByText("checkpoint at step 3").waitFor();
    await list.locator(`.run-card[data-run="${staying}"]`).getByRole("button", { name: "Stop now" }).click();
    await list.locator(`.run-card[data-run="${staying}"]`).waitFor({ state: "detached" });
  } finally {
    await browser.close();
  }
  await Promise.all(processes.map((one) => one.end("SIGINT")));
  await until("the end of everything", async () => six.leftovers().length === 0);
  six.remove();
});
