import assert from "node:assert/strict";
import { test } from "node:test";
import { troubledSince, troubleWords } from "../src/ui/trouble-words.ts";

const away = { service: "train-registry", since: "2026-03-01T10:00:05.000Z", why: "http://127.0.0.1:1/ cannot be reached: refused; trying again" };
const failed = { service: "build-watcher", since: "2026-03-01T10:00:00.000Z", why: "it failed and is being restarted: boom" };
const full = { service: "state folder", since: "2026-03-01T10:01:00.000Z", why: "it is full; make room on its disk" };

test("a service that is away, one that is restarted and anything else are said in a sentence each", () => {
  assert.equal(troubleWords([away]), "train-registry is away; trying again.");
  assert.equal(
    troubleWords([failed, full]),
    "build-watcher failed and is being restarted. state folder: it is full; make room on its disk.",
  );
  assert.equal(troubleWords([]), "");
});

test("what is wrong is so since the oldest of it began", () => {
  assert.equal(troubledSince([]), null);
  assert.equal(troubledSince([away, failed, full]), Date.parse(failed.since));
  assert.equal(troubledSince([{ ...away, since: "?" }]), null);
});
