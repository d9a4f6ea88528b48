"""Ending an attempt from outside: out of time, cancelled by somebody, superseded."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from tests.engine.rig import DEADLINE

from sidework.engine.attempt import Stop
from sidework.engine.context import JobContext
from sidework.engine.events import AbandonedHandlerEnded, ClaimLost, HandlerAbandoned, JobStarted
from sidework.engine.runner import CLEANUP_SECONDS

if TYPE_CHECKING:
    from tests.engine.rig import Rig


class Held:
    """A handler in a thread that stands still until it is let go."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.gate = threading.Event()

    def wait(self) -> None:
        self.inside.set()
        assert self.gate.wait(DEADLINE)

    async def entered(self) -> None:
        assert await asyncio.to_thread(self.inside.wait, DEADLINE)


@pytest.fixture
def held():
    held = Held()
    yield held
    held.gate.set()


# ------------------------------------------------------------------------------------------------------------ timeout


async def test_an_async_handler_out_of_time_is_cancelled_and_its_finally_block_gets_its_time(rig: Rig):
    cleaned = []

    @rig.handler("k", timeout=5)
    async def handle():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.turn(worker)
        await asyncio.sleep(0)
        rig.timer.ring(5)
        await rig.finish(worker)
    assert cleaned == [True]
    assert rig.status(job_id) == "SCHEDULED"
    error = rig.job(job_id).last_error or ""
    assert error.startswith("TimeoutError: the handler ran longer than its timeout of 5 s")
    assert "await asyncio.Event().wait()" in error  # where it stood


async def test_an_attempt_that_ends_in_time_sets_its_alarm_back(rig: Rig):
    @rig.handler("k", timeout=5)
    async def handle(): ...

    rig.add("k")
    async with rig.working() as worker:
        await rig.finish(worker)
        assert [alarm for alarm in rig.timer.set if alarm.seconds == 5] == []


async def test_no_timer_is_touched_where_there_is_no_timeout(rig: Rig):
    @rig.handler("k")
    async def handle():
        assert rig.timer.set == []

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.finish(worker)
    assert rig.status(job_id) == "COMPLETED"


async def test_a_job_may_override_the_timeout_of_its_handler(rig: Rig):
    @rig.handler("k", timeout=5)
    async def handle():
        await asyncio.Event().wait()

    job_id = rig.add("k", options='{"timeout": 7}', max_attempts=1)
    async with rig.working() as worker:
        await rig.turn(worker)
        await asyncio.sleep(0)
        rig.timer.ring(5)
        rig.timer.ring(7)
        await rig.finish(worker)
    assert "its timeout of 7 s" in (rig.job(job_id).last_error or "")


async def test_an_async_handler_that_swallows_the_cancellation_and_returns_has_done_its_work(rig: Rig):
    @rig.handler("k", timeout=5)
    async def handle():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "late"

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.turn(worker)
        await asyncio.sleep(0)
        rig.timer.ring(5)
        await rig.finish(worker)
    assert rig.job(job_id).result == "late"


async def test_an_async_handler_that_will_not_end_is_abandoned_after_its_time_for_cleaning_up(rig: Rig):
    stubborn = asyncio.Event()

    @rig.handler("k", timeout=5)
    async def handle():
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                continue

    job_id = rig.add("k", max_attempts=1)
    async with rig.working() as worker:
        await rig.turn(worker)
        await asyncio.sleep(0)
        rig.timer.ring(5)
        await asyncio.sleep(0)
        rig.timer.ring(CLEANUP_SECONDS)
        [abandoned] = await rig.told(HandlerAbandoned)
        await rig.finish(worker)
        assert rig.status(job_id) == "FAILED"
        stubborn.set()
        await rig.told(AbandonedHandlerEnded)
    assert abandoned.job_id == job_id
    assert rig.status(job_id) == "FAILED"


async def test_a_thread_out_of_time_is_abandoned_its_place_is_free_and_its_late_end_is_told(rig: Rig, held: Held):
    @rig.handler("slow", timeout=5)
    def slow(job: JobContext):
        held.wait()
        late.append(job.cancelled)
        return "too late"

    late: list[bool] = []
    rig.handler("next")(lambda: None)
    slow_id, next_id = rig.add("slow", max_attempts=1, priority=1), rig.add("next")
    async with rig.working(concurrency=1) as worker:
        await rig.turn(worker)
        await held.entered()
        rig.timer.ring(5)
        [abandoned] = await rig.told(HandlerAbandoned)
        await rig.finish(worker)
        assert rig.status(slow_id) == "FAILED"
        assert rig.status(next_id) == "COMPLETED"
        held.gate.set()
        await rig.told(AbandonedHandlerEnded)
        await rig.finish(worker)
    assert abandoned.reason == "it ran longer than its timeout"
    assert late == [True]
    assert rig.job(slow_id).result is None


