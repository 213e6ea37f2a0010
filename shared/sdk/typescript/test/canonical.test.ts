import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { canonicalize, configHash, sha256 } from "../src/canonical.ts";
import { SOURCE_ROOT } from "./places.ts";

interface Vector {
  name: string;
  json: string;
  canonical: string;
  sha256: string;
}

const vectors = JSON.parse(readFileSync(new URL("test/vectors/canonical.json", SOURCE_ROOT), "utf8")) as Vector[];

test("canonical JSON and its hash, by the vectors that Rust reads too", () => {
  assert.ok(vectors.length > 150);
  for (const vector of vectors) {
    assert.equal(canonicalize(vector.json), vector.canonical, vector.name);
    assert.equal(sha256(vector.canonical), vector.sha256, vector.name);
  }
});

test("half a surrogate pair is refused, as every reader of the config would", () => {
  assert.throws(() => canonicalize('{"a":"\\ud800"}'), /half a surrogate pair/);
  assert.throws(() => canonicalize('{"\\udfff":1}'), /half a surrogate pair/);
});

class Celsius {
  readonly degrees: number;
  constructor(degrees: number) {
    this.degrees = degrees;
  }
  toJSON() {
    return { celsius: this.degrees };
  }
}

const sparse: unknown[] = [];
sparse[2] = 1;

const equal: [what: string, config: unknown, sent: unknown][] = [
  ["order of keys", { a: 1, b: 2 }, { b: 2, a: 1 }],
  ["undefined members are absent", { a: 1, b: undefined, c: () => 1, d: Symbol("d") }, { a: 1 }],
  ["undefined in an array is null", { a: [undefined, () => 1, Symbol("s")] }, { a: [null, null, null] }],
  ["a sparse array", { a: sparse }, { a: [null, null, 1] }],
  ["toJSON", { at: new Celsius(20), on: new Date(0) }, { at: { celsius: 20 }, on: "1970-01-01T00:00:00.000Z" }],
  ["boxed primitives", { a: new Number(3), b: new String("x"), c: new Boolean(false) }, { a: 3, b: "x", c: false }],
  ["numbers without a JSON form", { a: NaN, b: Infinity, c: -0 }, { a: null, b: null, c: 0 }],
  ["maps and sets", { a: new Map([[1, 2]]), b: new Set([1]) }, { a: {}, b: {} }],
  ["typed arrays", { a: new Uint8Array([1, 2]) }, { a: { 0: 1, 1: 2 } }],
  ["what is not enumerable or has a symbol", Object.defineProperty({ [Symbol("s")]: 1 }, "hidden", { value: 1 }), {}],
  ["inherited members", Object.create({ a: 1 }), {}],
];

for (const [what, config, sent] of equal) {
  test(`the config is what JSON.stringify sends: ${what}`, () => {
    assert.equal(configHash(config), configHash(sent));
  });
}

test("the config fails as JSON.stringify does, or is none", () => {
  const cycle: Record<string, unknown> = {};
  cycle["self"] = cycle;
  const thrower = { toJSON: () => { throw new RangeError("from toJSON"); } };
  for (const config of [cycle, { a: 1n }, thrower]) {
    const same = thrownBy(() => JSON.stringify(config));
    assert.deepEqual(thrownBy(() => configHash(config)), same);
    assert.ok(same.startsWith("TypeError") || same.startsWith("RangeError"));
  }
  assert.equal(configHash(undefined), null);
  assert.equal(configHash(() => 1), null);
  assert.notEqual(configHash(null), null);
});

test("configs that differ have other hashes", () => {
  const hashes = [{}, { a: 1 }, { a: "1" }, { a: [1] }, { a: null }, { b: 1 }, [], null, "a"].map(configHash);
  assert.equal(new Set(hashes).size, hashes.length);
});

function thrownBy(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    return String(error);
  }
  return "nothing";
}
