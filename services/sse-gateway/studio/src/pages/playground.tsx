// Ask a trained model: the final one of a job, or any of its checkpoints; two of them side by side.

import { useEffect, useRef, useState } from "preact/hooks";
import { ask, Refused, words } from "../net/ask.ts";
import type { Job } from "../net/types.ts";
import { chat } from "../state/chat.ts";
import { jobs, jobsAre, watchJobs } from "../state/job-list.ts";
import { dateTime, ms, shortId, whole } from "../ui/format.ts";
import { Button, CopyButton, Empty, Panel } from "../ui/parts.tsx";

interface Choice {
  job: string;
  /** Nothing: the final model. */
  step: number | null;
}

interface Answer {
  text: string;
  state: "asking" | "done" | "stopped" | "failed";
  error?: string;
  tookMs?: number;
}

export function PlaygroundPage({ job, step }: { job: string | undefined; step: string | undefined }) {
  useEffect(watchJobs, []);
  const [prompt, setPrompt] = useState("27+15=");
  const [temperature, setTemperature] = useState(0);
  const [maxTokens, setMaxTokens] = useState(64);
  const [two, setTwo] = useState(false);
  const given = step === undefined || !/^\d+$/.test(step) ? null : Number(step);
  const [first, setFirst] = useState<Choice | null>(job === undefined ? null : { job, step: given });
  const [second, setSecond] = useState<Choice | null>(null);
  const [asked, setAsked] = useState(0);
  const [stopped, setStopped] = useState(0);
  const [busy, setBusy] = useState([false, false]);
  const trained = jobs.value.filter(({ status, startedAt }) => status !== "queued" && startedAt !== null);
  useEffect(() => {
    if (job !== undefined) setFirst({ job, step: given });
  }, [job, step]);
  const one = first ?? (trained[0] ? { job: trained[0].id, step: null } : null);
  const other = second ?? one;
  const any = busy[0] || busy[1];
  const settle = (place: number) => (now: boolean) => setBusy((known) => known.map((was, at) => (at === place ? now : was)));
  const question = { prompt, temperature, maxTokens };
  return (
    <div class="page playground">
      <header class="page-head">
        <h1>Playground</h1>
        <span class="spacer" />
        <Button icon="columns" aria-pressed={two} onClick={() => setTwo(!two)}>Side by side</Button>
      </header>
      {jobsAre.value === "read" && trained.length === 0 && first === null ? (
        <Panel title="Models"><Empty title="Nothing was trained yet">The playground asks checkpoints. <a href="#/">Start a run</a>; its first checkpoint can be asked while it trains.</Empty></Panel>
      ) : (
        <>
          <form class="prompt" onSubmit={(event) => { event.preventDefault(); if (one) setAsked(asked + 1); }}>
            <label for="prompt">Prompt</label>
            <textarea id="prompt" rows={3} value={prompt} onInput={(event) => setPrompt(event.currentTarget.value)}
              onKeyDown={(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.currentTarget.form?.requestSubmit(); }} />
            <div class="prompt-bar">
              <label class="slider">Temperature <input type="range" min="0" max="2" step="0.1" value={temperature} onInput={(event) => setTemperature(Number(event.currentTarget.value))} /><output class="mono">{temperature.toFixed(1)}</output></label>
              <label class="number">Most tokens <input type="number" min="1" max="8192" value={maxTokens} onInput={(event) => setMaxTokens(Math.max(1, Number(event.currentTarget.value) || 1))} /></label>
              <span class="spacer" />
              {any
                ? <Button kind="danger" icon="stop" onClick={() => setStopped(stopped + 1)}>Stop</Button>
                : <button type="submit" class="button primary" disabled={!one || prompt === ""} title="Ctrl-Enter"><span>Ask</span></button>}
            </div>
          </form>
          <div class={two ? "answers two" : "answers"}>
            <Model name={two ? "Left" : "Answer"} choice={one} onChoice={setFirst} trained={trained} question={question} asked={asked} stopped={stopped} onBusy={settle(0)} />
            {two && <Model name="Right" choice={other} onChoice={setSecond} trained={trained} question={question} asked={asked} stopped={stopped} onBusy={settle(1)} />}
          </div>
        </>
      )}
    </div>
  );
}

interface ModelProps {
  name: string;
  choice: Choice | null;
  onChoice: (choice: Choice) => void;
  trained: readonly Job[];
  question: { prompt: string; temperature: number; maxTokens: number };
  /** Counts the times that were asked for an answer, and for its end. */
  asked: number;
  stopped: number;
  onBusy: (busy: boolean) => void;
}

