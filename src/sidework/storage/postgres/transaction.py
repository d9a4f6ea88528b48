"""The transaction of one attempt: what a handler writes through `db` commits with its job, or not at all."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq

from sidework.clock import SystemClock
from sidework.errors import JobLost
from sidework.storage.postgres import rows
from sidework.storage.postgres.connect import translate
from sidework.storage.postgres.owned import SECONDS_TO_CANCEL, OwnedAsyncConnection, OwnedConnection
from sidework.storage.postgres.patience import SILENCE
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from datetime import datetime

    from psycopg import Connection

    from sidework.model.job import Claim, NewJob, Outcome
    from sidework.storage.postgres.callers import Callers
    from sidework.storage.postgres.patience import PatientConnection
    from sidework.storage.postgres.pool import Connections

_SQL: Final = load(Path(__file__).with_name("transaction.sql"))

_UNDER_WAY: Final = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR, pq.TransactionStatus.ACTIVE)
_SECONDS_TO_LEAVE: Final = 1.0
_NO_LOCK: Final = 1e-6
"""Seconds told for a transaction that has begun: here a writer keeps nobody else from writing."""


class Workshop:
    """What all transactions of a store share."""

    def __init__(self, connections: Connections, callers: Callers, *, name: str, committed: Callable[[], None]) -> None:
        """connections: only handlers use them. name: of the database. committed: called after a commit."""
        self.connections = connections
        self.callers = callers
        self.name = name
        self.committed = committed


class _Ownership:
    """What is the same in both colours: whether the transaction has begun, and whether its attempt is over."""

    def __init__(self, claim: Claim, workshop: Workshop) -> None:
        self._claim = claim
        self._workshop = workshop
        self._clock = SystemClock()
        self._underneath: PatientConnection | None = None
        self._begun = False
        self._ever_begun = False
        self._aborted = False
        self.over = False
        """Whether the handler is cut off."""
        self._undone: psycopg.Error | None = None

    @property
    def begun(self) -> bool:
        """Whether the transaction is open."""
        return self._begun

    @property
    def reads_alone(self) -> bool:
        """Whether each statement before the first write can stand alone.

        Not behind a pooler, where a session that may only read would be handed to somebody else next.
        """
        return self._underneath is None or self._underneath.prepare_threshold is not None

    @property
    def waited_for(self) -> float:
        """Nothing: there is no lock to wait for before the first write."""
        return 0.0

    @property
    def held_for(self) -> float:
        """Next to nothing: a writer of PostgreSQL holds no lock that keeps others out; 0 if it never began."""
        return _NO_LOCK if self._ever_begun else 0.0

    def admit(self) -> None:
        """Raise if the attempt is over, or the server has undone the transaction."""
        if self._aborted:
            raise self._lost()
        if self.over:
            raise psycopg.OperationalError(
                f"`db` of job {self._claim.job_id} is closed: its attempt has ended, and it can write nothing any more."
            )

    def begin_gen(self) -> Generator[Any, Any, None]:
        """Begin, and check the fence."""
        yield from self._begin_unfenced()
        if (yield from self._rows(_SQL["holds"].format(job=self._claim.job_id, number=self._claim.number))) != 1:
            yield from self._roll_back()
            raise self._lost()

    def note(self, error: psycopg.Error) -> None:
        """Notice that the server has undone the transaction: it takes no more statements, and cannot commit."""
        if self._aborted:
            raise self._lost() from error
        if self._begun and self._undone is None and self._is_undone():
            self._undone = error

    def _is_aborted(self) -> bool:
        return self._aborted

    def _is_undone(self) -> bool:
        return self._underneath is None or self._underneath.pgconn.transaction_status not in (
            pq.TransactionStatus.INTRANS,
            pq.TransactionStatus.ACTIVE,
        )

    def _begin_unfenced(self) -> Generator[Any, Any, None]:
        yield from self._command(_SQL["begin"])
        self._begun = self._ever_begun = True

    def _roll_back(self) -> Generator[Any, Any, None]:
        self._begun = False
        yield from self._command(_SQL["roll_back"])

    def _command(self, sql: str) -> Generator[Any, Any, Any]:
        underneath: Any = self._underneath
        return (yield from underneath._exec_command(sql.encode()))  # noqa: SLF001 - the only colourless way

    def _rows(self, sql: str) -> Generator[Any, Any, int]:
        result = yield from self._command(sql)
        return int(result.ntuples)

    def _commit_gen(self) -> Generator[Any, Any, None]:
        self._begun = False
        yield from self._command(_SQL["commit"])

    def _lost(self) -> JobLost:
        return JobLost(
            f"job {self._claim.job_id} is no longer held by this attempt: it ran out of time, was cancelled, or was "
            "claimed again. Nothing that the attempt wrote through `db` is kept."
        )

    def _take_underneath(self) -> PatientConnection:
        try:
            connection = self._workshop.connections.take()
            if connection.prepare_threshold is not None and not _only_reads(connection):
                connection.execute(_SQL["only_read"])
        except psycopg.Error as error:
            raise translate(error, self._workshop.name) from error
        return connection

    def _let_go(self) -> None:
        """Cut the handler off; what is open is rolled back, and the connection is as new when another job gets it."""
        self.over = True
        self._begun = False
        connection, self._underneath = self._underneath, None
        if connection is None:
            return
        try:
            if connection.pgconn.transaction_status in _UNDER_WAY:
                connection.execute(_SQL["roll_back"])
            if connection.prepare_threshold is not None:
                connection.pgconn.exec_(_SQL["forget"].encode())
        except psycopg.Error:
            connection.close()
        self._workshop.connections.give(connection)

    def _break_in(self) -> None:
        """End the statement that runs now, in the server if it can be reached, and here in any case."""
        connection = self._underneath
        if connection is None:
            return
        with suppress(psycopg.Error):
            connection.cancel_safe(timeout=SECONDS_TO_CANCEL)

    def cut_the_line(self) -> None:
        """End the connection, whatever runs on it; who waits there gets an error at once."""
        connection = self._underneath
        if connection is None:
            return
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as line:
            line.shutdown(socket.SHUT_RDWR)


class PostgresJobTransaction(_Ownership):
    """The transaction of a sync handler; nothing is opened before it is used."""

    def __init__(self, claim: Claim, workshop: Workshop) -> None:
        """Remember what it works with."""
        super().__init__(claim, workshop)
        self._lock = threading.RLock()
        self._connection = OwnedConnection(self)
        self._connection.lock = self._lock  # type: ignore[assignment]

    @property
    def connection(self) -> OwnedConnection:
        """The handler's `db`."""
        return self._connection

    def open(self) -> None:
        """Have a connection underneath."""
        if self._underneath is None:
            self.admit()
            self._underneath = connection = self._take_underneath()
            self._connection.pgconn = connection.pgconn
            self._connection._prepared = connection._prepared  # noqa: SLF001 - names of the session underneath
            self._connection.prepare_threshold = connection.prepare_threshold

    def begin(self) -> None:
        """Begin now, unless it has begun."""
        with self._lock:
            self.admit()
            if not self._begun:
                self._run(self.begin_gen())

    def insert(self, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert jobs that exist if and only if this commits."""
        self.begin()
        return self._workshop.callers.join(self._connection, jobs, now=now)

    def commit(self, outcome: Outcome, *, now: datetime) -> bool:
        """Write the outcome and commit everything. False: superseded, and all of it rolled back.

        What the server refuses is raised after everything was rolled back.
        """
        with self._lock:
            if self._aborted or self.over:
                return False
            self._connection.patience = SILENCE  # from here on what is sent is ours, and short
            try:
                return self._commit(outcome, now)
            except psycopg.Error:
                if self._is_aborted():  # while the statement ran
                    return False
                raise
            finally:
                self._let_go()

    def abort(self) -> None:
        """Roll back and cut the handler off. From any thread, at any time, more than once."""
        if self.over:
            return
        self._aborted = True
        if self._leaves_within(0.0):
            return
        self._break_in()
        if self._leaves_within(_SECONDS_TO_LEAVE):
            return
        self.cut_the_line()
        self._leaves_within(_SECONDS_TO_LEAVE)

    def close(self) -> None:
        """End without an outcome: roll back what is open."""
        with self._lock:
            self._let_go()

    def _leaves_within(self, seconds: float) -> bool:
        """Cut the handler off as soon as no statement of its runs any more."""
        if not self._lock.acquire(timeout=seconds):
            return False
        try:
            self._let_go()
        finally:
            self._lock.release()
        return True

    def _commit(self, outcome: Outcome, now: datetime) -> bool:
        if self._undone is not None:
            raise self._undone
        if not self._begun:
            self._run(self._begin_unfenced())
        cursor = psycopg.Cursor(self._connection)
        cursor.execute(self._workshop.callers.settle, rows.outcomes([outcome], now))
        if not cursor.fetchall():
            self._run(self._roll_back())
            return False
        self._run(self._commit_gen())
        self._workshop.committed()
        return True

    def _run(self, gen: Generator[Any, Any, None]) -> None:
        self._connection.wait(gen)


class PostgresAsyncJobTransaction(_Ownership):
    """The transaction of an async handler; nothing is opened before it is used."""

    def __init__(self, claim: Claim, workshop: Workshop) -> None:
        """Remember what it works with."""
        super().__init__(claim, workshop)
        self._opening = asyncio.Lock()
        self._connection = OwnedAsyncConnection(self)

    @property
    def connection(self) -> OwnedAsyncConnection:
        """The handler's `db`."""
        return self._connection

    async def open(self) -> None:
        """Have a connection underneath."""
        if self._underneath is not None:
            return
        async with self._opening:
            if self._underneath is None:
                self.admit()
                self._underneath = connection = await asyncio.to_thread(self._take_underneath)
                self._connection.pgconn = connection.pgconn
                self._connection._prepared = connection._prepared  # noqa: SLF001 - names of the session underneath
                self._connection.prepare_threshold = connection.prepare_threshold

    async def begin(self) -> None:
        """Begin now, unless it has begun."""
        async with self._connection.lock:
            self.admit()
            if not self._begun:
                await self._run(self.begin_gen())

    async def insert(self, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert jobs that exist if and only if this commits."""
        await self.begin()
        return await self._workshop.callers.ajoin(self._connection, jobs, now=now)

    async def commit(self, outcome: Outcome, *, now: datetime) -> bool:
        """Write the outcome and commit everything. False: superseded, and all of it rolled back."""
        if self._aborted or self.over:
            return False
        self._connection.patience = SILENCE  # from here on what is sent is ours, and short
        try:
            return await self._commit(outcome, now)
        except psycopg.Error:
            if self._is_aborted():  # while the statement ran
                return False
            raise
        finally:
            await self.close()

    def abort(self) -> None:
        """Roll back and cut the handler off. From any thread, at any time, more than once.

        Where a statement runs, it is ended by cutting the line to the server: nothing here may wait.
        """
        if self.over:
            return
        self._aborted = True
        connection = self._underneath
        if connection is None or connection.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            self.cut_the_line()
        else:
            self._let_go()

    async def close(self) -> None:
        """End without an outcome: roll back what is open."""
        if self._underneath is not None:
            await asyncio.to_thread(self._let_go)
        self.over = True

    async def _commit(self, outcome: Outcome, now: datetime) -> bool:
        if self._undone is not None:
            raise self._undone
        if not self._begun:
            async with self._connection.lock:
                await self._run(self._begin_unfenced())
        cursor = psycopg.AsyncCursor(self._connection)
        await cursor.execute(self._workshop.callers.settle, rows.outcomes([outcome], now))
        if not await cursor.fetchall():
            await self._run(self._roll_back())
            return False
        await self._run(self._commit_gen())
        self._workshop.committed()
        return True

    async def _run(self, gen: Generator[Any, Any, None]) -> None:
        await self._connection.wait(gen)


def _only_reads(connection: Connection[Any]) -> bool:
    return connection.pgconn.parameter_status(b"default_transaction_read_only") == b"on"
