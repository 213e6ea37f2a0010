import assert from "node:assert/strict";
import { after, test } from "node:test";

import { handwritten } from "./handwritten.ts";
import { cleanUp, moduleFile, RunnerProcess } from "./runner-process.ts";

after(cleanUp);

async function running(options = {}): Promise<RunnerProcess> {
  const runner = new RunnerProcess(moduleFile(handwritten()), options);
  await runner.printed("TICK v1");
  return runner;
}

async function stop(runner: RunnerProcess): Promise<void> {
  runner.ring("SIGTERM");
  assert.equal(await runner.exited, 0);
}

test("new code that cannot be taken over leaves the run as it was, and says why", async () => {
  const runner = await running();
  const cases: [text: string, reason: RegExp][] = [
    [handwritten({ learningRate: 0.5 }), /config is another/],
    ["throw new TypeError('boom');", /failed while it was imported: TypeError: boom/],
    ["export const = 1;", /failed while it was imported: SyntaxError/],
    ["import 'no-such-package';", /no-such-package/],
    ["export const a = 1;", /offers no trainer/],
    [handwritten({ abilities: ["replaceCallbacks"] }), /does not show its callbacks/],
    [handwritten().replace("callbacks: { onTick }", "get callbacks() { throw new Error('from the getter'); }"), /from the getter/],
    [handwritten().replace("config, callbacks", "callbacks"), /without its config/],
  ];
  for (const [index, [text, reason]] of cases.entries()) {
    runner.swap(moduleFile(text), `hash-${index}`);
    const skipped = await runner.message("swapSkipped", index + 1);
    assert.equal(skipped["contentHash"], `hash-${index}`);
    assert.match(skipped["reason"], reason);
  }
  const ticks = () => runner.stdout.split("TICK v1").length;
  const before = ticks();
  await runner.until("it goes on", () => ticks() > before);
  assert.ok(!runner.stdout.includes("REPLACED"));
  await stop(runner);
});

test("a signal that names nothing does nothing", async () => {
  const runner = await running();
  for (let count = 0; count < 20; count += 1) runner.ring();
  runner.swap(moduleFile(handwritten({ tag: "v2" })), "hash-2");
  await runner.message("swapped");
  runner.ring();
  await runner.printed("TICK v2");
  await stop(runner);
  assert.equal(runner.all("swapped").length, 1);
  assert.equal(runner.all("swapSkipped").length, 0);
});

test("of several artifacts only the newest is taken, and each is answered", async () => {
  const runner = await running();
  const block = "const until = Date.now() + 300; console.log('BLOCKED'); while (Date.now() < until);";
  runner.swap(moduleFile(handwritten({ tag: "slow", before: block })), "slow");
  await runner.printed("BLOCKED");
  for (let count = 0; count < 50; count += 1) runner.swap(moduleFile(handwritten({ tag: `n${count}` })), `hash-${count}`);
  await runner.until("all are answered", () => runner.all("swapped").length + runner.all("swapSkipped").length === 51);
  await runner.printed("TICK n49");
  const swapped = runner.all("swapped").map(({ contentHash }) => contentHash);
  assert.equal(swapped.at(-1), "hash-49");
  assert.ok(runner.all("swapSkipped").every(({ reason }) => reason === "superseded"));
  const answered = [...swapped, ...runner.all("swapSkipped").map(({ contentHash }) => contentHash)];
  assert.equal(new Set(answered).size, 51);
  await stop(runner);
});

test("new code that hangs while it is imported does not keep later code away", async () => {
  const runner = await running();
  runner.swap(moduleFile("console.log('HANGING'); await new Promise(() => {});"), "hanging");
  await runner.printed("HANGING");
  runner.swap(moduleFile(handwritten({ tag: "v3" })), "hash-3");
  assert.equal((await runner.message("swapped"))["contentHash"], "hash-3");
  assert.deepEqual(runner.all("swapSkipped"), [{ type: "swapSkipped", contentHash: "hanging", reason: "superseded" }]);
  await stop(runner);
});

