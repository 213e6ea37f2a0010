import assert from "node:assert/strict";
import { test } from "node:test";
import { EventParser } from "../src/net/sse.ts";
import { TabStream, type Outside } from "../src/net/stream.ts";

test("events are the same wherever the text is cut", () => {
  const text = 'retry: 1000\n\n: keep-alive\n\nid: e-1\nevent: ready\ndata: {"a":"ü"}\n\n' +
    "id:e-2\r\nevent: run\r\ndata: one\r\ndata: two\r\n\r\ndata: 3\rid: e-3\r\rdata: cut off";
  const expected = [
    { name: "ready", data: '{"a":"ü"}', id: "e-1" },
    { name: "run", data: "one\ntwo", id: "e-2" },
    { name: "message", data: "3", id: "e-3" },
  ];
  for (let cut = 0; cut <= text.length; cut++) {
    const parser = new EventParser();
    const seen = [...parser.take(text.slice(0, cut)), ...parser.take(text.slice(cut))];
    assert.deepEqual(seen, expected, `cut at ${cut}`);
  }
});

/** A server that remembers how it was asked and says what it is told to. */
class Server implements Outside {
  readonly asked: { path: string; cursor: string | undefined; abort: AbortSignal }[] = [];
  readonly timers: { at: number; act: () => void }[] = [];
  to: ReadableStreamDefaultController<Uint8Array> | undefined;
  refuses = false;
  now = 0;

  async open(path: string, headers: Record<string, string>, abort: AbortSignal): Promise<Response> {
    this.asked.push({ path: decodeURIComponent(path), cursor: headers["last-event-id"], abort });
    if (this.refuses) throw new TypeError("no connection");
    const body = new ReadableStream<Uint8Array>({ start: (to) => { this.to = to; } });
    abort.addEventListener("abort", () => { try { this.to?.error(new Error("aborted")); } catch { /* over */ } });
    return new Response(body);
  }

  later(ms: number, act: () => void) {
    const timer = { at: this.now + ms, act };
    this.timers.push(timer);
    return () => {
      const place = this.timers.indexOf(timer);
      if (place >= 0) this.timers.splice(place, 1);
    };
  }

  random() {
    return 0.5;
  }

  /** Lets time pass, and everything that was waiting for it happen. */
  async pass(ms: number) {
    this.now += ms;
    for (const due of this.timers.filter(({ at }) => at <= this.now)) {
      this.timers.splice(this.timers.indexOf(due), 1);
      due.act();
    }
    for (let n = 0; n < 20; n++) await new Promise((go) => setImmediate(go));
  }

  async say(topic: string, id: string, data: unknown = null) {
    this.to?.enqueue(new TextEncoder().encode(`id: c\ndata: ${JSON.stringify({ topic, event: "x", id, data })}\n\n`));
    await this.pass(0);
  }
}

function setup() {
  const server = new Server();
  const stream = new TabStream(server);
  const seen: string[] = [];
  const on = ({ topic, id }: { topic: string; id?: string }) => seen.push(`${topic} ${id}`);
  return { server, stream, seen, on };
}

test("topics named together are one request, and each goes on from its own place", async () => {
  const { server, stream, seen, on } = setup();
  stream.follow("dev", on);
  stream.follow("job:a,b", on, "41");
  await server.pass(50);
  assert.equal(server.asked.length, 1);
  assert.equal(server.asked[0]?.path, "/api/events?topics=dev,job:a%2Cb");
  assert.equal(server.asked[0]?.cursor, "job:a%2Cb~41");
  assert.equal(stream.link.value, "live");
  await server.say("job:a,b", "42");
  await server.say("dev", "e-1");
  await server.say("unknown", "1");
  assert.deepEqual(seen, ["job:a,b 42", "dev e-1"]);
});

test("who follows a topic from its beginning gets it from there, though the stream of before still speaks", async () => {
  const { server, stream, seen, on } = setup();
  const leave = stream.follow("job:a", on);
  await server.pass(50);
  await server.say("job:a", "7");
  leave();
  stream.follow("job:a", on);
  await server.say("job:a", "8");
  await server.pass(50);
  assert.equal(server.asked.length, 2);
  assert.equal(server.asked[1]?.cursor, undefined);
  await server.say("job:a", "1");
  assert.deepEqual(seen, ["job:a 7", "job:a 1"]);
});

