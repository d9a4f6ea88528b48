"""The jobs of the fault campaigns, and the processes that work on them and enqueue them.

`settle` is the job whose effects must happen once: it inserts a row and adds to a total, in the transaction of its
end. `settle_quickly` does the same in so short a time that several of them share a commit. Each order that is placed
has a row in the application's own table, in the transaction that enqueues its job.
"""

from __future__ import annotations

import random
import sqlite3
import time
from typing import TYPE_CHECKING, Any

from tests.faults.history import ACKED, COMMITTED, INVOKED, RETURNED
from tests.faults.slots import INSIDE, NOWHERE

from sidework import BackgroundService, JobContext
from sidework.engine.events import JobEnded, log_event
from sidework.model.job import JobStatus
from sidework.storage.sqlite.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.history import Log

    from sidework.engine.events import Event

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, document TEXT)",
    "CREATE TABLE IF NOT EXISTS effects (job INTEGER NOT NULL, claim INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS totals (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)",
    "INSERT OR IGNORE INTO totals VALUES (1, 0)",
)
SHORT_DWELL = 0.0005
"""Seconds between first write and end of those that share a commit."""
LIMITED, LIMIT = "limited", 2
LIMITS = (
    f"INSERT INTO background_service_queues (name, running_limit) VALUES ('{LIMITED}', {LIMIT}) "
    "ON CONFLICT (name) DO UPDATE SET running_limit = excluded.running_limit"
)
"""By hand and not by `queues=`, which would limit the other queues as well: of those, jobs are taken in advance."""
KEYS = ("settle", "settle_quickly", "settle_in_block", "settle_async", "outside")
OFTEN = (*KEYS, "settle", *["settle_quickly"] * 6)
"""As often as it takes to let some of them share."""
NEVER_GIVEN_UP = 1_000_000
MOST_WAITING = 60
"""Jobs that wait before an enqueuer pauses: a killed job is to be run again soon."""


class ApplicationConnection(sqlite3.Connection):
    """The application's own; the name tells it from those of the library."""


def never_inside(_state: int, _job: int) -> None:
    """Stand in for a slot where nobody is killed."""


