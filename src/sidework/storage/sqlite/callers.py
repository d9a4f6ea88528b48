"""Enqueueing and completing inside somebody else's transaction, on somebody else's connection.

The caller's connection stays the caller's: nothing is committed that the caller did not mean to commit, none of its
settings is changed, no DDL is run, and after an error its transaction is as it was before.
"""

from __future__ import annotations

import os
import re
import sqlite3
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiosqlite
import msgspec

from sidework.errors import NotMigrated, SideworkError, WrongDatabase
from sidework.model.job import JobStatus
from sidework.storage.sqlite import rows
from sidework.storage.sqlite.connect import translate
from sidework.storage.sqlite.unwrap import aunwrap, must_be_awaited, unwrap
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from sidework.model.job import NewJob, Outcome
    from sidework.storage.sqlite.connect import Durability

T = TypeVar("T")

_SQL: Final = load(Path(__file__).with_name("callers.sql"))
_SETTLE: Final = load(Path(__file__).with_name("queries.sql"))["settle"]

_MOST_JOBS_AT_ONCE: Final = 1000
_MOST_CHARACTERS_AT_ONCE: Final = 4_000_000
"""Bounds of one bulk statement: a list of jobs is copied into one JSON text, which SQLite limits to 1 GB."""

_SYNCHRONOUS: Final = {"full": 2, "relaxed": 1}
_NAMES_OF_SYNCHRONOUS: Final = ("OFF", "NORMAL", "FULL", "EXTRA")

_OLDER_TABLE: Final = re.compile(
    r"^table background_service_\w+ has no column|^no such column: |^ON CONFLICT clause does not match"
)

_LEGACY_TRANSACTION_CONTROL: Final = -1
"""sqlite3.LEGACY_TRANSACTION_CONTROL, which Python 3.11 does not name yet."""


class Step(msgspec.Struct, frozen=True):
    """One statement of an insertion. It returns `count` ids; if none, `otherwise` finds the one that was there."""

    sql: str
    parameters: tuple[str | int | None, ...]
    count: int = 1
    otherwise: tuple[str, tuple[str | None, ...]] | None = None

    def run(self, cursor: sqlite3.Cursor) -> list[int]:
        """Return the ids, smallest first."""
        found = cursor.execute(self.sql, self.parameters).fetchall()
        if self.otherwise is not None and not found:
            found = cursor.execute(*self.otherwise).fetchall()
        if len(found) != self.count:
            raise SideworkError(
                f"{self.count} jobs were inserted and {len(found)} are there: a trigger on background_service_jobs "
                "has swallowed the others. Nothing was enqueued."
            )
        return sorted(job_id for (job_id,) in found)


class Insertion(msgspec.Struct, frozen=True):
    """Statements that insert jobs, in the order of the list that they came from."""

    steps: tuple[Step, ...]

    @property
    def atomic(self) -> bool:
        """Whether it is a single statement, which SQLite itself carries out wholly or not at all."""
        return len(self.steps) <= 1 and all(step.otherwise is None for step in self.steps)

    def run(self, connection: sqlite3.Connection) -> list[int]:
        """Insert; return the ids in the order of the list. Wants to be inside a transaction or savepoint."""
        cursor = _plain_cursor(connection)
        return [job_id for step in self.steps for job_id in step.run(cursor)]


