"""What a database must be able to do for the rest of sidework: one narrow contract, two databases, one suite of tests.

Stores move rows; `model.lifecycle` holds the rules. Every method is synchronous and blocks for as long as the
database does; the engine calls them from a thread of its own. `now` is an argument everywhere: a store never reads a
clock for anything it writes.

Errors: everything a store raises on purpose is a `SideworkError`; what the database itself refuses for one row of a
batch never harms the other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from sidework.model.job import (
    Claim,
    ClaimedJob,
    Job,
    JobFacts,
    JobFilter,
    JobStatus,
    LogLine,
    LostJob,
    NewJob,
    NewWorker,
    Outcome,
    QueueInfo,
    Report,
    RetentionRule,
    WorkerInfo,
)

if TYPE_CHECKING:
    from sidework.clock import Clock
    from sidework.model.health import Examination


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker could start now."""

    keys: frozenset[str]
    """Only jobs of these keys; an empty set claims nothing."""
    queues: tuple[str, ...] | None = None
    """Only these queues; None: every queue that has ready jobs."""
    room: int = 0
    """At most so many of a queue that `rooms` does not name."""
    rooms: Mapping[str, int] = {}
    """Queue -> at most so many."""
    ahead: Mapping[str, int] = {}
    """Queue -> so many more beyond its room, to be started as soon as there is room ("prefetch"); never jobs with
    max_attempts=1 and never from a queue with a limit."""
    suspect: bool = False
    """Claim exactly one job that was there when a worker died, and nothing else; False: none of those."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one exchange."""

    refused: frozenset[Claim] = frozenset()
    """Outcomes that were not written, because their claim no longer held the job."""
    failed: Mapping[Claim, str] = {}
    """Outcomes that the database itself refused (a trigger or constraint of the user's), with its words."""
    claimed: Sequence[ClaimedJob] = ()
    """In the order in which they are to be started: higher priority first, then lower id."""
    cancel: frozenset[Claim] = frozenset()
    """Claims of this worker for whose jobs somebody has asked for cancellation."""
    next_due: datetime | None = None
    """When the next SCHEDULED job is due."""
    suspects: bool = False
    """Whether a ready job waits that may only run alone."""
    crowded: bool = False
    """Whether others write to this database: the next turns are to be short."""


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker learns about the jobs it believes to hold."""

    lost: frozenset[Claim] = frozenset()
    """It believes to hold these, but does not."""
    stray: Sequence[ClaimedJob] = ()
    """The database says it holds these, but it does not know of them (a lost answer)."""


class Membership(Protocol):
    """A worker's seat: while it lives and its process lives, its jobs belong to it."""

    @property
    def worker(self) -> int:
        """The worker's id in the database."""

    @property
    def time_left(self) -> float | None:
        """Seconds for which the seat is surely ours, known without asking anybody; None: while this process lives."""

    def check(self) -> None:
        """Raise WorkerLost if the seat is gone (row or lock file)."""

    def begun(self, job_id: int) -> None:
        """Say that a job's handler is about to be called: if this worker dies, others may know. From any thread.

        Costs next to nothing, and so does `ended`. A store that cannot pass it on does nothing.
        """

    def ended(self, job_id: int, *, written: bool) -> None:
        """Say that the attempt is over. written: no outcome of it is still to be written."""

    def leave(self) -> None:
        """Give the seat up: row deleted, lock freed. Jobs still held count as lost from now on."""


