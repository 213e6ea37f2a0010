// One answer of a trained model, as it comes.

import { refusal, send } from "../net/ask.ts";
import { events } from "../net/sse.ts";

export interface Question {
  job: string;
  /** A checkpoint's step; the final model without it. */
  step: number | null;
  prompt: string;
  temperature: number;
  maxTokens: number;
}

/** Hands every part of the answer to `on`. Ends when the answer does, or throws. */
export async function chat({ job, step, prompt, temperature, maxTokens }: Question, on: (text: string) => void, abort: AbortSignal): Promise<void> {
  const adapter = step === null ? { kind: "final", jobId: job } : { kind: "checkpoint", jobId: job, step };
  const body = { messages: [{ role: "user", content: prompt }], adapter, temperature, maxTokens, stream: true };
  const answer = await send("/api/inference/chat", {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json", accept: "text/event-stream" },
    signal: abort,
  });
  if (!answer.ok || !answer.body) throw await refusal(answer);
  for await (const { data } of events(answer.body)) {
    if (data === "[DONE]") return;
    const said = JSON.parse(data) as { choices?: { delta?: { content?: string } }[]; error?: string | { message?: string } };
    if (said.error) throw new Error(typeof said.error === "string" ? said.error : said.error.message ?? "the model failed");
    const text = said.choices?.[0]?.delta?.content;
    if (text) on(text);
  }
}
