"""What the tests of a move share: a file with something of everything, and how two places are compared."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec

from sidework import BackgroundJobManager, BackgroundService, JobContext, JobStatus

if TYPE_CHECKING:
    from pathlib import Path

EVERYTHING = {"limit": 1_000_000, "newest_first": False}


def build(database: str | Path) -> BackgroundService:
    """Return the service of the tests, on whatever database."""
    service = BackgroundService(database, concurrency=1, grace=5, listeners=())

    @service.handler
    def greet(job: JobContext, name: str) -> str:
        job.log(f"greeting\n{name}")
        job.progress(1, 3, "half\tway")
        return f"hello {name}\\n"

    @service.handler(max_attempts=1)
    def fail(name: str) -> None:
        raise ValueError(name)

    return service


def fill(path: Path) -> BackgroundService:
    """Make a file with jobs of every status, history, settings, and numbers that are missing."""
    service = build(path)
    for name in ("ada", "grüße", "\t\\N\n"):
        service.enqueue("greet", {"name": name})
    service.enqueue("fail", {"name": "no way"})
    service.run_until_idle()
    service.enqueue("greet", {"name": "later"}, delay=3600, unique_key="held", priority=-3)
    service.enqueue("greet", {"name": "now"}, queue="slow", max_attempts=9)
    service.jobs.cancel(service.enqueue("greet", {"name": "never"}))
    service.jobs.pause("slow")
    leave_a_dead_worker(path)
    service.jobs.delete(2)
    service.jobs.delete(add_and_delete(service))
    service.close()
    return service


def add_and_delete(service: BackgroundService) -> int:
    """Use up the highest number."""
    return service.enqueue("greet", {"name": "gone"}, delay=60)


def leave_a_dead_worker(path: Path) -> None:
    """Leave a job RUNNING that nobody runs any more, with a request to cancel it, and a limited queue."""
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute(
            "INSERT INTO background_service_workers (name, host, pid, version, concurrency, keys, started_at, seen_at) "
            "VALUES ('00000000000000000000000000000000', 'h', 1, '0', 1, '[]', '2026-01-01T00:00:00.000Z', "
            "'2026-01-01T00:00:00.000Z')"
        )
        raw.execute(
            "INSERT INTO background_service_jobs (job_key, status, claims, worker, payload, last_attempt_at) "
            "SELECT 'greet', 'RUNNING', 7, MAX(id), '{\"name\": \"orphan\"}', '2026-01-01T00:00:00.000Z' "
            "FROM background_service_workers"
        )
        raw.execute(
            "INSERT INTO background_service_cancellations SELECT MAX(id), '2026-01-01T00:00:00.000Z' "
            "FROM background_service_jobs"
        )
        raw.execute("INSERT INTO background_service_queues (name, running_limit) VALUES ('gpu', 2)")


def all_of(database: str | Path) -> dict[str, Any]:
    """Return everything that a manager can see, as plain data."""
    manager = BackgroundJobManager(database)
    try:
        jobs = manager.list(**EVERYTHING)  # type: ignore[arg-type]
        return {
            "jobs": [msgspec.to_builtins(job) for job in jobs],
            "logs": {job.id: [msgspec.to_builtins(line) for line in manager.log(job.id)] for job in jobs},
            "queues": [msgspec.to_builtins(queue) for queue in manager.queues()],
        }
    finally:
        manager._storage.close()


def counts(database: str | Path) -> dict[str, int]:
    """Return how many jobs are in each status, those that are none left out."""
    manager = BackgroundJobManager(database)
    try:
        return {status.value: number for status, number in manager.counts().items() if number}
    finally:
        manager._storage.close()


STATUSES_OF_FILL = {
    JobStatus.PENDING.value: 1,
    JobStatus.SCHEDULED.value: 1,
    JobStatus.RUNNING.value: 1,
    JobStatus.COMPLETED.value: 2,
    JobStatus.FAILED.value: 1,
    JobStatus.CANCELLED.value: 1,
}
