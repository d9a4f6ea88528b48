"""Reading jobs, queues and workers, for people and for the manager."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidework.model.job import JobFacts, JobFilter, JobStatus, LogLine
from sidework.storage.postgres import rows
from sidework.storage.postgres.place import Place, is_gone

if TYPE_CHECKING:
    from datetime import datetime

    from psycopg import Connection

    from sidework.model.job import Job, QueueInfo, WorkerInfo
    from sidework.storage.postgres.session import Session


class Looking:
    """The reads, as steps over a connection."""

    def __init__(self, session: Session, here: Place) -> None:
        """Take how statements are run, and which process looks."""
        self._session = session
        self._here = here

    def get(self, connection: Connection[Any], job_id: int) -> Job | None:
        """Return one job."""
        found = self._select(connection, f"{self._session.text('jobs')} WHERE job.id = %s", [job_id])
        return rows.job(found[0]) if found else None

    def page(
        self, connection: Connection[Any], which: JobFilter, after: int | None, limit: int, *, newest_first: bool
    ) -> list[Job]:
        """Return one page of jobs in id order."""
        conditions, values = _conditions(which)
        if after is not None:
            conditions.append("job.id < %s" if newest_first else "job.id > %s")
            values.append(after)
        order = "DESC" if newest_first else "ASC"
        statement = f"{self._session.text('jobs')} {_where(conditions)} ORDER BY job.id {order} LIMIT %s"
        return [rows.job(row) for row in self._select(connection, statement, [*values, limit])]

    def count(self, connection: Connection[Any], which: JobFilter) -> int:
        """Return how many jobs match."""
        conditions, values = _conditions(which)
        ((number,),) = self._select(connection, f"{self._session.text('count')} {_where(conditions)}", values)
        return int(number)

    def counts(self, connection: Connection[Any]) -> dict[JobStatus, int]:
        """Return the number of jobs in each status."""
        found = dict(self._session.rows(connection, "counts"))
        return {status: found.get(status.value, 0) for status in JobStatus}

    def log(self, connection: Connection[Any], job_id: int) -> list[LogLine]:
        """Return what a job has logged."""
        lines = self._session.rows(connection, "log", {"job": job_id})
        return [LogLine(at=rows.to_moment(at), message=message) for at, message in lines]

    def workers(self, connection: Connection[Any]) -> list[WorkerInfo]:
        """Return every worker that has a row."""
        return [
            rows.worker(row[:11], alive=not self.is_dead(alive=row[11], place=row[12], pid=row[3], born=row[13]))
            for row in self._session.rows(connection, "all_workers")
        ]

    def dead_workers(self, connection: Connection[Any]) -> tuple[list[int], set[int]]:
        """Return the workers that are dead, and all that have a row."""
        found = self._session.rows(connection, "worker_names")
        dead = [row[0] for row in found if self.is_dead(alive=row[1], place=row[2], pid=row[3], born=row[4])]
        return dead, {row[0] for row in found}

    def is_dead(self, *, alive: bool, place: str | None, pid: int, born: int | None) -> bool:
        """Whether a worker's lease is over, or its process has ended where this one can see it."""
        return not alive or is_gone(Place(host=place, pid=pid, born=born), self._here)

    def queues(self, connection: Connection[Any]) -> list[QueueInfo]:
        """Return every queue with jobs not ended or with a setting."""
        return [rows.queue(row) for row in self._session.rows(connection, "queues")]

    def facts(self, connection: Connection[Any], job_id: int) -> JobFacts | None:
        """Return what decides about one job. Run it inside one snapshot."""
        job = self.get(connection, job_id)
        if job is None:
            return None
        place = {"queue": job.queue, "priority": job.priority, "job": job.id}
        waits = job.status is JobStatus.PENDING
        return JobFacts(
            job=job,
            queue=self._queue(connection, job.queue),
            ahead=self._session.one(connection, "ahead_of", place) if waits else 0,
            workers=self.workers(connection),
            cancel_requested=self._session.one(connection, "cancel_requested", {"job": job.id}),
        )

    def _queue(self, connection: Connection[Any], name: str) -> QueueInfo:
        found = {queue.name: queue for queue in self.queues(connection)}
        return found.get(name) or rows.queue((name, 0, 0, 0, False, None))

    def busy_with(
        self, connection: Connection[Any], keys: frozenset[str], queues: tuple[str, ...] | None, now: datetime
    ) -> bool:
        """Whether a job of these keys is running or due. Ready ones are the turn's to know."""
        named = None if queues is None else list(queues)
        parameters = {"keys": sorted(keys), "queues": named, "now": rows.to_moment(now)}
        return bool(self._session.one(connection, "busy_with", parameters))

    @staticmethod
    def _select(connection: Connection[Any], statement: str, values: list[object]) -> list[tuple[Any, ...]]:
        return connection.execute(statement, values).fetchall()


def _conditions(which: JobFilter) -> tuple[list[str], list[object]]:
    """The one place where SQL is put together from pieces: each condition a fixed text, each value a parameter."""
    conditions: list[str] = []
    values: list[object] = []
    if which.statuses:
        conditions.append("job.status = ANY (%s)")
        values.append(sorted(status.value for status in which.statuses))
    for column, value in (("job_key", which.key), ("queue", which.queue), ("priority", which.priority)):
        if value is not None:
            conditions.append(f"job.{column} = %s")
            values.append(value)
    if which.created_before is not None:
        conditions.append("job.created_at < %s")
        values.append(rows.to_moment(which.created_before))
    if which.created_after is not None:
        conditions.append("job.created_at > %s")
        values.append(rows.to_moment(which.created_after))
    return conditions, values


def _where(conditions: list[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""
