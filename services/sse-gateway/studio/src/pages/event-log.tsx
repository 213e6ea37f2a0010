// A job's newest events, by columns, the newest first. Only the rows in sight are in the document.

import { useEffect, useRef, useState } from "preact/hooks";
import type { JobEvent } from "../net/types.ts";
import { KEPT_EVENTS } from "../state/job-feed.ts";
import { brief, clock, figure, whole } from "../ui/format.ts";
import { Empty, Panel } from "../ui/parts.tsx";
import { rowsInSight } from "../ui/window.ts";

const ROW = 26;
const OWN = new Set(["id", "type", "jobId", "timestamp", "step", "loss", "evalLoss"]);

export function EventLog({ events }: { events: readonly JobEvent[] }) {
  const box = useRef<HTMLDivElement>(null);
  const [place, setPlace] = useState({ top: 0, height: 300 });
  const look = () => { const now = box.current; if (now) setPlace({ top: now.scrollTop, height: now.clientHeight }); };
  useEffect(look, []);
  const { from, to } = rowsInSight(place.top, place.height, ROW, events.length);
  const rows = Array.from({ length: to - from }, (_, offset) => [from + offset, events[events.length - 1 - from - offset]!] as const);
  return (
    <Panel title="Events" class="events" extra={<span class="muted">{events.length === KEPT_EVENTS ? `newest ${KEPT_EVENTS}` : events.length}</span>}>
      {events.length === 0 ? <Empty title="No events yet" /> : (
        <div class="event-box" ref={box} onScroll={look} tabIndex={0} role="region" aria-label="Table of events, newest first" data-testid="events" data-count={events.length}>
          <div class="event-row event-head"><span>Time</span><span>Event</span><span>Step</span><span>Loss</span><span>Eval loss</span><span>More</span></div>
          <div class="event-rows" style={{ height: `${events.length * ROW}px` }}>
            {rows.map(([row, event]) => (
              <div key={event.id ?? row} class={`event-row ${event.type.replace(".", "-")}`} style={{ top: `${row * ROW}px` }}>
                <time>{clock(event.timestamp)}</time>
                <span>{event.type}</span>
                <span class="mono">{event.step === undefined ? "" : whole(event.step)}</span>
                <span class="mono">{typeof event.loss === "number" ? figure(event.loss) : ""}</span>
                <span class="mono">{typeof event.evalLoss === "number" ? figure(event.evalLoss) : ""}</span>
                <span class="mono muted more" title={more(event, 2000)}>{more(event, 160)}</span>
              </div>
            ))}
          </div>
        </div>
      )}
    </Panel>
  );
}

function more(event: JobEvent, most: number): string {
  const parts = Object.entries(event)
    .filter(([key, value]) => !OWN.has(key) && value !== null && value !== undefined && !(Array.isArray(value) && value.length === 0))
    .map(([key, value]) => `${key} ${typeof value === "number" ? figure(value) : typeof value === "string" ? value : brief(value, most)}`);
  return parts.join("  ").slice(0, most);
}
