// A terminal on the page: what a pty wrote, and what is typed.

import { Terminal } from "@xterm/xterm";
import { FitAddon } from "@xterm/addon-fit";
import "@xterm/xterm/css/xterm.css";
import { useEffect, useRef } from "preact/hooks";
import { resolved, shade } from "../theme.ts";
import { openWithin } from "./policy.ts";

export interface ScreenProps {
  /** Hands over everything there is and will be, and whether it is old news; gives what ends it. */
  feed: (to: (bytes: string | Uint8Array, old?: boolean) => void) => () => void;
  label: string;
  /** Takes what is typed; without it nothing can be. */
  onType?: (text: string) => void;
  onSize?: (rows: number, columns: number) => void;
  /** The pty's own width, where the page does not set it. */
  columns?: number;
}

const SCROLLBACK = 10_000;

export function Screen({ feed, label, onType, onSize, columns }: ScreenProps) {
  const box = useRef<HTMLDivElement>(null);
  const made = useRef<Terminal | null>(null);
  const look = shade.value;
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const terminal = new Terminal({
      disableStdin: !onType,
      cursorBlink: false,
      cursorInactiveStyle: onType ? "outline" : "none",
      fontFamily: 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace',
      fontSize: 12.5,
      scrollback: SCROLLBACK,
      screenReaderMode: true,
      theme: colours(),
      ...(columns !== undefined && { cols: columns }),
    });
    made.current = terminal;
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    openWithin(terminal, element);
    terminal.textarea?.setAttribute("aria-label", label);
    const fill = () => {
      const fitting = element.clientWidth === 0 ? undefined : fit.proposeDimensions();
      if (fitting) terminal.resize(columns ?? fitting.cols, fitting.rows);
    };
    const watch = new ResizeObserver(fill);
    watch.observe(element);
    terminal.onResize(({ rows, cols }) => onSize?.(rows, cols));
    fill();
    onSize?.(terminal.rows, terminal.cols);
    // The emulator also says as if typed what a program asks a terminal. What was asked long ago is not answered, nor
    // by a screen that nobody is at: another one may show the same session. Such answers begin with ESC, as keys without
    // a letter do: those are lost for as long as the past is drawn.
    let old = 0;
    const isAt = () => document.hasFocus() && element.contains(document.activeElement);
    if (onType) {
      terminal.onData((text) => { if (isAt() && !(old > 0 && text.startsWith("\x1b"))) onType(text); });
      terminal.focus();
    }
    const leave = feed((bytes, isOld = false) => {
      if (isOld) old += 1;
      terminal.write(bytes, () => { if (isOld) old -= 1; });
    });
    return () => {
      leave();
      watch.disconnect();
      terminal.dispose();
      made.current = null;
    };
  }, []);
  useEffect(() => {
    if (made.current) made.current.options.theme = colours();
  }, [look]);
  return <div class={columns === undefined ? "screen" : "screen wide"} ref={box} role="region" aria-label={label} data-testid="screen" data-columns={columns} />;
}

function colours() {
  const names = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"] as const;
  const bright = ["brightBlack", "brightRed", "brightGreen", "brightYellow", "brightBlue", "brightMagenta", "brightCyan", "brightWhite"] as const;
  const ansi = [...names, ...bright].map((name, place) => [name, resolved(`--ansi-${place}`)]);
  return {
    ...Object.fromEntries(ansi),
    background: resolved("--surface"),
    foreground: resolved("--text"),
    cursor: resolved("--accent-text"),
    selectionBackground: resolved("--selection"),
  };
}
