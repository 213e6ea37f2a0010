// A log on the page: only the rows in sight are in the document. It stays at the end until somebody scrolls up, and
// goes back there when somebody scrolls down to it.

import type { Signal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { useShortcuts } from "../keys.ts";
import { clock } from "../ui/format.ts";
import { Button, CopyButton, Empty, saveFile } from "../ui/parts.tsx";
import { Icon } from "../ui/icons.tsx";
import { atEnd, rowsInSight, scrollFor, withoutRows } from "../ui/window.ts";
import { css, parseLine, type Span } from "./ansi.ts";
import type { Line, LogLines } from "./lines.ts";

const ROW = 18;

interface Props {
  lines: LogLines;
  version: Signal<number>;
  name: string;
  empty: string;
}

export function LogView({ lines, version, name, empty }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const field = useRef<HTMLInputElement>(null);
  const follow = useRef(true);
  const top = useRef(0);
  const dropped = useRef(lines.dropped);
  const [following, setFollowing] = useState(true);
  const [place, setPlace] = useState({ top: 0, height: 400 });
  const [wanted, setWanted] = useState("");
  const [at, setAt] = useState(0);
  const drawn = version.value;
  const count = lines.lines.length;
  const found = wanted === "" ? [] : lines.search(wanted);
  const current = found[Math.min(at, found.length - 1)];

  const stay = (on: boolean) => {
    follow.current = on;
    setFollowing(on);
  };

  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const watch = new ResizeObserver(() => {
      if (follow.current) element.scrollTop = element.scrollHeight;
      setPlace({ top: element.scrollTop, height: element.clientHeight });
    });
    watch.observe(element);
    return () => watch.disconnect();
  }, []);

  useLayoutEffect(() => {
    const element = box.current;
    const gone = lines.dropped - dropped.current;
    dropped.current = lines.dropped;
    if (!element) return;
    if (follow.current) element.scrollTop = element.scrollHeight;
    else if (gone > 0) {
      // Who reads further up goes on reading the same lines, as long as they are there. The browser has already moved
      // up who is behind what is the end now: from where was scrolled to last.
      top.current = withoutRows(top.current, gone, ROW);
      element.scrollTop = top.current;
      setPlace({ top: top.current, height: element.clientHeight });
    }
  }, [drawn, count]);

  const scrolled = () => {
    const element = box.current;
    if (!element) return;
    const end = atEnd(element.scrollTop, element.clientHeight, element.scrollHeight, ROW);
    // Only who scrolls up leaves the end: lines that came meanwhile, or a smaller window, move it away as well.
    const up = element.scrollTop < top.current;
    top.current = element.scrollTop;
    if (end !== follow.current && (end || up)) stay(end);
    setPlace({ top: element.scrollTop, height: element.clientHeight });
  };

  const show = (row: number | undefined) => {
    const element = box.current;
    if (!element || row === undefined) return;
    const to = scrollFor(row, element.scrollTop, element.clientHeight - 2 * ROW, ROW);
    if (to !== undefined) {
      stay(false);
      element.scrollTop = Math.max(0, to - element.clientHeight / 3);
    }
  };

  const move = (by: number) => {
    if (found.length === 0) return;
    const next = (Math.min(at, found.length - 1) + by + found.length) % found.length;
    setAt(next);
    show(found[next]);
  };

  const search = (text: string) => {
    setWanted(text);
    const places = lines.search(text);
    setAt(Math.max(0, places.length - 1));
    show(places.at(-1));
  };

  useShortcuts([{ keys: "/", what: "search the log", act: () => field.current?.focus() }]);

  const { from, to } = rowsInSight(place.top, place.height, ROW, count);
  return (
    <div class="log">
      <div class="log-bar">
        <div class="search">
          <Icon name="search" />
          <input
            ref={field}
            type="search"
            placeholder="Search"
            aria-label="Search the log"
            value={wanted}
            onInput={(event) => search(event.currentTarget.value)}
            onKeyDown={(event) => {
              if (event.key === "Enter") move(event.shiftKey ? 1 : -1);
              if (event.key === "Escape") { search(""); event.currentTarget.blur(); }
            }}
          />
          {wanted !== "" && (
            <>
              <span class="count" role="status">{found.length === 0 ? "none" : `${Math.min(at, found.length - 1) + 1}/${found.length}`}</span>
              <Button kind="quiet" icon="up" aria-label="Match before" disabled={found.length === 0} onClick={() => move(-1)} />
              <Button kind="quiet" icon="down" aria-label="Match after" disabled={found.length === 0} onClick={() => move(1)} />
            </>
          )}
        </div>
        <div class="log-tools">
          <CopyButton text={() => lines.text()} label="Copy the log" />
          <Button kind="quiet" icon="download" aria-label="Download the log" title="Download the log" onClick={() => saveFile(`${name}.log`, lines.text(), "text/plain")} />
        </div>
      </div>
      <div class="log-frame">
        <div
          class="log-box"
          ref={box}
          onScroll={scrolled}
          tabIndex={0}
          role="region"
          aria-label="Lines of the log"
          data-testid="log"
          data-lines={count + lines.dropped}
        >
          {count === 0 ? (
            <Empty title={empty} />
          ) : (
            <div class="log-rows" style={{ height: `${count * ROW}px` }}>
              <div style={{ transform: `translateY(${from * ROW}px)` }}>
                {lines.lines.slice(from, to).map((line, offset) => (
                  <Row key={line.number} line={line} text={line.text} wanted={wanted} current={from + offset === current} />
                ))}
              </div>
            </div>
          )}
        </div>
        {!following && (
          <Button class="to-end" icon="end" onClick={() => { stay(true); const element = box.current; if (element) element.scrollTop = element.scrollHeight; }}>
            Newest
          </Button>
        )}
      </div>
      {lines.dropped > 0 && <p class="note">{lines.dropped} earlier lines are not kept in this page.</p>}
    </div>
  );
}

