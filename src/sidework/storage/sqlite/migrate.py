"""Creates the tables and brings them up to date, by numbered files, each in one transaction under the write lock.

The schema row says which `version` the tables are, and from which version of the code they can still be used
(`readable_from`). Code refuses only what it cannot use, so that a deployment may roll forward and back.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sidework.errors import DatabaseMoved, NotMigrated, NotOurTable, SchemaTooNew
from sidework.storage.sqlite.adoption import SEED_COLUMNS, SeedTable
from sidework.storage.sqlite.connect import Durability, connect, translate, use_wal
from sidework.storage.sqlite.moved import words_of
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER: Final = Path(__file__).with_name("migrations")
_STATEMENTS: Final = load(Path(__file__).with_name("migrate.sql"))
_FILES: Final = {int(file.name.partition("_")[0]): file for file in sorted(_FOLDER.glob("[0-9]*_*.sql"))}

VERSION: Final = max(_FILES)
"""The version of the tables that this code is written for."""

OUR_COLUMNS: Final = SEED_COLUMNS | {
    "queue",
    "crashes",
    "claims",
    "worker",
    "finished_at",
    "run_at",
    "unique_key",
    "options",
    "result",
}

_SAYS_THE_SCHEMA_IS_IN_THE_WAY: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT})


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the database under our names."""

    version: int = 0
    """0: no schema row, so nothing of ours."""
    readable_from: int = 0
    kind: str | None = None
    """'table' or 'view': what bears the name of our table of jobs, if anything."""
    columns: frozenset[str] = frozenset()
    moved: str | None = None
    """Where the jobs are, in words, if they have left."""


def migrate(path: str | os.PathLike[str], *, durability: Durability = "full", wait: float = 10.0) -> int:
    """Create the file and its tables, adopt the seed's, or bring ours up to date; return the version they are now.

    Any number of processes may do this at once, and with the application at work. A version higher than `VERSION` is
    returned as it is, if this code can use it. Raises SchemaTooNew, NotOurTable, DatabaseMoved, DatabaseUnavailable.
    """
    connection = connect(path, durability=durability, wait=wait, create=True)
    try:
        found = _look_consistently(connection)
        _refuse_what_is_not_ours(found, path)
        if found.moved:
            raise DatabaseMoved(f"{os.fspath(path)}: {found.moved}.")
        use_wal(connection, path, wait=wait)
        if found.version < VERSION:
            _run_all(connection, path)
        return max(found.version, VERSION)
    except sqlite3.Error as error:
        raise translate(error, path) from error
    finally:
        connection.close()


def check(connection: sqlite3.Connection, *, even_moved: bool = False) -> None:
    """Raise NotMigrated, SchemaTooNew, NotOurTable or DatabaseMoved where the tables cannot be used as they are.

    even_moved: for who moves the jobs.
    """
    path = _execute(connection, "file").fetchone()[0]
    found = _look_consistently(connection)
    if found.moved and not even_moved:
        raise DatabaseMoved(f"{path}: {found.moved}.")
    _refuse_what_is_not_ours(found, path)
    if found.version == 0:
        raise NotMigrated(f"{path} has no tables of sidework yet. Run `sidework migrate` or service.migrate().")
    if found.version < VERSION:
        raise NotMigrated(
            f"the tables in {path} have version {found.version}, and this sidework needs {VERSION}. "
            "Run `sidework migrate` or service.migrate()."
        )


def _run_all(connection: sqlite3.Connection, path: str | os.PathLike[str]) -> None:
    _execute(connection, "ignore_foreign_keys")
    _execute(connection, "rename_nothing_else")
    for version in sorted(_FILES):
        try:
            _run(connection, version, path)
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF not in _SAYS_THE_SCHEMA_IS_IN_THE_WAY:
                raise
            raise NotOurTable(
                f"the tables of sidework cannot be made in {path}: {error}. Nothing was changed. Rename or remove "
                "what is in the way."
            ) from error


def _run(connection: sqlite3.Connection, version: int, path: str | os.PathLike[str]) -> None:
    with _write_transaction(connection):
        found = _look(connection)
        if found.version >= version:
            return
        _refuse_what_is_not_ours(found, path)
        seed = SeedTable.set_aside(connection) if version == 1 and found.kind else None
        for statement in statements_of(_FILES[version].read_text(encoding="utf-8")):
            connection.execute(statement)
        if seed:
            seed.move_in(connection)


def statements_of(text: str) -> Iterator[str]:
    """Split the text of a migration into statements; each ends at the end of a line."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _refuse_what_is_not_ours(found: Found, path: str | os.PathLike[str]) -> None:
    if found.readable_from > VERSION:
        raise SchemaTooNew(
            f"the tables in {path} have version {found.version} and need a sidework that knows version "
            f"{found.readable_from}; this one knows {VERSION}. Upgrade sidework."
        )
    if found.version:
        if not found.columns >= OUR_COLUMNS:
            raise NotOurTable(_foreign(path, f"it lacks {_listed(OUR_COLUMNS - found.columns)}"))
    elif found.kind:
        _refuse_what_is_not_the_seeds(found, path)


def _refuse_what_is_not_the_seeds(found: Found, path: str | os.PathLike[str]) -> None:
    if found.kind != "table":
        raise NotOurTable(_foreign(path, f"it is a {found.kind}"))
    if missing := SEED_COLUMNS - found.columns:
        raise NotOurTable(_foreign(path, f"it lacks {_listed(missing)}"))
    if taken := found.columns & (OUR_COLUMNS - SEED_COLUMNS):
        raise NotOurTable(_foreign(path, f"sidework needs the names {_listed(taken)} for columns of its own"))


def _foreign(path: str | os.PathLike[str], reason: str) -> str:
    return (
        f"background_service_jobs in {path} is not a table that sidework can use: {reason}. Nothing was changed. "
        "Rename what is there, or give sidework another database."
    )


def _listed(names: frozenset[str] | set[str]) -> str:
    return ", ".join(sorted(names))


def _look_consistently(connection: sqlite3.Connection) -> Found:
    """Look in one snapshot: another process may be migrating."""
    if connection.in_transaction:
        return _look(connection)
    _execute(connection, "begin_reading")
    try:
        return _look(connection)
    finally:
        _execute(connection, "rollback")


def _look(connection: sqlite3.Connection) -> Found:
    kinds: dict[str, str] = dict(_execute(connection, "relations"))
    version, readable_from = _version(connection) if "background_service_schema" in kinds else (0, 0)
    return Found(
        version=version,
        readable_from=readable_from,
        kind=kinds.get("background_service_jobs"),
        columns=frozenset(name for (name,) in _execute(connection, "job_columns")),
        moved=words_of(connection),
    )


def _version(connection: sqlite3.Connection) -> tuple[int, int]:
    columns = {name for (name,) in _execute(connection, "schema_columns")}
    rows = _execute(connection, "version").fetchall() if columns >= {"version", "readable_from"} else []
    if len(rows) != 1:
        raise NotOurTable(
            "background_service_schema is not the table that sidework keeps its version in. "
            "Rename what is there, or give sidework another database."
        )
    version, readable_from = rows[0]
    return version, readable_from


@contextmanager
def _write_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    _execute(connection, "begin")
    try:
        yield
        _execute(connection, "commit")
    finally:
        if connection.in_transaction:
            _execute(connection, "rollback")


def _execute(connection: sqlite3.Connection, name: str) -> sqlite3.Cursor:
    return connection.execute(_STATEMENTS[name])
