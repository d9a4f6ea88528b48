-- How the seed's table becomes ours: out of the way, rebuilt by the migration, copied, dropped; in one transaction.

-- :name set_aside
ALTER TABLE background_service_jobs RENAME TO background_service_jobs_of_the_seed;

-- :name created_by
SELECT sql FROM sqlite_schema WHERE type = 'table' AND lower(name) = 'background_service_jobs';

-- Those without a text belong to constraints. The seed's own two are replaced by ours of the same name.
-- :name attached
SELECT type, name, sql FROM sqlite_schema
WHERE lower(tbl_name) = 'background_service_jobs' AND type IN ('index', 'trigger') AND sql IS NOT NULL
ORDER BY rowid;

-- :name drop_index
DROP INDEX "/* name */";

-- :name drop_trigger
DROP TRIGGER "/* name */";

-- hidden: 0 ordinary, 2 and 3 computed.
-- :name columns
SELECT name, hidden FROM pragma_table_xinfo('background_service_jobs') ORDER BY cid;

-- :name add_column
ALTER TABLE background_service_jobs ADD COLUMN /* definition */;

-- :name copy
INSERT INTO background_service_jobs (
    id, job_key, payload, status, attempts, max_attempts, last_attempt_at, last_error, priority, created_at, updated_at,
    finished_at /* further columns */
)
SELECT
    id, job_key, payload, CASE status WHEN 'RUNNING' THEN 'PENDING' ELSE status END,
    attempts, max_attempts, last_attempt_at, last_error, priority, created_at, updated_at,
    CASE WHEN status IN ('COMPLETED', 'FAILED') THEN updated_at END /* further columns */
FROM background_service_jobs_of_the_seed;

-- :name highest_id_ever
SELECT MAX(seq) FROM sqlite_sequence WHERE lower(name) = 'background_service_jobs_of_the_seed';

-- :name forget_highest_id
DELETE FROM sqlite_sequence WHERE name = 'background_service_jobs';

-- :name keep_highest_id
INSERT INTO sqlite_sequence (name, seq) VALUES ('background_service_jobs', :highest);

-- :name drop_the_seeds
DROP TABLE background_service_jobs_of_the_seed;
