"""Handlers are ordinary asyncio code: their own task, their own context, asyncio's own tools."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import weakref
from collections import Counter
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.engine.rig import Rig

word: ContextVar[str] = ContextVar("word", default="nothing")


async def run(rig: Rig, *job_ids: int):
    async with rig.working() as worker:
        await rig.finish(worker)
    return [rig.job(job_id).result for job_id in job_ids]


async def test_each_job_has_a_task_of_its_own(rig: Rig):
    tasks = set()

    @rig.handler("k")
    async def handle():
        tasks.add(asyncio.current_task())

    await run(rig, *[rig.add("k") for _ in range(3)])
    assert len(tasks) == 3
    assert asyncio.current_task() not in tasks


async def test_what_a_job_leaves_behind_is_free_without_the_garbage_collector(rig: Rig):
    tasks = []

    @rig.handler("k")
    async def handle():
        tasks.append(weakref.ref(asyncio.current_task()))
        await asyncio.sleep(0)

    gc.disable()
    try:
        await run(rig, *[rig.add("k") for _ in range(3)])
        assert [task() for task in tasks] == [None] * 3
    finally:
        gc.enable()


async def test_a_timeout_inside_a_handler_ends_only_what_it_is_around(rig: Rig):
    @rig.handler("k", timeout=60)
    async def handle():
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "went on"

    assert await run(rig, rig.add("k")) == ["went on"]


async def test_a_task_group_that_fails_fails_the_attempt_with_what_was_raised_in_it(rig: Rig):
    @rig.handler("k")
    async def handle():
        async def child():
            raise ValueError("in a child")

        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            group.create_task(asyncio.Event().wait())

    job_id = rig.add("k")
    await run(rig, job_id)
    assert rig.status(job_id) == "SCHEDULED"
    assert "ValueError: in a child" in (rig.job(job_id).last_error or "")


@pytest.mark.parametrize("way", ["async", "thread", "loop"])
async def test_context_variables_never_pass_from_one_job_to_the_next(rig: Rig, way):
    def touch():
        seen = word.get()
        word.set("set by a job")
        return seen

    async def touch_async():
        return touch()

    word.set("set before the worker")
    rig.handler("k", **({} if way == "async" else {"executor": way}))(touch_async if way == "async" else touch)
    results = await run(rig, *[rig.add("k") for _ in range(30)])
    assert set(results) == {"set before the worker"}


async def test_a_handler_that_cancels_itself_fails_and_harms_nobody(rig: Rig):
    @rig.handler("k")
    async def handle():
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    @rig.handler("other")
    async def other():
        return "fine"

    job_id = rig.add("k")
    assert await run(rig, job_id, rig.add("other")) == [None, "fine"]
    assert rig.status(job_id) == "SCHEDULED"


async def test_a_handler_begins_at_once_where_python_can_begin_it(rig: Rig):
    begun = []

    @rig.handler("k")
    async def handle():
        begun.append(asyncio.current_task())

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.turn(worker)
        assert len(begun) == (sys.version_info >= (3, 12))
        await rig.finish(worker)
    assert asyncio.current_task() not in begun
    assert rig.status(job_id) == "COMPLETED"


async def test_in_one_round_of_the_loop_no_more_handlers_begin_than_may_run_at_once(rig: Rig):
    depths: list[int] = []
    rounds, begun = 0, Counter[int]()

    @rig.handler("k")
    async def handle():
        begun[rounds] += 1
        depths.append(len(inspect.stack(0)))

    jobs = [rig.add("k") for _ in range(40)]
    async with rig.working(concurrency=3) as worker:
        working = asyncio.ensure_future(rig.finish(worker))
        while not working.done():
            rounds += 1
            await asyncio.sleep(0)
    assert sum(begun.values()) == len(jobs)
    assert max(begun.values()) <= 3
    assert max(depths) - min(depths) < 10  # none runs in the stack of the one before


async def test_the_timeout_of_a_handler_counts_from_before_its_first_line(rig: Rig):
    set_for: list[float] = []

    @rig.handler("k", timeout=60)
    async def handle():
        set_for.extend(alarm.seconds for alarm in rig.timer.set)

    await run(rig, rig.add("k"))
    assert 60 in set_for


async def test_an_application_that_makes_its_tasks_by_itself_makes_those_of_handlers_too(rig: Rig):
    made = []

    def make(loop, coroutine, **more):
        made.append(task := asyncio.Task(coroutine, loop=loop, **more))
        return task

    @rig.handler("k")
    async def handle():
        return asyncio.current_task() in made

    asyncio.get_running_loop().set_task_factory(make)
    assert await run(rig, rig.add("k")) == [True]
