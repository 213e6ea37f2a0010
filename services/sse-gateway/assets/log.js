// The log of a run: append only, bounded, at its end unless the reader scrolled away.

const MOST_CHARACTERS = 500_000;
const MOST_WAITING = 2_000_000;
const NEAR = 24;

export class Log {
  constructor(box, toEnd) {
    Object.assign(this, { box, toEnd, held: 0, waiting: [], waitingLength: 0, stuck: true, seen: {} });
    box.addEventListener("scroll", () => this.moved(), { passive: true });
    new ResizeObserver(() => this.stuck && this.stick()).observe(box);
    toEnd.addEventListener("click", () => { this.stick(); box.focus(); });
  }

  clear() {
    this.box.replaceChildren();
    Object.assign(this, { held: 0, waiting: [], waitingLength: 0 });
    this.stick();
  }

  stick() {
    this.stuck = true;
    this.toEnd.hidden = true;
    this.box.scrollTop = this.box.scrollHeight;
    this.note();
  }

  // Only a reader moves up while everything else stays as it is; a new size or trimmed text moves the place too.
  moved() {
    const { scrollTop, scrollHeight, clientHeight } = this.box;
    const { seen } = this;
    if (scrollHeight - scrollTop - clientHeight < NEAR) this.stuck = true;
    else if (scrollHeight === seen.scrollHeight && clientHeight === seen.clientHeight && scrollTop < seen.scrollTop) this.stuck = false;
    this.toEnd.hidden = this.stuck;
    this.note();
  }

  note() {
    const { scrollTop, scrollHeight, clientHeight } = this.box;
    this.seen = { scrollTop, scrollHeight, clientHeight };
  }

  // What the run wrote.
  output({ stream, text, base64 }) {
    const raw = text ?? lossy(base64 ?? "");
    this.put(plain(raw), stream === "stderr" ? "stderr" : "stdout");
  }

  // What happened to the run.
  life(text, tone = "") {
    this.put(text, `life ${tone}`);
  }

  put(text, kind) {
    if (!text) return;
    const newest = this.waiting.at(-1);
    if (newest?.kind === kind && !kind.startsWith("life")) newest.text += text;
    else this.waiting.push({ text, kind });
    this.waitingLength += text.length;
    while (this.waitingLength > MOST_WAITING && this.waiting.length > 1) this.waitingLength -= this.waiting.shift().text.length;
    if (!this.due) {
      this.due = true;
      requestAnimationFrame(() => { this.due = false; this.flush(); });
    }
  }

  flush() {
    for (const { text, kind } of this.waiting) {
      const part = document.createElement("span");
      part.className = kind;
      part.textContent = text.length > MOST_CHARACTERS ? text.slice(-MOST_CHARACTERS) : text;
      this.held += part.textContent.length;
      this.box.append(part);
    }
    Object.assign(this, { waiting: [], waitingLength: 0 });
    while (this.held > MOST_CHARACTERS && this.box.childNodes.length > 1) {
      this.held -= this.box.firstChild.textContent.length;
      this.box.firstChild.remove();
    }
    if (this.stuck) this.stick();
    else this.note();
  }
}

const lossy = (base64) => new TextDecoder().decode(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)));

// Without terminal control sequences; of lines that overwrite themselves only the last state stays.
const plain = (text) => text.replace(/\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])/g, "")
  .replace(/\r\n/g, "\n").replace(/[^\n]*\r(?=[^\n])/g, "");
