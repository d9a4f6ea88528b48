-- The statements of the SQLite store. Each can be pasted into the sqlite3 program after setting its parameters.
-- Lists travel as JSON arrays. A unary + hides a term from the planner, so that it starts from the list.

------------------------------------------------------------------------------------------------ the turn: settle

-- :name settle
UPDATE background_service_jobs
SET status = o.status,
    attempts = o.attempts,
    crashes = o.crashes,
    run_at = o.run_at,
    result = o.result,
    last_error = CASE WHEN o.status IN ('PENDING', 'SCHEDULED') THEN COALESCE(o.error, last_error) ELSE o.error END,
    finished_at = CASE WHEN o.status IN ('COMPLETED', 'FAILED', 'CANCELLED') THEN :now END,
    worker = NULL,
    updated_at = :now
FROM (
    SELECT value ->> 0 AS id, value ->> 1 AS claims, value ->> 2 AS status, value ->> 3 AS attempts,
           value ->> 4 AS crashes, value ->> 5 AS run_at, value ->> 6 AS result, value ->> 7 AS error
    FROM json_each(:outcomes)
) AS o
WHERE background_service_jobs.id = o.id
  AND +background_service_jobs.claims = o.claims
  AND +background_service_jobs.status = 'RUNNING'
RETURNING id, claims;

-- :name any_cancellation
SELECT EXISTS (SELECT 1 FROM background_service_cancellations);

-- :name cancel_what_was_asked_for
UPDATE background_service_jobs
SET status = 'CANCELLED', last_error = 'cancelled by request', run_at = NULL, finished_at = :now, updated_at = :now
WHERE id IN (SELECT job_id FROM background_service_cancellations)
  AND +status IN ('PENDING', 'SCHEDULED');

-- :name forget_cancellations
DELETE FROM background_service_cancellations
WHERE NOT EXISTS (
    SELECT 1 FROM background_service_jobs AS job
    WHERE job.id = background_service_cancellations.job_id AND +job.status = 'RUNNING'
);

-- :name cancellations_of_worker
SELECT job.id, job.claims
FROM background_service_cancellations AS request
CROSS JOIN background_service_jobs AS job ON job.id = request.job_id
WHERE +job.status = 'RUNNING' AND +job.worker = :worker;

------------------------------------------------------------------------------------------------ the turn: promote

-- :name next_due
SELECT MIN(run_at) FROM background_service_jobs WHERE status = 'SCHEDULED';

-- :name promote
UPDATE background_service_jobs
SET status = 'PENDING', updated_at = :now
WHERE id IN (
    SELECT id FROM background_service_jobs
    WHERE status = 'SCHEDULED' AND run_at <= :now
    ORDER BY run_at LIMIT 1000
);

-------------------------------------------------------------------------------------------------- the turn: claim

-- :name worker_exists
SELECT EXISTS (SELECT 1 FROM background_service_workers WHERE id = :worker);

-- :name queue_settings
SELECT name, paused, running_limit FROM background_service_queues;

-- A loose index scan: one probe per queue that has ready jobs, however many they are.
-- :name ready_queues
WITH RECURSIVE queues (name) AS (
    SELECT (SELECT queue FROM background_service_jobs WHERE status = 'PENDING' AND crashes = 0 ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM background_service_jobs
            WHERE status = 'PENDING' AND crashes = 0 AND queue > queues.name ORDER BY queue LIMIT 1)
    FROM queues WHERE queues.name IS NOT NULL
)
SELECT name FROM queues WHERE name IS NOT NULL;

-- :name suspect_queues
WITH RECURSIVE queues (name) AS (
    SELECT (SELECT queue FROM background_service_jobs WHERE status = 'PENDING' AND crashes > 0 ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM background_service_jobs
            WHERE status = 'PENDING' AND crashes > 0 AND queue > queues.name ORDER BY queue LIMIT 1)
    FROM queues WHERE queues.name IS NOT NULL
)
SELECT name FROM queues WHERE name IS NOT NULL;

-- :name running_in_queue
SELECT COUNT(*) FROM background_service_jobs
WHERE status = 'RUNNING' AND queue = :queue AND (:but_by IS NULL OR worker IS NOT :but_by);

-- :name has_ready
SELECT EXISTS (
    SELECT 1 FROM json_each(:keys) AS wanted
    WHERE EXISTS (
        SELECT 1 FROM background_service_jobs AS ready
        WHERE ready.status = 'PENDING' AND ready.crashes = 0
          AND ready.queue = :queue AND ready.job_key = wanted.value
    )
);

-- :name has_suspect
SELECT EXISTS (
    SELECT 1 FROM json_each(:keys) AS wanted
    WHERE EXISTS (
        SELECT 1 FROM background_service_jobs AS ready
        WHERE ready.status = 'PENDING' AND ready.crashes > 0
          AND ready.queue = :queue AND ready.job_key = wanted.value
    )
);

