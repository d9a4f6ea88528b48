"""Procrastinate. Fastest by its documentation: many jobs at once; LISTEN wakes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import procrastinate
import program

if TYPE_CHECKING:
    from collections.abc import Callable

CONCURRENCY = 30


class Procrastinate:
    """A task in its own worker."""

    def __init__(self, database: str, do: Callable[[int], None]) -> None:
        """Create its tables and register the task."""
        works = program.sys.argv[1] in {"drain", "note", "hang"}
        connector = procrastinate.PsycopgConnector if works else procrastinate.SyncPsycopgConnector
        self._app = procrastinate.App(connector=connector(conninfo=database))

        @self._app.task(name="work")
        async def work(n: int) -> None:
            do(n)

        self._work = work
        if not works:
            self._open(self._app)

    @staticmethod
    def _open(app: procrastinate.App) -> None:
        app.open()
        if not app.connector.execute_query_one("SELECT to_regclass('procrastinate_jobs') AS found")["found"]:
            app.schema_manager.apply_schema()

    def enqueue(self, n: int) -> None:
        """Commit one job."""
        self._work.defer(n=n)

    def enqueue_many(self, numbers: list[int]) -> None:
        """Commit all jobs at once."""
        self._work.batch_defer(*({"n": n} for n in numbers))

    def work(self) -> None:
        """Let its worker work."""
        self._app.run_worker(concurrency=CONCURRENCY, install_signal_handlers=False)


program.run(Procrastinate)
