// The overview: what would run, what runs, what it says, and what each save meant.

import { useEffect, useState } from "preact/hooks";
import { Refused, words } from "../net/ask.ts";
import { awaitsSuccessor, isLive, type Diagnostic, type Run } from "../net/types.ts";
import { useShortcuts } from "../keys.ts";
import { runPath } from "../router.ts";
import { build, runs, runsAreLoaded, runsError, startRun } from "../state/dev.ts";
import { say } from "../state/notice.ts";
import { useRunLog } from "../state/use.ts";
import { stateOf } from "../state/words.ts";
import { LogView } from "../log/view.tsx";
import { dateTime, shortId } from "../ui/format.ts";
import { Banner, Button, CodeFrame, Empty, Panel, Pill } from "../ui/parts.tsx";
import { RunCard } from "./run-card.tsx";
import { SaveList } from "./save-list.tsx";

/** Ended runs that are listed. */
const LISTED = 30;
/** Cards that show their job's numbers, from the top: a tab's stream has room for so many topics. */
const FOLLOWED = 24;

export function OverviewPage() {
  const [chosen, setChosen] = useState<string | null>(null);
  const all = runs.value;
  const selected = successor(all, chosen) ?? all.find(isLive) ?? all[0];
  const shown = all.filter((run) => isLive(run) || awaitsSuccessor(run));
  // What was chosen and replaced is looked at no more: its successor is.
  useEffect(() => {
    if (chosen && selected && selected.id !== chosen) setChosen(selected.id);
  }, [selected?.id]);
  return (
    <div class="page overview">
      <h1 class="visually-hidden">Overview</h1>
      <Launch onStarted={(run) => setChosen(run.id)} />
      <div class="overview-grid">
        <div class="overview-main">
          {runsError.value && !runsAreLoaded.value && <Banner tone="warn">The runs cannot be read: {runsError.value}.</Banner>}
          {shown.map((run, place) => (
            <RunCard key={run.id} run={run} follows={place < FOLLOWED} selected={run.id === selected?.id} onSelect={() => setChosen(run.id)} />
          ))}
          <Log run={selected} />
        </div>
        <aside class="overview-side" aria-label="Saves and runs">
          <SaveList />
          <Ended all={all} selected={selected?.id} onSelect={setChosen} />
        </aside>
      </div>
    </div>
  );
}

/** `id`, or the run that stands in its place now, once that one exists. */
function successor(all: Run[], id: string | null): Run | undefined {
  let run = all.find((one) => one.id === id);
  while (run?.replacedBy) {
    const next = all.find((one) => one.id === run?.replacedBy);
    if (!next) break;
    run = next;
  }
  return run;
}

function Launch({ onStarted }: { onStarted: (run: Run) => void }) {
  const [asking, setAsking] = useState(false);
  const [refused, setRefused] = useState<{ message: string; diagnostics: Diagnostic[] } | null>(null);
  const now = build.value;
  const trainer = now.state === "good" ? now.trainer : null;
  const ready = trainer !== null && !asking;
  useEffect(() => setRefused(null), [now]);
  const start = async () => {
    if (!ready) return;
    setAsking(true);
    setRefused(null);
    try {
      onStarted(await startRun());
    } catch (error) {
      const places = error instanceof Refused ? error.data["diagnostics"] : undefined;
      setRefused({ message: words(error), diagnostics: Array.isArray(places) ? places : [] });
      say("bad", `No run was started: ${words(error)}`);
    }
    setAsking(false);
  };
  useShortcuts([{ keys: "r", what: "run training", act: () => void start() }]);
  return (
    <section class="launch" aria-label="Training">
      <div class="launch-line">
        <Button kind="primary" icon="play" disabled={!ready} onClick={() => void start()} data-testid="run">
          {trainer === null ? "Run training" : `Run training: ${trainer}`}
        </Button>
        <Caption />
      </div>
      {now.state === "failing" && <CodeFrame message={now.message} diagnostics={now.diagnostics} />}
      {refused && now.state !== "failing" && refused.diagnostics.length > 0 && <CodeFrame {...refused} />}
    </section>
  );
}

function Caption() {
  const now = build.value;
  if (now.state === "pending") return <p class="caption muted" data-testid="caption">Building…</p>;
  if (now.state === "failing") {
    return <p class="caption bad" role="alert" data-testid="caption">Couldn't read manifest: {now.message.split("\n")[0]}</p>;
  }
  if (now.trainer === null) {
    return (
      <p class="caption" data-testid="caption">
        No trainer in {now.entry || "the entry"} yet. Export one made with <code>createTrainer</code> as <code>trainer</code>, and save.
      </p>
    );
  }
  return <p class="caption muted" data-testid="caption">{now.entry && <span class="mono">{now.entry}</span>}</p>;
}

function Log({ run }: { run: Run | undefined }) {
  const log = useRunLog(run?.id);
  if (!run || !log) {
    return (
      <Panel title="Log">
        {runsAreLoaded.value
          ? <Empty icon="play" title="No run yet">Press <kbd>r</kbd> to train. The run goes on when this page is closed.</Empty>
          : <Empty title="Reading…" />}
      </Panel>
    );
  }
  const { tone, text } = stateOf(run, null);
  return (
    <Panel title="Log" class="log-panel" extra={<><a class="mono" href={runPath(run.id)} title={run.id}>{shortId(run.id)}</a><Pill tone={tone}>{text}</Pill></>}>
      {log.missing.value && <Banner tone="warn">{log.missing.value}</Banner>}
      <LogView key={run.id} lines={log.lines} version={log.version} name={run.id} empty="Nothing was written yet" />
    </Panel>
  );
}

function Ended({ all, selected, onSelect }: { all: Run[]; selected: string | undefined; onSelect: (id: string) => void }) {
  const ended = all.filter((run) => !isLive(run) && !awaitsSuccessor(run));
  if (ended.length === 0) return null;
  return (
    <Panel title="Earlier runs" extra={<span class="muted">{ended.length}</span>}>
      <ul class="run-list">
        {ended.slice(0, LISTED).map((run) => {
          const { tone, text } = stateOf(run, null);
          return (
            <li key={run.id} class={run.id === selected ? "selected" : ""}>
              <a class="mono" href={runPath(run.id)} title={run.id}>{shortId(run.id)}</a>
              <Pill tone={tone} title={run.reason ?? undefined}>{text}</Pill>
              <time>{dateTime(run.endedAt ?? run.startedAt)}</time>
              <Button kind="quiet" aria-label={`Show the log of run ${shortId(run.id)}`} onClick={() => onSelect(run.id)}>Log</Button>
            </li>
          );
        })}
      </ul>
    </Panel>
  );
}