-- One range of the ready index per key, so that rows of unknown keys cost nothing however many stand at the head.
-- :ahead = 1 claims only jobs that may be tried again: they are taken before there is room for them.
-- :name claim
UPDATE background_service_jobs
SET status = 'RUNNING', claims = claims + 1, worker = :worker, last_attempt_at = :now, updated_at = :now
WHERE id IN (
    SELECT candidate.id
    FROM json_each(:keys) AS wanted
    CROSS JOIN background_service_jobs AS candidate ON candidate.id IN (
        SELECT ready.id FROM background_service_jobs AS ready
        WHERE ready.status = 'PENDING' AND ready.crashes = 0
          AND ready.queue = :queue AND ready.job_key = wanted.value
        ORDER BY ready.priority DESC, ready.id LIMIT :room
    )
    ORDER BY candidate.priority DESC, candidate.id LIMIT :room
)
AND (:ahead = 0 OR max_attempts > 1)
RETURNING id, claims, job_key, payload, queue, CAST(priority AS INTEGER), CAST(attempts AS INTEGER),
          CAST(max_attempts AS INTEGER), CAST(crashes AS INTEGER), created_at, options;

-- :name claim_suspect
UPDATE background_service_jobs
SET status = 'RUNNING', claims = claims + 1, worker = :worker, last_attempt_at = :now, updated_at = :now
WHERE id IN (
    SELECT candidate.id
    FROM json_each(:keys) AS wanted
    CROSS JOIN background_service_jobs AS candidate ON candidate.id IN (
        SELECT ready.id FROM background_service_jobs AS ready
        WHERE ready.status = 'PENDING' AND ready.crashes > 0
          AND ready.queue = :queue AND ready.job_key = wanted.value
        ORDER BY ready.priority DESC, ready.id LIMIT 1
    )
    ORDER BY candidate.priority DESC, candidate.id LIMIT 1
)
RETURNING id, claims, job_key, payload, queue, CAST(priority AS INTEGER), CAST(attempts AS INTEGER),
          CAST(max_attempts AS INTEGER), CAST(crashes AS INTEGER), created_at, options;

----------------------------------------------------------------------------------------------------- workers

-- :name add_worker
INSERT INTO background_service_workers (name, host, pid, version, concurrency, queues, keys, started_at, seen_at)
VALUES (:name, :host, :pid, :version, :concurrency, :queues, :keys, :now, :now)
RETURNING id;

-- :name remove_worker
DELETE FROM background_service_workers WHERE id = :worker;

-- :name seen
UPDATE background_service_workers SET seen_at = :now WHERE id = :worker;

-- :name worker_names
SELECT id, name FROM background_service_workers;

-- :name all_workers
SELECT worker.id, worker.name, worker.host, worker.pid, worker.version, worker.concurrency, worker.queues,
       worker.keys, worker.started_at, worker.seen_at,
       (SELECT COUNT(*) FROM background_service_jobs AS job WHERE job.status = 'RUNNING' AND job.worker = worker.id)
FROM background_service_workers AS worker
ORDER BY worker.id;

-- :name holders
SELECT DISTINCT worker FROM background_service_jobs WHERE status = 'RUNNING';

-- :name held_by
SELECT id, claims, job_key, payload, queue, CAST(priority AS INTEGER), CAST(attempts AS INTEGER),
       CAST(max_attempts AS INTEGER), CAST(crashes AS INTEGER), created_at, options
FROM background_service_jobs
WHERE status = 'RUNNING' AND worker IS :worker
ORDER BY +id;

-- :name requested
SELECT job_id FROM background_service_cancellations;

-- :name set_limit
INSERT INTO background_service_queues (name, running_limit) VALUES (:queue, :limit)
ON CONFLICT (name) DO UPDATE SET running_limit = excluded.running_limit;

-- Fenced by the number alone: a job that its own transaction has just completed keeps its last report.
-- :name report_progress
INSERT INTO background_service_progress (job_id, done, total, message, updated_at)
SELECT id, :done, :total, :message, :now FROM background_service_jobs
WHERE id = :job AND claims = :number
ON CONFLICT (job_id) DO UPDATE SET
    done = excluded.done, total = excluded.total, message = excluded.message, updated_at = excluded.updated_at;

-- :name report_line
INSERT INTO background_service_log (job_id, at, message)
SELECT id, :at, :message FROM background_service_jobs
WHERE id = :job AND claims = :number;

-- :name busy_with
SELECT EXISTS (
    SELECT 1 FROM background_service_jobs
    WHERE status = 'RUNNING' AND job_key IN (SELECT value FROM json_each(:keys))
      AND (:queues IS NULL OR queue IN (SELECT value FROM json_each(:queues)))
) OR EXISTS (
    SELECT 1 FROM background_service_jobs
    WHERE status = 'SCHEDULED' AND run_at <= :now AND job_key IN (SELECT value FROM json_each(:keys))
      AND (:queues IS NULL OR queue IN (SELECT value FROM json_each(:queues)))
);

