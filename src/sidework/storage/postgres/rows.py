"""Rows and parameters of PostgreSQL <-> the model's data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from sidework.model.job import (
    Claim,
    ClaimedJob,
    EndedJob,
    Job,
    JobStatus,
    NewJob,
    Outcome,
    Progress,
    QueueInfo,
    WorkerInfo,
    own_options,
)
from sidework.model.payload import MAX_ERROR_BYTES, clean_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Row = tuple[Any, ...]

_MILLISECOND = timedelta(milliseconds=1)


def to_moment(moment: datetime) -> datetime:
    """Return a time as the tables hold it: whole milliseconds, cut and not rounded, as in the texts of SQLite."""
    return moment.astimezone(UTC) - timedelta(microseconds=moment.microsecond % 1000)


def to_due(moment: datetime) -> datetime:
    """Return the same, rounded up to a whole millisecond: nothing is due before its time."""
    return to_moment(moment + _MILLISECOND if moment.microsecond % 1000 else moment)


def safe_text(text: str | None) -> str | None:
    """Return a text as PostgreSQL keeps it: a lone surrogate or a NUL would refuse a whole batch."""
    return None if text is None else clean_text(text, MAX_ERROR_BYTES)


def outcomes(settle: Sequence[Outcome], now: datetime) -> Mapping[str, object]:
    """Return outcomes as the parameters of the settle statement."""
    return {
        "ids": [o.claim.job_id for o in settle],
        "claims": [o.claim.number for o in settle],
        "statuses": [o.status.value for o in settle],
        "attempts": [o.attempts for o in settle],
        "crashes": [o.crashes for o in settle],
        "run_ats": [None if o.run_at is None else to_due(o.run_at) for o in settle],
        "results": [o.result for o in settle],
        "errors": [safe_text(o.error) for o in settle],
        "now": to_moment(now),
    }


def new_job(job: NewJob, now: datetime) -> Mapping[str, object]:
    """Return one job as the parameters of `insert_job`."""
    return {
        "job_key": job.key,
        "payload": job.payload,
        "priority": job.priority,
        "max_attempts": job.max_attempts,
        "status": status_of(job),
        "queue": job.queue,
        "run_at": None if job.run_at is None else to_due(job.run_at),
        "options": job.options,
        "now": to_moment(now),
    }


def new_jobs(jobs: Sequence[NewJob], now: datetime) -> Mapping[str, object]:
    """Return jobs as the parameters of `insert_jobs`."""
    return {
        "job_keys": [job.key for job in jobs],
        "payloads": [job.payload for job in jobs],
        "priorities": [job.priority for job in jobs],
        "max_attempts": [job.max_attempts for job in jobs],
        "statuses": [status_of(job) for job in jobs],
        "queues": [job.queue for job in jobs],
        "run_ats": [None if job.run_at is None else to_due(job.run_at) for job in jobs],
        "unique_keys": [job.unique_key for job in jobs],
        "options": [job.options for job in jobs],
        "now": to_moment(now),
    }


def copied_job(job_id: int, job: NewJob, now: datetime) -> Row:
    """Return a job as a row of `copy_jobs`. now: as `to_moment` returns it."""
    due = None if job.run_at is None else to_due(job.run_at)
    status = status_of(job)
    return (
        job_id, job.key, job.payload, job.priority, job.max_attempts, status, job.queue, due, job.options, now, now
    )  # fmt: skip


COPIED_TYPES = (
    "int8", "text", "text", "int8", "int8", "text", "text", "timestamptz", "text", "timestamptz", "timestamptz"
)  # fmt: skip
"""Of the columns of `copied_job`: binary COPY converts nothing."""


def status_of(job: NewJob) -> str:
    """Return the status that a job begins with."""
    return JobStatus.PENDING.value if job.run_at is None else JobStatus.SCHEDULED.value


def claimed_job(row: Row) -> ClaimedJob:
    """Return a row of the claim as the job that a worker now holds."""
    job_id, number, key, payload, queue, priority, attempts, max_attempts, crashes, created_at, options = row
    return ClaimedJob(
        claim=Claim(job_id, number),
        key=key,
        payload=payload,
        queue=queue,
        priority=priority,
        attempts=attempts,
        max_attempts=max_attempts,
        crashes=crashes,
        created_at=created_at,
        options=options,
    )


def ended_job(row: Row) -> EndedJob | None:
    """Return a row of the `prune_candidates` statement, or None for a job that has not ended."""
    _job_id, key, status, at, options = row
    if not JobStatus(status).ended:
        return None
    keep = own_options(options).retention
    return EndedJob(
        key=key,
        status=JobStatus(status),
        at=at.astimezone(UTC),
        keep=None if keep is None else timedelta(seconds=keep),
    )


def job(row: Row) -> Job:
    """Return a row of the `jobs` statement as the manager shows it."""
    return Job(
        id=row[0],
        key=row[1],
        payload=_from_json(row[2]),
        status=JobStatus(row[3]),
        queue=row[4],
        priority=row[5],
        attempts=row[6],
        max_attempts=row[7],
        crashes=row[8],
        created_at=row[9].astimezone(UTC),
        updated_at=row[10].astimezone(UTC),
        run_at=maybe_utc(row[11]),
        last_attempt_at=maybe_utc(row[12]),
        finished_at=maybe_utc(row[13]),
        last_error=row[14],
        result=_from_json(row[15]),
        unique_key=row[16],
        worker=row[17],
        progress=None if row[18] is None else Progress(done=row[18], total=row[19], message=row[20]),
    )


def worker(row: Row, *, alive: bool) -> WorkerInfo:
    """Return the first columns of `all_workers`, with whether the worker lives."""
    worker_id, name, host, pid, version, concurrency, queues, keys, started_at, seen_at, running = row
    return WorkerInfo(
        id=worker_id,
        name=name,
        host=host,
        pid=pid,
        version=version,
        concurrency=concurrency,
        queues=None if queues is None else tuple(msgspec.json.decode(queues)),
        keys=frozenset(msgspec.json.decode(keys)),
        started_at=started_at.astimezone(UTC),
        seen_at=seen_at.astimezone(UTC),
        running=running,
        alive=alive,
    )


def queue(row: Row) -> QueueInfo:
    """Return a row of the `queues` statement."""
    name, pending, scheduled, running, paused, limit = row
    return QueueInfo(name=name, pending=pending, scheduled=scheduled, running=running, paused=paused, limit=limit)


def maybe_utc(moment: datetime | None) -> datetime | None:
    """Return a time in UTC, whatever zone the server speaks in."""
    return None if moment is None else moment.astimezone(UTC)


def _from_json(text: str | None) -> object:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text
