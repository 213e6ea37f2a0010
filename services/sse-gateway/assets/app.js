// The page: what the trainer is, what its runs do, what happened on the last saves. It shows what the server says
// and asks it for things; it decides nothing, so with every tab closed the loop is the same.

import { ask, follow, whenTokenChanges } from "./stream.js";
import { Chart } from "./chart.js";
import { Log } from "./log.js";

const at = (id) => document.getElementById(id);
const make = (tag, className, text) => Object.assign(document.createElement(tag), { className, textContent: text ?? "" });
const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const ms = (value) => `${value < 10 ? Math.round(value * 10) / 10 : Math.round(value)} ms`;
const live = (run) => run && !["exited", "lost", "restarting"].includes(run.status);

const whole = (value) => value < 1 ? "under 1 ms" : `${Math.round(value)} ms`;

const MOST_SAVES = 50;
const MOST_RUNS = 100;
const LAST_WORDS = 2000;
const TONES = { running: "good", exited: "", lost: "bad" };

const chart = new Chart(at("loss"), at("loss-now"), at("loss-empty"));
const log = new Log(at("log"), at("to-end"));
const runs = new Map(); // newest first
const saves = [];
let selected, closeLog, logOver = false, closeJob, shownJob, busy = false, failing = false;

// ---- the status line

function say(tone, text, detail = "") {
  at("status").dataset.tone = tone;
  at("status-text").textContent = text;
  at("status-detail").textContent = detail;
}

function showFrame(diagnostics) {
  const place = diagnostics?.[0];
  const where = place?.file && `${place.file}${place.line ? `:${place.line}:${place.column ?? 1}` : ""}`;
  at("frame").textContent = [where, place?.frame].filter(Boolean).join("\n\n");
  at("frame").hidden = !at("frame").textContent;
}

whenTokenChanges(() => {
  const last = Number(sessionStorage.getItem("reloaded") ?? 0);
  if (Date.now() - last < 5000) return say("bad", "This page is not allowed in", "Reload it to get the server's token.");
  sessionStorage.setItem("reloaded", String(Date.now()));
  say("busy", "The server was started anew with another token", "Reloading this page.");
  setTimeout(() => location.reload(), 800);
});

// ---- runs

async function loadRuns() {
  const { runs: list } = await ask("GET", "/api/runs");
  runs.clear();
  for (const run of list.slice(0, MOST_RUNS)) runs.set(run.id, run);
  drawRuns();
  if (!selected || !runs.has(selected)) select((list.find(live) ?? list[0])?.id);
  else followJob();
}

let loading;
const loadRunsSoon = () => { loading ??= setTimeout(() => { loading = undefined; loadRuns().catch(complain); }, 60); };

function drawRuns() {
  at("runs-empty").hidden = runs.size > 0;
  const focused = document.activeElement?.dataset?.run;
  at("runs").replaceChildren(...[...runs.values()].map(runItem));
  if (focused) at("runs").querySelector(`[data-run="${focused}"]`)?.focus();
  drawButtons();
}

function runItem(run) {
  const item = make("li");
  const choice = make("button", "choice");
  choice.type = "button";
  choice.dataset.run = run.id;
  choice.setAttribute("aria-current", String(run.id === selected));
  const state = run.status === "exited" && run.exitCode ? `exited ${run.exitCode}` : run.status;
  const pill = make("span", "pill", state);
  pill.dataset.tone = run.status === "exited" ? (run.exitCode ? "bad" : "") : TONES[run.status] ?? "busy";
  choice.append(make("span", "mono", run.id.slice(-6)), pill, make("span", "when", run.startedAt ? clock(run.startedAt) : ""));
  const why = [run.replaces && `in place of ${run.replaces.slice(-6)}`, run.reason].filter(Boolean).join(" · ");
  if (why) choice.append(make("span", "why", why));
  for (const change of run.config ?? []) choice.append(make("span", "why", changeText(change, run.resume)));
  choice.addEventListener("click", () => select(run.id));
  item.append(choice);
  return item;
}

