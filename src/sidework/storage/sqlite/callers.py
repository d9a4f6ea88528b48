"""Enqueueing and completing inside somebody else's transaction, on somebody else's connection.

The caller's connection stays the caller's: nothing is committed that the caller did not mean to commit, none of its
settings is changed, no DDL is run, and after an error its transaction is as it was before.
"""

from __future__ import annotations

import os
import re
import sqlite3
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, cast

import aiosqlite
import msgspec

from sidework.errors import NotMigrated, SideworkError, WrongDatabase
from sidework.model.job import JobStatus
from sidework.storage.sqlite import rows
from sidework.storage.sqlite.connect import translate
from sidework.storage.sqlite.unwrap import aunwrap, must_be_awaited, unwrap
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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


class OneJob(msgspec.Struct, frozen=True):
    """Inserts a job that is ready at once and overrides nothing."""

    parameters: tuple[str | int | None, ...]

    def run(self, cursor: sqlite3.Cursor) -> list[int]:
        """Return its id: a trigger's own inserts do not change what the driver tells."""
        cursor.execute(_SQL["insert_job"], self.parameters)
        return [cast("int", cursor.lastrowid)] if cursor.rowcount == 1 else _swallowed()


class UniqueJob(msgspec.Struct, frozen=True):
    """Inserts a job, unless one that has not ended holds its unique key."""

    parameters: tuple[str | int | None, ...]
    holder: tuple[str, str | None]
    """The key of the handler and the unique key."""

    def run(self, cursor: sqlite3.Cursor) -> list[int]:
        """Return the id of the job, or of the one that was there."""
        found = cursor.execute(_SQL["insert_unique_job"], self.parameters).fetchall()
        found = found or cursor.execute(_SQL["id_of_unique_job"], self.holder).fetchall()
        return [job_id for (job_id,) in found] or _swallowed()


class ManyJobs(msgspec.Struct, frozen=True):
    """Inserts jobs by one statement."""

    rows: str
    """JSON text of their short rows."""
    now: str
    count: int

    def run(self, cursor: sqlite3.Cursor) -> list[int]:
        """Return the ids. Raises IdsAreUnknown where triggers make them uncertain.

        AUTOINCREMENT gives each row the largest id plus one, and nobody else can write meanwhile. So if so many rows
        were changed as were to be inserted, no trigger had a part in it, and their ids are the last ones.
        """
        before = cursor.connection.total_changes
        cursor.execute(_SQL["insert_jobs"], (self.rows, self.now))
        if cursor.connection.total_changes - before != self.count:
            raise IdsAreUnknown
        last = cast("int", cursor.lastrowid)
        return list(range(last - self.count + 1, last + 1))


class IdsAreUnknown(Exception):  # noqa: N818 - no error but a reason to insert one by one; never leaves the store
    """Triggers write when a job is inserted. What was inserted has to be undone."""


class Insertion(msgspec.Struct, frozen=True):
    """Statements that insert jobs, in the order of the list that they came from."""

    steps: Sequence[OneJob | UniqueJob | ManyJobs]

    @property
    def atomic(self) -> bool:
        """Whether it is a single statement that SQLite itself carries out wholly or not at all."""
        return len(self.steps) <= 1 and all(isinstance(step, OneJob) for step in self.steps)

    def run(self, connection: sqlite3.Connection) -> list[int]:
        """Insert; return the ids in the order of the list. Wants to be inside a transaction or savepoint.

        Raises IdsAreUnknown.
        """
        cursor = _plain_cursor(connection)
        return [job_id for step in self.steps for job_id in step.run(cursor)]


