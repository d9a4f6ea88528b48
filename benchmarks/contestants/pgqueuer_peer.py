"""PgQueuer. Fastest by its documentation: asyncpg, uvloop, batches of a thousand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import program
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueuer.models import Job

BATCH = 1000


class Pgqueuer:
    """An entrypoint on one connection."""

    def __init__(self, database: str, do: Callable[[int], None]) -> None:
        """Connect, and create its tables."""
        self._do = do
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._driver = AsyncpgDriver(self._runner.run(asyncpg.connect(database)))
        self._queries = Queries(self._driver)
        self._runner.run(self._install())

    async def _install(self) -> None:
        if not await self._queries.has_table("pgqueuer"):
            await self._queries.install()

    def enqueue(self, n: int) -> None:
        """Commit one job."""
        self._runner.run(self._queries.enqueue("work", str(n).encode()))

    def enqueue_many(self, numbers: list[int]) -> None:
        """Commit all jobs at once."""
        payloads = [str(n).encode() for n in numbers]
        self._runner.run(self._queries.enqueue(["work"] * len(numbers), payloads, [0] * len(numbers)))

    def work(self) -> None:
        """Let its queue manager work."""
        self._runner.run(self._work())

    async def _work(self) -> None:
        manager = PgQueuer(self._driver)

        @manager.entrypoint("work")
        async def work(job: Job) -> None:
            self._do(int(job.payload or b"0"))

        await manager.run(batch_size=BATCH)


program.run(Pgqueuer)
