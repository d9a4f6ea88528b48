"""Reading jobs, queues and workers, for people and for the manager."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sidework.model.job import JobFacts, JobFilter, JobStatus, LogLine
from sidework.storage.sqlite import rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from sidework.model.job import Job, QueueInfo, WorkerInfo


class Looking:
    """The reads, as steps over a connection."""

    def __init__(self, sql: Mapping[str, str], is_alive: Callable[[str], bool]) -> None:
        """Take the statements of queries.sql, and how to tell from a worker's name whether it lives."""
        self._sql = sql
        self._is_alive = is_alive

    def get(self, connection: sqlite3.Connection, job_id: int) -> Job | None:
        """Return one job."""
        row = connection.execute(f"{self._sql['jobs']} WHERE job.id = ?", (job_id,)).fetchone()
        return None if row is None else rows.job(row)

    def page(
        self, connection: sqlite3.Connection, which: JobFilter, after: int | None, limit: int, *, newest_first: bool
    ) -> list[Job]:
        """Return one page of jobs in id order."""
        conditions, values = _conditions(which)
        if after is not None:
            conditions.append("job.id < ?" if newest_first else "job.id > ?")
            values.append(after)
        order = "DESC" if newest_first else "ASC"
        statement = f"{self._sql['jobs']} {_where(conditions)} ORDER BY job.id {order} LIMIT ?"
        return [rows.job(row) for row in connection.execute(statement, (*values, limit))]

    def count(self, connection: sqlite3.Connection, which: JobFilter) -> int:
        """Return how many jobs match."""
        conditions, values = _conditions(which)
        number: int = connection.execute(f"{self._sql['count']} {_where(conditions)}", values).fetchone()[0]
        return number

    def counts(self, connection: sqlite3.Connection) -> dict[JobStatus, int]:
        """Return the number of jobs in each status."""
        found = dict(connection.execute(self._sql["counts"]).fetchall())
        return {status: found.get(status.value, 0) for status in JobStatus}

    def log(self, connection: sqlite3.Connection, job_id: int) -> list[LogLine]:
        """Return what a job has logged."""
        lines = connection.execute(self._sql["log"], {"job": job_id})
        return [LogLine(at=rows.from_text(at), message=message) for at, message in lines]

    def workers(self, connection: sqlite3.Connection) -> list[WorkerInfo]:
        """Return every worker that has a row."""
        return [rows.worker(row, alive=self._is_alive(row[1])) for row in connection.execute(self._sql["all_workers"])]

    def queues(self, connection: sqlite3.Connection) -> list[QueueInfo]:
        """Return every queue with jobs not ended or with a setting."""
        return [rows.queue(row) for row in connection.execute(self._sql["queues"])]

    def facts(self, connection: sqlite3.Connection, job_id: int) -> JobFacts | None:
        """Return what decides about one job. Run it inside one read transaction."""
        job = self.get(connection, job_id)
        if job is None:
            return None
        place = {"queue": job.queue, "priority": job.priority, "job": job.id}
        ahead = connection.execute(self._sql["ahead_of"], place).fetchone()[0] if job.status == "PENDING" else 0
        asked = connection.execute(self._sql["cancel_requested"], {"job": job.id}).fetchone()[0]
        return JobFacts(
            job=job,
            queue=self._queue(connection, job.queue),
            ahead=ahead,
            workers=self.workers(connection),
            cancel_requested=bool(asked),
        )

    def _queue(self, connection: sqlite3.Connection, name: str) -> QueueInfo:
        found = {queue.name: queue for queue in self.queues(connection)}
        return found.get(name) or rows.queue((name, 0, 0, 0, 0, None))

    def busy_with(
        self, connection: sqlite3.Connection, keys: frozenset[str], queues: tuple[str, ...] | None, now: str
    ) -> bool:
        """Whether a job of these keys is running or due. Ready ones are the turn's to know."""
        parameters = {
            "keys": rows.to_json(sorted(keys)),
            "queues": None if queues is None else msgspec.json.encode(queues).decode(),
            "now": now,
        }
        return bool(connection.execute(self._sql["busy_with"], parameters).fetchone()[0])


def _conditions(which: JobFilter) -> tuple[list[str], list[object]]:
    """The one place where SQL is put together from pieces: each condition a fixed text, each value a parameter."""
    conditions: list[str] = []
    values: list[object] = []
    if which.statuses:
        conditions.append(f"job.status IN ({', '.join('?' * len(which.statuses))})")
        values += sorted(which.statuses)
    for column, value in (("job_key", which.key), ("queue", which.queue), ("priority", which.priority)):
        if value is not None:
            conditions.append(f"job.{column} = ?")
            values.append(value)
    if which.created_before is not None:
        conditions.append("job.created_at < ?")
        values.append(rows.to_text(which.created_before))
    if which.created_after is not None:
        conditions.append("job.created_at > ?")
        values.append(rows.to_text(which.created_after))
    return conditions, values


def _where(conditions: list[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""
