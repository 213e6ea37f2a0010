/**
 * The identity of a job config: the canonical form of RFC 8785 over what `JSON.stringify` would send, and its
 * SHA-256. The same configs must give the same bytes here and in Rust (`wire::config`); both read the vectors in
 * `test/vectors`.
 */
import { createHash } from "node:crypto";

/**
 * The canonical JSON of `text`, which is JSON.
 *
 * @throws SyntaxError when `text` is no JSON, TypeError when a string in it is no Unicode.
 */
export function canonicalize(text: string): string {
  return canonicalValue(JSON.parse(text));
}

/**
 * The hash of `config` as `JSON.stringify` would send it: SHA-256 over the canonical form, lower-case hex.
 * `null` where `JSON.stringify` sends nothing.
 *
 * @throws whatever `JSON.stringify` or a `toJSON` of the config throws.
 */
export function configHash(config: unknown): string | null {
  const text = JSON.stringify(config) as string | undefined;
  return text === undefined ? null : sha256(canonicalize(text));
}

/** SHA-256, lower-case hex. */
export function sha256(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** `value` comes from `JSON.parse`: no cycles, no undefined, numbers finite. */
function canonicalValue(value: Json): string {
  if (typeof value === "string") return canonicalString(value);
  // The number and literal forms of RFC 8785 are those of ECMAScript.
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonicalValue).join(",")}]`;
  // The default order of `sort` is by UTF-16 code units, which is the order that RFC 8785 asks for.
  const members = Object.keys(value).sort();
  return `{${members.map((key) => `${canonicalString(key)}:${canonicalValue(value[key] as Json)}`).join(",")}}`;
}

const LONE_SURROGATE = /\p{Surrogate}/u;

function canonicalString(value: string): string {
  if (LONE_SURROGATE.test(value)) {
    throw new TypeError(`the config holds ${JSON.stringify(value)}, a string with half a surrogate pair in it, which no JSON reader has to accept`);
  }
  return JSON.stringify(value);
}
