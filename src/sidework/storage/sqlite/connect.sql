-- What every connection of ours is set to, and how a database becomes one with a write-ahead log.

-- :name full
PRAGMA synchronous = FULL;

-- :name relaxed
PRAGMA synchronous = NORMAL;

-- Deleted payloads are overwritten where that costs no further page.
-- :name secure_delete
PRAGMA secure_delete = FAST;

-- A log that grew under a long reader shrinks to this many bytes when it starts anew. An ordinary one has 4 MiB.
-- :name journal_size_limit
PRAGMA journal_size_limit = 8388608;

-- An I/O error in a mapped file kills the process instead of failing the statement.
-- :name mmap_size
PRAGMA mmap_size = 0;

-- KiB, where negative.
-- :name cache_size
PRAGMA cache_size = -8000;

-- :name query_only
PRAGMA query_only = ON;

-- Reads the header of the file: the first thing that fails where it is no database.
-- :name schema_version
PRAGMA schema_version;

-- :name journal_mode
PRAGMA journal_mode;

-- :name use_wal
PRAGMA journal_mode = WAL;