class Callers:
    """What the store does on connections that are not its own.

    path: the store's database, which those connections must be open on.
    durability: what the store promises; a connection that promises less is warned about, once.
    """

    def __init__(self, path: str | os.PathLike[str], *, durability: Durability) -> None:
        self._path = os.path.realpath(path)
        self._file = os.fsencode(self._path)
        self._synchronous = _SYNCHRONOUS[durability]
        self._warned = False

    def insertion(self, jobs: Sequence[NewJob], *, now: datetime) -> Insertion:
        """Return the statements that insert these jobs. A unique key that is held yields the id of its holder."""
        return Insertion(tuple(_steps(jobs, rows.to_text(now))))

    def insert(self, connection: object, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert inside the caller's transaction; return the ids in the order given.

        Raises WrongDatabase, NotMigrated, DatabaseBusy, DatabaseUnavailable.
        """
        insertion = self.insertion(jobs, now=now)
        return self._take_part(_not_awaited(connection, "aenqueue"), insertion.run, atomic=insertion.atomic)

    async def ainsert(self, connection: object, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Do the same on a connection of aiosqlite, in that connection's own thread, or on one of sqlite3."""
        connection = await aunwrap(connection)
        if not isinstance(connection, aiosqlite.Connection):
            return self.insert(connection, jobs, now=now)
        insertion = self.insertion(jobs, now=now)
        return await _on_its_thread(connection, partial(self._take_part, act=insertion.run, atomic=insertion.atomic))

    def join(self, connection: sqlite3.Connection, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert inside the transaction of a handler's own connection."""
        insertion = self.insertion(jobs, now=now)
        try:
            return _inside_the_callers_transaction(connection, insertion.run, atomic=insertion.atomic)
        except sqlite3.Error as error:
            raise self._in_words(error) from error

    def complete(self, connection: object, outcome: Outcome, *, now: datetime) -> bool:
        """Write the outcome inside the caller's transaction. False: its claim no longer holds the job."""
        settle = partial(_settle, outcome=outcome, now=rows.to_text(now))
        return self._take_part(_not_awaited(connection, "await job.acomplete"), settle, atomic=True)

    async def acomplete(self, connection: object, outcome: Outcome, *, now: datetime) -> bool:
        """Do the same on a connection of aiosqlite, or on one of sqlite3."""
        connection = await aunwrap(connection)
        if not isinstance(connection, aiosqlite.Connection):
            return self.complete(connection, outcome, now=now)
        settle = partial(_settle, outcome=outcome, now=rows.to_text(now))
        return await _on_its_thread(connection, partial(self._take_part, act=settle, atomic=True))

    def _take_part(self, connection: sqlite3.Connection, act: Callable[[sqlite3.Connection], T], *, atomic: bool) -> T:
        try:
            self._refuse_another_database(connection)
            self._warn_if_less_durable(connection)
            return _inside_the_callers_transaction(connection, act, atomic=atomic)
        except sqlite3.Error as error:
            raise self._in_words(error) from error

    def _refuse_another_database(self, connection: sqlite3.Connection) -> None:
        if _shown_file(connection) == self._file:
            return
        file = _main_file(connection)
        if file and self._is_ours(file):
            return
        other = os.fsdecode(file) if file else "a database in memory"
        raise WrongDatabase(
            f"db= is a connection to {other}, but the service works on {self._path}. "
            "Pass a connection to that file, or leave db= out to enqueue in a transaction of its own."
        )

    def _is_ours(self, file: bytes) -> bool:
        try:
            return Path(os.fsdecode(file)).samefile(self._path)
        except OSError:
            return False

    def _warn_if_less_durable(self, connection: sqlite3.Connection) -> None:
        # Once for the store: a sqlite3.Connection cannot be remembered without being kept alive.
        if self._warned:
            return
        (level,) = _plain_cursor(connection).execute(_SQL["synchronous"]).fetchone()
        if level < self._synchronous:
            self._warned = True
            wanted = _NAMES_OF_SYNCHRONOUS[self._synchronous]
            warnings.warn(
                f"the connection passed as db= has PRAGMA synchronous={_NAMES_OF_SYNCHRONOUS[level]}: jobs enqueued "
                f"through it may be lost in a power cut. Set PRAGMA synchronous={wanted} on it to have what the "
                "service promises.",
                RuntimeWarning,
                stacklevel=6,
            )

    def _in_words(self, error: sqlite3.Error) -> SideworkError:
        text = str(error)
        if _OLDER_TABLE.search(text):
            return NotMigrated(
                f"the tables of sidework in {self._path} are older than this version needs ({error}). "
                "Run `sidework migrate` or service.migrate(); it is never done inside your transaction."
            )
        if isinstance(error, sqlite3.ProgrammingError) and "same thread" in text:
            return SideworkError(
                "db= is a connection that may be used only in the thread that opened it. Enqueue in that thread, "
                "or open it with check_same_thread=False."
            )
        if isinstance(error, sqlite3.ProgrammingError) and "closed" in text:
            return SideworkError("db= is a connection that is closed. Enqueue before closing it.")
        return translate(error, self._path)


# ---------------------------------------------------------------------------------------------- what is inserted


def _steps(jobs: Sequence[NewJob], now: str) -> Iterator[Step]:
    gathered: list[NewJob] = []
    characters = 0
    for job in jobs:
        if job.unique_key is None:
            gathered.append(job)
            characters += len(job.payload or "")
        if gathered and (job.unique_key is not None or _is_full(len(gathered), characters)):
            yield _step(gathered, now)
            gathered, characters = [], 0
        if job.unique_key is not None:
            holder = (_SQL["id_of_unique_job"], (job.key, job.unique_key))
            yield Step(_SQL["insert_unique_job"], _row(job, now), otherwise=holder)
    if gathered:
        yield _step(gathered, now)


def _is_full(count: int, characters: int) -> bool:
    return count >= _MOST_JOBS_AT_ONCE or characters >= _MOST_CHARACTERS_AT_ONCE


def _step(jobs: list[NewJob], now: str) -> Step:
    if len(jobs) == 1:
        return Step(_SQL["insert_job"], _row(jobs[0], now))
    return Step(_SQL["insert_jobs"], (rows.to_json([_short_row(job) for job in jobs]), now), count=len(jobs))


def _short_row(job: NewJob) -> tuple[str | int | None, ...]:
    """Return what is particular to one of many jobs."""
    start = (job.key, job.payload, job.priority, job.max_attempts, job.queue)
    if job.run_at is None and job.options is None:
        return start
    return (*start, None if job.run_at is None else rows.to_due_text(job.run_at), job.options)


def _row(job: NewJob, now: str) -> tuple[str | int | None, ...]:
    """Return what the statements that insert one job take, in the order of their columns."""
    return (
        job.key,
        job.payload,
        job.priority,
        job.max_attempts,
        JobStatus.PENDING.value if job.run_at is None else JobStatus.SCHEDULED.value,
        job.queue,
        None if job.run_at is None else rows.to_due_text(job.run_at),
        job.unique_key,
        job.options,
        now,
        now,
    )


def _settle(connection: sqlite3.Connection, outcome: Outcome, now: str) -> bool:
    parameters = {"outcomes": rows.outcomes_json([outcome]), "now": now}
    return _plain_cursor(connection).execute(_SETTLE, parameters).rowcount == 1


# ------------------------------------------------------------------------------------- the caller's transaction


def _inside_the_callers_transaction(
    connection: sqlite3.Connection, act: Callable[[sqlite3.Connection], T], *, atomic: bool
) -> T:
    """Run `act` wholly or not at all, and leave the transaction open or closed as an INSERT of the caller's would."""
    if _begins_by_itself(connection):
        return _in_new_transaction(connection, act)
    if atomic:
        return act(connection)
    return _in_savepoint(connection, act)


def _begins_by_itself(connection: sqlite3.Connection) -> bool:
    """Whether an INSERT of the caller's would now begin a transaction for the caller to commit."""
    if connection.in_transaction:
        return False
    autocommit: bool | int = getattr(connection, "autocommit", _LEGACY_TRANSACTION_CONTROL)
    if autocommit == _LEGACY_TRANSACTION_CONTROL:
        return connection.isolation_level is not None
    return not autocommit


def _in_new_transaction(connection: sqlite3.Connection, act: Callable[[sqlite3.Connection], T]) -> T:
    """Begin as the caller's own INSERT would; a SAVEPOINT or a RETURNING alone would commit by itself."""
    cursor = _plain_cursor(connection)
    cursor.execute(f"BEGIN {connection.isolation_level or ''}")
    try:
        return act(connection)
    except BaseException:
        if connection.in_transaction:
            cursor.execute("ROLLBACK")
        raise


def _in_savepoint(connection: sqlite3.Connection, act: Callable[[sqlite3.Connection], T]) -> T:
    cursor = _plain_cursor(connection)
    cursor.execute("SAVEPOINT sidework")
    try:
        result = act(connection)
        cursor.execute("RELEASE sidework")
    except BaseException:
        if connection.in_transaction:
            cursor.execute("ROLLBACK TO sidework")
            cursor.execute("RELEASE sidework")
        raise
    return result


def _plain_cursor(connection: sqlite3.Connection) -> sqlite3.Cursor:
    """Return a cursor whose rows are tuples, whatever row factory the connection has."""
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor


# -------------------------------------------------------------------------------------------- whose connection


def _not_awaited(connection: object, instead: str) -> sqlite3.Connection:
    if isinstance(connection := unwrap(connection), sqlite3.Connection):
        return connection
    if isinstance(connection, aiosqlite.Connection) or must_be_awaited(connection):
        raise SideworkError(
            f"db= is a connection of aiosqlite or a session on one, which has to be awaited. "
            f"Use {instead}(…, db=…) instead."
        )
    raise SideworkError(
        f"db= is a {type(connection).__module__}.{type(connection).__qualname__}, which sidework cannot write through. "
        "For a SQLite database it takes a sqlite3.Connection, or in async code an aiosqlite.Connection; a session or "
        "connection of SQLAlchemy; or one of Django. Another ORM can hand out the driver's connection that it uses."
    )


async def _on_its_thread(connection: Any, act: Callable[[sqlite3.Connection], T]) -> T:
    """Run `act` in the thread of an aiosqlite connection, in one go: nothing of another task comes between."""
    # aiosqlite offers no public way to run several statements in one go. SQLAlchemy relies on this method too.
    try:
        raw = connection._conn  # noqa: SLF001
    except ValueError as error:
        raise SideworkError("db= is a connection of aiosqlite that is not open. Await it first.") from error
    result: T = await connection._execute(act, raw)  # noqa: SLF001
    return result


def _shown_file(connection: sqlite3.Connection) -> bytes:
    """Return the path of the open file, as far as the text factory lets it be seen; begins no read."""
    try:
        file = _plain_cursor(connection).execute(_SQL["databases"]).fetchone()[2]
        return os.fsencode(file)
    except (sqlite3.OperationalError, TypeError, ValueError):
        return b""


def _main_file(connection: sqlite3.Connection) -> bytes:
    """Return the path of the open file, whatever the text factory; empty for a database in memory."""
    (file,) = _plain_cursor(connection).execute(_SQL["main_file"]).fetchone()
    return bytes(file)