def _swallowed() -> NoReturn:
    raise SideworkError(
        "a job was inserted and is not there: a trigger on background_service_jobs has swallowed it. "
        "Nothing was enqueued."
    )


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
        self._one_by_one = False

    def insertion(self, jobs: Sequence[NewJob], *, now: datetime) -> Insertion:
        """Return the statements that insert these jobs. A unique key that is held yields the id of its holder."""
        text = rows.to_text(now)
        if len(jobs) == 1 or self._one_by_one:
            return Insertion([_one(job, text) for job in jobs])
        return Insertion(list(_in_bulk(jobs, text)))

    def inserted(self, put: Callable[[Insertion], list[int]], jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Return what `put` makes of the insertion; once more, one by one, where that is the only way to know the ids.

        put: carries an insertion out wholly or, if it raises, not at all.
        """
        try:
            return put(self.insertion(jobs, now=now))
        except IdsAreUnknown:
            self._one_by_one = True
        return put(self.insertion(jobs, now=now))

    def insert(self, connection: object, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert inside the caller's transaction; return the ids in the order given.

        Raises WrongDatabase, NotMigrated, DatabaseBusy, DatabaseUnavailable.
        """
        ours = _not_awaited(connection, "aenqueue")
        return self.inserted(partial(self._put, ours), jobs, now=now)

    def _put(self, connection: sqlite3.Connection, insertion: Insertion) -> list[int]:
        return self._take_part(connection, insertion.run, atomic=insertion.atomic)

    async def ainsert(self, connection: object, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Do the same on a connection of aiosqlite, in that connection's own thread, or on one of sqlite3."""
        connection = await aunwrap(connection)
        if not isinstance(connection, aiosqlite.Connection):
            return self.insert(connection, jobs, now=now)
        return await _on_its_thread(connection, lambda plain: self.inserted(partial(self._put, plain), jobs, now=now))

    def join(self, connection: sqlite3.Connection, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert inside the transaction of a handler's own connection."""

        def put(insertion: Insertion) -> list[int]:
            return _inside_the_callers_transaction(connection, insertion.run, atomic=insertion.atomic)

        try:
            return self.inserted(put, jobs, now=now)
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
                stacklevel=8,
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


def _in_bulk(jobs: Sequence[NewJob], now: str) -> Iterator[OneJob | UniqueJob | ManyJobs]:
    """Yield a statement for each run of jobs without a unique key, and one for each job that has one."""
    gathered: list[NewJob] = []
    characters = 0
    for job in jobs:
        if job.unique_key is None:
            gathered.append(job)
            characters += len(job.payload or "")
        if gathered and (job.unique_key is not None or _is_full(len(gathered), characters)):
            yield _many(gathered, now)
            gathered, characters = [], 0
        if job.unique_key is not None:
            yield _one(job, now)
    if gathered:
        yield _many(gathered, now)


def _is_full(count: int, characters: int) -> bool:
    return count >= _MOST_JOBS_AT_ONCE or characters >= _MOST_CHARACTERS_AT_ONCE


def _one(job: NewJob, now: str) -> OneJob | UniqueJob:
    """Return the statement of one job. One that is no plain job is inserted as a unique one that has no key."""
    if job.unique_key is None and job.run_at is None and job.options is None:
        return OneJob((job.key, job.payload, job.priority, job.max_attempts, job.queue, now, now))
    return UniqueJob(_row(job, now), (job.key, job.unique_key))


def _many(jobs: list[NewJob], now: str) -> OneJob | UniqueJob | ManyJobs:
    if len(jobs) == 1:
        return _one(jobs[0], now)
    return ManyJobs(rows.to_json([_short_row(job) for job in jobs]), now, len(jobs))


def _short_row(job: NewJob) -> tuple[str | int | None, ...]:
    """Return what is particular to one of many jobs."""
    start = (job.key, job.payload, job.priority, job.max_attempts, job.queue)
    if job.run_at is None and job.options is None:
        return start
    return (*start, None if job.run_at is None else rows.to_due_text(job.run_at), job.options)


def _row(job: NewJob, now: str) -> tuple[str | int | None, ...]:
    """Return what `insert_unique_job` takes, in the order of its columns."""
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