class Workload:
    """One process's view of one database."""

    def __init__(
        self,
        path: Path,
        log: Log,
        *,
        enter: Callable[[int, int], None] = never_inside,
        dwell: float = 0.0,
        apart: bool = False,
        seed: int = 0,
        document: str = "",
        **options: Any,
    ) -> None:
        """enter: says where the process is. dwell: longest pause between first write and commit, in seconds.

        document: what the application keeps with each order.
        apart: commit the effects apart from the job, which must double some of them.
        """
        self.path = path
        self.log = log
        self.enter = enter
        self.dwell = dwell
        self.document = document
        self.random = random.Random(seed)
        self._claims: dict[int, int] = {}
        settings: dict[str, Any] = {"concurrency": 2, "queues": None, "listeners": (self._listen, log_event)} | options
        self.service = BackgroundService(path, **settings)
        options_of_all: dict[str, Any] = {
            "max_attempts": NEVER_GIVEN_UP, "max_crashes": NEVER_GIVEN_UP, "backoff": (0.0,)
        }  # fmt: skip
        settle = self._settle_apart if apart else self._settle
        self.service.register_job_handler("settle", settle, **options_of_all)
        self.service.register_job_handler("settle_quickly", self._settle_quickly, **options_of_all)
        self.service.register_job_handler("settle_async", self._settle_async, **options_of_all)
        self.service.register_job_handler("settle_in_block", self._settle_in_block, **options_of_all)
        self.service.register_job_handler("outside", self._outside, **options_of_all)

    def prepare(self) -> None:
        """Make the application's own tables, and ours."""
        self.service.migrate()
        connection = connect(self.path)
        connection.execute("BEGIN IMMEDIATE")
        for statement in (*SCHEMA, LIMITS):
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.close()

    # ------------------------------------------------------------------------------------------------- handlers

    def _settle(self, db: sqlite3.Connection, job: JobContext, order: int, padding: str = "") -> None:  # noqa: ARG002
        self._invoked(job)
        db.execute("INSERT INTO effects VALUES (?, ?)", (job.id, claim_of(job)))
        self._change(db, job, order)
        self._returned(job)

    def _settle_quickly(self, db: sqlite3.Connection, job: JobContext, order: int) -> None:  # noqa: ARG002 - the payload
        self._invoked(job)
        db.execute("INSERT INTO effects VALUES (?, ?)", (job.id, claim_of(job)))
        self.enter(INSIDE, job.id)
        db.execute("UPDATE totals SET n = n + 1")
        if self.dwell:
            time.sleep(self.random.random() * SHORT_DWELL)
        self._returned(job)

    def _settle_in_block(self, job: JobContext, order: int) -> None:
        self._invoked(job)
        with job.transaction() as db:
            db.execute("INSERT INTO effects VALUES (?, ?)", (job.id, claim_of(job)))
            self._change(db, job, order)
            self._returned(job)

    async def _settle_async(self, db: Any, job: JobContext, order: int) -> None:  # noqa: ARG002 - the payload
        self._invoked(job)
        await db.execute("INSERT INTO effects VALUES (?, ?)", (job.id, claim_of(job)))
        self.enter(INSIDE, job.id)
        await db.execute("UPDATE totals SET n = n + 1")
        self._returned(job)

    def _settle_apart(self, job: JobContext, order: int) -> None:
        self._invoked(job)
        connection = connect(self.path)
        connection.execute("INSERT INTO effects VALUES (?, ?)", (job.id, claim_of(job)))
        self._change(connection, job, order)
        connection.close()
        self._returned(job)
        self.enter(NOWHERE, 0)

    def _outside(self, job: JobContext, order: int) -> None:  # noqa: ARG002 - the payload
        self._invoked(job)
        self._returned(job)

    def _change(self, db: sqlite3.Connection, job: JobContext, order: int) -> None:
        self.enter(INSIDE, job.id)
        db.execute("UPDATE totals SET n = n + 1")
        if self.dwell:
            time.sleep(self.random.random() * self.dwell)
        if order % 10 == 0:
            self.service.enqueue("outside", {"order": -abs(order)}, db=None)

    def _invoked(self, job: JobContext) -> None:
        self._claims[job.id] = claim_of(job)
        self.log.write(INVOKED, job.id, claim_of(job), job._attempt.job.queue)

    def _returned(self, job: JobContext) -> None:
        self.log.write(RETURNED, job.id, claim_of(job), job._attempt.job.queue)

    def _listen(self, event: Event) -> None:
        if isinstance(event, JobEnded) and event.status is JobStatus.COMPLETED:
            self.log.write(COMMITTED, event.job_id, self._claims[event.job_id])

    # ------------------------------------------------------------------------------------------------ processes

    def work(self) -> None:
        """Be a worker until told to stop."""
        self.service.run()

    def enqueue_some(self) -> None:
        """Enqueue some jobs of each kind."""
        for order in range(1, 200):
            self._enqueue(KEYS[order % len(KEYS)], -order)

    def drain(self) -> None:
        """Be a worker until nothing is left to do."""
        self.service.run_until_idle()

    def place_orders(self) -> None:
        """Be the application until killed or told to stop."""
        self.service.migrate()
        application = connect(self.path, factory=ApplicationConnection)
        while True:
            if self._many_wait(application):
                time.sleep(0.002)
                continue
            self._place_one(application, self.random.choice(("with", "with", "back", "alone", "many")))

    def _place_one(self, application: sqlite3.Connection, how: str) -> None:
        order = self.random.randrange(1, 1 << 40)
        match how:
            case "with" | "back":
                self._place_with(application, order, keep=how == "with")
            case "alone":
                self.log.write(ACKED, self._enqueue(self._key(), -order))
            case _:
                jobs = [("outside", {"order": -order - n}) for n in range(3)]
                for job in self.service.enqueue_many(jobs):
                    self.log.write(ACKED, job)

    def _place_with(self, application: sqlite3.Connection, order: int, *, keep: bool) -> None:
        application.execute("BEGIN IMMEDIATE")
        application.execute("INSERT INTO orders VALUES (?, ?)", (order, self.document))
        self.enter(INSIDE, 0)
        job = self._enqueue(self._key(), order, db=application)
        if self.dwell:
            time.sleep(self.random.random() * self.dwell)
        application.execute("COMMIT" if keep else "ROLLBACK")
        self.enter(NOWHERE, 0)
        if keep:
            self.log.write(ACKED, job)

    def _enqueue(self, key: str, order: int, **options: Any) -> int:
        if order % 7 == 0:
            options["queue"] = LIMITED
        if order % 11 == 0:
            options["max_attempts"] = 1
        if key == "outside" and "db" not in options:
            options["unique_key"] = str(order % 50)
        return self.service.enqueue(key, {"order": order}, **options)

    def _key(self) -> str:
        return self.random.choice(OFTEN)

    def _many_wait(self, application: sqlite3.Connection) -> bool:
        waiting = application.execute(
            "SELECT count(*) FROM (SELECT 1 FROM background_service_jobs WHERE status = 'PENDING' LIMIT ?)",
            (MOST_WAITING,),
        ).fetchone()[0]
        return bool(waiting >= MOST_WAITING)


def claim_of(job: JobContext) -> int:
    """Return the number of the claim under which a job runs here."""
    return job._attempt.job.claim.number
