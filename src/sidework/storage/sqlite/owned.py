"""A handler's `db`: a sqlite3.Connection whose transaction belongs to the service.

The object is new for each attempt and only speaks to a pooled connection underneath; when the attempt is over it is cut
off, so that a handler that kept it, or a thread that was given up, can change nothing any more.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, Self, TypeVar

from sidework.errors import TransactionOwned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidework.storage.sqlite.pool import GuardedConnection

T = TypeVar("T")

LEGACY_TRANSACTION_CONTROL: Final = -1
"""sqlite3.LEGACY_TRANSACTION_CONTROL, which Python 3.11 does not name yet."""

ADVICE: Final = (
    "the transaction of `db` belongs to the service: it is committed with the job when the handler returns, and rolled "
    "back when it raises. Remove the commit, rollback, `with db:` or executescript; SAVEPOINT works for undoing a part."
)


class Attempt(Protocol):
    """What a connection and its cursors ask of the transaction that they belong to."""

    @property
    def connection(self) -> OwnedConnection: ...
    @property
    def begun(self) -> bool: ...
    def statement(self, sql: object, call: Callable[..., T], *arguments: object) -> T:
        """Call, with nobody else on the connection; begin before, if SQLite takes the statement for a write."""

    def guarded(self, call: Callable[..., T], *arguments: object) -> T:
        """Call, with nobody else on the connection, and outside of what others have begun there."""

    def harmless(self, call: Callable[..., T], *arguments: object) -> T:
        """Call, with nobody else on the connection. For what asks nothing of the database."""

    def join(self) -> None:
        """Begin, unless it has begun."""

    def opened(self) -> GuardedConnection:
        """Return the connection underneath; only within `guarded` and `statement`."""

    def watch(self, cursor: OwnedCursor) -> None:
        """Remember a cursor for as long as somebody uses it."""

    def interrupt(self) -> None: ...


def refuse(*_: object, **__: object) -> NoReturn:
    """Raise TransactionOwned."""
    raise TransactionOwned(ADVICE)


_execute: Final = sqlite3.Cursor.execute
_executemany: Final = sqlite3.Cursor.executemany


class OwnedCursor(sqlite3.Cursor):
    """A cursor of a handler."""

    __slots__ = ("_attempt", "_rest")

    def __init__(self, underneath: sqlite3.Connection, attempt: Attempt, row_factory: Any) -> None:
        super().__init__(underneath)
        self.row_factory = row_factory
        self._attempt = attempt
        self._rest: deque[Any] | None = None
        """Rows that were read ahead; None: they still come from the database."""

    @property
    def connection(self) -> OwnedConnection:  # type: ignore[override]
        """The handler's connection, not the one underneath."""
        return self._attempt.connection

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        self._rest = None
        self._attempt.statement(sql, _execute, self, sql, parameters)
        return self

    def executemany(self, sql: str, parameters: Any, /) -> Self:
        self._rest = None
        self._attempt.statement(sql, _executemany, self, sql, parameters)
        return self

    def executescript(self, sql_script: str, /) -> NoReturn:
        """Raise TransactionOwned: it would commit first."""
        refuse(sql_script)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._attempt.guarded(self._next)

    def fetchone(self) -> Any:
        return self._attempt.guarded(self._one)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        return self._attempt.guarded(self._many, self.arraysize if size is None else size)

    def fetchall(self) -> list[Any]:
        return self._attempt.guarded(self._many, None)

    def close(self) -> None:
        self._attempt.guarded(self.shut)

    def shut(self) -> None:
        """Let go of the statement. Only with nobody else on the connection."""
        self._rest = None
        super().close()

    def keep_rest(self) -> None:
        """Read what is left into memory.

        A statement that is still being read holds on to what it saw when it began; from there SQLite lets nobody begin
        to write, once somebody else has committed.
        """
        if self._rest is None and self.description is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it is closed
                self._rest = deque(super().fetchall())

    def _next(self) -> Any:
        if self._rest is None:
            return super().__next__()
        if not self._rest:
            raise StopIteration
        return self._rest.popleft()

    def _one(self) -> Any:
        if self._rest is None:
            return super().fetchone()
        return self._rest.popleft() if self._rest else None

    def _many(self, most: int | None) -> list[Any]:
        if self._rest is not None:
            return [self._rest.popleft() for _ in range(min(len(self._rest), most or len(self._rest)))]
        return super().fetchall() if most is None else super().fetchmany(most)


