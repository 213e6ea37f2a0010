// A real executor process whose behaviour is its job's config: `script` is a list of actions, done in order.
//
//   ["emit", object]        one event line          ["raw", text]       any line on stdout
//   ["logs", from, to]      training.log lines      ["stderr", text]    a line on stderr
//   ["checkpoint", step]    a folder, and its event ["await", path]     wait until the file exists
//   ["write", path, text]   a file                  ["child", path]     a child that ignores SIGTERM; its pid
//   ["hold"]                wait for a signal       ["exit", code]
//   ["flood", bytes]        one long line           ["close"]           close stdout, go on
//   ["part", text]          text without an end     ["paced", from, to, perSecond]   training.log lines, in time
//   ["stream", n, rate]     n training.log lines, `rate` a second
//
// `onTerm`: "save" (default: a checkpoint of the last step, exit 0), "ignore", "fail" or "crash".
// A resumed job skips the logs and checkpoints of the steps that it has, unless `forgetful`.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";

const print = (line) => {
  let bytes = Buffer.from(line + "\n");
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(writeSync(1, bytes));
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
};
const emit = (event) => print(JSON.stringify(event));
const put = (path, text) => {
  writeFileSync(path + ".new", text);
  renameSync(path + ".new", path);
};
const appearance = async (path) => {
  while (!existsSync(path)) await new Promise((wake) => setTimeout(wake, 5));
};

const order = JSON.parse(readFileSync(0, "utf8"));
if (process.argv.includes("--sample")) await sample(order);
else await train(order);

async function train({ jobId, config, resumeFrom }) {
  const dir = process.env.MIDRUN_JOB_DIR;
  const known = config.forgetful ? 0 : (resumeFrom?.step ?? 0);
  let last = resumeFrom?.step ?? 0;

  const save = (step) => {
    const folder = join("checkpoints", `step-${step}`);
    mkdirSync(join(dir, folder), { recursive: true });
    writeFileSync(join(dir, folder, "weights"), `${jobId} at ${step}`);
    emit({ type: "checkpoint.saved", step, artifacts: [{ kind: "adapter", path: join(folder, "weights") }] });
  };

  process.on("SIGTERM", () => {
    const behaviour = config.onTerm ?? "save";
    if (config.termSeen) put(config.termSeen, "seen");
    if (behaviour === "save") save(last);
    if (behaviour === "fail") emit({ type: "training.failed", error: "interrupted" });
    if (behaviour === "crash") process.exit(7);
    if (behaviour !== "ignore") process.exit(0);
  });

  const actions = {
    emit,
    raw: print,
    stderr: (text) => writeSync(2, text + "\n"),
    flood: (bytes) => print("x".repeat(bytes)),
    write: (path, text) => put(path, text),
    await: appearance,
    hold: () => new Promise(() => setInterval(() => {}, 1000)),
    exit: (code) => process.exit(code),
    close: () => {},
    part: (text) => writeSync(1, text),
    paced: async (from, to, perSecond) => {
      for (let step = from; step <= to; step++) {
        actions.logs(step, step);
        if (step % 10 === 0) await new Promise((wake) => setTimeout(wake, 10_000 / perSecond));
      }
    },
    logs: (from, to) => {
      for (let step = from; step <= to; step++) {
        if (step <= known) continue;
        emit({ type: "training.log", step, loss: 1 / step, learningRate: 0.0003 });
        last = step;
      }
    },
    stream: async (count, rate) => {
      const begun = performance.now();
      for (let done = 0; done < count; ) {
        const due = Math.min(count, Math.ceil(((performance.now() - begun) / 1000) * rate));
        for (; done < due; done++) emit({ type: "training.log", step: ++last, loss: 1 + Math.sin(last / 50) / 2 });
        await new Promise((wake) => setTimeout(wake, 20));
      }
    },
    checkpoint: (step) => {
      if (step > known) save(step);
    },
    child: (path) => {
      const child = spawn("sh", ["-c", "trap '' TERM; echo $$; while :; do sleep 60; done"], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      child.stdout.once("data", (pid) => put(path, String(pid).trim()));
    },
  };
  for (const [action, ...rest] of config.script) await actions[action](...rest);
}

async function sample({ checkpointDir, prompt, temperature, topP, maxTokens }) {
  if (prompt === "crash") {
    writeSync(2, "no such weights\n");
    process.exit(4);
  }
  if (prompt === "refuse") return emit({ error: "the vocabulary does not fit" });
  if (prompt === "hang") {
    writeSync(2, "hanging\n");
    await new Promise(() => setInterval(() => {}, 1000));
  }
  if (prompt.startsWith("who ")) {
    emit({ token: String(process.pid) });
    await appearance(prompt.slice(4));
  }
  while (prompt === "endless") emit({ token: "x".repeat(8192) });
  const weights = readFileSync(join(checkpointDir, "weights"), "utf8");
  const words = [weights, prompt, `t=${temperature}`, `p=${topP}`, `n=${maxTokens}`];
  for (const [index, word] of words.slice(0, maxTokens).entries()) {
    emit({ token: (index === 0 ? "" : "|") + word });
    if (prompt.startsWith("gate ") && index === 1) await appearance(prompt.slice(5));
  }
  emit({ done: true });
}
