"""huey on SQLite. Its own consumer; fastest by its documentation: small delays, no back-off, no periodic tasks.

Its default synchronous is SQLite's own, FULL. A task is removed when it is taken: it is not acknowledged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import program
from huey import SqliteHuey

if TYPE_CHECKING:
    from collections.abc import Callable


class Huey:
    """`SqliteHuey` with one worker thread: more threads wait for each other."""

    def __init__(self, database: str, do: Callable[[int], None]) -> None:
        """Register the task."""
        logging.getLogger("huey").setLevel(logging.ERROR)
        self._huey = SqliteHuey(filename=database, results=False)

        @self._huey.task(name="work")
        def work(n: int) -> None:
            do(n)

        self._work = work

    def enqueue(self, n: int) -> None:
        """Commit one task."""
        self._work(n)

    def work(self) -> None:
        """Run the consumer."""
        self._huey.create_consumer(
            workers=1, initial_delay=0.001, max_delay=0.001, backoff=1.0, periodic=False, check_worker_health=False
        ).run()


program.run(Huey)
