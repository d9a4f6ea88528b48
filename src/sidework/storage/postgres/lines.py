"""The kinds of connections and sessions that a caller may pass as `db=`, and how one talks over each.

A `Line` holds a conversation (`callers`): it sends each statement that is yielded and hands back its rows; an error of
the driver is thrown into the conversation in our words, so that it can be tidied up there, and comes out of it.

None of the libraries but psycopg is imported: who passes an object of theirs has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from sidework.errors import DatabaseBusy, DatabaseUnavailable, NotMigrated, SideworkError, WrongDatabase
from sidework.storage.postgres.connect import translate

T = TypeVar("T")

Statement = tuple[str, Mapping[str, Any]]
Rows = Sequence[Sequence[Any]]
Talk = Generator[Statement, Rows, T]

_PARAMETER: Final = re.compile(r"%\((\w+)\)s")


class Driver(Protocol):
    """A sync connection of some library, as far as we use it."""

    connection: Any
    """What is remembered as leading to the right database."""

    @property
    def in_transaction(self) -> bool:
        """Whether what is sent now is part of a transaction that the caller will end."""

    def send(self, sql: str, parameters: Mapping[str, Any]) -> Rows: ...
    def is_refusal(self, error: Exception) -> bool:
        """Whether the error is one of the database or its driver."""


class AsyncDriver(Protocol):
    """The same where it is awaited."""

    connection: Any

    @property
    def in_transaction(self) -> bool: ...
    async def send(self, sql: str, parameters: Mapping[str, Any]) -> Rows: ...
    def is_refusal(self, error: Exception) -> bool: ...


class Line:
    """Holds conversations over a sync connection."""

    def __init__(self, driver: Driver, name: str) -> None:
        """name: the store's database, for messages."""
        self._driver = driver
        self._name = name

    @property
    def connection(self) -> Any:
        """The connection, or who stands for it."""
        return self._driver.connection

    @property
    def in_transaction(self) -> bool:
        """Whether what is said now is part of a transaction of the caller's."""
        return self._driver.in_transaction

    def hold(self, talk: Talk[T]) -> T:
        """Hold a conversation to its end."""
        step: Callable[[], Statement] = partial(next, talk)
        while True:
            try:
                statement, parameters = step()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                step = partial(talk.send, self._driver.send(statement, parameters))
            except Exception as error:
                if not self._driver.is_refusal(error):
                    raise
                step = partial(_throw, talk, in_words(error, self._name), error)


class AsyncLine:
    """Holds conversations over an async connection."""

    def __init__(self, driver: AsyncDriver, name: str) -> None:
        """name: the store's database, for messages."""
        self._driver = driver
        self._name = name

    @property
    def connection(self) -> Any:
        """The connection, or who stands for it."""
        return self._driver.connection

    @property
    def in_transaction(self) -> bool:
        """Whether what is said now is part of a transaction of the caller's."""
        return self._driver.in_transaction

    async def hold(self, talk: Talk[T]) -> T:
        """Hold a conversation to its end."""
        step: Callable[[], Statement] = partial(next, talk)
        while True:
            try:
                statement, parameters = step()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                step = partial(talk.send, await self._driver.send(statement, parameters))
            except Exception as error:
                if not self._driver.is_refusal(error):
                    raise
                step = partial(_throw, talk, in_words(error, self._name), error)


def _throw(talk: Talk[Any], error: SideworkError, cause: Exception) -> Statement:
    error.__cause__ = cause
    return talk.throw(error)


def in_words(error: Exception, name: str) -> SideworkError:
    """Return what a driver's error means, whichever driver it is: all of them keep the server's code."""
    original = getattr(error, "orig", None) or error.__cause__ or error  # SQLAlchemy and Django wrap the driver's own
    if isinstance(error, psycopg.Error):
        original = error
    if isinstance(original, psycopg.Error):
        return _of_psycopg(original, name)
    code = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    known = psycopg.errors.lookup(code) if isinstance(code, str) and code in _codes() else None
    if known is not None:
        return _of_psycopg(known(str(original)), name)
    return DatabaseUnavailable(f"{name} refused: {original}")


