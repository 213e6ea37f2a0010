// Terminal sessions: open one, type, see which commands came to their end, close it.

import { useEffect, useMemo, useState } from "preact/hooks";
import { words } from "../net/ask.ts";
import { tab } from "../net/tab.ts";
import type { Terminal } from "../net/types.ts";
import { say } from "../state/notice.ts";
import { closeTerminal, openTerminal, readTerminals, terminals, terminalsAre, terminalsError, TerminalSession } from "../state/terminals.ts";
import { LazyScreen } from "../terminal/lazy.tsx";
import { dateTime, ms, shortId } from "../ui/format.ts";
import { Banner, Button, Empty, Panel, Pill, type Tone } from "../ui/parts.tsx";

const TONES: Record<Terminal["status"], Tone> = { starting: "busy", running: "good", closing: "busy", exited: "idle", lost: "bad" };
/** Sessions that others open are seen within this time. */
const LOOK = 5000;

export function TerminalPage({ id }: { id: string | undefined }) {
  const [asking, setAsking] = useState(false);
  const lives = tab.lives.value;
  useEffect(() => {
    void readTerminals();
    const timer = setInterval(() => { if (!document.hidden && terminalsAre.value !== "absent") void readTerminals(); }, LOOK);
    return () => clearInterval(timer);
  }, [lives]);
  const all = terminals.value;
  const selected = id ?? all.find(({ status }) => status === "running")?.id;
  const open = async () => {
    setAsking(true);
    try {
      const terminal = await openTerminal();
      location.hash = `#/terminal/${encodeURIComponent(terminal.id)}`;
    } catch (error) {
      say("bad", `No terminal was opened: ${words(error)}`);
    }
    setAsking(false);
  };
  const absent = terminalsAre.value === "absent";
  return (
    <div class="page terminal">
      <header class="page-head">
        <h1>Terminal</h1>
        <span class="spacer" />
        <Button kind="primary" icon="plus" disabled={asking || absent || terminalsAre.value === "unread"} onClick={() => void open()}>New terminal</Button>
      </header>
      {terminalsError.value && <Banner tone="warn">The terminals cannot be read: {terminalsError.value}.</Banner>}
      {absent ? (
        <Panel title="Sessions"><Empty icon="warning" title="Terminals are not available on this server">Everything else works. A newer midrun has them.</Empty></Panel>
      ) : (
        <div class="terminal-grid">
          <Sessions all={all} selected={selected} />
          {selected ? <Session key={selected} id={selected} terminal={all.find((one) => one.id === selected)} /> : (
            <Panel title="Screen"><Empty title={terminalsAre.value === "read" ? "No terminal is open" : "Reading…"}>A terminal is a shell on this server's machine, in the project's folder. It goes on when this page is closed.</Empty></Panel>
          )}
        </div>
      )}
    </div>
  );
}

function Sessions({ all, selected }: { all: readonly Terminal[]; selected: string | undefined }) {
  if (all.length === 0) return null;
  return (
    <Panel title="Sessions" class="sessions">
      <ul class="run-list">
        {all.map((terminal) => (
          <li key={terminal.id} class={terminal.id === selected ? "selected" : ""}>
            <a href={`#/terminal/${encodeURIComponent(terminal.id)}`} class="mono" title={terminal.id}>{terminal.name ?? shortId(terminal.id)}</a>
            <Pill tone={TONES[terminal.status]} title={terminal.reason ?? undefined}>{terminal.status}{terminal.exitCode ? ` ${terminal.exitCode}` : ""}</Pill>
            <time>{dateTime(terminal.startedAt)}</time>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function Session({ id, terminal }: { id: string; terminal: Terminal | undefined }) {
  const session = useMemo(() => new TerminalSession(id), [id]);
  const [closing, setClosing] = useState(false);
  useEffect(() => () => session.close(), [session]);
  const close = async () => {
    setClosing(true);
    try {
      await closeTerminal(id);
    } catch (error) {
      say("bad", `The terminal was not closed: ${words(error)}`);
    }
    setClosing(false);
  };
  const over = session.ended.value !== null;
  const commands = session.commands.value;
  return (
    <div class="session">
      <Panel title={terminal?.name ?? `Terminal ${shortId(id)}`} class="screen-panel" extra={
        <>
          {terminal && <span class="muted mono">{terminal.shell}</span>}
          <Button kind="danger" icon="close" disabled={closing || over} onClick={() => void close()}>Close</Button>
        </>
      }>
        {over && <Banner tone="idle">{session.ended.value}</Banner>}
        {tab.link.value === "away" && <Banner tone="warn">The server is away. The shell goes on without it.</Banner>}
        {!over && session.away.value && <Banner tone="warn">The screen cannot be read at the moment: {session.away.value}. The shell goes on, and it is tried again.</Banner>}
        {session.refused.value && <Banner tone="bad">What was typed did not get there: {session.refused.value}.</Banner>}
        <LazyScreen feed={(to) => session.feed(to)} label={`Terminal ${shortId(id)}`} onType={(text) => session.type(text)} onSize={(rows, columns) => void session.resize(rows, columns)} />
      </Panel>
      {commands.length > 0 && (
        <Panel title="Commands given by programs">
          <ul class="commands">
            {commands.map((command) => (
              <li key={command.id}>
                {command.durationMs === undefined ? <Pill tone="busy">running</Pill> : <Pill tone={command.exitCode === 0 ? "good" : "bad"}>exit {command.exitCode ?? "?"}</Pill>}
                <code>{command.text.trim()}</code>
                {command.durationMs !== undefined && <span class="muted">{ms(command.durationMs)}</span>}
              </li>
            ))}
          </ul>
        </Panel>
      )}
    </div>
  );
}
