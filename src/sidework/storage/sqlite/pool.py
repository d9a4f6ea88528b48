"""Connections for handlers: guarded by SQLite's own parser, and kept for the next job.

The authorizer sees every statement that SQLite prepares, and knows by SQLite's words what it would do: that is how a
write is recognised, however it is written. What it said is remembered per text, because a statement that sqlite3 takes
from its cache is not prepared, and so not seen, again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from sidework.storage.sqlite import rows
from sidework.storage.sqlite.connect import connect
from sidework.storage.sqlite.gate import bound_busy_wait
from sidework.storage.sqlite.place import Place
from sidework.storage.statements import load

if TYPE_CHECKING:
    import os

    from sidework.model.job import Outcome
    from sidework.storage.sqlite.connect import Durability


class Kind(Enum):
    """What a statement is, where it is more than a read."""

    WRITE = "write"
    REFUSED = "refused"


SQL: Final = load(Path(__file__).with_name("transaction.sql"))

OUR_SAVEPOINT: Final = "sidework_job"

_KINDS_OF_OUR_OWN: Final[dict[object, Kind]] = {
    SQL["begin"]: Kind.REFUSED,
    SQL["commit"]: Kind.REFUSED,
    SQL["roll_back"]: Kind.REFUSED,
    SQL["mark"]: Kind.REFUSED,
    SQL["undo"]: Kind.REFUSED,
    SQL["release"]: Kind.REFUSED,
    SQL["settle_one"]: Kind.WRITE,
}

_READS: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
_SCHEMA_TABLES: Final = frozenset({"sqlite_master", "sqlite_temp_master"})
"""SQLite says that it updates these when a statement first reads json_each or another built-in virtual table. A
statement that does change the schema is known by what it does besides, and nobody may write to them directly."""

_REFUSED: Final = frozenset({sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH})
_TEMPORARY: Final = frozenset(
    {
        sqlite3.SQLITE_CREATE_TEMP_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
        sqlite3.SQLITE_CREATE_VTABLE,
    }
)

_PRAGMAS_REFUSED: Final = frozenset({"journal_mode", "locking_mode", "query_only", "synchronous", "writable_schema"})
"""With a value, these would undo what the service promises for the transaction."""
_PRAGMAS_THAT_WRITE: Final = frozenset({"incremental_vacuum", "optimize"})
_PRAGMAS_THAT_WRITE_A_VALUE: Final = frozenset(
    {"application_id", "auto_vacuum", "default_cache_size", "encoding", "page_size", "schema_version", "user_version"}
)
_PRAGMAS_THAT_TAKE_A_NAME: Final = frozenset(
    {
        "foreign_key_check",
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
    }
)

_MOST_TEXTS: Final = 1000
"""A handler that writes values into its SQL makes ever new texts: a connection that has seen so many is given up."""

_MOST_IDLE: Final = 16
_AS_MANY_AS_NEEDED: Final = 1_000_000


class GuardedConnection(sqlite3.Connection):
    """A connection on which nothing is written unless its transaction has begun, and only we end that."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kinds: dict[object, Kind] = dict(_KINDS_OF_OUR_OWN)
        """Text -> what the parser said of it; texts that only read are not in it."""
        self.seen: Kind | None = None
        """What the parser has said since this was last set to None."""
        self._busy_wait = -1.0
        self.begun = False
        self.changed = False
        """Whether the handler has changed the connection itself, so that it is not fit for the next one."""
        self._ours = False
        self.place: Place

    def guard(self, path: str | os.PathLike[str]) -> None:
        """Let the parser ask us from now on. path: where the file is."""
        self.place = Place(path)
        self.set_authorizer(self._authorize)

    def remember(self, sql: object) -> None:
        """Keep what was just seen of this text."""
        if self.seen is not None:
            self.kinds[sql] = self.seen
            self.changed = self.changed or len(self.kinds) > _MOST_TEXTS

    def begin(self, wait: float) -> None:
        """Begin to write. Waits for other processes: so many seconds, give or take a tenth."""
        if abs(wait - self._busy_wait) * 10 > wait:
            self._ours = True
            try:
                bound_busy_wait(self, wait)
            finally:
                self._ours = False
            self._busy_wait = wait
        self._run_ours(SQL["begin"])
        self.begun = True

    def holds(self, job_id: int, number: int) -> bool:
        """Whether the job still runs under this claim."""
        (held,) = self._run_ours(SQL["fence"], (job_id, number)).fetchone()
        return bool(held)

    def settle(self, outcome: Outcome, now: str) -> bool:
        """Write one outcome; False: its claim no longer holds the job."""
        return self._run_ours(SQL["settle_one"], _parameters(outcome, now)).rowcount == 1

    def savepoint(self, what: str) -> None:
        """Carry out `mark`, `undo` or `release`."""
        self._run_ours(SQL[what])

    def end(self, how: str) -> None:
        """Carry out `commit` or `roll_back`."""
        self._run_ours(SQL[how])
        self.begun = False

    def _run_ours(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        self._ours = True
        try:
            return sqlite3.Connection.execute(self, sql, parameters)
        finally:
            self._ours = False

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, _: str | None
    ) -> int:
        if self._ours or action in _READS or (action == sqlite3.SQLITE_UPDATE and first in _SCHEMA_TABLES):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA:
            kind = self._kind_of_pragma(first or "", second)
        else:
            is_ours = action == sqlite3.SQLITE_SAVEPOINT and (second or "").lower() == OUR_SAVEPOINT
            kind = Kind.REFUSED if action in _REFUSED or is_ours else Kind.WRITE
        if action in _TEMPORARY or database == "temp":
            self.changed = True
        return sqlite3.SQLITE_OK if kind is None or self._allows(kind) else sqlite3.SQLITE_DENY

    def _allows(self, kind: Kind) -> bool:
        if self.seen is not Kind.REFUSED:
            self.seen = kind
        return kind is Kind.WRITE and self.begun

    def _kind_of_pragma(self, name: str, value: str | None) -> Kind | None:
        name = name.lower()
        if name in _PRAGMAS_THAT_WRITE:
            return Kind.WRITE
        if value is None or name in _PRAGMAS_THAT_TAKE_A_NAME:
            return None
        if name in _PRAGMAS_REFUSED:
            return Kind.REFUSED
        if name in _PRAGMAS_THAT_WRITE_A_VALUE:
            return Kind.WRITE
        self.changed = True
        return None


