// A save's trace: where it is exported to and where the page links to are the same one.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { until } from "./server.mjs";
import { Stage } from "./stage.mjs";

/** @type {Buffer[]} */
const exported = [];
const collector = createServer((request, response) => {
  /** @type {Buffer[]} */
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    exported.push(Buffer.concat(parts));
    response.setHeader("content-type", "application/x-protobuf").end();
  });
});
/** @type {Stage} */
let stage;

before(async () => {
  await new Promise((listening) => collector.listen(0, "127.0.0.1", () => listening(undefined)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (collector.address());
  stage = await Stage.set((project) => {
    project.environment = {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
      OTEL_BSP_SCHEDULE_DELAY: "100",
      MIDRUN_GATEWAY__TRACE_UI: "http://traces.example/trace/{traceId}",
    };
  });
});

after(async () => {
  await stage?.strike();
  collector.closeAllConnections();
  collector.close();
});

test("a save links to its trace, which is the one that was exported", async () => {
  const page = await stage.page();
  await page.getByRole("button", { name: "Run training: adder" }).waitFor();
  stage.project.edit("callbacks.ts", (text) => `${text}\n// edited\n`.replace("console.log(`step", "console.log(`now step"));
  const link = page.getByTestId("saves").getByRole("link", { name: "Trace" }).first();
  await link.waitFor();
  const address = (await link.getAttribute("href")) ?? "";
  const id = /^http:\/\/traces\.example\/trace\/([0-9a-f]{32})$/.exec(address)?.[1];
  assert.ok(id, address);
  const bytes = Buffer.from(id, "hex");
  await until("export of that trace", async () => exported.some((body) => body.includes(bytes)));
});
