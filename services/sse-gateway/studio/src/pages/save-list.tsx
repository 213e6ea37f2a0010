// What happened on save, newest first.

import { traceUi } from "../net/ask.ts";
import { saves } from "../state/dev.ts";
import { runPath } from "../router.ts";
import type { Save } from "../state/saves.ts";
import { clock, cut, ms, shortId } from "../ui/format.ts";
import { Empty, Panel, Pill } from "../ui/parts.tsx";
import { Icon } from "../ui/icons.tsx";

export function SaveList() {
  return (
    <Panel title="What happened on save" class="saves">
      {saves.value.length === 0 ? (
        <Empty title="No save yet">Edit a callback or the config while a run trains, and save.</Empty>
      ) : (
        <ol class="save-list" data-testid="saves">{saves.value.map((save) => <Entry key={save.key} save={save} />)}</ol>
      )}
    </Panel>
  );
}

const VERBS: Record<string, { tone: "good" | "busy" | "idle" | "warn"; text: string }> = {
  "nothing": { tone: "idle", text: "left alone" },
  "hot-swap": { tone: "busy", text: "hot swap asked for" },
  "restart": { tone: "busy", text: "restart" },
  "wait": { tone: "idle", text: "waits until it is ready" },
  "would-restart": { tone: "warn", text: "would restart" },
};

function Entry({ save }: { save: Save }) {
  const names = save.files.map((file) => file.split("/").at(-1)).join(", ") || "build";
  return (
    <li class="save">
      <div class="save-head">
        <b class="mono file" title={save.files.join("\n")}>{names}</b>
        <time>{clock(save.at)}</time>
        {save.traceId && traceUi && (
          <a class="trace" href={traceUi.replace("{traceId}", encodeURIComponent(save.traceId))} target="_blank" rel="noreferrer"><Icon name="trace" />Trace</a>
        )}
      </div>
      {save.error && <p class="save-error"><Pill tone="bad">Build failed</Pill> <span>{save.error}</span></p>}
      {save.configDiff?.map(({ path, from, to }) => (
        <p key={path} class="save-diff mono">{path}: {cut(from, 30)} → {cut(to, 30)}</p>
      ))}
      {save.decisions.map(({ run, decision, why, ack }) => {
        const said = ack ? (ack.ok ? { tone: "good" as const, text: "swapped" } : { tone: "bad" as const, text: "not swapped" }) : VERBS[decision] ?? { tone: "idle" as const, text: decision };
        return (
          <p key={run} class="save-run">
            <a class="mono" href={runPath(run)}>{shortId(run)}</a> <Pill tone={said.tone}>{said.text}</Pill> <span class="muted">{ack && !ack.ok ? ack.reason : why}</span>
          </p>
        );
      })}
      {!save.error && save.decisions.length === 0 && <p class="save-run muted">No run in flight.</p>}
      {save.timings && <Bar save={save} timings={save.timings} />}
    </li>
  );
}

/** Where the time went. */
function Bar({ save, timings }: { save: Save; timings: NonNullable<Save["timings"]> }) {
  const acks = save.decisions.flatMap(({ ack }) => (ack?.ok && typeof ack.tookMs === "number" ? [ack.tookMs] : []));
  const parts = [
    { name: "bundle", took: timings.bundleMs },
    { name: "inspect", took: timings.inspectMs },
    { name: "dispatch", took: timings.dispatchMs },
    ...(acks.length > 0 ? [{ name: "ack", took: Math.max(...acks) }] : []),
  ];
  const total = parts.reduce((sum, { took }) => sum + took, 0) || 1;
  return (
    <div class="times">
      <div class="times-bar" aria-hidden="true">
        {parts.map(({ name, took }) => <i key={name} class={name} style={{ width: `${(100 * took) / total}%` }} />)}
      </div>
      <p class="times-words">{parts.map(({ name, took }) => <span key={name} class={name}><i />{name} {ms(took)}</span>)}</p>
    </div>
  );
}
