"""`Outbox`: where the jobs of a service go out, and where their results come back.

A job goes into the transaction it belongs to: the caller's own (`db=`), else that of the handler that is running, else
one of its own that is durable on return.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sidework.engine.context import current_job
from sidework.errors import SideworkError
from sidework.model.payload import decode_result, encode_result
from sidework.watching import Watcher, completed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sidework.clock import Clock
    from sidework.model.job import Job, NewJob
    from sidework.storage.contract import AsyncJobTransaction, JobTransaction, Storage


class Outbox:
    """Sends jobs into one database. Implements `model.handler.Sender`."""

    def __init__(
        self, storage: Storage, clock: Clock, *, before_first: Callable[[], None], sent: Callable[[], None]
    ) -> None:
        """Take the storage, and what to do before the first own insert (migrate) and after each (wake the worker)."""
        self._storage = storage
        self._clock = clock
        self._before_first = before_first
        self._sent = sent
        self._watcher = Watcher(storage)

    def now(self) -> datetime:
        """Return the service's time."""
        return self._clock.now()

    def send(self, job: NewJob, db: object) -> int:
        """Insert one job; return its id."""
        if db is None and current_job.get() is None:
            return self._send_alone([job])[0]
        return self.send_many([job], db)[0]

    async def asend(self, job: NewJob, db: object) -> int:
        """Insert one job without blocking the loop; return its id."""
        return (await self.asend_many([job], db))[0]

    def send_many(self, jobs: Sequence[NewJob], db: object) -> list[int]:
        """Insert jobs in one transaction; return their ids in the order given."""
        now = self.now()
        if db is not None:
            return self._storage.insert_with(db, jobs, now=now)
        if (transaction := self._joined()) is not None:
            ids = transaction.insert(jobs, now=now)
            if not isinstance(ids, list):
                ids.close()
                raise SideworkError(
                    "this async handler's jobs join its transaction: use `await handler.aenqueue(...)` in it"
                )
            return ids
        return self._send_alone(jobs)

    async def asend_many(self, jobs: Sequence[NewJob], db: object) -> list[int]:
        """Do the same without blocking the loop."""
        now = self.now()
        if db is not None:
            return await self._storage.ainsert_with(db, jobs, now=now)
        if (transaction := self._joined()) is not None:
            ids = transaction.insert(jobs, now=now)
            return ids if isinstance(ids, list) else await ids
        # Carried through even if the caller is cancelled: it would commit all the same.
        return await asyncio.shield(asyncio.to_thread(self._send_alone, jobs))

    def result(self, job_id: int, into: object, timeout: float | None) -> Any:
        """Wait for the job's end; return its result as a value of the type `into`."""
        return _typed(self._watcher.wait_here(job_id, timeout), into)

    async def aresult(self, job_id: int, into: object, timeout: float | None) -> Any:
        """Do the same without blocking the loop."""
        return _typed(await self._watcher.wait(job_id, timeout), into)

    def _send_alone(self, jobs: Sequence[NewJob]) -> list[int]:
        self._before_first()
        ids = self._storage.insert(jobs, now=self.now())  # after the first contact: a server's time is known by then
        self._sent()
        return ids

    def _joined(self) -> JobTransaction | AsyncJobTransaction | None:
        """Return the transaction of the handler that runs here, if it is one on this very database."""
        running = current_job.get()
        if running is None or running.storage is not self._storage:
            return None
        return running.joined_transaction


def _typed(job: Job, into: object) -> Any:
    return decode_result(encode_result(completed(job).result), into)