// `config.learningRate: before 0.001 · in the checkpoint 0.001 · in effect 0.0003`
function changeText({ path, before, inCheckpoint, wanted, effective }, resume) {
  const value = (it) => it === null || it === undefined ? "not set" : JSON.stringify(it);
  const now = effective === null || effective === undefined ? `asked for ${value(wanted)}` : `in effect ${value(effective)}`;
  return `${path}: ${[`before ${value(before)}`, resume && `in the checkpoint ${value(inCheckpoint)}`, now].filter(Boolean).join(" · ")}`;
}

// The run that the stop buttons mean: the selected one if it lives, else the newest that does.
const target = () => live(runs.get(selected)) ? runs.get(selected) : [...runs.values()].find(live);

function drawButtons() {
  const run = target();
  at("run").disabled = busy;
  at("stop-now").disabled = !run || run.status === "stopping";
  at("stop-soft").disabled = !run || run.status !== "running";
  for (const id of ["stop-soft", "stop-now"]) at(id).title = run ? `Run ${run.id.slice(-6)}` : "No run in flight";
}

function sayRun({ id, status, reason, replaces, exitCode }) {
  const name = `run ${id.slice(-6)}`;
  const said = {
    "starting": ["busy", "Starting", name],
    "running": ["good", replaces ? "Restarted on the new code" : "Training", reason ?? name],
    "early-stopping": ["busy", "Stopping at next checkpoint", reason],
    "restarting": ["busy", `Restarting: ${reason ?? "on the new code"}`],
    "stopping": ["busy", "Stopping now", reason],
    "lost": ["bad", `Lost ${name}`, reason],
    "exited": exitCode ? ["bad", `Failed: ${name} ended with exit ${exitCode}`, reason] : ["idle", `Ended: ${name}`, reason],
  }[status];
  if (said) say(said[0], said[1], said[2] ?? "");
}

function onRun(frame) {
  const known = runs.get(frame.run);
  if (!known) {
    loadRunsSoon();
  } else {
    const { run: _, ...news } = frame;
    Object.assign(known, news);
    drawRuns();
    if (["exited", "lost"].includes(frame.status)) loadRunsSoon();
  }
  const succeeded = frame.replacedBy ?? [...runs.values()].some((run) => run.replaces === frame.run);
  if (!succeeded) sayRun({ ...frame, id: frame.run });
  if (frame.run === selected) followJob();
  // A successor takes the place of the run that is looked at, once that one's log was read to its end.
  if (frame.replaces && frame.replaces === selected) {
    const move = () => { if (selected === frame.replaces) succeed(frame.run); };
    if (logOver) move();
    else setTimeout(move, LAST_WORDS);
  }
}

// ---- what happened on save

// The first build that a server's stream tells of is how things stand, not something that happened just now.
let toldEpoch;
function isNews(id = "") {
  const epoch = id.slice(0, id.lastIndexOf("-"));
  const news = toldEpoch === epoch;
  toldEpoch = epoch;
  return news;
}

function sayState() {
  const run = target() ?? [...runs.values()].find(({ status }) => status === "restarting");
  if (run) sayRun(run);
  else say("idle", "Ready", "Press Run, then edit a callback or the config and save.");
}

function onBuild(frame, id) {
  failing = false;
  showFrame();
  at("trainer").textContent = frame.trainerName ?? "No trainer in this entry";
  at("entry").textContent = frame.entry ?? "";
  if (!isNews(id)) return sayState();
  const entry = { hash: frame.contentHash, at: Date.now(), files: frame.changed, ms: frame.timings.totalMs, decisions: frame.decisions, acks: [] };
  saves.unshift(entry);
  saves.length = Math.min(saves.length, MOST_SAVES);
  drawSaves();
  const change = frame.configDiff.map(brief).join(", ");
  if (frame.restart) say("busy", `Restarting: ${change || why(frame, "restart")}`, "Stopping at next checkpoint");
  else if (frame.hotSwap) say("busy", `Swapping callbacks in ${plural(frame.hotSwapTargets.length, "run")}`, why(frame, "hot-swap"));
  else {
    const held = frame.decisions.find(({ decision }) => decision !== "nothing");
    if (held) say("idle", VERBS[held.decision] ?? held.decision, held.why);
    else say("idle", `Rebuilt in ${ms(frame.timings.totalMs)}`, frame.decisions[0]?.why ?? "No run in flight");
  }
}

