-- What is said on each connection of ours before anything else.

-- A server waits for hours, with all locks, for who was cut off in the middle of a transaction: unless it is told to
-- notice within seconds. Behind a pooler the line to the pooler is meant, and it does no harm.
-- :name get_to_know
SELECT pg_backend_pid(), clock_timestamp(),
       set_config('tcp_keepalives_idle', %(idle)s::text, false),
       set_config('tcp_keepalives_interval', %(interval)s::text, false),
       set_config('tcp_keepalives_count', %(count)s::text, false),
       set_config('tcp_user_timeout', %(unanswered)s::text, false);