test("old code that comes to its end after newer code is not taken any more", async () => {
  const runner = await running();
  const slow = "console.log('WAITING'); await new Promise((end) => process.once('SIGWINCH', end)); setTimeout(() => console.log('WAITED'), 20);";
  runner.swap(moduleFile(handwritten({ tag: "slow", before: slow })), "slow");
  await runner.printed("WAITING");
  runner.swap(moduleFile(handwritten({ tag: "v3" })), "hash-3");
  await runner.message("swapped");
  runner.ring("SIGWINCH");
  await runner.printed("WAITED");
  await stop(runner);
  assert.equal(runner.stdout.split("REPLACED").length, 2);
  assert.deepEqual(runner.all("swapped").map(({ contentHash }) => contentHash), ["hash-3"]);
});

test("earlier bytes are executed anew", async () => {
  const first = moduleFile(handwritten());
  const runner = new RunnerProcess(first);
  await runner.printed("TICK v1");
  const second = moduleFile(handwritten({ tag: "v2", before: "console.log('EVALUATED v2');" }));
  for (const [index, path] of [second, first, second, first].entries()) {
    runner.swap(path, `hash-${index}`);
    await runner.message("swapped", index + 1);
    const tag = path === first ? "TICK v1" : "TICK v2";
    const from = runner.stdout.length;
    await runner.until(`${tag} again`, () => runner.stdout.indexOf(tag, from) >= 0);
  }
  assert.equal(runner.stdout.split("EVALUATED v2").length, 3);
  await stop(runner);
});

test("no swap into a run that is stopping", async () => {
  const runner = new RunnerProcess(moduleFile(handwritten({ abilities: ["inspect", "replaceCallbacks"], cancel: "await new Promise((go) => process.once('SIGWINCH', go));" })));
  await runner.printed("TICK v1");
  runner.swap(moduleFile("console.log('HANGING'); await new Promise(() => {});"), "hanging");
  await runner.printed("HANGING");
  runner.ring("SIGTERM");
  await runner.printed("CANCEL-CALLED");
  runner.swap(moduleFile(handwritten({ tag: "v2" })), "late");
  await runner.message("swapSkipped", 2);
  runner.ring("SIGWINCH");
  assert.equal(await runner.exited, 0);
  assert.deepEqual(runner.all("swapSkipped").map(({ contentHash, reason }) => [contentHash, reason]), [
    ["hanging", "the run is stopping"],
    ["late", "the run is stopping"],
  ]);
});

test("the hot-swap signal is a setting", async () => {
  const runner = await running({ env: { MIDRUN_HOT_SWAP_SIGNAL: "SIGWINCH" } });
  runner.name(moduleFile(handwritten({ tag: "v2" })), "hash-2");
  runner.ring("SIGWINCH");
  await runner.message("swapped");
  await stop(runner);
  const refused = new RunnerProcess(moduleFile(handwritten()), { env: { MIDRUN_HOT_SWAP_SIGNAL: "SIGNOT" } });
  assert.equal(await refused.exited, 1);
  assert.match(refused.stderr, /MIDRUN_HOT_SWAP_SIGNAL is "SIGNOT"/);
});

test("a thousand swaps, each of which took", async () => {
  const runner = await running();
  const took: number[] = [];
  for (let count = 1; count <= 1_000; count += 1) {
    runner.swap(moduleFile(handwritten({ tag: `n${count}` })), `hash-${count}`);
    const swapped = await runner.message("swapped", count);
    assert.equal(swapped["contentHash"], `hash-${count}`);
    took.push(swapped["tookMs"]);
  }
  await runner.printed("TICK n1000");
  assert.equal(runner.stdout.split("REPLACED").length, 1_001);
  took.sort((a, b) => a - b);
  // A floor an order of magnitude above what it takes: a slow path on every swap would still show.
  assert.ok((took[500] as number) < 25, `median ${took[500]} ms`);
  await stop(runner);
});
