// One run: its log or terminal, its processes, and how it ends.

import { useEffect, useState } from "preact/hooks";
import { signal, type Signal } from "@preact/signals";
import { ask, words } from "../net/ask.ts";
import { tab } from "../net/tab.ts";
import { isLive, type Run, type Usage } from "../net/types.ts";
import { jobPath, runPath } from "../router.ts";
import { runOf, runs, runsAreLoaded } from "../state/dev.ts";
import { useJobFeed, useRunLog } from "../state/use.ts";
import { lineage, stateOf } from "../state/words.ts";
import { LogView } from "../log/view.tsx";
import type { RunLog } from "../state/run-log.ts";
import { bytes, dateTime, shortId, span } from "../ui/format.ts";
import { Banner, CopyButton, Empty, Facts, Panel, Pill, useNow } from "../ui/parts.tsx";
import { ConfigRows } from "../ui/config-rows.tsx";
import { RunButtons, SwapNote } from "./run-card.tsx";
import { LazyScreen } from "../terminal/lazy.tsx";

export function RunPage({ id }: { id: string }) {
  const [asked, setAsked] = useState<{ run: Run | null; why: string | null }>({ run: null, why: null });
  const run = runOf(id) ?? asked.run;
  useEffect(() => {
    // A run that is no longer in the list may still be known.
    if (!runsAreLoaded.value || run) return;
    ask<{ run: Run }>("GET", `/api/runs/${encodeURIComponent(id)}`).then(
      (answer) => setAsked({ run: answer.run, why: null }),
      (error) => setAsked({ run: null, why: words(error) }),
    );
  }, [runsAreLoaded.value, run === undefined]);
  const log = useRunLog(run ? id : null);
  if (!run || !log) {
    return (
      <div class="page">
        <h1 class="visually-hidden">Run</h1>
        <Empty icon={asked.why ? "warning" : "play"} title={asked.why ?? "Reading…"}>{asked.why && <a href="#/">Go to the overview</a>}</Empty>
      </div>
    );
  }
  return (
    <div class="page run">
      <Head run={run} />
      {run.reason && <p class="run-reason wide">{run.reason}</p>}
      <div class="job-grid">
        <div class="job-main">
          <Output run={run} log={log} />
          {isLive(run) && <Processes id={id} />}
        </div>
        <aside class="job-side" aria-label="About this run">
          <About run={run} />
          <Came run={run} />
        </aside>
      </div>
    </div>
  );
}

function Head({ run }: { run: Run }) {
  const feed = useJobFeed(isLive(run) ? run.jobId : null);
  const { tone, text } = stateOf(run, feed?.step.value ?? null);
  return (
    <header class="page-head">
      <a href="#/" class="back">Overview</a>
      <h1>Run <span class="mono">{shortId(run.id)}</span></h1>
      <Pill tone={tone}>{text}</Pill>
      <SwapNote id={run.id} />
      <span class="spacer" />
      <RunButtons run={run} />
    </header>
  );
}

/** How wide every run's terminal is: what moves its cursor was laid out for that. */
const PTY_COLUMNS = 160;

function Output({ run, log }: { run: Run; log: RunLog }) {
  const [wish, setWish] = useState<"terminal" | "log" | null>(null);
  const view = wish ?? (log.terminal.value ? "terminal" : "log");
  return (
    <Panel title="Output" class="log-panel" extra={log.terminal.value && (
      <div class="segments" role="radiogroup" aria-label="View">
        {(["terminal", "log"] as const).map((one) => (
          <label key={one}><input type="radio" name="view" checked={view === one} onChange={() => setWish(one)} /><span>{one === "terminal" ? "Terminal" : "Log"}</span></label>
        ))}
      </div>
    )}>
      {log.missing.value && <Banner tone="warn">{log.missing.value}</Banner>}
      {view === "terminal"
        ? <LazyScreen key={run.id} feed={(to) => log.feed(to)} columns={PTY_COLUMNS} label={`Terminal of run ${shortId(run.id)}`} />
        : <LogView key={run.id} lines={log.lines} version={log.version} name={run.id} empty="Nothing was written yet" />}
    </Panel>
  );
}

