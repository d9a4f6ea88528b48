-- The statements of the SQLite store. Each can be pasted into the sqlite3 program after setting its parameters.
-- Lists travel as JSON arrays. A unary + hides a term from the planner, so that it starts from the list.

------------------------------------------------------------------------------------------------ the turn: settle

-- The claims that do not hold their jobs any more. `:claims` is an object: job id -> number of the claim.
-- :name refused
SELECT claim.key, claim.value
FROM json_each(:claims) AS claim
LEFT JOIN background_service_jobs AS job
    ON job.id = claim.key AND +job.claims = claim.value AND +job.status = 'RUNNING'
WHERE job.id IS NULL;

-- The claims that hold their jobs even after their outcomes should have been written.
-- :name passed_over
SELECT claim.key, claim.value
FROM json_each(:claims) AS claim
CROSS JOIN background_service_jobs AS job
    ON job.id = claim.key AND +job.claims = claim.value AND +job.status = 'RUNNING';

-- Outcomes that differ in nothing but their claims, and have no time, result or error: most of what a worker writes.
-- An UPDATE with FROM would keep every new row in a table of its own first, which takes as long as the rest.
-- :name settle_alike
UPDATE background_service_jobs
SET status = :status, attempts = :attempts, crashes = :crashes, run_at = NULL, result = NULL,
    last_error = CASE WHEN :ended THEN NULL ELSE last_error END,
    finished_at = CASE WHEN :ended THEN :now END, worker = NULL, updated_at = :now
WHERE id IN (
    SELECT job.id
    FROM json_each(:claims) AS claim
    CROSS JOIN background_service_jobs AS job
        ON job.id = claim.key AND +job.claims = claim.value AND +job.status = 'RUNNING'
);

-- :name settle
UPDATE background_service_jobs
SET status = o.status,
    attempts = o.attempts,
    crashes = o.crashes,
    run_at = o.run_at,
    result = o.result,
    last_error = CASE WHEN o.ended THEN o.error ELSE COALESCE(o.error, last_error) END,
    finished_at = CASE WHEN o.ended THEN :now END,
    worker = NULL,
    updated_at = :now
FROM (
    SELECT value ->> 0 AS id, value ->> 1 AS claims, value ->> 2 AS status, value ->> 3 AS attempts,
           value ->> 4 AS crashes, value ->> 5 AS ended, value ->> 6 AS run_at, value ->> 7 AS result,
           value ->> 8 AS error
    FROM json_each(:outcomes)
) AS o
WHERE background_service_jobs.id = o.id
  AND +background_service_jobs.claims = o.claims
  AND +background_service_jobs.status = 'RUNNING';

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

-- :name promote
UPDATE background_service_jobs
SET status = 'PENDING', updated_at = :now
WHERE id IN (
    SELECT id FROM background_service_jobs
    WHERE status = 'SCHEDULED' AND run_at <= :now
    ORDER BY run_at LIMIT 1000
);

-------------------------------------------------------------------------------------------------- the turn: claim

-- What every turn asks, in one statement: whether the worker has its seat, cancellations are asked for, what is due when.
-- :name standing
SELECT EXISTS (SELECT 1 FROM background_service_workers WHERE id = :worker),
       EXISTS (SELECT 1 FROM background_service_cancellations),
       (SELECT MIN(run_at) FROM background_service_jobs WHERE status = 'SCHEDULED');

-- Queues that are not paused and have something to claim. Loose index scans: one probe per queue, however many jobs.
-- x'' is less than every BLOB and more than every text: any program may write a name that is none.
-- :name open_queues
WITH RECURSIVE ready (name) AS (
    SELECT (SELECT queue FROM background_service_jobs
            WHERE status = 'PENDING' AND crashes = 0 AND queue < x'' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM background_service_jobs
            WHERE status = 'PENDING' AND crashes = 0 AND queue > ready.name AND queue < x'' ORDER BY queue LIMIT 1)
    FROM ready WHERE ready.name IS NOT NULL
),
suspects (name) AS (
    SELECT (SELECT queue FROM background_service_jobs
            WHERE status = 'PENDING' AND crashes > 0 AND queue < x'' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM background_service_jobs
            WHERE status = 'PENDING' AND crashes > 0 AND queue > suspects.name AND queue < x'' ORDER BY queue LIMIT 1)
    FROM suspects WHERE suspects.name IS NOT NULL
),
queues (name, ready, suspects) AS (
    SELECT name, MAX(ready), MAX(suspects)
    FROM (SELECT name, 1 AS ready, 0 AS suspects FROM ready UNION ALL SELECT name, 0, 1 FROM suspects) AS there
    WHERE name IS NOT NULL
    GROUP BY name
)
SELECT queues.name, queues.ready, queues.suspects, setting.running_limit
FROM queues
LEFT JOIN background_service_queues AS setting ON setting.name = queues.name
WHERE setting.paused IS NULL OR NOT setting.paused
ORDER BY queues.name;

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

