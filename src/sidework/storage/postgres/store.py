"""`PostgresStorage`: the storage contract on a PostgreSQL database."""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import psycopg

from sidework.model.job import LostJob
from sidework.storage.contract import Renewal, Turn, Want
from sidework.storage.postgres import examine, migrate, rows
from sidework.storage.postgres.callers import INSERT_JOB, RING_APART, Callers, copy, insertion
from sidework.storage.postgres.connect import Address, blames_a_row, may_try_again, translate
from sidework.storage.postgres.doorbell import PostgresDoorbell, Ringer
from sidework.storage.postgres.lines import hold_on_our_own
from sidework.storage.postgres.look import Looking
from sidework.storage.postgres.patience import SILENCE
from sidework.storage.postgres.place import here
from sidework.storage.postgres.pool import Connections
from sidework.storage.postgres.seat import LEASE, Heartbeat, PostgresMembership
from sidework.storage.postgres.session import Database, Session
from sidework.storage.postgres.single import SingleInsert
from sidework.storage.postgres.steer import Steering
from sidework.storage.postgres.transaction import PostgresAsyncJobTransaction, PostgresJobTransaction, Workshop
from sidework.storage.postgres.turn import Turning
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from psycopg import Connection

    from sidework.clock import Clock
    from sidework.model.health import Examination
    from sidework.model.job import (
        Claim,
        ClaimedJob,
        Job,
        JobFacts,
        JobFilter,
        JobStatus,
        LogLine,
        NewJob,
        NewWorker,
        Outcome,
        QueueInfo,
        Report,
        RetentionRule,
        WorkerInfo,
    )
    from sidework.storage.postgres.connect import Durability
    from sidework.storage.postgres.patience import PatientConnection

T = TypeVar("T")

BEYOND_A_LOCK = 30.0
"""Seconds that a server may be silent beyond the longest wait for a lock, where more than SILENCE is waited for one."""

COPY_FROM: Final = 50
"""From so many jobs on, COPY and the numbers that it needs are worth three ways to the server more."""


