import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, afterEach, test } from "node:test";

import { handwritten } from "./handwritten.ts";
import { compiled } from "./places.ts";

const folder = mkdtempSync(join(tmpdir(), "midrun-worker-"));
after(() => rmSync(folder, { recursive: true }));

type Reply = { [key: string]: any };

class Worker {
  readonly child: ChildProcess;
  readonly replies: AsyncIterator<string>;
  readonly exited: Promise<number | string>;
  #id = 0;

  constructor(flags: string[]) {
    this.child = spawn(process.execPath, [...flags, compiled("inspector-worker.js")], { stdio: ["ignore", "pipe", "ignore", "pipe"] });
    this.child.stdout?.resume();
    this.replies = createInterface({ input: this.socket })[Symbol.asyncIterator]();
    this.exited = new Promise((resolve) => this.child.on("exit", (code, signal) => resolve(code ?? (signal as string))));
  }

  get socket(): Socket {
    return this.child.stdio[3] as Socket;
  }

  ask(path: string): number {
    this.#id += 1;
    this.socket.write(`${JSON.stringify({ id: this.#id, path })}\n`);
    return this.#id;
  }

  async reply(): Promise<Reply> {
    const { value, done } = await this.replies.next();
    if (done) throw new Error("the worker ended");
    return JSON.parse(value) as Reply;
  }

  async inspect(text: string): Promise<Reply> {
    const id = this.ask(artifact(text));
    const reply = await this.reply();
    assert.equal(reply["id"], id);
    return reply;
  }
}

let artifacts = 0;

function artifact(text: string): string {
  artifacts += 1;
  const path = join(folder, `build-${artifacts}`);
  mkdirSync(path);
  writeFileSync(join(path, "index.mjs"), text);
  return join(path, "index.mjs");
}

const workers: Worker[] = [];
afterEach(() => workers.splice(0).forEach(({ child }) => child.kill("SIGKILL")));

async function worker(flags = ["--experimental-vm-modules", "--no-warnings"]): Promise<Worker> {
  const made = new Worker(flags);
  workers.push(made);
  assert.deepEqual(await made.reply(), { hello: true, node: process.version });
  return made;
}

function withConfig(config: string, before = ""): string {
  return handwritten({ before }).replace(/const config = .*/, `const config = ${config};`);
}

test("the facts about a trainer", async () => {
  const one = await worker();
  const reply = await one.inspect(handwritten());
  const { evaluateMs, rssBytes, id: _id, callbacks, ...facts } = reply;
  assert.deepEqual(facts, {
    ok: true, trainer: { name: "hand" }, config: '{"model":"m","learningRate":0.001}', canSwap: true, canEarlyStop: true, brand: "arkor",
  });
  assert.ok(evaluateMs > 0 && rssBytes > 1e7);
  assert.deepEqual(Object.keys(callbacks), ["onTick"]);
  const same = await one.inspect(handwritten({ learningRate: 1 }));
  const edited = await one.inspect(handwritten({ tag: "v2" }));
  assert.equal(same["callbacks"].onTick, callbacks.onTick);
  assert.notEqual(edited["callbacks"].onTick, callbacks.onTick);
});

test("the facts about a trainer of createTrainer, of one without abilities, and of none", async () => {
  const one = await worker();
  const made = await one.inspect(`import { createTrainer } from ${JSON.stringify(compiled("index.js"))};
export default createTrainer({ name: "sdk", model: "m", dataset: { type: "inline" }, lora: { r: 1, alpha: 2 }, maxSteps: undefined, callbacks: { onLog() {}, onFailed() {} } });`);
  assert.deepEqual([made["trainer"].name, made["config"], Object.keys(made["callbacks"]), made["brand"]], [
    "sdk", '{"model":"m","datasetSource":{"type":"inline"},"loraR":1,"loraAlpha":2}', ["onLog", "onFailed"], "midrun",
  ]);
  const bare = await one.inspect(handwritten({ abilities: [] }));
  assert.deepEqual([bare["trainer"].name, bare["config"], bare["callbacks"], bare["canSwap"], bare["canEarlyStop"], bare["brand"]], [
    "hand", null, {}, false, false, null,
  ]);
  const none = await one.inspect("export const a = 1;");
  assert.deepEqual([none["ok"], none["trainer"]], [true, null]);
  assert.match(none["hint"], /no trainer found/);
});