def _of_psycopg(error: psycopg.Error, name: str) -> SideworkError:
    match error:
        case psycopg.errors.InFailedSqlTransaction():
            return SideworkError(
                "the transaction of db= has failed already, and takes nothing more: roll it back (or to a savepoint), "
                "then enqueue"
            )
        case psycopg.errors.SerializationFailure():
            return SideworkError(
                "the transaction of db= runs under REPEATABLE READ or SERIALIZABLE and meets what another one has "
                "committed since it began (such as the same unique key): roll it back and try again"
            )
        case psycopg.errors.ReadOnlySqlTransaction():
            return SideworkError("the transaction of db= may only read: enqueue in one that may write")
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn():
            return NotMigrated(
                f"where db= leads, the tables of sidework are missing or too old ({str(error).splitlines()[0]}). If it "
                f"is {name}, run `sidework migrate` or service.migrate(): it is never done inside your transaction. If "
                "it is another database or schema, pass a connection to the one that the service works on."
            )
        case psycopg.errors.LockNotAvailable() | psycopg.errors.QueryCanceled():
            return DatabaseBusy(f"the enqueue waited too long for somebody else's transaction: {error}")
        case _:
            return translate(error, name)


def _codes() -> Mapping[str, type[psycopg.Error]]:
    codes: Mapping[str, type[psycopg.Error]] = psycopg.errors._sqlcodes  # noqa: SLF001 - lookup() raises for others
    return codes


# -------------------------------------------------------------------------------------------------- psycopg


class _Psycopg:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    @property
    def in_transaction(self) -> bool:
        return _in_transaction(self.connection)

    def send(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description is not None else []

    def is_refusal(self, error: Exception) -> bool:
        return isinstance(error, psycopg.Error)


class _AsyncPsycopg:
    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection

    @property
    def in_transaction(self) -> bool:
        return _in_transaction(self.connection)

    async def send(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        async with self.connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(sql, parameters or None)
            return await cursor.fetchall() if cursor.description is not None else []

    def is_refusal(self, error: Exception) -> bool:
        return isinstance(error, psycopg.Error)


def _in_transaction(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether psycopg is in a transaction, or begins one with the next statement."""
    return not connection.autocommit or connection.pgconn.transaction_status != pq.TransactionStatus.IDLE


# -------------------------------------------------------------------------------------------------- which one


def line(connection: object, name: str) -> Line:
    """Return how to talk over a sync connection or session. Raises SideworkError for what cannot be talked over."""
    match connection:
        case psycopg.Connection():
            return Line(_Psycopg(connection), name)
        case psycopg.AsyncConnection():
            raise SideworkError(
                "db= is a connection that has to be awaited. Use aenqueue(…, db=…) or await job.acomplete(…) instead."
            )
        case _:
            raise _unknown(connection, name)


def awaited_line(connection: object, name: str) -> Line | AsyncLine:
    """Return how to talk over a connection or session, async or sync."""
    match connection:
        case psycopg.AsyncConnection():
            return psycopg_line(connection, name)
        case _:
            return line(connection, name)


def psycopg_line(connection: psycopg.AsyncConnection[Any], name: str) -> AsyncLine:
    """Return how to talk over an async connection of psycopg."""
    return AsyncLine(_AsyncPsycopg(connection), name)


def _unknown(connection: object, name: str) -> SideworkError:
    kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
    if "sqlite" in kind:
        return WrongDatabase(f"db= is a {kind}, but the service works on {name}")
    return SideworkError(
        f"db= is a {kind}, which sidework cannot write through. For a PostgreSQL database it takes connections of "
        "psycopg (sync and async)."
    )
