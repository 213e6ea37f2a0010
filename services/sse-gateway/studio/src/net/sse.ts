// The events of a `text/event-stream` body, cut anywhere. Pure.

export interface StreamEvent {
  name: string;
  data: string;
  id?: string;
}

/** Takes text as it comes; gives the events that it completes. */
export class EventParser {
  private rest = "";
  private event: { name: string; data: string[]; id?: string } = { name: "message", data: [] };

  take(text: string): StreamEvent[] {
    // A lone \r at the end may be the first half of a \r\n.
    const lines = (this.rest + text).split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop() ?? "";
    const done: StreamEvent[] = [];
    for (const line of lines) {
      if (line === "") {
        const { name, data, id } = this.event;
        if (data.length > 0) done.push(id === undefined ? { name, data: data.join("\n") } : { name, data: data.join("\n"), id });
        this.event = { name: "message", data: [] };
        continue;
      }
      const colon = line.indexOf(":");
      const key = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (key === "data") this.event.data.push(value);
      else if (key === "event") this.event.name = value;
      else if (key === "id") this.event.id = value;
    }
    return done;
  }
}

/** The events of a body. `alive` is called for every part, comments included. */
export async function* events(body: ReadableStream<Uint8Array>, alive: () => void = () => {}): AsyncGenerator<StreamEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      yield* parser.take(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
