-- How the schema is looked at and brought up to date.

-- :name begin_reading
BEGIN;

-- :name begin
BEGIN IMMEDIATE;

-- :name commit
COMMIT;

-- :name rollback
ROLLBACK;

-- Without this, DROP TABLE empties the tables that refer to it. Does nothing inside a transaction.
-- :name ignore_foreign_keys
PRAGMA foreign_keys = OFF;

-- Without this, RENAME rewrites the tables, triggers and views that name the table.
-- :name rename_nothing_else
PRAGMA legacy_alter_table = ON;

-- :name relations
SELECT lower(name), type FROM sqlite_schema
WHERE lower(name) IN ('background_service_jobs', 'background_service_schema') AND type IN ('table', 'view');

-- :name schema_columns
SELECT lower(name) FROM pragma_table_xinfo('background_service_schema');

-- :name version
SELECT version, readable_from FROM background_service_schema;

-- :name job_columns
SELECT lower(name) FROM pragma_table_xinfo('background_service_jobs');

-- :name file
SELECT file FROM pragma_database_list WHERE name = 'main';
