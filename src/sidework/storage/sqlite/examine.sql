-- What `examine` asks a database about itself.

-- :name journal_mode
PRAGMA journal_mode;

-- :name synchronous
PRAGMA synchronous;

-- Pages, cells and indexes; without comparing every index entry with its row, as integrity_check would.
-- :name quick_check
PRAGMA quick_check(5);

-- A key that is no text is nobody's, and is named as it would be written in SQL.
-- :name ready_by_key
SELECT CASE typeof(job_key) WHEN 'text' THEN job_key ELSE quote(job_key) END, count(*)
FROM background_service_jobs WHERE status = 'PENDING' GROUP BY job_key;

-- Names that are no text are no queue's: the claim never comes to them.
-- :name in_no_queue
SELECT count(*), MIN(id) FROM background_service_jobs
WHERE status IN ('PENDING', 'SCHEDULED') AND typeof(queue) = 'blob';

-- For people, to be run by hand.
-- :name mend_queues
UPDATE background_service_jobs SET queue = CAST(queue AS TEXT) WHERE typeof(queue) = 'blob';

-- :name oldest_running
SELECT id, job_key, last_attempt_at FROM background_service_jobs
WHERE status = 'RUNNING' AND last_attempt_at IS NOT NULL
ORDER BY last_attempt_at LIMIT 1;

-- :name processes_of_workers
SELECT DISTINCT pid FROM background_service_workers WHERE host = :host;
