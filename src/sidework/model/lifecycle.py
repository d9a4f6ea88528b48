"""The rules of a job's life, in one place: which moves there are, and what follows from the end of an attempt.

PENDING ──claim──▶ RUNNING ──▶ COMPLETED
   ▲                 │  │ └──▶ FAILED ──────┐
   │ due             │  └────▶ CANCELLED ───┤ retry (by an operator)
SCHEDULED ◀──────────┘                      ▼
(retry, snooze, crash)                   PENDING
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias, assert_never

import msgspec

from sidework.model.backoff import delay_before_retry
from sidework.model.job import ClaimedJob, EndedJob, JobStatus, LostJob, Outcome, Reached, RetentionRule

if TYPE_CHECKING:
    from collections.abc import Sequence

MOVES = {
    JobStatus.PENDING: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED}),
    JobStatus.SCHEDULED: frozenset({JobStatus.PENDING, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.PENDING, JobStatus.SCHEDULED, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.COMPLETED: frozenset[JobStatus](),
    JobStatus.FAILED: frozenset({JobStatus.PENDING}),
    JobStatus.CANCELLED: frozenset({JobStatus.PENDING}),
}
"""From a status to those that may follow it. An operator's retry is the only way back from an end."""

MAX_CRASHES = 3

_BY_REQUEST = "cancelled by request"
_DIED = "its worker died while it ran"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The options that decide about one job: its handler's, with the job's own overrides."""

    backoff: float | tuple[float, ...] | None = None
    """Seconds: bound of the first delay, or the delays themselves; None: the default."""
    max_crashes: int = MAX_CRASHES


DEFAULT_POLICY = Policy()


class Returned(msgspec.Struct, frozen=True):
    """The handler returned; `result` is JSON text or None."""

    result: str | None


class Raised(msgspec.Struct, frozen=True):
    """The handler raised, or ran out of time. `after`: wait so long instead of the back-off."""

    error: str
    after: timedelta | None = None


class Snoozed(msgspec.Struct, frozen=True):
    """The handler asked to be called again later; no attempt is used."""

    after: timedelta


class Discarded(msgspec.Struct, frozen=True):
    """There is no use in trying again."""

    reason: str


class Cancelled(msgspec.Struct, frozen=True):
    """Somebody asked for the end of the job, and the handler ended."""

    reason: str


class GivenBack(msgspec.Struct, frozen=True):
    """The worker stops or died before the handler began, or stops before it could end; no attempt is used."""


class WorkerDied(msgspec.Struct, frozen=True):
    """The worker's process is gone, and the handler had begun. `suspected`: this job may have killed it."""

    suspected: bool
    cancel_requested: bool = False


Happening: TypeAlias = Returned | Raised | Snoozed | Discarded | Cancelled | GivenBack | WorkerDied


def decide(job: ClaimedJob, happened: Happening, policy: Policy, *, now: datetime, chance: float) -> Outcome:
    """Return what is to be written about a job whose attempt is over.

    chance: a random number in [0, 1) for the jitter of the back-off.
    """
    match happened:
        case Returned(result):
            return completed(job, result)
        case Raised(error, after):
            return _after_failure(job, error, after, policy, now=now, chance=chance)
        case Snoozed(after):
            return _later(job, now + after, attempts=job.attempts)
        case Discarded(reason):
            return _end(job, JobStatus.FAILED, attempts=job.attempts + 1, error=reason)
        case Cancelled(reason):
            return _end(job, JobStatus.CANCELLED, attempts=job.attempts, error=reason)
        case GivenBack():
            return _end(job, JobStatus.PENDING, attempts=job.attempts)
        case WorkerDied():
            return _after_death(job, happened, policy, now=now, chance=chance)
        case _:
            assert_never(happened)


def completed(job: ClaimedJob, result: str | None) -> Outcome:
    """Return what is to be written about a job whose handler returned: no policy, time or chance has a say in that."""
    return _end(job, JobStatus.COMPLETED, attempts=job.attempts + 1, result=result)


