"""Waiting for a job to move: pushed by the doorbell of the database, with a look at least once a second."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sidework.engine.context import current_job
from sidework.errors import JobCancelled, JobFailed, JobNotFound, SideworkError, WaitTimeout
from sidework.model.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidework.model.job import Job
    from sidework.storage.contract import Doorbell, Storage

LONGEST_WITHOUT_A_LOOK = 1.0


class Watcher:
    """Follows jobs of one database, in whatever process they run."""

    def __init__(self, storage: Storage) -> None:
        """Take the storage to look into."""
        self._storage = storage

    async def watch(self, job_id: int) -> AsyncIterator[Job]:
        """Yield the job now and after each change of its status or progress; the last one has ended.

        Raises JobNotFound if there is no such job, or no longer.
        """
        async with self._doorbell() as doorbell:
            seen: Job | None = None
            while seen is None or not seen.status.ended:
                doorbell.changed()  # forget earlier commits before looking, so that none falls between look and wait
                job = await self._get(job_id)
                if job != seen:
                    seen = job
                    yield job
                elif not doorbell.changed():
                    await doorbell.wait(LONGEST_WITHOUT_A_LOOK)

    async def wait(self, job_id: int, timeout: float | None) -> Job:
        """Return the job once it has ended. Raises WaitTimeout, JobNotFound."""
        try:
            async with asyncio.timeout(timeout):
                async for job in self.watch(job_id):
                    last = job
        except TimeoutError:
            raise WaitTimeout(
                f"job {job_id} had not ended after {timeout} s; it goes on, and can be waited for again"
            ) from None
        return last

    def wait_here(self, job_id: int, timeout: float | None) -> Job:
        """Block until the job has ended. Refuses where blocking would stop the very thing it waits for."""
        _refuse_to_block(job_id)
        return asyncio.run(self.wait(job_id, timeout))

    async def _get(self, job_id: int) -> Job:
        job = await asyncio.to_thread(self._storage.get, job_id)
        if job is None:
            raise JobNotFound(
                f"there is no job {job_id}: it was never enqueued here, was deleted, or is past its retention"
            )
        return job

    @asynccontextmanager
    async def _doorbell(self) -> AsyncIterator[Doorbell]:
        doorbell = self._storage.doorbell()
        try:
            yield doorbell
        finally:
            doorbell.close()


def completed(job: Job) -> Job:
    """Return a job that ended well. Raises JobFailed or JobCancelled for one that did not."""
    if job.status is JobStatus.FAILED:
        raise JobFailed(job.id, job.last_error)
    if job.status is JobStatus.CANCELLED:
        raise JobCancelled(f"job {job.id} was cancelled")
    return job


def _refuse_to_block(job_id: int) -> None:
    running = current_job.get()
    if running is not None and running.joined_transaction is not None:
        raise SideworkError(
            f"job {running.id} waits for job {job_id} inside its own transaction, which keeps that job from ever "
            "ending; wait before the first write, or after `with job.transaction()`"
        )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise SideworkError(
        f"waiting for job {job_id} would block the running event loop; "
        "use `await handler.aresult(...)` or `async for job in service.watch(...)`"
    )
