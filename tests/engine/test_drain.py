"""Stopping: finish what can finish, give back the rest, and never free what still runs."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from tests.engine.rig import DEADLINE

from sidework.engine.context import JobContext
from sidework.engine.events import WorkerStopped, WorkerStopping
from sidework.engine.stopping import LAST_WAIT
from sidework.model.job import JobStatus

if TYPE_CHECKING:
    from tests.engine.rig import Rig


class Gate:
    """Handlers that wait, and say that they do."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.waiting = asyncio.Event()

    async def wait(self) -> str:
        self.waiting.set()
        await self.open.wait()
        return "finished"


async def test_a_stop_lets_running_jobs_finish_and_claims_nothing_more(rig: Rig):
    gate = Gate()
    rig.handler("k")(gate.wait)
    running = rig.add("k")
    worker = rig.worker(concurrency=1)
    life = asyncio.ensure_future(worker.run())
    await asyncio.wait_for(gate.waiting.wait(), DEADLINE)
    later = rig.add("k")
    worker.stop()
    await rig.told(WorkerStopping)
    gate.open.set()
    assert await life is True
    assert rig.status(running) == "COMPLETED"
    assert rig.status(later) == "PENDING"
    assert rig.storage.workers() == []


async def test_after_the_grace_period_async_handlers_are_given_back_without_using_an_attempt(rig: Rig):
    gate = Gate()
    rig.handler("k")(gate.wait)
    job_id = rig.add("k")
    worker = rig.worker(grace=25.0)
    life = asyncio.ensure_future(worker.run())
    await asyncio.wait_for(gate.waiting.wait(), DEADLINE)
    worker.stop()
    await rig.told(WorkerStopping)
    rig.timer.ring(25.0)
    assert await life is False
    job = rig.job(job_id)
    assert (job.status.value, job.attempts, job.crashes, job.last_error) == ("PENDING", 0, 0, None)
    assert rig.of(WorkerStopped)[0].given_back == 1


async def test_a_stop_now_does_not_wait_for_the_grace_period(rig: Rig):
    gate = Gate()
    rig.handler("k")(gate.wait)
    job_id = rig.add("k")
    worker = rig.worker()
    life = asyncio.ensure_future(worker.run())
    await asyncio.wait_for(gate.waiting.wait(), DEADLINE)
    worker.stop()
    worker.stop(now=True)
    worker.stop()  # takes nothing back
    assert await life is False
    assert rig.status(job_id) == "PENDING"


async def test_what_is_claimed_ahead_is_given_back_at_once(rig: Rig):
    gate = Gate()

    @rig.handler("quick")
    async def quick():
        rig.clock.advance(0.001)

    rig.handler("slow")(gate.wait)
    rig.add_many("quick", 300)
    async with rig.working(concurrency=1) as worker:
        while not worker._bench.has_ready:
            await rig.turn(worker)
            await rig.woken(worker)
        slow = rig.add("slow", priority=1)
        await rig.finish_until(worker, lambda: rig.status(slow) == "RUNNING" and worker._bench.has_ready)
        worker.stop()
        await rig.turn(worker)
        assert rig.storage.counts()[JobStatus.RUNNING] == 1
        gate.open.set()
        await rig.drain(worker)
    assert rig.status(slow) == "COMPLETED"
    assert {rig.job(job_id).status.value for job_id in range(1, 301)} == {"COMPLETED", "PENDING"}


async def test_a_thread_that_heeds_the_request_is_given_back(rig: Rig):
    started = threading.Event()

    @rig.handler("k")
    def handle(job: JobContext):
        started.set()
        while not job.cancelled:
            threading.Event().wait(0.001)
        raise InterruptedError

    job_id = rig.add("k")
    worker = rig.worker()
    life = asyncio.ensure_future(worker.run())
    assert await asyncio.to_thread(started.wait, DEADLINE)
    worker.stop(now=True)
    assert await life is False
    assert (rig.status(job_id), rig.job(job_id).attempts) == ("PENDING", 0)


async def test_the_job_of_a_stuck_thread_stays_held_and_the_seat_is_kept(rig: Rig):
    started, gate = threading.Event(), threading.Event()

    @rig.handler("k")
    def handle():
        started.set()
        assert gate.wait(DEADLINE)

    job_id = rig.add("k")
    worker = rig.worker()
    life = asyncio.ensure_future(worker.run())
    assert await asyncio.to_thread(started.wait, DEADLINE)
    worker.stop(now=True)
    await rig.timer.was_set(LAST_WAIT)
    rig.timer.ring(LAST_WAIT)
    assert await life is False
    assert rig.of(WorkerStopped)[0].stuck == (job_id,)
    assert rig.status(job_id) == "RUNNING"
    assert rig.storage.lost(limit=10) == []  # its worker counts as alive: the thread may still write
    gate.set()
    async with asyncio.timeout(DEADLINE):
        while rig.storage.workers() != []:
            await asyncio.to_thread(threading.Event().wait, 0.005)
    assert rig.status(job_id) == "COMPLETED"  # the program went on, and so did the thread


async def test_a_run_that_is_cancelled_gives_back_what_runs_and_leaves(rig: Rig):
    gate = Gate()
    rig.handler("k")(gate.wait)
    job_id = rig.add("k")
    life = asyncio.ensure_future(rig.worker().run())
    await asyncio.wait_for(gate.waiting.wait(), DEADLINE)
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life
    assert rig.status(job_id) == "PENDING"
    assert rig.storage.workers() == []


async def test_a_worker_told_to_stop_before_it_runs_takes_nothing(rig: Rig):
    rig.handler("k")(lambda: None)
    job_id = rig.add("k")
    worker = rig.worker()
    worker.stop()
    assert await worker.run() is True
    assert rig.status(job_id) == "PENDING"


async def test_run_until_idle_ends_when_nothing_is_ready_due_or_running(rig: Rig):
    made = []

    @rig.handler("parent")
    async def parent():
        made.append(rig.add("child"))

    rig.handler("child")(lambda: "done")
    rig.add_many("parent", 25)
    later = rig.add("child", run_at=rig.clock.now().replace(year=2099))
    assert await rig.worker().run(until_idle=True) is True
    assert {rig.status(job_id) for job_id in made} == {"COMPLETED"}
    assert len(made) == 25
    assert rig.status(later) == "SCHEDULED"


async def test_ready_is_called_when_the_dead_are_buried_and_nothing_is_claimed_yet(rig: Rig):
    rig.handler("k")(lambda: None)
    job_id = rig.add("k")
    statuses = []
    await rig.worker().run(until_idle=True, ready=lambda: statuses.append(rig.status(job_id)))
    assert statuses == ["PENDING"]
    assert rig.status(job_id) == "COMPLETED"
