"""A whole worker with its loop: woken by the bell, and within a second without it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Self

import pytest
from tests.engine.faulty import Faulty, failing
from tests.engine.rig import DEADLINE

from sidework.clock import SystemClock
from sidework.engine.bridge import Bridge
from sidework.engine.ear import Ear
from sidework.engine.events import JobEnded, JobsRescued, WorkerJoined
from sidework.engine.worker import LONGEST_WITHOUT_A_LOOK

if TYPE_CHECKING:
    from tests.engine.rig import Rig


class Bell:
    """A doorbell that rings when the test says so."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()
        self.waits = 0
        self.closed = False
        self.death = False

    def changed(self) -> bool:
        return False

    def died(self) -> bool:
        died, self.death = self.death, False
        return died

    async def wait(self, _timeout: float) -> bool:
        self.waits += 1
        await self.rung.wait()
        self.rung.clear()
        return True

    def ring(self) -> None:
        self.rung.set()

    def close(self) -> None:
        self.closed = True


class Life:
    """A worker that runs with its own loop, on a storage whose bell is the test's."""

    def __init__(self, rig: Rig, bell: Bell) -> None:
        self.rig, self.bell = rig, bell
        self.storage = Faulty(rig.storage)
        self.storage.instead["doorbell"] = lambda: bell
        self.worker = rig.worker(self.storage, clock=SystemClock())

    async def __aenter__(self) -> Self:
        self._running = asyncio.ensure_future(self.worker.run())
        await self.rig.told(WorkerJoined)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.worker.stop(now=True)
        await self._running

    async def looks(self, count: int) -> None:
        """Return when the worker has looked so many times."""
        async with asyncio.timeout(DEADLINE):
            while self.storage.calls.count("exchange") < count:
                await asyncio.wait_for(self.worker._ear._looked.wait(), DEADLINE)
                await asyncio.sleep(0)


async def test_a_death_that_was_heard_frees_its_jobs_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    for interval in ("keeper.PROBE_INTERVAL", "worker.LONGEST_WITHOUT_A_LOOK"):
        monkeypatch.setattr(f"sidework.engine.{interval}", 60.0)
    rig.handler("k")(lambda: None)
    bell = Bell()
    async with Life(rig, bell) as life:
        await life.looks(1)
        job_id = rig.add("k")
        rig.sql("UPDATE background_service_jobs SET status = 'RUNNING', worker = 4711")
        bell.death = True
        bell.ring()
        await rig.told(JobsRescued)
        bell.ring()
        await rig.told(JobEnded)
    assert rig.status(job_id) == "COMPLETED"


async def test_a_ring_makes_the_worker_look_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sidework.engine.worker.LONGEST_WITHOUT_A_LOOK", 60.0)
    rig.handler("k")(lambda: None)
    bell = Bell()
    async with Life(rig, bell) as life:
        await life.looks(1)
        job_id = rig.add("k")
        bell.ring()
        await rig.told(JobEnded)
    assert rig.status(job_id) == "COMPLETED"
    assert bell.closed


