"""The jobs of the campaigns on PostgreSQL, the processes that work on them and those that enqueue them.

As `workload`, with the server's own ways: the effects of each process add to totals of its own, so that nobody waits
for who is stopped or cut off in the middle.
"""

from __future__ import annotations

import os
import random
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
from tests.faults.history import ACKED, COMMITTED, INVOKED, RETURNED
from tests.faults.slots import INSIDE, NOWHERE
from tests.faults.workload import NEVER_GIVEN_UP, claim_of, never_inside

from sidework import BackgroundService, DatabaseUnavailable, JobContext
from sidework.engine import runner
from sidework.engine import worker as worker_module
from sidework.engine.events import JobEnded, log_event
from sidework.model.job import JobStatus
from sidework.storage.postgres import connect, owned, seat, store, transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.history import Log

    from sidework.engine.events import Event

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY)",
    "CREATE TABLE IF NOT EXISTS effects (job bigint NOT NULL, claim bigint NOT NULL)",
    "CREATE TABLE IF NOT EXISTS totals_of (id bigint PRIMARY KEY, n bigint NOT NULL)",
    "CREATE OR REPLACE VIEW totals AS SELECT sum(n) AS n FROM totals_of",
)
LIMITED, LIMIT = "limited", 3
LIMITS = (
    f"INSERT INTO background_service_queues (name, running_limit) VALUES ('{LIMITED}', {LIMIT}) "
    "ON CONFLICT (name) DO UPDATE SET running_limit = excluded.running_limit"
)
"""By hand and not by `queues=`, which would limit the other queues as well: of those, jobs are taken in advance."""
MOST_WAITING = 40
_TOTAL = "INSERT INTO totals_of VALUES (%s, 1) ON CONFLICT (id) DO UPDATE SET n = totals_of.n + 1"
_REAL_LEASE = 60.0


def shorten_the_lease(seconds: float) -> None:
    """Let everything that has to do with a lease happen that much sooner in this process."""
    share = seconds / _REAL_LEASE
    settings: dict[Any, dict[str, float]] = {
        seat: {
            "LEASE": seconds, "RENEW_EVERY": 20 * share, "MARGIN": 5 * share, "PATIENCE": 8 * share,
            "RETRY_AFTER": share,
        },
        store: {"LEASE": seconds, "SILENCE": 40 * share, "BEYOND_A_LOCK": 40 * share - 10},
        transaction: {"SILENCE": 40 * share, "SECONDS_TO_CANCEL": 2 * share, "_SECONDS_TO_LEAVE": share},
        owned: {"SECONDS_TO_CANCEL": 2 * share},
        worker_module: {"RENEW_INTERVAL": 10 * share},
        runner: {"CLEANUP_SECONDS": runner.CLEANUP_SECONDS * share},
    }  # fmt: skip
    for module, values in settings.items():
        for name, value in values.items():
            assert hasattr(module, name)
            setattr(module, name, value)
    limits: Any = connect._LIMITS_OF_SILENCE
    limits.update({"idle": 1, "interval": 1, "count": 2, "unanswered": int(20_000 * share)})


def take_the_fence_away(service: BackgroundService) -> None:
    """The control: what a queue without a fence would do."""
    storage: Any = service._storage
    transaction._SQL["holds"] = "SELECT {job} + {number}"
    settle = storage._session._sql["settle"]
    unfenced = settle.replace("AND job.claims + 0 = o.claims AND job.status || '' = 'RUNNING'", "")
    assert unfenced != settle
    storage._session._sql["settle"] = storage._callers.settle = unfenced


