-- What the transaction of a handler says to the server, besides what the handler says.

-- :name begin
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;

-- :name commit
COMMIT;

-- :name roll_back
ROLLBACK;

-- Until the first write each statement is a transaction of its own that the server lets only read.
-- :name only_read
SET default_transaction_read_only = on;

-- Nothing that a handler has set, locked, opened or created for its session meets the next one.
-- :name forget
RESET ALL;
SET SESSION AUTHORIZATION DEFAULT;
CLOSE ALL;
UNLISTEN *;
SELECT pg_advisory_unlock_all();
DISCARD TEMP;
SELECT set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '20000', false);
SET default_transaction_read_only = on;

-- Reads, and locks nothing: a job that was given away meanwhile must not wait for who lost it.
-- :name holds
SELECT 1 FROM background_service_jobs WHERE id = {job} AND claims = {number} AND status = 'RUNNING';
