/** Runs the trainer of an artifact, and takes new callbacks when its parent names another one. */
import { pathToFileURL } from "node:url";

const imported = async (path) => (await import(pathToFileURL(path).href)).trainer;

const trainer = await imported(process.argv[2]);
await trainer.start();
process.on("message", async ({ hash, path }) => {
  const begun = performance.now();
  const next = await imported(path);
  const { callbacks } = next[Symbol.for("midrun.trainer.inspect")]();
  trainer[Symbol.for("midrun.trainer.replaceCallbacks")](callbacks);
  process.send({ contentHash: hash, tookMs: performance.now() - begun });
});
process.on("disconnect", () => process.exit(0));
process.send({ ready: true });
await trainer.wait();
