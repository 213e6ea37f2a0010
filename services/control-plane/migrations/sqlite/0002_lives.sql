-- The host that trains a job now, written before it is started and removed when it is accounted for.
--
-- `id` names its folder and its socket. `heard` is the newest record of its log whose events are in `events`, and
-- `stdout` and `stderr` are the lines begun there: one transaction moves all of it. `asked` says that somebody asked
-- the executor to stop.
CREATE TABLE lives (
    job    BIGINT PRIMARY KEY REFERENCES jobs (ord),
    id     TEXT NOT NULL,
    heard  BIGINT NOT NULL,
    stdout BLOB NOT NULL,
    stderr BLOB NOT NULL,
    asked  BOOLEAN NOT NULL
) WITHOUT ROWID;

-- A checkpoint that was removed stays known: it was announced, and is not announced again.
ALTER TABLE checkpoints ADD COLUMN removed_at TEXT;

-- Those that another job goes on from are never removed.
CREATE INDEX jobs_resumed ON jobs (resume_job_id, resume_step) WHERE resume_job_id IS NOT NULL;