function Model({ name, choice, onChoice, trained, question, asked, stopped, onBusy }: ModelProps) {
  const models = useModels(choice?.job);
  const [answer, setAnswer] = useState<Answer | null>(null);
  const abort = useRef<AbortController | null>(null);
  const before = useRef(asked);
  // Without a final model the newest checkpoint is meant.
  const step = choice?.step ?? (models.hasFinal ? null : models.steps.at(-1) ?? null);
  useEffect(() => {
    if (asked === before.current || !choice) return;
    before.current = asked;
    const begun = performance.now();
    const mine = new AbortController();
    abort.current?.abort();
    abort.current = mine;
    setAnswer({ text: "", state: "asking" });
    onBusy(true);
    const end = (how: Partial<Answer>) => {
      if (abort.current !== mine) return;
      onBusy(false);
      setAnswer((known) => ({ text: "", ...known, tookMs: performance.now() - begun, state: "done", ...how }));
    };
    const on = (text: string) => setAnswer((known) => ({ state: "asking", ...known, text: (known?.text ?? "") + text }));
    chat({ job: choice.job, step, ...question }, on, mine.signal).then(
      () => end({}),
      (error) => end(mine.signal.aborted ? { state: "stopped" } : { state: "failed", error: words(error) }),
    );
  }, [asked]);
  useEffect(() => { if (stopped > 0) abort.current?.abort(); }, [stopped]);
  useEffect(() => () => { abort.current?.abort(); onBusy(false); }, []);
  const known = trained.some(({ id }) => id === choice?.job);
  return (
    <Panel title={name} class="answer" extra={answer?.text ? <CopyButton text={() => answer.text} label="Copy the answer" /> : undefined}>
      <div class="choice">
        <label>Job
          <select value={choice?.job ?? ""} onChange={(event) => onChoice({ job: event.currentTarget.value, step: null })}>
            {choice && !known && <option value={choice.job}>{shortId(choice.job)}</option>}
            {trained.map((job) => <option key={job.id} value={job.id}>{job.name} · {shortId(job.id)} · {job.status} · {dateTime(job.createdAt)}</option>)}
          </select>
        </label>
        <label>Model
          <select value={step === null ? "final" : String(step)} disabled={!models.hasFinal && models.steps.length === 0}
            onChange={(event) => choice && onChoice({ job: choice.job, step: event.currentTarget.value === "final" ? null : Number(event.currentTarget.value) })}>
            {models.hasFinal && <option value="final">Final model</option>}
            {step !== null && !models.steps.includes(step) && <option value={step}>Checkpoint at step {whole(step)}</option>}
            {models.steps.toReversed().map((one) => <option key={one} value={one}>Checkpoint at step {whole(one)}</option>)}
            {!models.hasFinal && models.steps.length === 0 && <option value="final">{models.error ?? "no checkpoint yet"}</option>}
          </select>
        </label>
      </div>
      <div class="answer-text" data-testid="answer" aria-live="polite" aria-busy={answer?.state === "asking"}>
        {!answer && <p class="muted">{step === null && !models.hasFinal ? "This job has no model to ask yet." : "The answer comes here."}</p>}
        {answer && <pre class="wrap">{answer.text}{answer.state === "asking" && <span class="caret" aria-hidden="true" />}</pre>}
        {answer?.state === "failed" && <p class="bad" role="alert">{answer.error}</p>}
        {answer?.state === "stopped" && <p class="muted">Stopped.</p>}
        {answer?.state === "done" && <p class="muted">{answer.text === "" ? "The model said nothing. " : ""}{ms(answer.tookMs ?? 0)}</p>}
      </div>
    </Panel>
  );
}

interface Models {
  steps: number[];
  hasFinal: boolean;
  error?: string;
}

/** The checkpoints of a job while it trains too. */
function useModels(id: string | undefined): Models {
  const [models, setModels] = useState<Models>({ steps: [], hasFinal: false });
  const status = jobs.value.find((job) => job.id === id)?.status;
  useEffect(() => {
    if (id === undefined) return;
    let here = true;
    const read = async () => {
      try {
        const [steps, hasFinal] = await modelsOf(id);
        if (here) setModels({ steps, hasFinal });
      } catch (error) {
        if (here) setModels({ steps: [], hasFinal: false, error: words(error) });
      }
    };
    void read();
    const timer = status === "running" ? setInterval(() => void read(), 5000) : undefined;
    return () => { here = false; clearInterval(timer); };
  }, [id, status]);
  return models;
}

async function modelsOf(id: string): Promise<[number[], boolean]> {
  const path = `/api/jobs/${encodeURIComponent(id)}`;
  const { job, events } = await ask<{ job: Job; events: { type: string; step?: number }[] }>("GET", `${path}?events=500`);
  const hasFinal = job.status === "completed";
  try {
    return [(await ask<{ checkpoints: number[] }>("GET", `${path}/series?buckets=1`)).checkpoints, hasFinal];
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const steps = events.flatMap(({ type, step }) => (type === "checkpoint.saved" && step !== undefined ? [step] : []));
    return [[...new Set(steps)], hasFinal];
  }
}
