import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { SOURCE_ROOT } from "./places.ts";
import { AGREED } from "./types.ts";

test("midrun-env.d.ts is what `npm run types` makes of the sources", async () => {
  const { generate } = (await import(new URL("types/generate.mjs", SOURCE_ROOT).href)) as { generate: (root: URL) => string };
  assert.equal(readFileSync(new URL("types/midrun-env.d.ts", SOURCE_ROOT), "utf8"), generate(SOURCE_ROOT));
  assert.ok(Object.values(AGREED).every(Boolean), "its agreement with the module was checked by the compiler");
});

test("the sources need nothing but Node, so that the binary can carry them", () => {
  const files = readdirSync(new URL("src/", SOURCE_ROOT));
  assert.ok(files.length > 10);
  for (const file of files) {
    const text = readFileSync(new URL(`src/${file}`, SOURCE_ROOT), "utf8");
    const from = [...text.matchAll(/(?:^|\n)(?:import|export)[^;]*? from "([^"]+)"|\bimport\("([^"]+)"\)/g)];
    for (const [, named, dynamic] of from) assert.match(named ?? dynamic ?? "", /^node:|^\.\/[a-z-]+\.ts$/, file);
  }
});

test("what the inspector's worker and the SDK load at once is small", () => {
  const heavy = ["node:crypto", "node:net", "node:http", "node:util", "node:stream", "node:worker_threads", "node:child_process"];
  for (const entry of ["inspector-worker.ts", "index.ts"]) {
    for (const file of staticGraph(entry)) {
      const text = readFileSync(new URL(`src/${file}`, SOURCE_ROOT), "utf8");
      for (const name of heavy) assert.ok(!text.includes(`from "${name}"`), `${entry} loads ${name} through ${file}`);
    }
  }
});

function staticGraph(entry: string, seen = new Set<string>()): Set<string> {
  if (seen.has(entry)) return seen;
  seen.add(entry);
  const text = readFileSync(new URL(`src/${entry}`, SOURCE_ROOT), "utf8");
  for (const [, file] of text.matchAll(/ from "\.\/([a-z-]+\.ts)"/g)) staticGraph(file as string, seen);
  return seen;
}
