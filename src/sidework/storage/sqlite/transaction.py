"""The transaction of one attempt: what a handler writes through `db` commits with its job, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, cast

from sidework.clock import SystemClock
from sidework.errors import DatabaseBusy, DatabaseUnavailable, JobLost, TransactionOwned
from sidework.storage.sqlite import rows
from sidework.storage.sqlite.connect import is_busy
from sidework.storage.sqlite.owned import ADVICE, OwnedConnection
from sidework.storage.sqlite.owned_async import OwnedAsyncConnection
from sidework.storage.sqlite.pool import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sidework.model.job import Claim, NewJob, Outcome
    from sidework.storage.sqlite.callers import Callers
    from sidework.storage.sqlite.gate import Hold, WriteGate
    from sidework.storage.sqlite.owned import OwnedCursor
    from sidework.storage.sqlite.pool import ConnectionPool, GuardedConnection

T = TypeVar("T")

_FEW_CURSORS: Final = 64
_TRIES_TO_INTERRUPT: Final = 20
_PAUSE_BETWEEN_TRIES: Final = 0.005


class SqliteJobTransaction:
    """The transaction of a sync handler; nothing is opened before it is used.

    One lock lets one thread at a time onto the connection: that of the handler, or that of who ends the attempt. Who
    ends it while a statement runs leaves the cleaning up to the thread that comes out of that statement, if it does not
    come out at once.
    """

    def __init__(
        self, claim: Claim, *, gate: WriteGate, pool: ConnectionPool, callers: Callers, one_thread: bool = True
    ) -> None:
        """Remember what it works with. one_thread: the thread that begins is the one that may wait for itself."""
        self._claim = claim
        self._gate = gate
        self._pool = pool
        self._callers = callers
        self._one_thread = one_thread
        self._clock = SystemClock()
        self._connection = OwnedConnection(self)
        self._underneath: GuardedConnection | None = None
        self._cursors: list[weakref.ref[OwnedCursor]] = []
        self._few_cursors = _FEW_CURSORS
        self._lock = threading.RLock()
        self._depth = 0
        self._hold: Hold | None = None
        self._waiting = False
        self._ending = threading.Lock()
        self._aborted = False
        self._ended = False
        self._undone: BaseException | None = None
        self._began_at = 0.0
        self._held_for = 0.0
        self._waited_for = 0.0

    # ------------------------------------------------------------------ the contract

    @property
    def connection(self) -> OwnedConnection:
        """The handler's `db`."""
        return self._connection

    @property
    def begun(self) -> bool:
        """Whether the write transaction is open."""
        return self._hold is not None

    @property
    def used(self) -> bool:
        """Whether a connection is open underneath."""
        return self._underneath is not None

    @property
    def waited_for(self) -> float:
        """Seconds for which it waited for the write lock."""
        return self._waited_for

    @property
    def held_for(self) -> float:
        """Seconds for which the write lock was, or has been until now, held."""
        return self._clock.monotonic() - self._began_at if self.begun else self._held_for

    def begin(self) -> None:
        """Begin now, unless it has begun."""
        self.guarded(self._begin_once)

    def insert(self, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert jobs that exist if and only if this commits."""
        return self.guarded(self._insert, jobs, now)

    def commit(self, outcome: Outcome, *, now: datetime) -> bool:
        """Write the outcome and commit everything. False: superseded, and all of it rolled back.

        What the database refuses is raised after everything was rolled back: sqlite3.Error, TransactionOwned where it
        had undone the handler's writes before, DatabaseUnavailable where the file was moved, removed or replaced.
        DatabaseBusy leaves the transaction as it was, not begun.
        """
        self._enter()
        try:
            if self._aborted or self._ended:
                return False
            return self._commit(outcome, rows.to_text(now))
        finally:
            self._leave()

    def abort(self) -> None:
        """Roll back and cut the handler off. From any thread, at any time, more than once."""
        with self._ending:
            if self._ended:
                return
            self._aborted = True
        for _ in range(_TRIES_TO_INTERRUPT):
            self.interrupt()
            # Who waits for its turn to write notices as soon as it has it; there is nothing to interrupt until then.
            if self._lock.acquire(timeout=0 if self._waiting else _PAUSE_BETWEEN_TRIES):
                self._depth += 1
                self._leave()
                return
            if self._waiting:
                return

    def close(self) -> None:
        """End without an outcome: roll back what is open."""
        self._enter()
        try:
            self._end()
        finally:
            self._leave()

    # ------------------------------------------------------------------ what the connection and its cursors ask for

    def statement(self, sql: object, call: Callable[..., T], *arguments: object) -> T:
        """Run a statement of the handler; begin before, if it is a write."""
        result: T = self.guarded(self._statement, sql, call, *arguments)
        return result

    def guarded(self, call: Callable[..., T], *arguments: object) -> T:
        """Run something of the handler with nobody else on the connection."""
        self._enter()
        try:
            connection = self._usable()
            try:
                return call(*arguments)
            except sqlite3.Error as error:
                self._look_after(connection, error)
                raise
        finally:
            self._leave()

    def opened(self) -> GuardedConnection:
        """Return the connection underneath; only within `guarded` and `statement`."""
        return self._usable()

    def watch(self, cursor: OwnedCursor) -> None:
        """Remember a cursor for as long as somebody uses it."""
        self._cursors.append(weakref.ref(cursor))
        if len(self._cursors) > self._few_cursors:
            self._cursors = [alive for alive in self._cursors if alive() is not None]
            self._few_cursors = 2 * len(self._cursors) + _FEW_CURSORS

    def interrupt(self) -> None:
        """Interrupt the statement that runs now, if there is one."""
        with self._ending:
            if self._underneath is not None:
                self._underneath.interrupt()

    # ------------------------------------------------------------------ one at a time

    def _enter(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def _leave(self) -> None:
        self._depth -= 1
        try:
            if self._aborted and self._depth == 0:
                self._end()
        finally:
            self._lock.release()

    def _usable(self) -> GuardedConnection:
        if self._aborted or self._ended or self._undone is not None:
            raise self._why_unusable()
        self._gate.refuse_forked_child()
        if self._underneath is None:
            self._underneath = self._pool.take()
        return self._underneath

    def _why_unusable(self) -> Exception:
        if self._aborted:
            return self._lost()
        if self._ended:
            return sqlite3.ProgrammingError(
                f"`db` of job {self._claim.job_id} is closed: its attempt has ended, and it can write nothing any more."
            )
        return DatabaseUnavailable(
            f"the database has undone the whole transaction of job {self._claim.job_id} ({self._undone}). "
            "Let the error out of the handler: the attempt has failed."
        )

    def _lost(self) -> JobLost:
        return JobLost(
            f"job {self._claim.job_id} is no longer held by this attempt: it ran out of time, was cancelled, or was "
            "claimed again. Nothing that the attempt wrote through `db` is kept."
        )

    # ------------------------------------------------------------------ begin

    def _begin_once(self) -> None:
        if self._hold is None:
            self._begin(self._usable())

    def _begin(self, connection: GuardedConnection, *, fenced: bool = True) -> None:
        for alive in self._cursors:
            if (cursor := alive()) is not None:
                cursor.keep_rest()
        self._waiting = True
        try:
            self._hold = self._begin_to_write(connection)
        finally:
            self._waiting = False
        self._began_at = self._clock.monotonic()
        if self._aborted or (fenced and not connection.holds(self._claim.job_id, self._claim.number)):
            connection.end("roll_back")
            self._let_go()
            raise self._lost()

    def _begin_to_write(self, connection: GuardedConnection) -> Hold:
        arrived_at = self._clock.monotonic()
        hold = self._gate.hold(by_this_thread=self._one_thread)
        self._waited_for += self._clock.monotonic() - arrived_at
        try:
            connection.begin(hold.left)
            hold.begun()
        except BaseException as error:
            hold.release()
            if isinstance(error, sqlite3.Error) and is_busy(error):
                raise DatabaseBusy(self._gate.explain_busy()) from error
            raise
        return hold

    def _insert(self, jobs: Sequence[NewJob], now: datetime) -> list[int]:
        self._begin_once()
        return self._callers.join(cast("sqlite3.Connection", self._connection), jobs, now=now)

    # ------------------------------------------------------------------ end

    def _commit(self, outcome: Outcome, now: str) -> bool:
        if self._undone is not None:
            self._end()
            raise self._undone
        connection = self._usable()
        self._shut_cursors()
        if self._hold is None:
            self._begin(connection, fenced=False)
        try:
            settled = connection.settle(outcome, now)
            if settled:
                connection.place.check()
                connection.end("commit")
        except sqlite3.Error:
            if self._aborted:
                return False
            raise
        finally:
            self._end()
        return settled

    def _end(self) -> None:
        """Roll back what is open, and cut the handler off from the connection."""
        with self._ending:
            if self._ended:
                return
            self._ended = True
            if self._gate.in_a_forked_child:
                return  # connection, transaction and turn are the parent's, and it goes on
            connection, self._underneath = self._underneath, None
        try:
            if connection is not None:
                self._shut_cursors()
                self._give_back(connection)
        finally:
            self._let_go()

    def _give_back(self, connection: GuardedConnection) -> None:
        try:
            if connection.in_transaction:
                connection.end("roll_back")
        except sqlite3.Error:
            connection.changed = True
        if self._aborted:
            connection.changed = True
        self._pool.give(connection)

    def _let_go(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            self._held_for = self._clock.monotonic() - self._began_at
            hold.release()

    # ------------------------------------------------------------------ a statement

    def _statement(self, sql: object, call: Callable[..., T], *arguments: object) -> T:
        connection = self._usable()
        kind = connection.kinds.get(sql)
        if kind is Kind.REFUSED:
            raise TransactionOwned(ADVICE)
        if kind is Kind.WRITE and self._hold is None:
            self._begin(connection)
        # A statement may run others, in a function or a factory of the handler's.
        of_the_one_around, connection.seen = connection.seen, None
        try:
            return call(*arguments)
        except sqlite3.Error:
            if not self._would_be_a_write(connection):
                raise
        finally:
            # Whatever happens: sqlite3 may have cached the statement, and then the parser does not see it again.
            connection.remember(sql)
            connection.seen = of_the_one_around
        self._begin(connection)
        return call(*arguments)

    def _would_be_a_write(self, connection: GuardedConnection) -> bool:
        """Whether SQLite would carry out what it has just refused if the transaction had begun."""
        if connection.seen is Kind.REFUSED:
            raise TransactionOwned(ADVICE) from None
        return connection.seen is Kind.WRITE and self._hold is None

    def _look_after(self, connection: GuardedConnection, error: sqlite3.Error) -> None:
        """Notice what an error has done to the transaction: a full disk or RAISE(ROLLBACK) undoes all of it."""
        if self._aborted:
            raise self._lost() from error
        if self._hold is not None and not connection.in_transaction:
            self._undone = error
            connection.begun = False
            self._let_go()

    def _shut_cursors(self) -> None:
        cursors, self._cursors = self._cursors, []
        for alive in cursors:
            if (cursor := alive()) is not None:
                with contextlib.suppress(sqlite3.Error):
                    cursor.shut()


class SqliteAsyncJobTransaction:
    """The transaction of an async handler: the same one, used from threads that the pool keeps."""

    def __init__(self, claim: Claim, *, gate: WriteGate, pool: ConnectionPool, callers: Callers) -> None:
        self._transaction = SqliteJobTransaction(claim, gate=gate, pool=pool, callers=callers, one_thread=False)
        self._gate = gate
        self._pool = pool
        self._connection = OwnedAsyncConnection(self._transaction.connection, self._in_thread)

    @property
    def connection(self) -> OwnedAsyncConnection:
        """The handler's `db`."""
        return self._connection

    @property
    def begun(self) -> bool:
        """Whether the write transaction is open."""
        return self._transaction.begun

    @property
    def waited_for(self) -> float:
        """Seconds for which it waited for the write lock."""
        return self._transaction.waited_for

    @property
    def held_for(self) -> float:
        """Seconds for which the write lock was, or has been until now, held."""
        return self._transaction.held_for

    async def begin(self) -> None:
        """Begin now, unless it has begun."""
        await self._in_thread(self._transaction.begin)

    async def insert(self, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert jobs that exist if and only if this commits."""
        return await self._in_thread(partial(self._transaction.insert, jobs, now=now))

    async def commit(self, outcome: Outcome, *, now: datetime) -> bool:
        """Write the outcome and commit everything. False: superseded, and all of it rolled back."""
        return await self._in_thread(partial(self._transaction.commit, outcome, now=now))

    def abort(self) -> None:
        """Roll back and cut the handler off. From any thread, at any time, more than once."""
        self._transaction.abort()

    async def close(self) -> None:
        """End without an outcome: roll back what is open."""
        if self._transaction.used:
            await self._in_thread(self._transaction.close)
        else:
            self._transaction.close()

    async def _in_thread(self, act: Callable[[], T]) -> T:
        self._gate.refuse_forked_child()
        return await asyncio.get_running_loop().run_in_executor(self._pool.threads, act)
