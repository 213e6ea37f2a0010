// All jobs: found by name or id, one status at a time, live.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Job, JobStatus } from "../net/types.ts";
import { useShortcuts } from "../keys.ts";
import { jobPath } from "../router.ts";
import { jobs, jobsAre, jobsError, readJobs, watchJobs } from "../state/job-list.ts";
import { dateTime, whole } from "../ui/format.ts";
import { Banner, Button, CopyButton, Empty, JOB_TONES, Pill } from "../ui/parts.tsx";
import { Icon } from "../ui/icons.tsx";
import { rowsInSight } from "../ui/window.ts";

const CHIPS = ["All", "Running", "Completed", "Queued", "Failed", "Cancelled"] as const;
type Chip = (typeof CHIPS)[number];
const ROW = 44;
/** A reading that takes no time would show nothing of the wheel. */
const SPIN = 500;

export function JobsPage() {
  const [wanted, setWanted] = useState("");
  const [chip, setChip] = useState<Chip>("All");
  const [reading, setReading] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(watchJobs, []);
  const refresh = async () => {
    setReading(true);
    await Promise.all([readJobs(), new Promise((go) => setTimeout(go, SPIN))]);
    setReading(false);
  };
  useShortcuts([
    { keys: "/", what: "search the jobs", act: () => field.current?.focus() },
    { keys: "e", what: "read the jobs again", act: () => void refresh() },
  ]);
  const all = jobs.value;
  const shown = matching(all, wanted, chip);
  return (
    <div class="page jobs">
      <header class="page-head">
        <h1>Jobs</h1>
        <span class="muted" role="status">{jobsAre.value === "read" ? `${whole(shown.length)} of ${whole(all.length)}` : ""}</span>
        <span class="spacer" />
        <Button kind="plain" icon="refresh" spin={reading} aria-label="Refresh" title="Refresh (e)" onClick={() => void refresh()} />
      </header>
      <div class="filters">
        <div class="search">
          <Icon name="search" />
          <input ref={field} type="search" placeholder="Name or id" aria-label="Search jobs by name or id" value={wanted}
            onInput={(event) => setWanted(event.currentTarget.value)}
            onKeyDown={(event) => { if (event.key === "Escape") { setWanted(""); event.currentTarget.blur(); } }} />
        </div>
        <div class="chips" role="radiogroup" aria-label="Status">
          {CHIPS.map((one) => (
            <button key={one} type="button" role="radio" class="chip" aria-checked={chip === one} tabIndex={chip === one ? 0 : -1}
              onClick={() => setChip(one)} onKeyDown={(event) => moveChip(event, one, setChip)}>{one}</button>
          ))}
        </div>
      </div>
      {jobsError.value && <Banner tone="warn" action={<Button onClick={() => void refresh()}>Try again</Button>}>The jobs cannot be read: {jobsError.value}.</Banner>}
      <List all={all} shown={shown} onClear={() => { setWanted(""); setChip("All"); }} />
    </div>
  );
}

function moveChip(event: KeyboardEvent, from: Chip, set: (chip: Chip) => void) {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (by === undefined) return;
  event.preventDefault();
  const place = (CHIPS.indexOf(from) + by + CHIPS.length) % CHIPS.length;
  set(CHIPS[place] ?? "All");
  const group = (event.currentTarget as HTMLElement).parentElement;
  (group?.children[place] as HTMLElement | undefined)?.focus();
}

function matching(all: readonly Job[], wanted: string, chip: Chip): readonly Job[] {
  const status = chip === "All" ? null : (chip.toLowerCase() as JobStatus);
  const needle = wanted.trim().toLowerCase();
  if (status === null && needle === "") return all;
  return all.filter((job) =>
    (status === null || job.status === status) &&
    (needle === "" || job.name.toLowerCase().includes(needle) || job.id.toLowerCase().includes(needle)));
}

function List({ all, shown, onClear }: { all: readonly Job[]; shown: readonly Job[]; onClear: () => void }) {
  const box = useRef<HTMLDivElement>(null);
  const [place, setPlace] = useState({ top: 0, height: 600 });
  const look = () => { const now = box.current; if (now) setPlace({ top: now.scrollTop, height: now.clientHeight }); };
  useEffect(() => {
    const now = box.current;
    if (!now) return;
    const watch = new ResizeObserver(look);
    watch.observe(now);
    return () => watch.disconnect();
  }, []);
  const { from, to } = rowsInSight(place.top, place.height, ROW, shown.length);
  return (
    <div class="job-table">
      <div class="job-row job-head" aria-hidden="true"><span>Status</span><span>Name</span><span>Created</span><span>Id</span></div>
      <div class="job-box" ref={box} onScroll={look} tabIndex={0} role="region" aria-label="Table of jobs" data-testid="jobs">
        {shown.length === 0 ? <Nothing all={all} onClear={onClear} /> : (
          <ul class="job-rows" style={{ height: `${shown.length * ROW}px` }} aria-label="Jobs, newest first">
            {shown.slice(from, to).map((job, offset) => <Row key={job.id} job={job} place={from + offset} count={shown.length} />)}
          </ul>
        )}
      </div>
    </div>
  );
}

function Nothing({ all, onClear }: { all: readonly Job[]; onClear: () => void }) {
  if (all.length > 0) return <Empty icon="search" title="No matches"><Button onClick={onClear}>Show all jobs</Button></Empty>;
  if (jobsAre.value === "read") return <Empty title="No jobs yet">A run creates one when its training starts. <a href="#/">Start a run</a></Empty>;
  return <Empty title={jobsError.value ? "No jobs to show" : "Reading…"} />;
}

function Row({ job, place, count }: { job: Job; place: number; count: number }) {
  return (
    <li class="job-row" style={{ top: `${place * ROW}px` }} aria-setsize={count} aria-posinset={place + 1} data-job={job.id}>
      <span><Pill tone={JOB_TONES[job.status]}>{job.status}</Pill></span>
      <a class="job-name" href={jobPath(job.id)} title={job.error ?? job.name}>{job.name}</a>
      <time title={job.createdAt}>{dateTime(job.createdAt)}</time>
      <span class="job-id"><code title={job.id}>{job.id}</code><CopyButton text={() => job.id} label={`Copy the id of ${job.name}`} /></span>
    </li>
  );
}
