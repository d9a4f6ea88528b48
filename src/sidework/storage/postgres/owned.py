"""A handler's `db`: a connection of psycopg whose transaction belongs to the service, sync and async.

Until the first write each statement stands alone, in a transaction that the server lets only read. The statement that
the server refuses for that reason is the first write: the transaction begins, the fence is checked, and the statement
is sent again. So it is the server that decides what a write is, whatever the text looks like.

The connection object is new for each attempt; underneath is one of the pool. When the attempt is over it is cut off, so
that a handler that kept it, or a thread that was given up, can change nothing any more.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, cast

import psycopg
from psycopg import errors, pq

from sidework.errors import TransactionOwned
from sidework.storage.postgres.patience import unless_silent
from sidework.storage.postgres.verbs import is_transaction_control

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterable, Iterator

    from psycopg.abc import PQGen

SECONDS_TO_CANCEL: Final = 2.0
"""Seconds in which a server must have taken a request to end a statement."""

ADVICE: Final = (
    "the transaction of `db` belongs to the service: it is committed with the job when the handler returns, and rolled "
    "back when it raises. Remove the commit, rollback, BEGIN or `with db:`; SAVEPOINT and `with db.transaction():` "
    "work for undoing a part."
)


class Attempt(Protocol):
    """What a connection and its cursors ask of the transaction that they belong to."""

    @property
    def begun(self) -> bool: ...
    @property
    def reads_alone(self) -> bool:
        """Whether each statement before the first write can stand alone."""

    def admit(self) -> None:
        """Raise if the attempt is over, or the transaction is undone."""

    def begin_gen(self) -> Generator[Any, Any, None]:
        """Begin, and check the fence. Raises JobLost."""

    def note(self, error: psycopg.Error) -> None:
        """Notice what an error has done to the transaction."""

    def cut_the_line(self) -> None:
        """End the connection, whatever runs on it."""


def unopened() -> pq.abc.PGconn:
    """Return what stands in for a connection that nobody has needed yet."""
    closed = SimpleNamespace(
        status=pq.ConnStatus.OK, transaction_status=pq.TransactionStatus.IDLE, pipeline_status=0, socket=-1
    )
    return cast("pq.abc.PGconn", closed)


def refuse(*_: object, **__: object) -> NoReturn:
    """Raise TransactionOwned."""
    raise TransactionOwned(ADVICE)


async def arefuse(*_: object, **__: object) -> NoReturn:
    """Raise TransactionOwned when awaited."""
    raise TransactionOwned(ADVICE)


class _Guarded:
    """The part of a cursor that is the same in both colours: psycopg's own generators, with the rule around them.

    `_execute_gen` and its like are private to psycopg, but the same in every version 3; tests hold them to it.
    """

    _conn: Any
    _pgconn: Any

    def _execute_gen(self, query: Any, params: Any = None, **options: Any) -> PQGen[None]:
        self._pgconn = self._conn.pgconn
        attempt: Attempt = self._conn.attempt
        send = super()._execute_gen  # type: ignore[misc]
        try:
            if not attempt.begun and attempt.reads_alone:
                with suppress(errors.ReadOnlySqlTransaction):
                    yield from send(query, params, **options)
                    return
            if not attempt.begun:
                attempt.admit()
                yield from attempt.begin_gen()
            yield from send(query, params, **options)
        except psycopg.Error as error:
            attempt.note(error)
            raise

    def _start_copy_gen(self, *arguments: Any, **options: Any) -> PQGen[None]:
        yield from self._begun()
        yield from super()._start_copy_gen(*arguments, **options)  # type: ignore[misc]

    def _stream_send_gen(self, *arguments: Any, **options: Any) -> PQGen[None]:
        yield from self._begun()
        yield from super()._stream_send_gen(*arguments, **options)  # type: ignore[misc]

    def _begun(self) -> PQGen[None]:
        self._conn.attempt.admit()
        self._pgconn = self._conn.pgconn
        if not self._conn.attempt.begun:
            yield from self._conn.attempt.begin_gen()

    def _convert_query(self, query: Any, params: Any = None) -> Any:
        self._conn.attempt.admit()
        converted = super()._convert_query(query, params)  # type: ignore[misc]
        if is_transaction_control(converted.query):
            refuse()
        return converted

    def _execute_send(self, query: Any, *, force_extended: bool = False, binary: bool | None = None) -> None:
        del force_extended  # always: the simple protocol would take `...; COMMIT` in one text
        super()._execute_send(query, force_extended=True, binary=binary)  # type: ignore[misc]


class _GuardedServerSide:
    """A cursor that lives in the server needs a transaction to live in."""

    _conn: Any
    _pgconn: Any

    def _start_query(self, query: Any = None) -> PQGen[None]:
        self._conn.attempt.admit()
        self._pgconn = self._conn.pgconn
        if not self._conn.attempt.begun:
            yield from self._conn.attempt.begin_gen()
        yield from super()._start_query(query)  # type: ignore[misc]


class OwnedCursor(_Guarded, psycopg.Cursor[Any]):
    """A cursor of a sync handler."""

    def executemany(self, query: Any, params_seq: Iterable[Any], *, returning: bool = False) -> None:
        """Begin, for this nearly always writes and cannot be sent twice; then do as psycopg does."""
        self._conn.begin()
        self._pgconn = self._conn.pgconn
        super().executemany(query, params_seq, returning=returning)


class OwnedServerCursor(_GuardedServerSide, psycopg.ServerCursor[Any]):
    """A named cursor of a sync handler."""


class OwnedAsyncCursor(_Guarded, psycopg.AsyncCursor[Any]):
    """A cursor of an async handler."""

    async def executemany(self, query: Any, params_seq: Iterable[Any], *, returning: bool = False) -> None:
        """Begin, for this nearly always writes and cannot be sent twice; then do as psycopg does."""
        await self._conn.begin()
        self._pgconn = self._conn.pgconn
        await super().executemany(query, params_seq, returning=returning)


class OwnedAsyncServerCursor(_GuardedServerSide, psycopg.AsyncServerCursor[Any]):
    """A named cursor of an async handler."""


class OwnedConnection(psycopg.Connection[Any]):
    """What a sync handler gets as `db`."""

    patience: float | None = None
    """Seconds without a word from the server; None: a statement of the handler may take as long as it takes."""

    def __init__(self, attempt: Any) -> None:
        super().__init__(unopened())
        self._autocommit = True
        self._pool = None  # the pool underneath closes it
        self.attempt = attempt
        self.cursor_factory = OwnedCursor
        self.server_cursor_factory = OwnedServerCursor

    def begin(self) -> None:
        """Begin the transaction now, unless it has begun."""
        self.attempt.begin()

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        self.attempt.open()
        if self.patience is not None:
            gen = unless_silent(gen, self.patience)
        return super().wait(gen, *arguments, **options)

    @contextmanager
    def transaction(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        """Undo a part if it raises: a savepoint, for the transaction itself is the service's."""
        self.begin()
        with super().transaction(*arguments, **options) as block:
            yield block

    @contextmanager
    def pipeline(self) -> Iterator[Any]:
        self.begin()
        with super().pipeline() as pipeline:
            yield pipeline

    @property
    def closed(self) -> bool:
        return self.attempt.over or super().closed

    commit = rollback = close = __enter__ = set_autocommit = set_read_only = refuse
    set_isolation_level = set_deferrable = tpc_begin = tpc_prepare = tpc_commit = tpc_rollback = refuse
    _set_autocommit = _set_isolation_level = _set_read_only = _set_deferrable = refuse

    def __exit__(self, *_: object) -> None:
        """Never comes here: there is no way in."""


