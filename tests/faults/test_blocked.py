"""F8, F9, F15: a worker that is busy with itself is not dead; a handler that is stuck costs its own job only."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.processes import now

from sidework import BackgroundService, JobContext
from sidework.errors import DatabaseUnavailable, JobLost
from sidework.storage.sqlite.store import SqliteStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LONGEST = 30.0


def service_on(path: Path, **options: Any) -> BackgroundService:
    return BackgroundService(path, grace=0.2, **options)


@contextmanager
def beside_another(path: Path, register: Callable[[BackgroundService], object]) -> Iterator[BackgroundService]:
    """Give a service; as soon as it runs, an idle one that could do the same runs beside it."""
    first, second = service_on(path), service_on(path)
    register(first)
    register(second)
    with first, second:
        yield first


def effects(path: Path) -> list[tuple[int, int]]:
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT job, claim FROM effects").fetchall()
    connection.close()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    BackgroundService(path).migrate()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE effects (job INTEGER, claim INTEGER)")
    connection.close()
    return path


def hog_the_interpreter(job: JobContext) -> None:
    """Keep every other Python thread from running, as a C extension does."""
    until = now() + 1.5
    text = "a" * 22 + "b"
    import re

    while now() < until:
        re.match(r"(a+)+$", text)


async def block_the_loop(job: JobContext) -> None:
    time.sleep(1.5)  # noqa: ASYNC251 - the mistake that this is about


@pytest.mark.parametrize("misbehave", [hog_the_interpreter, block_the_loop])
def test_who_blocks_its_own_process_is_not_taken_for_dead(path: Path, misbehave):
    with beside_another(path, lambda service: service.register_job_handler("k", misbehave)) as service:
        job = service.wait(service.enqueue("k"), LONGEST)
    assert (job.status, job.attempts, job.crashes) == ("COMPLETED", 1, 0)


def test_a_sign_of_life_that_cannot_be_written_kills_nobody(path: Path, monkeypatch: pytest.MonkeyPatch):
    """There is no lease to renew in time on one machine: the kernel tells who lives."""
    monkeypatch.setattr("sidework.engine.worker.RENEW_INTERVAL", 0.05)
    failures = []
    enough = threading.Event()

    def fail(*_: object, **__: object) -> None:
        failures.append(1)
        if len(failures) > 2:
            enough.set()
        raise DatabaseUnavailable("the disk does not take it")

    monkeypatch.setattr(SqliteStorage, "renew", fail)

    def run(db: sqlite3.Connection, job: JobContext) -> None:
        assert enough.wait(LONGEST)
        db.execute("INSERT INTO effects VALUES (?, 0)", (job.id,))

    with beside_another(path, lambda service: service.register_job_handler("k", run)) as service:
        job = service.wait(service.enqueue("k"), LONGEST)
    assert (job.status, job.crashes) == ("COMPLETED", 0)
    assert effects(path) == [(job.id, 0)]
    assert len(failures) > 2


def test_a_stuck_handler_loses_its_transaction_and_holds_up_nobody(path: Path, figures: Callable[[str], None]):
    """It spins in its thread with the write lock taken; a thread cannot be killed, so it is cut off and left behind."""
    service = service_on(path)
    may_end, said = threading.Event(), []

    @service.handler("stuck", timeout=0.4, max_attempts=1)
    def stuck(db: sqlite3.Connection, job: JobContext) -> None:
        db.execute("INSERT INTO effects VALUES (?, 1)", (job.id,))
        while not may_end.is_set():
            pass
        try:
            db.execute("INSERT INTO effects VALUES (?, 2)", (job.id,))
        except JobLost:
            said.append("refused")

    @service.handler("other")
    def other(db: sqlite3.Connection, job: JobContext) -> None:
        db.execute("INSERT INTO effects VALUES (?, 1)", (job.id,))

    with service:
        began = now()
        first = service.enqueue("stuck")
        ended = service.wait(first, LONGEST)
        others = [service.wait(service.enqueue("other"), LONGEST) for _ in range(3)]
        seconds = now() - began
        may_end.set()
        until = now() + LONGEST
        while not said and now() < until:
            time.sleep(0.005)
    figures(f"F15 stuck handler: cut off and three others done {seconds - 0.4:.2f} s after its timeout")
    assert ended.status == "FAILED"
    assert "timeout of 0.4 s" in (ended.last_error or "")
    assert effects(path) == [(job.id, 1) for job in others]
    assert said == ["refused"]
    assert seconds < 10
