import assert from "node:assert/strict";
import { test } from "node:test";
import { css, parseLine, plain, PLAIN } from "../src/log/ansi.ts";
import { lifeWords } from "../src/log/life.ts";
import { LogLines } from "../src/log/lines.ts";
import { PtyPast } from "../src/log/past.ts";
import { atEnd, rowsInSight, scrollFor, withoutRows } from "../src/ui/window.ts";

const spans = (line: string) => parseLine(line).spans;

test("colours and weights become spans", () => {
  assert.deepEqual(spans("\x1b[1;31mred\x1b[0m plain"), [
    { text: "red", style: { bold: true, fg: 1 } },
    { text: " plain", style: {} },
  ]);
  assert.deepEqual(spans("\x1b[38;5;208ma\x1b[48;2;1;2;3mb\x1b[39;49mc"), [
    { text: "a", style: { fg: 208 } },
    { text: "b", style: { fg: 208, bg: "#010203" } },
    { text: "c", style: {} },
  ]);
  assert.deepEqual(spans("\x1b[38:2::9:8:7mx"), [{ text: "x", style: { fg: "#090807" } }]);
  assert.deepEqual(spans("\x1b[97;100mx"), [{ text: "x", style: { fg: 15, bg: 8 } }]);
  assert.deepEqual(spans("\x1b[1m\x1b[22mx"), [{ text: "x", style: PLAIN }]);
});

test("what a terminal would obey is not shown", () => {
  assert.equal(plain("a\x1b[2Kb\x1b]0;title\x07c\x1b]8;;http://x\x1b\\d\x1b(Be\x1b7f\x07"), "abcdef");
  assert.equal(plain("cut off \x1b[3"), "cut off ");
  assert.equal(plain("cut off \x1b"), "cut off ");
  assert.deepEqual(spans("\x1b[31"), []);
  assert.equal(plain("tab\tstays"), "tab\tstays");
});

test("a style goes on in the next line", () => {
  const { end } = parseLine("\x1b[32mgreen");
  assert.deepEqual(parseLine("still", end).spans, [{ text: "still", style: { fg: 2 } }]);
});

test("every colour has a value", () => {
  assert.deepEqual([3, 16, 231, 232, 255, "#123456"].map(css), [
    "var(--ansi-3)", "rgb(0 0 0)", "rgb(255 255 255)", "rgb(8 8 8)", "rgb(238 238 238)", "#123456",
  ]);
});

const out = (text: string, stream: "stdout" | "stderr" = "stdout") => ({ stream, text, ts: "t" });
const texts = (log: LogLines) => log.lines.map(({ text }) => text);

test("lines are the same wherever the records are cut", () => {
  const whole = "one\ntwo \x1b[31mred\nthree\x1b[0m\n\n50%\r75%\r100%\nlast";
  const expected = ["one", "two \x1b[31mred", "three\x1b[0m", "", "100%", "last"];
  for (let cut = 0; cut <= whole.length; cut++) {
    const log = new LogLines();
    log.output(out(whole.slice(0, cut)));
    log.output(out(whole.slice(cut)));
    assert.deepEqual(texts(log), expected, `cut at ${cut}`);
    assert.deepEqual(log.lines[2]?.style, { fg: 1 });
  }
});

test("a carriage return before a line feed ends the line and nothing else", () => {
  for (const parts of [["a\r\nb\r\n"], ["a\r", "\nb", "\r", "\n"]]) {
    const log = new LogLines();
    for (const part of parts) log.output(out(part));
    assert.deepEqual(texts(log), ["a", "b"]);
  }
});

test("two streams do not mix within a line", () => {
  const log = new LogLines();
  log.output(out("out "));
  log.output(out("err\n", "stderr"));
  log.output(out("goes on\n"));
  assert.deepEqual(texts(log), ["out goes on", "err"]);
});

test("bytes that are no text, and characters cut over records", () => {
  const log = new LogLines();
  const base64 = (bytes: number[]) => btoa(String.fromCharCode(...bytes));
  log.output({ stream: "stdout", base64: base64([0xc3]), ts: "t" });
  log.output({ stream: "stdout", base64: base64([0xbc, 0x0a, 0xff, 0x0a]), ts: "t" });
  assert.deepEqual(texts(log), ["ü", "\ufffd"]);
});

