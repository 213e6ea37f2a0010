import assert from "node:assert/strict";
import { test } from "node:test";
// First of all: the modules look for a document when they are loaded.
import { asked, request, until } from "./outside.ts";
import { signal } from "@preact/signals";
import { jobs, jobsAre, watchJobs } from "../src/state/job-list.ts";
import type { JobFeed } from "../src/state/job-feed.ts";
import { LossSeries } from "../src/state/series.ts";
import type { Job, JobEvent } from "../src/net/types.ts";

const job = (id: string, status: Job["status"]): Job => ({ id, name: id, status, error: null, createdAt: "t", startedAt: "t", completedAt: null });
const list = () => jobs.value.map(({ id, status }) => `${id} ${status}`);

test("what is told of jobs while their list is read stands, and a reading that may have missed something is followed by another", async () => {
  const leave = watchJobs();
  const stream = await request("/api/events");
  let say: (event: string, data?: unknown) => void = () => {};
  stream.answer(new ReadableStream<Uint8Array>({
    start: (to) => {
      say = (event, data) => to.enqueue(new TextEncoder().encode(`data: ${JSON.stringify({ topic: "jobs", event, data })}\n\n`));
    },
  }));
  say("topic.open");
  (await request("/api/jobs/brief?limit=1000")).answer({ jobs: [job("c", "running"), job("b", "running")], nextCursor: "b" });
  const second = await request("/api/jobs/brief?limit=1000&cursor=b");
  say("job.changed", { job: job("b", "completed") });
  say("job.changed", { job: job("a", "failed") });
  say("job.changed", { job: job("d", "queued") });
  await until("the news", () => list().includes("b completed"));
  second.answer({ jobs: [job("a", "running")] });
  await until("the whole list", () => jobsAre.value === "read");
  assert.deepEqual(list(), ["d queued", "c running", "b completed", "a failed"]);

  say("jobs.missed");
  const first = await request("/api/jobs/brief");
  say("jobs.missed");
  await until("no request meanwhile", () => asked.every(({ path }) => !path.startsWith("/api/jobs")));
  first.answer({ jobs: [job("d", "running"), job("c", "running"), job("b", "completed"), job("a", "failed")] });
  (await request("/api/jobs/brief")).answer({ jobs: [job("d", "completed"), job("c", "running"), job("b", "completed"), job("a", "failed")] });
  await until("what the second one found", () => list()[0] === "d completed");
  assert.equal(list().length, 4);
  leave();
});

function feedOf(id: string) {
  let rewound = 0;
  let hand: (event: JobEvent) => void = () => {};
  const feed = {
    id, job: signal<Job | null>(null), ready: Promise.resolve(), newest: () => [],
    listen: (on: typeof hand) => { hand = on; return () => {}; },
    rewind: () => { rewound += 1; },
  };
  return { feed: feed as unknown as JobFeed, rewound: () => rewound, hand: (event: object) => hand({ jobId: id, timestamp: "2026-01-01T00:00:00Z", type: "training.log", ...event }) };
}

const column = (count: number) => ({ count, step: [], time: [], value: [] });
const answer = (count: number, more: object = {}) => ({ lastSeq: count, exact: true, loss: column(count), evalLoss: column(0), checkpoints: [], ...more });
const figures = (count: number) => ({ statistics: { loss: { count }, evalLoss: null } });

test("the figures of a job that ended are over all of its points", async () => {
  const { feed, hand } = feedOf("ending");
  const series = new LossSeries(feed);
  (await request("/api/jobs/ending/series")).answer(answer(5));
  await until("a picture", () => series.picture.value);
  series.want(true);
  (await request("/api/jobs/ending/series")).answer(answer(5, figures(5)));
  await until("figures", () => series.figures.value?.loss?.count === 5);
  hand({ id: 6, step: 6, loss: 1 });
  hand({ id: 7, type: "training.completed" });
  const last = await request("/api/jobs/ending/series");
  assert.match(last.path, /statistics=true/);
  last.answer({ ...answer(6, figures(6)), lastSeq: 7 });
  await until("the figures over all", () => series.figures.value?.loss?.count === 6);
  series.close();
});

test("a request that the server takes for wrong does not make the page read every event", async () => {
  const { feed, rewound } = feedOf("odd");
  const series = new LossSeries(feed);
  (await request("/api/jobs/odd/series")).answer({ error: "from is no number" }, 400);
  await until("the words", () => series.error.value);
  assert.equal(series.error.value, "from is no number");
  assert.equal(rewound(), 0);
  series.close();
  const other = feedOf("foreign");
  const foreign = new LossSeries(other.feed);
  (await request("/api/jobs/foreign/series")).answer({ error: "not found" }, 404);
  await until("all events once more", () => other.rewound() === 1);
  foreign.close();
});

test("a CSV is every point or an error, never a part", async () => {
  const { feed, hand } = feedOf("table");
  const series = new LossSeries(feed);
  (await request("/api/jobs/table/series")).answer(answer(5));
  await until("a picture", () => series.picture.value);
  hand({ id: 6, step: 6, loss: 1 });
  for (const status of [429, 502, 503]) {
    const csv = series.csv();
    (await request("/api/jobs/table/points")).answer({ error: "not now" }, status);
    await assert.rejects(csv, /not now/, String(status));
  }
  const csv = series.csv();
  (await request("/api/jobs/table/points")).answer("series,step,timestamp,value\nloss,1,t,2\n");
  assert.equal(await (await csv).text(), "series,step,timestamp,value\nloss,1,t,2\n");
  series.close();
});
