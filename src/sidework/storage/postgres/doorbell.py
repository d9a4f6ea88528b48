"""Rings when somebody has committed jobs, by LISTEN and NOTIFY: a hint, coalesced, without content.

NOTIFY takes a lock on the whole database until its transaction ends, so our own commits never carry one: it is sent
behind them in a transaction that is not synced: by a thread on a connection of its own, once for all that was committed
meanwhile, or, where a single job comes after a pause, in the same write (`single`). Where nobody can listen
(`listening`) there is polling.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg

from sidework.errors import SideworkError
from sidework.storage.postgres.callers import RING_APART
from sidework.storage.postgres.connect import close
from sidework.storage.postgres.listening import CHANNEL, Listening

if TYPE_CHECKING:
    from psycopg import Connection

    from sidework.storage.postgres.connect import Address

POLL_EVERY: Final = 0.25
"""Seconds between two looks where nobody can listen."""
LOOKS_BETWEEN_TRIES: Final = (2, 6)
"""At least and at most, by chance: not all who lost their server come back to it at once."""
QUIET_AFTER: Final = 0.002
"""Seconds between two rings of one process: a busy one rings five hundred times a second at most."""
QUIET_FOR: Final = 0.01
"""Seconds after a ring in which the next one is left to the thread, and shared by whoever commits meanwhile."""
LAST_RING: Final = 0.5
"""Seconds that closing waits for a ring that is under way."""


class PostgresDoorbell:
    """A doorbell for one waiter; `ring` and `close` may come from any thread."""

    def __init__(self, address: Address, *, listen: bool, listens_at: Address | None = None) -> None:
        """Listen, if that is possible: there, or where rings are sent. Raises DatabaseUnavailable."""
        self._rung = threading.Event()
        self._closed = False
        self._sleeper: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._listening = Listening(address, wanted=listen, listens_at=listens_at)
        self._connection = self._listening.begin()
        self._looks_left = random.randint(*LOOKS_BETWEEN_TRIES)  # noqa: S311 - jitter, no secret
        self._ear: int | None = None

    @property
    def mechanism(self) -> str:
        """How it learns of commits: 'LISTEN/NOTIFY', or polling and why."""
        return self._listening.in_words(listens=self._connection is not None)

    def changed(self) -> bool:
        """Whether anybody has rung since the last call; where nobody can listen, that is always possible."""
        if self._connection is None:
            return True
        self._take_in()
        changed = self._rung.is_set()
        self._rung.clear()
        return changed

    def died(self) -> bool:
        """Whether a worker has died: cannot be heard here, and is looked for four times a second."""
        return False

    async def wait(self, timeout: float) -> bool:
        """Return True as soon as somebody has rung, or may have; False after `timeout` seconds or when closed."""
        if self._connection is None:
            await self._sleep(min(timeout, POLL_EVERY))
            await self._listen_anew()
            return not self._closed
        loop, connection = asyncio.get_running_loop(), self._connection
        if not self._closed and not self._rung.is_set():
            self._ear = connection.pgconn.socket  # a connection that is lost does not tell it any more
            loop.add_reader(self._ear, self._hear)
            try:
                await self._sleep(timeout)
            finally:
                self._stop_hearing(loop)
        rung = self._rung.is_set()
        self._rung.clear()
        return rung and not self._closed

    def ring(self) -> None:
        """Wake the waiter; from any thread."""
        self._rung.set()
        self._wake()

    def close(self) -> None:
        """End the wait, and close the connection when nobody waits on it."""
        self._closed = True
        self._wake()
        if self._connection is not None and self._sleeper is None:
            close(self._connection)

    async def _sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleeper = (asyncio.get_running_loop(), woken)
        try:
            if not self._closed and not self._rung.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await woken.wait()
        finally:
            self._sleeper = None
            if self._closed and self._connection is not None:
                self._stop_hearing(asyncio.get_running_loop())
                close(self._connection)

    def _stop_hearing(self, loop: asyncio.AbstractEventLoop) -> None:
        """Before the connection is closed: its number may be given to another file at once."""
        ear, self._ear = self._ear, None
        if ear is not None:
            loop.remove_reader(ear)

    def _wake(self) -> None:
        if (sleeper := self._sleeper) is not None:
            loop, woken = sleeper
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(woken.set)

    def _hear(self) -> None:
        self._take_in()
        if self._rung.is_set() and self._sleeper is not None:
            self._sleeper[1].set()

    def _take_in(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            return
        try:
            connection.pgconn.consume_input()
            while connection.pgconn.notifies() is not None:
                self._rung.set()
        except psycopg.Error:
            self._lose(connection)

    def _lose(self, connection: Connection[Any]) -> None:
        """Go on without a connection that broke: the waiter looks by itself until the next doorbell listens."""
        if self._sleeper is not None:
            self._stop_hearing(self._sleeper[0])
        close(connection)
        self._connection = None
        self._rung.set()

    async def _listen_anew(self) -> None:
        """Try to listen again after a loss, now and then, so that a server that comes back is not stormed."""
        self._looks_left -= 1
        if not self._listening.may_come_back or self._closed or self._looks_left > 0:
            return
        self._looks_left = random.randint(*LOOKS_BETWEEN_TRIES)  # noqa: S311 - jitter, no secret
        with suppress(SideworkError):
            await asyncio.to_thread(self._begin)

    def _begin(self) -> None:
        """Listen, in a thread that goes on when the waiter is cancelled; nobody may have been told to close by then."""
        connection = self._connection = self._listening.begin()
        if self._closed:
            close(connection)


class Ringer:
    """Rings for a process: one NOTIFY for all that was committed since the last one."""

    def __init__(self, address: Address) -> None:
        """Start nothing yet."""
        self._address = address
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._rung_at = -QUIET_FOR

    def is_quiet(self) -> bool:
        """Whether nobody has rung for a while. If so, the caller is to ring, with what it is about to send."""
        now = self._address.clock.monotonic()
        quiet = now - self._rung_at >= QUIET_FOR
        if quiet:
            self._rung_at = now
        return quiet

    def ring(self) -> None:
        """Ring soon; never blocks and never fails."""
        self._rung_at = self._address.clock.monotonic()
        if self._owner != os.getpid():
            self._begin_anew()
        self._asked.set()
        if self._thread is None:
            self._start()

    def close(self) -> None:
        """Send what was asked for, and end the thread; in a forked child there is none."""
        if (thread := self.end()) is not None:
            thread.join(LAST_RING)

    def end(self) -> threading.Thread | None:
        """Let the thread send what was asked for, and end; return it, if there is one."""
        if self._owner != os.getpid():
            return None
        with self._lock:
            thread, self._thread, ended = self._thread, None, self._ended
        if thread is not None:
            ended.set()
            self._asked.set()
        return thread

    def _begin_anew(self) -> None:
        """Be as new in a forked child: threads are not inherited, and what they held would be held for ever."""
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._thread = None

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._ended = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._ended,), name="sidework-ringer", daemon=True
                )
                self._thread.start()

    def _run(self, ended: threading.Event) -> None:
        connection: Connection[Any] | None = None
        while True:
            self._asked.wait()
            self._asked.clear()
            connection = self._notify(connection)
            if ended.wait(QUIET_AFTER):
                break
        if self._asked.is_set():
            connection = self._notify(connection)
        close(connection)

    def _notify(self, connection: Connection[Any] | None) -> Connection[Any] | None:
        try:
            connection = self._address.connect() if connection is None else connection
            connection.execute(RING_APART, {"channel": CHANNEL})
        except psycopg.Error:
            close(connection)
            return None  # a hint that was not given costs a second at most
        return connection
