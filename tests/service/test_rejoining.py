"""A service whose lease ran out, or whose server went away, ends its handlers and takes another seat."""

from __future__ import annotations

import threading
from contextlib import closing

import psycopg
import pytest

import sidework.service
from sidework import BackgroundService, JobStatus

DEADLINE = 30.0


@pytest.fixture
def service(postgres_database, monkeypatch):
    monkeypatch.setattr(sidework.service, "FIRST_WAIT", 0.01)
    service = BackgroundService(postgres_database, grace=5)
    yield service
    service.stop()
    service.close()


def test_the_service_goes_on_after_its_row_was_deleted(service, postgres_database):
    begun, ended = threading.Event(), threading.Event()

    @service.handler(backoff=0)
    def work(job) -> int:
        begun.set()
        while not job.cancelled and not ended.is_set():
            ended.wait(0.01)
        return 1

    with service, closing(psycopg.connect(postgres_database, autocommit=True)) as raw:
        job_id = work.enqueue()
        assert begun.wait(DEADLINE)
        seats = raw.execute("DELETE FROM background_service_workers RETURNING id").fetchall()
        while raw.execute("SELECT id FROM background_service_workers").fetchall() in ([], seats):
            pass
        ended.set()
        assert service.wait(job_id, timeout=DEADLINE).status is JobStatus.COMPLETED
        assert service.is_running()


def test_handlers_are_told_to_end_before_the_lease_is_over(service, postgres_database, monkeypatch):
    cut, told = threading.Event(), threading.Event()
    alive: list[tuple[bool]] = []

    @service.handler(backoff=0, max_crashes=9)
    def work(job) -> None:
        if cut.is_set():
            return
        cut.set()
        while not job.cancelled:
            threading.Event().wait(0.01)
        with closing(psycopg.connect(postgres_database, autocommit=True)) as raw:
            leases = "SELECT expires_at > clock_timestamp() FROM background_service_workers WHERE id = 1"
            alive.extend(raw.execute(leases).fetchall())
        told.set()

    for name, value in {"seat.LEASE": 4.0, "store.LEASE": 4.0, "seat.MARGIN": 3.5}.items():
        monkeypatch.setattr(f"sidework.storage.postgres.{name}", value)
    with service:
        job_id = work.enqueue()
        assert cut.wait(DEADLINE)
        for name, value in {"seat.LEASE": 60.0, "store.LEASE": 60.0, "seat.MARGIN": 5.0}.items():
            monkeypatch.setattr(f"sidework.storage.postgres.{name}", value)
        assert told.wait(DEADLINE)
        assert (True,) in alive  # nobody could have taken the job yet
        assert service.wait(job_id, timeout=DEADLINE).status is JobStatus.COMPLETED
