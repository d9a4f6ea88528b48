"""The tables are made and brought up to date: once, whole, by any number of processes, and never against the user."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sidework.errors import DatabaseBusy, DatabaseMissing, NotMigrated, NotOurTable, SchemaTooNew
from sidework.storage.sqlite import migrate as migration
from sidework.storage.sqlite.connect import connect
from sidework.storage.sqlite.migrate import VERSION, check, migrate, statements_of

if TYPE_CHECKING:
    from pathlib import Path

MIGRATE = """
import sys
from sidework.storage.sqlite.migrate import migrate
print("ready", flush=True)
sys.stdin.readline()
print(migrate(sys.argv[1], wait=30.0))
"""


def sql(path: Path, *statements: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            rows: list[tuple[object, ...]] = connection.execute(statement).fetchall()
    return rows


def check_file(path: Path) -> None:
    with closing(connect(path, wait=1.0)) as connection:
        check(connection)


def test_a_missing_file_becomes_a_database_with_our_tables_and_a_log(tmp_path: Path) -> None:
    assert migrate(tmp_path / "app.db") == VERSION
    check_file(tmp_path / "app.db")
    assert sql(tmp_path / "app.db", "PRAGMA journal_mode") == [("wal",)]


def test_the_columns_the_code_expects_are_those_the_migrations_make(tmp_path: Path) -> None:
    migrate(tmp_path / "app.db")
    made = {
        name for (name,) in sql(tmp_path / "app.db", "SELECT name FROM pragma_table_xinfo('background_service_jobs')")
    }
    assert made == migration.OUR_COLUMNS


def test_migrating_twice_changes_nothing_and_takes_no_write_lock(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    migrate(path)
    sql(path, "INSERT INTO background_service_jobs (job_key) VALUES ('a')")
    with closing(connect(path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert migrate(path, wait=0.0) == VERSION
    assert sql(path, "SELECT job_key FROM background_service_jobs") == [("a",)]


def test_the_users_own_tables_stay(tmp_path: Path) -> None:
    sql(tmp_path / "app.db", "CREATE TABLE orders (id)", "INSERT INTO orders VALUES (7)")
    migrate(tmp_path / "app.db")
    assert sql(tmp_path / "app.db", "SELECT id FROM orders") == [(7,)]


def test_processes_that_start_together_all_find_the_tables_made_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MIGRATE, str(tmp_path / "app.db")]
    programs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("go\n")
        program.stdin.flush()
    assert [program.communicate(timeout=60) for program in programs] == [(f"{VERSION}\n", "")] * 4
    assert sql(tmp_path / "app.db", "SELECT COUNT(*) FROM background_service_schema") == [(1,)]


def test_a_step_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "app.db"
    broken = tmp_path / "0002_broken.sql"
    broken.write_text(
        "CREATE TABLE half (x);\nUPDATE background_service_schema SET version = 2;\nCREATE TABLE half (x);\n"
    )
    monkeypatch.setattr(migration, "_FILES", {**migration._FILES, 2: broken})
    monkeypatch.setattr(migration, "VERSION", 2)
    with pytest.raises(NotOurTable, match="half already exists"):
        migrate(path)
    assert sql(path, "SELECT version FROM background_service_schema") == [(1,)]
    assert sql(path, "SELECT name FROM sqlite_schema WHERE name = 'half'") == []


def test_an_older_schema_is_brought_up_to_date_by_the_missing_steps_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "app.db"
    migrate(path)
    second = tmp_path / "0002_more.sql"
    second.write_text("CREATE TABLE more (x);\nUPDATE background_service_schema SET version = 2, readable_from = 1;\n")
    monkeypatch.setattr(migration, "_FILES", {**migration._FILES, 2: second})
    monkeypatch.setattr(migration, "VERSION", 2)
    with pytest.raises(NotMigrated, match="version 1, and this sidework needs 2"):
        check_file(path)
    assert migrate(path) == 2
    check_file(path)
    assert sql(path, "SELECT COUNT(*) FROM more") == [(0,)]


def test_a_newer_schema_that_we_can_read_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    migrate(path)
    sql(
        path,
        "ALTER TABLE background_service_jobs ADD COLUMN shard INTEGER NOT NULL DEFAULT 0",
        f"UPDATE background_service_schema SET version = 99, readable_from = {VERSION}",
    )
    assert migrate(path) == 99
    check_file(path)


def test_a_newer_schema_that_we_cannot_read_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    migrate(path)
    sql(path, f"UPDATE background_service_schema SET version = 99, readable_from = {VERSION + 1}")
    before = path.read_bytes()
    for act in (migrate, check_file):
        with pytest.raises(SchemaTooNew, match="Upgrade sidework"):
            act(path)
    assert path.read_bytes() == before


def test_checking_a_database_without_our_tables_says_so(tmp_path: Path) -> None:
    sql(tmp_path / "app.db", "CREATE TABLE orders (id)")
    with pytest.raises(NotMigrated, match="no tables of sidework yet"):
        check_file(tmp_path / "app.db")
    with pytest.raises(DatabaseMissing):
        check_file(tmp_path / "other.db")


@pytest.mark.parametrize(
    ("made_by", "reason"),
    [
        ("CREATE TABLE background_service_jobs (id INTEGER PRIMARY KEY, name TEXT)", "it lacks attempts, created_at"),
        ("CREATE VIEW background_service_jobs AS SELECT 1 AS id", "it is a view"),
        ("CREATE TABLE background_service_workers (x)", "background_service_workers already exists"),
        ("CREATE TABLE background_service_schema (x)", "not the table that sidework keeps its version in"),
        ("CREATE TABLE background_service_schema (version, readable_from)", "not the table that sidework keeps"),
        ("CREATE TABLE t (x); CREATE INDEX background_service_jobs_due ON t (x)", "jobs_due already exists"),
    ],
)
def test_what_bears_our_names_but_is_something_else_is_refused_untouched(
    tmp_path: Path, made_by: str, reason: str
) -> None:
    path = tmp_path / "app.db"
    sql(path, *made_by.split("; "))
    before = sql(path, "SELECT name, sql FROM sqlite_schema")
    with pytest.raises(NotOurTable, match=reason):
        migrate(path)
    assert sql(path, "SELECT name, sql FROM sqlite_schema") == before


def test_a_foreign_table_is_refused_before_the_journal_mode_is_touched(tmp_path: Path) -> None:
    sql(tmp_path / "app.db", "CREATE TABLE background_service_jobs (x)")
    with pytest.raises(NotOurTable):
        migrate(tmp_path / "app.db")
    with pytest.raises(NotOurTable):
        check_file(tmp_path / "app.db")
    assert sql(tmp_path / "app.db", "PRAGMA journal_mode") == [("delete",)]


def test_a_table_of_jobs_that_lost_our_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    migrate(path)
    sql(path, "ALTER TABLE background_service_jobs DROP COLUMN options")
    with pytest.raises(NotOurTable, match="it lacks options"):
        migrate(path)


def test_a_held_write_lock_is_a_busy_database_after_the_wait(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    sql(path, "PRAGMA journal_mode = WAL", "CREATE TABLE orders (id)")
    with closing(connect(path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy):
            migrate(path, wait=0.05)
    assert migrate(path, wait=0.05) == VERSION


def test_a_migration_is_split_where_statements_end() -> None:
    trigger = "CREATE TRIGGER t AFTER UPDATE ON a BEGIN\n  UPDATE a SET x = ';';\nEND;\n"
    assert list(statements_of(f"-- why; and how\nCREATE TABLE a (x);\n{trigger}")) == [
        "-- why; and how\nCREATE TABLE a (x);\n",
        trigger,
    ]
