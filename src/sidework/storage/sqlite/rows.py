"""Rows and JSON arrays of SQLite <-> the model's data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from sidework.model.job import (
    ClaimedJob,
    EndedJob,
    Job,
    JobStatus,
    Outcome,
    Progress,
    QueueInfo,
    WorkerInfo,
    own_options,
)
from sidework.model.payload import MAX_ERROR_BYTES, clean_text

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = tuple[Any, ...]

_MILLISECOND = timedelta(milliseconds=1)
_UNKNOWN_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)


def to_text(moment: datetime) -> str:
    """Return an aware datetime as the text that the tables hold: ISO 8601, UTC, milliseconds, Z."""
    moment = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def to_due_text(moment: datetime) -> str:
    """Return the same, rounded up to a whole millisecond: nothing is due before its time."""
    return to_text(moment + _MILLISECOND if moment.microsecond % 1000 else moment)


def from_text(text: str) -> datetime:
    """Return the aware datetime that a text means; without an offset it is UTC.

    Any program may write these columns: a text that is no time reads as 1970-01-01, so that it can be looked at.
    """
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return _UNKNOWN_MOMENT
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def maybe_from_text(text: str | None) -> datetime | None:
    """Return the datetime that a text means, or None for NULL."""
    return None if text is None else from_text(text)


def safe_text(text: str | None) -> str | None:
    """Return a text as SQLite keeps it: a lone surrogate would refuse a whole batch, a NUL would end the text."""
    return None if text is None else clean_text(text, MAX_ERROR_BYTES)


def to_json(value: object) -> str:
    """Return a list as JSON text, the form in which lists travel into a statement."""
    return msgspec.json.encode(value).decode()


class Standing(NamedTuple):
    """A row of the `standing` statement."""

    seated: int
    cancellations: int
    next_due: str | None

    def has_due(self, now: str) -> bool:
        """Whether a scheduled job is due."""
        return self.next_due is not None and self.next_due <= now


class OpenQueue(NamedTuple):
    """A row of the `open_queues` statement."""

    name: str
    ready: int
    suspects: int
    limit: int | None


def claims_json(outcomes: Iterable[Outcome]) -> str:
    """Return the claims of outcomes as an object: job id -> number. A job may be in it twice."""
    return "{" + ",".join([f'"{o.claim.job_id}":{o.claim.number}' for o in outcomes]) + "}"


def alike_and_peculiar(
    outcomes: Iterable[Outcome],
) -> tuple[dict[tuple[JobStatus, int, int], list[Outcome]], list[Outcome]]:
    """Return the outcomes that have no time, result or error, by what they have; and the others."""
    alike: dict[tuple[JobStatus, int, int], list[Outcome]] = {}
    peculiar: list[Outcome] = []
    for o in outcomes:
        if o.run_at is None and o.result is None and o.error is None:
            alike.setdefault((o.status, o.attempts, o.crashes), []).append(o)
        else:
            peculiar.append(o)
    return alike, peculiar


def outcomes_json(outcomes: Iterable[Outcome]) -> str:
    """Return outcomes as the parameter `:outcomes` of the settle statement."""
    return to_json([_outcome(outcome) for outcome in outcomes])


def _outcome(o: Outcome) -> Row:
    claim, due = o.claim, None if o.run_at is None else to_due_text(o.run_at)
    what = (due, o.result, safe_text(o.error))
    return (claim.job_id, claim.number, o.status, o.attempts, o.crashes, o.status.ended, *what)


_claimed_jobs = msgspec.json.Decoder(list[ClaimedJob])


def claimed_jobs(text: str) -> list[ClaimedJob]:
    """Return the jobs that a statement has put into one text."""
    return _claimed_jobs.decode(text)


def ended_job(row: Row) -> EndedJob:
    """Return a row of the `prune_candidates` statement."""
    _job_id, key, status, at, options = row
    keep = own_options(options).retention
    return EndedJob(
        key=key, status=JobStatus(status), at=from_text(at), keep=None if keep is None else timedelta(seconds=keep)
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
        created_at=from_text(row[9]),
        updated_at=from_text(row[10]),
        run_at=maybe_from_text(row[11]),
        last_attempt_at=maybe_from_text(row[12]),
        finished_at=maybe_from_text(row[13]),
        last_error=row[14],
        result=_from_json(row[15]),
        unique_key=row[16],
        worker=row[17],
        progress=None if row[18] is None else Progress(done=row[18], total=row[19], message=row[20]),
    )


def worker(row: Row, *, alive: bool) -> WorkerInfo:
    """Return a row of the `all_workers` statement, with what the lock file says."""
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
        started_at=from_text(started_at),
        seen_at=from_text(seen_at),
        running=running,
        alive=alive,
    )


def queue(row: Row) -> QueueInfo:
    """Return a row of the `queues` statement."""
    name, pending, scheduled, running, paused, limit = row
    return QueueInfo(name=name, pending=pending, scheduled=scheduled, running=running, paused=bool(paused), limit=limit)


def _from_json(text: str | None) -> object:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text