function About({ run }: { run: Run }) {
  const now = useNow(1000);
  const until = run.endedAt ? Date.parse(run.endedAt) : now;
  return (
    <Panel title="Run">
      <Facts rows={[
        ["Id", <span class="with-copy"><code>{run.id}</code><CopyButton text={() => run.id} label="Copy the run's id" /></span>],
        ["Trainer", run.trainer],
        ["Entry", <span class="mono wrap">{run.entry}</span>],
        ["Job", run.jobId && <a class="mono" href={jobPath(run.jobId)}>{shortId(run.jobId)}</a>],
        ["Process", run.pid],
        ["Started", dateTime(run.startedAt)],
        ["Ended", run.endedAt && dateTime(run.endedAt)],
        ["Duration", span(until - Date.parse(run.startedAt))],
        ["Exit status", run.exitCode],
        ["Ended by", run.endedBy],
        ["Newest checkpoint", run.lastCheckpoint ?? null],
        ["Goes on from", run.resume && <a href={jobPath(run.resume.job)}>step {run.resume.step} of job {shortId(run.resume.job)}</a>],
        ["From scratch", run.fromScratch],
        ["Code", <code title={run.contentHash}>{run.contentHash.slice(0, 12)}</code>],
      ]} />
    </Panel>
  );
}

function Came({ run }: { run: Run }) {
  const chain = lineage(runs.value, run.id);
  const rows = run.config ?? [];
  if (chain.length < 2 && rows.length === 0) return null;
  return (
    <Panel title="Lineage">
      <ol class="lineage">
        {chain.map((one) => (
          <li key={one.id} class={one.id === run.id ? "current" : ""}>
            <div class="link-line">
              {one.id === run.id ? <b class="mono" aria-current="true">run {shortId(one.id)}</b> : <a class="mono" href={runPath(one.id)}>run {shortId(one.id)}</a>}
              <Pill tone={stateOf(one, null).tone}>{stateOf(one, null).text}</Pill><time>{dateTime(one.startedAt)}</time>
            </div>
          </li>
        ))}
      </ol>
      {rows.length > 0 && <ConfigRows rows={rows} />}
    </Panel>
  );
}

interface Watched {
  usage: Usage | null;
  /** Why nothing is seen, and whether it is looked for again. */
  missing: string | null;
  away: string | null;
}

function Processes({ id }: { id: string }) {
  const [watched] = useState<Signal<Watched>>(() => signal({ usage: null, missing: null, away: null }));
  useEffect(() => tab.follow(`usage:${id}`, ({ event, data }) => {
    if (event === "usage") watched.value = { usage: data as Usage, missing: null, away: null };
    else if (event === "topic.missing") watched.value = { ...watched.value, missing: data?.error ?? "not available on this server" };
    else if (event === "topic.away") watched.value = { ...watched.value, away: data?.error ?? "the server cannot look" };
    else if (event === "topic.open") watched.value = { ...watched.value, missing: null, away: null };
  }), [id]);
  const { usage, missing, away } = watched.value;
  if (missing) return <Panel title="Processes"><Empty title={missing} /></Panel>;
  const gone = away && <Banner tone="warn">The processes cannot be seen at the moment: {away}. It is tried again.</Banner>;
  if (!usage) return <Panel title="Processes">{gone || <Empty title="Looking…" />}</Panel>;
  const memory = usage.processes.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0);
  const share = usage.processes.reduce((sum, { cpuPercent }) => sum + (cpuPercent ?? 0), 0);
  return (
    <Panel title="Processes" extra={<span class="muted">{Math.round(share)} % CPU · {bytes(memory)}</span>}>
      {gone}
      {usage.processes.length === 0 ? <Empty title="None is seen on this machine" /> : (
        <div class="scroll-x" tabIndex={0} role="region" aria-label="Table of processes">
          <table class="table processes" data-testid="processes">
            <thead><tr><th>Process</th><th>Command</th><th>CPU</th><th>Memory</th></tr></thead>
            <tbody>
              {usage.processes.map(({ pid, depth, command, cpuPercent, memoryBytes }) => (
                <tr key={pid}>
                  <td class="mono">{pid}</td>
                  <td class="mono command" title={command}><span style={{ paddingLeft: `${depth * 14}px` }}>{depth > 0 && <span class="muted" aria-hidden="true">└ </span>}{command || "–"}</span></td>
                  <td class="mono">{cpuPercent === null ? "–" : `${cpuPercent.toFixed(cpuPercent < 10 ? 1 : 0)} %`}</td>
                  <td class="mono">{bytes(memoryBytes)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {usage.gpus && (
        <ul class="gpus">
          {usage.gpus.map(({ index, name, percent, memoryUsedBytes, memoryTotalBytes, runMemoryBytes }) => (
            <li key={index}>
              <b>GPU {index}</b> <span class="muted">{name}</span>
              {percent !== null && <><meter min={0} max={100} value={percent} aria-label={`GPU ${index} in use`} /> <span class="mono">{percent} %</span></>}
              {memoryUsedBytes !== null && memoryTotalBytes !== null && <span class="mono">{bytes(memoryUsedBytes)} of {bytes(memoryTotalBytes)}, this run {bytes(runMemoryBytes)}</span>}
            </li>
          ))}
        </ul>
      )}
      {usage.noGpus && <p class="note">No GPU figures: {usage.noGpus}.</p>}
    </Panel>
  );
}