-------------------------------------------------------------------------------------------------------- look

-- :name jobs
SELECT job.id, job.job_key, job.payload, job.status, job.queue, job.priority, job.attempts, job.max_attempts,
       job.crashes, job.created_at, job.updated_at, job.run_at, job.last_attempt_at, job.finished_at, job.last_error,
       job.result, job.unique_key, job.worker, progress.done, progress.total, progress.message
FROM background_service_jobs AS job
LEFT JOIN background_service_progress AS progress ON progress.job_id = job.id;

-- :name count
SELECT COUNT(*) FROM background_service_jobs AS job;

-- :name counts
SELECT status, COUNT(*) FROM background_service_jobs GROUP BY status;

-- :name log
SELECT at, message FROM background_service_log WHERE job_id = :job ORDER BY id;

-- :name queues
WITH waiting AS (
    SELECT queue, COUNT(*) AS pending, 0 AS scheduled, 0 AS running FROM background_service_jobs
    WHERE status = 'PENDING' AND crashes = 0 GROUP BY queue
    UNION ALL
    SELECT queue, COUNT(*), 0, 0 FROM background_service_jobs
    WHERE status = 'PENDING' AND crashes > 0 GROUP BY queue
    UNION ALL
    SELECT queue, 0, COUNT(*), 0 FROM background_service_jobs WHERE status = 'SCHEDULED' GROUP BY queue
    UNION ALL
    SELECT queue, 0, 0, COUNT(*) FROM background_service_jobs WHERE status = 'RUNNING' GROUP BY queue
    UNION ALL
    SELECT name, 0, 0, 0 FROM background_service_queues
)
SELECT waiting.queue, SUM(pending), SUM(scheduled), SUM(running), COALESCE(setting.paused, 0), setting.running_limit
FROM waiting
LEFT JOIN background_service_queues AS setting ON setting.name = waiting.queue
GROUP BY waiting.queue
ORDER BY waiting.queue;

-- :name ahead_of
SELECT COUNT(*) FROM background_service_jobs
WHERE status = 'PENDING' AND crashes = 0 AND queue = :queue
  AND (priority > :priority OR (priority = :priority AND id < :job));

-- :name cancel_requested
SELECT EXISTS (SELECT 1 FROM background_service_cancellations WHERE job_id = :job);

------------------------------------------------------------------------------------------------------- steer

-- :name cancel_waiting
UPDATE background_service_jobs
SET status = 'CANCELLED', last_error = 'cancelled by request', run_at = NULL, finished_at = :now, updated_at = :now
WHERE id IN (SELECT value FROM json_each(:ids)) AND +status IN ('PENDING', 'SCHEDULED')
RETURNING id;

-- :name request_cancellation
INSERT INTO background_service_cancellations (job_id, requested_at)
SELECT id, :now FROM background_service_jobs
WHERE id IN (SELECT value FROM json_each(:ids)) AND +status = 'RUNNING'
ON CONFLICT (job_id) DO UPDATE SET requested_at = requested_at
RETURNING job_id;

-- OR IGNORE: a row whose unique key is held by another job meanwhile stays as it is.
-- :name retry
UPDATE OR IGNORE background_service_jobs
SET attempts = CASE WHEN status = 'SCHEDULED' THEN attempts ELSE 0 END,
    crashes = CASE WHEN status = 'SCHEDULED' THEN crashes ELSE 0 END,
    status = 'PENDING', run_at = NULL, finished_at = NULL, result = NULL, updated_at = :now
WHERE id IN (SELECT value FROM json_each(:ids)) AND +status IN ('FAILED', 'CANCELLED', 'SCHEDULED')
RETURNING id;

-- :name delete
DELETE FROM background_service_jobs
WHERE id IN (SELECT value FROM json_each(:ids)) AND +status <> 'RUNNING'
RETURNING id;

-- :name delete_progress
DELETE FROM background_service_progress WHERE job_id IN (SELECT value FROM json_each(:ids));

-- :name delete_log
DELETE FROM background_service_log WHERE job_id IN (SELECT value FROM json_each(:ids));

-- :name delete_cancellations
DELETE FROM background_service_cancellations WHERE job_id IN (SELECT value FROM json_each(:ids));

-- :name set_priority
UPDATE background_service_jobs SET priority = :priority, updated_at = :now
WHERE id IN (SELECT value FROM json_each(:ids)) AND +status IN ('PENDING', 'SCHEDULED')
RETURNING id;

-- :name set_paused
INSERT INTO background_service_queues (name, paused) VALUES (:queue, :paused)
ON CONFLICT (name) DO UPDATE SET paused = excluded.paused;

-- :name prune_candidates
SELECT id, job_key, status, COALESCE(finished_at, updated_at), options FROM background_service_jobs
WHERE id > :after ORDER BY id LIMIT :limit;
