"""For tests of programs that use sidework: run due jobs now, move the time, ask what was enqueued.

    from sidework.testing import FrozenClock, assert_enqueued, drain, run_due

    def test_signup_sends_a_mail(tmp_path):
        service = make_service(tmp_path / "test.db", clock=FrozenClock())
        sign_up("ada@example.com")
        assert_enqueued(service, "send_mail", {"to": "ada@example.com"})
        [job] = run_due(service)
        assert job.status == "COMPLETED"

A real SQLite file in a temporary folder is the test database: there is no fake that could behave differently.
With pytest, `pytest_plugins = ["sidework.testing"]` gives the fixtures `frozen_clock` and `job_database`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidework.clock import FrozenClock
from sidework.model.job import JobStatus

try:
    import pytest
except ImportError:  # used without pytest: no fixtures, all else works
    pytest = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidework.model.job import Job
    from sidework.service import BackgroundService

__all__ = ["FrozenClock", "assert_enqueued", "assert_not_enqueued", "drain", "enqueued", "run_due"]

WAITING = (JobStatus.PENDING, JobStatus.SCHEDULED)


def run_due(service: BackgroundService) -> list[Job]:
    """Run every job that is ready or due now, and those that they enqueue, to the end; return them in id order.

    Jobs that come back later (a retry with back-off) are in the list as SCHEDULED.
    """
    before = _versions(service)
    service.run_until_idle()
    return [job for job in _all(service) if before.get(job.id) != _version(job) and job.last_attempt_at is not None]


def drain(service: BackgroundService, *, most_rounds: int = 100) -> list[Job]:
    """Run everything, moving the service's FrozenClock to each job that is due later; return all jobs that ran.

    Raises AssertionError if jobs keep coming back after `most_rounds` moves of the clock.
    """
    clock = service.clock
    if not isinstance(clock, FrozenClock):
        raise TypeError(
            "drain() moves the time: give the service a FrozenClock, BackgroundService(..., clock=FrozenClock())"
        )
    ran: dict[int, Job] = {}
    for _ in range(most_rounds):
        ran |= {job.id: job for job in run_due(service)}
        due = [job.run_at for job in _all(service) if job.status is JobStatus.SCHEDULED and job.run_at is not None]
        if not due:
            return [ran[job_id] for job_id in sorted(ran)]
        clock.move_to(min(due))
    raise AssertionError(f"jobs are still scheduled after {most_rounds} rounds: {enqueued(service)}")


def enqueued(service: BackgroundService, key: str | None = None) -> list[Job]:
    """Return the jobs that wait (PENDING or SCHEDULED), in id order."""
    return [job for job in _all(service) if job.status in WAITING and key in (None, job.key)]


def assert_enqueued(
    service: BackgroundService, key: str, payload: Mapping[str, object] | None = None, **columns: Any
) -> Job:
    """Return the first waiting job of this key; AssertionError shows what there is instead.

    payload: fields that its payload must have, with these values (it may have more).
    columns: attributes of the Job that must be equal, such as queue="mail" or priority=5.
    """
    waiting = enqueued(service, key)
    for job in waiting:
        if _has(job, payload or {}, columns):
            return job
    there = "\n".join(f"  {job.key} {job.payload}" for job in enqueued(service)) or "  nothing"
    raise AssertionError(f"no waiting job {key!r} with {dict(payload or {})} {columns or ''}; waiting are:\n{there}")


def assert_not_enqueued(
    service: BackgroundService, key: str, payload: Mapping[str, object] | None = None, **columns: Any
) -> None:
    """Raise AssertionError if a waiting job matches; the conditions are those of `assert_enqueued`."""
    for job in enqueued(service, key):
        if _has(job, payload or {}, columns):
            raise AssertionError(f"job {job.id} is waiting: {job.key} {job.payload}")


def _has(job: Job, payload: Mapping[str, object], columns: Mapping[str, object]) -> bool:
    fields = job.payload if isinstance(job.payload, dict) else {}
    return all(name in fields and fields[name] == value for name, value in payload.items()) and all(
        getattr(job, name) == value for name, value in columns.items()
    )


def _all(service: BackgroundService) -> list[Job]:
    service.migrate()
    found: list[Job] = []
    while page := service.jobs.list(after=found[-1].id if found else None, newest_first=False, limit=1000):
        found += page
    return found


def _versions(service: BackgroundService) -> dict[int, object]:
    return {job.id: _version(job) for job in _all(service)}


def _version(job: Job) -> object:
    return job.status, job.attempts, job.crashes, job.last_attempt_at, job.run_at


if pytest is not None:

    @pytest.fixture
    def frozen_clock() -> FrozenClock:
        """A clock that moves only when told to."""
        return FrozenClock()

    @pytest.fixture
    def job_database(tmp_path: Path) -> Path:
        """The path of a SQLite file that is gone after the test."""
        return tmp_path / "jobs.db"