class PostgresWorkload:
    """One process's view of one database."""

    def __init__(
        self,
        url: str,
        log: Log,
        *,
        enter: Callable[[int, int], None] = never_inside,
        dwell: float = 0.0,
        apart: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> None:
        """As for SQLite."""
        self.url = url
        self.log = log
        self.dwell = dwell
        self.random = random.Random(seed)
        self._enter = enter
        self._inside: set[int] = set()
        self._lock = threading.Lock()
        self._claims: dict[int, int] = {}
        settings: dict[str, Any] = {
            "concurrency": 2, "queues": None, "listeners": (self._listen, log_event)
        } | options  # fmt: skip
        self.service = BackgroundService(url, **settings)
        keep_trying: dict[str, Any] = {
            "max_attempts": NEVER_GIVEN_UP, "max_crashes": NEVER_GIVEN_UP, "backoff": (0.0,)
        }  # fmt: skip
        settle = self._settle_apart if apart else self._settle
        self.service.register_job_handler("settle", settle, **keep_trying)
        self.service.register_job_handler("settle_async", self._settle_async, **keep_trying)
        self.service.register_job_handler("settle_in_block", self._settle_in_block, **keep_trying)
        self.service.register_job_handler("outside", self._outside, **keep_trying)

    def prepare(self) -> None:
        """Make the application's own tables, and ours."""
        self.service.migrate()
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            connection.execute("SELECT pg_advisory_lock(1)")  # of two who create what is missing, one would fail
            for statement in (*SCHEMA, LIMITS):
                connection.execute(statement)

    # ------------------------------------------------------------------------------------------------- handlers

    def _settle(self, db: psycopg.Connection, job: JobContext, order: int) -> None:  # noqa: ARG002 - the payload
        self._invoked(job)
        try:
            self._change(db, job)
        finally:
            self._returned(job)

    def _settle_in_block(self, job: JobContext, order: int) -> None:  # noqa: ARG002
        self._invoked(job)
        returned = False
        try:
            with job.transaction() as db:
                self._change(db, job)
                self._returned(job)  # the end of the block is the commit, and with it its place in the queue is free
                returned = True
        finally:
            if not returned:
                self._returned(job)

    async def _settle_async(self, db: psycopg.AsyncConnection, job: JobContext, order: int) -> None:  # noqa: ARG002
        self._invoked(job)
        try:
            await db.execute("INSERT INTO effects VALUES (%s, %s)", (job.id, claim_of(job)))
            self._is_inside(job.id)
            await db.execute(_TOTAL, (self._total(),))
        finally:
            self._returned(job)

    def _settle_apart(self, job: JobContext, order: int) -> None:  # noqa: ARG002
        self._invoked(job)
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            self._change(connection, job)
        self._returned(job)

    def _outside(self, job: JobContext, order: int) -> None:  # noqa: ARG002
        self._invoked(job)
        self._returned(job)

    def _change(self, db: psycopg.Connection, job: JobContext) -> None:
        db.execute("INSERT INTO effects VALUES (%s, %s)", (job.id, claim_of(job)))
        self._is_inside(job.id)
        db.execute(_TOTAL, (self._total(),))
        if self.dwell:
            time.sleep((0.3 + 0.7 * self.random.random()) * self.dwell)

    def _total(self) -> int:
        return os.getpid() * 1000 + self.random.randrange(1000)

    def _invoked(self, job: JobContext) -> None:
        self._claims[job.id] = claim_of(job)
        self.log.write(INVOKED, job.id, claim_of(job), job._attempt.job.queue)

    def _is_inside(self, job: int) -> None:
        with self._lock:
            self._inside.add(job)
            self._enter(INSIDE, job)

    def _returned(self, job: JobContext) -> None:
        """Before its commit: who is killed between this and the commit does not count as within the transaction."""
        self.log.write(RETURNED, job.id, claim_of(job), job._attempt.job.queue)
        with self._lock:
            self._inside.discard(job.id)
            self._enter(INSIDE if self._inside else NOWHERE, next(iter(self._inside), 0))

    def _listen(self, event: Event) -> None:
        if isinstance(event, JobEnded) and event.status is JobStatus.COMPLETED:
            self.log.write(COMMITTED, event.job_id, self._claims[event.job_id])

    # ------------------------------------------------------------------------------------------------ processes

    def work(self) -> None:
        """Be a worker until told to stop."""
        self.service.run()

    def enqueue_some(self) -> None:
        """Enqueue some jobs of each kind."""
        keys = ("settle", "settle_in_block", "settle_async", "outside")
        self.service.enqueue_many([(keys[order % 4], {"order": -order}) for order in range(1, 400)])

    def drain(self) -> None:
        """Be a worker until nothing is left to do."""
        self.service.run_until_idle()

    def place_orders(self) -> None:
        """Be the application until killed: what is lost on the line it does not know of, and goes on."""
        while True:
            try:
                with closing(psycopg.connect(self.url, autocommit=True)) as application:
                    self._place_orders(application)
            except (psycopg.Error, DatabaseUnavailable):
                time.sleep(0.05)

    def _place_orders(self, application: psycopg.Connection[Any]) -> None:
        waiting = (
            "SELECT count(*) FROM (SELECT 1 FROM background_service_jobs WHERE status = 'PENDING' LIMIT %s) AS few"
        )
        while True:
            if application.execute(waiting, (MOST_WAITING,)).fetchone() == (MOST_WAITING,):
                time.sleep(0.01)
                continue
            self._place_one(application, self.random.choice(("with", "with", "back", "alone", "many")))
            time.sleep(0.002)

    def _place_one(self, application: psycopg.Connection[Any], how: str) -> None:
        order = self.random.randrange(1, 1 << 40)
        match how:
            case "with" | "back":
                self._place_with(application, order, keep=how == "with")
            case "alone":
                self.log.write(ACKED, self._until_it_is_known(order))
            case _:
                for job in self.service.enqueue_many([("outside", {"order": -order - n}) for n in range(3)]):
                    self.log.write(ACKED, job)

    def _place_with(self, application: psycopg.Connection[Any], order: int, *, keep: bool) -> None:
        with application.transaction(force_rollback=not keep):
            application.execute("INSERT INTO orders VALUES (%s)", (order,))
            self._enter(INSIDE, 0)
            job = self._enqueue(order, db=application)
            if self.dwell:
                time.sleep(self.random.random() * self.dwell)
        self._enter(NOWHERE, 0)
        if keep:
            self.log.write(ACKED, job)

    def _until_it_is_known(self, order: int) -> int:
        """Enqueue with a unique key, again and again where the answer is lost."""
        while True:
            try:
                return self._enqueue(-order, unique_key=str(order))
            except DatabaseUnavailable:
                time.sleep(0.02)

    def _enqueue(self, order: int, **options: Any) -> int:
        if order % 3 == 0:
            options["queue"] = LIMITED
        key = self.random.choice(("settle", "settle", "settle", "settle_in_block", "settle_async", "outside"))
        return self.service.enqueue(key, {"order": order}, **options)
