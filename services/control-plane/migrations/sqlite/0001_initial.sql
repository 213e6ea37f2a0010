-- Accounts, projects, jobs, their events and checkpoints.
--
-- Statements elsewhere use `$n` parameters, RETURNING, ON CONFLICT and partial indexes only, which SQLite and
-- Postgres share; what differs (AUTOINCREMENT, WITHOUT ROWID) stands in this file alone.

CREATE TABLE accounts (
    id         TEXT PRIMARY KEY,
    kind       TEXT NOT NULL,
    created_at TEXT NOT NULL
);

-- A token is never stored, only its SHA-256.
CREATE TABLE tokens (
    digest     TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    created_at TEXT NOT NULL
);

CREATE TABLE orgs (
    id         TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    slug       TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE INDEX orgs_of_account ON orgs (account_id);

CREATE TABLE projects (
    id         TEXT PRIMARY KEY,
    org_id     TEXT NOT NULL REFERENCES orgs (id),
    slug       TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_at TEXT NOT NULL,
    UNIQUE (org_id, slug)
);

-- `ord` is the order of creation: the queue's order, and the list's.
CREATE TABLE jobs (
    ord                 INTEGER PRIMARY KEY AUTOINCREMENT,
    id                  TEXT NOT NULL UNIQUE,
    org_id              TEXT NOT NULL REFERENCES orgs (id),
    project_id          TEXT NOT NULL REFERENCES projects (id),
    name                TEXT NOT NULL,
    status              TEXT NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
    config              TEXT NOT NULL,
    error               TEXT,
    client_run_id       TEXT,
    resume_job_id       TEXT,
    resume_step         BIGINT,
    resume_dir          TEXT,
    last_seq            BIGINT NOT NULL DEFAULT 0,
    cancel_requested_at TEXT,
    created_at          TEXT NOT NULL,
    started_at          TEXT,
    completed_at        TEXT,
    UNIQUE (project_id, client_run_id)
);
CREATE INDEX jobs_of_project ON jobs (project_id, ord);
CREATE INDEX jobs_queued ON jobs (ord) WHERE status = 'queued';
CREATE INDEX jobs_running ON jobs (ord) WHERE status = 'running';

-- `seq` counts from 1 without gaps within a job and is the SSE id; `data` is the object as it is served.
CREATE TABLE events (
    job  BIGINT NOT NULL REFERENCES jobs (ord),
    seq  BIGINT NOT NULL,
    type TEXT NOT NULL,
    step BIGINT,
    data TEXT NOT NULL,
    PRIMARY KEY (job, seq)
) WITHOUT ROWID;

CREATE TABLE checkpoints (
    job        BIGINT NOT NULL REFERENCES jobs (ord),
    step       BIGINT NOT NULL,
    dir        TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (job, step)
) WITHOUT ROWID;

-- A cancel that came before its job: the job is born cancelled.
CREATE TABLE tombstones (
    project_id    TEXT NOT NULL REFERENCES projects (id),
    client_run_id TEXT NOT NULL,
    created_at    TEXT NOT NULL,
    PRIMARY KEY (project_id, client_run_id)
) WITHOUT ROWID;
