// What a browser fetches before the page can be used, and what it must not fetch for that.

import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { gzipSync } from "node:zlib";
import { build } from "vite";

const LIMIT = 100 * 1000;
/** @type {string} */
let dir;

before(async () => {
  dir = mkdtempSync(join(tmpdir(), "studio-"));
  await build({ logLevel: "warn", build: { outDir: dir, emptyOutDir: true } });
});

after(() => rmSync(dir, { recursive: true, force: true }));

const asked = () => {
  const index = readFileSync(join(dir, "index.html"), "utf8");
  return [...index.matchAll(/(?:src|href)="\.?\/?([^":]+\.(?:js|css))"/g)].map(([, name]) => name);
};
const read = (name) => readFileSync(join(dir, name));

test("the first load is at most 100 kB", () => {
  const files = asked();
  assert.ok(files.length >= 2, String(files));
  const size = ["index.html", ...files].reduce((sum, name) => sum + gzipSync(read(name)).length, 0);
  console.log(`first load: ${(size / 1000).toFixed(1)} kB gzip`);
  assert.ok(size <= LIMIT, `${size} bytes`);
});

test("the terminal is not part of it", () => {
  for (const name of asked()) assert.ok(!read(name).includes("xterm-helper"), name);
  assert.ok(readdirSync(dir).some((name) => name.endsWith(".js") && read(name).includes("xterm-helper")));
});

test("nothing asks another origin, and the page is one flat folder that its policy allows", () => {
  const index = String(read("index.html"));
  assert.ok(!/<script(?![^>]*\ssrc=)/.test(index) && !/<style|style="/.test(index), index);
  for (const name of readdirSync(dir)) {
    assert.match(name, /^[\w.-]+$/);
    assert.ok(!/(?:src|href)="https?:|url\(["']?https?:|@import\s+["']?http/.test(String(read(name))), name);
  }
});
