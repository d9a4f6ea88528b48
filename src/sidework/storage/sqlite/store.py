"""`SqliteStorage`: the storage contract on one SQLite file.

Writes go through the gate, reads through one read connection; what is done in them stands in `turn`, `look` and
`steer`, as steps over a connection.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import threading
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from sidework.clock import SystemClock
from sidework.errors import WorkerLost
from sidework.model.health import Level
from sidework.model.job import LostJob, Reached
from sidework.storage.contract import Renewal, Turn, Want
from sidework.storage.sqlite import examine, migrate, rows
from sidework.storage.sqlite.callers import Callers
from sidework.storage.sqlite.connect import connect, translate
from sidework.storage.sqlite.doorbell import SqliteDoorbell
from sidework.storage.sqlite.gate import WriteGate
from sidework.storage.sqlite.intake import Intake
from sidework.storage.sqlite.liveness import WorkerLock, is_alive, lock_path, remove, sweep
from sidework.storage.sqlite.look import Looking
from sidework.storage.sqlite.marks import Marks, read_marks
from sidework.storage.sqlite.pool import ConnectionPool
from sidework.storage.sqlite.shared import SqliteSharedTransaction
from sidework.storage.sqlite.steer import Steering
from sidework.storage.sqlite.surroundings import about_file_system, read
from sidework.storage.sqlite.transaction_async import SqliteAsyncJobTransaction
from sidework.storage.sqlite.turn import Turning
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

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
    from sidework.storage.sqlite.transaction import SqliteJobTransaction

T = TypeVar("T")

logger = logging.getLogger("sidework")

Durability = Literal["full", "relaxed"]

_BLAMES_A_ROW = frozenset(
    {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH}
)
"""Primary result codes that say something about one row, not about the disk, the locks or the file."""

_NOT_UTF8 = "Could not decode to UTF-8"
"""What sqlite3 says of a text that another program wrote in some other encoding."""


class SqliteStorage:
    """A SQLite file that holds jobs. Constructing it does no I/O; every method may be called from any thread."""

    def __init__(self, path: str | Path, *, durability: Durability = "full", wait: float = 10.0) -> None:
        """Remember where the file is.

        durability: "full" (an acknowledged job survives a power cut) or "relaxed" (it survives a crash of the process).
        wait: seconds to wait for the write lock before DatabaseBusy.
        """
        self._path = os.path.abspath(path)  # noqa: PTH100 - what a later chdir does must not move the database
        self._durability: Durability = durability
        self._wait = wait
        sql = load(files("sidework.storage.sqlite") / "queries.sql")
        self._sql = sql
        self._turning = Turning(sql)
        # No part refers back to the whole: who forgets a storage frees it there and then, and `__del__` closes its
        # connections before anybody else finds them open.
        self._worker_is_alive = partial(_worker_is_alive, self._path)
        self._connect = partial(connect, self._path, durability=self._durability, wait=wait)
        self._looking = Looking(sql, self._worker_is_alive)
        self._steering = Steering(sql)
        self._callers = Callers(self._path, durability=durability)
        self._gate = WriteGate(self._connect, wait=wait, path=self._path)
        self._intake = Intake(self._gate, self._callers)
        self._pool = ConnectionPool(self._path, durability=durability, wait=wait)
        self._marks: dict[int, Marks] = {}
        """What the workers of this process are at, by their ids."""
        self._reading = threading.Lock()
        self._reader: sqlite3.Connection | None = None

    @property
    def clock(self) -> SystemClock:
        """This machine's: all who use the file are on it."""
        return SystemClock()

    @property
    def name(self) -> str:
        """The path of the file."""
        return self._path

    @property
    def promise(self) -> str:
        """What an acknowledged write survives."""
        if self._durability == "full":
            return "synchronous=FULL: an acknowledged job survives a power cut"
        return "synchronous=NORMAL: an acknowledged job survives a crash, a power cut may lose the last ones"

    def migrate(self) -> int:
        """Create or bring up to date the tables; warn where the file lies on a network file system."""
        finding = about_file_system(os.path.realpath(self._path), read("mountinfo"))
        if finding.level is Level.ILL:
            logger.warning("%s: %s; %s", self._path, finding.text, finding.remedy)
        return migrate.migrate(self._path, durability=self._durability, wait=self._wait)

    def check(self) -> None:
        """Raise unless the tables can be used as they are."""
        self._read(migrate.check)

    def __del__(self) -> None:
        """Close what a forgotten storage left open."""
        with suppress(Exception):
            self.close()

    def close(self) -> None:
        """Close every connection; in a forked child none, for they are the parent's."""
        if self._gate.in_a_forked_child:
            return
        self._gate.refuse_who_would_wait_for_itself()
        self._intake.close()
        self._gate.close()
        self._pool.close()
        with self._reading:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    # ------------------------------------------------------------------------------------------------- enqueue

    def insert(self, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert jobs in a transaction of their own."""
        try:
            return self._intake.insert(jobs, now=now)
        except sqlite3.Error as error:
            raise translate(error, self._path) from error

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

    def join(self, worker: NewWorker, *, now: datetime) -> SqliteMembership:
        """Hold the lock file, then make the row visible: nobody can see a worker that looks dead."""
        sweep(self._path, self._read(self._names_of_workers))
        lock = WorkerLock.create(self._path)
        try:
            worker_id = self._write(partial(self._add_worker, worker, lock.name, rows.to_text(now)), patient=True)
        except BaseException:
            lock.release()
            raise
        self._marks[worker_id] = lock.marks
        return SqliteMembership(self, worker_id, lock)

    def _names_of_workers(self, connection: sqlite3.Connection) -> set[str]:
        return {name for _worker, name in connection.execute(self._sql["worker_names"])}

    def _add_worker(self, worker: NewWorker, name: str, now: str, connection: sqlite3.Connection) -> int:
        for queue, limit in worker.limits.items():
            connection.execute(self._sql["set_limit"], {"queue": queue, "limit": limit})
        parameters = {
            "name": name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("sidework"),
            "concurrency": worker.concurrency,
            "queues": None if worker.queues is None else rows.to_json(worker.queues),
            "keys": rows.to_json(sorted(worker.keys)),
            "now": now,
        }
        worker_id: int = connection.execute(self._sql["add_worker"], parameters).fetchone()[0]
        return worker_id

    def leave(self, worker: int) -> None:
        """Delete the row of a worker of this process."""
        self._marks.pop(worker, None)
        self.remove_worker(worker)

    def remove_worker(self, worker: int) -> None:
        """Delete a worker's row."""
        self._write(lambda writer: writer.execute(self._sql["remove_worker"], {"worker": worker}), patient=True)

    def check_worker(self, worker: int) -> None:
        """Raise WorkerLost if a worker's row is gone."""
        self._read(lambda connection: self._turning.check_worker(connection, worker))

    def exchange(self, worker: int, settle: Sequence[Outcome], want: Want, *, now: datetime) -> Turn:
        """Do one turn; look first, and take the write lock only if there is something to write."""
        if not settle and not self._read(lambda reader: self._turning.has_work(reader, want, rows.to_text(now))):
            return self._read(partial(self._look, worker, want))
        try:
            turn = self._turn(worker, settle, want, now)
        except sqlite3.Error as error:
            if not settle or not _blames_a_row(error):
                raise translate(error, self._path) from error
            turn = self._turn_one_by_one(worker, settle, want, now)
        self._clear_marks(worker, settle, turn)
        return turn

    def _clear_marks(self, worker: int, settled: Sequence[Outcome], turn: Turn) -> None:
        if settled and (marks := self._marks.get(worker)) is not None:
            for outcome in settled:
                if outcome.claim not in turn.failed:
                    marks.clear(outcome.claim.job_id)

    def _look(self, worker: int, want: Want, connection: sqlite3.Connection) -> Turn:
        return self._turning.look(connection, worker, want)

    def _turn(self, worker: int, settle: Sequence[Outcome], want: Want, now: datetime) -> Turn:
        def act(connection: sqlite3.Connection) -> Turn:
            return self._turning.take(connection, worker, settle, want, now)

        turn = self._through_the_gate(act, patient=True)
        return msgspec.structs.replace(turn, crowded=True) if self._gate.crowded else turn

    def _turn_one_by_one(self, worker: int, settle: Sequence[Outcome], want: Want, now: datetime) -> Turn:
        """Settle each outcome in a transaction of its own, so that what the database refuses holds up nobody else."""
        refused: set[Claim] = set()
        failed: dict[Claim, str] = {}
        for outcome in settle:
            act = partial(self._settle_one, outcome, rows.to_text(now))
            try:
                refused |= self._gate.write(act, patient=True)
            except sqlite3.Error as error:
                if not _blames_a_row(error):
                    raise translate(error, self._path) from error
                failed[outcome.claim] = str(error)
        turn = self.exchange(worker, (), want, now=now)
        return msgspec.structs.replace(turn, refused=turn.refused | refused, failed=failed)

    def _settle_one(self, outcome: Outcome, now: str, connection: sqlite3.Connection) -> frozenset[Claim]:
        return self._turning.settle(connection, [outcome], now)

    def transaction(self, claim: Claim) -> SqliteJobTransaction:
        """Open the transaction of a sync handler."""
        return self.shared_transaction().transaction(claim)

    def shared_transaction(self, told: Callable[[], object] = bool) -> SqliteSharedTransaction:
        """Open a transaction for handlers that follow one another in one thread."""
        return SqliteSharedTransaction(gate=self._gate, pool=self._pool, callers=self._callers, told=told)

    def async_transaction(self, claim: Claim) -> SqliteAsyncJobTransaction:
        """Open the transaction of an async handler."""
        return SqliteAsyncJobTransaction(claim, gate=self._gate, pool=self._pool, callers=self._callers)

    def report(self, reports: Sequence[Report], *, now: datetime) -> None:
        """Keep progress and log lines of jobs that are still held."""
        self._write(partial(self._report, reports, rows.to_text(now)), patient=True)

    def _report(self, reports: Sequence[Report], now: str, connection: sqlite3.Connection) -> None:
        for report in reports:
            held = {"job": report.claim.job_id, "number": report.claim.number}
            if (progress := report.progress) is not None:
                message = rows.safe_text(progress.message)
                values = {"done": progress.done, "total": progress.total, "message": message, "now": now}
                connection.execute(self._sql["report_progress"], held | values)
            for line in report.lines:
                values = {"at": rows.to_text(line.at), "message": rows.safe_text(line.message)}
                connection.execute(self._sql["report_line"], held | values)

    def renew(self, worker: int, held: Iterable[Claim], *, now: datetime) -> Renewal:
        """Note that the worker lives, and compare what it believes to hold with what the rows say."""
        found = self._write(partial(self._renew, worker, rows.to_text(now)), patient=True)
        believed = frozenset(held)
        return Renewal(
            lost=believed - {job.claim for job in found},
            stray=[job for job in found if job.claim not in believed],
        )

    def _renew(self, worker: int, now: str, connection: sqlite3.Connection) -> list[ClaimedJob]:
        self._turning.check_worker(connection, worker)
        connection.execute(self._sql["seen"], {"worker": worker, "now": now})
        return self._held_by(connection, worker)

    def _held_by(self, connection: sqlite3.Connection, worker: int | None) -> list[ClaimedJob]:
        jobs = [job for (job,) in connection.execute(self._sql["held_by"], {"worker": worker})]
        return rows.claimed_jobs(f"[{','.join(jobs)}]")

    def lost(self, *, limit: int) -> list[LostJob]:
        """Return RUNNING jobs whose worker's lock is free, or that name no worker we know."""
        return self._read(partial(self._lost, limit))

    def _lost(self, limit: int, connection: sqlite3.Connection) -> list[LostJob]:
        names = dict(connection.execute(self._sql["worker_names"]).fetchall())
        holders = [worker for (worker,) in connection.execute(self._sql["holders"])]
        asked = {job_id for (job_id,) in connection.execute(self._sql["requested"])}
        found: list[LostJob] = []
        for worker in holders:
            if len(found) >= limit:
                break
            if worker not in names or not self._worker_is_alive(names[worker]):
                marks = read_marks(lock_path(self._path, names[worker])) if worker in names else None
                for job in self._held_by(connection, worker):
                    reached = Reached.UNKNOWN if marks is None else marks.get(job.id, Reached.NOTHING)
                    found.append(LostJob(job=job, worker=worker, cancel_requested=job.id in asked, reached=reached))
        return found

    def forget_dead_workers(self) -> int:
        """Delete the rows and lock files of dead workers that hold nothing."""
        dead = self._read(self._idle_dead_workers)
        for worker, name in dead:
            self.remove_worker(worker)
            remove(lock_path(self._path, name))
        return len(dead)

    def _idle_dead_workers(self, connection: sqlite3.Connection) -> list[tuple[int, str]]:
        holders = {worker for (worker,) in connection.execute(self._sql["holders"])}
        names = connection.execute(self._sql["worker_names"]).fetchall()
        return [(worker, name) for worker, name in names if worker not in holders and not self._worker_is_alive(name)]

    def doorbell(self) -> SqliteDoorbell:
        """Return a new doorbell."""
        return SqliteDoorbell(self._path, durability=self._durability, wait=self._wait)

    def idle(self, keys: frozenset[str], queues: tuple[str, ...] | None, *, now: datetime) -> bool:
        """Whether no job of these keys is ready, due or running."""
        everything = Want(keys=keys, queues=queues, room=1)
        return not self._read(
            lambda reader: (
                self._turning.any_ready(reader, everything)
                or self._looking.busy_with(reader, keys, queues, rows.to_text(now))
            )
        )

    # ---------------------------------------------------------------------------------------------------- look

    def get(self, job_id: int) -> Job | None:
        """Return one job, or None."""
        return self._read(lambda reader: self._looking.get(reader, job_id))

    def log(self, job_id: int) -> list[LogLine]:
        """Return what a job has logged."""
        return self._read(lambda reader: self._looking.log(reader, job_id))

    def page(self, which: JobFilter, *, after: int | None, limit: int, newest_first: bool) -> list[Job]:
        """Return one page of jobs."""
        return self._read(lambda reader: self._looking.page(reader, which, after, limit, newest_first=newest_first))

    def count(self, which: JobFilter) -> int:
        """Return how many jobs match."""
        return self._read(lambda reader: self._looking.count(reader, which))

    def counts(self) -> dict[JobStatus, int]:
        """Return the number of jobs in each status."""
        return self._read(self._looking.counts)

    def workers(self) -> list[WorkerInfo]:
        """Return every worker that has a row."""
        return self._read(self._looking.workers)

    def queues(self) -> list[QueueInfo]:
        """Return every queue with jobs not ended or with a setting."""
        return self._read(self._looking.queues)

    def examine(self) -> Examination:
        """Look at the library, the file and its tables."""
        return self._read(lambda reader: examine.examine(reader, self._path))

    def facts(self, job_id: int) -> JobFacts | None:
        """Return what decides about one job, in one snapshot."""
        return self._read(lambda reader: self._looking.facts(reader, job_id))

    # --------------------------------------------------------------------------------------------------- steer

    def cancel(self, ids: Sequence[int], *, now: datetime) -> list[int]:
        """End what waits, ask for the end of what runs."""
        return self._write(lambda writer: self._steering.cancel(writer, ids, rows.to_text(now)))

    def retry(self, ids: Sequence[int], *, now: datetime) -> list[int]:
        """Make failed, cancelled and scheduled jobs ready."""
        return self._write(lambda writer: self._steering.retry(writer, ids, rows.to_text(now)))

    def delete(self, ids: Sequence[int]) -> list[int]:
        """Delete jobs that do not run."""
        return self._write(lambda writer: self._steering.delete(writer, ids))

    def set_priority(self, ids: Sequence[int], priority: int, *, now: datetime) -> list[int]:
        """Change the priority of what waits."""
        return self._write(lambda writer: self._steering.set_priority(writer, ids, priority, rows.to_text(now)))

    def pause(self, queue: str, *, now: datetime) -> None:  # noqa: ARG002 - the contract's signature
        """Stop claims from a queue."""
        self._write(lambda writer: self._steering.set_paused(writer, queue, paused=True))

    def resume(self, queue: str, *, now: datetime) -> None:  # noqa: ARG002 - the contract's signature
        """Allow claims from a queue again."""
        self._write(lambda writer: self._steering.set_paused(writer, queue, paused=False))

    def prunable(
        self, rules: Sequence[RetentionRule], *, after: int, limit: int, now: datetime
    ) -> tuple[list[int], int | None]:
        """Look at one page of jobs; return those that a rule lets go."""
        return self._read(lambda reader: self._steering.prunable(reader, rules, after, limit, now))

    def prune(self, rules: Sequence[RetentionRule], *, after: int, limit: int, now: datetime) -> tuple[int, int | None]:
        """Look at one page of jobs and delete those that a rule lets go."""
        ids, go_on = self.prunable(rules, after=after, limit=limit, now=now)
        if not ids:
            return 0, go_on
        act = partial(self._steering.prune, rules=rules, after=after, limit=limit, now=now)
        return self._write(act, patient=True), go_on

    # ------------------------------------------------------------------------------------------------ connections

    def _write(self, act: Callable[[sqlite3.Connection], T], *, patient: bool = False) -> T:
        try:
            return self._through_the_gate(act, patient=patient)
        except sqlite3.Error as error:
            raise translate(error, self._path) from error

    def _through_the_gate(self, act: Callable[[sqlite3.Connection], T], *, patient: bool = False) -> T:
        try:
            return self._gate.write(act, patient=patient)
        except sqlite3.OperationalError as error:
            if _NOT_UTF8 not in str(error):
                raise
        return self._gate.write(partial(_tolerantly, act), patient=patient)

    def _read(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """Run reads in one snapshot on the read connection."""
        with self._reading:
            try:
                reader = self._open_reader()
                reader.execute("BEGIN")
                try:
                    return act(reader)
                finally:
                    reader.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise translate(error, self._path) from error

    def _open_reader(self) -> sqlite3.Connection:
        if self._reader is None:
            self._reader = self._connect()
            # Any program may have written these texts: what is not UTF-8 must not hide the row.
            self._reader.text_factory = _tolerant_text
        return self._reader


class SqliteMembership:
    """A worker's seat on a SQLite file: a row, and a lock file that the kernel frees when the process is gone."""

    def __init__(self, storage: SqliteStorage, worker: int, lock: WorkerLock) -> None:
        """Take a worker whose lock is held and whose row is committed."""
        self._storage = storage
        self._worker = worker
        self._lock = lock
        self._marks = lock.marks

    @property
    def worker(self) -> int:
        """The worker's id."""
        return self._worker

    @property
    def time_left(self) -> None:
        """No lease: the lock is held until the process ends."""
        return None

    def check(self) -> None:
        """Raise WorkerLost if the lock file or the row is gone."""
        if not self._lock.held():
            raise WorkerLost(
                f"worker {self._worker} stops: its lock file, or the database itself, was removed or replaced"
            )
        self._storage.check_worker(self._worker)

    def begun(self, job_id: int) -> None:
        """Mark a job whose handler is about to be called."""
        self._marks.begin(job_id)

    def ended(self, job_id: int, *, written: bool) -> None:
        """Mark a job whose attempt is over. `exchange` clears the mark of what is still to be written."""
        if written:
            self._marks.clear(job_id)
        else:
            self._marks.end(job_id)

    def leave(self) -> None:
        """Delete the row, then free the lock."""
        try:
            self._storage.leave(self._worker)
        finally:
            self._lock.release()


def _worker_is_alive(path: str, name: str) -> bool:
    return is_alive(lock_path(path, name))


def _blames_a_row(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BLAMES_A_ROW


def _tolerantly(act: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> T:
    """Act on rows whose texts are not UTF-8. A function called for each text is slow, so only where a row needs it."""
    strict, connection.text_factory = connection.text_factory, _tolerant_text
    try:
        return act(connection)
    finally:
        connection.text_factory = strict


def _tolerant_text(raw: bytes) -> str:
    return raw.decode(errors="replace")
