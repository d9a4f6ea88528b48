"""F13: the server crashes during load, and comes back: no job is lost, no effect is there twice.

`SIDEWORK_RESTARTS=200 pytest tests/faults/test_postgres_crash.py` is the long run.
"""

from __future__ import annotations

import os
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.postgres_server import Server

import sidework.service
from sidework import BackgroundService, DatabaseUnavailable, JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

RESTARTS = int(os.environ.get("SIDEWORK_RESTARTS", "3"))
JOBS_BETWEEN = 40


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of this test's own, which keeps what it acknowledged."""
    server = Server(fsync="on", full_page_writes="on")
    server.start()
    yield server
    server.remove()


@pytest.mark.timeout(120 + RESTARTS * 20)
def test_a_crash_of_the_server_loses_no_job_and_doubles_no_effect(server, monkeypatch):
    monkeypatch.setattr(sidework.service, "FIRST_WAIT", 0.05)
    service = BackgroundService(server.url, grace=10, listeners=())
    within, both = threading.Event(), threading.Event()

    @service.handler(max_attempts=1000, max_crashes=1000, backoff=0.05)
    def pay(db: psycopg.Connection, n: int) -> None:
        db.execute("INSERT INTO effects VALUES (%s)", (n,))
        within.set()  # between the first write and the commit
        both.wait(0.02)

    def enqueue(n: int) -> None:
        while True:
            try:
                pay.using(unique_key=f"{n}").enqueue(n=n)
            except DatabaseUnavailable:  # it may have been kept all the same: the key makes it one job
                both.wait(0.05)
            else:
                return

    service.migrate()
    with closing(psycopg.connect(server.url, autocommit=True)) as raw:
        raw.execute("CREATE TABLE effects (n int)")
    kills = 0
    with service:
        for restart in range(RESTARTS):
            for n in range(restart * JOBS_BETWEEN, (restart + 1) * JOBS_BETWEEN):
                enqueue(n)
            within.clear()
            kills += within.wait(10)
            server.kill()
            server.start()
        everything = list(range(RESTARTS * JOBS_BETWEEN))
        with closing(psycopg.connect(server.url, autocommit=True)) as raw:
            open_jobs = "SELECT count(*) FROM background_service_jobs WHERE status <> 'COMPLETED'"
            while raw.execute(open_jobs).fetchone() != (0,):
                both.wait(0.1)
            found = [n for (n,) in raw.execute("SELECT n FROM effects ORDER BY n")]
        assert service.is_running()
    print(f"F13 crashes: {RESTARTS}, {kills} of them within a handler's transaction; lost and doubled: 0")
    assert found == everything
    assert service.jobs.counts()[JobStatus.COMPLETED] == len(everything)
    service.close()