def test_the_longest_time_without_a_look_is_a_second():
    assert LONGEST_WITHOUT_A_LOOK == 1.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let that second pass quickly."""
    monkeypatch.setattr("sidework.engine.worker.LONGEST_WITHOUT_A_LOOK", 0.02)


@pytest.mark.usefixtures("impatient")
async def test_a_bell_that_rings_only_before_the_commit_costs_a_second_and_no_job(rig: Rig):
    rig.handler("k")(lambda: None)
    bell = Bell()
    async with Life(rig, bell) as life:
        await life.looks(1)
        bell.ring()
        await life.looks(2)  # rung, looked, found nothing
        job_id = rig.add("k")
        await rig.told(JobEnded)
    assert rig.status(job_id) == "COMPLETED"


@pytest.mark.usefixtures("impatient")
async def test_a_bell_that_never_rings_costs_a_second_and_no_job(rig: Rig):
    rig.handler("k")(lambda: None)
    async with Life(rig, Bell()) as life:
        await life.looks(1)
        rig.add("k")
        await rig.told(JobEnded)


@pytest.mark.usefixtures("impatient")
async def test_without_any_bell_jobs_are_found_all_the_same(rig: Rig):
    rig.handler("k")(lambda: None)

    def broken():
        raise OSError("no inotify here")

    life = Life(rig, Bell())
    life.storage.instead["doorbell"] = broken
    async with life:
        rig.add("k")
        await rig.told(JobEnded)


async def test_an_idle_worker_looks_about_once_a_second(rig: Rig):
    naps: list[float] = []
    async with rig.working() as worker:
        for _ in range(3):
            pause = await rig.turn(worker)
            assert pause is not None
            naps.append(pause)
    assert naps == [1.0, 1.0, 1.0]


async def test_an_idle_worker_sleeps_exactly_until_the_next_job_is_due(rig: Rig):
    rig.handler("k")(lambda: None)
    rig.add("k", run_at=rig.clock.now().replace(microsecond=250_000))
    async with rig.working() as worker:
        assert await rig.turn(worker) == 0.25


async def test_a_worker_is_woken_from_any_thread(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sidework.engine.worker.LONGEST_WITHOUT_A_LOOK", 60.0)
    rig.handler("k")(lambda: None)
    async with Life(rig, Bell()) as life:
        await life.looks(1)
        rig.add("k")
        await asyncio.to_thread(life.worker.wake)
        await rig.told(JobEnded)


async def test_a_ring_that_reaches_a_busy_worker_is_answered_a_little_later(rig: Rig):
    bell, accepted = Bell(), asyncio.Event()
    asked: list[int] = []

    def on_commit() -> bool:
        asked.append(len(asked))
        if len(asked) == 3:
            accepted.set()
        return accepted.is_set()

    storage = Faulty(rig.storage)
    storage.instead["doorbell"] = lambda: bell
    bridge = Bridge("ear")
    ear = Ear(storage, bridge, longest=DEADLINE, on_commit=on_commit, on_death=lambda: None, chance=lambda: 0.5)
    await ear.open()
    bell.ring()
    await asyncio.wait_for(accepted.wait(), DEADLINE)
    assert bell.waits == 1  # further rings are not even heard while one is unanswered
    await ear.close()
    bridge.close()


async def test_a_bell_that_cannot_be_had_at_first_is_tried_again_with_jitter(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    naps: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        await real_sleep(0)

    monkeypatch.setattr("sidework.engine.ear.asyncio.sleep", sleep)
    bell, heard, chances = Bell(), asyncio.Event(), iter((0.0, 0.5, 0.75))
    storage = Faulty(rig.storage)
    storage.before["doorbell"] = failing(3, OSError("no server here"))
    storage.instead["doorbell"] = lambda: bell
    bridge = Bridge("ear")

    def on_commit() -> bool:
        heard.set()
        return True

    ear = Ear(
        storage, bridge, longest=DEADLINE, on_commit=on_commit, on_death=lambda: None, chance=lambda: next(chances)
    )
    await ear.open()
    bell.ring()
    await asyncio.wait_for(heard.wait(), DEADLINE)
    assert naps == [0.5, 1.0, 1.25]
    assert caplog.text.count("there is no doorbell yet") == 1
    await ear.close()
    bridge.close()
    assert bell.closed


async def test_a_bell_that_comes_after_the_ear_was_closed_is_closed(rig: Rig):
    bell, asked, may_come, tries = Bell(), threading.Event(), threading.Event(), iter("ab")

    def doorbell() -> Bell:
        if next(tries) == "a":
            raise OSError("no server here")
        asked.set()
        may_come.wait(DEADLINE)
        return bell

    storage = Faulty(rig.storage)
    storage.instead["doorbell"] = doorbell
    bridge = Bridge("ear")
    ear = Ear(storage, bridge, longest=DEADLINE, on_commit=bool, on_death=bool, chance=lambda: 0.0, again_after=0.0)
    await ear.open()
    assert await asyncio.to_thread(asked.wait, DEADLINE)
    await ear.close()
    may_come.set()
    await bridge.call(bool)  # one thread, one after the other: when this is back, that is done
    assert bell.closed
    bridge.close()
