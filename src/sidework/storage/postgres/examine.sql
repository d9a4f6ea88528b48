-- What `examine` asks a database about itself.

-- :name server
SELECT current_setting('server_version'), current_setting('server_version_num')::int,
       current_setting('server_encoding'), current_setting('synchronous_commit'), current_setting('fsync'),
       current_setting('full_page_writes'), pg_is_in_recovery();

-- :name dead_rows
SELECT n_live_tup, n_dead_tup, pg_total_relation_size(relid) FROM pg_stat_user_tables
WHERE relid = to_regclass('background_service_jobs');

-- Who keeps vacuum from removing dead rows: the transaction with the oldest snapshot, or with the oldest number of its
-- own, as one that has written something and then waits has no snapshot.
-- :name oldest_transaction
SELECT pid, COALESCE(usename, '?'), state, EXTRACT(EPOCH FROM clock_timestamp() - xact_start)::float8, left(query, 200)
FROM pg_stat_activity
WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
  AND datname = current_database() AND backend_type = 'client backend'
ORDER BY GREATEST(age(backend_xmin), age(backend_xid)) DESC, xact_start LIMIT 1;

-- :name indexes
SELECT class.relname, index.indisvalid FROM pg_index AS index JOIN pg_class AS class ON class.oid = index.indexrelid
WHERE index.indrelid = to_regclass('background_service_jobs');

-- :name time
SELECT clock_timestamp();

-- :name ready_by_key
SELECT job_key, count(*) FROM background_service_jobs WHERE status = 'PENDING' GROUP BY job_key;

-- :name oldest_running
SELECT id, job_key, last_attempt_at FROM background_service_jobs
WHERE status = 'RUNNING' AND last_attempt_at IS NOT NULL
ORDER BY last_attempt_at LIMIT 1;