class ConnectionPool:
    """Connections that wait for the next handler. Opening one costs as much as a job."""

    def __init__(self, path: str | os.PathLike[str], *, durability: Durability, wait: float) -> None:
        self._path = path
        self._durability: Durability = durability
        self._wait = wait
        self._idle: deque[GuardedConnection] = deque()
        self._threads: ThreadPoolExecutor | None = None
        self._changing = threading.Lock()

    @property
    def threads(self) -> ThreadPoolExecutor:
        """Threads for async handlers.

        There are as many as are busy at once: one that waits for the write gate must never keep the one that holds it
        from running.
        """
        with self._changing:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_AS_MANY_AS_NEEDED, thread_name_prefix="sidework-db")
            return self._threads

    def take(self) -> GuardedConnection:
        """Return a connection that is as new."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._open()

    def give(self, connection: GuardedConnection) -> None:
        """Take back a connection in which no transaction is open."""
        if connection.changed or len(self._idle) >= _MOST_IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Close those that wait, and let the threads end. The next use opens both again."""
        with self._changing:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)
        while self._idle:
            self._idle.pop().close()

    def _open(self) -> GuardedConnection:
        connection = connect(self._path, durability=self._durability, wait=self._wait, factory=GuardedConnection)
        guarded = cast("GuardedConnection", connection)
        guarded.guard(self._path)
        return guarded


def _parameters(outcome: Outcome, now: str) -> dict[str, str | int | None]:
    return {
        "id": outcome.claim.job_id,
        "claims": outcome.claim.number,
        "status": outcome.status.value,
        "ended": outcome.status.ended,
        "attempts": outcome.attempts,
        "crashes": outcome.crashes,
        "run_at": None if outcome.run_at is None else rows.to_due_text(outcome.run_at),
        "result": outcome.result,
        "error": rows.safe_text(outcome.error),
        "now": now,
    }
