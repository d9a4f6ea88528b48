"""One write transaction for the handlers of one thread, one after the other: each adds to what the others left in it.

A commit costs as much as several small handlers. So the transaction of a short handler stays open when it has ended,
and the next one that writes joins it, in a savepoint of its own; what they did is acknowledged when all of it is
committed. Nobody is in the transaction before its own first write: until then anybody may commit what the others left.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from sidework.errors import DatabaseBusy
from sidework.storage.sqlite.connect import is_busy
from sidework.storage.sqlite.transaction import SqliteJobTransaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidework.model.job import Claim
    from sidework.storage.contract import Concluded
    from sidework.storage.sqlite.callers import Callers
    from sidework.storage.sqlite.gate import Hold, WriteGate
    from sidework.storage.sqlite.pool import ConnectionPool, GuardedConnection

_PATIENCE_OF_WHO_CUTS = 0.005


class SqliteSharedTransaction:
    """A connection, the write transaction on it, and those who have ended in it; all of it under one lock."""

    def __init__(
        self,
        *,
        gate: WriteGate,
        pool: ConnectionPool,
        callers: Callers,
        told: Callable[[], object] = bool,
        one_thread: bool = True,
    ) -> None:
        """Remember what it works with.

        told: called when all who have ended were told. one_thread: the thread that begins is the one that may wait
        for itself.
        """
        self._gate = gate
        self._pool = pool
        self._callers = callers
        self._told = told
        self._one_thread = one_thread
        self._connection: GuardedConnection | None = None
        self._lent = False
        self._arriving = False
        self._hold: Hold | None = None
        self._inside = False
        """Whether a handler that has not ended has written."""
        self._ended: list[Concluded] = []
        self.lock = threading.RLock()
        """Lets one thread at a time onto the connection: that of the handler, or that of who ends something."""
        self.depth = 0
        """How often the thread that has the lock has entered."""

    # ------------------------------------------------------------------ the contract

    def transaction(self, claim: Claim, concluded: Concluded | None = None) -> SqliteJobTransaction:
        """Return the transaction of the next handler; the one before must have ended. None: it shares with nobody."""
        return SqliteJobTransaction(claim, shared=self, callers=self._callers, gate=self._gate, concluded=concluded)

    @property
    def wants_to_write(self) -> bool:
        """Whether its thread waits for the write lock."""
        return self._arriving

    @property
    def waiting(self) -> int:
        """How many handlers have ended and wait for the commit."""
        return len(self._ended)

    def finish(self) -> None:
        """Commit what those who have ended left, and tell them what came of it. From any thread.

        Does nothing while a handler is inside: its end will do it.
        """
        with self.lock:
            self._finish_if_nobody_is_inside()

    def cut(self) -> None:
        """Do the same, but give up where somebody is on the connection and stays."""
        if self.lock.acquire(timeout=_PATIENCE_OF_WHO_CUTS):
            try:
                self._finish_if_nobody_is_inside()
            finally:
                self.lock.release()

    # ------------------------------------------------------------------ for the handler's transaction, with the lock

    def connection(self) -> GuardedConnection:
        """Lend the connection, until `leave`."""
        if self._connection is None:
            self._connection = self._pool.take()
        self._lent = True
        return self._connection

    def join(self, connection: GuardedConnection, *, in_savepoint: bool) -> None:
        """Begin, unless others have, and count as inside. Raises DatabaseBusy."""
        if self._hold is None:
            self._arriving = True
            try:
                self._hold = self._begin_to_write(connection, patient=in_savepoint)
            finally:
                self._arriving = False
        if in_savepoint:
            self._mark(connection)
        self._inside = True

    def stay_apart(self) -> None:
        """Commit what others left, before something that is to happen outside of their transaction."""
        if self._hold is not None:
            self._finish_if_nobody_is_inside()

    def keep(self, connection: GuardedConnection, concluded: Concluded | None) -> None:
        """Let what the one inside has written stay, to be committed: with what others add, or now (None).

        Raises what the commit raised, if it was to be now; all is rolled back then.
        """
        if concluded is None:
            self._inside = False
            error = self._finish(connection)
            self._tell(error, at_fault=False)
            if error is not None:
                raise error
            return
        connection.savepoint("release")
        self._inside = False
        self._ended.append(concluded)

    def undo(self, connection: GuardedConnection) -> None:
        """Undo what the one inside has written, and nothing else."""
        self._inside = False
        try:
            if not self._ended:
                self._roll_back(connection)
            else:
                connection.savepoint("undo")
                connection.savepoint("release")
        except sqlite3.Error as error:  # such as: there is no such savepoint, for the database has undone everything
            self.undone(connection, error)

    def leave(self, connection: GuardedConnection) -> None:
        """Take the connection back. One that was changed is not for the next one: what it carries is committed."""
        self._lent = False
        if connection.changed:
            self._finish_if_nobody_is_inside()
        if self._hold is None:
            self._give_back()

    def undone(self, connection: GuardedConnection, error: Exception) -> None:
        """Take note that everything in the transaction is gone, and tell those who had ended."""
        self._inside = False
        self._roll_back(connection)
        self._tell(error, at_fault=False)

    # ------------------------------------------------------------------ begin and end

    def _begin_to_write(self, connection: GuardedConnection, *, patient: bool) -> Hold:
        hold = self._gate.hold(by_this_thread=self._one_thread, patient=patient, give_way=self._give_way)
        try:
            connection.begin(hold.left)
            hold.begun()
        except BaseException as error:
            hold.release()
            if isinstance(error, sqlite3.Error) and is_busy(error):
                raise DatabaseBusy(self._gate.explain_busy()) from error
            raise
        return hold

    def _give_way(self) -> bool:
        """Let go of the gate because this thread needs it for something else; False: that is not possible now."""
        if self._inside or self.depth:
            return False
        self.finish()
        return True

    def _finish_if_nobody_is_inside(self) -> None:
        connection = self._connection
        if self._hold is None or connection is None or self._inside or self._gate.in_a_forked_child:
            return
        error = self._finish(connection)
        self._tell(error, at_fault=len(self._ended) == 1)
        if not self._lent:
            self._give_back()

    def _mark(self, connection: GuardedConnection) -> None:
        try:
            connection.savepoint("mark")
        except sqlite3.Error:
            if not self._ended:
                self._roll_back(connection)
            raise

    def _finish(self, connection: GuardedConnection) -> Exception | None:
        """Commit, or roll back and return why it could not be; let go of the gate."""
        try:
            connection.place.check()
            connection.end("commit")
        except Exception as error:  # noqa: BLE001 - whatever it is, those who have ended must be told
            self._roll_back(connection)
            return error
        self._let_go()
        return None

    def _roll_back(self, connection: GuardedConnection) -> None:
        try:
            if connection.in_transaction:
                connection.end("roll_back")
        except sqlite3.Error:
            connection.changed = True
        connection.begun = False
        self._let_go()

    def _let_go(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()

    def _tell(self, error: Exception | None, *, at_fault: bool) -> None:
        ended, self._ended = self._ended, []
        for concluded in ended:
            concluded(error, at_fault=at_fault)
        if ended:
            self._told()

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                self._pool.give(connection)
