-- The statements of the PostgreSQL store, by the same names as those of SQLite. Lists travel as arrays.
-- A list of ids is looked up by `= ANY (ARRAY (...))`: that is always done by the index, whatever the statistics say.
-- `|| ''` and `+ 0` hide a term from the planner, so that it starts from the ids and not from a partial index.

------------------------------------------------------------------------------------------------ transactions

-- For a connection of our own that does nothing but turns; behind a pooler, where the next transaction may have another
-- connection, once per transaction and for it alone. Plans are made once: they must not depend on what the table held when
-- they were made, so indexes are used even where it is nearly empty.
-- Who is stopped or cut off in the middle holds its locks for half a minute at most.
-- :name settings_of_turns
SELECT set_config('lock_timeout', %(wait)s, %(local)s::boolean),
       set_config('idle_in_transaction_session_timeout', '30s', %(local)s::boolean),
       set_config('synchronous_commit', %(durable)s, %(local)s::boolean),
       set_config('plan_cache_mode', 'force_generic_plan', %(local)s::boolean),
       set_config('enable_seqscan', 'off', %(local)s::boolean),
       set_config('enable_bitmapscan', 'off', %(local)s::boolean),
       set_config('jit', 'off', %(local)s::boolean);

-- For a connection of our own that commits single statements, where no pooler stands between.
-- :name settings_for_good
SELECT set_config('lock_timeout', %(wait)s, false),
       set_config('synchronous_commit', %(durable)s, false);

-- :name begin_write
SELECT set_config('lock_timeout', %(wait)s, true),
       set_config('idle_in_transaction_session_timeout', '30s', true),
       set_config('synchronous_commit', %(durable)s, true),
       set_config('jit', 'off', true);

------------------------------------------------------------------------------------------------ the turn: settle

-- Fails where the worker has no row, so that nothing is done of the transaction that it is part of.
-- :name has_seat
SELECT 1 / COUNT(*) FROM background_service_workers WHERE id = %(worker)s;

-- :name settle
UPDATE background_service_jobs AS job
SET status = o.status,
    attempts = o.attempts,
    crashes = o.crashes,
    run_at = o.run_at,
    result = o.result,
    last_error = CASE WHEN o.status IN ('PENDING', 'SCHEDULED') THEN COALESCE(o.error, job.last_error) ELSE o.error END,
    finished_at = CASE WHEN o.status IN ('COMPLETED', 'FAILED', 'CANCELLED') THEN %(now)s::timestamptz END,
    worker = NULL,
    updated_at = %(now)s::timestamptz
FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[], %(statuses)s::text[], %(attempts)s::bigint[],
            %(crashes)s::bigint[], %(run_ats)s::timestamptz[], %(results)s::text[], %(errors)s::text[])
    AS o (id, claims, status, attempts, crashes, run_at, result, error)
WHERE job.id = o.id AND job.claims + 0 = o.claims AND job.status || '' = 'RUNNING'
RETURNING job.id, job.claims;

------------------------------------------------------------------------------------- the turn: cancel, promote