def after_death(lost: Sequence[LostJob]) -> list[Happening]:
    """Say what the death of one worker means to each of the jobs that it held."""
    suspects = {suspect.job.claim for suspect in _suspects(lost)}
    return [_of_the_dead(each, suspected=each.job.claim in suspects) for each in lost]


def _suspects(lost: Sequence[LostJob]) -> list[LostJob]:
    """Return the jobs that may have killed their worker.

    Those that ran may have; where none did, those that had just ended, for what a handler leaves behind may kill too. A
    job that was there at an earlier death runs alone: if one is among these, it did it, and the others are not charged.
    """
    ran = [job for job in lost if job.reached in (Reached.BEGUN, Reached.UNKNOWN)]
    able = ran or [job for job in lost if job.reached is Reached.ENDED]
    return [job for job in able if job.job.crashes > 0] or able


def _of_the_dead(lost: LostJob, *, suspected: bool) -> Happening:
    if lost.reached is not Reached.NOTHING:
        return WorkerDied(suspected=suspected, cancel_requested=lost.cancel_requested)
    return Cancelled(_BY_REQUEST) if lost.cancel_requested else GivenBack()


def _after_failure(
    job: ClaimedJob, error: str, after: timedelta | None, policy: Policy, *, now: datetime, chance: float
) -> Outcome:
    attempts = job.attempts + 1
    if attempts >= job.max_attempts:
        return _end(job, JobStatus.FAILED, attempts=attempts, error=error)
    delay = delay_before_retry(attempts, policy.backoff, chance) if after is None else after
    return _later(job, now + delay, attempts=attempts, error=error)


def _after_death(job: ClaimedJob, death: WorkerDied, policy: Policy, *, now: datetime, chance: float) -> Outcome:
    crashes = job.crashes + death.suspected
    if death.cancel_requested:
        return _end(job, JobStatus.CANCELLED, attempts=job.attempts, crashes=crashes, error=_BY_REQUEST)
    if job.max_attempts == 1:
        reason = "its worker died while it ran, and max_attempts=1 means at most once"
        return _end(job, JobStatus.FAILED, attempts=job.attempts, crashes=crashes, error=reason)
    if crashes >= policy.max_crashes:
        reason = f"its worker died {crashes} times while it ran (max_crashes={policy.max_crashes})"
        return _end(job, JobStatus.FAILED, attempts=job.attempts, crashes=crashes, error=reason)
    if not death.suspected:
        return _end(job, JobStatus.PENDING, attempts=job.attempts)
    # The first death costs no wait: on one machine most deaths are deployments and kills, not poison.
    delay = delay_before_retry(crashes - 1, policy.backoff, chance) if crashes > 1 else timedelta(0)
    if not delay:
        return _end(job, JobStatus.PENDING, attempts=job.attempts, crashes=crashes, error=_DIED)
    return _later(job, now + delay, attempts=job.attempts, crashes=crashes, error=_DIED)


def _later(
    job: ClaimedJob, run_at: datetime, *, attempts: int, crashes: int | None = None, error: str | None = None
) -> Outcome:
    return Outcome(
        claim=job.claim,
        status=JobStatus.SCHEDULED,
        attempts=attempts,
        crashes=job.crashes if crashes is None else crashes,
        run_at=run_at,
        error=error,
    )


def _end(
    job: ClaimedJob,
    status: JobStatus,
    *,
    attempts: int,
    crashes: int | None = None,
    result: str | None = None,
    error: str | None = None,
) -> Outcome:
    return Outcome(
        claim=job.claim,
        status=status,
        attempts=attempts,
        crashes=job.crashes if crashes is None else crashes,
        result=result,
        error=error,
    )


def may_go(rules: Sequence[RetentionRule], ended: EndedJob, *, now: datetime) -> bool:
    """Whether a job may be deleted now. Its own retention decides, then the first rule for its key and status."""
    if ended.status is JobStatus.COMPLETED and ended.keep is not None:
        return ended.at + ended.keep <= now
    for rule in rules:
        if ended.status in rule.statuses and rule.key in (None, ended.key):
            return ended.at + rule.keep <= now
    return False