const VERBS = {
  "nothing": "nothing to do", "hot-swap": "hot swap", "restart": "restart", "stop": "stop at next checkpoint",
  "wait": "waits until the run is ready", "would-restart": "would restart",
};
const why = (frame, decision) => frame.decisions.find((one) => one.decision === decision)?.why ?? "";
const short = (value) => value === undefined ? "(absent)" : JSON.stringify(value).slice(0, 40);
const brief = ({ path, from, to }) => `${path} ${short(from)} -> ${short(to)}`;

function onBuildError(frame, id) {
  failing = true;
  const first = frame.message.split("\n")[0];
  say("bad", "Build failed, runs are untouched", first);
  showFrame(frame.diagnostics?.length ? frame.diagnostics : [{ frame: frame.message }]);
  if (!isNews(id)) return;
  saves.unshift({ at: Date.now(), files: frame.changed ?? [], error: first, decisions: [], acks: [] });
  saves.length = Math.min(saves.length, MOST_SAVES);
  drawSaves();
}

function onSwap(frame) {
  const took = frame.tookMs === undefined || frame.tookMs === null ? "" : `, ${whole(frame.tookMs)}`;
  if (frame.ok) say("good", `Callbacks hot-swapped${took}`, `run ${frame.run.slice(-6)}`);
  else say("bad", "Callbacks not swapped", frame.reason ?? "");
  saves.find((save) => save.hash === frame.contentHash)?.acks.push(frame);
  drawSaves();
}

function drawSaves() {
  at("saves-empty").hidden = saves.length > 0;
  at("saves").replaceChildren(...saves.map((save) => {
    const item = make("li");
    const head = make("div", "head");
    const files = save.files.map((file) => file.split("/").pop()).join(", ") || "build";
    const name = make("span", "mono", files);
    name.title = save.files.join("\n");
    head.append(name, make("span", "when", save.ms === undefined ? "" : ms(save.ms)), make("span", "when", clock(save.at)));
    item.append(head);
    if (save.error) item.append(tinted("p", "bad", save.error));
    for (const { run, decision, why } of save.decisions) {
      const ack = save.acks.find((one) => one.run === run);
      const said = ack ? (ack.ok ? "swapped" : `not swapped: ${ack.reason}`) : VERBS[decision] ?? decision;
      item.append(make("p", "what", `${run.slice(-6)}: ${said}${why ? ` · ${why}` : ""}`));
    }
    if (!save.error && !save.decisions.length) item.append(make("p", "what", "no run in flight"));
    return item;
  }));
}

function tinted(tag, tone, text) {
  const element = make(tag, "pill", text);
  element.dataset.tone = tone;
  return element;
}

// ---- the selected run

function select(id) {
  if (!id || id === selected) return;
  selected = id;
  log.clear();
  show(id);
}

function succeed(id) {
  selected = id;
  const run = runs.get(id);
  const how = run?.resume ? `: resumes at step ${run.resume.step}` : run?.fromScratch ? `, from scratch: ${run.fromScratch}` : "";
  log.life(`\n── goes on as run ${id.slice(-6)}${how} ──\n`);
  show(id);
}

function show(id) {
  closeLog?.();
  closeJob?.();
  logOver = false;
  shownJob = undefined;
  at("log-run").textContent = id;
  chart.clear();
  drawRuns();
  closeLog = follow(`/api/runs/${id}/events`, (name, data) => {
    const record = JSON.parse(data);
    if (name === "output") log.output(record);
    else log.life(...life(name, record));
    if (name === "status" && record.type === "job") noteJob(id, record.id);
    if (name !== "exit") return false;
    if (id !== selected) return true;
    logOver = true;
    // The successor may have come before the log's end was read.
    const next = [...runs.values()].find((run) => run.replaces === id);
    if (next) succeed(next.id);
    return true;
  });
  followJob();
}

