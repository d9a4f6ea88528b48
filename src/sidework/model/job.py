"""A job and what is said about it: plain, frozen data.

Payloads, results and options travel as JSON text here; `payload.py` turns them into values and back.
Times are aware datetimes in UTC. What comes by the thousand (NewJob, ClaimedJob, Outcome) is kept from the garbage
collector: it holds texts and numbers only, and so can be part of no cycle. As JSON a claimed job is an array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import Literal

import msgspec


class JobStatus(StrEnum):
    """Where a job stands."""

    PENDING = "PENDING"
    """Ready to run now."""
    SCHEDULED = "SCHEDULED"
    """Due at `run_at`: delayed, or waiting to be tried again."""
    RUNNING = "RUNNING"
    """Held by a worker."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether the job will not run again by itself."""
        return self in ENDED


ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


class NewJob(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A job that is about to be inserted. PENDING, or SCHEDULED when `run_at` is set."""

    key: str
    payload: str | None = None
    priority: int = 0
    max_attempts: int = 3
    queue: str = "default"
    run_at: datetime | None = None
    unique_key: str | None = None
    options: str | None = None
    """JSON text of the handler options that this job overrides (`JobOptions`), or None."""


class JobOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one job overrides of its handler's options, beyond what has a column. Seconds; None: as the handler says."""

    timeout: float | None = None
    backoff: float | tuple[float, ...] | None = None
    max_crashes: int | None = None
    retention: float | None = None
    executor: Literal["thread", "loop"] | None = None


_options_decoder = msgspec.json.Decoder(JobOptions)


def own_options(text: str | None) -> JobOptions:
    """Read what a job overrides; what another program wrote there and cannot be read counts as nothing."""
    if text is None:
        return JobOptions()
    try:
        return _options_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return JobOptions()


class Claim(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The fencing token: `number` only grows for a job; it is never reused, reset or cleared."""

    job_id: int
    number: int


class ClaimedJob(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """A job that this worker holds, as it stood when it was claimed."""

    claim: Claim
    key: str
    payload: str | None
    queue: str
    priority: int
    attempts: int
    """Tries that ended by the handler, before this one."""
    max_attempts: int
    crashes: int
    created_at: str
    """ISO 8601 text as stored; part of the idempotency key."""
    options: str | None = None

    @property
    def id(self) -> int:
        """The job's id."""
        return self.claim.job_id


class Reached(Enum):
    """How far a worker had come with a job when it died."""

    NOTHING = "its handler had not been called"
    BEGUN = "its handler had begun"
    ENDED = "its handler had ended, and that was not written yet"
    UNKNOWN = "nobody knows"


class LostJob(msgspec.Struct, frozen=True, kw_only=True):
    """A RUNNING job whose worker is dead."""

    job: ClaimedJob
    worker: int | None
    cancel_requested: bool = False
    reached: Reached = Reached.UNKNOWN


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is written when an attempt is over, if the claim still holds the job."""

    claim: Claim
    status: JobStatus
    attempts: int
    crashes: int
    run_at: datetime | None = None
    result: str | None = None
    error: str | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the manager shows it."""

    id: int
    key: str
    payload: object
    """The decoded JSON (a dict or None); the raw text where it is not JSON."""
    status: JobStatus
    queue: str
    priority: int
    attempts: int
    max_attempts: int
    crashes: int
    created_at: datetime
    updated_at: datetime
    run_at: datetime | None = None
    last_attempt_at: datetime | None = None
    finished_at: datetime | None = None
    last_error: str | None = None
    result: object = None
    unique_key: str | None = None
    worker: int | None = None
    progress: Progress | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job says it is. `total` None: not known."""

    done: float
    total: float | None = None
    message: str | None = None


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that a handler left with `job.log(...)`."""

    at: datetime
    message: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a running job wants kept: its latest progress, and log lines since the last report."""

    claim: Claim
    progress: Progress | None = None
    lines: tuple[LogLine, ...] = ()


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs are meant. Every condition that is given must hold; none given: all jobs."""

    statuses: frozenset[JobStatus] = frozenset()
    key: str | None = None
    queue: str | None = None
    priority: int | None = None
    created_before: datetime | None = None
    created_after: datetime | None = None


class NewWorker(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker tells about itself when it joins."""

    keys: frozenset[str]
    queues: tuple[str, ...] | None
    """The queues it serves; None: every queue there is."""
    concurrency: int
    limits: Mapping[str, int] = {}
    """Queue -> at most so many running at once, over all workers; kept in the database."""


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as the database knows it."""

    id: int
    name: str
    host: str
    pid: int
    version: str
    concurrency: int
    queues: tuple[str, ...] | None
    keys: frozenset[str]
    started_at: datetime
    seen_at: datetime
    running: int
    alive: bool


class QueueInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A queue: how many jobs wait in it and run in it, whether it is paused, and how many may run at once."""

    name: str
    pending: int
    scheduled: int
    running: int
    paused: bool
    limit: int | None


class JobFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides why a job does or does not run; read in one go. `explain` turns it into a sentence."""

    job: Job
    queue: QueueInfo
    ahead: int
    """Jobs of the same queue that come first."""
    workers: Sequence[WorkerInfo]
    """Every worker in the database, dead ones included."""
    cancel_requested: bool


class EndedJob(msgspec.Struct, frozen=True, kw_only=True):
    """What retention needs to know of a job."""

    key: str
    status: JobStatus
    at: datetime
    """When it ended, or was last changed."""
    keep: timedelta | None = None
    """How long it asked to be kept once completed; None: as the rules say."""


class RetentionRule(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that ended in one of these statuses longer ago than `keep` may be deleted."""

    statuses: frozenset[JobStatus]
    keep: timedelta
    key: str | None = None
    """Only jobs of this key; a rule with a key goes before one without."""