-- One statement, so three parts of it see the same: what somebody wants to end and nobody runs is ended, what is due and
-- nobody wants to end is made ready, and requests are forgotten of jobs that have ended.
-- :name cancel_and_promote
WITH cancelled AS (
    UPDATE background_service_jobs
    SET status = 'CANCELLED', last_error = 'cancelled by request', run_at = NULL,
        finished_at = %(now)s::timestamptz, updated_at = %(now)s::timestamptz
    WHERE id = ANY (ARRAY (
        SELECT job.id FROM background_service_jobs AS job
        WHERE job.id = ANY (ARRAY (SELECT job_id FROM background_service_cancellations))
          AND job.status IN ('PENDING', 'SCHEDULED')
        ORDER BY job.id FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
),
promoted AS (
    UPDATE background_service_jobs
    SET status = 'PENDING', updated_at = %(now)s::timestamptz
    WHERE id = ANY (ARRAY (
        SELECT id FROM background_service_jobs
        WHERE status = 'SCHEDULED' AND run_at <= %(now)s::timestamptz
          AND id <> ALL (ARRAY (SELECT job_id FROM background_service_cancellations))
        ORDER BY run_at LIMIT 1000 FOR UPDATE SKIP LOCKED
    ))
)
DELETE FROM background_service_cancellations AS request
WHERE request.job_id = ANY (ARRAY (SELECT id FROM cancelled))
   OR request.job_id <> ALL (ARRAY (
       SELECT job.id FROM background_service_jobs AS job
       WHERE job.id = ANY (ARRAY (SELECT job_id FROM background_service_cancellations))
         AND job.status IN ('PENDING', 'SCHEDULED', 'RUNNING')
   ));

-------------------------------------------------------------------------------------------------- the turn: claim

-- :name worker_exists
SELECT EXISTS (SELECT 1 FROM background_service_workers WHERE id = %(worker)s AND expires_at > clock_timestamp());

-- A statement of its own, before the one that counts: what follows sees all that committed before these locks were had.
-- Reading FOR UPDATE also holds a lock on the table, though no row be found: pausing a queue waits for it.
-- :name lock_queues
SELECT name FROM background_service_queues
WHERE running_limit IS NOT NULL AND (%(queues)s::text[] IS NULL OR name = ANY (%(queues)s::text[]))
ORDER BY name FOR UPDATE;

-- For each queue the best of all its keys, in order; then as many of them as are free are locked and taken. A few more are
-- looked at than wanted, because another worker may be taking the same ones. Beyond its room a queue gives only
-- what may be tried again. A place of a limited queue is kept for a suspect that the worker could run: others would always
-- be quicker. Whose lease is over gets nothing: it would be taken from it at once.
-- Each is locked by a statement of its own within, which the planner must not join otherwise: it takes an unknown LIMIT for a
-- tenth of the table, and would read all jobs for the sake of so many.
-- A queue that the worker named is not looked for, only what may be before, between and behind those: to find the first
-- job of a queue is to step over all that was claimed since the oldest transaction began, and the claim does so anyway.
-- :name claim
WITH RECURSIVE names (name) AS (
    SELECT CASE
        WHEN known.first IS NULL THEN (
            SELECT queue FROM background_service_jobs WHERE status = 'PENDING' AND crashes = 0 ORDER BY queue LIMIT 1)
        ELSE COALESCE((
            SELECT queue FROM background_service_jobs
            WHERE status = 'PENDING' AND crashes = 0 AND queue < known.first ORDER BY queue LIMIT 1), known.first)
    END
    FROM (SELECT MIN(name COLLATE "C") FROM unnest(%(rooms_of)s::text[]) AS wanted (name)) AS known (first)
    UNION ALL
    SELECT CASE
        WHEN known.next IS NULL THEN (
            SELECT queue FROM background_service_jobs
            WHERE status = 'PENDING' AND crashes = 0 AND queue > names.name ORDER BY queue LIMIT 1)
        ELSE COALESCE((
            SELECT queue FROM background_service_jobs
            WHERE status = 'PENDING' AND crashes = 0 AND queue > names.name AND queue < known.next
            ORDER BY queue LIMIT 1), known.next)
    END
    FROM names
    CROSS JOIN LATERAL (
        SELECT MIN(wanted.name COLLATE "C") FROM unnest(%(rooms_of)s::text[]) AS wanted (name)
        WHERE wanted.name COLLATE "C" > names.name
    ) AS known (next)
    WHERE names.name IS NOT NULL
),
open AS (
    SELECT names.name,
           CASE WHEN setting.running_limit IS NULL THEN COALESCE(wanted.room, %(room)s::bigint)
                ELSE LEAST(COALESCE(wanted.room, %(room)s::bigint), setting.running_limit - (
                    SELECT COUNT(*) FROM background_service_jobs AS running
                    WHERE running.status = 'RUNNING' AND running.queue = names.name) - (
                    SELECT COUNT(*) FROM (
                        SELECT 1 FROM background_service_jobs AS suspect
                        WHERE suspect.status = 'PENDING' AND suspect.crashes > 0 AND suspect.queue = names.name
                          AND suspect.job_key = ANY (%(keys)s::text[]) LIMIT 1) AS one))
           END AS room,
           CASE WHEN setting.running_limit IS NULL THEN COALESCE(wanted.ahead, 0) ELSE 0 END AS ahead
    FROM names
    LEFT JOIN background_service_queues AS setting ON setting.name = names.name
    LEFT JOIN unnest(%(rooms_of)s::text[], %(rooms)s::bigint[], %(aheads)s::bigint[]) AS wanted (name, room, ahead)
        ON wanted.name = names.name
    WHERE EXISTS (SELECT 1 FROM background_service_workers WHERE id = %(worker)s AND expires_at > clock_timestamp())
      AND names.name IS NOT NULL AND NOT COALESCE(setting.paused, false)
      AND (%(queues)s::text[] IS NULL OR names.name = ANY (%(queues)s::text[]))
),
taken AS MATERIALIZED (
    SELECT free.id
    FROM open
    CROSS JOIN LATERAL (
        SELECT locked.id, locked.max_attempts, row_number() OVER (ORDER BY locked.priority DESC, locked.id) AS place
        FROM (
            SELECT job.id, job.priority, job.max_attempts
            FROM (
                SELECT ready.id, ready.priority
                FROM unnest(%(keys)s::text[]) AS wanted (job_key)
                CROSS JOIN LATERAL (
                    SELECT each.id, each.priority FROM background_service_jobs AS each
                    WHERE each.status = 'PENDING' AND each.crashes = 0
                      AND each.queue = open.name AND each.job_key = wanted.job_key
                    ORDER BY each.priority DESC, each.id
                    LIMIT GREATEST(open.room, 0) + open.ahead + 100
                ) AS ready
                ORDER BY ready.priority DESC, ready.id
                LIMIT GREATEST(open.room, 0) + open.ahead + 100
            ) AS candidate
            CROSS JOIN LATERAL (
                SELECT each.id, each.priority, each.max_attempts FROM background_service_jobs AS each
                WHERE each.id = candidate.id AND each.status || '' = 'PENDING' AND each.crashes + 0 = 0
                FOR UPDATE SKIP LOCKED
            ) AS job
            ORDER BY candidate.priority DESC, candidate.id
            LIMIT GREATEST(open.room, 0) + open.ahead
        ) AS locked
    ) AS free
    WHERE free.place <= open.room OR free.max_attempts > 1
)
UPDATE background_service_jobs AS job
SET status = 'RUNNING', claims = job.claims + 1, worker = %(worker)s,
    last_attempt_at = %(now)s::timestamptz, updated_at = %(now)s::timestamptz
WHERE job.id = ANY (ARRAY (SELECT id FROM taken))
RETURNING job.id, job.claims, job.job_key, job.payload, job.queue, job.priority, job.attempts, job.max_attempts,
          job.crashes, to_char(job.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), job.options;

-- :name claim_suspect
UPDATE background_service_jobs AS job
SET status = 'RUNNING', claims = job.claims + 1, worker = %(worker)s,
    last_attempt_at = %(now)s::timestamptz, updated_at = %(now)s::timestamptz
WHERE job.id = ANY (ARRAY (
    SELECT suspect.id
    FROM background_service_jobs AS suspect
    LEFT JOIN background_service_queues AS setting ON setting.name = suspect.queue
    WHERE EXISTS (SELECT 1 FROM background_service_workers WHERE id = %(worker)s AND expires_at > clock_timestamp())
      AND suspect.status = 'PENDING' AND suspect.crashes > 0
      AND suspect.job_key = ANY (%(keys)s::text[])
      AND (%(queues)s::text[] IS NULL OR suspect.queue = ANY (%(queues)s::text[]))
      AND NOT COALESCE(setting.paused, false)
      AND (setting.running_limit IS NULL OR setting.running_limit > (
          SELECT COUNT(*) FROM background_service_jobs AS running
          WHERE running.status = 'RUNNING' AND running.queue = suspect.queue))
    ORDER BY suspect.queue, suspect.priority DESC, suspect.id
    LIMIT 1 FOR UPDATE OF suspect SKIP LOCKED
))
RETURNING job.id, job.claims, job.job_key, job.payload, job.queue, job.priority, job.attempts, job.max_attempts,
          job.crashes, to_char(job.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), job.options;

-- What a turn tells beside the jobs it claimed, in one row: when the next is due, whether a suspect waits, and which of
-- the worker's jobs somebody wants to end. What the worker itself runs ends before it claims a suspect, so it takes no
-- room from it. Fails where the worker has no row, so that nothing is done of the turn.
-- :name news
SELECT (SELECT MIN(run_at) FROM background_service_jobs WHERE status = 'SCHEDULED'),
       EXISTS (
           SELECT 1
           FROM background_service_jobs AS suspect
           LEFT JOIN background_service_queues AS setting ON setting.name = suspect.queue
           WHERE suspect.status = 'PENDING' AND suspect.crashes > 0
             AND suspect.job_key = ANY (%(keys)s::text[])
             AND (%(queues)s::text[] IS NULL OR suspect.queue = ANY (%(queues)s::text[]))
             AND NOT COALESCE(setting.paused, false)
             AND (setting.running_limit IS NULL OR setting.running_limit > (
                 SELECT COUNT(*) FROM background_service_jobs AS running
                 WHERE running.status = 'RUNNING' AND running.queue = suspect.queue AND running.worker <> %(worker)s))
       ),
       (SELECT array_agg(ARRAY[job.id, job.claims]) FROM background_service_jobs AS job
        WHERE job.id = ANY (ARRAY (SELECT job_id FROM background_service_cancellations))
          AND job.status || '' = 'RUNNING' AND job.worker + 0 = %(worker)s),
       (SELECT 1 / COUNT(*) FROM background_service_workers WHERE id = %(worker)s);

-- :name has_ready
SELECT EXISTS (
    SELECT 1
    FROM background_service_jobs AS ready
    LEFT JOIN background_service_queues AS setting ON setting.name = ready.queue
    WHERE ready.status = 'PENDING'
      AND ready.job_key = ANY (%(keys)s::text[])
      AND (%(queues)s::text[] IS NULL OR ready.queue = ANY (%(queues)s::text[]))
      AND NOT COALESCE(setting.paused, false)
);

----------------------------------------------------------------------------------------------------- workers

-- :name add_worker
INSERT INTO background_service_workers
    (name, host, pid, version, concurrency, queues, keys, started_at, seen_at, expires_at, place, born)
VALUES (%(name)s, %(host)s, %(pid)s, %(version)s, %(concurrency)s, %(queues)s, %(keys)s, %(now)s, %(now)s,
        clock_timestamp() + make_interval(secs => %(lease)s), %(place)s, %(born)s)
RETURNING id;

-- :name remove_worker
DELETE FROM background_service_workers WHERE id = %(worker)s;

-- :name seen
UPDATE background_service_workers SET seen_at = %(now)s WHERE id = %(worker)s;

-- Whose lease is over does not get it back: others may have taken its jobs already.
-- :name beat
UPDATE background_service_workers SET expires_at = clock_timestamp() + make_interval(secs => %(lease)s)
WHERE id = %(worker)s AND expires_at > clock_timestamp()
RETURNING clock_timestamp();

-- :name worker_names
SELECT id, expires_at > clock_timestamp(), place, pid, born FROM background_service_workers;

-- :name all_workers
SELECT worker.id, worker.name, worker.host, worker.pid, worker.version, worker.concurrency, worker.queues,
       worker.keys, worker.started_at, worker.seen_at,
       (SELECT COUNT(*) FROM background_service_jobs AS job WHERE job.status = 'RUNNING' AND job.worker = worker.id),
       worker.expires_at > clock_timestamp(), worker.place, worker.born
FROM background_service_workers AS worker
ORDER BY worker.id;

-- A loose index scan: one probe per worker that holds jobs, however many they are.
-- :name holders
WITH RECURSIVE holders (worker) AS (
    SELECT (SELECT worker FROM background_service_jobs WHERE status = 'RUNNING' ORDER BY worker LIMIT 1)
    UNION ALL
    SELECT (SELECT worker FROM background_service_jobs
            WHERE status = 'RUNNING' AND worker > holders.worker ORDER BY worker LIMIT 1)
    FROM holders WHERE holders.worker IS NOT NULL
)
SELECT worker FROM holders WHERE worker IS NOT NULL;

-- :name held_by
SELECT id, claims, job_key, payload, queue, priority, attempts, max_attempts, crashes,
       to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), options
FROM background_service_jobs
WHERE status = 'RUNNING' AND worker = %(worker)s
ORDER BY id;

-- :name requested
SELECT job_id FROM background_service_cancellations;

-- :name set_limit
INSERT INTO background_service_queues (name, running_limit) VALUES (%(queue)s, %(limit)s)
ON CONFLICT (name) DO UPDATE SET running_limit = excluded.running_limit;

-- Fenced by the number alone: a job that its own transaction has just completed keeps its last report.
-- :name report_progress
INSERT INTO background_service_progress (job_id, done, total, message, updated_at)
SELECT id, %(done)s::float8, %(total)s::float8, %(message)s::text, %(now)s::timestamptz FROM background_service_jobs
WHERE id = %(job)s AND claims = %(number)s
ON CONFLICT (job_id) DO UPDATE SET
    done = excluded.done, total = excluded.total, message = excluded.message, updated_at = excluded.updated_at;

-- :name report_line
INSERT INTO background_service_log (job_id, at, message)
SELECT id, %(at)s::timestamptz, %(message)s::text FROM background_service_jobs
WHERE id = %(job)s AND claims = %(number)s;

-- :name busy_with
SELECT EXISTS (
    SELECT 1 FROM background_service_jobs
    WHERE status = 'RUNNING' AND job_key = ANY (%(keys)s::text[])
      AND (%(queues)s::text[] IS NULL OR queue = ANY (%(queues)s::text[]))
) OR EXISTS (
    SELECT 1 FROM background_service_jobs
    WHERE status = 'SCHEDULED' AND run_at <= %(now)s::timestamptz AND job_key = ANY (%(keys)s::text[])
      AND (%(queues)s::text[] IS NULL OR queue = ANY (%(queues)s::text[]))
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
SELECT at, message FROM background_service_log WHERE job_id = %(job)s ORDER BY id;

-- :name queues
WITH waiting AS (
    SELECT queue, COUNT(*) AS pending, 0::bigint AS scheduled, 0::bigint AS running FROM background_service_jobs
    WHERE status = 'PENDING' GROUP BY queue
    UNION ALL
    SELECT queue, 0, COUNT(*), 0 FROM background_service_jobs WHERE status = 'SCHEDULED' GROUP BY queue
    UNION ALL
    SELECT queue, 0, 0, COUNT(*) FROM background_service_jobs WHERE status = 'RUNNING' GROUP BY queue
    UNION ALL
    SELECT name, 0, 0, 0 FROM background_service_queues
)
SELECT waiting.queue, SUM(pending)::bigint, SUM(scheduled)::bigint, SUM(running)::bigint,
       COALESCE(bool_or(setting.paused), false), MAX(setting.running_limit)
FROM waiting
LEFT JOIN background_service_queues AS setting ON setting.name = waiting.queue
GROUP BY waiting.queue
ORDER BY waiting.queue;

-- :name ahead_of
SELECT COUNT(*) FROM background_service_jobs
WHERE status = 'PENDING' AND crashes = 0 AND queue = %(queue)s
  AND (priority > %(priority)s OR (priority = %(priority)s AND id < %(job)s));

-- :name cancel_requested
SELECT EXISTS (SELECT 1 FROM background_service_cancellations WHERE job_id = %(job)s);

------------------------------------------------------------------------------------------------------- steer

-- Rows are locked in the order of their ids: two operators never wait for each other in a circle.
-- :name cancel_waiting
UPDATE background_service_jobs
SET status = 'CANCELLED', last_error = 'cancelled by request', run_at = NULL,
    finished_at = %(now)s::timestamptz, updated_at = %(now)s::timestamptz
WHERE id = ANY (ARRAY (
    SELECT id FROM background_service_jobs
    WHERE id = ANY (%(ids)s::bigint[]) AND status IN ('PENDING', 'SCHEDULED') ORDER BY id FOR UPDATE
))
RETURNING id;

-- :name request_cancellation
INSERT INTO background_service_cancellations (job_id, requested_at)
SELECT id, %(now)s::timestamptz FROM background_service_jobs
WHERE id = ANY (%(ids)s::bigint[]) AND status = 'RUNNING' ORDER BY id
ON CONFLICT (job_id) DO UPDATE SET requested_at = background_service_cancellations.requested_at
RETURNING job_id;

-- :name retry
UPDATE background_service_jobs AS job
SET attempts = CASE WHEN job.status = 'SCHEDULED' THEN job.attempts ELSE 0 END,
    crashes = CASE WHEN job.status = 'SCHEDULED' THEN job.crashes ELSE 0 END,
    status = 'PENDING', run_at = NULL, finished_at = NULL, result = NULL, updated_at = %(now)s::timestamptz
WHERE job.id = ANY (%(ids)s::bigint[]) AND job.status IN ('FAILED', 'CANCELLED', 'SCHEDULED')
RETURNING job.id;

-- Those that can be retried: whose unique key nobody holds, and of several with one key the oldest.
-- :name retriable
SELECT job.id FROM background_service_jobs AS job
WHERE job.id = ANY (%(ids)s::bigint[]) AND job.status IN ('FAILED', 'CANCELLED', 'SCHEDULED')
  AND (job.unique_key IS NULL OR job.status = 'SCHEDULED' OR NOT EXISTS (
      SELECT 1 FROM background_service_jobs AS holder
      WHERE holder.job_key = job.job_key AND holder.unique_key = job.unique_key AND holder.unique_key IS NOT NULL
        AND holder.status IN ('PENDING', 'SCHEDULED', 'RUNNING')
  ))
  AND (job.unique_key IS NULL OR NOT EXISTS (
      SELECT 1 FROM background_service_jobs AS older
      WHERE older.id = ANY (%(ids)s::bigint[]) AND older.id < job.id AND older.job_key = job.job_key
        AND older.unique_key = job.unique_key AND older.status IN ('FAILED', 'CANCELLED')
  ))
ORDER BY job.id FOR UPDATE OF job;

-- :name delete
DELETE FROM background_service_jobs
WHERE id = ANY (ARRAY (
    SELECT id FROM background_service_jobs
    WHERE id = ANY (%(ids)s::bigint[]) AND status <> 'RUNNING' ORDER BY id FOR UPDATE
))
RETURNING id;

-- :name delete_progress
DELETE FROM background_service_progress WHERE job_id = ANY (%(ids)s::bigint[]);

-- :name delete_log
DELETE FROM background_service_log WHERE job_id = ANY (%(ids)s::bigint[]);

-- :name delete_cancellations
DELETE FROM background_service_cancellations WHERE job_id = ANY (%(ids)s::bigint[]);

-- :name set_priority
UPDATE background_service_jobs SET priority = %(priority)s, updated_at = %(now)s::timestamptz
WHERE id = ANY (ARRAY (
    SELECT id FROM background_service_jobs
    WHERE id = ANY (%(ids)s::bigint[]) AND status IN ('PENDING', 'SCHEDULED') ORDER BY id FOR UPDATE
))
RETURNING id;

-- Waits for every turn that is under way, for each holds a weaker lock on this table; a later one sees the new setting.
-- :name lock_settings
LOCK TABLE background_service_queues IN EXCLUSIVE MODE;

-- :name set_paused
INSERT INTO background_service_queues (name, paused) VALUES (%(queue)s, %(paused)s)
ON CONFLICT (name) DO UPDATE SET paused = excluded.paused;

-- :name prune_candidates
SELECT id, job_key, status, COALESCE(finished_at, updated_at), options FROM background_service_jobs
WHERE id > %(after)s ORDER BY id LIMIT %(limit)s;

-- The same of some jobs, locked, so that they are still so when they are deleted.
-- :name prune_again
SELECT id, job_key, status, COALESCE(finished_at, updated_at), options FROM background_service_jobs
WHERE id = ANY (%(ids)s::bigint[]) AND status IN ('COMPLETED', 'FAILED', 'CANCELLED')
ORDER BY id FOR UPDATE SKIP LOCKED;

-- :name identity
SELECT identity FROM background_service_schema;