function life(name, record) {
  if (name === "swap") {
    const took = record.tookMs === undefined ? "" : `, ${ms(record.tookMs)}`;
    return record.ok ? [`── callbacks swapped${took} ──`, "good"] : [`── callbacks not swapped: ${record.reason} ──`, "bad"];
  }
  if (name === "checkpoint") return [`── checkpoint at step ${record.step} ──`];
  if (name === "exit") {
    const code = record.exitCode;
    if (code === null || code === undefined) return [`── ended: ${record.reason ?? "nobody saw how"} ──`, "bad"];
    return [`── exit ${code} ──`, code ? "bad" : ""];
  }
  const said = {
    spawned: () => `process ${record.pid}`, ready: () => `ready${record.trainer ? `: ${record.trainer}` : ""}`,
    job: () => `job ${record.id}`, training: () => `training${record.resumedFrom ? ` goes on from step ${record.resumedFrom}` : " starts"}`,
    signal: () => `signal ${record.signal}: ${record.why}`,
    dropped: () => `${record.bytes} bytes of output are gone: ${record.why}`,
    earlyStop: () => `early stop: ${record.phase}`, finished: () => `finished: ${record.status}`, note: () => record.text,
  }[record.type];
  return [`── ${said ? said() : record.type} ──`];
}

function noteJob(id, jobId) {
  const run = runs.get(id);
  if (run) run.jobId = jobId;
  if (id === selected) followJob(jobId);
}

function followJob(job = runs.get(selected)?.jobId) {
  if (!job || job === shownJob) return;
  closeJob?.();
  shownJob = job;
  chart.clear();
  closeJob = follow(`/api/jobs/${encodeURIComponent(job)}/events`, (name, data) => {
    if (name === "training.log") chart.add(JSON.parse(data));
    return ["training.completed", "training.failed", "training.cancelled", "end"].includes(name);
  });
}

// ---- the rest

async function loadManifest() {
  try {
    const { trainer } = await ask("GET", "/api/manifest");
    at("trainer").textContent = trainer?.name ?? "No trainer in this entry";
  } catch (error) {
    if (error.status === 400) showFrame(error.data.diagnostics);
  }
}

const complain = (error) => say("bad", "That did not work", error.message);

async function act(button, work) {
  button.disabled = true;
  try { await work(); } catch (error) {
    complain(error);
    if (error.data?.diagnostics) showFrame(error.data.diagnostics);
  } finally { drawButtons(); }
}

at("run").addEventListener("click", () => act(at("run"), async () => {
  busy = true;
  try {
    say("busy", "Starting");
    const { run } = await ask("POST", "/api/runs", {});
    runs.delete(run.id);
    const others = [...runs];
    runs.clear();
    for (const [id, one] of [[run.id, run], ...others]) runs.set(id, one);
    select(run.id);
    drawRuns();
  } finally { busy = false; }
}));

for (const [id, mode] of [["stop-soft", "checkpoint"], ["stop-now", "now"]]) {
  at(id).addEventListener("click", () => act(at(id), async () => {
    const run = target();
    if (run) await ask("POST", `/api/runs/${run.id}/stop`, { mode, reason: "asked to on the page" });
  }));
}

const HANDLERS = { ready: onBuild, rebuild: onBuild, error: onBuildError, swap: onSwap, run: onRun };
const LINK = { live: "Connected", lost: "Reconnecting", over: "Closed" };

follow("/api/dev/events", (name, data, id) => { HANDLERS[name]?.(JSON.parse(data), id); }, (state) => {
  at("link").dataset.state = state;
  at("link-text").textContent = LINK[state];
  if (state === "live") loadRuns().then(loadManifest).then(() => failing || sayState()).catch(complain);
});