async def test_the_thread_of_an_abandoned_handler_is_not_counted_as_free(rig: Rig, held: Held):
    ran = threading.Event()

    @rig.handler("slow", timeout=5)
    def slow():
        held.wait()

    rig.handler("next")(ran.set)
    rig.add("slow", max_attempts=1)
    async with rig.working(concurrency=1) as worker:
        await rig.turn(worker)
        await held.entered()
        rig.timer.ring(5)
        await rig.told(HandlerAbandoned)
        rig.add("next")
        await rig.finish(worker)
        assert ran.is_set()
        assert worker._threads.started == 2


# ------------------------------------------------------------------------------------------------------------- cancel


async def test_a_waiting_job_is_cancelled_at_once(rig: Rig):
    rig.handler("k")(lambda: None)
    job_id = rig.add("k")
    rig.storage.cancel([job_id], now=rig.clock.now())
    async with rig.working() as worker:
        await rig.finish(worker)
    assert rig.status(job_id) == "CANCELLED"


async def test_a_running_async_handler_is_cancelled_by_request_with_the_next_turn(rig: Rig):
    @rig.handler("k")
    async def handle():
        await asyncio.Event().wait()

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.turn(worker)
        await asyncio.sleep(0)
        rig.storage.cancel([job_id], now=rig.clock.now())
        await rig.finish(worker)
    assert rig.status(job_id) == "CANCELLED"
    assert rig.job(job_id).attempts == 0


@pytest.mark.parametrize(("ends_by", "status"), [("return", "COMPLETED"), ("raise", "CANCELLED")])
async def test_a_thread_sees_the_request_and_says_by_its_end_what_becomes_of_the_job(rig: Rig, ends_by, status):
    started = threading.Event()

    @rig.handler("k")
    def handle(job: JobContext):
        started.set()
        while not job.cancelled:
            os_yield()
        if ends_by == "raise":
            raise RuntimeError("asked to end")

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.turn(worker)
        assert await asyncio.to_thread(started.wait, DEADLINE)
        rig.storage.cancel([job_id], now=rig.clock.now())
        await rig.finish(worker)
    assert rig.status(job_id) == status


async def test_a_cancelled_handler_that_cleans_up_badly_is_cancelled_all_the_same(rig: Rig):
    @rig.handler("k")
    async def handle():
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while cleaning up")

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.turn(worker)
        await asyncio.sleep(0)
        rig.storage.cancel([job_id], now=rig.clock.now())
        await rig.finish(worker)
    assert rig.status(job_id) == "CANCELLED"


async def test_a_handler_that_cleans_up_is_not_interrupted_again_by_the_turns_that_repeat_the_request(rig: Rig):
    cleaning, gate, cleaned = asyncio.Event(), asyncio.Event(), []

    @rig.handler("k")
    async def handle():
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await gate.wait()
            cleaned.append(True)

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.turn(worker)
        await asyncio.sleep(0)
        rig.storage.cancel([job_id], now=rig.clock.now())
        await rig.turn(worker)
        await asyncio.wait_for(cleaning.wait(), DEADLINE)
        for _ in range(3):
            await rig.turn(worker)
            await asyncio.sleep(0)
        gate.set()
        await rig.finish(worker)
    assert cleaned == [True]
    assert rig.status(job_id) == "CANCELLED"


def begun_later(loop, coroutine, **more):
    """Make a task as every Python does that knows none that begin at once."""
    return asyncio.Task(coroutine, loop=loop, **more)


async def test_a_job_cancelled_before_its_first_step_is_never_called(rig: Rig):
    called = []
    asyncio.get_running_loop().set_task_factory(begun_later)

    @rig.handler("k")
    async def handle():
        called.append(True)

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.turn(worker)
        [attempt] = worker._bench.running.values()
        worker._runner.stop(attempt, Stop.CANCEL)
        await rig.finish(worker)
    assert called == []
    assert rig.status(job_id) == "CANCELLED"


# ---------------------------------------------------------------------------------------------------------- superseded


async def test_an_attempt_whose_job_was_taken_away_writes_nothing(rig: Rig):
    @rig.handler("k")
    async def handle():
        rig.sql("UPDATE background_service_jobs SET claims = claims + 1")
        return "mine"

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.finish(worker)
        [lost] = rig.of(ClaimLost)
    assert lost.job_id == job_id
    assert rig.job(job_id).result is None


async def test_the_successor_of_an_abandoned_attempt_runs_while_the_old_thread_still_does(rig: Rig, held: Held):
    tries = []

    @rig.handler("k", timeout=5, backoff=0)
    def handle(job: JobContext):
        tries.append(job.attempt)
        if job.attempt == 1:
            held.wait()
        return job.attempt

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.turn(worker)
        await held.entered()
        rig.timer.ring(5)
        await rig.told(HandlerAbandoned)
        await rig.finish(worker)
        assert rig.job(job_id).result == 2
        held.gate.set()
        await rig.told(AbandonedHandlerEnded)
        await rig.finish(worker)
    assert tries == [1, 2]
    assert rig.job(job_id).result == 2
    assert len(rig.of(JobStarted)) == 2


def os_yield() -> None:
    """Let other threads run."""
    threading.Event().wait(0.001)
