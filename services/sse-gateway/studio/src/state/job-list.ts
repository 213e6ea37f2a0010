// All jobs, newest first, kept true by the stream; by a poll only while the stream is away.

import { effect, signal } from "@preact/signals";
import { ask, Refused, words } from "../net/ask.ts";
import { tab } from "../net/tab.ts";
import type { Job } from "../net/types.ts";

interface Page {
  jobs: Job[];
  nextCursor?: string | null;
}

export const jobs = signal<readonly Job[]>([]);
export const jobsAre = signal<"unread" | "reading" | "read">("unread");
export const jobsError = signal<string | null>(null);

const PAGE = 1000;
const POLL = 5000;
/** A list that is longer than this is not read to its end. */
const MOST_PAGES = 100;

let briefs = true;
let streamed = false;
let users = 0;
let leave: (() => void) | undefined;
let timer: ReturnType<typeof setTimeout> | undefined;
let reading: Promise<void> | undefined;
/** Somebody asked while a reading was under way: what it has read already may be out of date. */
let again = false;

async function page(cursor: string | undefined): Promise<Page> {
  const tail = cursor === undefined ? "" : `&cursor=${encodeURIComponent(cursor)}`;
  if (briefs) {
    try {
      return await ask<Page>("GET", `/api/jobs/brief?limit=${PAGE}${tail}`);
    } catch (error) {
      // A control plane without the short list takes "brief" for a job's id.
      if (!(error instanceof Refused) || ![400, 404, 405].includes(error.status)) throw error;
      briefs = false;
    }
  }
  return ask<Page>("GET", `/api/jobs${tail.replace("&", "?")}`);
}

/** Reads the list anew. Several who ask while it is read get one more reading. */
export function readJobs(): Promise<void> {
  if (reading) again = true;
  return (reading ??= readToTheEnd().finally(() => (reading = undefined)));
}

async function readToTheEnd() {
  do {
    again = false;
    await read();
  } while (again);
}

async function read() {
  jobsAre.value = jobsAre.value === "unread" ? "reading" : jobsAre.value;
  draw();
  told.clear();
  try {
    const all: Job[] = [];
    let cursor: string | undefined;
    for (let pages = 0; pages < MOST_PAGES; pages++) {
      const { jobs: some, nextCursor } = await page(cursor);
      for (const job of some) all.push(slim(job));
      // The first page is shown at once, the others when all are there.
      if (pages === 0 && jobs.value.length === 0) jobs.value = withNews(all, told);
      if (!nextCursor || nextCursor === cursor) break;
      cursor = nextCursor;
    }
    jobs.value = withNews(all, told);
    jobsAre.value = "read";
    jobsError.value = null;
  } catch (error) {
    jobsError.value = words(error);
  }
}

/** Without the config, which may carry a whole dataset. */
function slim({ id, name, status, error, createdAt, startedAt, completedAt, clientRunId = null, cancelRequestedAt = null }: Job): Job {
  return { id, name, status, error, createdAt, startedAt, completedAt, clientRunId, cancelRequestedAt };
}

/** What the stream has told since the reading began: it is newer than the list, or the still newer is on its way. */
const told = new Map<string, Job>();
const news = new Map<string, Job>();
let drawing = false;

function take(job: Job) {
  told.set(job.id, slim(job));
  news.set(job.id, slim(job));
  if (drawing) return;
  drawing = true;
  setTimeout(draw, 50);
}

function draw() {
  drawing = false;
  if (news.size === 0) return;
  jobs.value = withNews(jobs.value, news);
  news.clear();
}

/** `known`, with what `changed` says of them and of jobs that are newer. */
function withNews(known: readonly Job[], changed: ReadonlyMap<string, Job>): Job[] {
  const fresh = new Map(changed);
  const all = known.map((job) => {
    fresh.delete(job.id);
    return changed.get(job.id) ?? job;
  });
  return [...[...fresh.values()].reverse(), ...all];
}

function poll() {
  clearTimeout(timer);
  if (users === 0) return;
  timer = setTimeout(() => {
    if (!streamed || tab.link.value !== "live") void readJobs().then(poll);
    else poll();
  }, POLL);
}

effect(() => {
  if (tab.link.value !== "live") streamed = false;
});

/** Keeps the list true until what it gives is called. */
export function watchJobs(): () => void {
  users += 1;
  if (users === 1) {
    leave = tab.follow("jobs", ({ event, data }) => {
      if (event === "topic.open") {
        streamed = true;
        void readJobs();
      } else if (event === "topic.away" || event === "topic.missing") {
        streamed = false;
        void readJobs();
      } else if (event === "job.changed") take(data.job);
      else if (event === "jobs.missed") void readJobs();
    });
    poll();
  }
  return () => {
    users -= 1;
    if (users > 0) return;
    clearTimeout(timer);
    leave?.();
  };
}
