// What the server sends. The contract's words.

export type RunStatus = "starting" | "running" | "early-stopping" | "restarting" | "stopping" | "exited" | "lost";

export interface ConfigRow {
  path: string;
  before: unknown;
  inCheckpoint: unknown;
  wanted: unknown;
  effective: unknown;
}

export interface Run {
  id: string;
  pid: number | null;
  status: RunStatus;
  entry: string;
  trainer: string | null;
  contentHash: string;
  configHash: string | null;
  jobId: string | null;
  startedAt: string;
  endedAt: string | null;
  exitCode: number | null;
  endedBy: string | null;
  replaces: string | null;
  replacedBy: string | null;
  reason: string | null;
  lastCheckpoint?: number | null;
  /** Not told by every server. */
  resume?: { job: string; step: number } | null;
  fromScratch?: string | null;
  config?: ConfigRow[];
}

export interface RunFrame {
  run: string;
  pid: number | null;
  status: RunStatus;
  jobId?: string;
  replaces?: string;
  replacedBy?: string;
  exitCode?: number;
  reason?: string;
  resume?: { job: string; step: number };
  fromScratch?: string;
  config?: ConfigRow[];
}

export interface Diagnostic {
  file?: string | null;
  line?: number | null;
  column?: number | null;
  message: string;
  frame?: string | null;
}

export type Decision = "nothing" | "hot-swap" | "restart" | "wait" | "would-restart";

export interface ConfigChange {
  path: string;
  from?: unknown;
  to?: unknown;
}

export interface RebuildFrame {
  type: "ready" | "rebuild";
  buildId: string;
  entry: string;
  contentHash: string;
  configHash: string | null;
  trainerName: string | null;
  hotSwap: boolean;
  restart: boolean;
  decisions: { run: string; pid: number | null; decision: Decision; why: string }[];
  changed: string[];
  savedAt: string;
  configDiff: ConfigChange[];
  timings: { bundleMs: number; inspectMs: number; dispatchMs: number; totalMs: number };
  traceId: string | null;
}

export interface ErrorFrame {
  type: "error";
  message: string;
  diagnostics: Diagnostic[];
  changed?: string[];
  savedAt: string;
}

export interface SwapFrame {
  run: string;
  pid: number | null;
  contentHash: string;
  ok: boolean;
  reason?: string;
  tookMs?: number | null;
}

export interface Manifest {
  trainer: { name: string } | null;
  configHash: string | null;
  config: unknown;
  callbacks: string[];
  canSwap: boolean;
  contentHash: string;
  /** The project's own entry, below the project's folder. */
  entry: string;
}

export interface LogRecord {
  seq: number;
  ts: string;
  type: string;
  stream?: "stdout" | "stderr" | "pty";
  text?: string;
  base64?: string;
  [key: string]: unknown;
}

export type JobStatus = "queued" | "running" | "completed" | "failed" | "cancelled";

export interface Job {
  id: string;
  name: string;
  status: JobStatus;
  error: string | null;
  createdAt: string;
  startedAt: string | null;
  completedAt: string | null;
  clientRunId?: string | null;
  cancelRequestedAt?: string | null;
  config?: Record<string, unknown>;
  resumeFrom?: { jobId: string; step: number } | null;
}

export interface JobEvent {
  id?: number | string;
  type: string;
  jobId: string;
  timestamp: string;
  step?: number;
  loss?: number | null;
  evalLoss?: number | null;
  artifacts?: unknown[];
  metrics?: Record<string, unknown>;
  error?: string;
  [key: string]: unknown;
}

export interface Usage {
  processes: {
    pid: number;
    parent: number;
    depth: number;
    command: string;
    cpuPercent: number | null;
    cpuMs: number;
    memoryBytes: number;
  }[];
  gpus:
    | { index: number; name: string; percent: number | null; memoryUsedBytes: number | null; memoryTotalBytes: number | null; runMemoryBytes: number }[]
    | null;
  /** Why `gpus` is null. */
  noGpus: string | null;
}

/** A service that cannot do its work. */
export interface Trouble {
  service: string;
  since: string;
  why: string;
}

export interface Terminal {
  id: string;
  name: string | null;
  pid: number | null;
  status: "starting" | "running" | "closing" | "exited" | "lost";
  shell: string;
  cwd: string;
  rows: number;
  columns: number;
  startedAt: string;
  endedAt: string | null;
  exitCode: number | null;
  reason: string | null;
}

export const isLive = (run: Pick<Run, "status">) =>
  run.status !== "exited" && run.status !== "lost" && run.status !== "restarting";

/** It has ended, and its successor waits for something, such as a good build. */
export const awaitsSuccessor = (run: Pick<Run, "status" | "replacedBy">) => run.status === "restarting" && !run.replacedBy;
