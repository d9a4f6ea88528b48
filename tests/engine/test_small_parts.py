"""The loop, the bridge, the threads and the announcer, each by itself."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
from tests.engine.rig import DEADLINE

from sidework.engine.bridge import MOST_RESTS, MOST_ROUNDS, SHORTEST_REST, Bridge
from sidework.engine.events import (
    Announcer,
    DatabaseTrouble,
    Event,
    JobEnded,
    JobStarted,
    OutcomeRefused,
    WorkerJoined,
    WorkerStopped,
    log_event,
)
from sidework.engine.executors import Threads
from sidework.engine.loop import Loop
from sidework.engine.timer import LoopTimer
from sidework.model.job import JobStatus

# ---------------------------------------------------------------------------------------------------------------- loop


async def test_a_loop_ends_when_its_step_says_so():
    pauses = iter([0.0, 0.0, None])
    await Loop(lambda: asyncio.sleep(0, next(pauses))).run()
    assert next(pauses, "used up") == "used up"


async def test_a_loop_sleeps_until_it_is_woken():
    steps = 0
    stepped = asyncio.Event()

    async def step() -> float | None:
        nonlocal steps
        steps += 1
        stepped.set()
        return 3600.0 if steps < 3 else None

    loop = Loop(step)
    running = asyncio.ensure_future(loop.run())
    for expected in (1, 2, 3):
        await asyncio.wait_for(stepped.wait(), DEADLINE)
        assert steps == expected
        stepped.clear()
        loop.wake()
    await running


async def test_a_wake_up_during_the_step_is_not_lost():
    steps = 0

    async def step() -> float | None:
        nonlocal steps
        steps += 1
        loop.wake()
        return 3600.0 if steps < 3 else None

    loop = Loop(step)
    await asyncio.wait_for(loop.run(), DEADLINE)
    assert steps == 3


async def test_a_loop_that_is_stopped_finishes_its_step_and_begins_no_other():
    inside, gate, steps = asyncio.Event(), asyncio.Event(), []

    async def step() -> float:
        inside.set()
        await gate.wait()
        steps.append("finished")
        return 0.0

    loop = Loop(step)
    running = asyncio.ensure_future(loop.run())
    await inside.wait()
    loop.stop()
    gate.set()
    await asyncio.wait_for(running, DEADLINE)
    assert steps == ["finished"]


async def test_a_loop_in_a_hurry_lets_others_have_their_turn():
    others, steps = 0, 0

    async def other() -> None:
        nonlocal others
        while steps < 10:
            others += 1
            await asyncio.sleep(0)

    async def step() -> float | None:
        nonlocal steps
        steps += 1
        return 0.0 if steps < 10 else None

    beside = asyncio.ensure_future(other())
    await Loop(step).run()
    await beside
    assert others >= 9


async def test_the_timer_of_the_loop_rings_unless_cancelled():
    rang: asyncio.Queue[str] = asyncio.Queue()
    timer = LoopTimer()
    timer.call_later(0, rang.put_nowait, "cancelled").cancel()
    timer.call_later(0, rang.put_nowait, "rang")
    assert await asyncio.wait_for(rang.get(), DEADLINE) == "rang"
    assert rang.empty()


# -------------------------------------------------------------------------------------------------------------- bridge


async def test_the_bridge_carries_a_call_through_although_its_caller_is_cancelled():
    bridge, inside, gate, done = Bridge("test"), threading.Event(), threading.Event(), []

    def claim() -> None:
        inside.set()
        assert gate.wait(DEADLINE)
        done.append("claimed")

    caller = asyncio.ensure_future(bridge.call(claim))
    await asyncio.to_thread(inside.wait, DEADLINE)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    await bridge.call(done.append, "next")  # one thread: in order
    bridge.close()
    assert done == ["claimed", "next"]


async def test_the_bridge_returns_and_raises_what_the_call_does():
    bridge = Bridge("test")
    assert await bridge.call(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        await bridge.call(int, "x")
    bridge.close()


@pytest.mark.parametrize(("busy", "long_rounds", "times"), [(True, True, 8), (True, False, 2), (False, True, 0)])
async def test_a_busy_loop_rests_now_and_then_while_a_call_is_under_way(
    monkeypatch: pytest.MonkeyPatch, *, busy: bool, long_rounds: bool, times: int
):
    rests: list[float] = []
    monkeypatch.setattr("sidework.engine.bridge.time.sleep", rests.append)
    monkeypatch.setattr("sidework.engine.bridge.BETWEEN_RESTS", 0 if long_rounds else DEADLINE)
    bridge, gate = Bridge("test", is_loop_busy=lambda: busy), threading.Event()
    call = asyncio.ensure_future(bridge.call(gate.wait, DEADLINE))
    for _ in range(2 * MOST_ROUNDS):
        await asyncio.sleep(0)  # the loop goes on meanwhile
    so_far = list(rests)
    gate.set()
    assert await call
    bridge.close()
    assert so_far == [SHORTEST_REST] * times


async def test_a_busy_loop_does_not_rest_for_ever_beside_a_call_that_waits_for_somebody_else(
    monkeypatch: pytest.MonkeyPatch,
):
    rests: list[float] = []
    monkeypatch.setattr("sidework.engine.bridge.time.sleep", rests.append)
    monkeypatch.setattr("sidework.engine.bridge.BETWEEN_RESTS", 0)
    bridge, gate = Bridge("test", is_loop_busy=lambda: True), threading.Event()
    call = asyncio.ensure_future(bridge.call(gate.wait, DEADLINE))
    for _ in range(MOST_RESTS + 10):
        await asyncio.sleep(0)
    gate.set()
    assert await call
    bridge.close()
    assert len(rests) == MOST_RESTS


# ------------------------------------------------------------------------------------------------------------- threads


class Calls:
    """Calls that stand still until they are let go."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.names: set[str] = set()

    def __call__(self) -> None:
        self.names.add(threading.current_thread().name)
        assert threading.current_thread().daemon
        self.begun.release()
        assert self.gate.wait(DEADLINE)
        self.ended.release()

    def wait(self, what: threading.Semaphore, count: int) -> None:
        for _ in range(count):
            assert what.acquire(timeout=DEADLINE)