class PostgresStorage:
    """A PostgreSQL database that holds jobs. Constructing it does no I/O; methods may be called from any thread."""

    def __init__(
        self,
        url: str,
        *,
        durability: Durability = "full",
        wait: float = 10.0,
        notify: bool = True,
        listen_url: str | None = None,
    ) -> None:
        """Remember where the database is.

        durability: "full" (as durable as the server is set to be) or "relaxed" (a crash of the server may lose the
        last ones). wait: seconds to wait for a lock before DatabaseBusy. notify: whether to ring other processes, and
        to listen. listen_url: where to listen; None: there too.
        """
        self._address = Address(url)
        self._listens_at = None if listen_url is None else Address(listen_url)
        self._durability = durability
        self._notify = notify
        self._session = Session(
            load(files("sidework.storage.postgres") / "queries.sql"), durability=durability, wait=wait
        )
        self._database = Database(self._address, self._session, patience=max(SILENCE, wait + BEYOND_A_LOCK))
        self._turns = Database(self._address, self._session, patience=max(SILENCE, wait + BEYOND_A_LOCK))
        self._at_leisure = Database(self._address, self._session, patience=None, shared=self._database.connections)
        self._single = SingleInsert(
            INSERT_JOB, RING_APART, self._session.text("settings_for_good"), self._session.settings
        )
        self._here = here()
        self._turning = Turning(self._session)
        self._looking = Looking(self._session, self._here)
        self._steering = Steering(self._session)
        self._ringer = Ringer(self._address)
        self._ring = self._ringer.ring if notify else _stay_quiet
        # No part refers back to the whole: who forgets a storage frees it there and then, and `__del__` closes its
        # connections before anybody else finds them open.
        self._callers = Callers(self.name, identity=_identity_of(self._database, self._session), rings=notify)
        self._for_handlers = Connections(self._address)
        self._workshop = Workshop(self._for_handlers, self._callers, name=self.name, committed=self._ring)

    @property
    def clock(self) -> Clock:
        """The server's."""
        return self._address.clock

    @property
    def name(self) -> str:
        """The URL without its password."""
        return self._address.name

    @property
    def promise(self) -> str:
        """What an acknowledged write survives."""
        if self._durability == "full":
            return "synchronous_commit=on: an acknowledged job survives what the server's disks and standbys survive"
        return "synchronous_commit=off: an acknowledged job survives a crash of ours; one of the server may lose some"

    def migrate(self) -> int:
        """Create the tables or bring them up to date."""
        return self._at_leisure.read(lambda connection: migrate.migrate(connection, self.name))

    def check(self) -> None:
        """Raise unless the tables can be used as they are."""
        self._database.read(lambda connection: migrate.check(connection, self.name))

    def close(self) -> None:
        """Close every connection that nobody uses."""
        self._ringer.close()
        self._close_connections()

    def __del__(self) -> None:
        """Close what a forgotten storage left open."""
        with suppress(Exception):
            self._ringer.end()
            self._close_connections()

    def _close_connections(self) -> None:
        self._database.close()
        self._turns.close()
        self._for_handlers.close()

    # ------------------------------------------------------------------------------------------------- enqueue

    def insert(self, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert jobs in a transaction of their own."""
        rings = self._notify

        def act(connection: PatientConnection) -> list[int]:
            nonlocal rings
            if len(jobs) == 1 and self._single.fits(connection, jobs[0]):
                goes_along = rings and self._ringer.is_quiet()
                ids = [self._single.insert(connection, jobs[0], now, rings=goes_along)]
                rings = rings and not goes_along
                return ids
            with connection.transaction():
                self._session.send(connection, "begin_write", self._session.settings)
                if len(jobs) >= COPY_FROM and all(job.unique_key is None for job in jobs):
                    return copy(connection, jobs, now)
                return hold_on_our_own(connection, insertion(jobs, now))

        ids = self._database.repeat(act)
        if rings:
            self._ringer.ring()
        return ids

    def insert_with(self, connection: object, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert jobs inside the caller's transaction."""
        return self._callers.insert(connection, jobs, now=now)

    async def ainsert_with(self, connection: object, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert jobs inside the caller's transaction on a connection that may have to be awaited."""
        return await self._callers.ainsert(connection, jobs, now=now)

    def complete_with(self, connection: object, outcome: Outcome, *, now: datetime) -> bool:
        """Write an outcome inside the caller's transaction, if the claim still holds the job."""
        return self._callers.complete(connection, outcome, now=now)

    async def acomplete_with(self, connection: object, outcome: Outcome, *, now: datetime) -> bool:
        """Do the same on a connection that may have to be awaited."""
        return await self._callers.acomplete(connection, outcome, now=now)

    # ---------------------------------------------------------------------------------------------------- work

    def join(self, worker: NewWorker, *, now: datetime) -> PostgresMembership:
        """Write the row with its first lease, and begin to renew it."""
        since = self._address.clock.monotonic()
        worker_id = self._database.write(lambda connection: self._add_worker(connection, worker, now))
        return PostgresMembership(
            worker_id,
            Heartbeat(self._address, self._session, worker_id, since=since),
            check=partial(self.check_worker, worker_id),
            remove=partial(self.remove_worker, worker_id),
        )

    def _add_worker(self, connection: Connection[Any], worker: NewWorker, now: datetime) -> int:
        for queue, limit in sorted(worker.limits.items()):
            self._session.send(connection, "set_limit", {"queue": queue, "limit": limit})
        parameters = {
            "name": secrets.token_hex(8),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("sidework"),
            "concurrency": worker.concurrency,
            "queues": None if worker.queues is None else _json(worker.queues),
            "keys": _json(sorted(worker.keys)),
            "now": rows.to_moment(now),
            "lease": LEASE,
            "place": self._here.host,
            "born": self._here.born,
        }
        worker_id: int = self._session.one(connection, "add_worker", parameters)
        return worker_id

    def remove_worker(self, worker: int) -> None:
        """Delete a worker's row."""
        self._database.write(lambda connection: self._session.send(connection, "remove_worker", {"worker": worker}))

    def check_worker(self, worker: int) -> None:
        """Raise WorkerLost if a worker's row is gone."""
        self._database.read(lambda connection: self._turning.check_worker(connection, worker))

    def exchange(self, worker: int, settle: Sequence[Outcome], want: Want, *, now: datetime) -> Turn:
        """Do one turn. What the server refuses for one outcome does not hold up the others."""

        def act(connection: Connection[Any]) -> Turn:
            return self._turning.take(connection, worker, settle, want, now)

        try:
            turn = self._again(act)
        except psycopg.Error as error:
            if isinstance(error, psycopg.errors.DivisionByZero):
                self.check_worker(worker)
            if not settle or not blames_a_row(error):
                raise translate(error, self.name) from error
            turn = self._turn_one_by_one(worker, settle, want, now)
        if settle:
            self._ring()
        return turn

    def _again(self, act: Callable[[Connection[Any]], T], *, tries: int = 8) -> T:
        for _ in range(tries - 1):
            try:
                return self._turns.plainly(act)
            except psycopg.Error as error:
                if not may_try_again(error):
                    raise
        return self._turns.plainly(act)

    def _turn_one_by_one(self, worker: int, settle: Sequence[Outcome], want: Want, now: datetime) -> Turn:
        """Settle each outcome in a transaction of its own, so that what the database refuses holds up nobody else."""
        self.check_worker(worker)
        refused: set[Claim] = set()
        failed: dict[Claim, str] = {}
        for outcome in settle:
            try:
                if not self._again(partial(self._turning.settle_one, worker=worker, outcome=outcome, now=now)):
                    refused.add(outcome.claim)
            except psycopg.Error as error:
                if not blames_a_row(error):
                    raise translate(error, self.name) from error
                failed[outcome.claim] = str(error)
        turn = self.exchange(worker, (), want, now=now)
        return msgspec.structs.replace(turn, refused=turn.refused | refused, failed=failed)

    def transaction(self, claim: Claim) -> PostgresJobTransaction:
        """Open the transaction of a sync handler."""
        return PostgresJobTransaction(claim, self._workshop)

    def shared_transaction(self, told: Callable[[], object] = bool) -> None:
        """Nothing: here handlers commit side by side, and the server syncs for many at once."""

    def async_transaction(self, claim: Claim) -> PostgresAsyncJobTransaction:
        """Open the transaction of an async handler."""
        return PostgresAsyncJobTransaction(claim, self._workshop)

    def report(self, reports: Sequence[Report], *, now: datetime) -> None:
        """Keep progress and log lines of jobs that are still held."""
        self._database.write(lambda connection: self._report(connection, reports, now))
        self._ring()

    def _report(self, connection: Connection[Any], reports: Sequence[Report], now: datetime) -> None:
        for report in sorted(reports, key=lambda report: report.claim.job_id):
            held = {"job": report.claim.job_id, "number": report.claim.number}
            if (progress := report.progress) is not None:
                message = rows.safe_text(progress.message)
                values = {"done": progress.done, "total": progress.total, "message": message}
                self._session.send(connection, "report_progress", {**held, **values, "now": rows.to_moment(now)})
            for said in report.lines:
                line_of_log = {"at": rows.to_moment(said.at), "message": rows.safe_text(said.message)}
                self._session.send(connection, "report_line", {**held, **line_of_log})

    def renew(self, worker: int, held: Iterable[Claim], *, now: datetime) -> Renewal:
        """Note that the worker lives, and compare what it believes to hold with what the rows say."""
        found = self._database.write(lambda connection: self._renew(connection, worker, now))
        believed = frozenset(held)
        return Renewal(
            lost=believed - {job.claim for job in found},
            stray=[job for job in found if job.claim not in believed],
        )

    def _renew(self, connection: Connection[Any], worker: int, now: datetime) -> list[ClaimedJob]:
        self._turning.check_worker(connection, worker)
        self._session.send(connection, "seen", {"worker": worker, "now": rows.to_moment(now)})
        return self._held_by(connection, worker)

    def _held_by(self, connection: Connection[Any], worker: int) -> list[ClaimedJob]:
        return [rows.claimed_job(row) for row in self._session.rows(connection, "held_by", {"worker": worker})]

    def lost(self, *, limit: int) -> list[LostJob]:
        """Return RUNNING jobs whose worker is dead, or that name no worker we know."""
        return self._database.read(lambda connection: self._lost(connection, limit))

    def _lost(self, connection: Connection[Any], limit: int) -> list[LostJob]:
        holders = [worker for (worker,) in self._session.rows(connection, "holders")]
        dead, known = self._looking.dead_workers(connection)
        bereft = [worker for worker in holders if worker in dead or worker not in known]
        if not bereft:
            return []
        asked = {job_id for (job_id,) in self._session.rows(connection, "requested")}
        found: list[LostJob] = []
        for worker in bereft:
            if len(found) >= limit:
                break
            jobs = self._held_by(connection, worker)
            found += [LostJob(job=job, worker=worker, cancel_requested=job.id in asked) for job in jobs]
        return found

    def forget_dead_workers(self) -> int:
        """Delete the rows of dead workers that hold nothing."""
        idle = self._database.read(self._idle_dead_workers)
        for worker in idle:
            self.remove_worker(worker)
        return len(idle)

    def _idle_dead_workers(self, connection: Connection[Any]) -> list[int]:
        dead, _known = self._looking.dead_workers(connection)
        holders = {worker for (worker,) in self._session.rows(connection, "holders")}
        return [worker for worker in dead if worker not in holders]

    def doorbell(self) -> PostgresDoorbell:
        """Return a new doorbell."""
        return PostgresDoorbell(self._address, listen=self._notify, listens_at=self._listens_at)

    def idle(self, keys: frozenset[str], queues: tuple[str, ...] | None, *, now: datetime) -> bool:
        """Whether no job of these keys is ready, due or running."""
        everything = Want(keys=keys, queues=queues, room=1)
        return not self._database.read(
            lambda connection: (
                self._turning.any_ready(connection, everything)
                or self._looking.busy_with(connection, keys, queues, now)
            )
        )

    # ---------------------------------------------------------------------------------------------------- look

    def get(self, job_id: int) -> Job | None:
        """Return one job, or None."""
        return self._database.read(lambda connection: self._looking.get(connection, job_id))

    def log(self, job_id: int) -> list[LogLine]:
        """Return what a job has logged."""
        return self._database.read(lambda connection: self._looking.log(connection, job_id))

    def page(self, which: JobFilter, *, after: int | None, limit: int, newest_first: bool) -> list[Job]:
        """Return one page of jobs."""
        return self._at_leisure.read(
            lambda connection: self._looking.page(connection, which, after, limit, newest_first=newest_first)
        )

    def count(self, which: JobFilter) -> int:
        """Return how many jobs match."""
        return self._at_leisure.read(lambda connection: self._looking.count(connection, which))

    def counts(self) -> dict[JobStatus, int]:
        """Return the number of jobs in each status."""
        return self._at_leisure.read(self._looking.counts)

    def workers(self) -> list[WorkerInfo]:
        """Return every worker that has a row."""
        return self._database.read(self._looking.workers)

    def queues(self) -> list[QueueInfo]:
        """Return every queue with jobs not ended or with a setting."""
        return self._at_leisure.read(self._looking.queues)

    def examine(self) -> Examination:
        """Look at the server, its settings and the tables."""
        return self._at_leisure.look(lambda connection: examine.examine(connection, self.name))

    def facts(self, job_id: int) -> JobFacts | None:
        """Return what decides about one job, in one snapshot."""
        return self._at_leisure.look(lambda connection: self._looking.facts(connection, job_id))

    # --------------------------------------------------------------------------------------------------- steer

    def cancel(self, ids: Sequence[int], *, now: datetime) -> list[int]:
        """End what waits, ask for the end of what runs."""
        return self._change(lambda connection: self._steering.cancel(connection, ids, now))

    def retry(self, ids: Sequence[int], *, now: datetime) -> list[int]:
        """Make failed, cancelled and scheduled jobs ready."""
        taken = (psycopg.errors.UniqueViolation,)  # by a job that was enqueued after we had looked
        return self._change(lambda connection: self._steering.retry(connection, ids, now), again=taken)

    def delete(self, ids: Sequence[int]) -> list[int]:
        """Delete jobs that do not run."""
        return self._change(lambda connection: self._steering.delete(connection, ids))

    def set_priority(self, ids: Sequence[int], priority: int, *, now: datetime) -> list[int]:
        """Change the priority of what waits."""
        return self._change(lambda connection: self._steering.set_priority(connection, ids, priority, now))

    def pause(self, queue: str, *, now: datetime) -> None:  # noqa: ARG002 - the contract's signature
        """Stop claims from a queue."""
        self._change(lambda connection: self._steering.set_paused(connection, queue, paused=True))

    def resume(self, queue: str, *, now: datetime) -> None:  # noqa: ARG002 - the contract's signature
        """Allow claims from a queue again."""
        self._change(lambda connection: self._steering.set_paused(connection, queue, paused=False))

    def prunable(
        self, rules: Sequence[RetentionRule], *, after: int, limit: int, now: datetime
    ) -> tuple[list[int], int | None]:
        """Look at one page of jobs; return those that a rule lets go."""
        return self._database.read(lambda connection: self._steering.prunable(connection, rules, after, limit, now))

    def prune(self, rules: Sequence[RetentionRule], *, after: int, limit: int, now: datetime) -> tuple[int, int | None]:
        """Look at one page of jobs and delete those that a rule lets go."""
        ids, go_on = self.prunable(rules, after=after, limit=limit, now=now)
        if not ids:
            return 0, go_on
        return self._database.write(lambda connection: self._steering.prune(connection, rules, ids, now)), go_on

    def _change(self, act: Callable[[Connection[Any]], T], *, again: tuple[type[psycopg.Error], ...] = ()) -> T:
        changed = self._at_leisure.write(act, again=again)
        self._ring()
        return changed


def _identity_of(database: Database, session: Session) -> Callable[[], str]:
    """Return what reads, once, which database this is."""
    return cache(lambda: str(database.read(partial(session.one, statement="identity"))))


def _stay_quiet() -> None:
    """Ring nobody."""


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
