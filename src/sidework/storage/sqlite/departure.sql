-- What a SQLite file does when its jobs leave for another database.

-- :name begin_reading
BEGIN;

-- :name has_mark
SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'background_service_move');

-- :name mark
SELECT id, target, identity, stage, begun_at FROM background_service_move;

-- One row while a move is under way or done. Nothing is claimed until `hold_until`.
-- :name create_mark
CREATE TABLE background_service_move (
    id TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT,
    stage TEXT NOT NULL,
    begun_at TEXT NOT NULL,
    hold_until TEXT NOT NULL
);

-- :name write_mark
INSERT INTO background_service_move (id, target, stage, begun_at, hold_until)
VALUES (:id, :target, :stage, :begun_at, :hold_until);

-- Passes over the row that would be claimed, whoever claims it, with whatever version of sidework. When the mover dies
-- its time runs out, and work goes on by itself.
-- :name create_hold
CREATE TRIGGER background_service_move_hold BEFORE UPDATE OF status ON background_service_jobs
WHEN NEW.status = 'RUNNING' AND OLD.status <> 'RUNNING'
     AND (SELECT hold_until FROM background_service_move) > STRFTIME('%Y-%m-%dT%H:%M:%fZ', 'NOW')
BEGIN
    SELECT RAISE(IGNORE);
END;

-- :name drop_hold
DROP TRIGGER IF EXISTS background_service_move_hold;

-- :name hold
UPDATE background_service_move SET hold_until = :until;

-- :name set_stage
UPDATE background_service_move SET stage = :stage;

-- :name set_identity
UPDATE background_service_move SET identity = :identity;

-- :name create_guard
CREATE TRIGGER "/* name */" BEFORE /* act */ ON "/* table */"
BEGIN
    SELECT RAISE(ABORT, '/* words */');
END;

-- :name drop_guard
DROP TRIGGER IF EXISTS "/* name */";

-- :name drop_mark
DROP TABLE IF EXISTS background_service_move;

-- The dead keep their rows: who goes back finds their jobs and marks as they were.
-- :name unseat_workers
DELETE FROM background_service_workers WHERE id IN (SELECT value FROM json_each(:living));

-- :name workers
SELECT worker.id, worker.name, worker.host, worker.pid, worker.version, worker.concurrency, worker.queues,
       worker.keys, worker.started_at, worker.seen_at,
       (SELECT COUNT(*) FROM background_service_jobs AS job WHERE job.status = 'RUNNING' AND job.worker = worker.id)
FROM background_service_workers AS worker
ORDER BY worker.id;

-- :name statuses
SELECT status, COUNT(*) FROM background_service_jobs GROUP BY status;

-- :name count
SELECT COUNT(*) FROM "/* table */";

-- An id that was given once is never given again, even if its job was deleted since.
-- :name highest_ids
SELECT MAX((SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE lower(name) = 'background_service_jobs'),
           (SELECT COALESCE(MAX(id), 0) FROM background_service_jobs)),
       MAX((SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE lower(name) = 'background_service_workers'),
           (SELECT COALESCE(MAX(id), 0) FROM background_service_workers),
           (SELECT COALESCE(MAX(worker), 0) FROM background_service_jobs WHERE typeof(worker) = 'integer')),
       (SELECT COALESCE(MAX(id), 0) FROM background_service_log);

-- :name columns
SELECT name FROM pragma_table_xinfo('background_service_jobs') ORDER BY cid;

-- :name filled_rows
SELECT COUNT(*) FROM background_service_jobs WHERE "/* column */" IS NOT NULL;

-- :name attached
SELECT type, name FROM sqlite_schema
WHERE (lower(tbl_name) = 'background_service_jobs' AND type IN ('index', 'trigger') AND sql IS NOT NULL)
   OR (type = 'view' AND lower(sql) LIKE '%background_service_jobs%')
   OR (type = 'table' AND lower(sql) LIKE '%references%background_service_jobs%')
ORDER BY type, name;

-- A RUNNING job that names no worker is one that nobody runs: so is that of the worker 0, which never is.
-- :name rows_of_jobs
SELECT id, job_key, status, queue, priority, attempts, max_attempts, crashes, claims,
       CASE WHEN status = 'RUNNING' THEN COALESCE(worker, 0) ELSE worker END,
       created_at, updated_at, last_attempt_at, finished_at, run_at, unique_key, options, payload, result, last_error
FROM background_service_jobs ORDER BY id;

-- :name rows_of_queues
SELECT name, paused, running_limit FROM background_service_queues ORDER BY name;

-- :name rows_of_cancellations
SELECT job_id, requested_at FROM background_service_cancellations ORDER BY job_id;

-- :name rows_of_progress
SELECT job_id, done, total, message, updated_at FROM background_service_progress ORDER BY job_id;

-- :name rows_of_log
SELECT id, job_id, at, message FROM background_service_log ORDER BY id;
