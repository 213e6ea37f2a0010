import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { watchFirst } from "../src/first-callback.ts";
import type { RunnerMessage } from "../src/control-channel.ts";

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const code = { contentHash: "hash", traceparent };
const REGISTERED = Symbol.for("opentelemetry.js.api.1");

afterEach(() => void Reflect.deleteProperty(globalThis, REGISTERED));

function watched<T extends object>(callbacks: T, of = code as { contentHash: string; traceparent?: string }) {
  const sent: RunnerMessage[] = [];
  return { sent, callbacks: watchFirst(callbacks, of, (message) => sent.push(message)) as T };
}

test("without a trace the callbacks are the same object", () => {
  const mine = { onLog: () => 1 };
  assert.equal(watched(mine, { contentHash: "hash" }).callbacks, mine);
  assert.equal(watched(mine, { contentHash: "hash", traceparent: "00-a-b-01" }).callbacks, mine);
});

test("only the first call is told, and every call is made as it would be", async () => {
  class Counting {
    #count = 0;
    onLog(by: number) {
      return (this.#count += by);
    }
    async onCheckpoint() {
      return this.#count;
    }
  }
  const { callbacks, sent } = watched(new Counting());
  assert.equal(callbacks.onLog(2), 2);
  assert.equal(callbacks.onLog(3), 5);
  assert.equal(await callbacks.onCheckpoint(), 5);
  const [message, ...more] = sent;
  assert.deepEqual(more, []);
  assert.ok(message?.type === "callback" && message.tookMs >= 0);
  assert.deepEqual({ ...message, tookMs: 0 }, { type: "callback", name: "onLog", ok: true, tookMs: 0, ...code });
});

test("a callback that fails fails, and is told as that when it has", async () => {
  const throwing = watched({ onLog: () => assert.fail("sync") });
  assert.throws(() => throwing.callbacks.onLog(), /sync/);
  assert.ok(throwing.sent[0]?.type === "callback" && !throwing.sent[0].ok);
  let release = () => {};
  const gate = new Promise<void>((resolve) => (release = resolve));
  const rejecting = watched({ onLog: () => gate.then(() => assert.fail("async")) });
  const called = rejecting.callbacks.onLog();
  assert.equal(rejecting.sent.length, 0);
  release();
  await assert.rejects(called, /async/);
  assert.ok(rejecting.sent[0]?.type === "callback" && !rejecting.sent[0].ok);
});

test("a registered provider without an API to reach it by is as good as none", () => {
  Reflect.set(globalThis, REGISTERED, { trace: {} });
  const { callbacks, sent } = watched({ onLog: () => 7 });
  assert.equal(callbacks.onLog(), 7);
  assert.equal(sent.length, 1);
});
