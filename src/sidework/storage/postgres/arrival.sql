-- What a PostgreSQL database does when jobs arrive from another one.

-- A move may take long, and its answer must mean what it says.
-- :name begin_receiving
SELECT set_config('lock_timeout', %(wait)s, true),
       set_config('statement_timeout', '0', true),
       set_config('idle_in_transaction_session_timeout', '0', true),
       set_config('synchronous_commit', 'on', true),
       set_config('timezone', 'UTC', true),
       set_config('datestyle', 'ISO', true),
       set_config('extra_float_digits', '1', true),
       set_config('jit', 'off', true);

-- :name has_mark
SELECT to_regclass('background_service_move') IS NOT NULL;

-- :name create_mark
CREATE TABLE IF NOT EXISTS background_service_move (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id text NOT NULL,
    source text NOT NULL,
    begun_at timestamptz(3) NOT NULL,
    arrived_at timestamptz(3),
    checks text,
    last_job bigint
);

-- :name write_mark
INSERT INTO background_service_move (id, source, begun_at) VALUES (%(id)s, %(source)s, %(now)s);

-- :name mark
SELECT id, source, begun_at, arrived_at, checks, last_job FROM background_service_move;

-- Whoever has this lock knows what has arrived: a transaction that brings it holds it to its end.
-- :name lock_mark
LOCK TABLE background_service_move IN ACCESS EXCLUSIVE MODE;

-- Nobody writes a job until the transaction ends; heartbeats go on.
-- :name lock_tables
LOCK TABLE background_service_jobs, background_service_queues, background_service_cancellations,
           background_service_progress, background_service_log IN SHARE ROW EXCLUSIVE MODE;

-- :name drop_mark
DROP TABLE background_service_move;

-- :name say_arrived
UPDATE background_service_move SET arrived_at = %(now)s, checks = %(checks)s, last_job = (
    SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM background_service_jobs_id_seq
);

-- :name identity
SELECT identity FROM background_service_schema;

-- :name occupied
SELECT EXISTS (SELECT 1 FROM background_service_jobs), EXISTS (SELECT 1 FROM background_service_queues),
       EXISTS (SELECT 1 FROM background_service_cancellations), EXISTS (SELECT 1 FROM background_service_progress),
       EXISTS (SELECT 1 FROM background_service_log);

-- :name encoding
SELECT current_setting('server_encoding'), pg_is_in_recovery();

-- :name statuses
SELECT status, COUNT(*) FROM background_service_jobs GROUP BY status;

-- An id that was ever given, there or here, is never given again.
-- :name keep_highest_job
SELECT setval(pg_get_serial_sequence('background_service_jobs', 'id'),
              GREATEST(%(highest)s, 1, last_value), %(highest)s > 0 OR is_called) FROM background_service_jobs_id_seq;

-- :name keep_highest_log
SELECT setval(pg_get_serial_sequence('background_service_log', 'id'),
              GREATEST(%(highest)s, 1, last_value), %(highest)s > 0 OR is_called) FROM background_service_log_id_seq;

-- Moved jobs name the workers that ran them; no worker here may be taken for one of those.
-- :name keep_highest_worker
SELECT setval(pg_get_serial_sequence('background_service_workers', 'id'),
              GREATEST(%(highest)s, 1, last_value), %(highest)s > 0 OR is_called) FROM background_service_workers_id_seq;

-- :name last_job
SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM background_service_jobs_id_seq;

-- :name analyze
ANALYZE background_service_jobs, background_service_progress, background_service_log;

-- :name empty
TRUNCATE background_service_jobs, background_service_queues, background_service_cancellations,
         background_service_progress, background_service_log;

-- :name take_jobs
COPY background_service_jobs (
    id, job_key, status, queue, priority, attempts, max_attempts, crashes, claims, worker, created_at, updated_at,
    last_attempt_at, finished_at, run_at, unique_key, options, payload, result, last_error
) FROM STDIN;

-- :name take_queues
COPY background_service_queues (name, paused, running_limit) FROM STDIN;

-- :name take_cancellations
COPY background_service_cancellations (job_id, requested_at) FROM STDIN;

-- :name take_progress
COPY background_service_progress (job_id, done, total, message, updated_at) FROM STDIN;

-- :name take_log
COPY background_service_log (id, job_id, at, message) FROM STDIN;

-- :name show_jobs
COPY (
    SELECT id, job_key, status, queue, priority, attempts, max_attempts, crashes, claims, worker,
           to_char(created_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), to_char(updated_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
           to_char(last_attempt_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
           to_char(finished_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), to_char(run_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
           unique_key, options, payload, result, last_error
    FROM background_service_jobs ORDER BY id
) TO STDOUT;

-- :name show_queues
COPY (SELECT name, paused, running_limit FROM background_service_queues ORDER BY name) TO STDOUT;

-- :name show_cancellations
COPY (
    SELECT job_id, to_char(requested_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    FROM background_service_cancellations ORDER BY job_id
) TO STDOUT;

-- :name show_progress
COPY (
    SELECT job_id, done, total, message, to_char(updated_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    FROM background_service_progress ORDER BY job_id
) TO STDOUT;

-- :name show_log
COPY (
    SELECT id, job_id, to_char(at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), message
    FROM background_service_log ORDER BY id
) TO STDOUT;
