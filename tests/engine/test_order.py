"""Which job runs when: priority, age, queues, concurrency, claiming ahead."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from tests.engine.rig import DEADLINE

from sidework.engine.context import JobContext
from sidework.model.job import NewJob

if TYPE_CHECKING:
    from tests.engine.rig import Rig


async def test_a_thousand_jobs_of_mixed_priorities_run_in_order_one_at_a_time(rig: Rig):
    ran = []

    @rig.handler("k")
    async def handle(job: JobContext):
        ran.append(job.id)
        rig.clock.advance(0.0001)  # time passes, so that the worker claims ahead

    dice = random.Random(7)
    jobs = [NewJob(key="k", priority=dice.randrange(-3, 4)) for _ in range(1000)]
    ids = rig.storage.insert(jobs, now=rig.clock.now())
    priorities = {job_id: job.priority for job_id, job in zip(ids, jobs, strict=True)}
    async with rig.working(concurrency=1) as worker:
        await rig.finish(worker)
    assert ran == sorted(priorities, key=lambda job_id: (-priorities[job_id], job_id))


async def test_a_job_of_higher_priority_goes_before_those_claimed_ahead(rig: Rig):
    ran = []

    @rig.handler("k")
    async def handle(job: JobContext):
        ran.append(job.id)
        rig.clock.advance(0.001)

    low = rig.add_many("k", 200)
    async with rig.working(concurrency=1) as worker:
        while not worker._bench.has_ready:
            await rig.turn(worker)
            await rig.woken(worker)
        high = rig.add("k", priority=9)
        await rig.finish(worker)
    assert set(low) < set(ran)
    assert ran.index(high) < 150


async def test_jobs_at_most_once_are_never_claimed_ahead(rig: Rig):
    gate = asyncio.Event()

    @rig.handler("k")
    async def handle(job: JobContext):
        rig.clock.advance(0.0001)

    @rig.handler("careful", queue="other")
    async def careful():
        await gate.wait()

    rig.add_many("k", 200)
    once = [rig.add("careful", max_attempts=1) for _ in range(3)]
    async with rig.working(concurrency=1) as worker:
        await rig.finish_until(worker, lambda: rig.status(once[0]) == "RUNNING")
        assert [rig.status(job_id) for job_id in once[1:]] == ["PENDING", "PENDING"]
        gate.set()
        await rig.finish(worker)
    assert {rig.status(job_id) for job_id in once} == {"COMPLETED"}


@pytest.mark.parametrize("way", ["async", "thread"])
async def test_each_queue_has_room_of_its_own_for_as_many_as_the_concurrency_says(rig: Rig, way):
    running, most, gate, full = {"a": 0, "b": 0}, {"a": 0, "b": 0}, asyncio.Event(), asyncio.Event()

    async def waiting(payload):
        queue = payload["queue"]
        running[queue] += 1
        most[queue] = max(most[queue], running[queue])
        if running == {"a": 3, "b": 3}:
            full.set()
        await gate.wait()
        running[queue] -= 1

    loop = asyncio.get_running_loop()

    def blocking(payload):
        asyncio.run_coroutine_threadsafe(waiting(payload), loop).result()

    rig.handler("k")(waiting if way == "async" else blocking)
    for queue in "aaaaabbbbb":
        rig.add("k", f'{{"queue": "{queue}"}}', queue=queue)
    async with rig.working(concurrency=3) as worker:
        await rig.turn(worker)
        await asyncio.wait_for(full.wait(), DEADLINE)
        await rig.turn(worker)
        gate.set()
        await rig.finish(worker)
    assert most == {"a": 3, "b": 3}


async def test_a_worker_takes_only_from_its_queues(rig: Rig):
    rig.handler("k")(lambda: None)
    mail, other = rig.add("k", queue="mail"), rig.add("k", queue="other")
    async with rig.working(queues=("mail",)) as worker:
        await rig.finish(worker)
    assert rig.status(mail) == "COMPLETED"
    assert rig.status(other) == "PENDING"


async def test_a_limit_counts_over_all_workers(rig: Rig):
    gate = asyncio.Event()

    @rig.handler("k")
    async def handle():
        await gate.wait()

    for _ in range(5):
        rig.add("k", queue="mail")
    async with rig.working(limits={"mail": 3}, concurrency=2) as one, rig.working(concurrency=2) as two:
        await rig.turn(one)
        await rig.turn(two)
        assert len(one._bench.running) == 2
        assert len(two._bench.running) == 1
        gate.set()
        await rig.finish(one)
        await rig.finish(two)
        await rig.finish(one)
    assert {rig.status(job_id) for job_id in range(1, 6)} == {"COMPLETED"}


async def test_what_was_claimed_ahead_and_cannot_start_is_given_back(rig: Rig):
    gate, quick = asyncio.Event(), 0

    @rig.handler("quick")
    async def run_quickly():
        rig.clock.advance(0.001)

    @rig.handler("slow")
    async def run_slowly():
        await gate.wait()

    rig.add_many("quick", 100)
    async with rig.working(concurrency=1) as worker:
        while not worker._bench.has_ready:
            await rig.turn(worker)
            await rig.woken(worker)
        quick = sum(rig.job(job_id).attempts for job_id in range(1, 101))
        slow = rig.add("slow", priority=9)
        await rig.finish_until(worker, lambda: rig.status(slow) == "RUNNING" and not worker._bench.has_ended)
        rig.clock.advance(0.6)
        await rig.turn(worker)
        await rig.turn(worker)
        waiting = [rig.status(job_id) for job_id in range(1, 101)]
        assert "RUNNING" not in waiting
        assert "PENDING" in waiting
        gate.set()
        await rig.finish(worker)
    assert quick < 100
    assert {rig.job(job_id).attempts for job_id in range(1, 101)} == {1}
