-- Statements that insert jobs, on connections of ours and on those of the application.

-- :name insert_job
INSERT INTO background_service_jobs
    (job_key, payload, priority, max_attempts, status, queue, run_at, options, created_at, updated_at)
VALUES (%(job_key)s, %(payload)s, %(priority)s, %(max_attempts)s, %(status)s, %(queue)s, %(run_at)s, %(options)s,
        %(now)s, %(now)s)
RETURNING id;

-- Each gets its number before it is inserted, so that numbers grow in the order of the list and are known for each of it.
-- A job whose unique key is held is not inserted, and its number is never used; then `holder` finds who holds it.
-- :name insert_jobs
WITH given AS MATERIALIZED (
    SELECT list.place, nextval('background_service_jobs_id_seq') AS id, list.job_key, list.payload, list.priority,
           list.max_attempts, list.status, list.queue, list.run_at, list.unique_key, list.options
    FROM unnest(%(job_keys)s::text[], %(payloads)s::text[], %(priorities)s::bigint[], %(max_attempts)s::bigint[],
                %(statuses)s::text[], %(queues)s::text[], %(run_ats)s::timestamptz[], %(unique_keys)s::text[],
                %(options)s::text[]) WITH ORDINALITY
        AS list (job_key, payload, priority, max_attempts, status, queue, run_at, unique_key, options, place)
),
inserted AS (
    INSERT INTO background_service_jobs
        (id, job_key, payload, priority, max_attempts, status, queue, run_at, unique_key, options, created_at, updated_at)
    SELECT id, job_key, payload, priority, max_attempts, status, queue, run_at, unique_key, options,
           %(now)s::timestamptz, %(now)s::timestamptz
    FROM given ORDER BY place
    ON CONFLICT (job_key, unique_key) WHERE unique_key IS NOT NULL AND status IN ('PENDING', 'SCHEDULED', 'RUNNING')
    DO NOTHING
    RETURNING id
)
SELECT given.id, inserted.id IS NOT NULL
FROM given LEFT JOIN inserted ON inserted.id = given.id
ORDER BY given.place;

-- Jobs without unique keys, on our own connections: numbers first, then rows by COPY, the fastest way into a table.
-- Nearly always they follow one another, and the first and the last tell all of them.
-- :name new_ids
WITH drawn AS MATERIALIZED (
    SELECT nextval('background_service_jobs_id_seq') AS id FROM generate_series(1, %(count)s::bigint)
)
SELECT MIN(id), MAX(id), CASE WHEN MAX(id) - MIN(id) + 1 = COUNT(*) THEN NULL ELSE array_agg(id) END FROM drawn;

-- :name copy_jobs
COPY background_service_jobs
    (id, job_key, payload, priority, max_attempts, status, queue, run_at, options, created_at, updated_at)
FROM STDIN (FORMAT BINARY);

-- :name id_of_unique_job
SELECT id FROM background_service_jobs
WHERE job_key = %(job_key)s AND unique_key = %(unique_key)s AND status IN ('PENDING', 'SCHEDULED', 'RUNNING');

-- :name isolation
SELECT current_setting('transaction_isolation');

-- :name identity
SELECT identity FROM background_service_schema;

-- The transaction carries the ring: it is heard when, and only if, it commits. Any number of them is one.
-- :name ring
SELECT pg_notify(%(channel)s, '');

-- The same after the commit, by itself. What is lost with a crash is a ring that nobody would hear any more: it need not be
-- synced, and so is heard sooner.
-- :name ring_apart
SELECT set_config('synchronous_commit', 'off', true), pg_notify(%(channel)s, '');
