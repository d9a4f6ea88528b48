"""The transaction of one attempt: what a handler writes through `db` commits with its job, or not at all."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import weakref
from typing import TYPE_CHECKING, Final, TypeVar, cast

from sidework.clock import SystemClock
from sidework.errors import DatabaseUnavailable, JobLost, TransactionOwned
from sidework.storage.sqlite import rows
from sidework.storage.sqlite.owned import ADVICE, OwnedConnection
from sidework.storage.sqlite.pool import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sidework.model.job import Claim, NewJob, Outcome
    from sidework.storage.contract import Concluded
    from sidework.storage.sqlite.callers import Callers
    from sidework.storage.sqlite.gate import WriteGate
    from sidework.storage.sqlite.owned import OwnedCursor
    from sidework.storage.sqlite.pool import GuardedConnection
    from sidework.storage.sqlite.shared import SqliteSharedTransaction

T = TypeVar("T")

_FEW_CURSORS: Final = 64
_TRIES_TO_INTERRUPT: Final = 20
_PAUSE_BETWEEN_TRIES: Final = 0.005


class SqliteJobTransaction:
    """The transaction of a sync handler; nothing is opened before it is used.

    It is the whole of a transaction or a part of one that is shared (`shared.py`). Who ends it from outside while a
    statement runs leaves the cleaning up to the thread that comes out of that statement, if it does not at once.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        shared: SqliteSharedTransaction,
        gate: WriteGate,
        callers: Callers,
        concluded: Concluded | None = None,
    ) -> None:
        """Remember what it works with.

        shared: what it is a part of. concluded: called when that was committed, some time after `commit` has returned
        True; None: `commit` commits at once.
        """
        self._claim = claim
        self._shared = shared
        self._gate = gate
        self._callers = callers
        self._concluded = concluded
        self._clock = SystemClock()
        self._connection = OwnedConnection(self)
        self._underneath: GuardedConnection | None = None
        self._cursors: list[weakref.ref[OwnedCursor]] = []
        self._few_cursors = _FEW_CURSORS
        self._inside = False
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
        """Whether it has begun to write, and can still be rolled back."""
        return self._inside

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
        """Begin now, unless it has begun, and share with nobody from now on: `commit` is to commit at once."""
        self._concluded = None
        self.guarded(self._begin_once)

    def join(self) -> None:
        """Begin now, unless it has begun."""
        self.harmless(self._begin_once)

    def insert(self, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert jobs that exist if and only if this commits."""
        return self.harmless(self._insert, jobs, now)

    def commit(self, outcome: Outcome, *, now: datetime) -> bool:
        """Write the outcome and commit everything. False: superseded, and all of it rolled back.

        Where it is shared, that is committed later, and `concluded` is told. What the database refuses is raised after
        everything was rolled back: sqlite3.Error, TransactionOwned where it had undone the handler's writes before,
        DatabaseUnavailable where the file was moved, removed or replaced.
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
            if self._shared.lock.acquire(timeout=0 if self._waiting else _PAUSE_BETWEEN_TRIES):
                self._shared.depth += 1
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
        result: T = self.harmless(self._statement, sql, call, *arguments)
        return result

    def guarded(self, call: Callable[..., T], *arguments: object) -> T:
        """Run something of the handler with nobody else on the connection, and apart from what others left there."""
        result: T = self.harmless(self._apart, call, *arguments)
        return result

    def harmless(self, call: Callable[..., T], *arguments: object) -> T:
        """Run something of the handler with nobody else on the connection. What others left there may be open."""
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
        self._shared.lock.acquire()
        self._shared.depth += 1

    def _leave(self) -> None:
        self._shared.depth -= 1
        try:
            if self._aborted and self._shared.depth == 0:
                self._end()
        finally:
            self._shared.lock.release()

    def _apart(self, call: Callable[..., T], *arguments: object) -> T:
        if not self._inside:
            self._shared.stay_apart()
        return call(*arguments)

    def _usable(self) -> GuardedConnection:
        if self._aborted or self._ended or self._undone is not None:
            raise self._why_unusable()
        self._gate.refuse_forked_child()
        if self._underneath is None:
            self._underneath = self._shared.connection()
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
        if not self._inside:
            self._begin(self._usable())

    def _begin(self, connection: GuardedConnection, *, fenced: bool = True) -> None:
        for alive in self._cursors:
            if (cursor := alive()) is not None:
                cursor.keep_rest()
        arrived_at = self._clock.monotonic()
        self._waiting = True
        try:
            self._shared.join(connection, in_savepoint=self._concluded is not None)
        finally:
            self._waiting = False
        self._began_at = self._clock.monotonic()
        self._waited_for += self._began_at - arrived_at
        self._inside = True
        if self._aborted or (fenced and not connection.holds(self._claim.job_id, self._claim.number)):
            self._undo(connection)
            raise self._lost()

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
        if not self._inside:
            self._begin(connection, fenced=False)
        try:
            settled = connection.settle(outcome, now)
            if settled:
                self._shared.keep(connection, self._concluded)
                self._out()
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
        if connection is None:
            return
        try:
            self._shut_cursors()
            if self._inside:
                self._undo(connection)
        finally:
            connection.changed = connection.changed or self._aborted
            self._shared.leave(connection)

    def _undo(self, connection: GuardedConnection) -> None:
        self._out()
        self._shared.undo(connection)

    def _out(self) -> None:
        self._inside = False
        self._held_for = self._clock.monotonic() - self._began_at

    # ------------------------------------------------------------------ a statement

    def _statement(self, sql: object, call: Callable[..., T], *arguments: object) -> T:
        connection = self._usable()
        kind = connection.kinds.get(sql)
        if kind is Kind.REFUSED:
            raise TransactionOwned(ADVICE)
        if not self._inside:
            if kind is Kind.WRITE:
                self._begin(connection)
            else:
                self._shared.stay_apart()
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
        return connection.seen is Kind.WRITE and not self._inside

    def _look_after(self, connection: GuardedConnection, error: sqlite3.Error) -> None:
        """Notice what an error has done to the transaction: a full disk or RAISE(ROLLBACK) undoes all of it."""
        if self._aborted:
            raise self._lost() from error
        if self._inside and not connection.in_transaction:
            self._undone = error
            self._out()
            self._shared.undone(connection, error)

    def _shut_cursors(self) -> None:
        cursors, self._cursors = self._cursors, []
        for alive in cursors:
            if (cursor := alive()) is not None:
                with contextlib.suppress(sqlite3.Error):
                    cursor.shut()