-- Whether `ready_jobs` could find one with :ahead = 1. For each key as many are looked at as for all: rather too many.
-- :name has_ready_ahead
SELECT EXISTS (
    SELECT 1
    FROM json_each(:keys) AS wanted
    CROSS JOIN background_service_jobs AS candidate ON candidate.id IN (
        SELECT ready.id FROM background_service_jobs AS ready
        WHERE ready.status = 'PENDING' AND ready.crashes = 0
          AND ready.queue = :queue AND ready.job_key = wanted.value
        ORDER BY ready.priority DESC, ready.id LIMIT :room
    )
    WHERE candidate.max_attempts > 1
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

-- The jobs to claim next, in order, as one text, and their ids: a thousand rows one by one would each wait for the
-- interpreter, which runs handlers meanwhile. One range of the ready index per key, so that rows of unknown keys cost
-- nothing however many stand at the head.
-- A payload of more than 100 million characters is cut: no text of SQLite's could hold it quoted, and it fails alone.
-- :ahead = 1 finds only jobs that may be tried again: they are taken before there is room for them.
-- :name ready_jobs
SELECT json_group_array(json_array(
           json_array(id, CAST(claims AS INTEGER) + 1), job_key, substr(CAST(payload AS TEXT), 1, 100000000), queue,
           CAST(priority AS INTEGER), CAST(attempts AS INTEGER), CAST(max_attempts AS INTEGER),
           CAST(crashes AS INTEGER), CAST(created_at AS TEXT), CAST(options AS TEXT)
       )), json_group_array(id)
FROM (
    SELECT candidate.*
    FROM json_each(:keys) AS wanted
    CROSS JOIN background_service_jobs AS candidate ON candidate.id IN (
        SELECT ready.id FROM background_service_jobs AS ready
        WHERE ready.status = 'PENDING' AND ready.crashes = 0
          AND ready.queue = :queue AND ready.job_key = wanted.value
        ORDER BY ready.priority DESC, ready.id LIMIT :room
    )
    ORDER BY candidate.priority DESC, candidate.id LIMIT :room
) AS found
WHERE :ahead = 0 OR max_attempts > 1;

-- :name suspect_jobs
SELECT json_group_array(json_array(
           json_array(id, CAST(claims AS INTEGER) + 1), job_key, substr(CAST(payload AS TEXT), 1, 100000000), queue,
           CAST(priority AS INTEGER), CAST(attempts AS INTEGER), CAST(max_attempts AS INTEGER),
           CAST(crashes AS INTEGER), CAST(created_at AS TEXT), CAST(options AS TEXT)
       )), json_group_array(id)
FROM (
    SELECT candidate.*
    FROM json_each(:keys) AS wanted
    CROSS JOIN background_service_jobs AS candidate ON candidate.id IN (
        SELECT ready.id FROM background_service_jobs AS ready
        WHERE ready.status = 'PENDING' AND ready.crashes > 0
          AND ready.queue = :queue AND ready.job_key = wanted.value
        ORDER BY ready.priority DESC, ready.id LIMIT :room
    )
    ORDER BY candidate.priority DESC, candidate.id LIMIT :room
) AS found;

-- :name claim
UPDATE background_service_jobs
SET status = 'RUNNING', claims = CAST(claims AS INTEGER) + 1, worker = :worker, last_attempt_at = :now,
    updated_at = :now
WHERE id IN (SELECT value FROM json_each(:ids));

-- :name held_of
SELECT job.id FROM json_each(:ids) AS wanted CROSS JOIN background_service_jobs AS job ON job.id = wanted.value
WHERE +job.status = 'RUNNING' AND +job.worker = :worker;

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

-- A text for each job: together they may be longer than a text can be. Whatever a row holds, it must not hide others.
-- :name held_by
SELECT json_array(
           json_array(id, CAST(claims AS INTEGER)), CAST(job_key AS TEXT), substr(CAST(payload AS TEXT), 1, 100000000),
           CAST(queue AS TEXT), CAST(priority AS INTEGER), CAST(attempts AS INTEGER), CAST(max_attempts AS INTEGER),
           CAST(crashes AS INTEGER), CAST(created_at AS TEXT), CAST(options AS TEXT)
       )
FROM background_service_jobs WHERE status = 'RUNNING' AND worker IS :worker ORDER BY +id;

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

-- :name prune_page
SELECT id FROM background_service_jobs WHERE id > :after ORDER BY id LIMIT 1 OFFSET :limit - 1;

-- What ended so lately that no rule lets it go yet does not leave SQLite: made into rows of Python, a page would keep
-- the interpreter from all others for milliseconds. A job with options may have asked for a time of its own, and a
-- text beyond now is that of another program.
-- :name prune_candidates
SELECT id, job_key, status, COALESCE(finished_at, updated_at), options FROM background_service_jobs
WHERE id > :after AND id <= :last AND +status IN ('COMPLETED', 'FAILED', 'CANCELLED')
  AND (options IS NOT NULL OR COALESCE(finished_at, updated_at) <= :before
       OR COALESCE(finished_at, updated_at) > :now)
ORDER BY id;
