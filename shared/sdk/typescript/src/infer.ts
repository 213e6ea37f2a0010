/** Asking a checkpoint, or the finished model, of a job. */
import type { ControlPlane } from "./control-plane.ts";
import { EventStreamParser } from "./event-stream.ts";
import { ControlPlaneError } from "./retry.ts";
import type { Infer, InferReply, InferRequest } from "./types.ts";

/** Which weights answer. */
export type Adapter = { kind: "final"; jobId: string } | { kind: "checkpoint"; jobId: string; step: number };

/** The `infer` of a callback's event. */
export function inferFrom(plane: ControlPlane, adapter: Adapter): Infer {
  const whole = async (question: string | InferRequest): Promise<InferReply> => {
    const { body, signal } = chatBody(question, adapter, false);
    const answer = await plane.chat(body, signal);
    const text = (answer as Completion | null)?.choices?.[0]?.message?.content;
    if (typeof text !== "string") throw new ControlPlaneError("the model's answer has no content", { transient: false });
    return { text };
  };
  const stream = async function* (question: string | InferRequest): AsyncGenerator<string> {
    const { body, signal } = chatBody(question, adapter, true);
    const response = await plane.chatStream(body, signal);
    yield* deltas(response);
  };
  return Object.assign(whole, { stream });
}

interface Completion {
  choices?: { message?: { content?: unknown }; delta?: { content?: unknown } }[];
  error?: unknown;
}

function chatBody(question: string | InferRequest, adapter: Adapter, stream: boolean) {
  const request = typeof question === "string" ? { messages: [{ role: "user", content: question }] } : question;
  const { messages, temperature, topP, maxTokens, signal } = request as InferRequest;
  return { body: { messages, adapter, temperature, topP, maxTokens, stream }, signal };
}

async function* deltas(response: Response): AsyncGenerator<string> {
  if (response.body === null) return;
  const parser = new EventStreamParser();
  const decoder = new TextDecoder();
  for await (const bytes of response.body as AsyncIterable<Uint8Array>) {
    for (const event of parser.push(decoder.decode(bytes, { stream: true }))) {
      if (event.data === "[DONE]") return;
      const piece = JSON.parse(event.data) as Completion;
      if (piece.error !== undefined) throw new ControlPlaneError(`the model failed: ${JSON.stringify(piece.error)}`, { transient: false });
      const text = piece.choices?.[0]?.delta?.content;
      if (typeof text === "string" && text !== "") yield text;
    }
  }
  throw new ControlPlaneError("the model's answer broke off", { transient: true });
}
