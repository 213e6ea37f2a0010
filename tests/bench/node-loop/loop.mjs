/**
 * The same loop as a good Node implementation would have it, so that both can be measured beside each other.
 *
 * One process: `fs.watch`, rolldown, a plain `import()` of the artifact and an event stream, with as little between
 * them as possible. It has no source maps, no time limits, no durable table, no log and no process trees; its runner is
 * told over Node's own channel instead of a host and a signal. What it does not do costs it nothing, so it is a bar.
 * It answers as much of midrun's contract as the measurements ask for: the arguments of its command line are not read.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, renameSync, watch, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { isAbsolute, join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { rolldown } from "rolldown";

const ROOT = process.cwd();
const SOURCE = join(ROOT, "src/midrun");
const BUILD = join(ROOT, ".midrun/build");
const RUNNER = fileURLToPath(new URL("runner.mjs", import.meta.url));
/** How long a failed build is held back: editors write in steps. */
const SETTLE_MS = 30;

const clients = new Set();
const changed = new Set();
/** The newest frame, for clients that come later. */
let newest;
/** The newest good build. */
let good;
let building = false;
let run;
let seq = 0;

function publish(name, data) {
  const frame = `id: 1-${(seq += 1)}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
  for (const client of clients) client.write(frame);
  return frame;
}

/** Builds until nothing has changed meanwhile. What is out of date is not published. */
async function rebuild() {
  if (building) return;
  building = true;
  do {
    const paths = [...changed];
    changed.clear();
    try {
      const build = await built();
      if (changed.size === 0) await took(build, paths);
    } catch (error) {
      await new Promise((settled) => setTimeout(settled, SETTLE_MS));
      if (changed.size === 0) newest = publish("error", { type: "error", message: String(error) });
    }
  } while (changed.size > 0);
  building = false;
}

async function built() {
  const begun = performance.now();
  const bundle = await rolldown({
    input: join(SOURCE, "index.ts"),
    cwd: ROOT,
    platform: "node",
    external: (id) => !id.startsWith(".") && !isAbsolute(id),
  });
  const { output } = await bundle.generate({ format: "esm" });
  void bundle.close();
  const hash = createHash("sha256").update(output[0].code).digest("hex");
  const path = join(BUILD, hash, "index.mjs");
  if (hash !== good?.hash) {
    mkdirSync(join(BUILD, hash), { recursive: true });
    writeFileSync(`${path}.new`, output[0].code);
    renameSync(`${path}.new`, path);
  }
  return { hash, path, bundleMs: performance.now() - begun };
}

async function took({ hash, path, bundleMs }, paths) {
  if (hash === good?.hash) return;
  const begun = performance.now();
  const { trainer } = await import(pathToFileURL(path).href);
  const facts = trainer[Symbol.for("midrun.trainer.inspect")]();
  const configHash = createHash("sha256").update(canonical(JSON.parse(JSON.stringify(facts.config)))).digest("hex");
  const inspectMs = performance.now() - begun;
  const first = good === undefined;
  const swaps = run !== undefined && configHash === good?.configHash;
  good = { hash, path, configHash };
  newest = publish(first ? "ready" : "rebuild", {
    type: first ? "ready" : "rebuild",
    contentHash: hash,
    configHash,
    trainerName: facts.name,
    hotSwap: swaps,
    changed: paths.map((name) => relative(ROOT, join(SOURCE, name))),
    timings: { bundleMs, inspectMs, dispatchMs: 0 },
  });
  if (first) say({ event: "ready" });
  if (swaps) run.process.send({ hash, path });
}

/** Keys in order, as RFC 8785 has them. */
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const pairs = Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`);
  return `{${pairs.join(",")}}`;
}

function start() {
  const id = `run-${Date.now()}`;
  const child = spawn(process.execPath, [RUNNER, good.path], { stdio: ["ignore", "pipe", "inherit", "ipc"] });
  child.stdout.resume();
  child.on("message", (said) => {
    if (said.ready) publish("run", { run: id, pid: child.pid, status: "running" });
    else publish("swap", { run: id, pid: child.pid, ok: true, ...said });
  });
  run = { id, process: child };
  return { id, pid: child.pid };
}

function answer(request, response) {
  if (request.method === "POST") {
    request.resume();
    response.writeHead(201, { "content-type": "application/json" }).end(JSON.stringify({ run: start() }));
    return;
  }
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  response.write("retry: 1000\n\n");
  if (newest !== undefined) response.write(newest);
  clients.add(response);
  response.on("close", () => clients.delete(response));
}

function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

process.on("SIGINT", () => {
  run?.process.kill("SIGKILL");
  process.exit(0);
});
mkdirSync(BUILD, { recursive: true });
watch(SOURCE, (_event, name) => {
  changed.add(name);
  void rebuild();
});
const server = createServer(answer);
server.listen(0, "127.0.0.1", () => {
  say({ event: "listening", url: `http://127.0.0.1:${server.address().port}`, token: "", pid: process.pid });
});
void rebuild();
