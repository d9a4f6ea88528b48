-- The raw limit: the least that a durable queue in SQLite has to do. The table is the seed's own, with the one index that a
-- claim needs so as not to sort.

-- :name jobs
CREATE TABLE raw_jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_key TEXT NOT NULL,
    payload TEXT,
    status TEXT NOT NULL DEFAULT 'PENDING',
    attempts INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL DEFAULT 3,
    last_attempt_at TEXT,
    last_error TEXT,
    priority INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
);

-- :name ready
CREATE INDEX raw_jobs_ready ON raw_jobs (priority DESC, id) WHERE status = 'PENDING';

-- :name effects
CREATE TABLE effects (id INTEGER PRIMARY KEY, n INTEGER NOT NULL);

-- :name insert
INSERT INTO raw_jobs (job_key, payload, created_at, updated_at) VALUES (?, ?, ?, ?);

-- :name insert_ours
INSERT INTO background_service_jobs (job_key, payload, created_at, updated_at) VALUES (?, ?, ?, ?);

-- :name claim
UPDATE raw_jobs SET status = 'RUNNING', attempts = attempts + 1, last_attempt_at = :now, updated_at = :now
WHERE id IN (SELECT id FROM raw_jobs WHERE status = 'PENDING' ORDER BY priority DESC, id LIMIT :most)
RETURNING id, payload;

-- :name complete
UPDATE raw_jobs SET status = 'COMPLETED', updated_at = ? WHERE id IN (SELECT value FROM json_each(?));

-- :name effect
INSERT INTO effects (n) VALUES (?);

-- :name complete_one
UPDATE raw_jobs SET status = 'COMPLETED', updated_at = ? WHERE id = ?;

-- :name finished_rows
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows)
INSERT INTO background_service_jobs (job_key, payload, status, attempts, claims, finished_at)
SELECT 'nothing', '{"n":' || n || '}', 'COMPLETED', 1, 1, created FROM numbers, (SELECT :now AS created);

-- :name future_rows
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows)
INSERT INTO background_service_jobs (job_key, payload, status, priority, run_at)
SELECT 'nothing', '{"n":' || n || '}', 'SCHEDULED', 100, :due FROM numbers;

-- :name count_effects
SELECT COUNT(*) FROM effects;
