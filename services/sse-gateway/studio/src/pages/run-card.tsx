// One run, as the overview shows it.

import { useEffect, useState } from "preact/hooks";
import { words } from "../net/ask.ts";
import { awaitsSuccessor, isLive, type Run } from "../net/types.ts";
import { jobPath, runPath } from "../router.ts";
import { briefly, type BriefChange } from "../state/config.ts";
import { saves, stopRun, swaps } from "../state/dev.ts";
import { say } from "../state/notice.ts";
import { useJobFeed } from "../state/use.ts";
import { stateOf } from "../state/words.ts";
import { dateTime, figure, ms, shortId } from "../ui/format.ts";
import { Button, Pill } from "../ui/parts.tsx";
import { Changes } from "../ui/config-rows.tsx";
import { Sparkline } from "../ui/sparkline.tsx";

/** How long a swap is spoken of. */
const SWAP_SHOWN = 12_000;

/** `follows`: it shows how far the run's job is. */
export function RunCard({ run, follows, selected, onSelect }: { run: Run; follows: boolean; selected: boolean; onSelect: () => void }) {
  const feed = useJobFeed(follows && isLive(run) ? run.jobId : null);
  const step = feed?.step.value ?? null;
  const loss = feed?.loss.value ?? null;
  const { tone, text } = stateOf(run, step);
  const losses = (feed?.events.value ?? []).flatMap(({ loss }) => (typeof loss === "number" ? [loss] : []));
  const changes = changesOf(run);
  return (
    <article class={`run-card ${selected ? "selected" : ""}`} aria-label={`Run ${shortId(run.id)}`} data-run={run.id} data-status={run.status}>
      <div class="run-line">
        <Pill tone={tone}>{text}</Pill>
        <SwapNote id={run.id} />
        <span class="run-id mono" title={run.id}>{shortId(run.id)}</span>
        <span class="spacer" />
        <RunButtons run={run} />
      </div>
      <div class="run-line muted">
        {run.trainer && <span>{run.trainer}</span>}
        {run.pid !== null && isLive(run) && <span>process {run.pid}</span>}
        <span>since {dateTime(run.startedAt)}</span>
        {loss !== null && <span class="run-loss">loss <b class="mono">{figure(loss)}</b></span>}
        <Sparkline values={losses} label={`Loss, newest ${figure(loss)}`} />
      </div>
      {run.reason && run.status !== "running" && <p class="run-reason">{run.reason}</p>}
      {changes.length > 0 && (
        <div class="run-changes">
          <span class="muted">{isReplaced(run) ? "restarts with" : run.resume ? `goes on from step ${run.resume.step} with` : "started anew with"}</span>
          <Changes changes={changes} />
        </div>
      )}
      <div class="run-line links">
        <Button kind="quiet" aria-pressed={selected} onClick={onSelect}>{selected ? "Log shown" : "Show log"}</Button>
        <a href={runPath(run.id)}>Run</a>
        {run.jobId && <a href={jobPath(run.jobId)}>Job</a>}
      </div>
    </article>
  );
}

/** It is about to be replaced: what is shown of it is what its successor starts with. */
const isReplaced = (run: Run) => run.status === "early-stopping" || run.status === "restarting";

/** What made the difference: in its own words where the server tells them, else from the save that caused it. */
function changesOf(run: Run): BriefChange[] {
  const own = isReplaced(run) ? [] : (run.config ?? []);
  if (own.length > 0) return own.map(({ path, before, wanted }) => briefly({ path, from: before, to: wanted }));
  const about = isReplaced(run) ? run.id : run.replaces;
  if (!about) return [];
  const save = saves.value.find(({ decisions }) => decisions.some((one) => one.run === about && one.decision === "restart"));
  return save?.configDiff ?? [];
}

/** The runner's own word, for a while. */
export function SwapNote({ id }: { id: string }) {
  const swap = swaps.value[id];
  const [, redraw] = useState(0);
  const left = swap ? swap.at + SWAP_SHOWN - Date.now() : 0;
  useEffect(() => {
    if (left <= 0) return;
    const timer = setTimeout(() => redraw((count) => count + 1), left);
    return () => clearTimeout(timer);
  }, [swap]);
  if (!swap || left <= 0) return null;
  if (!swap.ok) return <Pill tone="bad" title={swap.reason}>Not swapped{swap.reason ? `: ${swap.reason}` : ""}</Pill>;
  return <span key={swap.at} class="pill good fades" data-testid="swapped">Hot-swapped{swap.tookMs === null ? "" : ` in ${ms(swap.tookMs)}`}</span>;
}

export function RunButtons({ run }: { run: Run }) {
  const [asking, setAsking] = useState(false);
  if (!isLive(run) && !awaitsSuccessor(run)) return null;
  const stop = async (mode: "checkpoint" | "now") => {
    setAsking(true);
    try {
      await stopRun(run.id, mode);
    } catch (error) {
      say("bad", `Run ${shortId(run.id)} was not stopped: ${words(error)}`);
    }
    setAsking(false);
  };
  if (awaitsSuccessor(run)) {
    return (
      <div class="run-buttons">
        <Button icon="stop" kind="danger" disabled={asking} onClick={() => void stop("now")}>Do not restart</Button>
      </div>
    );
  }
  const canWait = run.status === "running" || run.status === "starting";
  return (
    <div class="run-buttons">
      <Button icon="flag" disabled={asking || !canWait} onClick={() => void stop("checkpoint")}>Stop at checkpoint</Button>
      <Button icon="stop" kind="danger" disabled={asking || run.status === "stopping"} onClick={() => void stop("now")}>Stop now</Button>
    </div>
  );
}
