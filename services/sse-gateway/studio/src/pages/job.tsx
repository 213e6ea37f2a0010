// One job: how it stands, its losses, its events, and where it came from.

import { useEffect, useMemo, useState } from "preact/hooks";
import { ask, words } from "../net/ask.ts";
import { tab } from "../net/tab.ts";
import type { Job } from "../net/types.ts";
import { say } from "../state/notice.ts";
import { LossSeries, type Range } from "../state/series.ts";
import type { JobFeed } from "../state/job-feed.ts";
import { useJobFeed } from "../state/use.ts";
import { LossChart } from "../chart/loss-chart.tsx";
import type { XAxis } from "../chart/table.ts";
import type { Zoom } from "../chart/zoom.ts";
import { dateTime, figure, shortId, span, whole } from "../ui/format.ts";
import { Banner, Button, CopyButton, Empty, Facts, JOB_TONES, Panel, Pill, saveFile, useNow } from "../ui/parts.tsx";
import { EventLog } from "./event-log.tsx";
import { Config, Lineage, Artifacts } from "./job-side.tsx";

export function JobPage({ id }: { id: string }) {
  const feed = useJobFeed(id);
  const series = useMemo(() => (feed ? new LossSeries(feed) : null), [feed]);
  useEffect(() => () => series?.close(), [series]);
  if (!feed || !series) return null;
  if (feed.missing.value) {
    return (
      <div class="page">
        <h1 class="visually-hidden">Job</h1>
        <Empty icon="warning" title={feed.missing.value}><a href="#/jobs">All jobs</a></Empty>
      </div>
    );
  }
  const job = feed.job.value;
  const away = feed.interrupted.value !== null || tab.link.value === "away";
  const over = job !== null && isOver(job);
  return (
    <div class="page job">
      <Head id={id} job={job} />
      {away && !over && <Banner tone="warn">Event stream interrupted. {feed.interrupted.value && <span class="muted">{feed.interrupted.value}</span>}</Banner>}
      {job?.status === "failed" && <Banner tone="bad"><b>Training failed.</b> <span class="mono wrap">{job.error ?? "No reason was given."}</span></Banner>}
      <div class="job-grid">
        <div class="job-main">
          <Losses series={series} feed={feed} id={id} />
          <EventLog events={feed.events.value} />
        </div>
        <aside class="job-side" aria-label="About this job">
          <About job={job} feed={feed} />
          <Lineage id={id} job={job} />
          <Artifacts id={id} job={job} feed={feed} series={series} />
          <Config config={job?.config} />
        </aside>
      </div>
    </div>
  );
}

const isOver = (job: Job) => job.status === "completed" || job.status === "failed" || job.status === "cancelled";

function Head({ id, job }: { id: string; job: Job | null }) {
  return (
    <header class="page-head">
      <a href="#/jobs" class="back">Jobs</a>
      <h1>{job?.name ?? `Job ${shortId(id)}`}</h1>
      {job && <Pill tone={JOB_TONES[job.status]}>{job.cancelRequestedAt && !isOver(job) ? "cancelling" : job.status}</Pill>}
      <span class="spacer" />
      {job && (job.status === "running" || job.status === "queued") && <Cancel job={job} />}
    </header>
  );
}

/** How long the second press is waited for. */
const SURE = 4000;

/** Hours of training end with this: it is pressed twice. */
function Cancel({ job }: { job: Job }) {
  const [state, setState] = useState<"idle" | "sure" | "asking" | "asked">("idle");
  useEffect(() => {
    if (state !== "sure") return;
    const timer = setTimeout(() => setState("idle"), SURE);
    return () => clearTimeout(timer);
  }, [state]);
  const press = async () => {
    if (state === "idle") return setState("sure");
    setState("asking");
    try {
      await ask("POST", `/api/jobs/${encodeURIComponent(job.id)}/cancel`);
      setState("asked");
      say("busy", `Job ${shortId(job.id)} is being cancelled`);
    } catch (error) {
      setState("idle");
      say("bad", `Job ${shortId(job.id)} was not cancelled: ${words(error)}`);
    }
  };
  const texts = { idle: "Cancel", sure: "Press again to cancel", asking: "Cancelling…", asked: "Cancelling…" };
  return <Button kind="danger" icon="stop" disabled={state === "asking" || state === "asked"} onClick={() => void press()}>{texts[state]}</Button>;
}

function About({ job, feed }: { job: Job | null; feed: JobFeed }) {
  const now = useNow(1000);
  if (!job) return <Panel title="Job"><Empty title={feed.interrupted.value ?? "Reading…"} /></Panel>;
  const until = job.completedAt ? Date.parse(job.completedAt) : now;
  return (
    <Panel title="Job">
      <Facts rows={[
        ["Id", <span class="with-copy"><code>{job.id}</code><CopyButton text={() => job.id} label="Copy the job's id" /></span>],
        ["Step", feed.step.value === null ? null : whole(feed.step.value)],
        ["Created", dateTime(job.createdAt)],
        ["Started", job.startedAt && dateTime(job.startedAt)],
        [job.completedAt ? "Ended" : "", job.completedAt && dateTime(job.completedAt)],
        ["Duration", job.startedAt && span(until - Date.parse(job.startedAt))],
      ]} />
    </Panel>
  );
}

