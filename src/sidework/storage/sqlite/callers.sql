-- Statements that run on the caller's own connection, inside the caller's own transaction.
-- A unary + strips the declared type off a returned id, so that no converter of the caller's meets it.

-- What most jobs are: ready at once, and as their handler says. The driver tells the id; RETURNING costs a tenth more.
-- :name insert_job
INSERT INTO background_service_jobs (job_key, payload, priority, max_attempts, queue, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?);

-- Ids grow by one in the order in which the rows are inserted, which is the order of the list.
-- What all rows share is not in the list, and its arrays end with their last value: each ->> takes the text apart anew.
-- :name insert_jobs
INSERT INTO background_service_jobs
    (job_key, payload, priority, max_attempts, queue, run_at, options, status, created_at, updated_at)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
       CASE WHEN value ->> 5 IS NULL THEN 'PENDING' ELSE 'SCHEDULED' END, shared.now, shared.now
FROM json_each(?) CROSS JOIN (SELECT ? AS now) AS shared;

-- Returns nothing where a job that has not ended holds the key. That job is not touched: rewriting it would rewrite its
-- payload and fire the triggers on updates.
-- :name insert_unique_job
INSERT INTO background_service_jobs
    (job_key, payload, priority, max_attempts, status, queue, run_at, unique_key, options, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (job_key, unique_key) WHERE unique_key IS NOT NULL AND status IN ('PENDING', 'SCHEDULED', 'RUNNING')
DO NOTHING
RETURNING +id;

-- :name id_of_unique_job
SELECT +id FROM background_service_jobs
WHERE job_key = ? AND unique_key = ? AND status IN ('PENDING', 'SCHEDULED', 'RUNNING');

-- The pragma, not its table-valued function: that one would begin a read, and fix what the transaction can see.
-- :name databases
PRAGMA database_list;

-- The path as bytes, whatever text_factory the caller has set.
-- :name main_file
SELECT CAST(file AS BLOB) FROM pragma_database_list WHERE name = 'main';

-- :name synchronous
PRAGMA synchronous;
