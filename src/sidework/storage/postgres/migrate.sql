-- How the schema is looked at and brought up to date.

-- One migration at a time in a schema, whoever does it; others wait for the one at work.
-- :name lock
SELECT pg_advisory_xact_lock(hashtextextended('sidework:' || current_database() || ':' || current_schema(), 0));

-- :name current_schema
SELECT current_schema();

-- :name relations
SELECT class.relname, class.relkind IN ('r', 'p')
FROM pg_class AS class
WHERE class.relname IN ('background_service_jobs', 'background_service_schema')
  AND class.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_table_is_visible(class.oid);

-- :name columns
SELECT attribute.attname FROM pg_attribute AS attribute
WHERE attribute.attrelid = to_regclass(%(table)s) AND attribute.attnum > 0 AND NOT attribute.attisdropped;

-- :name version
SELECT version, readable_from FROM background_service_schema;

-- :name identity
SELECT identity FROM background_service_schema;
