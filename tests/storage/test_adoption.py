"""A table that the seed made becomes ours in place; nothing of the seed's or the user's is lost."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from sidework.errors import NotMigrated, NotOurTable
from sidework.storage.sqlite import migrate as migration
from sidework.storage.sqlite.adoption import column_definitions
from sidework.storage.sqlite.connect import connect
from sidework.storage.sqlite.migrate import VERSION, check, migrate

if TYPE_CHECKING:
    from pathlib import Path

SEED = """
CREATE TABLE IF NOT EXISTS background_service_jobs (id INTEGER PRIMARY KEY AUTOINCREMENT, job_key TEXT NOT NULL,
payload TEXT, status TEXT NOT NULL DEFAULT 'PENDING' CHECK(status IN ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED')),
attempts INTEGER NOT NULL DEFAULT 0, max_attempts INTEGER NOT NULL DEFAULT 3, last_attempt_at TEXT, last_error TEXT,
priority INTEGER NOT NULL DEFAULT 0, created_at TEXT NOT NULL DEFAULT (STRFTIME('%Y-%m-%dT%H:%M:%fZ', 'NOW')),
updated_at TEXT NOT NULL DEFAULT (STRFTIME('%Y-%m-%dT%H:%M:%fZ', 'NOW')))

CREATE INDEX IF NOT EXISTS idx_background_jobs_status_priority ON background_service_jobs (status, priority, created_at)

CREATE TRIGGER IF NOT EXISTS trg_background_service_jobs_updated_at AFTER UPDATE ON background_service_jobs FOR EACH ROW
BEGIN UPDATE background_service_jobs SET updated_at = STRFTIME('%Y-%m-%dT%H:%M:%fZ', 'NOW') WHERE id = OLD.id; END
""".strip().split("\n\n")
SEED_COLUMNS = (
    "id, job_key, payload, status, attempts, max_attempts, "
    "last_attempt_at, last_error, priority, created_at, updated_at"
)
DAYS = [f"2026-01-0{day}T00:00:00.000Z" for day in range(1, 6)]
ROWS = [
    (1, "sync", '{"user": 1}', "PENDING", 0, 3, None, None, 5, DAYS[0], DAYS[0]),
    (2, "sync", None, "RUNNING", 1, 3, DAYS[1], None, 0, DAYS[0], DAYS[1]),
    (4, "mail", "{}", "COMPLETED", 1, 3, DAYS[1], None, 0, DAYS[1], DAYS[2]),
    (5, "mail", "not JSON \x01", "FAILED", 3, 3, DAYS[2], "boom", -1, DAYS[0], DAYS[3]),
]
THE_SEEDS_PROGRAM = """
import json, sqlite3, sys
seed, path = json.loads(sys.argv[1]), sys.argv[2]
insert = ("INSERT INTO background_service_jobs (job_key, payload, priority, max_attempts, status) "
          "VALUES (?, ?, ?, ?, 'PENDING')")
newest = "SELECT id FROM background_service_jobs WHERE status = 'PENDING' ORDER BY id DESC LIMIT 1"
start_job = "UPDATE background_service_jobs SET status = 'RUNNING', attempts = attempts + 1 WHERE id = ?"
end_job = "UPDATE background_service_jobs SET status = 'COMPLETED' WHERE id = ?"
def start():
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    for statement in seed:
        connection.execute(statement)
    return connection
connection = start()
for number, _ in enumerate(sys.stdin):
    connection.execute(insert, ("seed", json.dumps({"n": number}), 0, 3))
    job = connection.execute(newest).fetchone()
    connection.execute(start_job, job)
    connection.execute(end_job, job)
    print(number, flush=True)
    if number % 7 == 0:
        connection.close()
        connection = start()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database as the seed left it, with rows of every status and ids that were used and deleted."""
    sql(tmp_path / "app.db", *SEED)
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        connection.executemany(f"INSERT INTO background_service_jobs ({SEED_COLUMNS}) VALUES {row}", ROWS)
        connection.execute("INSERT INTO background_service_jobs (id, job_key) VALUES (40, 'gone')")
        connection.execute("DELETE FROM background_service_jobs WHERE id = 40")
    return tmp_path / "app.db"


def sql(path: Path, *statements: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        for statement in statements:
            rows: list[tuple[object, ...]] = connection.execute(statement).fetchall()
    return rows


def text_of(path: Path, name: str) -> str:
    (text,) = sql(path, f"SELECT sql FROM sqlite_schema WHERE name = '{name}'")[0]
    return str(text)


def test_every_row_and_id_is_kept_and_what_was_running_runs_again(path: Path) -> None:
    assert migrate(path) == VERSION
    expected = [(*row[:3], "PENDING" if row[3] == "RUNNING" else row[3], *row[4:]) for row in ROWS]
    assert sql(path, f"SELECT {SEED_COLUMNS} FROM background_service_jobs ORDER BY id") == expected
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_what_had_ended_gets_the_time_of_its_end(path: Path) -> None:
    migrate(path)
    ended = "SELECT id, finished_at FROM background_service_jobs WHERE finished_at IS NOT NULL ORDER BY id"
    assert sql(path, ended) == [(4, DAYS[2]), (5, DAYS[3])]


def test_an_id_that_was_ever_used_is_not_given_again(path: Path) -> None:
    migrate(path)
    insert = "INSERT INTO background_service_jobs (job_key) VALUES ('next') RETURNING id"
    assert sql(path, insert) == [(41,)]


def test_an_empty_table_remembers_its_highest_id(path: Path) -> None:
    sql(path, "DELETE FROM background_service_jobs")
    migrate(path)
    insert = "INSERT INTO background_service_jobs (job_key) VALUES ('next') RETURNING id"
    assert sql(path, insert) == [(41,)]
    assert sql(path, "SELECT name FROM sqlite_sequence WHERE name LIKE '%seed%'") == []


def test_the_seeds_index_and_trigger_names_bear_our_definitions(path: Path) -> None:
    migrate(path)
    ours = text_of(path, "idx_background_jobs_status_priority"), text_of(path, "trg_background_service_jobs_updated_at")
    assert "crashes" in ours[0]
    assert "WHEN NEW.updated_at IS OLD.updated_at" in ours[1]
    sql(path, *SEED)
    assert ours == (
        text_of(path, "idx_background_jobs_status_priority"),
        text_of(path, "trg_background_service_jobs_updated_at"),
    )


def test_the_seeds_own_updates_still_move_updated_at(path: Path) -> None:
    migrate(path)
    sql(path, "UPDATE background_service_jobs SET status = 'RUNNING' WHERE id = 1")
    assert sql(path, "SELECT updated_at > '2026-02' FROM background_service_jobs WHERE id = 1") == [(1,)]


def test_the_users_indexes_triggers_and_views_are_there_and_work(path: Path) -> None:
    sql(
        path,
        "CREATE TABLE audit (job, was)",
        "CREATE INDEX my_index ON background_service_jobs (job_key) WHERE priority > 0",
        'CREATE UNIQUE INDEX "my ""odd"" index" ON background_service_jobs (id, job_key COLLATE NOCASE)',
        "CREATE TRIGGER mine AFTER UPDATE OF status ON background_service_jobs "
        "BEGIN INSERT INTO audit VALUES (NEW.id, OLD.status); END",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY)",
        "CREATE TRIGGER ordered AFTER INSERT ON orders BEGIN "
        "INSERT INTO background_service_jobs (job_key) VALUES ('order-' || NEW.id); END",
        "CREATE VIEW open_jobs AS SELECT id, job_key FROM background_service_jobs WHERE status = 'PENDING'",
    )
    kept = ("my_index", 'my "odd" index', "mine", "ordered", "open_jobs")
    before = [text_of(path, name) for name in kept]
    migrate(path)
    assert [text_of(path, name) for name in kept] == before
    assert sql(path, "SELECT id FROM open_jobs ORDER BY id") == [(1,), (2,)]
    assert sql(path, "SELECT COUNT(*) FROM audit") == [(0,)]
    sql(path, "UPDATE background_service_jobs SET status = 'FAILED' WHERE id = 1", "INSERT INTO orders VALUES (9)")
    assert sql(path, "SELECT * FROM audit") == [(1, "PENDING")]
    assert sql(path, "SELECT id FROM open_jobs WHERE job_key = 'order-9'") == [(41,)]


def test_tables_that_refer_to_jobs_keep_their_rows_and_their_reference(path: Path) -> None:
    sql(
        path,
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, "
        "job_id REFERENCES background_service_jobs (id) ON DELETE CASCADE)",
        "INSERT INTO orders (job_id) VALUES (1), (4)",
        "PRAGMA foreign_keys = OFF",
        "INSERT INTO orders (job_id) VALUES (999)",
    )
    before = text_of(path, "orders"), sql(path, "PRAGMA foreign_key_check")
    migrate(path)
    assert (text_of(path, "orders"), sql(path, "PRAGMA foreign_key_check")) == before
    assert sql(path, "SELECT job_id FROM orders ORDER BY id") == [(1,), (4,), (999,)]
    sql(path, "DELETE FROM background_service_jobs WHERE id = 4")
    assert sql(path, "SELECT job_id FROM orders ORDER BY id") == [(1,), (999,)]


def test_references_hold_even_where_the_library_enforces_them_by_default(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enforcing(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    reference = "job_id REFERENCES background_service_jobs (id) ON DELETE CASCADE"
    sql(path, f"CREATE TABLE orders (id INTEGER PRIMARY KEY, {reference})", "INSERT INTO orders (job_id) VALUES (1)")
    monkeypatch.setattr(migration, "connect", enforcing)
    migrate(path)
    assert sql(path, "SELECT job_id FROM orders") == [(1,)]


def test_the_users_further_columns_come_along_with_values_and_rules(path: Path) -> None:
    sql(
        path,
        "CREATE TABLE tenants (name TEXT PRIMARY KEY)",
        "INSERT INTO tenants VALUES ('acme'), ('none')",
        "ALTER TABLE background_service_jobs ADD COLUMN tenant TEXT COLLATE NOCASE REFERENCES tenants (name)",
        'ALTER TABLE background_service_jobs ADD COLUMN "the ""note"", long" TEXT NOT NULL '
        "DEFAULT 'a, b (c' /* why, (not */",
        "ALTER TABLE background_service_jobs ADD COLUMN size INTEGER GENERATED ALWAYS AS (length(payload)) VIRTUAL",
        'UPDATE background_service_jobs SET tenant = \'acme\', "the ""note"", long" = \'n\' || id WHERE id < 3',
        "CREATE INDEX by_tenant ON background_service_jobs (tenant)",
    )
    further = 'SELECT id, tenant, "the ""note"", long", size FROM background_service_jobs ORDER BY id'
    before = sql(path, further)
    migrate(path)
    assert sql(path, further) == before
    assert before[0] == (1, "acme", "n1", 11)
    assert sql(path, "SELECT COUNT(*) FROM background_service_jobs INDEXED BY by_tenant WHERE tenant = 'ACME'") == [
        (2,)
    ]
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        sql(path, "UPDATE background_service_jobs SET tenant = 'nobody' WHERE id = 1")


def test_a_column_whose_name_we_need_is_refused_untouched(path: Path) -> None:
    sql(path, "ALTER TABLE background_service_jobs ADD COLUMN Queue TEXT")
    before = sql(path, "SELECT name, sql FROM sqlite_schema")
    with pytest.raises(NotOurTable, match="needs the names queue"):
        migrate(path)
    assert sql(path, "SELECT name, sql FROM sqlite_schema") == before


def test_a_row_that_does_not_fit_stops_the_adoption_untouched(path: Path) -> None:
    sql(path, "PRAGMA ignore_check_constraints = ON", "UPDATE background_service_jobs SET status = 'DONE' WHERE id = 1")
    rows, schema = "SELECT * FROM background_service_jobs", "SELECT name, sql FROM sqlite_schema"
    before = sql(path, rows), sql(path, schema)
    with pytest.raises(NotOurTable, match="CHECK constraint failed"):
        migrate(path)
    assert (sql(path, rows), sql(path, schema)) == before


def test_an_unadopted_table_is_not_used(path: Path) -> None:
    with closing(connect(path)) as connection, pytest.raises(NotMigrated):
        check(connection)


def test_the_name_in_any_case_is_the_same_table(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    sql(path, re.sub("background_service_jobs", "Background_Service_Jobs", SEED[0]))
    sql(
        path, "INSERT INTO background_service_jobs (id, job_key) VALUES (8, 'a')", "DELETE FROM background_service_jobs"
    )
    migrate(path)
    assert sql(path, "INSERT INTO background_service_jobs (job_key) VALUES ('b') RETURNING id") == [(9,)]


def test_the_seeds_program_goes_on_writing_and_starting_during_and_after_the_adoption(path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", THE_SEEDS_PROGRAM, json.dumps(SEED), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("\n" * 200)
    program.stdin.flush()
    while program.stdout.readline() != "20\n":
        assert program.poll() is None
    assert migrate(path, wait=30.0) == VERSION
    output, errors = program.communicate("\n" * 30, timeout=60)
    assert errors == ""
    written = int(output.split()[-1]) + 1
    assert written == 230
    counted = "SELECT status, COUNT(*) FROM background_service_jobs WHERE job_key = 'seed' GROUP BY status"
    assert sql(path, counted) == [("COMPLETED", written)]
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert "crashes" in text_of(path, "idx_background_jobs_status_priority")


def test_definitions_of_columns_are_found_in_any_writing() -> None:
    text = """CREATE TABLE "a(b" (id INTEGER, -- the id, first
        [od,d] TEXT DEFAULT ')', `tick``s` REAL CHECK (`tick``s` > (0)) /* ( */, "Q" TEXT, n DECIMAL(5, 2), u,
        CONSTRAINT fine CHECK (id > 0), UNIQUE (u, n)) STRICT"""
    found = column_definitions(text)
    assert {name: found[name] for name in ("id", "od,d", "tick`s", "q", "n", "u")} == {
        "id": "id INTEGER",
        "od,d": "[od,d] TEXT DEFAULT ')'",
        "tick`s": "`tick``s` REAL CHECK (`tick``s` > (0))",
        "q": '"Q" TEXT',
        "n": "n DECIMAL(5, 2)",
        "u": "u",
    }
