-- The demo's own tables, in the same database as its jobs.

-- :name create_totals
CREATE TABLE IF NOT EXISTS totals (files INTEGER NOT NULL, lines INTEGER NOT NULL, words INTEGER NOT NULL, imports INTEGER NOT NULL);

-- :name start_totals
INSERT INTO totals (files, lines, words, imports) SELECT 0, 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM totals);

-- :name create_found
CREATE TABLE IF NOT EXISTS found (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- :name create_imports
CREATE TABLE IF NOT EXISTS imports (importer TEXT NOT NULL, imported TEXT NOT NULL);

-- :name create_words
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (text, content = '', detail = none);

-- :name create_run
CREATE TABLE IF NOT EXISTS run (settings TEXT NOT NULL, seconds REAL NOT NULL, kills INTEGER NOT NULL, finished INTEGER NOT NULL);

-- :name begin_run
INSERT INTO run (settings, seconds, kills, finished) VALUES (:settings, 0, 0, 0);

-- :name has_run
SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'run';

-- :name tables
SELECT name FROM sqlite_schema WHERE type = 'table';

-- :name has_jobs
SELECT 1 FROM background_service_jobs LIMIT 1;

-- :name read_run
SELECT settings, seconds, kills, finished FROM run;

-- :name keep_run
UPDATE run SET seconds = :seconds, kills = :kills, finished = :finished;

-- :name find
INSERT INTO found (name) VALUES (:name) ON CONFLICT DO NOTHING;

-- The words of a file, under the number it was found with.
-- :name add_words
INSERT INTO words (rowid, text) SELECT id, :text FROM found WHERE name = :name;

-- :name add_import
INSERT INTO imports (importer, imported) VALUES (:importer, :imported);

-- Not idempotent: done twice, it counts twice.
-- :name add_to_totals
UPDATE totals SET files = files + 1, lines = lines + :lines, words = words + :words, imports = imports + :imports;

-- :name read_totals
SELECT files, lines, words, imports FROM totals;

-- :name count_found
SELECT count(*) FROM found;

-- :name search
SELECT found.name FROM words JOIN found ON found.id = words.rowid WHERE words MATCH :term ORDER BY found.name;
