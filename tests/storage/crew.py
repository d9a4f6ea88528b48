"""The workers with whom the tests drive a store: by hand, and at a time given in seconds after NOON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from sidework.model.job import JobFilter, JobStatus, NewJob, NewWorker, Outcome
from sidework.storage.contract import Want

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidework.model.job import ClaimedJob, Job
    from sidework.storage.contract import Storage, Turn

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return the time so many seconds after NOON."""
    return NOON + timedelta(seconds=seconds)


def job(key: str = "k", **fields: Any) -> NewJob:
    """Return a new job of the key that the crew knows."""
    return NewJob(key=key, **fields)


def put(storage: Storage, *jobs: NewJob, time: float = 0) -> list[int]:
    """Insert the jobs given, or a plain one."""
    return storage.insert(jobs or (job(),), now=at(time))


def look(storage: Storage, job_id: int) -> Job:
    """Return a job that must be there."""
    found = storage.get(job_id)
    assert found is not None, f"job {job_id} is gone"
    return found


def status(storage: Storage, job_id: int) -> JobStatus:
    """Return where a job stands."""
    return look(storage, job_id).status


def everything(storage: Storage, **conditions: Any) -> list[Job]:
    """Return all jobs that match, oldest first."""
    return storage.page(JobFilter(**conditions), after=None, limit=1_000_000, newest_first=False)


def ended(job: ClaimedJob, status: JobStatus = JobStatus.COMPLETED, **changes: Any) -> Outcome:
    """Return the outcome of an attempt that the handler ended."""
    outcome = Outcome(claim=job.claim, status=status, attempts=job.attempts + 1, crashes=job.crashes)
    return msgspec.structs.replace(outcome, **changes)


def given_back(job: ClaimedJob) -> Outcome:
    """Return the outcome of an attempt that never began."""
    return ended(job, JobStatus.PENDING, attempts=job.attempts)


def later(job: ClaimedJob, time: float, **changes: Any) -> Outcome:
    """Return the outcome that lets a job come back at a time."""
    return ended(job, JobStatus.SCHEDULED, run_at=at(time), **changes)


def died(job: ClaimedJob) -> Outcome:
    """Return the outcome of a job whose worker died, ready again at once."""
    return ended(job, JobStatus.PENDING, attempts=job.attempts, crashes=job.crashes + 1)


class Hand:
    """A worker of the crew. It knows the jobs of `keys`; whatever it exchanges, it says by itself."""

    def __init__(
        self,
        storage: Storage,
        *,
        keys: Iterable[str] = ("k",),
        queues: tuple[str, ...] | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        """Join the store."""
        self.storage = storage
        self.keys = frozenset(keys)
        about = NewWorker(keys=self.keys, queues=queues, concurrency=10, limits=limits or {})
        self.seat = storage.join(about, now=NOON)

    @property
    def id(self) -> int:
        """The worker's id in the database."""
        return self.seat.worker

    def turn(self, *settle: Outcome, time: float = 0, **want: Any) -> Turn:
        """Exchange the outcomes for what is wanted."""
        return self.storage.exchange(self.id, settle, Want(**({"keys": self.keys} | want)), now=at(time))

    def claim(self, room: int = 1000, *, time: float = 0, **want: Any) -> list[ClaimedJob]:
        """Claim, by default as much as there is."""
        return list(self.turn(time=time, room=room, **want).claimed)

    def claim_one(self, **want: Any) -> ClaimedJob:
        """Claim the one job that comes first."""
        (claimed,) = self.claim(1, **want)
        return claimed

    def settle(self, *outcomes: Outcome, time: float = 0) -> Turn:
        """Exchange the outcomes for nothing."""
        return self.turn(*outcomes, time=time, keys=frozenset())


class Crew:
    """The workers of one test; they leave when it ends."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._hands: list[Hand] = []

    def hire(self, storage: Storage, **about: Any) -> Hand:
        """Let one more worker join."""
        hand = Hand(storage, **about)
        self._hands.append(hand)
        return hand

    def leave(self) -> None:
        """Let all of them leave, those that are gone already included."""
        for hand in self._hands:
            hand.seat.leave()


def ids(jobs: Iterable[ClaimedJob]) -> list[int]:
    """Return the ids of claimed jobs in their order."""
    return [each.id for each in jobs]
