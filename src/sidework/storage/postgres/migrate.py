"""Creates the tables and brings them up to date, by numbered files, each in one transaction under an advisory lock.

The schema row says which `version` the tables are, and from which version of the code they can still be used
(`readable_from`). Code refuses only what it cannot use, so that a deployment may roll forward and back while old
workers run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from psycopg import errors

from sidework.errors import DatabaseUnavailable, NotMigrated, NotOurTable, SchemaTooNew
from sidework.storage.statements import load

if TYPE_CHECKING:
    from psycopg import Connection

_FOLDER: Final = Path(__file__).with_name("migrations")
_SQL: Final = load(Path(__file__).with_name("migrate.sql"))
_FILES: Final = {int(file.name.partition("_")[0]): file for file in sorted(_FOLDER.glob("[0-9]*_*.sql"))}

VERSION: Final = max(_FILES)
"""The version of the tables that this code is written for."""

OUR_COLUMNS: Final = frozenset(
    {
        "id", "job_key", "payload", "status", "attempts", "max_attempts", "last_attempt_at", "last_error", "priority",
        "created_at", "updated_at", "queue", "crashes", "claims", "worker", "finished_at", "run_at", "unique_key",
        "options", "result",
    }
)  # fmt: skip


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the schema under our names."""

    version: int = 0
    """0: no schema row, so nothing of ours."""
    readable_from: int = 0
    columns: frozenset[str] | None = None
    """Of the table of jobs; None: nothing bears that name."""


def migrate(connection: Connection[Any], name: str) -> int:
    """Create the tables, or bring ours up to date; return the version they are now.

    Any number of processes may do this at once. A version higher than `VERSION` is returned as it is, if this code can
    use it. Raises SchemaTooNew, NotOurTable, DatabaseUnavailable.
    """
    found = _look(connection)
    _refuse_what_is_not_ours(found, name)
    if found.version < VERSION:
        _refuse_without_a_schema(connection, name)
        for version in sorted(_FILES):
            _run(connection, version, name)
    return max(found.version, VERSION)


def check(connection: Connection[Any], name: str) -> None:
    """Raise NotMigrated, SchemaTooNew or NotOurTable where the tables cannot be used as they are."""
    found = _look(connection)
    _refuse_what_is_not_ours(found, name)
    if found.version == 0:
        raise NotMigrated(f"{name} has no tables of sidework yet. Run `sidework migrate` or service.migrate().")
    if found.version < VERSION:
        raise NotMigrated(
            f"the tables in {name} have version {found.version}, and this sidework needs {VERSION}. "
            "Run `sidework migrate` or service.migrate()."
        )


def is_there(connection: Connection[Any], name: str) -> bool:
    """Whether there are tables of ours. Raises SchemaTooNew or NotOurTable where they could never be used."""
    found = _look(connection)
    _refuse_what_is_not_ours(found, name)
    return found.version > 0


def _run(connection: Connection[Any], version: int, name: str) -> None:
    try:
        with connection.transaction():
            _execute(connection, "lock")
            found = _look(connection)
            if found.version >= version:
                return
            _refuse_what_is_not_ours(found, name)
            connection.execute(_FILES[version].read_text(encoding="utf-8"))
    except (errors.DuplicateTable, errors.DuplicateObject) as error:
        raise NotOurTable(
            f"the tables of sidework cannot be made in {name}: {error.diag.message_primary}. Nothing was changed. "
            "Rename or remove what is in the way, or give sidework a schema of its own."
        ) from error


def _refuse_without_a_schema(connection: Connection[Any], name: str) -> None:
    if _execute(connection, "current_schema")[0][0] is None:
        raise DatabaseUnavailable(
            f"{name}: the search_path of this user names no schema that is there, so there is no place for the tables. "
            "Create the schema, or name another in the URL: ?options=-csearch_path%3Djobs"
        )


def _refuse_what_is_not_ours(found: Found, name: str) -> None:
    if found.readable_from > VERSION:
        raise SchemaTooNew(
            f"the tables in {name} have version {found.version} and need a sidework that knows version "
            f"{found.readable_from}; this one knows {VERSION}. Upgrade sidework."
        )
    if found.columns is None:
        return
    if not found.version:
        raise NotOurTable(_foreign(name, "sidework did not make it"))
    if not found.columns >= OUR_COLUMNS:
        raise NotOurTable(_foreign(name, f"it lacks {', '.join(sorted(OUR_COLUMNS - found.columns))}"))


def _foreign(name: str, reason: str) -> str:
    return (
        f"background_service_jobs in {name} is not a table that sidework can use: {reason}. Nothing was changed. "
        "Rename what is there, or give sidework a schema of its own."
    )


def _look(connection: Connection[Any]) -> Found:
    relations = dict(_execute(connection, "relations"))
    version, readable_from = (0, 0)
    if "background_service_schema" in relations:
        version, readable_from = _version(connection)
    columns = _columns(connection, "background_service_jobs") if "background_service_jobs" in relations else None
    return Found(version=version, readable_from=readable_from, columns=columns)


def _version(connection: Connection[Any]) -> tuple[int, int]:
    usable = _columns(connection, "background_service_schema") >= {"version", "readable_from", "identity"}
    rows = _execute(connection, "version") if usable else []
    if len(rows) != 1:
        raise NotOurTable(
            "background_service_schema is not the table that sidework keeps its version in. "
            "Rename what is there, or give sidework a schema of its own."
        )
    version, readable_from = rows[0]
    return version, readable_from


def _columns(connection: Connection[Any], table: str) -> frozenset[str]:
    return frozenset(name for (name,) in _execute(connection, "columns", table=table))


def _execute(connection: Connection[Any], statement: str, **parameters: object) -> list[tuple[Any, ...]]:
    return connection.execute(_SQL[statement], parameters or None).fetchall()
