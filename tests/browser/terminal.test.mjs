// Terminals: sessions in which one types, and a run that writes to a terminal.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { until } from "./server.mjs";
import { fits, isAccessible, shot, Stage } from "./stage.mjs";

const PROGRESS = `process.stdout.write("\\r\\u001b[32m" + "#".repeat(step % 30).padEnd(30) + "\\u001b[0m progress at " + step + " ");`;

/** @type {Stage} */
let stage;
/** @type {import("playwright-core").Page} */
let page;

before(async () => {
  stage = await Stage.set((project) => {
    project.small();
    // Marks of checkpoints would move the progress line out of the log's part that is drawn.
    project.edit("index.ts", (text) => text.replace("saveSteps: 40", "saveSteps: 1000000"));
    project.edit("callbacks.ts", (text) => text.replace(/console\.log\(`step.*\);/, PROGRESS).replace("const heldOut", "const _").replace("console.log(`checkpoint", "void (`checkpoint"));
    writeFileSync(join(project.dir, "midrun.toml"), "[run]\npty = true\n");
  });
  page = await stage.page("#/terminal");
});

after(() => stage?.strike());

/** @param {import("playwright-core").Page} [on] */
const screen = (on = page) => on.getByTestId("screen").locator(".xterm-rows");
/** @param {string} text @param {import("playwright-core").Page} [on] */
const shows = (text, on = page) => screen(on).getByText(text).first().waitFor();
const id = () => String(page.url().split("/").at(-1));
/** @param {string} text */
const type = async (text) => {
  await page.getByTestId("screen").getByRole("textbox").focus();
  await page.keyboard.type(text);
  await page.keyboard.press("Enter");
};

test("without a terminal the page says what one is", async () => {
  await page.getByText("No terminal is open").waitFor();
  await isAccessible(page, "no terminal");
  await shot(page, "terminal-none");
});

test("a shell is opened, typed into, and answers, on the tab's one stream", async () => {
  /** @type {string[]} */
  const streams = [];
  page.on("request", (request) => { if (request.headers()["accept"] === "text/event-stream") streams.push(new URL(request.url()).pathname); });
  await page.getByRole("button", { name: "New terminal" }).click();
  await until("a session", async () => /#\/terminal\/t\w+$/.test(page.url()));
  await page.getByTestId("screen").waitFor();
  await type("echo seen-$((6*7))");
  await shows("seen-42");
  await type("pwd");
  await shows("adder");
  assert.ok(streams.length > 0);
  assert.deepEqual([...new Set(streams)], ["/api/events"]);
});

test("the shell knows the screen's size", async () => {
  const told = async () => (await stage.server.ask("GET", `/api/terminals/${id()}`)).terminal;
  const { columns } = await until("the size of the screen", async () => { const now = await told(); return now.columns !== 80 && now; });
  await page.setViewportSize({ width: 900, height: 900 });
  const narrow = await until("a narrower size", async () => { const now = await told(); return now.columns < columns && now; });
  const box = await page.getByTestId("screen").boundingBox();
  assert.ok(box && box.height < 900 && box.height > narrow.rows * 10, `${narrow.rows} rows on ${box?.height} px`);
  await type("echo columns-$(tput cols)");
  await shows(`columns-${narrow.columns}`);
  await page.setViewportSize({ width: 1280, height: 900 });
});

test("commands that programs give are listed with how they ended", async () => {
  for (const [command, exitCode] of [["true", 0], ["(exit 3)", 3]]) {
    const told = await stage.server.ask("POST", `/api/terminals/${id()}/run`, { command });
    assert.deepEqual([told.completed, told.exitCode], [true, exitCode]);
  }
  const commands = page.locator(".commands li");
  await commands.filter({ hasText: "true" }).getByText("exit 0", { exact: true }).waitFor();
  await commands.filter({ hasText: "(exit 3)" }).getByText("exit 3", { exact: true }).waitFor();
  await commands.first().getByText(/ms|s$/).first().waitFor();
  await isAccessible(page, "a terminal");
  await shot(page, "terminal-session");
});

test("a reload and another tab show the same session", async () => {
  await page.reload();
  await shows("seen-42");
  const other = await stage.page(`#/terminal/${id()}`, { viewport: { width: 360, height: 740 }, colorScheme: "dark" });
  await shows("seen-42", other);
  await fits(other, 360, "a terminal on a phone");
  await isAccessible(other, "a terminal on a phone");
  await shot(other, "terminal-session-phone-dark");
  await type("echo to-both-$((1+1))");
  await shows("to-both-2", other);
  await other.context().close();
  await type("echo still-$((2+2))");
  await shows("still-4");
});

test("what a program asks of a terminal is answered once, by the screen that somebody is at, and never again", async () => {
  /** @type {string[]} */
  const answers = [];
  /** @param {import("playwright-core").Page} tab @param {string} name */
  const listen = (tab, name) => tab.on("request", (request) => {
    if (request.url().endsWith("/input") && request.postData()?.includes("\u001b[")) answers.push(name);
  });
  const other = await stage.page(`#/terminal/${id()}`);
  await shows("still-4", other);
  await other.evaluate(() => /** @type {HTMLElement} */ (document.activeElement).blur());
  listen(page, "here");
  listen(other, "there");
  await type("stty -echo; printf '\\033[>c'; IFS= read -r -d c -t 30 reply; stty echo; echo answered-${#reply}");
  for (const tab of [page, other]) await screen(tab).getByText(/^answered-[1-9]/).first().waitFor();
  assert.deepEqual(answers, ["here"]);
  await page.reload();
  await screen().getByText(/^answered-[1-9]/).first().waitFor();
  await type("echo quiet-$((6+1))");
  for (const tab of [page, other]) await shows("quiet-7", tab);
  assert.deepEqual(answers, ["here"]);
  await other.context().close();
});

test("the shell goes on while the server is away, and nothing is written twice", async () => {
  await type("echo once-$((3*3))");
  await shows("once-9");
  const { port } = stage.server;
  await stage.kill();
  await page.getByText("The shell goes on without it.").waitFor();
  await shot(page, "terminal-away");
  await stage.restart(port);
  await page.getByTestId("screen").waitFor();
  await shows("once-9");
  await type("echo back-$((5*5))");
  await shows("back-25");
  assert.equal(await screen().getByText(/^once-9/).count(), 1);
});

test("a session ends by itself or by a button", async () => {
  await type("exit 3");
  await page.getByText("the shell ended with 3").waitFor();
  await page.locator(".sessions li.selected").getByText("exited 3").waitFor();
  assert.ok(await page.getByRole("button", { name: "Close", exact: true }).isDisabled());
  const ended = id();
  await page.getByRole("button", { name: "New terminal" }).click();
  await until("another session", async () => id() !== ended);
  await type("echo second-$((4*4))");
  await shows("second-16");
  await page.getByRole("button", { name: "Close", exact: true }).click();
  await page.locator(".sessions li.selected").getByText("exited").waitFor();
  await page.goto(`${stage.server.url}/#/terminal/${ended}`);
  await shows("seen-42");
  await page.getByText("the shell ended with 3").waitFor();
  await shot(page, "terminal-ended");
  await page.goto(`${stage.server.url}/#/terminal/tnone`);
  await page.getByText(/no terminal tnone/).waitFor();
});

test("a run that has a terminal is shown as one; its progress bar is one line", async () => {
  const { run } = await stage.server.ask("POST", "/api/runs", {});
  await page.goto(`${stage.server.url}/#/runs/${run.id}`);
  await shows("progress at");
  await page.getByRole("radio", { name: "Terminal", checked: true }).waitFor();
  const steps = async () => (await screen().locator("> div").filter({ hasText: "progress at" }).allTextContents()).map((text) => Number(/.*progress at (\d+)/.exec(text)?.[1]));
  const [first] = await steps();
  await until("a later step in the same line", async () => { const now = await steps(); return now.length === 1 && (now[0] ?? 0) > (first ?? 0); });
  assert.equal(await page.getByTestId("screen").getAttribute("data-columns"), "160");
  await isAccessible(page, "a run's terminal");
  await fits(page, 1280, "a run's terminal");
  await shot(page, "run-terminal");
  await page.setViewportSize({ width: 360, height: 740 });
  await fits(page, 360, "a run's terminal on a phone");
  await shot(page, "run-terminal-phone");
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.getByText("Log", { exact: true }).click();
  const lines = page.getByTestId("log").getByText(/progress at \d+/);
  await lines.first().waitFor();
  assert.equal(await lines.count(), 1);
  await page.getByRole("button", { name: "Stop now" }).click();
  await page.locator(".page-head").getByText("Stopped").waitFor();
});