def test_threads_grow_as_needed_and_are_used_again():
    threads, calls = Threads(), Calls()
    for _ in range(3):
        threads.start(calls)
    calls.wait(calls.begun, 3)
    assert threads.started == 3
    calls.gate.set()
    calls.wait(calls.ended, 3)
    for _ in range(3):
        threads.ended()
    for _ in range(3):
        threads.start(calls)
    calls.wait(calls.ended, 3)
    assert threads.started == 3
    assert len(calls.names) <= 3
    threads.close()


def test_a_call_that_never_ended_does_not_hold_up_the_next():
    threads, stuck, free = Threads(), Calls(), Calls()
    threads.start(stuck)
    stuck.wait(stuck.begun, 1)
    threads.start(free)
    free.wait(free.begun, 1)
    assert threads.started == 2
    stuck.gate.set()
    free.gate.set()
    threads.close()


# -------------------------------------------------------------------------------------------------------------- events


def test_a_listener_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture):
    heard: list[Event] = []

    def broken(_):
        raise ValueError

    Announcer([broken, heard.append])(WorkerJoined(worker=1))
    assert heard == [WorkerJoined(worker=1)]
    assert "a listener failed on WorkerJoined" in caplog.text


def test_routine_is_not_even_made_where_only_a_log_without_debug_would_hear_it(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="sidework"):
        assert not Announcer([log_event]).hears_routine
        assert Announcer([log_event, print]).hears_routine
    with caplog.at_level(logging.DEBUG, logger="sidework"):
        assert Announcer([log_event]).hears_routine


ABOUT_A_JOB: dict[str, Any] = {"job_id": 7, "key": "mail", "queue": "default", "attempt": 2}


@pytest.mark.parametrize(
    ("event", "level", "words"),
    [
        (JobStarted(**ABOUT_A_JOB), logging.DEBUG, "job 7 (mail) started, attempt 2"),
        (JobEnded(**ABOUT_A_JOB, status=JobStatus.COMPLETED, seconds=0.5), logging.DEBUG, "is COMPLETED"),
        (JobEnded(**ABOUT_A_JOB, status=JobStatus.FAILED, seconds=0.5), logging.WARNING, "why: sidework show 7"),
        (OutcomeRefused(**ABOUT_A_JOB, reason="no", final=False), logging.ERROR, "it ends FAILED"),
        (OutcomeRefused(**ABOUT_A_JOB, reason="no", final=True), logging.CRITICAL, "it stays RUNNING"),
        (WorkerStopped(worker=1, given_back=2, stuck=()), logging.INFO, "2 jobs given back"),
        (WorkerStopped(worker=1, given_back=0, stuck=(), unwritten=2), logging.ERROR, "2 jobs could not be written"),
        (WorkerStopped(worker=1, given_back=0, stuck=(7,)), logging.ERROR, "[7] cannot be stopped"),
        (DatabaseTrouble(doing="x", reason="locked", kept=3, again_in=0.1), logging.ERROR, "3 outcomes are kept"),
    ],
)
def test_events_are_logged_as_sentences_at_the_level_they_deserve(
    caplog: pytest.LogCaptureFixture, event, level, words
):
    with caplog.at_level(logging.DEBUG, logger="sidework"):
        log_event(event)
    [record] = caplog.records
    assert record.levelno == level
    assert words in record.getMessage()
