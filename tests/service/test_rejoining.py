"""A service whose lease ran out, or whose server went away, ends its handlers and takes another seat."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

import sidework.service
from sidework import BackgroundService, JobStatus
from sidework.errors import AnswerLost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidework.model.job import LostJob
    from sidework.storage.postgres.store import PostgresStorage

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


class CutLine:
    """Loses the answers to some looks for the jobs of the dead, with which a worker begins, once it is cut."""

    def __init__(self, storage: PostgresStorage, *, times: int) -> None:
        self._lost = storage.lost
        self._left = times
        self.cut = False

    def lost(self, *, limit: int) -> Sequence[LostJob]:
        if self.cut and self._left > 0:
            self._left -= 1
            raise AnswerLost("the connection was lost before the answer came")
        return self._lost(limit=limit)


def test_a_line_that_is_cut_again_while_another_seat_is_taken_does_not_end_the_service(
    service, postgres_database, monkeypatch
):
    begun, ended = threading.Event(), threading.Event()
    before = set(threading.enumerate())
    line = CutLine(service._storage, times=2)
    monkeypatch.setattr(service._storage, "lost", line.lost)

    @service.handler(backoff=0)
    def work(job) -> int:
        begun.set()
        while not job.cancelled and not ended.is_set():
            ended.wait(0.01)
        return 1

    with service, closing(psycopg.connect(postgres_database, autocommit=True)) as raw:
        job_id = work.enqueue()
        assert begun.wait(DEADLINE)
        line.cut = True
        raw.execute("DELETE FROM background_service_workers")
        ended.set()
        assert service.wait(job_id, timeout=DEADLINE).status is JobStatus.COMPLETED
        assert service.is_running()
    turning = {thread for thread in threading.enumerate() if thread.name.startswith("sidework-turn")} - before
    for thread in turning:
        thread.join(DEADLINE)
    assert not [thread for thread in turning if thread.is_alive()]


def test_a_line_that_is_cut_while_the_first_seat_is_taken_is_told_at_once(service, monkeypatch):
    line = CutLine(service._storage, times=1)
    monkeypatch.setattr(service._storage, "lost", line.lost)
    line.cut = True
    with pytest.raises(AnswerLost, match="before the answer came"):
        service.run_until_idle()
