"""Progress and log lines: never in the handler's way, throttled, and the last ones are never lost."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest
from tests.engine.faulty import Faulty
from tests.engine.rig import DEADLINE

from sidework.engine.attempt import MOST_LINES_AT_ONCE
from sidework.engine.context import JobContext
from sidework.engine.reporter import INTERVAL
from sidework.model.job import Progress

if TYPE_CHECKING:
    from tests.engine.rig import Rig


def progress_of(rig: Rig, job_id: int) -> Progress | None:
    return rig.job(job_id).progress


async def test_progress_is_kept_at_most_every_quarter_of_a_second_and_the_last_at_the_end(rig: Rig):
    steps: asyncio.Queue[int | None] = asyncio.Queue()

    @rig.handler("k")
    async def handle(job: JobContext):
        while (step := await steps.get()) is not None:
            for part in range(100):
                job.progress(step + part / 100, 3, f"step {step}")
            steps.task_done()
        job.progress(3, 3, "done")

    job_id = rig.add("k")
    storage = Faulty(rig.storage)
    async with rig.working(storage) as worker:
        await rig.turn(worker)
        for step in range(3):
            steps.put_nowait(step)
            await steps.join()
            await rig.turn(worker)
        assert storage.calls.count("report") == 1  # the clock stands still
        assert progress_of(rig, job_id) == Progress(done=0.99, total=3, message="step 0")
        rig.clock.advance(INTERVAL)
        await rig.turn(worker)
        assert progress_of(rig, job_id) == Progress(done=2.99, total=3, message="step 2")
        steps.put_nowait(None)
        await rig.finish(worker)
    assert storage.calls.count("report") == 3
    assert progress_of(rig, job_id) == Progress(done=3, total=3, message="done")


async def test_the_last_words_of_a_job_that_its_own_transaction_completed_are_kept(rig: Rig):
    rig.sql("CREATE TABLE effects (word TEXT)")

    @rig.handler("k")
    def handle(db: sqlite3.Connection, job: JobContext):
        db.execute("INSERT INTO effects VALUES ('x')")
        job.progress(1, 1)
        job.log("written")

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.finish(worker)
    assert progress_of(rig, job_id) == Progress(done=1, total=1)
    assert [line.message for line in rig.storage.log(job_id)] == ["written"]


async def test_log_lines_keep_their_order_and_time_and_are_bounded(rig: Rig):
    @rig.handler("k")
    async def handle(job: JobContext):
        for number in range(MOST_LINES_AT_ONCE + 5):
            job.log(f"line {number}\0")

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.finish(worker)
    lines = [line.message for line in rig.storage.log(job_id)]
    assert lines[0] == "(5 lines before this one were dropped)"
    assert lines[1:] == [f"line {number}\\x00" for number in range(5, MOST_LINES_AT_ONCE + 5)]
    assert {line.at for line in rig.storage.log(job_id)} == {rig.clock.now()}


@pytest.mark.parametrize(("done", "total"), [(float("nan"), None), (1, float("inf"))])
async def test_progress_takes_only_finite_numbers(rig: Rig, done, total):
    @rig.handler("k")
    async def handle(job: JobContext):
        job.progress(done, total)

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.finish(worker)
    assert "finite" in (rig.job(job_id).last_error or "")


async def test_progress_from_a_thread_reaches_the_database_while_the_handler_stands_still(rig: Rig):
    loop, gate = asyncio.get_running_loop(), asyncio.Event()

    @rig.handler("k")
    def handle(job: JobContext):
        job.progress(1, 2)
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(DEADLINE)

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.turn(worker)
        await rig.woken(worker)
        await rig.turn(worker)
        assert progress_of(rig, job_id) == Progress(done=1, total=2)
        gate.set()
        await rig.finish(worker)


async def test_an_attempt_that_is_over_reports_nothing_more(rig: Rig):
    kept: list[JobContext] = []

    @rig.handler("k")
    async def handle(job: JobContext):
        kept.append(job)

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.finish(worker)
        kept[0].progress(1)
        rig.clock.advance(1)
        await rig.turn(worker)
    assert progress_of(rig, job_id) is None