test("memory is bounded, the rest is counted, numbers stay", () => {
  const log = new LogLines(100);
  for (let n = 1; n <= 1000; n++) log.output(out(`line ${n}\n`));
  assert.ok(log.lines.length <= 100);
  assert.equal(log.dropped + log.lines.length, 1000);
  assert.equal(log.lines.at(-1)?.number, 1000);
  assert.equal(log.lines[0]?.text, `line ${log.lines[0]?.number}`);
  assert.match(log.text(), /^\[\d+ earlier lines/);
  log.output(out("x".repeat(50_000)));
  log.output(out("y\n"));
  assert.ok(log.lines.length <= 100);
});

test("output that is gone is told where it is missing, and no line goes on over the gap", () => {
  const log = new LogLines();
  const gone = { seq: 9, ts: "t", type: "dropped", fromSeq: 2, records: 8, bytes: 2048, why: "the log reached its cap of 1 GiB" };
  log.output(out("\x1b[31mhalf a li"));
  log.gap(lifeWords(gone)!, gone.ts);
  log.output(out("ne\nwhole\n"));
  assert.deepEqual(texts(log), ["\x1b[31mhalf a li", "2.0 KiB of output are gone here: the log reached its cap of 1 GiB", "ne", "whole"]);
  assert.equal(log.lines[1]?.source, "life");
  assert.deepEqual(log.lines[2]?.style, PLAIN);
  assert.match(lifeWords({ ...gone, others: 3 })!, /gone here, and 3 other records: the log/);
  assert.equal(lifeWords({ seq: 1, ts: "t", type: "alone", aloneMs: 600_000, stopMs: 60_000 }), "no server has been there for 10 min 0 s: it stops at its next checkpoint, and by force after 1 min 0 s");
  assert.equal(lifeWords({ seq: 1, ts: "t", type: "opened" }), undefined);
});

test("what a terminal is fed later is bounded by bytes", () => {
  const past = new PtyPast(1000);
  const size = () => past.parts.reduce((sum, part) => sum + (typeof part === "string" ? 2 * part.length : part.byteLength), 0);
  for (let n = 0; n < 500; n++) {
    past.push(n % 2 === 0 ? `${n}`.padStart(50) : new Uint8Array(60));
    assert.ok(size() <= 1000, `${size()} bytes`);
  }
  assert.ok(past.parts.length > 5);
  assert.equal(past.parts.at(-2), "498".padStart(50), "the newest stays");
  past.push("x".repeat(5000));
  assert.equal(past.parts.length, 1, "a part that is larger than all is there alone");
});

test("search sees through colours and case", () => {
  const log = new LogLines();
  log.output(out("nothing\n\x1b[31mLo\x1b[1mss\x1b[0m 0.5\nloss 0.4\n"));
  assert.deepEqual(log.search("LOSS"), [1, 2]);
  assert.deepEqual(log.search(""), []);
});

test("the rows in sight are drawn, and no more than needed", () => {
  assert.deepEqual(rowsInSight(0, 200, 20, 10_000, 5), { from: 0, to: 16 });
  assert.deepEqual(rowsInSight(100_000, 200, 20, 10_000, 5), { from: 4995, to: 5016 });
  assert.deepEqual(rowsInSight(1e9, 200, 20, 100, 5), { from: 84, to: 100 });
  assert.deepEqual(rowsInSight(0, 200, 20, 0), { from: 0, to: 0 });
  assert.ok(atEnd(800, 200, 1000, 20) && atEnd(795, 200, 1000, 20) && !atEnd(700, 200, 1000, 20));
  assert.equal(scrollFor(3, 0, 200, 20), undefined);
  assert.equal(scrollFor(50, 0, 200, 20), 820);
  assert.equal(scrollFor(2, 100, 200, 20), 40);
  assert.equal(withoutRows(1000, 10, 20), 800);
  assert.equal(withoutRows(100, 10, 20), 0);
});
