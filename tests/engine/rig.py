"""What an engine test stands on: a real database, time moved by hand, handlers, and workers driven turn by turn."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from sidework.clock import FrozenClock
from sidework.engine.worker import Worker
from sidework.model.job import NewJob
from sidework.outbox import Outbox
from sidework.registry import Registry
from sidework.storage.open import open_storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from sidework.engine.events import Event
    from sidework.model.job import Job
    from sidework.storage.contract import Storage

E = TypeVar("E", bound="Event")

DEADLINE = 10.0
"""Seconds after which what must come has not come."""


class HandTimer:
    """A timer that rings when the test says so."""

    def __init__(self) -> None:
        self.set: list[HandAlarm] = []
        self._touched = asyncio.Event()

    def call_later(self, seconds: float, callback: Callable[..., object], *args: object) -> HandAlarm:
        alarm = HandAlarm(seconds, callback, args, self.set)
        self.set.append(alarm)
        self._touched.set()
        return alarm

    async def was_set(self, seconds: float) -> None:
        """Return once an alarm is set for so many seconds."""
        async with asyncio.timeout(DEADLINE):
            while all(alarm.seconds != seconds for alarm in self.set):
                self._touched.clear()
                await self._touched.wait()

    def ring(self, seconds: float) -> None:
        """Ring every alarm that was set for so many seconds."""
        for alarm in [alarm for alarm in self.set if alarm.seconds == seconds]:
            alarm.cancel()
            alarm.callback(*alarm.args)


class HandAlarm:
    def __init__(
        self, seconds: float, callback: Callable[..., object], args: tuple[object, ...], all_of: list[HandAlarm]
    ):
        self.seconds, self.callback, self.args, self._all_of = seconds, callback, args, all_of

    def cancel(self) -> None:
        if self in self._all_of:
            self._all_of.remove(self)


class Rig:
    def __init__(self, path: Path, database: str | None = None) -> None:
        """path: of the SQLite file. database: the address of another one instead."""
        self.path = path
        self.database = database or str(path)
        self.database_kind = "sqlite" if database is None else "postgres"
        self.clock = FrozenClock()
        self.timer = HandTimer()
        self.storage: Storage = open_storage(self.database)
        self.storage.migrate()
        outbox = Outbox(self.storage, self.clock, before_first=lambda: None, sent=lambda: None)
        self.registry = Registry(outbox)
        self.handler = self.registry.decorator
        self.events: list[Event] = []
        self._told = asyncio.Event()

    # ---- jobs

    def add(self, key: str, payload: str | None = None, **columns: Any) -> int:
        [job_id] = self.storage.insert([NewJob(key=key, payload=payload, **columns)], now=self.clock.now())
        return job_id

    def add_many(self, key: str, count: int) -> list[int]:
        return self.storage.insert([NewJob(key=key) for _ in range(count)], now=self.clock.now())

    def job(self, job_id: int) -> Job:
        job = self.storage.get(job_id)
        assert job is not None
        return job

    def status(self, job_id: int) -> str:
        return self.job(job_id).status.value

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement on a connection of its own, as another program would."""
        if self.database.startswith("postgresql:"):
            with closing(psycopg.connect(self.database, autocommit=True)) as connection:
                cursor = connection.execute(statement.replace("?", "%s"), parameters)
                return cursor.fetchall() if cursor.description else []
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=DEADLINE)) as connection:
            return connection.execute(statement, parameters).fetchall()

    # ---- workers

    def worker(self, storage: Storage | None = None, **options: Any) -> Worker:
        """Return a worker that knows every handler registered so far, and has not joined."""
        settings: dict[str, Any] = {
            "clock": self.clock, "timer": self.timer, "random": lambda: 0.5, "listeners": [self._listen], **options
        }  # fmt: skip
        handlers = {handler.key: handler for handler in self.registry.handlers()}
        return Worker(storage or self.storage, handlers, self, **settings)

    @asynccontextmanager
    async def working(self, storage: Storage | None = None, **options: Any) -> AsyncIterator[Worker]:
        """Give a worker that has joined, and leaves at the end."""
        worker = self.worker(storage, **options)
        await worker.join()
        try:
            yield worker
        finally:
            worker.stop(now=True)
            await self.drain(worker)
            await worker.leave()

    async def finish(self, worker: Worker) -> None:
        """Take turns until the worker holds nothing and finds nothing to claim."""
        while True:
            await self.turn(worker)
            if worker._bench.empty and not worker._bench.has_ended and not worker._turn.claimed:
                if not worker._suspicion.pending:
                    return
            elif not worker._bench.has_ended:
                await self.woken(worker)

    async def finish_until(self, worker: Worker, reached: Callable[[], bool]) -> None:
        """Take turns until something is the case; it must come to be by what the handlers do."""
        async with asyncio.timeout(DEADLINE):
            while not reached():
                await self.turn(worker)
                await asyncio.sleep(0)

    async def turn(self, worker: Worker) -> float | None:
        worker._loop._woken.clear()
        return await worker.step()

    async def woken(self, worker: Worker) -> None:
        """Return when something has ended or wants a turn."""
        async with asyncio.timeout(DEADLINE):
            await worker._loop._woken.wait()

    async def drain(self, worker: Worker) -> None:
        """Take turns until a worker that was told to stop says that it is done."""
        while await self.turn(worker) is not None:
            if not worker._bench.has_ended and worker._bench.running:
                await self.woken(worker)

    # ---- events

    async def told(self, kind: type[E], count: int = 1) -> list[E]:
        """Return the events of a kind once there are so many."""
        async with asyncio.timeout(DEADLINE):
            while len(found := self.of(kind)) < count:
                self._told.clear()
                await self._told.wait()
        return found

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def _listen(self, event: Event) -> None:
        self.events.append(event)
        self._told.set()
