"""The write gate: SQLite has one writer, so within one process writers of a file take turns, in order of arrival.

SQLite's own busy handler, which sleeps and is not fair, is left to other processes. A handler's transaction runs on a
connection of its own and takes the same gate for as long as it lasts.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Self, TypeVar

from sidework.clock import SystemClock
from sidework.errors import DatabaseBusy, SideworkError
from sidework.storage.sqlite.connect import is_busy
from sidework.storage.sqlite.holders import holders_of_write_lock
from sidework.storage.sqlite.line import REMEMBERED_FOR, WritersLine
from sidework.storage.sqlite.place import Place
from sidework.storage.sqlite.turnstile import Turnstile

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

ROOM_FOR_OTHERS = 0.0005
"""Seconds unlocked between two turns of the engine: without it another process waited 3.5 s for one write (p50)."""


class WriteGate:
    """Turns at writing to one database file, for every thread of this process.

    connect: opens the connection that `write` uses; called when it is first needed.
    wait: seconds that a writer waits in all, here and for other processes, before DatabaseBusy.
    path: the database file; it is named in messages and never opened here.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, wait: float, path: str | os.PathLike[str]) -> None:
        self._connect = connect
        self._wait = wait
        self._path = os.fspath(path)
        self._clock = SystemClock()
        self._turnstile = Turnstile()
        self._line = WritersLine(path)
        self._connection: sqlite3.Connection | None = None
        self._place: Place
        self._room_until = 0.0
        self._waited_at = -REMEMBERED_FOR
        self._process: int | None = None
        self._give_way: Callable[[], bool] | None = None
        """Of who has the gate now; to be read by its own thread only."""

    def write(
        self, act: Callable[[sqlite3.Connection], T], *, patient: bool = False, deadline: float | None = None
    ) -> T:
        """Run `act` in a write transaction and return what it returns, once that is durable.

        act: what it raises is raised here, and nothing of it is kept.
        patient: for a worker, which writes again and again: others get a chance before, and need not be short for it.
        deadline: of the wait, where it began earlier; see `deadline`.

        Raises DatabaseBusy after waiting too long, and what sqlite3 raises.
        """
        self.refuse_who_would_wait_for_itself()
        if patient:
            self._pause_for_others()
        if deadline is None:
            deadline = self.deadline()
        self._come_in(deadline, patient=patient)
        try:
            return self._commit(act, deadline, patient=patient)
        finally:
            self._turnstile.give()
            if patient:
                self._room_until = self._clock.monotonic() + ROOM_FOR_OTHERS

    @property
    def free(self) -> bool:
        """Whether nobody of this process writes now."""
        return not self._turnstile.taken

    def deadline(self) -> float:
        """Return until when, on the monotonic clock, somebody waits who comes now."""
        return self._clock.monotonic() + self._wait

    def left(self, deadline: float) -> float:
        """Return the seconds until then, not below zero."""
        return max(0.0, deadline - self._clock.monotonic())

    def hold(
        self, *, by_this_thread: bool = True, patient: bool = False, give_way: Callable[[], bool] | None = None
    ) -> Hold:
        """Wait for the gate and keep it until the Hold is released. Raises DatabaseBusy after waiting too long.

        by_this_thread: what this thread does until then belongs to whoever holds; False: it may serve others too.
        patient: as in `write`.
        give_way: called when this thread comes for the gate itself meanwhile; releases the Hold, or returns False.
        """
        self.refuse_who_would_wait_for_itself()
        deadline = self.deadline()
        self._come_in(deadline, patient=patient)
        self._give_way = give_way
        if not by_this_thread:
            self._turnstile.owner = None
        try:
            self._line.take(self.left(deadline), patient=patient)
        except BaseException:
            self._turnstile.give()
            raise
        return Hold(self._turnstile, self._line, self.left(deadline))

    @property
    def crowded(self) -> bool:
        """Whether a caller, a handler or a stranger had to wait lately, here or elsewhere: keep transactions short."""
        return self._line.crowded or self._clock.monotonic() - self._waited_at < REMEMBERED_FOR

    def close(self) -> None:
        """Close the connection. The next use opens it again.

        In a forked child this does nothing: the connection belongs to the parent.
        """
        if self.in_a_forked_child:
            return
        self.refuse_who_would_wait_for_itself()
        if not self._turnstile.take(self._wait):
            raise self.busy()
        try:
            self._drop_connection()
            self._line.close()
            self._process = None
        finally:
            self._turnstile.give()

    def explain_busy(self) -> str:
        """Return a sentence about who holds the write lock, as far as the system tells, and what to do."""
        holders = holders_of_write_lock(self._path)
        start = f"{self._path}: no turn to write within {self._wait:g} s. "
        if os.getpid() in holders:
            return start + (
                "This process itself holds the write lock, in another connection or in a handler's open transaction. "
                "Commit it first, or pass that connection as db= so that the job becomes part of its transaction."
            )
        if holders:
            who = " and ".join(f"process {pid}" for pid in sorted(holders))
            return start + f"The write lock is held by {who}: it has to commit or roll back sooner."
        return (
            start + "Somebody holds write transactions open for long: do slow work before the first write, not after."
        )

    # ------------------------------------------------------------------ who may come in

    def refuse_forked_child(self) -> None:
        """Raise SideworkError in a child of the process that first used the database here."""
        if self._process is None:
            self._process = os.getpid()
        elif self.in_a_forked_child:
            raise SideworkError(
                f"{self._path} was opened before this process was forked, and a connection does not survive a fork. "
                "Make a new BackgroundService in the child, or start processes with 'spawn' or 'forkserver'."
            )

    def refuse_who_would_wait_for_itself(self) -> None:
        """Raise SideworkError in a thread that holds the gate, and in a forked child."""
        self.refuse_forked_child()
        give_way = self._give_way  # before the owner is known to be us: another one's is not called then
        if self._turnstile.owner == threading.get_ident() and not (give_way is not None and give_way()):
            raise SideworkError(
                f"this thread holds the write gate of {self._path} and would wait for itself. Inside a transaction "
                "of a handler pass its connection as db=, so that the job becomes part of it."
            )

    @property
    def in_a_forked_child(self) -> bool:
        """Whether this process is a child of the one that used the database here."""
        return self._process is not None and self._process != os.getpid()

    def _pause_for_others(self) -> None:
        pause = self._room_until - self._clock.monotonic()
        if pause > 0:
            time.sleep(pause)

    def busy(self) -> DatabaseBusy:
        """Return the error for who has waited too long."""
        return DatabaseBusy(self.explain_busy())

    def _come_in(self, deadline: float, *, patient: bool = False) -> None:
        if not self._turnstile.take_if_free():
            if not patient:
                self._waited_at = self._clock.monotonic()
            if not self._turnstile.take(self.left(deadline)):
                raise self.busy()
        self._give_way = None

    # ------------------------------------------------------------------ the transaction

    def _commit(self, act: Callable[[sqlite3.Connection], T], deadline: float, *, patient: bool) -> T:
        connection = self._connection or self._open()
        self._line.take(self.left(deadline), patient=patient)
        try:
            self._begin(connection, deadline)
            result = act(connection)
            self._place.check()
            connection.execute("COMMIT")
        except BaseException:
            self._undo(connection)
            raise
        finally:
            self._line.give()
        return result

    # ------------------------------------------------------------------ the connection

    def _open(self) -> sqlite3.Connection:
        self._connection = connection = self._connect()
        bound_busy_wait(connection, 0)
        self._place = Place(self._path)
        return connection

    def _begin(self, connection: sqlite3.Connection, deadline: float) -> None:
        try:
            met_somebody = _begin_immediate(connection, self.left(deadline))
        except sqlite3.OperationalError as error:
            if is_busy(error):
                raise self.busy() from error
            raise
        self._line.begun(met_somebody=met_somebody)

    def _undo(self, connection: sqlite3.Connection) -> None:
        """Roll back. A connection that cannot even do that is not used again."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._drop_connection()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Hold:
    """The gate, kept. Let go of it once or more often, from any thread."""

    __slots__ = ("_line", "_released", "_turnstile", "left")

    def __init__(self, turnstile: Turnstile, line: WritersLine, left: float) -> None:
        self._turnstile = turnstile
        self._line = line
        self._released = threading.Lock()
        self.left = left
        """Seconds that were left to wait when the gate was ours: the bound of the wait for other processes."""

    def begun(self) -> None:
        """Say that `BEGIN IMMEDIATE` is done."""
        self._line.begun(met_somebody=False)  # not known: the gate's own writes meet strangers often enough

    def release(self) -> None:
        """Let the next one in; after the first time this does nothing."""
        if self._released.acquire(blocking=False):
            self._line.give()
            self._turnstile.give()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def bound_busy_wait(connection: sqlite3.Connection, seconds: float) -> None:
    """Let SQLite wait so long for other processes, at each statement of this connection."""
    sqlite3.Connection.execute(connection, f"PRAGMA busy_timeout = {round(seconds * 1000)}")


def _begin_immediate(connection: sqlite3.Connection, seconds: float) -> bool:
    """Begin, waiting so long for other processes; return whether there was anybody to wait for.

    The connection itself does not wait: between two writes, who is met is a stranger, and that is worth knowing.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
    else:
        return False
    bound_busy_wait(connection, seconds)
    try:
        connection.execute("BEGIN IMMEDIATE")
    finally:
        bound_busy_wait(connection, 0)
    return True
