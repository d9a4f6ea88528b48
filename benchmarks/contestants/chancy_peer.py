"""Chancy. Fastest by its documentation: its asyncio executor, eager polling, a hundred jobs at once."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import program
from chancy import Chancy, Queue, Worker, job

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 100
handlers: list[Callable[[int], None]] = []
"""It imports a job by name, so what the job does is found here."""


@job()
async def work(*, n: int) -> None:
    """Do what was registered."""
    handlers[0](n)


class ChancyPeer:
    """A job function on one queue."""

    def __init__(self, database: str, do: Callable[[int], None]) -> None:
        """Create its tables and declare the queue."""
        handlers.append(do)
        self._runner = asyncio.Runner()
        self._chancy = Chancy(database, log=logging.getLogger("quiet"))
        self._runner.run(self._declare())

    async def _declare(self) -> None:
        await self._chancy.migrate()
        await self._chancy.declare(
            Queue(
                "default",
                concurrency=AT_ONCE,
                executor="chancy.executors.asyncex.AsyncExecutor",
                polling_interval=1,
                eager_polling=True,
            ),
            upsert=True,
        )

    def enqueue(self, n: int) -> None:
        """Commit one job."""
        self._runner.run(self._chancy.push(work.job.with_kwargs(n=n)))

    def enqueue_many(self, numbers: list[int]) -> None:
        """Commit jobs in its own batches."""
        self._runner.run(self._push(numbers))

    async def _push(self, numbers: list[int]) -> None:
        async for _pushed in self._chancy.push_many([work.job.with_kwargs(n=n) for n in numbers]):
            pass

    def work(self) -> None:
        """Let its worker work."""
        self._runner.run(self._work())

    async def _work(self) -> None:
        async with Worker(self._chancy) as worker:
            await worker.wait_for_shutdown()


program.run(ChancyPeer)