test("the config is what JSON.stringify sends, or its error", async () => {
  const one = await worker();
  const cases: [config: string, sent: string | null | RegExp][] = [
    ["{ b: 1, a: undefined, c: [undefined, , 1], d: new Number(3), e: NaN, f: -0 }", '{"b":1,"c":[null,null,1],"d":3,"e":null,"f":0}'],
    ["{ at: { toJSON: () => ({ x: 1 }) } }", '{"at":{"x":1}}'],
    ["undefined", null],
    ["() => 1", null],
    ["null", "null"],
    ["{ a: 1n }", /serialize a BigInt/],
    ["(() => { const c = {}; c.self = c; return c; })()", /circular structure/],
    ["{ toJSON() { throw new RangeError('from toJSON'); } }", /from toJSON/],
  ];
  for (const [config, sent] of cases) {
    const reply = await one.inspect(withConfig(config));
    if (sent instanceof RegExp) assert.match(reply["error"].message, sent);
    else assert.deepEqual([reply["config"], reply["ok"]], [sent, true], config);
  }
});

test("what the artifact does wrong is told with its stack, and the worker lives on", async () => {
  const one = await worker();
  const cases: [text: string, name: string, message: RegExp][] = [
    ["\n\nfunction inner() { throw new RangeError('boom'); }\ninner();", "RangeError", /^boom$/],
    ["throw 'a text';", "thrown value", /^a text$/],
    ["throw { toString() { throw 1; }, toJSON() { throw 2; } };", "thrown value", /cannot be shown/],
    ["throw null;", "thrown value", /null/],
    ["export const = 1;", "SyntaxError", /Unexpected token/],
    ["import 'no-such-package';", "Error", /Cannot find package 'no-such-package' imported from .*build-/],
    ["import { nothing } from 'node:fs';", "SyntaxError", /nothing/],
    ["Promise.reject(new TypeError('nobody cares'));", "TypeError", /nobody cares/],
    ["queueMicrotask(() => { throw new Error('thrown later'); }); await new Promise((turn) => setTimeout(turn, 20));", "Error", /thrown later/],
    ["await import('./no-such-chunk.mjs');", "Error", /no-such-chunk/],
  ];
  for (const [text, name, message] of cases) {
    const { ok, error } = await one.inspect(text);
    assert.deepEqual([ok, error.name], [false, name], text);
    assert.match(error.message, message);
  }
  const { error } = await one.inspect("\n\nfunction inner() { throw new RangeError('boom'); }\n  inner();");
  assert.match(error.stack, /RangeError: boom\n {4}at inner \(file:.*index\.mjs:3:26\)\n {4}at file:.*index\.mjs:4:3/);
  assert.equal((await one.inspect(handwritten()))["ok"], true);
});

test("printing at import does not disturb the line", async () => {
  const one = await worker();
  const before = "console.log('{\"id\":1,\"ok\":true}'); console.error('noise'); process.stdout.write('x'.repeat(300000));";
  assert.equal((await one.inspect(handwritten({ before })))["trainer"].name, "hand");
});

test("process.exit() at import is told before the worker ends", async () => {
  const one = await worker();
  assert.deepEqual(await one.inspect("process.exit(7);"), { id: 1, exit: 7 });
  assert.equal(await one.exited, "SIGKILL");
});

test("a stray exception after the answer is told and survived", async () => {
  const one = await worker();
  assert.equal((await one.inspect(handwritten({ before: "setTimeout(() => { throw new Error('stray'); }, 30);" })))["ok"], true);
  assert.equal((await one.reply())["stray"].message, "stray");
  assert.equal((await one.inspect(handwritten()))["ok"], true);
});

