-- Statements of a handler's transaction. Their very texts are refused to handlers: see pool.py.

-- :name begin
BEGIN IMMEDIATE;

-- :name commit
COMMIT;

-- :name roll_back
ROLLBACK;

-- What several handlers write in one transaction, each in its part.
-- :name mark
SAVEPOINT sidework_job;

-- :name undo
ROLLBACK TO sidework_job;

-- :name release
RELEASE sidework_job;

-- :name fence
SELECT EXISTS (SELECT 1 FROM background_service_jobs WHERE id = ? AND claims = ? AND status = 'RUNNING');

-- What `settle` of queries.sql does, for one outcome without JSON: half of the time that a job's own statements take.
-- :name settle_one
UPDATE background_service_jobs
SET status = :status,
    attempts = :attempts,
    crashes = :crashes,
    run_at = :run_at,
    result = :result,
    last_error = CASE WHEN :ended THEN :error ELSE COALESCE(:error, last_error) END,
    finished_at = CASE WHEN :ended THEN :now END,
    worker = NULL,
    updated_at = :now
WHERE id = :id
  AND +claims = :claims
  AND +status = 'RUNNING';
