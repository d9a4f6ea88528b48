"""Look at jobs and steer them, from any program: no handlers and no running service needed."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

from sidework.clock import Clock, SystemClock
from sidework.errors import JobNotFound
from sidework.model.explain import Explanation, explain
from sidework.model.health import Finding, diagnose
from sidework.model.job import (
    ENDED,
    Job,
    JobFilter,
    JobStatus,
    LogLine,
    QueueInfo,
    RetentionRule,
    WorkerInfo,
)
from sidework.storage.open import open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sidework.storage.contract import Storage

BATCH = 200
"""Jobs changed in one transaction of a bulk act: few enough that other writers hardly wait."""

KEEP_COMPLETED = timedelta(days=7)
KEEP_FAILED = timedelta(days=30)
DEFAULT_RETENTION = (
    RetentionRule(statuses=frozenset({JobStatus.COMPLETED}), keep=KEEP_COMPLETED),
    RetentionRule(statuses=frozenset({JobStatus.FAILED, JobStatus.CANCELLED}), keep=KEEP_FAILED),
)

T = TypeVar("T")

_WAITING = frozenset({JobStatus.PENDING, JobStatus.SCHEDULED})


class JobConditions(TypedDict, total=False):
    """Which jobs are meant; every condition given must hold."""

    status: JobStatus | str
    statuses: Iterable[JobStatus | str]
    key: str
    queue: str
    priority: int
    created_before: datetime
    created_after: datetime
    older_than: float | timedelta
    """Created longer ago than this: seconds or a timedelta."""


class BackgroundJobManager:
    """Looks at the jobs of a database and steers them.

    Never creates or migrates anything: where there is no database yet, or its tables are not as this version needs
    them, every method raises DatabaseMissing, NotMigrated, SchemaTooNew or NotOurTable. What takes the id of one job
    raises JobNotFound if there is no such job; what steers one job returns whether it changed anything.
    """

    def __init__(self, database: str | os.PathLike[str] | Storage, *, clock: Clock | None = None) -> None:
        """Take a path, a URL or an open storage. Does no I/O."""
        self._storage = open_storage(_location(database)) if isinstance(database, (str, os.PathLike)) else database
        self._clock = clock or SystemClock()
        self._checked = False

    # look
    def get(self, job_id: int) -> Job:
        """Return one job, with its progress. Raises JobNotFound."""
        return _found(job_id, self._ready().get(job_id))

    def list(
        self,
        *,
        after: int | None = None,
        limit: int = 100,
        newest_first: bool = True,
        **conditions: Unpack[JobConditions],
    ) -> list[Job]:
        """Return up to `limit` jobs in the order of their ids; `after`, the last id of a page, gives the next one."""
        which = self._which(conditions)
        return self._ready().page(which, after=after, limit=limit, newest_first=newest_first)

    def count(self, **conditions: Unpack[JobConditions]) -> int:
        """Return how many jobs there are."""
        return self._ready().count(self._which(conditions))

    def counts(self) -> dict[JobStatus, int]:
        """Return how many jobs are in each status, zeros included."""
        return self._ready().counts()

    def log(self, job_id: int) -> Sequence[LogLine]:
        """Return the lines that the job's handler left with `job.log(...)`, oldest first. Raises JobNotFound."""
        lines = self._ready().log(job_id)
        if not lines:
            self.get(job_id)
        return lines

    def explain(self, job_id: int) -> Explanation:
        """Return why the job is not running, or where it runs, or how it ended. Raises JobNotFound."""
        return explain(_found(job_id, self._ready().facts(job_id)), self._clock.now())

    def workers(self) -> Sequence[WorkerInfo]:
        """Return every worker that the database knows, dead ones not yet tidied away included."""
        return self._ready().workers()

    def queues(self) -> Sequence[QueueInfo]:
        """Return every queue with jobs that have not ended, or that is paused or limited."""
        return self._ready().queues()

    def examine(self) -> Sequence[Finding]:
        """Look whether the database, its workers and its jobs are well; works on tables that cannot be used, too."""
        examination = self._storage.examine()
        workers = self._storage.workers() if examination.usable else ()
        return diagnose(examination, workers, self._clock.now())

    # steer one
    def retry(self, job_id: int) -> bool:
        """Make a failed or cancelled job ready again with all its attempts, or a scheduled one ready now.

        False if it is ready, running or completed, or if another job holds its unique key meanwhile.
        """
        return self._steer_one(job_id, lambda ids: self._storage.retry(ids, now=self._clock.now()))

    def cancel(self, job_id: int) -> bool:
        """End a waiting job at once, or ask a running one to end. False if it has ended."""
        return self._steer_one(job_id, lambda ids: self._storage.cancel(ids, now=self._clock.now()))

    def delete(self, job_id: int) -> bool:
        """Delete a job that is not running, with its progress and log. False if it is running."""
        return self._steer_one(job_id, self._storage.delete)

    def set_priority(self, job_id: int, priority: int) -> bool:
        """Change the priority of a waiting job. False if it does not wait."""
        return self._steer_one(job_id, lambda ids: self._storage.set_priority(ids, priority, now=self._clock.now()))

    # steer many, in small transactions
    def retry_many(self, **conditions: Unpack[JobConditions]) -> int:
        """Retry all these jobs (failed and cancelled ones, if no status is named); return how many."""
        which = self._which(conditions, otherwise=frozenset({JobStatus.FAILED, JobStatus.CANCELLED}))
        return self._steer_many(which, lambda ids: self._storage.retry(ids, now=self._clock.now()))

    def cancel_many(self, **conditions: Unpack[JobConditions]) -> int:
        """Cancel all these jobs (waiting and running ones, if no status is named); return how many."""
        which = self._which(conditions, otherwise=_WAITING | {JobStatus.RUNNING})
        return self._steer_many(which, lambda ids: self._storage.cancel(ids, now=self._clock.now()))

    def delete_many(self, **conditions: Unpack[JobConditions]) -> int:
        """Delete all these jobs (those that have ended, if no status is named); return how many.

        Raises ValueError without any condition, which would delete the whole history.
        """
        if not conditions:
            raise ValueError(
                "delete_many() without a condition would delete every ended job; say statuses=... at least"
            )
        return self._steer_many(self._which(conditions, otherwise=ENDED), self._storage.delete)

    def set_priority_many(self, priority: int, /, **conditions: Unpack[JobConditions]) -> int:
        """Change the priority of all these jobs that wait; return how many."""
        which = self._which(conditions, otherwise=_WAITING)
        return self._steer_many(which, lambda ids: self._storage.set_priority(ids, priority, now=self._clock.now()))

    # steer queues
    def pause(self, queue: str) -> None:
        """Let nothing of this queue begin any more; what runs goes on."""
        self._ready().pause(queue, now=self._clock.now())

    def resume(self, queue: str) -> None:
        """Undo `pause`."""
        self._ready().resume(queue, now=self._clock.now())

    def prune(self, rules: Sequence[RetentionRule] = DEFAULT_RETENTION) -> int:
        """Delete what ended longer ago than the rules keep it; return how many."""
        storage, deleted, after = self._ready(), 0, 0
        while True:
            gone, following = storage.prune(rules, after=after, limit=BATCH, now=self._clock.now())
            deleted += gone
            if following is None:
                return deleted
            after = following

    def count_prunable(self, rules: Sequence[RetentionRule] = DEFAULT_RETENTION) -> int:
        """Return how many jobs `prune` would delete now."""
        storage, found, after = self._ready(), 0, 0
        while True:
            ids, following = storage.prunable(rules, after=after, limit=BATCH, now=self._clock.now())
            found += len(ids)
            if following is None:
                return found
            after = following

    def _ready(self) -> Storage:
        """Return the storage, once it is known that its tables can be used."""
        if not self._checked:
            self._storage.check()
            self._checked = True
        return self._storage

    def _steer_one(self, job_id: int, act: Callable[[Sequence[int]], Sequence[int]]) -> bool:
        self._ready()
        if act([job_id]):
            return True
        self.get(job_id)
        return False

    def _steer_many(self, which: JobFilter, act: Callable[[Sequence[int]], Sequence[int]]) -> int:
        return sum(len(act(ids)) for ids in self._batches(which))

    def _batches(self, which: JobFilter) -> Iterator[Sequence[int]]:
        """Yield the ids that match now, a batch at a time; jobs that are added meanwhile are not followed."""
        storage = self._ready()
        newest = storage.page(which, after=None, limit=1, newest_first=True)
        after: int | None = None
        while newest and (page := storage.page(which, after=after, limit=BATCH, newest_first=False)):
            after = page[-1].id
            yield [job.id for job in page if job.id <= newest[0].id]
            if after >= newest[0].id:
                return

    def _which(self, given: JobConditions, *, otherwise: frozenset[JobStatus] = frozenset()) -> JobFilter:
        """Turn conditions into a filter. Raises TypeError or ValueError for what is none."""
        if unknown := given.keys() - JobConditions.__annotations__.keys():
            raise TypeError(
                f"unknown condition {', '.join(sorted(unknown))}; known: {', '.join(JobConditions.__annotations__)}"
            )
        return JobFilter(
            statuses=_statuses(given) or otherwise,
            key=given.get("key"),
            queue=given.get("queue"),
            priority=given.get("priority"),
            created_before=self._created_before(given),
            created_after=_aware("created_after", given.get("created_after")),
        )

    def _created_before(self, given: JobConditions) -> datetime | None:
        before = _aware("created_before", given.get("created_before"))
        age = given.get("older_than")
        if age is None:
            return before
        old = self._clock.now() - (age if isinstance(age, timedelta) else timedelta(seconds=age))
        return old if before is None else min(old, before)


def _location(database: str | os.PathLike[str]) -> str | Path:
    return database if isinstance(database, str) else Path(database)


def _found(job_id: int, value: T | None) -> T:
    if value is None:
        raise JobNotFound(f"there is no job {job_id}; it may have been deleted or pruned")
    return value


def _statuses(given: JobConditions) -> frozenset[JobStatus]:
    named = [*given.get("statuses", ())]
    if (status := given.get("status")) is not None:
        named.append(status)
    try:
        return frozenset(JobStatus(name.upper()) for name in named)
    except ValueError as error:
        raise ValueError(f"{error}; statuses are {', '.join(JobStatus)}") from None


def _aware(name: str, at: datetime | None) -> datetime | None:
    if at is not None and at.utcoffset() is None:
        raise ValueError(f"{name}={at!r} has no time zone; use an aware datetime")
    return None if at is None else at.astimezone(UTC)
