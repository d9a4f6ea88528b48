"""Waiting for jobs: result, wait, watch."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from sidework import (
    Discard,
    JobCancelled,
    JobContext,
    JobFailed,
    JobNotFound,
    JobStatus,
    SideworkError,
    WaitTimeout,
)

DEADLINE = 10


@dataclass
class Receipt:
    at: datetime
    cents: int


def test_a_result_comes_back_as_the_type_that_the_handler_returns(service):
    @service.handler
    async def pay(cents: int) -> Receipt:
        return Receipt(datetime(2026, 1, 2, tzinfo=UTC), cents)

    with service:
        receipt = pay.result(pay.enqueue(cents=5), timeout=DEADLINE)
    assert receipt == Receipt(datetime(2026, 1, 2, tzinfo=UTC), 5)


def test_none_is_a_result(service):
    @service.handler
    def nothing() -> None: ...

    with service:
        assert nothing.result(nothing.enqueue(), timeout=DEADLINE) is None


def test_a_failed_job_raises_with_what_it_left(service):
    @service.handler
    def refuse() -> None:
        raise Discard("the card is stolen")

    job_id = refuse.enqueue()
    service.run_until_idle()
    with pytest.raises(JobFailed, match="the card is stolen") as caught:
        refuse.result(job_id, timeout=DEADLINE)
    assert caught.value.job_id == job_id


def test_a_cancelled_job_raises(service):
    @service.handler
    def never() -> None: ...

    job_id = never.enqueue()
    service.jobs.cancel(job_id)
    with pytest.raises(JobCancelled):
        never.result(job_id, timeout=DEADLINE)


def test_waiting_ends_when_time_is_over_and_the_job_goes_on(service):
    @service.handler
    def later() -> None: ...

    job_id = later.enqueue()
    with pytest.raises(WaitTimeout, match="goes on"):
        service.wait(job_id, timeout=0.01)
    service.run_until_idle()
    assert service.wait(job_id, timeout=0.01 + DEADLINE).status is JobStatus.COMPLETED


def test_there_is_nothing_to_wait_for(service):
    service.migrate()
    with pytest.raises(JobNotFound):
        service.wait(99, timeout=DEADLINE)


def test_waiting_refuses_to_block_an_event_loop(service):
    @service.handler
    def noop() -> None: ...

    async def main() -> None:
        with pytest.raises(SideworkError, match="aresult"):
            service.wait(await noop.aenqueue(), timeout=DEADLINE)

    asyncio.run(main())


def test_waiting_refuses_inside_the_handlers_own_transaction(service, path):
    @service.handler(max_attempts=1)
    def child() -> None: ...

    @service.handler(max_attempts=1)
    def parent(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE t (x)")
        service.wait(child.enqueue(), timeout=DEADLINE)

    job_id = parent.enqueue()
    service.run_until_idle()
    assert "inside its own transaction" in service.jobs.get(job_id).last_error


def test_watch_shows_each_move_and_the_progress(service):
    go_on = threading.Event()

    @service.handler
    def work(job: JobContext) -> int:
        job.progress(1, 2, "half")
        assert go_on.wait(DEADLINE)
        return 7

    async def follow(job_id: int) -> list[object]:
        seen: list[object] = []
        async with asyncio.timeout(DEADLINE):
            async for job in service.watch(job_id):
                seen.append((job.status, None if job.progress is None else job.progress.message))
                if job.progress is not None:
                    go_on.set()
        return seen

    job_id = work.enqueue()
    with service:
        seen = asyncio.run(follow(job_id))
    assert seen[-1] == (JobStatus.COMPLETED, "half")
    assert (JobStatus.RUNNING, "half") in seen


def test_last_words_said_while_a_report_is_written_are_kept(service, monkeypatch):
    writing = threading.Event()
    storage = type(service._storage)
    report = storage.report

    def report_slowly(self, reports, *, now):
        writing.set()
        while service._worker._bench.running:  # until the handler's end was taken, before this report is done
            threading.Event().wait(0.001)
        report(self, reports, now=now)

    monkeypatch.setattr(storage, "report", report_slowly)

    @service.handler
    def work(job: JobContext) -> None:
        job.log("begun")
        assert writing.wait(DEADLINE)
        job.progress(1, 1, "done")

    job_id = work.enqueue()
    service.run_until_idle()
    assert service.jobs.get(job_id).progress.message == "done"
