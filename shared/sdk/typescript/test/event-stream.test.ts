import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import { EventStreamParser, followEvents, type StreamEvent } from "../src/event-stream.ts";

const TEXT = [
  "\uFEFF: a comment\r\nid: 1\r\nevent: a\r\ndata: one\r\n\r\n",
  "data:two\ndata: lines\n\n",
  "id: 2\rdata\r\r",
  "retry: 77\nid: 3\nevent: empty\n\n",
  "id: with\0null\nignored: x\ndata: {\"é\": \"日本 😀\"}\n\n",
  "data: never ended\n",
].join("");

const EXPECTED: StreamEvent[] = [
  { id: "1", event: "a", data: "one" },
  { id: "1", event: "message", data: "two\nlines" },
  { id: "2", event: "message", data: "" },
  { id: "3", event: "message", data: '{"é": "日本 😀"}' },
];

test("events come out the same wherever the text is cut", () => {
  for (let first = 0; first <= TEXT.length; first += 1) {
    for (const second of [first, Math.min(TEXT.length, first + 1), TEXT.length]) {
      const parser = new EventStreamParser();
      const parts = [TEXT.slice(0, first), TEXT.slice(first, second), TEXT.slice(second)];
      assert.deepEqual(parts.flatMap((part) => parser.push(part)), EXPECTED, `cut at ${first} and ${second}`);
      assert.equal(parser.retryMs, 77);
    }
  }
});

test("an event without an end does not fill the memory", () => {
  const parser = new EventStreamParser();
  const megabyte = `data: ${"x".repeat(1024 * 1024)}\n`;
  assert.throws(() => {
    for (let count = 0; count < 20; count += 1) parser.push(megabyte);
  }, /more than 16 MiB/);
  assert.throws(() => new EventStreamParser().push("x".repeat(17 * 1024 * 1024)), /more than 16 MiB/);
});

test("a connection that falls silent is opened again; one that waits for its reader is not", async () => {
  const asked: (string | undefined)[] = [];
  const server = createServer((request, response) => {
    asked.push(request.headers["last-event-id"] as string | undefined);
    response.writeHead(200, { "content-type": "text/event-stream" });
    const first = 2 * asked.length - 1;
    response.write(`retry: 1\n\nid: ${first}\ndata: ${first}\n\nid: ${first + 1}\ndata: ${first + 1}\n\n`);
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as AddressInfo;
  const leave = new AbortController();
  const events = followEvents({
    open: (after, { signal }) => fetch(`http://127.0.0.1:${port}/`, { signal, headers: after === undefined ? {} : { "last-event-id": after } }),
    signal: leave.signal,
    awayMs: 60_000,
    silentMs: 40,
  });
  const read: string[] = [];
  for await (const { data } of events) {
    read.push(data);
    // Longer than the silence that is allowed.
    if (data === "1") await new Promise((later) => setTimeout(later, 120));
    if (data === "6") break;
  }
  assert.deepEqual(read, ["1", "2", "3", "4", "5", "6"]);
  assert.deepEqual(asked, [undefined, "2", "4"]);
  server.closeAllConnections();
  server.close();
});

test("leaving ends the stream with the reason, while it is opened and while it is silent", async () => {
  for (const answers of [false, true]) {
    let seen = () => {};
    const asked = new Promise<void>((resolve) => (seen = resolve));
    const server = createServer((_request, response) => {
      if (answers) response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
      seen();
    });
    await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
    const { port } = server.address() as AddressInfo;
    const leave = new AbortController();
    const open = (_after: string | undefined, { signal }: AbortController) => fetch(`http://127.0.0.1:${port}/`, { signal });
    const next = followEvents({ open, signal: leave.signal, awayMs: 60_000, silentMs: 60_000 }).next();
    await asked;
    leave.abort(new Error("left"));
    await assert.rejects(next, /left/);
    server.closeAllConnections();
    server.close();
  }
});
