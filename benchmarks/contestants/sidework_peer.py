"""sidework, with its default settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import program

from sidework import BackgroundService

if TYPE_CHECKING:
    from collections.abc import Callable


class Sidework:
    """`BackgroundService(database)` and an async handler."""

    def __init__(self, database: str, do: Callable[[int], None]) -> None:
        """Register the handler."""
        self._service = BackgroundService(database)

        @self._service.handler
        async def work(n: int) -> None:
            do(n)

        self._work = work
        self._service.migrate()

    def enqueue(self, n: int) -> None:
        """Commit one job."""
        self._work.enqueue(n=n)

    def enqueue_many(self, numbers: list[int]) -> None:
        """Commit all jobs at once."""
        self._service.enqueue_many([self._work.new(n=n) for n in numbers])

    def work(self) -> None:
        """Drain; a service for good where the jobs are yet to come."""
        if program.sys.argv[1] == "drain":
            self._service.run_until_idle()
        else:
            self._service.run()


program.run(Sidework)