function Row({ line, wanted, current }: { line: Line; text: string; wanted: string; current: boolean }) {
  if (line.source === "life") {
    return <div class={`row life ${current ? "current" : ""}`}><time>{clock(line.ts)}</time><span>{line.text}</span></div>;
  }
  const { spans } = parseLine(line.text, line.style);
  return (
    <div class={`row ${line.source} ${current ? "current" : ""}`} title={clock(line.ts)}>
      {spans.map((span, place) => <Piece key={place} span={span} wanted={wanted} />)}
    </div>
  );
}

function Piece({ span, wanted }: { span: Span; wanted: string }) {
  const { fg, bg, bold, dim, italic, underline, inverse } = span.style;
  const [front, back] = inverse ? [bg ?? "bg", fg ?? "fg"] : [fg, bg];
  const colour = (one: number | string) => (one === "bg" ? "var(--surface)" : one === "fg" ? "var(--text)" : css(one));
  const style: Record<string, string> = {};
  if (front !== undefined) style["color"] = colour(front);
  if (back !== undefined) style["background"] = colour(back);
  if (bold) style["font-weight"] = "600";
  if (dim) style["opacity"] = "0.75";
  if (italic) style["font-style"] = "italic";
  if (underline) style["text-decoration"] = "underline";
  return <span style={style}>{marked(span.text, wanted)}</span>;
}

function marked(text: string, wanted: string) {
  if (wanted === "") return text;
  const parts = [];
  const whole = text.toLowerCase();
  const needle = wanted.toLowerCase();
  let from = 0;
  for (let next = whole.indexOf(needle); next >= 0; next = whole.indexOf(needle, from)) {
    parts.push(text.slice(from, next), <mark>{text.slice(next, next + wanted.length)}</mark>);
    from = next + wanted.length;
  }
  parts.push(text.slice(from));
  return parts;
}
