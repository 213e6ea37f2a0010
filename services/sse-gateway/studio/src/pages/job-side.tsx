// Beside a job: what it was told to do, what it left, and which run came after which.

import { useEffect, useState } from "preact/hooks";
import { ask } from "../net/ask.ts";
import type { ConfigChange, Job } from "../net/types.ts";
import { jobPath, runPath } from "../router.ts";
import { briefly, configDiff } from "../state/config.ts";
import { runs } from "../state/dev.ts";
import type { JobFeed } from "../state/job-feed.ts";
import type { LossSeries } from "../state/series.ts";
import { lineage, stateOf } from "../state/words.ts";
import { brief, dateTime, shortId, whole } from "../ui/format.ts";
import { CopyButton, Empty, Panel, Pill } from "../ui/parts.tsx";
import { Changes, ConfigRows } from "../ui/config-rows.tsx";

export function Config({ config }: { config: Record<string, unknown> | undefined }) {
  if (!config) return null;
  return (
    <Panel title="Config" extra={<CopyButton text={() => JSON.stringify(config, null, 2)} label="Copy the config" />}>
      <dl class="facts config">
        {Object.entries(config).map(([key, value]) => (
          <div key={key}><dt class="mono">{key}</dt><dd class="mono" title={brief(value, 1000)}>{brief(value, 80)}</dd></div>
        ))}
      </dl>
    </Panel>
  );
}

/** Checkpoints that are listed; the playground has all. */
const LISTED = 8;

export function Artifacts({ id, job, feed, series }: { id: string; job: Job | null; feed: JobFeed; series: LossSeries }) {
  const steps = series.picture.value?.checkpoints ?? [];
  const last = feed.events.value.findLast(({ type }) => type === "training.completed");
  const metrics = Object.entries(last?.metrics ?? {});
  if (steps.length === 0 && job?.status !== "completed") return null;
  const to = (step?: number) => `#/playground?job=${encodeURIComponent(id)}${step === undefined ? "" : `&step=${step}`}`;
  return (
    <Panel title="Artifacts" extra={<span class="muted">{steps.length === 1 ? "1 checkpoint" : `${steps.length} checkpoints`}</span>}>
      <ul class="artifacts">
        {job?.status === "completed" && <li><b>Final model</b><a href={to()} aria-label="Try it: final model">Try it</a></li>}
        {steps.slice(-LISTED).reverse().map((step) => <li key={step}><span>Checkpoint at step <b class="mono">{whole(step)}</b></span><a href={to(step)} aria-label={`Try it: checkpoint at step ${step}`}>Try it</a></li>)}
      </ul>
      {metrics.length > 0 && <dl class="facts">{metrics.map(([key, value]) => <div key={key}><dt>{key}</dt><dd class="mono">{brief(value)}</dd></div>)}</dl>}
    </Panel>
  );
}

interface Link {
  job: string;
  run?: string;
}

/** Which run replaced which, oldest first, with what changed between two of them. */
export function Lineage({ id, job }: { id: string; job: Job | null }) {
  const own = runs.value.find((run) => run.jobId === id) ?? runs.value.find((run) => run.id === job?.clientRunId);
  const chain = own ? lineage(runs.value, own.id) : [];
  const links: Link[] = chain.length > 1
    ? chain.flatMap((run) => (run.jobId ? [{ job: run.jobId, run: run.id }] : []))
    : [...(job?.resumeFrom ? [{ job: job.resumeFrom.jobId }] : []), { job: id, ...(own && { run: own.id }) }];
  const diffs = useDiffs(links.map(({ job }) => job));
  if (links.length < 2 && !own) return null;
  return (
    <Panel title="Lineage">
      {links.length === 0 && <Empty title="No job yet" />}
      <ol class="lineage">
        {links.map((link, place) => {
          const run = runs.value.find(({ id }) => id === link.run);
          const changes = diffs[link.job] ?? [];
          const rows = run?.config ?? [];
          return (
            <li key={link.job} class={link.job === id ? "current" : ""}>
              {place > 0 && (
                <div class="between">
                  <span class="muted">{run?.resume ? `went on from step ${whole(run.resume.step)}` : link.job === id && job?.resumeFrom ? `went on from step ${whole(job.resumeFrom.step)}` : run?.fromScratch ? `from scratch: ${run.fromScratch}` : "replaced by"}</span>
                  {rows.length > 0 ? <ConfigRows rows={rows} /> : <Changes changes={changes.map(briefly)} />}
                </div>
              )}
              <div class="link-line">
                {link.job === id ? <b class="mono" aria-current="true">job {shortId(link.job)}</b> : <a class="mono" href={jobPath(link.job)}>job {shortId(link.job)}</a>}
                {run && <><a class="mono" href={runPath(run.id)}>run {shortId(run.id)}</a><Pill tone={stateOf(run, null).tone}>{stateOf(run, null).text}</Pill><time>{dateTime(run.startedAt)}</time></>}
              </div>
            </li>
          );
        })}
      </ol>
    </Panel>
  );
}

/** For each job but the first: where its config differs from the one before. */
function useDiffs(ids: string[]): Record<string, ConfigChange[]> {
  const [diffs, setDiffs] = useState<Record<string, ConfigChange[]>>({});
  const key = ids.join(" ");
  useEffect(() => {
    let here = true;
    const read = async () => {
      const answers = await Promise.all(ids.map((id) => ask<{ job: Job }>("GET", `/api/jobs/${encodeURIComponent(id)}?events=0`).catch(() => null)));
      const found: Record<string, ConfigChange[]> = {};
      ids.forEach((id, place) => {
        const [before, after] = [answers[place - 1]?.job.config, answers[place]?.job.config];
        if (before && after) found[id] = configDiff(before, after);
      });
      if (here) setDiffs(found);
    };
    if (ids.length > 1) void read();
    return () => { here = false; };
  }, [key]);
  return diffs;
}