class OwnedConnection:
    """What a handler gets as `db`.

    It passes for a sqlite3.Connection, `isinstance` included, but is none: a real one cannot be cut off from its
    database without waiting for whoever uses it, and would cost as much to open as a job.
    """

    Warning = sqlite3.Warning
    Error = sqlite3.Error
    InterfaceError = sqlite3.InterfaceError
    DatabaseError = sqlite3.DatabaseError
    DataError = sqlite3.DataError
    OperationalError = sqlite3.OperationalError
    IntegrityError = sqlite3.IntegrityError
    InternalError = sqlite3.InternalError
    ProgrammingError = sqlite3.ProgrammingError
    NotSupportedError = sqlite3.NotSupportedError

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.row_factory: Any = None

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What `isinstance` is told."""
        return sqlite3.Connection

    # ------------------------------------------------------------------ statements

    def cursor(self, factory: Any = None) -> OwnedCursor:
        if factory is not None and factory is not sqlite3.Cursor:
            raise TransactionOwned("`db` makes its own cursors: set row_factory instead of passing a cursor factory.")
        return self._attempt.harmless(self._new_cursor)

    def execute(self, sql: str, parameters: Any = (), /) -> OwnedCursor:
        return self._attempt.statement(sql, self._on_new_cursor, _execute, sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> OwnedCursor:
        return self._attempt.statement(sql, self._on_new_cursor, _executemany, sql, parameters)

    def blobopen(self, *arguments: Any, readonly: bool = False, **options: Any) -> sqlite3.Blob:
        """Open a blob; for writing, unless `readonly`, and then the transaction begins."""
        if not readonly:
            self._attempt.join()
        return self._attempt.guarded(lambda: self._attempt.opened().blobopen(*arguments, readonly=readonly, **options))

    def iterdump(self, **options: Any) -> Iterator[str]:
        return iter(self._attempt.guarded(lambda: list(self._attempt.opened().iterdump(**options))))

    def backup(self, target: sqlite3.Connection, **options: Any) -> None:
        if self._attempt.begun:
            raise TransactionOwned("sqlite3 would wait for ever: take the backup before the handler's first write.")
        self._attempt.guarded(lambda: self._attempt.opened().backup(target, **options))

    def serialize(self, **options: Any) -> bytes:
        return self._attempt.guarded(lambda: self._attempt.opened().serialize(**options))

    def interrupt(self) -> None:
        self._attempt.interrupt()

    # ------------------------------------------------------------------ what the service does

    commit = rollback = close = executescript = __enter__ = deserialize = set_authorizer = refuse

    def __exit__(self, *_: object) -> None:
        """Never comes here: there is no way in."""

    @property
    def in_transaction(self) -> bool:
        return self._attempt.begun

    @property
    def isolation_level(self) -> str | None:
        return None

    @isolation_level.setter
    def isolation_level(self, value: str | None) -> None:
        refuse(value)

    @property
    def autocommit(self) -> int:
        return LEGACY_TRANSACTION_CONTROL

    @autocommit.setter
    def autocommit(self, value: object) -> None:
        refuse(value)

    # ------------------------------------------------------------------ settings of the connection

    @property
    def total_changes(self) -> int:
        return self._attempt.guarded(lambda: self._attempt.opened().total_changes)

    @property
    def text_factory(self) -> Any:
        return self._attempt.guarded(lambda: self._attempt.opened().text_factory)

    @text_factory.setter
    def text_factory(self, factory: Any) -> None:
        self._change(setattr, "text_factory", factory)

    def __getattr__(self, name: str) -> Any:
        """Pass on what sets up functions, collations, hooks and limits; no other job gets such a connection."""
        if name not in _CHANGES:
            raise AttributeError(f"'sqlite3.Connection' object has no attribute {name!r}")
        return partial(self._change, _call, name)

    def _change(self, change: Callable[..., T], *arguments: Any, **options: Any) -> T:
        def act() -> T:
            connection = self._attempt.opened()
            connection.changed = True
            return change(connection, *arguments, **options)

        return self._attempt.guarded(act)

    def _on_new_cursor(self, call: Callable[..., object], *arguments: Any) -> OwnedCursor:
        cursor = self._new_cursor()
        call(cursor, *arguments)
        return cursor

    def _new_cursor(self) -> OwnedCursor:
        cursor = OwnedCursor(self._attempt.opened(), self._attempt, self.row_factory)
        self._attempt.watch(cursor)
        return cursor


_CHANGES: Final = frozenset(
    {
        "create_aggregate",
        "create_collation",
        "create_function",
        "create_window_function",
        "enable_load_extension",
        "getconfig",
        "getlimit",
        "load_extension",
        "set_progress_handler",
        "set_trace_callback",
        "setconfig",
        "setlimit",
    }
)


def _call(connection: sqlite3.Connection, method: str, *arguments: Any, **options: Any) -> Any:
    return getattr(connection, method)(*arguments, **options)
