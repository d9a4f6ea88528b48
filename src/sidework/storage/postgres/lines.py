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
from sidework.storage import foreign
from sidework.storage.postgres.connect import translate

T = TypeVar("T")

Statement = tuple[str, Mapping[str, Any]]
Rows = Sequence[Sequence[Any]]
Talk = Generator[Statement, Rows, T]

_PARAMETER: Final = re.compile(r"%\((\w+)\)[sb]")


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


def hold_on_our_own(connection: psycopg.Connection[Any], talk: Talk[T]) -> T:
    """Hold a conversation on a connection of ours; psycopg's errors come out as they are: some are tried again."""
    driver = _Psycopg(connection)
    try:
        statement, parameters = next(talk)
        while True:
            statement, parameters = talk.send(driver.send(statement, parameters))
    except StopIteration as end:
        result: T = end.value
        return result


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


# -------------------------------------------------------------------------------- other drivers and frameworks


class _Asyncpg:
    """A connection of asyncpg, or one lent by its pool."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @property
    def in_transaction(self) -> bool:
        return bool(self.connection.is_in_transaction())

    async def send(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        text, names = numbered(sql)
        return [tuple(row) for row in await self.connection.fetch(text, *(parameters[name] for name in names))]

    def is_refusal(self, error: Exception) -> bool:
        return type(error).__module__.startswith("asyncpg")


class _Cursors:
    """Whatever has `cursor()` and takes psycopg's placeholders: psycopg2, Django's connections."""

    def __init__(self, connection: Any, *, in_transaction: bool) -> None:
        self.connection = connection
        self.in_transaction = in_transaction

    def send(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, dict(parameters) or None)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description is not None else []

    def is_refusal(self, error: Exception) -> bool:
        return _is_of_a_database(error)


class _Alchemy:
    """A Connection of SQLAlchemy, on psycopg or psycopg2."""

    def __init__(self, connection: Any, *, stands_for: Any) -> None:
        """stands_for: the session that the caller passed, or the connection itself."""
        self.connection = stands_for
        self._connection = connection

    @property
    def in_transaction(self) -> bool:
        """SQLAlchemy begins by itself, unless it is told to commit each statement."""
        return bool(self._connection.in_transaction()) or self._connection.get_isolation_level() != "AUTOCOMMIT"

    def send(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        return _sent_by_alchemy(self._connection, sql, parameters)

    def is_refusal(self, error: Exception) -> bool:
        return _is_of_a_database(error)


class _AsyncAlchemy:
    """An AsyncConnection of SQLAlchemy, on asyncpg or psycopg."""

    def __init__(self, connection: Any, *, stands_for: Any) -> None:
        """connection: awaited once, where it is that of a session."""
        self.connection = stands_for
        self._connection = connection
        self._opened: Any = None

    @property
    def in_transaction(self) -> bool:
        """Taken to be one: a session begins by itself, and outside of one the first SAVEPOINT begins."""
        return True

    async def send(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        if self._opened is None:
            self._opened = await self._connection()
        rows: Rows = await self._opened.run_sync(_sent_by_alchemy, sql, parameters)
        return rows

    def is_refusal(self, error: Exception) -> bool:
        return _is_of_a_database(error)


def _sent_by_alchemy(connection: Any, sql: str, parameters: Mapping[str, Any]) -> Rows:
    """Send by SQLAlchemy's own connection, in the placeholders of its driver, so that it begins as it always does."""
    if connection.dialect.paramstyle == "numeric_dollar":
        text, names = numbered(sql)
        result = connection.exec_driver_sql(text, tuple(parameters[name] for name in names))
    elif connection.dialect.paramstyle in ("pyformat", "format"):
        result = connection.exec_driver_sql(sql, dict(parameters))
    else:
        raise SideworkError(
            f"SQLAlchemy's driver {connection.dialect.driver!r} is not known here; use psycopg, psycopg2 or asyncpg"
        )
    return [tuple(row) for row in result] if result.returns_rows else []


def numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """Return a statement with $1, $2, … and the names of the parameters in that order."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    return _PARAMETER.sub(number, sql), tuple(names)


def _is_of_a_database(error: Exception) -> bool:
    """Whether an error is one of a driver, or what a framework makes of it."""
    return type(error).__module__.partition(".")[0] in _LIBRARIES


_LIBRARIES: Final = frozenset({"psycopg", "psycopg2", "asyncpg", "sqlalchemy", "django"})


# -------------------------------------------------------------------------------------------------- which one


def line(connection: object, name: str) -> Line:
    """Return how to talk over a sync connection or session. Raises SideworkError for what cannot be talked over."""
    if isinstance(connection, psycopg.Connection):
        return Line(_Psycopg(connection), name)
    ancestors = foreign.ancestors(connection)
    if isinstance(connection, psycopg.AsyncConnection) or ancestors & foreign.AWAITED:
        raise SideworkError(
            "db= is a connection or session that has to be awaited. Use aenqueue(…, db=…) or "
            "await job.acomplete(…) instead."
        )
    driver = _sync_driver(connection, ancestors)
    if driver is None:
        raise _unknown(connection, name)
    return Line(driver, name)


def awaited_line(connection: object, name: str) -> Line | AsyncLine:
    """Return how to talk over a connection or session, async or sync."""
    if isinstance(connection, psycopg.AsyncConnection):
        return psycopg_line(connection, name)
    ancestors = foreign.ancestors(connection)
    if ancestors & foreign.OF_ASYNCPG:
        return AsyncLine(_Asyncpg(connection), name)
    anything: Any = connection
    if foreign.ASYNC_SESSION in ancestors:
        return AsyncLine(_AsyncAlchemy(anything.connection, stands_for=connection), name)
    if foreign.ASYNC_CONNECTION in ancestors:
        return AsyncLine(_AsyncAlchemy(partial(_itself, connection), stands_for=connection), name)
    return line(connection, name)


def psycopg_line(connection: psycopg.AsyncConnection[Any], name: str) -> AsyncLine:
    """Return how to talk over an async connection of psycopg."""
    return AsyncLine(_AsyncPsycopg(connection), name)


async def _itself(connection: object) -> object:
    return connection


def _sync_driver(connection: Any, ancestors: frozenset[str]) -> Driver | None:
    if ancestors & foreign.SESSIONS:
        return _Alchemy(connection.connection(), stands_for=connection)
    if foreign.CONNECTION in ancestors:
        return _Alchemy(connection, stands_for=connection)
    if ancestors & foreign.OF_DJANGO and connection.vendor == "postgresql":
        wrapper = getattr(connection, "_connections", None)
        real = connection if wrapper is None else wrapper[connection._alias]  # noqa: SLF001 - a proxy has no other way
        return _Cursors(real, in_transaction=not real.get_autocommit())
    if foreign.OF_PSYCOPG2 in ancestors:
        return _Cursors(connection, in_transaction=not connection.autocommit or connection.status != 1)
    return None


def _unknown(connection: object, name: str) -> SideworkError:
    kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
    if "sqlite" in kind or getattr(connection, "vendor", "") == "sqlite":
        return WrongDatabase(f"db= is a {kind}, but the service works on {name}")
    return SideworkError(
        f"db= is a {kind}, which sidework cannot write through. For a PostgreSQL database it takes connections of "
        "psycopg, psycopg2 and asyncpg, connections and sessions of SQLAlchemy (sync and async), and those of Django."
    )
