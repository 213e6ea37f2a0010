// What a pty wrote so far, for terminals that are opened later. Pure.
//
// What must hold: memory is bounded by bytes, however large or small the parts are.

/** More than a terminal's own scrollback shows of most output. */
const MOST_BYTES = 8 * 1024 * 1024;

export class PtyPast {
  readonly parts: (string | Uint8Array)[] = [];
  private size = 0;
  private readonly most: number;

  constructor(most = MOST_BYTES) {
    this.most = most;
  }

  push(part: string | Uint8Array) {
    this.parts.push(part);
    this.size += sizeOf(part);
    if (this.size <= this.most) return;
    // More than is too much at once: letting go of one at each part would move all others each time.
    let gone = 0;
    while (this.size > this.most * 0.9 && gone < this.parts.length - 1) this.size -= sizeOf(this.parts[gone++]!);
    this.parts.splice(0, gone);
  }
}

/** As it lies in memory at most: a character takes up to two bytes. */
const sizeOf = (part: string | Uint8Array) => (typeof part === "string" ? part.length * 2 : part.byteLength);