test("a stream that breaks goes on behind the last event, with longer and longer pauses", async () => {
  const { server, stream, seen, on } = setup();
  stream.follow("run:r1", on);
  await server.pass(50);
  await server.say("run:r1", "7");
  server.refuses = true;
  server.to?.close();
  await server.pass(0);
  assert.equal(stream.link.value, "away");
  await server.pass(300);
  assert.equal(server.asked.length, 2);
  await server.pass(300);
  assert.equal(server.asked.length, 2, "the second pause is longer");
  server.refuses = false;
  await server.pass(600);
  assert.equal(server.asked.length, 3);
  assert.equal(server.asked[2]?.cursor, "run:r1~7");
  assert.equal(stream.link.value, "live");
  assert.equal(stream.lives.value, 2);
  await server.say("run:r1", "8");
  assert.deepEqual(seen, ["run:r1 7", "run:r1 8"]);
});

test("topics that come and go keep the others' places and the state live", async () => {
  const { server, stream, on } = setup();
  stream.follow("dev", on);
  await server.pass(50);
  await server.say("dev", "e-5");
  const leave = stream.follow("jobs", on);
  await server.pass(50);
  assert.equal(server.asked[0]?.abort.aborted, true);
  assert.equal(server.asked[1]?.path, "/api/events?topics=dev,jobs");
  assert.equal(server.asked[1]?.cursor, "dev~e-5");
  assert.equal(stream.link.value, "live");
  leave();
  leave();
  await server.pass(50);
  assert.equal(server.asked.length, 3);
  assert.equal(server.asked[2]?.path, "/api/events?topics=dev");
  assert.throws(() => stream.follow("dev", on), /followed already/);
});

test("silence is a break", async () => {
  const { server, stream, on } = setup();
  stream.follow("dev", on);
  await server.pass(50);
  await server.pass(46_000);
  assert.equal(stream.link.value, "away");
  await server.pass(1000);
  assert.equal(server.asked.length, 2);
});

test("a page out of sight for long holds no stream, and comes back", async () => {
  const { server, stream, on } = setup();
  stream.follow("dev", on);
  await server.pass(50);
  stream.show(false);
  await server.pass(1000);
  stream.show(true);
  await server.pass(40_000);
  assert.equal(server.asked.length, 1, "it was hidden for a moment only");
  stream.show(false);
  await server.pass(31_000);
  assert.equal(server.asked[0]?.abort.aborted, true);
  await server.pass(31_000);
  assert.equal(server.asked.length, 1);
  stream.show(true);
  await server.pass(50);
  assert.equal(server.asked.length, 2);
});

test("topics that come and go do not keep the stream of a page out of sight", async () => {
  const { server, stream, on } = setup();
  stream.follow("dev", on);
  const leave = stream.follow("job:j1", on);
  await server.pass(50);
  stream.show(false);
  await server.pass(2000);
  leave();
  await server.pass(50);
  assert.equal(server.asked.at(-1)?.path, "/api/events?topics=dev");
  await server.pass(30_000);
  assert.equal(server.asked.at(-1)?.abort.aborted, true);
  const before = server.asked.length;
  stream.follow("jobs", on);
  await server.pass(1000);
  assert.equal(server.asked.length, before, "nor do they open one");
  stream.show(true);
  await server.pass(50);
  assert.equal(server.asked.at(-1)?.path, "/api/events?topics=dev,jobs");
});

test("a topic that is named just before the page is seen again is followed", async () => {
  const { server, stream, on } = setup();
  stream.follow("dev", on);
  await server.pass(50);
  stream.show(false);
  stream.follow("jobs", on);
  stream.show(true);
  await server.pass(50);
  assert.equal(server.asked.at(-1)?.path, "/api/events?topics=dev,jobs");
});

test("a page that was opened out of sight has no stream until it is seen", async () => {
  const { server, stream, on } = setup();
  stream.show(false);
  stream.follow("dev", on);
  await server.pass(60_000);
  assert.equal(server.asked.length, 0);
  stream.show(true);
  await server.pass(50);
  assert.equal(server.asked.length, 1);
  assert.equal(stream.link.value, "live");
});

test("a page that is hidden while its stream is away asks no more until it is seen", async () => {
  const { server, stream, on } = setup();
  stream.follow("dev", on);
  await server.pass(50);
  server.refuses = true;
  server.to?.close();
  await server.pass(0);
  stream.show(false);
  await server.pass(30_000);
  for (let n = 0; n < 10; n++) await server.pass(6000);
  const before = server.asked.length;
  for (let n = 0; n < 10; n++) await server.pass(6000);
  assert.equal(server.asked.length, before);
});

test("a page that is not allowed in stops asking", async () => {
  const { server, stream, on } = setup();
  stream.follow("dev", on);
  await server.pass(50);
  stream.stop();
  await server.pass(60_000);
  assert.equal(server.asked.length, 1);
});
