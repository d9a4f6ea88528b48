"""Whoever finds a service dead can tell what it was at, however its handlers run."""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest

from sidework import BackgroundService, JobContext
from sidework.model.job import Reached
from sidework.storage.sqlite.liveness import lock_path
from sidework.storage.sqlite.marks import read_marks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def marks_of(service: BackgroundService, path: Path) -> Mapping[int, Reached] | None:
    """Return what the one worker would leave behind if it died now."""
    [worker] = service.jobs.workers()
    return read_marks(lock_path(path, worker.name))


@pytest.mark.parametrize("kind", ["async", "thread", "db", "loop"])
def test_a_job_is_marked_while_its_handler_runs_and_not_once_its_end_is_written(tmp_path: Path, kind: str):
    service = BackgroundService(tmp_path / "app.db")
    seen: list[Mapping[int, Reached] | None] = []

    def look() -> None:
        seen.append(marks_of(service, tmp_path / "app.db"))

    async def in_async() -> None:
        look()

    def in_thread() -> None:
        look()

    def with_db(db: sqlite3.Connection) -> None:
        look()
        db.execute("CREATE TABLE IF NOT EXISTS notes (n)")

    handlers: dict[str, Callable[..., Any]] = {"async": in_async, "db": with_db}
    handler = handlers.get(kind, in_thread)
    options: dict[str, Any] = {"executor": "loop"} if kind == "loop" else {}
    service.register_job_handler("k", handler, **options)
    with service:
        for _ in range(3):
            job = service.enqueue("k")
            service.wait(job, timeout=20)
    assert [(marks or {}).get(number) for number, marks in enumerate(seen, 1)] == [Reached.BEGUN] * 3
    assert seen[2] is not None
    assert 1 not in seen[2]


def test_a_handler_that_was_left_behind_is_marked_until_its_jobs_end_is_written(tmp_path: Path):
    service = BackgroundService(tmp_path / "app.db")
    go, begun = threading.Event(), threading.Event()

    @service.handler("k", timeout=0.05, max_attempts=1)
    def stay(job: JobContext) -> None:
        assert job.id == 1
        begun.set()
        go.wait(20)

    seen: list[Mapping[int, Reached] | None] = []
    service.register_job_handler("look", lambda: seen.append(marks_of(service, tmp_path / "app.db")))
    with service:
        job = service.enqueue("k")
        assert begun.wait(20)
        assert marks_of(service, tmp_path / "app.db") == {1: Reached.BEGUN}
        service.wait(job, timeout=20)
        service.wait(service.enqueue("look"), timeout=20)  # claimed after that end was written
        go.set()
    assert seen == [{2: Reached.BEGUN}]
