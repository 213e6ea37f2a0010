// Small parts that every page is made from.

import type { ButtonHTMLAttributes, ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Diagnostic, JobStatus, RunStatus } from "../net/types.ts";
import { Icon, type IconName } from "./icons.tsx";

export type Tone = "good" | "bad" | "busy" | "idle" | "warn";

export const RUN_TONES: Record<RunStatus, Tone> = {
  "starting": "busy", "running": "good", "early-stopping": "busy", "restarting": "busy", "stopping": "busy", "exited": "idle", "lost": "bad",
};

export const JOB_TONES: Record<JobStatus, Tone> = {
  queued: "warn", running: "good", completed: "idle", failed: "bad", cancelled: "idle",
};

export function Pill({ tone, children, title }: { tone: Tone; children: ComponentChildren; title?: string | undefined }) {
  return <span class={`pill ${tone}`} title={title}>{children}</span>;
}

type ButtonProps = {
  icon?: IconName;
  kind?: "primary" | "danger" | "plain" | "quiet";
  spin?: boolean;
  children?: ComponentChildren;
} & Omit<ButtonHTMLAttributes<HTMLButtonElement>, "icon">;

export function Button({ icon, kind = "plain", spin = false, children, class: more, ...rest }: ButtonProps) {
  return (
    <button type="button" class={`button ${kind} ${children ? "" : "only-icon"} ${more ?? ""}`} {...rest}>
      {icon && <Icon name={icon} spin={spin} />}
      {children !== undefined && <span>{children}</span>}
    </button>
  );
}

const SAID = 1600;

/** Copies `text()`; says that it did. */
export function CopyButton({ text, label, children, kind = "quiet" }: { text: () => string; label: string; children?: ComponentChildren; kind?: "quiet" | "plain" }) {
  const [done, setDone] = useState(false);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  const copy = async () => {
    await writeText(text());
    setDone(true);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setDone(false), SAID);
  };
  return (
    <Button kind={kind} icon={done ? "check" : "copy"} aria-label={done ? "Copied" : label} title={done ? "Copied" : label} onClick={() => void copy()}>
      {children}
    </Button>
  );
}

/** The clipboard is there on secure origins only; a server on another machine's name is none. */
async function writeText(text: string) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

export function saveFile(name: string, content: BlobPart, type: string) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export function Empty({ icon, title, children }: { icon?: IconName; title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      {icon && <Icon name={icon} />}
      <p class="empty-title">{title}</p>
      {children && <div class="empty-text">{children}</div>}
    </div>
  );
}

export function Banner({ tone, children, action }: { tone: Tone; children: ComponentChildren; action?: ComponentChildren }) {
  return (
    <div class={`banner ${tone}`} role={tone === "bad" ? "alert" : "status"}>
      <div class="banner-text">{children}</div>
      {action}
    </div>
  );
}

/** What a build or an import ended with, and where. */
export function CodeFrame({ message, diagnostics }: { message: string; diagnostics: Diagnostic[] }) {
  const place = diagnostics[0];
  const where = place?.file && `${place.file}${place.line ? `:${place.line}:${place.column ?? 1}` : ""}`;
  const text = place?.frame ?? message;
  return (
    <figure class="frame" data-testid="frame">
      {where && <figcaption class="mono">{where}</figcaption>}
      <pre tabIndex={0} aria-label="Where the error is">{text}</pre>
    </figure>
  );
}

export function Facts({ rows }: { rows: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export function Panel({ title, extra, children, class: more = "", label }: { title: ComponentChildren; extra?: ComponentChildren; children: ComponentChildren; class?: string; label?: string }) {
  return (
    <section class={`panel ${more}`} aria-label={label ?? (typeof title === "string" ? title : undefined)}>
      <header class="panel-head">
        <h2>{title}</h2>
        {extra && <div class="panel-extra">{extra}</div>}
      </header>
      {children}
    </section>
  );
}

/** The time now, told again every `every` milliseconds while the caller is shown. */
export function useNow(every: number): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}
