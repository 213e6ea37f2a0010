/**
 * The first callback under new code, as a span of the trace that brought the code: the last step of a save.
 *
 * What must hold: nothing is touched where there is no trace; the user's code is called as it would be without us, and
 * only its first call is looked at. Where the process has an OpenTelemetry SDK, the span is that SDK's, and what the
 * callback does stands below it; elsewhere the run-host is told and speaks for the process.
 */
import { createRequire } from "node:module";
import { join } from "node:path";

import type { RunnerMessage } from "./control-channel.ts";

/** The code that the callbacks are of, and the trace that brought it. */
export interface TracedCode {
  readonly contentHash: string;
  readonly traceparent?: string;
}

const TRACEPARENT = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/;

/** The same callbacks; the first of them that is called is told. */
export function watchFirst(callbacks: object, code: TracedCode, send: (message: RunnerMessage) => void): object {
  const { contentHash, traceparent } = code;
  if (traceparent === undefined || !TRACEPARENT.test(traceparent)) return callbacks;
  let seen = false;
  const first = (name: string, call: () => unknown): unknown => {
    if (seen) return call();
    seen = true;
    const within = spanOfSdk(name, contentHash, traceparent);
    if (within !== undefined) return within(call);
    const began = performance.now();
    return settled(call, (ok) => {
      const tookMs = Math.round((performance.now() - began) * 1000) / 1000;
      send({ type: "callback", contentHash, name, tookMs, ok, traceparent });
    });
  };
  return new Proxy(callbacks, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name);
      if (typeof value !== "function") return value;
      return (...args: unknown[]) => first(String(name), () => Reflect.apply(value, target, args));
    },
  });
}

/** Calls, and says how that ended when it has. */
function settled(call: () => unknown, ended: (ok: boolean) => void): unknown {
  let result: unknown;
  try {
    result = call();
  } catch (error) {
    ended(false);
    throw error;
  }
  if (!(result instanceof Promise)) {
    ended(true);
    return result;
  }
  return result.then(
    (value: unknown) => (ended(true), value),
    (error: unknown) => {
      ended(false);
      throw error;
    },
  );
}

/** What is used of `@opentelemetry/api`. */
interface Api {
  ROOT_CONTEXT: unknown;
  SpanStatusCode?: { ERROR: number };
  trace: {
    setSpanContext(context: unknown, span: object): unknown;
    setSpan(context: unknown, span: Span): unknown;
    getTracer(name: string): { startSpan(name: string, options: object, context: unknown): Span };
  };
  context: { with(context: unknown, call: () => unknown): unknown };
}

interface Span {
  setAttribute(key: string, value: string): unknown;
  setStatus(status: object): unknown;
  end(): void;
}

/** Runs a call within a span of the SDK that the user's code has registered, if it has. */
function spanOfSdk(name: string, contentHash: string, traceparent: string): ((call: () => unknown) => unknown) | undefined {
  const api = registeredApi();
  const [, traceId, spanId, flags] = TRACEPARENT.exec(traceparent) ?? [];
  if (api === undefined || traceId === undefined || flags === undefined) return undefined;
  try {
    const parent = api.trace.setSpanContext(api.ROOT_CONTEXT, {
      traceId,
      spanId,
      traceFlags: Number.parseInt(flags, 16),
      isRemote: true,
    });
    const attributes = {
      "code.function.name": name,
      "midrun.content_hash": contentHash,
      "midrun.run.id": process.env["MIDRUN_RUN_ID"] ?? "",
    };
    const span = api.trace.getTracer("midrun").startSpan("callback", { attributes }, parent);
    const ended = (ok: boolean) => {
      if (!ok) {
        span.setAttribute("error.type", "callback-failed");
        span.setStatus({ code: api.SpanStatusCode?.ERROR ?? 2 });
      }
      span.end();
    };
    return (call) => settled(() => api.context.with(api.trace.setSpan(parent, span), call), ended);
  } catch {
    // An SDK that cannot be used is as good as none.
    return undefined;
  }
}

/** The API as the project resolves it, if a tracer provider is registered with it. */
function registeredApi(): Api | undefined {
  const registered: unknown = Reflect.get(globalThis, Symbol.for("opentelemetry.js.api.1"));
  if (typeof registered !== "object" || registered === null || !("trace" in registered)) return undefined;
  try {
    return createRequire(join(process.cwd(), "package.json"))("@opentelemetry/api") as Api;
  } catch {
    return undefined;
  }
}
