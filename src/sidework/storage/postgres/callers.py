"""Enqueueing and completing inside somebody else's transaction, on somebody else's connection or session.

The caller's connection stays the caller's: nothing is committed that the caller did not mean to commit, none of its
settings is changed, no DDL is run, and after an error its transaction is as it was before: what is done there is done
behind a savepoint, because PostgreSQL undoes a whole transaction for one error in it.

What is to be said is written once, as a conversation: a generator that yields statements and is sent their rows. Each
kind of connection, sync or async, holds it in its own way (`lines`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar
from weakref import WeakSet

from sidework.errors import SideworkError, WrongDatabase
from sidework.storage.postgres import rows
from sidework.storage.postgres.lines import AsyncLine, Line, Statement, awaited_line, line, psycopg_line
from sidework.storage.postgres.listening import CHANNEL
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from psycopg import AsyncConnection, Connection

    from sidework.model.job import NewJob, Outcome

T = TypeVar("T")

Rows = Sequence[Sequence[Any]]
Talk = Generator[Statement, Rows, T]

_SQL: Final = load(Path(__file__).with_name("callers.sql"))
_SETTLE: Final = load(Path(__file__).with_name("queries.sql"))["settle"]

INSERT_JOB: Final = _SQL["insert_job"]
RING_APART: Final = _SQL["ring_apart"]

_MOST_JOBS_AT_ONCE: Final = 5000
_MOST_CHARACTERS_AT_ONCE: Final = 16_000_000
_TRIES: Final = 10
"""How often a unique key may be found held by a job that ends before it can be named."""
_SEES_WHAT_IS_COMMITTED: Final = "read committed"


class Callers:
    """What the store does on connections that are not its own."""

    def __init__(self, name: str, *, identity: Callable[[], str], rings: bool) -> None:
        """name: the store's database. identity: reads which one it is. rings: whether enqueueing rings the doorbell."""
        self._name = name
        self._identity = identity
        self._rings = rings
        self._known: WeakSet[Any] = WeakSet()
        self.settle: Any = _SETTLE

    # ------------------------------------------------------------------------------------- on the caller's connection

    def insert(self, connection: object, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert inside the caller's transaction; return the ids in the order given.

        Raises WrongDatabase, NotMigrated, DatabaseBusy, DatabaseUnavailable.
        """
        found = line(connection, self._name)
        return found.hold(self._as_a_guest(found, self._insertion(jobs, now)))

    async def ainsert(self, connection: object, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Do the same on a connection that is awaited, or on one that is not."""
        found = awaited_line(connection, self._name)
        if isinstance(found, Line):
            return found.hold(self._as_a_guest(found, self._insertion(jobs, now)))
        return await found.hold(self._as_a_guest(found, self._insertion(jobs, now)))

    def complete(self, connection: object, outcome: Outcome, *, now: datetime) -> bool:
        """Write the outcome inside the caller's transaction. False: its claim no longer holds the job."""
        found = line(connection, self._name)
        return found.hold(self._as_a_guest(found, self._settlement(outcome, now)))

    async def acomplete(self, connection: object, outcome: Outcome, *, now: datetime) -> bool:
        """Do the same on a connection that is awaited, or on one that is not."""
        found = awaited_line(connection, self._name)
        if isinstance(found, Line):
            return found.hold(self._as_a_guest(found, self._settlement(outcome, now)))
        return await found.hold(self._as_a_guest(found, self._settlement(outcome, now)))

    # ---------------------------------------------------------------------------------------------- on our own

    def join(self, connection: Connection[Any], jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert inside the transaction of a handler's own connection."""
        return line(connection, self._name).hold(_in_savepoint(insertion(jobs, now)))

    async def ajoin(self, connection: AsyncConnection[Any], jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Do the same on that of an async handler."""
        return await psycopg_line(connection, self._name).hold(_in_savepoint(insertion(jobs, now)))

    # ------------------------------------------------------------------------------------------ what is said

    def _as_a_guest(self, found: Line | AsyncLine, talk: Talk[T]) -> Talk[T]:
        polite = _in_savepoint(talk) if found.in_transaction else talk
        return self._to_the_right_database(found, polite)

    def _to_the_right_database(self, found: Line | AsyncLine, talk: Talk[T]) -> Talk[T]:
        if found.connection not in self._known:
            asked = found.in_transaction
            seen = yield from _in_savepoint(_identity()) if asked else _identity()
            if seen != self._identity():
                raise WrongDatabase(
                    f"db= leads to other tables than those of {self._name}, on which the service works. Pass a "
                    "connection to that database and schema, or leave db= out to enqueue in a transaction of its own."
                )
            with suppress(TypeError):  # some cannot be remembered without being kept alive: they are asked each time
                self._known.add(found.connection)
        return (yield from talk)

    def _insertion(self, jobs: Sequence[NewJob], now: datetime) -> Talk[list[int]]:
        ids = yield from insertion(jobs, now)
        if self._rings and ids:
            yield _SQL["ring"], {"channel": CHANNEL}
        return ids

    def _settlement(self, outcome: Outcome, now: datetime) -> Talk[bool]:
        written = yield _SETTLE, rows.outcomes([outcome], now)
        if self._rings and written:
            yield _SQL["ring"], {"channel": CHANNEL}
        return bool(written)


def insertion(jobs: Sequence[NewJob], now: datetime) -> Talk[list[int]]:
    """Insert jobs; return their ids, or those of the jobs that hold their unique keys."""
    if len(jobs) == 1 and jobs[0].unique_key is None:
        found = yield INSERT_JOB, rows.new_job(jobs[0], now)
        return [job_id for (job_id,) in found] or swallowed()
    ids: list[int] = []
    for batch in _batches(jobs):
        inserted = yield _SQL["insert_jobs"], rows.new_jobs(batch, now)
        for job, (job_id, is_new) in zip(batch, inserted, strict=True):
            if not is_new and job.unique_key is None:
                swallowed()
            ids.append(job_id if is_new else (yield from _holder_or_new(job, now)))
    return ids


def copy(connection: Connection[Any], jobs: Sequence[NewJob], now: datetime) -> list[int]:
    """Insert jobs that have no unique keys, in a transaction on a connection of our own; return their ids."""
    moment = rows.to_moment(now)
    ids = _new_ids(connection, len(jobs))
    with connection.cursor() as cursor:
        with cursor.copy(_SQL["copy_jobs"]) as into:
            into.set_types(rows.COPIED_TYPES)
            for job_id, job in zip(ids, jobs, strict=True):
                into.write_row(rows.copied_job(job_id, job, moment))
        return ids if cursor.rowcount == len(jobs) else swallowed()


def _new_ids(connection: Connection[Any], count: int) -> list[int]:
    """Draw numbers, in ascending order."""
    ((first, last, scattered),) = connection.execute(_SQL["new_ids"], {"count": count}).fetchall()
    return list(range(first, last + 1)) if scattered is None else sorted(scattered)


def swallowed() -> NoReturn:
    """Raise SideworkError for a job that was inserted and is not there."""
    raise SideworkError(
        "a job was inserted and is not there: a trigger or a rule on background_service_jobs has swallowed it. "
        "Nothing was enqueued."
    )


def _holder_or_new(job: NewJob, now: datetime) -> Talk[int]:
    """Find who holds a unique key; if that one has just ended, insert after all. Raises SideworkError."""
    for _ in range(_TRIES):
        held = yield _SQL["id_of_unique_job"], {"job_key": job.key, "unique_key": job.unique_key}
        if held:
            return int(held[0][0])
        ((job_id, is_new),) = yield _SQL["insert_jobs"], rows.new_jobs([job], now)
        if is_new:
            return int(job_id)
    ((isolation,),) = yield _SQL["isolation"], {}
    if isolation == _SEES_WHAT_IS_COMMITTED:  # whoever holds the key would have been seen
        swallowed()
    raise SideworkError(
        f"the unique key {job.unique_key!r} of {job.key!r} is held by a job that this transaction cannot see: it was "
        "enqueued after the transaction began. Under REPEATABLE READ or SERIALIZABLE roll back and try again. If it "
        "happens each time, a trigger or a rule on background_service_jobs swallows the job."
    )


def _identity() -> Talk[str]:
    ((identity,),) = yield _SQL["identity"], {}
    return str(identity)  # psycopg2 knows no UUIDs


def _in_savepoint(talk: Talk[T]) -> Talk[T]:
    yield "SAVEPOINT sidework", {}
    try:
        result = yield from talk
    except Exception:
        yield "ROLLBACK TO SAVEPOINT sidework", {}
        yield "RELEASE SAVEPOINT sidework", {}
        raise
    yield "RELEASE SAVEPOINT sidework", {}
    return result


def _batches(jobs: Sequence[NewJob]) -> Generator[list[NewJob], None, None]:
    batch: list[NewJob] = []
    characters = 0
    for job in jobs:
        batch.append(job)
        characters += len(job.payload or "")
        if len(batch) >= _MOST_JOBS_AT_ONCE or characters >= _MOST_CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