class OwnedAsyncConnection(psycopg.AsyncConnection[Any]):
    """What an async handler gets as `db`."""

    patience: float | None = None
    """As for a sync handler."""

    def __init__(self, attempt: Any) -> None:
        super().__init__(unopened())
        self._autocommit = True
        self._pool = None  # the pool underneath closes it
        self.attempt = attempt
        self.cursor_factory = OwnedAsyncCursor
        self.server_cursor_factory = OwnedAsyncServerCursor

    async def begin(self) -> None:
        """Begin the transaction now, unless it has begun."""
        await self.attempt.begin()

    async def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        await self.attempt.open()
        if self.patience is not None:
            gen = unless_silent(gen, self.patience)
        return await super().wait(gen, *arguments, **options)

    async def _try_cancel(self, *, timeout: float = SECONDS_TO_CANCEL) -> None:
        """Let the server end the statement of a handler that is cancelled, if it can be reached; else cut the line.

        psycopg asks for longer than there is between the end of a lost handler and that of the lease.
        """
        try:
            await self.cancel_safe(timeout=min(timeout, SECONDS_TO_CANCEL))
        except psycopg.Error:
            self.attempt.cut_the_line()

    @asynccontextmanager
    async def transaction(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        """Undo a part if it raises: a savepoint, for the transaction itself is the service's."""
        await self.begin()
        async with super().transaction(*arguments, **options) as block:
            yield block

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[Any]:
        await self.begin()
        async with super().pipeline() as pipeline:
            yield pipeline

    @property
    def closed(self) -> bool:
        return self.attempt.over or super().closed

    commit = rollback = close = __aenter__ = set_autocommit = set_read_only = arefuse
    set_isolation_level = set_deferrable = tpc_begin = tpc_prepare = tpc_commit = tpc_rollback = arefuse
    _set_autocommit = _set_isolation_level = _set_read_only = _set_deferrable = refuse

    async def __aexit__(self, *_: object) -> None:
        """Never comes here: there is no way in."""
