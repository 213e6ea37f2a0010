// Numbers, times and sizes as people read them. Pure.

export const shortId = (id: string) => (id.length > 8 ? id.slice(-6) : id);

export function ms(value: number): string {
  if (value < 1) return "under 1 ms";
  if (value < 10) return `${Math.round(value * 10) / 10} ms`;
  if (value < 1000) return `${Math.round(value)} ms`;
  return `${(value / 1000).toFixed(value < 10_000 ? 1 : 0)} s`;
}

export function span(milliseconds: number): string {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function bytes(count: number): string {
  if (count < 1024) return `${count} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let size = count;
  let unit = -1;
  do {
    size /= 1024;
    unit++;
  } while (size >= 1024 && unit < units.length - 1);
  return `${size < 10 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

const two = (part: number) => String(part).padStart(2, "0");

export function clock(time: string | number): string {
  const at = new Date(time);
  return Number.isNaN(at.getTime()) ? "" : `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function dateTime(time: string | number | null | undefined, now = Date.now()): string {
  if (time === null || time === undefined) return "";
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return "";
  const today = new Date(now).toDateString() === at.toDateString();
  return today ? clock(time) : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock(time)}`;
}

/** A measured value: enough digits to tell two apart, no more. */
export function figure(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(3);
  if (size >= 1000) return value.toFixed(1);
  return Number(value.toPrecision(5)).toString();
}

export const whole = (value: number) => value.toLocaleString("en-US");

export const cut = (text: string, most: number) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** A config's value in a line. */
export function brief(value: unknown, most = 60): string {
  if (value === undefined || value === null) return "not set";
  return cut(JSON.stringify(value) ?? String(value), most);
}
