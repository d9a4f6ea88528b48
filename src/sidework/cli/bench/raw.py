"""The raw limits: the same work in plain `sqlite3`, durable like ours, with nothing of a job queue around it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path

from sidework import BackgroundService
from sidework.cli.bench.site import Site, remove, seconds_of
from sidework.storage.statements import load

BATCH = 1000
NOW = "2026-01-01T12:00:00.000Z"


def statements() -> dict[str, str]:
    """Return the statements of raw.sql by name."""
    return load(files("sidework.cli.bench") / "raw.sql")


def connect(database: Path) -> sqlite3.Connection:
    """Open a database as ours is opened: write-ahead log, every commit synced."""
    connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False, timeout=30)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def inserts_per_second(site: Site, count: int) -> float:
    """Commit row by row."""
    with table(site) as (connection, sql, _database):

        def work() -> None:
            for n in range(count):
                insert(connection, sql, n)

        return count / seconds_of(work)


def inserts_into_our_table_per_second(site: Site, count: int) -> float:
    """Commit row by row into the tables of a service, with all their indexes and checks."""
    database, sql = site.fresh(), statements()
    BackgroundService(database).migrate()
    with closing(connect(database)) as connection:

        def work() -> None:
            for n in range(count):
                connection.execute(sql["insert_ours"], _row(n))

        rate = count / seconds_of(work)
    remove(database)
    return rate


def bulk_per_second(site: Site, count: int) -> float:
    """Commit all rows at once, by executemany."""
    with table(site) as (connection, sql, _database):
        return count / seconds_of(lambda: _insert_all(connection, sql, count))


def drained_per_second(site: Site, count: int) -> float:
    """Complete the last thousand rows and claim the next in one transaction, again and again."""
    with table(site) as (connection, sql, _database):
        _insert_all(connection, sql, count)
        return count / seconds_of(lambda: _drain(connection, sql))


def effects_per_second(site: Site, count: int) -> float:
    """Write one row and complete one job in each transaction."""
    with table(site) as (connection, sql, _database):
        connection.execute(sql["effects"])
        _insert_all(connection, sql, count)

        def work() -> None:
            for n in range(1, count + 1):
                _effect(connection, sql, n)

        return count / seconds_of(work)


@contextmanager
def table(site: Site) -> Iterator[tuple[sqlite3.Connection, dict[str, str], Path]]:
    """Make the table in a fresh database; give a connection, the statements and the path."""
    database, sql = site.fresh(), statements()
    with closing(connect(database)) as connection:
        connection.execute(sql["jobs"])
        connection.execute(sql["ready"])
        yield connection, sql, database
    remove(database)


def insert(connection: sqlite3.Connection, sql: dict[str, str], n: int) -> None:
    """Commit one row."""
    connection.execute(sql["insert"], _row(n))


def _row(n: int) -> tuple[str, str, str, str]:
    return "nothing", f'{{"n":{n}}}', NOW, NOW


def _insert_all(connection: sqlite3.Connection, sql: dict[str, str], count: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(sql["insert"], map(_row, range(count)))
    connection.execute("COMMIT")


def _drain(connection: sqlite3.Connection, sql: dict[str, str]) -> None:
    claimed = [-1]
    while claimed:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(sql["complete"], (NOW, json.dumps(claimed)))
        claimed = [row[0] for row in connection.execute(sql["claim"], {"now": NOW, "most": BATCH}).fetchall()]
        connection.execute("COMMIT")


def _effect(connection: sqlite3.Connection, sql: dict[str, str], n: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(sql["effect"], (n,))
    connection.execute(sql["complete_one"], (NOW, n))
    connection.execute("COMMIT")
