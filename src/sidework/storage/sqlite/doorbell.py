"""Rings when somebody has committed to a SQLite database, in whatever process and by whatever program.

`PRAGMA data_version` tells that somebody has committed; reading it costs microseconds. When to read it: on Linux when
the kernel says that the log is written to, elsewhere every few milliseconds; and once a second in any case.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidework.storage.sqlite.alarm import Alarm
from sidework.storage.sqlite.connect import Durability, connect, is_busy, translate
from sidework.storage.sqlite.liveness import is_alive
from sidework.storage.sqlite.relook import LONGEST, Polling, Relook
from sidework.storage.sqlite.watch import DatabaseWatch
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_WITHOUT_A_LOOK: Final = 1.0
"""Seconds. A ring that was never heard costs no more than this."""

_SHORT: Final = 0.005
"""Seconds. Below this the rounding of the loop's own timers would be felt."""

_STATEMENTS: Final = load(Path(__file__).with_name("doorbell.sql"))


class SqliteDoorbell:
    """A doorbell for one waiter, to whom `changed` and `wait` belong; `ring` and `close` may come from any thread."""

    def __init__(self, path: str | os.PathLike[str], *, durability: Durability = "full", wait: float = 10.0) -> None:
        """Listen to a database that is there. Raises DatabaseMissing, DatabaseBusy, DatabaseUnavailable."""
        self._path = Path(os.path.realpath(path))
        self._lock = threading.Lock()
        self._rung = False
        self._closed = False
        self._waiting = False
        self._sleeper: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._dying: set[Path] = set()
        self._died = False
        self._connection = connect(self._path, durability=durability, wait=wait, readonly=True)
        self._connection.execute(_STATEMENTS["look_briefly"])
        self._version = self._data_version()
        self._watch: DatabaseWatch | None
        self._alarm: Alarm | None
        self._watch, self._alarm = _ear(self._path)

    @property
    def mechanism(self) -> str:
        """How it knows when to look: 'inotify' or 'polling'."""
        return "inotify" if self._watch else "polling"

    def changed(self) -> bool:
        """Whether anybody has committed since the last call."""
        version = self._data_version()
        changed = version not in (None, self._version)
        if changed:
            self._version = version
        return changed

    def died(self) -> bool:
        """Whether a worker on this machine has died since the last call: a hint to look for lost jobs at once."""
        died, self._died = self._died, False
        return died

    async def wait(self, timeout: float) -> bool:
        """Return True as soon as a commit can be seen, a worker has died or `ring` was called.

        False: none of these within `timeout` seconds, or the doorbell was closed. May be cancelled at any time.
        """
        with self._resources_kept():
            loop = asyncio.get_running_loop()
            deadline = loop.time() + timeout
            rhythm = Relook() if self._watch else Polling()
            while not self._closed:
                if self._news(rhythm, loop.time()):
                    return True
                now = loop.time()
                if now >= deadline:
                    return False
                pause = rhythm.pause(now)
                if pause is None:
                    self._dying.clear()
                await self._sleep(
                    min(pause or LONGEST_WITHOUT_A_LOOK, deadline - now), listen=not pause or pause >= LONGEST
                )
            return False

    def ring(self) -> None:
        """Wake the waiter, or the next one to wait; from any thread."""
        with self._lock:
            self._rung = True
            self._wake()

    def close(self) -> None:
        """Free what the operating system gave; a waiter returns False first. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._wake()
                self._free_if_unused()

    # ----------------------------------------------------------------------------------------------- look and hear

    def _news(self, rhythm: Relook | Polling, now: float) -> bool:
        with self._lock:
            rung, self._rung = self._rung, False
        dying = len(self._dying)
        if self._hear():
            rhythm.rung(now, by_a_death=len(self._dying) > dying)
        # Both are asked in any case: each remembers what it has told.
        changed, died = self.changed(), self._look_for_the_dead()
        return rung or changed or died

    def _hear(self) -> bool:
        """Whether the log was written to or a lock file was closed."""
        if self._watch is None:
            return False
        try:
            heard = self._watch.hear()
        except OSError:
            self._go_deaf()
            return True
        self._dying |= heard.closed
        return heard.written or bool(heard.closed)

    def _look_for_the_dead(self) -> bool:
        # The kernel tells of the closing a moment before it frees the lock.
        dead = {path for path in self._dying if not is_alive(path)}
        self._dying -= dead
        self._died |= bool(dead)
        return bool(dead)

    def _data_version(self) -> int | None:
        """Return the number that changes with each commit, or None when it cannot be read just now."""
        with self._lock:
            if self._closed:
                return None
            try:
                version: int = self._connection.execute(_STATEMENTS["data_version"]).fetchone()[0]
            except sqlite3.Error as error:
                if is_busy(error):
                    return None
                raise translate(error, self._path) from error
            return version

    # ------------------------------------------------------------------------------------------------------- sleep

    async def _sleep(self, seconds: float, *, listen: bool) -> None:
        """Sleep until the time is up, `ring` or `close` is called, or (if `listen`) there is something to hear."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._rung or self._closed:
                return
            self._sleeper = loop, woken
        try:
            with self._timer(loop, woken, seconds), self._ear_open(loop, woken, listen=listen):
                await woken
        finally:
            with self._lock:
                self._sleeper = None

    @contextmanager
    def _timer(self, loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None], seconds: float) -> Iterator[None]:
        if self._alarm is None or seconds > _SHORT:
            handle = loop.call_later(seconds, _finish, woken)
            try:
                yield
            finally:
                handle.cancel()
            return
        self._alarm.set(seconds)
        loop.add_reader(self._alarm.fileno(), _finish, woken)
        try:
            yield
        finally:
            loop.remove_reader(self._alarm.fileno())

    @contextmanager
    def _ear_open(
        self, loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None], *, listen: bool
    ) -> Iterator[None]:
        if self._watch is None or not listen:
            yield
            return
        loop.add_reader(self._watch.fileno(), _finish, woken)
        try:
            yield
        finally:
            loop.remove_reader(self._watch.fileno())

    def _wake(self) -> None:
        if self._sleeper:
            loop, woken = self._sleeper
            with suppress(RuntimeError):  # its loop is closed: nobody sleeps there any more
                loop.call_soon_threadsafe(_finish, woken)

    # -------------------------------------------------------------------------------------------------------- close

    @contextmanager
    def _resources_kept(self) -> Iterator[None]:
        """Nothing is freed while the loop may still be watching it."""
        with self._lock:
            self._waiting = True
        try:
            yield
        finally:
            with self._lock:
                self._waiting = False
                self._free_if_unused()

    def _free_if_unused(self) -> None:
        if self._closed and not self._waiting:
            self._connection.close()
            self._go_deaf()

    def _go_deaf(self) -> None:
        for source in (self._watch, self._alarm):
            if source is not None:
                source.close()
        self._watch = self._alarm = None


def _ear(path: Path) -> tuple[DatabaseWatch, Alarm] | tuple[None, None]:
    """Return what the kernel gives for listening; nothing where it has none, or none left."""
    try:
        watch = DatabaseWatch(path)
    except OSError:
        return None, None
    try:
        return watch, Alarm()
    except OSError:
        watch.close()
        return None, None


def _finish(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
