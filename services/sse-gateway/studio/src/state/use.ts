// Shared things for as long as a component is shown.

import { useEffect, useMemo } from "preact/hooks";
import { jobFeed, release, type JobFeed } from "./job-feed.ts";
import { releaseLog, runLog, type RunLog } from "./run-log.ts";

function useShared<T>(id: string | null | undefined, take: (id: string) => T, give: (shared: T) => void): T | null {
  const shared = useMemo(() => (id ? take(id) : null), [id]);
  useEffect(() => () => { if (shared) give(shared); }, [shared]);
  return shared;
}

export const useJobFeed = (id: string | null | undefined): JobFeed | null => useShared(id, jobFeed, release);
export const useRunLog = (id: string | null | undefined): RunLog | null => useShared(id, runLog, releaseLog);
