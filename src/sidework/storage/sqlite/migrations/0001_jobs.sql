-- The tables of sidework. Long texts stand last in their row, so that reading the columns before them never walks
-- their overflow pages. Every column that the seed did not have has a default: the seed's INSERT stays a whole enqueue.

CREATE TABLE background_service_jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_key TEXT NOT NULL,
    -- Not IN (...): for that SQLite builds the list anew at each row, which costs as much as writing the row.
    status TEXT NOT NULL DEFAULT 'PENDING'
        CHECK (status = 'RUNNING' OR status = 'COMPLETED' OR status = 'PENDING'
               OR status = 'SCHEDULED' OR status = 'FAILED' OR status = 'CANCELLED'),
    queue TEXT NOT NULL DEFAULT 'default',
    priority INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL DEFAULT 3,
    crashes INTEGER NOT NULL DEFAULT 0,
    claims INTEGER NOT NULL DEFAULT 0,
    worker INTEGER,
    created_at TEXT NOT NULL DEFAULT (STRFTIME('%Y-%m-%dT%H:%M:%fZ', 'NOW')),
    updated_at TEXT NOT NULL DEFAULT (STRFTIME('%Y-%m-%dT%H:%M:%fZ', 'NOW')),
    last_attempt_at TEXT,
    finished_at TEXT,
    run_at TEXT
        CHECK (run_at IS NULL OR run_at GLOB '[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'),
    unique_key TEXT,
    options TEXT,
    payload TEXT,
    result TEXT,
    last_error TEXT,
    CHECK (status <> 'SCHEDULED' OR run_at IS NOT NULL)
);

-- The seed's own names: its program runs CREATE ... IF NOT EXISTS for both at every start, and must find them.
-- The ready index: one range per queue and key, in the order of the claim.
CREATE INDEX idx_background_jobs_status_priority
    ON background_service_jobs (queue, job_key, priority DESC, id) WHERE status = 'PENDING' AND crashes = 0;

CREATE TRIGGER trg_background_service_jobs_updated_at AFTER UPDATE ON background_service_jobs FOR EACH ROW
WHEN NEW.updated_at IS OLD.updated_at AND NEW.claims IS OLD.claims AND NEW.worker IS OLD.worker -- not ours
BEGIN
    UPDATE background_service_jobs SET updated_at = STRFTIME('%Y-%m-%dT%H:%M:%fZ', 'NOW') WHERE id = OLD.id;
END;

-- Jobs that were there when a worker died: each runs alone.
CREATE INDEX background_service_jobs_suspects
    ON background_service_jobs (queue, job_key, priority DESC, id) WHERE status = 'PENDING' AND crashes > 0;

CREATE INDEX background_service_jobs_due ON background_service_jobs (run_at) WHERE status = 'SCHEDULED';

CREATE INDEX background_service_jobs_running ON background_service_jobs (queue, worker) WHERE status = 'RUNNING';

CREATE UNIQUE INDEX background_service_jobs_unique ON background_service_jobs (job_key, unique_key)
    WHERE unique_key IS NOT NULL AND status IN ('PENDING', 'SCHEDULED', 'RUNNING');

CREATE TABLE background_service_workers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    version TEXT NOT NULL,
    concurrency INTEGER NOT NULL,
    queues TEXT,
    keys TEXT NOT NULL,
    started_at TEXT NOT NULL,
    seen_at TEXT NOT NULL
);

CREATE TABLE background_service_queues (
    name TEXT PRIMARY KEY,
    paused INTEGER NOT NULL DEFAULT 0,
    running_limit INTEGER
) WITHOUT ROWID;

-- Requests to end a job that is running; carried out as soon as nobody runs it. Usually empty.
CREATE TABLE background_service_cancellations (
    job_id INTEGER PRIMARY KEY,
    requested_at TEXT NOT NULL
);

CREATE TABLE background_service_progress (
    job_id INTEGER PRIMARY KEY,
    done REAL NOT NULL,
    total REAL,
    message TEXT,
    updated_at TEXT NOT NULL
);

CREATE TABLE background_service_log (
    id INTEGER PRIMARY KEY,
    job_id INTEGER NOT NULL,
    at TEXT NOT NULL,
    message TEXT NOT NULL
);

CREATE INDEX background_service_log_job ON background_service_log (job_id, id);

-- version: what these tables are; readable_from: the oldest code, by its own version number, that can work with them.
CREATE TABLE background_service_schema (
    version INTEGER NOT NULL,
    readable_from INTEGER NOT NULL
);

INSERT INTO background_service_schema (version, readable_from) VALUES (1, 1);