const AXES: [XAxis, string][] = [["step", "Step"], ["relative", "Relative time"], ["wall", "Wall time"]];

function Losses({ series, feed, id }: { series: LossSeries; feed: JobFeed; id: string }) {
  const [axis, setAxis] = useState<XAxis>("step");
  const [log, setLog] = useState(false);
  const [smoothing, setSmoothing] = useState(0);
  const [zoom, setZoom] = useState<Zoom | null>(null);
  const [advanced, setAdvanced] = useState(false);
  const picture = series.picture.value;
  useEffect(() => {
    series.show(zoom && rangeOf(zoom, axis, picture?.times.min ?? 0));
  }, [zoom]);
  useEffect(() => series.want(advanced), [advanced]);
  const download = async () => {
    try {
      saveFile(`job-${id}.csv`, await series.csv(), "text/csv");
    } catch (error) {
      say("bad", `The points cannot be read: ${words(error)}`);
    }
  };
  const empty = !picture || picture.loss.value.length + picture.evalLoss.value.length === 0;
  const waits = feed.job.value === null || !isOver(feed.job.value);
  return (
    <Panel title="Loss" class="losses" extra={
      <>
        {picture && !picture.exact && <span class="muted" role="status">reading all points…</span>}
        {zoom && <Button kind="quiet" icon="close" onClick={() => setZoom(null)}>Zoom</Button>}
        <Button kind="quiet" icon="download" disabled={empty} onClick={() => void download()}>CSV</Button>
      </>
    }>
      <div class="chart-bar">
        <div class="segments" role="radiogroup" aria-label="Lower axis">
          {AXES.map(([one, name]) => (
            <label key={one}><input type="radio" name="axis" checked={axis === one} onChange={() => { setZoom(null); setAxis(one); }} /><span>{name}</span></label>
          ))}
        </div>
        <label class="slider">Smoothing <input type="range" min="0" max="0.99" step="0.01" value={smoothing} onInput={(event) => setSmoothing(Number(event.currentTarget.value))} /><output class="mono">{smoothing.toFixed(2)}</output></label>
        <label class="switch"><input type="checkbox" checked={log} onChange={(event) => setLog(event.currentTarget.checked)} />Log scale</label>
        <label class="switch"><input type="checkbox" checked={advanced} onChange={(event) => setAdvanced(event.currentTarget.checked)} />Advanced</label>
      </div>
      {series.error.value && <Banner tone="warn">The losses cannot be read: {series.error.value}.</Banner>}
      {empty ? (
        <div class="chart-empty"><Empty title={!waits && picture ? "Nothing was logged" : "Waiting for training.log events…"} /></div>
      ) : (
        <LossChart picture={picture} axis={axis} log={log} smoothing={smoothing} zoom={zoom} onZoom={setZoom} />
      )}
      {advanced && <Advanced series={series} />}
    </Panel>
  );
}

function rangeOf(zoom: Zoom, axis: XAxis, start: number): Range {
  if (axis === "step") return { axis: "step", from: zoom.min, to: zoom.max };
  const ms = (seconds: number) => seconds * 1000 + (axis === "relative" ? start : 0);
  return { axis: "time", from: ms(zoom.min), to: ms(zoom.max) };
}

function Advanced({ series }: { series: LossSeries }) {
  const both = series.figures.value;
  const rows = both ? ([["loss", both.loss], ["eval loss", both.evalLoss]] as const).filter(([, one]) => one !== null) : [];
  return (
    <div class="scroll-x" tabIndex={0} role="region" aria-label="Statistics">
      <table class="table figures" data-testid="statistics">
        <thead><tr><th>Series</th><th>Points</th><th>Mean ± 95 % CI</th><th>Std dev</th><th>Variance</th><th>p90</th><th>p95</th></tr></thead>
        <tbody>
          {rows.map(([name, one]) => one && (
            <tr key={name}>
              <th scope="row">{name}</th>
              <td class="mono">{whole(one.count)}</td>
              <td class="mono">{figure(one.mean)}{one.ci95 !== null && ` ± ${figure(one.ci95)}`}</td>
              <td class="mono">{figure(one.stdDev)}</td>
              <td class="mono">{figure(one.variance)}</td>
              <td class="mono">{figure(one.p90)}</td>
              <td class="mono">{figure(one.p95)}</td>
            </tr>
          ))}
          {rows.length === 0 && <tr><td colSpan={7} class="muted">{both ? "Nothing was logged yet" : "Computing over all points…"}</td></tr>}
        </tbody>
      </table>
    </div>
  );
}
