"""tinyjobs. Its own worker; fastest by its documentation: many at once, small polls.

It sets synchronous=NORMAL itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import program
from tinyjobs import TinyJobs

if TYPE_CHECKING:
    from collections.abc import Callable


class Tiny:
    """`TinyJobs` with an async task."""

    def __init__(self, database: str, do: Callable[[int], None]) -> None:
        """Register the task."""
        self._app = TinyJobs(f"sqlite:///{database}")

        @self._app.task(name="work")
        async def work(n: int) -> None:
            do(n)

        self._work = work

    def enqueue(self, n: int) -> None:
        """Commit one job."""
        self._work.enqueue(n)

    def work(self) -> None:
        """Run the worker."""
        self._app.worker(concurrency=64, poll_minimum=0.001, poll_maximum=0.001, scheduler=False).run()


program.run(Tiny)
