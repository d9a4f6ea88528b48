"""What a SQLite database can say about itself: library, settings, schema, damage, the size of its log."""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidework.errors import DatabaseMoved, NotOurTable, SchemaTooNew, SideworkError
from sidework.model.health import Examination, Finding, Level, RunningJob
from sidework.storage.sqlite import migrate, surroundings
from sidework.storage.sqlite.holders import keepers_of_snapshots
from sidework.storage.sqlite.moved import begun_words
from sidework.storage.sqlite.rows import from_text
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterator

_SQL: Final = load(Path(__file__).with_name("examine.sql"))
_LEVELS_OF_SYNCHRONOUS: Final = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
LARGE_LOG: Final = 64 * 1024 * 1024
"""Bytes; an ordinary log has about 4 MiB."""

_WAL_RESET_FIXED: Final = {(3, 44): 6, (3, 50): 7, (3, 51): 3}
"""Line of SQLite -> its first patch release without the bug; every line after the last one is without it."""


def examine(connection: sqlite3.Connection, path: str) -> Examination:
    """Look at the library, the file and its tables."""
    findings = [
        *_about_settings(connection),
        *_about_surroundings(connection, os.path.realpath(path)),
        _about_log(path),
        _about_damage(connection),
    ]
    if findings[-1].level is Level.WELL:
        findings.append(_about_schema(connection))
    if findings[-1].level is Level.ILL:
        return Examination(findings=findings, usable=False)
    findings += [*_about_a_move(connection), *_about_names(connection)]
    return Examination(
        findings=findings,
        ready=dict(connection.execute(_SQL["ready_by_key"]).fetchall()),
        oldest_running=_oldest_running(connection),
    )


def _about_surroundings(connection: sqlite3.Connection, path: str) -> Iterator[Finding]:
    yield surroundings.about_file_system(path, surroundings.read("mountinfo"))
    yield surroundings.about_permissions(path)
    yield surroundings.about_write_lock(path)
    with suppress(sqlite3.OperationalError):  # no tables yet, and so no workers
        here = {"host": socket.gethostname()}
        processes = [pid for (pid,) in connection.execute(_SQL["processes_of_workers"], here)]
        yield from surroundings.about_libraries(processes)


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether this SQLite can, very rarely, damage a database when a log starts anew while another process writes.

    In 3.7.0 to 3.51.2, without 3.44.6 and 3.50.7 and later ones of their lines.
    """
    line, patch = version[:2], version[2]
    if line < (3, 7) or line > max(_WAL_RESET_FIXED):
        return False
    return line not in _WAL_RESET_FIXED or patch < _WAL_RESET_FIXED[line]


def _about_settings(connection: sqlite3.Connection) -> Iterator[Finding]:
    yield _about_library(sqlite3.sqlite_version_info)
    yield _about_journal(str(_value(connection, "journal_mode")))
    yield _about_synchronous(int(_value(connection, "synchronous")))


def _value(connection: sqlite3.Connection, name: str) -> str | int:
    value: str | int = connection.execute(_SQL[name]).fetchone()[0]
    return value


def _about_library(version: tuple[int, ...]) -> Finding:
    text = "SQLite " + ".".join(map(str, version))
    if has_wal_reset_bug(version):
        return Finding(
            subject="library",
            level=Level.NOTICE,
            text=f"{text} has the WAL-reset bug: very rarely, a checkpoint beside a writer damages the database",
            remedy="use a Python with SQLite 3.51.3, 3.50.7, 3.44.6 or newer; until then, keep backups",
        )
    return Finding(subject="library", level=Level.WELL, text=text)


def _about_journal(mode: str) -> Finding:
    if mode == "wal":
        return Finding(subject="journal mode", level=Level.WELL, text="a write-ahead log")
    return Finding(
        subject="journal mode",
        level=Level.ILL,
        text=f"{mode}: readers and writers wait for each other",
        remedy="`sidework migrate` switches it to a write-ahead log while nobody has a transaction open",
    )


def _about_synchronous(value: int) -> Finding:
    # A setting of each connection: this is what ours have.
    text = f"synchronous={_LEVELS_OF_SYNCHRONOUS.get(value, value)} on our own connections"
    return Finding(subject="durability", level=Level.WELL, text=text)


def _about_damage(connection: sqlite3.Connection) -> Finding:
    try:
        lines = [str(line) for (line,) in connection.execute(_SQL["quick_check"])]
    except sqlite3.DatabaseError as error:  # so damaged that even the check cannot go on
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        lines = [str(error)]
    if lines == ["ok"]:
        return Finding(subject="integrity", level=Level.WELL, text="quick_check finds nothing")
    return Finding(
        subject="integrity",
        level=Level.ILL,
        text="quick_check finds damage: " + "; ".join(lines),
        remedy="stop all that use the file and restore a backup, or try the sqlite3 program's .recover",
    )


def _about_log(path: str) -> Finding:
    log = Path(path + "-wal")
    size = log.stat().st_size if log.exists() else 0
    text = f"the log has {size / 1024**2:,.1f} MiB"
    if size < LARGE_LOG:
        return Finding(subject="log", level=Level.WELL, text=text)
    return Finding(
        subject="log",
        level=Level.NOTICE,
        text=text + _who_keeps_it(path),
        remedy="somebody keeps a read transaction open (a shell, a viewer, a forgotten cursor); end it and it shrinks",
    )


def _who_keeps_it(path: str) -> str:
    keepers = sorted(keepers_of_snapshots(path) - {os.getpid()})
    return f", and a read transaction is open in process {', '.join(map(str, keepers))}" if keepers else ""


def _about_schema(connection: sqlite3.Connection) -> Finding:
    try:
        migrate.check(connection)
    except SideworkError as error:
        return Finding(subject="tables", level=Level.ILL, text=str(error), remedy=_remedy_for(error))
    return Finding(subject="tables", level=Level.WELL, text=f"version {migrate.VERSION}, as this code wants them")


def _about_a_move(connection: sqlite3.Connection) -> Iterator[Finding]:
    if words := begun_words(connection):
        yield Finding(
            subject="move",
            level=Level.NOTICE,
            text=words,
            remedy="run the same `sidework move` again, or with --abort to give it up",
        )


def _about_names(connection: sqlite3.Connection) -> Iterator[Finding]:
    number, first = connection.execute(_SQL["in_no_queue"]).fetchone()
    if number:
        yield Finding(
            subject="queue names",
            level=Level.ILL,
            text=f"jobs whose queue is a BLOB and no text, so that no worker claims them: {number:,}, such as {first}",
            remedy=f"{_SQL['mend_queues']}; or `sidework cancel` them. Let the program that writes them pass text",
        )


def _remedy_for(error: SideworkError) -> str:
    match error:
        case SchemaTooNew():
            return "update sidework here"
        case NotOurTable():
            return "name another database"
        case DatabaseMoved():
            return "use that one; until it was used, `sidework move --abort` goes back"
        case _:
            return "run `sidework migrate`, or start a service: it does it by itself"


def _oldest_running(connection: sqlite3.Connection) -> RunningJob | None:
    row = connection.execute(_SQL["oldest_running"]).fetchone()
    return None if row is None else RunningJob(id=row[0], key=row[1], since=from_text(row[2]))
