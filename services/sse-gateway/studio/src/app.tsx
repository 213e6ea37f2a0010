// The shell around every page: where one is, whether the server is there, and the keys that work everywhere.

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { shortcuts, useShortcuts } from "./keys.ts";
import { version } from "./net/ask.ts";
import { admission, tab } from "./net/tab.ts";
import type { Run } from "./net/types.ts";
import { JobPage } from "./pages/job.tsx";
import { JobsPage } from "./pages/jobs.tsx";
import { OverviewPage } from "./pages/overview.tsx";
import { PlaygroundPage } from "./pages/playground.tsx";
import { RunPage } from "./pages/run.tsx";
import { TerminalPage } from "./pages/terminal.tsx";
import { route, type Route } from "./router.ts";
import { notice, say } from "./state/notice.ts";
import { liveRuns, runOf, stopRun } from "./state/dev.ts";
import { troubles } from "./state/troubles.ts";
import { nextTheme, theme } from "./theme.ts";
import { Banner, Button, Empty } from "./ui/parts.tsx";
import { words } from "./net/ask.ts";
import { shortId } from "./ui/format.ts";
import { troubledSince, troubleWords } from "./ui/trouble-words.ts";

const PAGES = [
  { page: "overview", path: "#/", name: "Overview", key: "o" },
  { page: "jobs", path: "#/jobs", name: "Jobs", key: "j" },
  { page: "playground", path: "#/playground", name: "Playground", key: "p" },
  { page: "terminal", path: "#/terminal", name: "Terminal", key: "t" },
] as const;

const helpIsOpen = signal(false);

export function App() {
  const main = useRef<HTMLElement>(null);
  const shown = useRef(route.value);
  const now = route.value;
  useEffect(() => {
    document.title = `${titleOf(now)} · midrun`;
    // Whoever reads by ear begins at the new page, not at the menu behind it.
    if (shown.current !== now) main.current?.focus({ preventScroll: true });
    shown.current = now;
  }, [now]);
  useShortcuts([
    { keys: "?", what: "this help", act: () => (helpIsOpen.value = !helpIsOpen.value) },
    { keys: "s", what: "stop the run shown, or the newest live one, at its next checkpoint", act: () => void stopShown() },
    ...PAGES.map(({ name, path, key }) => ({ keys: `g${key}`, what: `go to ${name}`, act: () => { location.hash = path; } })),
  ]);
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); main.current?.focus(); }}>Skip to the page</a>
      <Head now={now} />
      <State />
      <main id="main" ref={main} tabIndex={-1}>
        {admission.value === "shut" ? <div class="page"><Empty icon="warning" title="Nothing can be shown without the server's token" /></div> : <Page now={now} />}
      </main>
      {helpIsOpen.value && <Help />}
      <Notice />
    </>
  );
}

async function stopShown() {
  const now = route.value;
  const canStop = ({ status }: Pick<Run, "status">) => status === "running" || status === "starting";
  // On a run's own page no other run is meant.
  const run = now.page === "run" ? [runOf(now.id)].find((run) => run && canStop(run)) : liveRuns.value.find(canStop);
  if (!run) return say("idle", now.page === "run" ? "This run is not training" : "No run to stop");
  try {
    await stopRun(run.id, "checkpoint");
    say("busy", `Run ${shortId(run.id)} stops at its next checkpoint`);
  } catch (error) {
    say("bad", words(error));
  }
}

function titleOf(now: Route): string {
  if (now.page === "job") return `Job ${shortId(now.id)}`;
  if (now.page === "run") return `Run ${shortId(now.id)}`;
  return PAGES.find(({ page }) => page === now.page)?.name ?? "Not found";
}

function Page({ now }: { now: Route }) {
  switch (now.page) {
    case "overview": return <OverviewPage />;
    case "jobs": return <JobsPage />;
    case "job": return <JobPage key={now.id} id={now.id} />;
    case "run": return <RunPage key={now.id} id={now.id} />;
    case "playground": return <PlaygroundPage job={now.job} step={now.step} />;
    case "terminal": return <TerminalPage id={now.id} />;
    case "unknown": return (
      <div class="page">
        <h1 class="visually-hidden">Not found</h1>
        <Empty icon="warning" title={`There is no page at ${now.path}`}><a href="#/">Go to the overview</a></Empty>
      </div>
    );
  }
}

