// ANSI in a line of output: colours and weights become spans, everything else that a terminal would obey is left out.
// Pure.

export interface Style {
  /** 0 to 255, or `#rrggbb`. */
  fg?: number | string;
  bg?: number | string;
  bold?: boolean;
  dim?: boolean;
  italic?: boolean;
  underline?: boolean;
  inverse?: boolean;
}

export interface Span {
  text: string;
  style: Style;
}

export const PLAIN: Style = Object.freeze({});

// CSI sequences, OSC strings up to BEL or ST, and two-character escapes; also the start of one at the line's end.
const ESCAPE = /\x1b(?:\[([0-?]*)([ -/]*)([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-Za-z]|[@-Z\\^_=>78]|\[[0-?]*[ -/]*$|\][^\x07\x1b]*$|$)/g;
const OTHER_CONTROL = /[\x00-\x08\x0b-\x1f\x7f]/g;

/** The line's spans, and the style in which the next line begins. */
export function parseLine(line: string, start: Style = PLAIN): { spans: Span[]; end: Style } {
  if (!line.includes("\x1b")) {
    const text = line.replace(OTHER_CONTROL, "");
    return { spans: text === "" ? [] : [{ text, style: start }], end: start };
  }
  const spans: Span[] = [];
  let style = start;
  let from = 0;
  const add = (upto: number) => {
    const text = line.slice(from, upto).replace(OTHER_CONTROL, "");
    const last = spans.at(-1);
    if (text === "") return;
    if (last && last.style === style) last.text += text;
    else spans.push({ text, style });
  };
  for (const found of line.matchAll(ESCAPE)) {
    add(found.index);
    from = found.index + found[0].length;
    if (found[3] === "m" && !found[2]) style = select(style, found[1] ?? "");
  }
  add(line.length);
  return { spans, end: style };
}

/** The text without any of it. */
export const plain = (line: string) =>
  line.includes("\x1b") ? line.replace(ESCAPE, "").replace(OTHER_CONTROL, "") : line.replace(OTHER_CONTROL, "");

/** SGR: the style after `parameters`. */
function select(style: Style, parameters: string): Style {
  // 38:5:n and 38:2::r:g:b are the same with colons; an empty part between two of those is a colour space.
  const codes = parameters.replaceAll("::", ":").split(/[;:]/).map((code) => (code === "" ? 0 : Number(code)));
  let next: Style = { ...style };
  for (let at = 0; at < codes.length; at++) {
    const code = codes[at] ?? 0;
    if (code === 0) next = {};
    else if (code === 1) next.bold = true;
    else if (code === 2) next.dim = true;
    else if (code === 3) next.italic = true;
    else if (code === 4) next.underline = true;
    else if (code === 7) next.inverse = true;
    else if (code === 22) { delete next.bold; delete next.dim; }
    else if (code === 23) delete next.italic;
    else if (code === 24) delete next.underline;
    else if (code === 27) delete next.inverse;
    else if (code >= 30 && code <= 37) next.fg = code - 30;
    else if (code >= 90 && code <= 97) next.fg = code - 90 + 8;
    else if (code === 39) delete next.fg;
    else if (code >= 40 && code <= 47) next.bg = code - 40;
    else if (code >= 100 && code <= 107) next.bg = code - 100 + 8;
    else if (code === 49) delete next.bg;
    else if (code === 38 || code === 48) {
      const [colour, used] = extended(codes.slice(at + 1));
      if (colour !== undefined) next[code === 38 ? "fg" : "bg"] = colour;
      at += used;
    }
  }
  return Object.keys(next).length === 0 ? PLAIN : next;
}

/** The colour behind 38 or 48, and how many codes it took. */
function extended(codes: number[]): [number | string | undefined, number] {
  if (codes[0] === 5) return [clamp(codes[1]), 2];
  if (codes[0] === 2) {
    const hex = codes.slice(1, 4).map((part) => clamp(part).toString(16).padStart(2, "0"));
    return hex.length === 3 ? [`#${hex.join("")}`, 4] : [undefined, codes.length];
  }
  return [undefined, codes.length];
}

const clamp = (part = 0) => Math.max(0, Math.min(255, Number.isFinite(part) ? Math.trunc(part) : 0));

const STEPS = [0, 95, 135, 175, 215, 255];

/** A colour for style sheets. The first sixteen are the theme's. */
export function css(colour: number | string): string {
  if (typeof colour === "string") return colour;
  if (colour < 16) return `var(--ansi-${colour})`;
  if (colour >= 232) {
    const grey = 8 + (colour - 232) * 10;
    return `rgb(${grey} ${grey} ${grey})`;
  }
  const place = colour - 16;
  const part = (at: number) => STEPS[at % 6] ?? 0;
  return `rgb(${part(Math.floor(place / 36))} ${part(Math.floor(place / 6))} ${part(place)})`;
}