class JobTransaction(Protocol):
    """The transaction of one attempt: what is written through `connection` commits with the job, or not at all.

    It begins at the first write, or at `begin()`; the fence is checked there and again at the end.
    """

    @property
    def connection(self) -> Any:
        """The handler's `db`: sqlite3.Connection (or aiosqlite.Connection from `begin_async`)."""

    @property
    def begun(self) -> bool:
        """Whether something was written, or `begin()` was called, and the transaction is open."""

    @property
    def waited_for(self) -> float:
        """Seconds for which it waited for the write lock."""

    @property
    def held_for(self) -> float:
        """Seconds for which the write lock was, or has been until now, held; 0 if it never began."""

    def begin(self) -> None:
        """Begin now, and share with nobody: `commit` commits at once.

        Raises JobLost if the claim no longer holds the job; DatabaseBusy after waiting too long.
        """

    def insert(self, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert jobs inside this transaction (which begins if it has not); they exist if and only if it commits."""

    def commit(self, outcome: Outcome, *, now: datetime) -> bool:
        """Write the outcome and commit everything. False: superseded, and all of it rolled back.

        True from one that is shared: it will be committed, or all of it rolled back, and `concluded` tells which.
        """

    def abort(self) -> None:
        """Roll back and make the connection unusable. From any thread, at any time, more than once."""

    def close(self) -> None:
        """End without an outcome: roll back what is open, give the connection back."""


class Concluded(Protocol):
    """Told by whoever commits a shared transaction, in whatever thread, once for each of its parts."""

    def __call__(self, error: Exception | None, *, at_fault: bool) -> None:
        """None: the part is durable. An error: nothing of it is kept. at_fault: no other part can be to blame."""


class SharedTransaction(Protocol):
    """One transaction for handlers that follow one another in one thread: each writes a part of it.

    A part is what the handler wrote and the outcome of its job, or nothing of both. A handler that has not written yet
    has no part in it: what it does happens outside, and it may be committed meanwhile.
    """

    def transaction(self, claim: Claim, concluded: Concluded) -> JobTransaction:
        """Open the part of the next handler; the one before must have ended."""

    @property
    def wants_to_write(self) -> bool:
        """Whether its thread waits for the write lock."""

    @property
    def waiting(self) -> int:
        """How many parts wait to be committed."""

    def finish(self) -> None:
        """Commit what waits, unless a handler that has written still runs. From any thread. Raises nothing."""

    def cut(self) -> None:
        """The same, without waiting for long. From any thread."""


class AsyncJobTransaction(Protocol):
    """The twin for async handlers; `connection` is aiosqlite's."""

    @property
    def connection(self) -> Any: ...
    @property
    def begun(self) -> bool: ...
    @property
    def waited_for(self) -> float: ...
    @property
    def held_for(self) -> float: ...
    async def begin(self) -> None: ...
    async def insert(self, jobs: Sequence[NewJob], *, now: datetime) -> list[int]: ...
    async def commit(self, outcome: Outcome, *, now: datetime) -> bool: ...
    def abort(self) -> None: ...
    async def close(self) -> None: ...


class Doorbell(Protocol):
    """Tells that somebody has committed to this database, in whatever process.

    A hint, and never relied on: who waits also looks by itself at least once a second.
    """

    @property
    def mechanism(self) -> str:
        """How it learns of commits, in a word, such as 'inotify'."""

    def changed(self) -> bool:
        """Whether anybody has committed since the last call. Cheap, takes no lock."""

    def died(self) -> bool:
        """Whether a worker has died since the last call, as far as this can be heard: a hint to look at once."""

    async def wait(self, timeout: float) -> bool:
        """Return True as soon as a commit can be seen or a worker has died, False after `timeout` seconds."""

    def ring(self) -> None:
        """Wake the waiter; from any thread."""

    def close(self) -> None:
        """Free what the operating system gave."""


class Storage(Protocol):
    """A database that holds jobs. Methods may be called from any thread."""

    @property
    def name(self) -> str:
        """The database as a person may see it: a path, or a URL without its password."""

    @property
    def clock(self) -> Clock:
        """The clock by which this database's jobs are due."""

    @property
    def promise(self) -> str:
        """How durable an acknowledged write is, in a few words, such as 'synchronous=FULL'."""

    def migrate(self) -> int:
        """Create or bring up to date the tables, under a lock; return the version they are at now.

        The only method that creates a missing SQLite file. Raises SchemaTooNew, NotOurTable, DatabaseUnavailable.
        """

    def check(self) -> None:
        """Raise DatabaseMissing, NotMigrated, SchemaTooNew or NotOurTable if the tables cannot be used as they are."""

    def close(self) -> None:
        """Close every connection. A closed store opens again by itself when it is used."""

    # enqueue
    def insert(self, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """Insert jobs in one transaction of their own; return their ids in the order given, durable on return.

        A job whose (key, unique_key) is held by a job that has not ended yields that job's id.
        """

    def insert_with(self, connection: object, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """The same inside the caller's own transaction on the caller's own connection, which is never committed here.

        Raises WrongDatabase, NotMigrated, DatabaseBusy; the caller's transaction stays usable.
        """

    async def ainsert_with(self, connection: object, jobs: Sequence[NewJob], *, now: datetime) -> list[int]:
        """The same for a connection that is awaited (aiosqlite); takes the others too."""

    def complete_with(self, connection: object, outcome: Outcome, *, now: datetime) -> bool:
        """Write the outcome inside the caller's own transaction, fenced; False: the claim no longer holds the job.

        Raises WrongDatabase, NotMigrated, DatabaseBusy; the caller's transaction stays usable, and the caller commits.
        """

    async def acomplete_with(self, connection: object, outcome: Outcome, *, now: datetime) -> bool:
        """The same for a connection that is awaited (aiosqlite); takes the others too."""

    # work
    def join(self, worker: NewWorker, *, now: datetime) -> Membership:
        """Become a worker: liveness lock held first, then the row visible."""

    def exchange(self, worker: int, settle: Sequence[Outcome], want: Want, *, now: datetime) -> Turn:
        """One turn: settle, cancel what was asked for, promote what is due, claim. Raises WorkerLost.

        Settling is fenced per outcome (id, claim number, RUNNING); the outcomes may be those of a dead worker.
        Takes the write lock only if there is something to write.
        """

    def transaction(self, claim: Claim) -> JobTransaction:
        """Open the transaction of a sync handler; nothing is begun yet."""

    def shared_transaction(self, told: Callable[[], object] = bool) -> SharedTransaction | None:
        """Return a transaction for short handlers that follow one another; None: this database gains nothing by it.

        told: called, in whatever thread, when all parts that waited for a commit were told what came of it.
        """

    def async_transaction(self, claim: Claim) -> AsyncJobTransaction:
        """Open the transaction of an async handler; nothing is begun or connected yet."""

    def report(self, reports: Sequence[Report], *, now: datetime) -> None:
        """Keep progress and log lines of jobs whose latest claim is the one given; others are dropped.

        Fenced by the claim's number alone: the last lines of a job whose own transaction has just completed it still
        come in.
        """

    def renew(self, worker: int, held: Iterable[Claim], *, now: datetime) -> Renewal:
        """Say that the worker lives, and compare what it believes to hold with what the database says."""

    def lost(self, *, limit: int) -> list[LostJob]:
        """Return RUNNING jobs whose worker is dead or unknown, whole workers at a time as far as `limit` allows.

        Each with how far its worker had come with it, or UNKNOWN; never NOTHING where its handler may have been called.
        """

    def forget_dead_workers(self) -> int:
        """Delete the rows and lock files of dead workers that hold no job any more; return how many."""

    def doorbell(self) -> Doorbell:
        """Return a new doorbell for one waiter."""

    def idle(self, keys: frozenset[str], queues: tuple[str, ...] | None, *, now: datetime) -> bool:
        """Whether no job of these keys (in these queues; None: all) is ready, due or running."""

    # look
    def get(self, job_id: int) -> Job | None:
        """Return one job with its progress, or None."""

    def log(self, job_id: int) -> list[LogLine]:
        """Return the lines a job has logged, oldest first."""

    def page(self, which: JobFilter, *, after: int | None, limit: int, newest_first: bool) -> list[Job]:
        """Return up to `limit` jobs in id order, beyond the id `after` (keyset paging)."""

    def count(self, which: JobFilter) -> int:
        """Return how many jobs match."""

    def counts(self) -> dict[JobStatus, int]:
        """Return the number of jobs in each status, zeros included."""

    def workers(self) -> list[WorkerInfo]:
        """Return every worker that has not been forgotten."""

    def queues(self) -> list[QueueInfo]:
        """Return every queue that has jobs not yet ended, is paused or has a limit."""

    def examine(self) -> Examination:
        """Look at the database itself: library, files, settings, schema, damage; raises if it cannot be opened."""

    def facts(self, job_id: int) -> JobFacts | None:
        """Return what decides whether this job runs, in one consistent read, or None if there is no such job."""

    # steer; each returns the ids it changed
    def cancel(self, ids: Sequence[int], *, now: datetime) -> list[int]:
        """End waiting jobs CANCELLED at once; ask for the end of running ones. Ended jobs are left alone."""

    def retry(self, ids: Sequence[int], *, now: datetime) -> list[int]:
        """Make FAILED and CANCELLED jobs PENDING with fresh counts of attempts and crashes, SCHEDULED ones PENDING.

        A job whose unique key is held by another one meanwhile is left alone.
        """

    def delete(self, ids: Sequence[int]) -> list[int]:
        """Delete jobs that are not RUNNING, with their progress and log."""

    def set_priority(self, ids: Sequence[int], priority: int, *, now: datetime) -> list[int]:
        """Change the priority of jobs that wait."""

    def pause(self, queue: str, *, now: datetime) -> None:
        """Nothing of this queue is claimed after this returns."""

    def resume(self, queue: str, *, now: datetime) -> None:
        """Undo `pause`."""

    def prunable(
        self, rules: Sequence[RetentionRule], *, after: int, limit: int, now: datetime
    ) -> tuple[list[int], int | None]:
        """Look at `limit` jobs beyond the id `after`; return the ids that may go, and the id to go on from."""

    def prune(self, rules: Sequence[RetentionRule], *, after: int, limit: int, now: datetime) -> tuple[int, int | None]:
        """Look at `limit` jobs beyond the id `after` and delete those that a rule lets go.

        Returns how many were deleted, and the id to go on from (None: the end was reached). Takes the write lock
        only if there is something to delete.
        """