test("an await that hangs holds up nobody", async () => {
  const one = await worker();
  one.ask(artifact("await new Promise(() => {});"));
  const id = one.ask(artifact(handwritten()));
  assert.deepEqual(await one.reply(), { id, started: true });
  assert.equal((await one.reply())["trainer"].name, "hand");
});

for (const [kind, flags] of [["as collectable modules", ["--experimental-vm-modules", "--no-warnings"]], ["by plain import()", []]] as const) {
  test(`what an artifact can rely on, ${kind}`, async () => {
    const one = await worker([...flags]);
    const path = artifact(`
import fs, { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import data from "./data.json" with { type: "json" };
import own from "own-package";
const chunk = await import("./chunk.mjs");
const [dirname, filename, url] = [import.meta.dirname, import.meta.filename, import.meta.url];
const config = {
  same: fs.readFileSync === readFileSync, data: data.value, own, chunk: chunk.default,
  url: url.split("?")[0], dirname, filename,
  requires: createRequire(url)("node:path").sep, global: globalThis.process === process,
  missing: await import("no-such-package").catch((error) => error.code),
};
export const trainer = { name: "t", start() {}, wait() {}, cancel() {}, [Symbol.for("midrun.trainer.inspect")]: () => ({ config }) };
`);
    const here = join(path, "..");
    const own = join(here, "node_modules", "own-package");
    mkdirSync(own, { recursive: true });
    writeFileSync(join(own, "package.json"), '{"name":"own-package","type":"module","exports":{"import":"./yes.js"}}');
    writeFileSync(join(own, "yes.js"), "export default 'own';");
    writeFileSync(join(here, "data.json"), '{"value":5}');
    writeFileSync(join(here, "chunk.mjs"), "export default 'chunk';");
    const id = one.ask(path);
    const reply = await one.reply();
    assert.equal(reply["id"], id);
    assert.ok(reply["ok"], reply["error"]?.stack);
    assert.deepEqual(JSON.parse(reply["config"]), {
      same: true, data: 5, own: "own", chunk: "chunk", url: `file://${path}`, dirname: here, filename: path, requires: "/", global: true,
      missing: "ERR_MODULE_NOT_FOUND",
    });
  });

  test(`import.meta.resolve, ${kind}`, async () => {
    const one = await worker([...flags]);
    const reply = await one.inspect(withConfig("[resolve('node:fs'), resolve('./x.mjs').endsWith('/x.mjs')]", "const { resolve } = import.meta;"));
    assert.equal(reply["config"], '["node:fs",true]');
  });

  test(`the same path is evaluated anew each time, ${kind}`, async () => {
    const one = await worker([...flags]);
    const path = artifact("globalThis.times = (globalThis.times ?? 0) + 1; if (globalThis.times < 3) throw new Error(`time ${globalThis.times}`);");
    const answers: string[] = [];
    for (let count = 0; count < 3; count += 1) {
      one.ask(path);
      const reply = await one.reply();
      answers.push(reply["error"]?.message ?? "ok");
    }
    assert.deepEqual(answers, ["time 1", "time 2", "ok"]);
  });
}

test("a worker whose host is gone ends", async () => {
  const one = await worker();
  one.socket.destroy();
  assert.equal(await one.exited, 0);
});

test("memory stays flat over artifacts that all differ", async () => {
  const one = await worker();
  const filler = Array.from({ length: 2_000 }, (_, index) => `function f${index}(x) { return x + ${index} * ${Math.random()}; }`).join("\n");
  const sizes: number[] = [];
  for (let count = 0; count < 60; count += 1) {
    const reply = await one.inspect(`${filler}\n${handwritten({ tag: `n${count}` })}`);
    sizes.push(reply["rssBytes"] / 2 ** 20);
  }
  const [early, late] = [Math.max(...sizes.slice(20, 30)), Math.max(...sizes.slice(50))];
  // Each of these bundles would leave behind about 0.5 MB, 15 MB for the thirty between.
  assert.ok(late - early < 6, `${early.toFixed(1)} MB after 30, ${late.toFixed(1)} MB after 60`);
});
