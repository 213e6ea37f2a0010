/**
 * Where the control plane is, as whom, and for which project, from the environment that midrun gives a run. Files
 * that midrun (or arkor) wrote earlier fill in what the environment does not say.
 */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

import type { ResumeFrom } from "./resume.ts";

export interface Connection {
  /** Base URL without a trailing slash. */
  readonly url: string;
  readonly orgSlug: string;
  readonly projectSlug: string;
  /** The bearer token. Read anew with each call, since a token may be replaced while training goes on. */
  readonly token: () => string;
}

/** How long things may take, milliseconds. */
export interface Limits {
  /** `MIDRUN_EARLY_STOP_TIMEOUT_MS`: an early stop waits so long for a checkpoint, then cancels. */
  readonly earlyStopMs: number;
  /** `MIDRUN_CONTROL_PLANE_RETRY_MS`: a followed job's control plane may be away so long. */
  readonly awayMs: number;
}

const MINUTE_MS = 60_000;

/** The limits that `env` sets. */
export function limits(env: NodeJS.ProcessEnv): Limits {
  return {
    earlyStopMs: milliseconds(env, "MIDRUN_EARLY_STOP_TIMEOUT_MS", 5 * MINUTE_MS),
    awayMs: milliseconds(env, "MIDRUN_CONTROL_PLANE_RETRY_MS", 60 * MINUTE_MS),
  };
}

/** The checkpoint that `MIDRUN_RESUME_FROM` (`JOB:STEP`) tells to go on from. */
export function resumeFrom(env: NodeJS.ProcessEnv): ResumeFrom | undefined {
  const text = env["MIDRUN_RESUME_FROM"];
  if (!text) return undefined;
  const [, jobId, step] = /^(.+):(\d+)$/.exec(text) ?? [];
  if (jobId === undefined || step === undefined) {
    throw new Error(`MIDRUN_RESUME_FROM is ${JSON.stringify(text)}; it has the form JOB:STEP`);
  }
  return { jobId, step: Number(step) };
}

/**
 * How to reach the control plane.
 *
 * @throws Error that says what is missing and how to mend it.
 */
export function connection(env: NodeJS.ProcessEnv): Connection {
  const credentials = () => savedCredentials(env);
  const project = (key: string) => firstText(...stateFiles().map((file) => file[key]));
  const saved = credentials();
  const url = firstText(env["MIDRUN_CONTROL_PLANE_URL"], env["ARKOR_CLOUD_API_URL"], saved["controlPlaneUrl"], saved["arkorCloudApiUrl"]);
  const token = () => firstText(env["MIDRUN_CONTROL_PLANE_TOKEN"], credentials()["token"]);
  const found = {
    MIDRUN_CONTROL_PLANE_URL: url,
    MIDRUN_CREDENTIALS_FILE: token(),
    MIDRUN_ORG_SLUG: firstText(env["MIDRUN_ORG_SLUG"], project("orgSlug"), saved["orgSlug"]),
    MIDRUN_PROJECT_SLUG: firstText(env["MIDRUN_PROJECT_SLUG"], project("projectSlug"), saved["projectSlug"]),
  };
  const missing = Object.entries(found).filter(([, value]) => value === undefined);
  if (missing.length > 0) {
    const names = missing.map(([name]) => name).join(", ");
    throw new Error(
      `there is no control plane to train on: ${names} ${missing.length === 1 ? "is" : "are"} not set. ` +
        "Start the run with `midrun dev` (and press Run) or `midrun start`, which set them; " +
        "or set them yourself for a control plane that you know.",
    );
  }
  return {
    url: (url as string).replace(/\/+$/, ""),
    orgSlug: found.MIDRUN_ORG_SLUG as string,
    projectSlug: found.MIDRUN_PROJECT_SLUG as string,
    token: () => token() ?? "",
  };
}

function savedCredentials(env: NodeJS.ProcessEnv): Record<string, unknown> {
  const named = env["MIDRUN_CREDENTIALS_FILE"];
  if (named) {
    const content = jsonObject(named);
    if (content === undefined) throw new Error(`MIDRUN_CREDENTIALS_FILE names ${named}, which cannot be read as JSON`);
    return content;
  }
  const config = env["XDG_CONFIG_HOME"] || join(homedir(), ".config");
  return jsonObject(join(config, "midrun", "credentials.json")) ?? jsonObject(join(homedir(), ".arkor", "credentials.json")) ?? {};
}

function stateFiles(): Record<string, unknown>[] {
  return [".midrun", ".arkor"].map((folder) => jsonObject(join(folder, "state.json")) ?? {});
}

function jsonObject(path: string): Record<string, unknown> | undefined {
  try {
    const content: unknown = JSON.parse(readFileSync(path, "utf8"));
    return typeof content === "object" && content !== null ? (content as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function firstText(...candidates: unknown[]): string | undefined {
  return candidates.find((value): value is string => typeof value === "string" && value !== "");
}

function milliseconds(env: NodeJS.ProcessEnv, name: string, standard: number): number {
  const text = env[name];
  if (!text) return standard;
  const value = Number(text);
  if (!Number.isFinite(value) || value < 0) throw new Error(`${name} is ${JSON.stringify(text)}; it is a number of milliseconds`);
  // Timers of Node cannot wait longer than this.
  return Math.min(value, 2 ** 31 - 1);
}