const SECTIONS: Partial<Record<Route["page"], string>> = { job: "jobs", run: "overview" };

function Head({ now }: { now: Route }) {
  const section = SECTIONS[now.page] ?? now.page;
  const icons = { system: "auto", light: "sun", dark: "moon" } as const;
  return (
    <header class="head">
      <a class="brand" href="#/" aria-label="midrun Studio, overview">
        <svg viewBox="0 0 16 16" aria-hidden="true"><rect width="16" height="16" rx="4" /><path d="M3 5.5c3 0 3 6 6 6s3-3 4-3" /></svg>
        <span>midrun</span>
      </a>
      <nav aria-label="Pages">
        {PAGES.map(({ page, path, name }) => (
          <a key={page} href={path} aria-current={section === page ? "page" : undefined}>{name}</a>
        ))}
      </nav>
      <div class="head-right">
        <LinkState />
        <Button kind="quiet" icon={icons[theme.value]} onClick={nextTheme} aria-label={`Colours: ${theme.value}`} title={`Colours: ${theme.value}`} />
        <Button kind="quiet" icon="help" onClick={() => (helpIsOpen.value = true)} aria-label="Keys and help" title="Keys and help (?)" />
      </div>
    </header>
  );
}

const LINKS = { connecting: ["idle", "Connecting"], live: ["good", "Live"], away: ["bad", "Reconnecting"] } as const;

function linkState() {
  if (admission.value === "shut") return ["bad", "Shut out"] as const;
  if (tab.link.value === "live" && troubles.value.length > 0) return ["bad", "Limited"] as const;
  return LINKS[tab.link.value];
}

function LinkState() {
  const [tone, text] = linkState();
  return <span class={`link ${tone}`} role="status" data-testid="link"><i />{text}</span>;
}

function State() {
  if (admission.value === "reloading") {
    return <Banner tone="busy">The server was started anew and has a new token. Reloading this page.</Banner>;
  }
  if (admission.value === "shut") {
    return (
      <Banner tone="bad" action={<Button onClick={() => location.reload()}>Reload</Button>}>
        This page is not allowed in: its token is not the server's. Reload it, or open the address that <code>midrun dev</code> prints.
      </Banner>
    );
  }
  if (tab.link.value === "away") {
    return <Banner tone="warn">The server is away. Runs go on without it; this page goes on when it is back.</Banner>;
  }
  const since = troubledSince(troubles.value);
  if (since !== null) {
    return <Banner tone="warn"><span data-testid="troubles">{troubleWords(troubles.value)} Since {new Date(since).toLocaleTimeString()}. Runs go on meanwhile.</span></Banner>;
  }
  return null;
}

function Notice() {
  const now = notice.value;
  return (
    <div class="notices" role="status" aria-live="polite">
      {now && <div key={now.key} class={`notice ${now.tone}`}>{now.text}<Button kind="quiet" icon="close" aria-label="Close" onClick={() => (notice.value = null)} /></div>}
    </div>
  );
}

function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  const rows = new Map(shortcuts().map(({ keys, what }) => [keys, what]));
  return (
    <dialog ref={dialog} class="help" aria-labelledby="help-title" onClose={() => (helpIsOpen.value = false)} onClick={(event) => { if (event.target === dialog.current) dialog.current?.close(); }}>
      <div class="help-body">
        <header><h2 id="help-title">Keys</h2><Button kind="quiet" icon="close" aria-label="Close" onClick={() => dialog.current?.close()} /></header>
        <dl>
          {[...rows].map(([keys, what]) => <div key={keys}><dt>{[...keys].map((key) => <kbd key={key}>{key}</kbd>)}</dt><dd>{what}</dd></div>)}
        </dl>
        <p class="note">midrun {version}. This page only shows and asks: close it, and everything goes on.</p>
      </div>
    </dialog>
  );
}
