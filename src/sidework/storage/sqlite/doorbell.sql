-- How the doorbell looks.

-- Changes when any other connection, in any process, has committed.
-- :name data_version
PRAGMA data_version;

-- Milliseconds. Only the recovery of a log blocks a look; the event loop must not wait for it.
-- :name look_briefly
PRAGMA busy_timeout = 20;
