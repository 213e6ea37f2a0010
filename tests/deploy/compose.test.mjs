/** compose.yaml: what a validator says of it, and what must hold for a shared machine. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { parse } from "yaml";

const root = join(import.meta.dirname, "../..");
const file = join(root, "compose.yaml");
const compose = parse(readFileSync(file, "utf8"), { merge: true });
const ours = ["build-watcher", "manifest-inspector", "train-registry", "cancel-broker", "control-plane", "sse-gateway"];

/** Errors that the validator finds; its opinions on order and quotes are none. */
function validate(path) {
  const ran = spawnSync(join(import.meta.dirname, "node_modules/.bin/dclint"), ["--quiet", path], { encoding: "utf8" });
  return { ok: ran.status === 0, said: ran.stdout + ran.stderr };
}

test("the validator accepts the file", () => {
  const { ok, said } = validate(file);
  assert.ok(ok, said);
});

test("the validator is one", () => {
  const folder = mkdtempSync(join(tmpdir(), "midrun-compose-"));
  const broken = join(folder, "compose.yaml");
  writeFileSync(broken, readFileSync(file, "utf8").replace("read_only: true", "read_onlyy: true"));
  assert.ok(!validate(broken).ok);
  rmSync(folder, { recursive: true });
});

test("one container for each service, locked up, with a grace", () => {
  for (const name of ours) {
    const service = compose.services[name];
    assert.deepEqual(service.command, ["serve", name]);
    assert.equal(service.read_only, true, name);
    assert.deepEqual(service.cap_drop, ["ALL"], name);
    assert.ok(service.stop_grace_period, name);
    assert.ok(service.secrets.includes("peer-token"), name);
    for (const peer of ours.slice(0, 4)) {
      const variable = `MIDRUN_PEERS__${peer.replaceAll("-", "_").toUpperCase()}`;
      assert.equal(service.environment[variable], `http://${peer}:4100`);
    }
  }
  assert.equal(compose.services["train-registry"].stop_grace_period, "6m", "longer than an early stop's five minutes");
});

test("only the gateway is published, and only on loopback", () => {
  const published = Object.entries(compose.services).filter(([, service]) => service.ports !== undefined);
  assert.deepEqual(published.map(([name]) => name), ["sse-gateway"]);
  for (const port of published[0][1].ports) assert.match(port, /^127\.0\.0\.1:/);
  assert.equal(compose.networks.services.internal, true);
});

test("secrets are files, and what is mounted is there", () => {
  for (const [name, secret] of Object.entries(compose.secrets)) assert.ok(secret.file, name);
  const text = readFileSync(file, "utf8");
  assert.doesNotMatch(text, /(PASSWORD|TOKEN|SECRET): /, "a secret in the environment");
  for (const [, path] of text.matchAll(/- "?(\.\/deploy\/[^:"]+):/g)) assert.ok(existsSync(join(root, path)), path);
  const tracked = execFileSync("git", ["ls-files", "deploy/secrets"], { cwd: root, encoding: "utf8" });
  assert.equal(tracked, "", "no secret is in the repository");
});

test("every service of ours is scraped", () => {
  const targets = parse(readFileSync(join(root, "deploy/prometheus.yaml"), "utf8")).scrape_configs.flatMap(
    ({ static_configs }) => static_configs.flatMap((config) => config.targets.map((target) => target.split(":")[0])),
  );
  assert.deepEqual(targets.filter((target) => compose.services[target] === undefined), []);
  for (const name of ours.filter((name) => name !== "control-plane")) assert.ok(targets.includes(name), name);
});
