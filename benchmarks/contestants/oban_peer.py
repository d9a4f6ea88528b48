"""Oban for Python. Fastest: a hundred jobs of the queue at once; NOTIFY wakes it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import program
from oban import Oban, worker
from oban.schema import install

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 100


class ObanPeer:
    """A worker class on one queue."""

    def __init__(self, database: str, do: Callable[[int], None]) -> None:
        """Create its tables and define the worker."""
        self._runner = asyncio.Runner()
        self._pool = self._runner.run(Oban.create_pool(database))
        self._runner.run(self._install())

        @worker(queue="work")
        class Work:
            async def process(self, job: Any) -> None:
                do(job.args["n"])

        self._worker = Work
        self._client = Oban(pool=self._pool)

    async def _install(self) -> None:
        async with self._pool.connection() as connection:
            found = await (await connection.execute("SELECT to_regclass('oban_jobs')")).fetchone()
        if found[0] is None:
            await install(self._pool)

    def enqueue(self, n: int) -> None:
        """Commit one job."""
        self._runner.run(self._client.enqueue(self._worker.new({"n": n})))

    def enqueue_many(self, numbers: list[int]) -> None:
        """Commit all jobs at once."""
        self._runner.run(self._client.enqueue_many([self._worker.new({"n": n}) for n in numbers]))

    def work(self) -> None:
        """Let its queue work."""
        self._runner.run(self._work())

    async def _work(self) -> None:
        async with Oban(pool=self._pool, queues={"work": AT_ONCE}):
            await asyncio.sleep(program.FOR_EVER)


program.run(ObanPeer)
