"""What a SQLite database says about itself."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sidework.clock import FrozenClock
from sidework.errors import DatabaseMissing, DatabaseUnavailable
from sidework.model.health import Examination, Finding, Level
from sidework.model.job import NewJob
from sidework.storage.sqlite import examine as module
from sidework.storage.sqlite.examine import has_wal_reset_bug
from sidework.storage.sqlite.store import SqliteStorage

NOW = FrozenClock().now()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def store(path: Path) -> SqliteStorage:
    store = SqliteStorage(path)
    store.migrate()
    return store


def about(subject: str, examination: Examination) -> Finding:
    [finding] = [finding for finding in examination.findings if finding.subject == subject]
    return finding


@pytest.mark.parametrize(
    ("version", "ill"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
    ],
)
def test_the_wal_reset_bug_is_in_these_versions(version: tuple[int, ...], ill: bool) -> None:
    assert has_wal_reset_bug(version) is ill


def test_a_fresh_database_is_not_ill(store: SqliteStorage) -> None:
    examination = store.examine()
    assert examination.usable
    assert [finding for finding in examination.findings if finding.level is Level.ILL] == []
    assert "synchronous=FULL" in about("durability", examination).text


def test_the_durability_is_the_one_that_our_connections_have(path: Path) -> None:
    relaxed = SqliteStorage(path, durability="relaxed")
    relaxed.migrate()
    assert "synchronous=NORMAL" in about("durability", relaxed.examine()).text


def test_ready_jobs_are_counted_by_key(store: SqliteStorage) -> None:
    store.insert([NewJob(key="mail"), NewJob(key="mail"), NewJob(key="pay")], now=NOW)
    store.insert([NewJob(key="later", run_at=NOW)], now=NOW)
    assert store.examine().ready == {"mail": 2, "pay": 1}


def test_the_job_that_runs_longest_is_named(store: SqliteStorage, path: Path) -> None:
    store.insert([NewJob(key="a"), NewJob(key="b")], now=NOW)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "UPDATE background_service_jobs SET status = 'RUNNING',"
            " last_attempt_at = '2026-01-0' || id || 'T00:00:00.000Z'"
        )
    oldest = store.examine().oldest_running
    assert oldest is not None
    assert (oldest.id, oldest.key, oldest.since.day) == (1, "a", 1)


def test_a_file_without_our_tables_is_ill_and_says_what_to_do(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE users (id)")
    examination = SqliteStorage(path).examine()
    assert not examination.usable
    assert about("tables", examination).level is Level.ILL
    assert "sidework migrate" in (about("tables", examination).remedy or "")
    assert about("journal mode", examination).level is Level.ILL


def test_a_newer_schema_is_ill_and_says_what_to_do(store: SqliteStorage, path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE background_service_schema SET version = 99, readable_from = 99")
    assert about("tables", store.examine()).remedy == "update sidework here"


def test_damage_is_found(store: SqliteStorage, path: Path) -> None:
    store.insert([NewJob(key="a", payload='{"a": "%s"}' % ("x" * 300)) for _ in range(300)], now=NOW)
    store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = db.execute("PRAGMA page_size").fetchone()[0]
        db.execute("PRAGMA journal_mode = DELETE")
    damaged = bytearray(path.read_bytes())
    damaged[-3 * size : -2 * size] = b"\xff" * size
    path.write_bytes(damaged)
    finding = about("integrity", SqliteStorage(path).examine())
    assert finding.level is Level.ILL
    assert "backup" in (finding.remedy or "")


def test_a_log_that_has_grown_is_noticed(store: SqliteStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    store.insert([NewJob(key="a")], now=NOW)
    assert about("log", store.examine()).level is Level.WELL
    monkeypatch.setattr(module, "LARGE_LOG", 100)
    assert about("log", store.examine()).level is Level.NOTICE


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the system does not tell who holds a lock")
def test_who_keeps_the_log_from_beginning_anew_is_named(
    store: SqliteStorage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.insert([NewJob(key="a")], now=NOW)
    monkeypatch.setattr(module, "LARGE_LOG", 100)
    program = (
        "import sqlite3, sys; viewer = sqlite3.connect(sys.argv[1], isolation_level=None); viewer.execute('BEGIN'); "
        "viewer.execute('SELECT * FROM background_service_jobs').fetchall(); print('reads', flush=True); "
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as viewer:
        assert viewer.stdout is not None
        viewer.stdout.readline()
        text = about("log", store.examine()).text
        viewer.communicate("")
    assert f"a read transaction is open in process {viewer.pid}" in text
    assert "read transaction" not in about("log", store.examine()).text


def test_keys_that_are_no_text_are_told_from_those_that_are(store: SqliteStorage, path: Path) -> None:
    store.insert([NewJob(key="k"), NewJob(key="k")], now=NOW)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO background_service_jobs (job_key) VALUES (x'6b')")
        connection.commit()
    assert store.examine().ready == {"k": 2, "X'6B'": 1}


def test_jobs_in_a_queue_that_is_no_text_are_named_until_the_remedy_is_carried_out(
    store: SqliteStorage, path: Path
) -> None:
    store.insert([NewJob(key="k"), NewJob(key="k"), NewJob(key="k", queue="ab")], now=NOW)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE background_service_jobs SET queue = x'6162' WHERE id <= 2")
        finding = about("queue names", store.examine())
        assert finding.level is Level.ILL
        assert "no worker claims them: 2, such as 1" in finding.text
        assert finding.remedy is not None
        connection.execute(finding.remedy.partition("; or")[0])
        queues = connection.execute("SELECT DISTINCT queue, status FROM background_service_jobs").fetchall()
    assert queues == [("ab", "PENDING")]
    assert "queue names" not in [finding.subject for finding in store.examine().findings]


def test_what_is_not_there_or_no_database_is_an_error(path: Path) -> None:
    with pytest.raises(DatabaseMissing):
        SqliteStorage(path).examine()
    path.write_text("this is a text, and a long one at that; it is surely no database" * 20)
    with pytest.raises(DatabaseUnavailable, match="not a SQLite database"):
        SqliteStorage(path).examine()
