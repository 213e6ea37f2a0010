/** Lets what the trainer printed get out before the process ends: Node throws away what a full pipe did not take. */
import type { Writable } from "node:stream";

/** A reader that takes nothing for so long is taken for gone, milliseconds. */
const STUCK_MS = 10_000;

/** Waits until `streams` have handed everything on, or nobody reads them any more. */
export async function drain(streams: readonly Writable[]): Promise<void> {
  await Promise.all(streams.map(drainOne));
}

function drainOne(stream: Writable): Promise<void> {
  if (stream.writableLength === 0 || stream.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    let left = stream.writableLength;
    const watch = setInterval(() => {
      if (stream.writableLength >= left) done();
      left = stream.writableLength;
    }, STUCK_MS);
    function done() {
      clearInterval(watch);
      resolve();
    }
    stream.once("error", done);
    stream.once("close", done);
    stream.write("", done);
  });
}
