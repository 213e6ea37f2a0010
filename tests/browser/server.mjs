// A real `midrun dev` on a copy of the example project, in a home of its own.

import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

const ROOT = resolve(import.meta.dirname, "../..");
const LIMIT_MS = 60_000;

/** @param {string} name */
export function built(name) {
  const places = [join(ROOT, "target/debug", name), join(ROOT, "target/release", name)];
  if (name === "midrun") places.unshift(process.env["MIDRUN_BIN"] ?? "");
  const found = places.find((place) => place && existsSync(place));
  if (!found) throw new Error(`no built ${name}: run \`cargo build --workspace --all-targets\` first`);
  return found;
}

/** A copy of the example, and the folders that keep a server of it apart from everything else. */
export class Project {
  constructor() {
    this.home = mkdtempSync(join(tmpdir(), "mb-"));
    this.dir = join(this.home, "adder");
    cpSync(join(ROOT, "examples/adder"), this.dir, {
      recursive: true,
      filter: (path) => !/[/\\](node_modules|\.midrun)$/.test(path),
    });
    mkdirSync(join(this.home, "run"), { mode: 0o700 });
    /** Further variables of the server's environment. @type {Record<string, string>} */
    this.environment = {};
  }

  /** Trains by script from now on: a file below `src` for each of `scripts`, and an executor that plays them. */
  /** @param {Record<string, unknown[]>} scripts */
  script(scripts) {
    const executor = join(ROOT, "services/control-plane/tests/api/scripted-executor.mjs");
    writeFileSync(join(this.dir, "midrun.toml"), `[controlPlane]\nmaxConcurrentJobs = 3\nexecutor = ["node", ${JSON.stringify(executor)}]\n`);
    for (const [name, script] of Object.entries(scripts)) {
      const options = { name, model: "scripted", dataset: { type: "none" }, extra: { script } };
      const text = `import { createTrainer } from "midrun";\nexport const trainer = createTrainer(${JSON.stringify(options)});\n`;
      writeFileSync(join(this.dir, `src/midrun/${name}.ts`), text);
    }
  }

  /** @param {string} file @param {(text: string) => string} change */
  edit(file, change) {
    const path = join(this.dir, "src/midrun", file);
    const before = readFileSync(path, "utf8");
    const after = change(before);
    if (after === before) throw new Error(`the edit of ${file} changes nothing`);
    writeFileSync(path, after);
    return () => writeFileSync(path, before);
  }

  /** Makes the example's training last longer than any test: what is slow is then slow and no more. */
  long() {
    this.edit("index.ts", (text) => text.replace("maxSteps: 8000", "maxSteps: 80000"));
  }

  /** Makes the example's training so small that a checkpoint is saved within a second, and endless. */
  small() {
    const changes = {
      'model: "tiny-gpt"': 'model: "tiny-gpt:32x1"', "sums(4000)": "sums(300)", "maxSteps: 8000": "maxSteps: 1000000", "batchSize: 64": "batchSize: 16",
      'lrSchedulerType: "cosine"': 'lrSchedulerType: "constant"', "loggingSteps: 50": "loggingSteps: 1", "saveSteps: 400": "saveSteps: 40",
    };
    for (const [from, to] of Object.entries(changes)) this.edit("index.ts", (text) => text.replace(from, to));
  }

  /** Processes that carry this home in their environment. */
  leftovers() {
    return readdirSync("/proc").filter((pid) => /^\d+$/.test(pid)).filter((pid) => {
      try {
        const alive = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.[0] !== "Z";
        return alive && readFileSync(`/proc/${pid}/environ`, "utf8").includes(this.home);
      } catch {
        return false;
      }
    });
  }

  remove() {
    rmSync(this.home, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
}

/** A running server. */
export class Server {
  /** @param {Project} project @param {number} port */
  static async start(project, port = 0) {
    const env = Object.fromEntries(
      Object.entries(process.env).filter(([name]) => !/^(MIDRUN|OTEL|ARKOR|XDG)/.test(name)),
    );
    const child = spawn(built("midrun"), ["dev", project.dir, "--port", String(port), "--json"], {
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...env,
        HOME: project.home,
        XDG_CONFIG_HOME: join(project.home, "config"),
        XDG_STATE_HOME: join(project.home, "state"),
        XDG_RUNTIME_DIR: join(project.home, "run"),
        ...project.environment,
      },
    });
    const server = new Server(child);
    const first = new Promise((found, failed) => {
      createInterface({ input: child.stdout }).on("line", (line) => {
        const said = JSON.parse(line);
        if (said.event === "listening") found(said);
      });
      child.stderr.on("data", (bytes) => { server.said += bytes; });
      child.once("exit", (code) => failed(new Error(`midrun dev ended with ${code}: ${server.said}`)));
      setTimeout(() => failed(new Error(`midrun dev did not listen: ${server.said}`)), LIMIT_MS).unref();
    });
    const { url, token } = await first;
    server.url = url;
    server.token = token;
    return server;
  }

  /** @param {import("node:child_process").ChildProcess} child */
  constructor(child) {
    this.child = child;
    this.said = "";
    this.url = "";
    this.token = "";
    this.ended = new Promise((end) => child.once("exit", end));
  }

  get port() {
    return Number(new URL(this.url).port);
  }

  /** @param {string} method @param {string} path @param {unknown} [body] */
  async ask(method, path, body) {
    const headers = { "x-midrun-token": this.token, "content-type": "application/json" };
    const answer = await fetch(`${this.url}${path}`, { method, headers, ...(body !== undefined && { body: JSON.stringify(body) }) });
    const said = await answer.json();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(said)}`);
    return said;
  }

  async runs() {
    return (await this.ask("GET", "/api/runs")).runs;
  }

  /** Starts the trainer in `src/midrun/NAME.ts`; the run's job, once it has one. @param {string} name */
  async train(name) {
    const { run } = await this.ask("POST", "/api/runs", { file: `src/midrun/${name}.ts` });
    return until(`job of ${name}`, async () => (await this.ask("GET", `/api/runs/${run.id}`)).run.jobId);
  }

  /** Ends it as a power cut does. */
  async kill() {
    this.child.kill("SIGKILL");
    await this.ended;
  }

  /** Stops it and its runs at once, as two Ctrl-C do. */
  async stop() {
    this.child.kill("SIGINT");
    this.child.kill("SIGINT");
    const again = setInterval(() => this.child.kill("SIGINT"), 500);
    const giveUp = setTimeout(() => this.child.kill("SIGKILL"), LIMIT_MS);
    await this.ended;
    clearInterval(again);
    clearTimeout(giveUp);
  }
}

/** What `look` finds, once it finds something; one that fails finds nothing. @template T @param {string} what @param {() => Promise<T>} look */
export async function until(what, look) {
  const end = Date.now() + LIMIT_MS;
  for (;;) {
    /** @type {unknown} */
    let cause;
    const found = await look().catch((error) => { cause = error; return null; });
    if (found) return found;
    if (Date.now() > end) throw new Error(`no ${what} within ${LIMIT_MS} ms`, { cause });
    await new Promise((wake) => setTimeout(wake, 100));
  }
}
