"""DBOS on SQLite or PostgreSQL. Its own queue; fastest by its documentation: a polling interval of a millisecond."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import program
from dbos import DBOS, DBOSConfig

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = "work"


class Dbos:
    """A workflow on a queue."""

    def __init__(self, database: str, do: Callable[[int], None]) -> None:
        """Register the workflow, then launch; only the worker listens to the queue."""
        config = DBOSConfig(
            name="benchmark",
            system_database_url=database if "://" in database else f"sqlite:///{database}",
            run_admin_server=False,
            log_level="ERROR",
            application_version="1",
        )
        DBOS(config=config)

        @DBOS.workflow(name="work")
        def work(n: int) -> None:
            do(n)

        self._work = work
        works = program.sys.argv[1] in {"drain", "note", "hang"}
        if not works:
            DBOS.listen_queues([])
        DBOS.launch()
        DBOS.register_queue(QUEUE, polling_interval_sec=0.001)

    def enqueue(self, n: int) -> None:
        """Commit one workflow."""
        DBOS.enqueue_workflow(QUEUE, self._work, n)

    def work(self) -> None:
        """Let its threads work."""
        time.sleep(program.FOR_EVER)


program.run(Dbos)
