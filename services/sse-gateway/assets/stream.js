// Requests and event streams. The token goes in a header, so it never stands in an address. A stream that breaks
// is opened again behind the last event that came; while the page is hidden no stream is open, because a browser
// has only six connections for all tabs of one server.

const token = document.querySelector('meta[name="midrun-token"]')?.content ?? "";
const OWN_SCHEME = "X-Midrun-Token";
const FIRST_PAUSE = 300;
const LONGEST_PAUSE = 5000;
const HIDDEN_GRACE = 5000;
const SILENCE = 45000; // three heartbeats

let onForeignToken = () => {};
export const whenTokenChanges = (act) => { onForeignToken = act; };

async function send(path, options = {}) {
  const headers = { "X-Midrun-Token": token, ...options.headers };
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  // A 401 of the control plane is passed on and means something else.
  if (answer.status === 401 && answer.headers.get("www-authenticate") === OWN_SCHEME) onForeignToken();
  return answer;
}

// The JSON of an answer; throws an Error with the server's own words and its diagnostics.
export async function ask(method, path, body) {
  const options = { method };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "content-type": "application/json" };
  }
  const answer = await send(path, options);
  const data = await answer.json().catch(() => ({}));
  if (answer.ok) return data;
  throw Object.assign(new Error(data.error ?? `${answer.status} ${answer.statusText}`), { status: answer.status, data });
}

// Follows an event stream until `close()`, or until `on` returns true.
// `on(name, data, id)`; `state("live" | "lost" | "over")`.
export function follow(path, on, state = () => {}) {
  let lastId, abort, pause = FIRST_PAUSE, timer, hiddenTimer, over = false;

  const open = async () => {
    if (over || abort) return;
    abort = new AbortController();
    let watchdog;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort?.abort(), SILENCE);
    };
    try {
      const headers = { accept: "text/event-stream", ...(lastId && { "last-event-id": lastId }) };
      const answer = await send(path, { headers, signal: abort.signal });
      if (answer.status === 204 || answer.status === 404) return close();
      if (!answer.ok) throw new Error(String(answer.status));
      pause = FIRST_PAUSE;
      state("live");
      alive();
      for await (const event of events(answer.body, alive)) {
        if (event.id) lastId = event.id;
        if (on(event.name, event.data, event.id) === true) return close();
      }
    } catch { /* opened again below */ } finally {
      clearTimeout(watchdog);
      abort = undefined;
    }
    if (over) return;
    state("lost");
    if (document.hidden) return;
    timer = setTimeout(open, pause * (0.7 + Math.random() * 0.6));
    pause = Math.min(pause * 2, LONGEST_PAUSE);
  };

  const visible = () => {
    clearTimeout(hiddenTimer);
    if (document.hidden) {
      hiddenTimer = setTimeout(() => { clearTimeout(timer); abort?.abort(); }, HIDDEN_GRACE);
    } else {
      clearTimeout(timer);
      pause = FIRST_PAUSE;
      open();
    }
  };

  const close = () => {
    over = true;
    clearTimeout(timer);
    clearTimeout(hiddenTimer);
    document.removeEventListener("visibilitychange", visible);
    abort?.abort();
    state("over");
  };

  document.addEventListener("visibilitychange", visible);
  open();
  return close;
}

// The events of a `text/event-stream` body.
export async function* events(body, alive = () => {}) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "", event = { name: "message", data: [] };
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (event.data.length) yield { ...event, data: event.data.join("\n") };
          event = { name: "message", data: [] };
          continue;
        }
        const colon = line.indexOf(":");
        const key = colon < 0 ? line : line.slice(0, colon);
        const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (key === "data") event.data.push(text);
        else if (key === "event") event.name = text;
        else if (key === "id") event.id = text;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
