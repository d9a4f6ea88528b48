"""A job that was there when a worker died runs alone, so that a second death is proof."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

from tests.engine.rig import DEADLINE

from sidework.engine.context import JobContext
from sidework.engine.suspicion import LONGEST_ROW, PATIENCE, REST, Suspicion
from sidework.model.job import Claim, ClaimedJob
from sidework.storage.contract import Turn, Want

if TYPE_CHECKING:
    from tests.engine.rig import Rig


class Stage:
    """Handlers that say when they are on, and stay until they are let go."""

    def __init__(self, rig: Rig) -> None:
        self.on: set[int] = set()
        self.beside: dict[int, set[int]] = {}
        self.gates: dict[int, asyncio.Event] = {}

        @rig.handler("k")
        async def handle(job: JobContext):
            self.beside[job.id] = set(self.on)
            self.on.add(job.id)
            await self.gates.setdefault(job.id, asyncio.Event()).wait()
            self.on.remove(job.id)

    def let_go(self, *job_ids: int) -> None:
        for job_id in job_ids:
            self.gates.setdefault(job_id, asyncio.Event()).set()


def add_suspect(rig: Rig) -> int:
    job_id = rig.add("k")
    rig.sql("UPDATE background_service_jobs SET crashes = 1 WHERE id = ?", job_id)
    return job_id


async def turns(rig: Rig, worker, count: int = 3) -> None:
    for _ in range(count):
        await rig.turn(worker)
        await asyncio.sleep(0)


async def test_a_suspect_waits_until_the_worker_is_empty_and_then_runs_alone(rig: Rig):
    stage = Stage(rig)
    first = rig.add("k")
    async with rig.working() as worker:
        await turns(rig, worker)
        suspect = add_suspect(rig)
        await turns(rig, worker)
        later = rig.add("k")
        await turns(rig, worker)
        assert stage.on == {first}  # nothing new is claimed while a suspect waits
        stage.let_go(first)
        await turns(rig, worker)
        assert stage.on == {suspect}
        rig.clock.advance(60)
        await turns(rig, worker)
        assert stage.on == {suspect}  # nor while it runs
        stage.let_go(suspect, later)
        await rig.finish(worker)
    assert stage.beside == {first: set(), suspect: set(), later: set()}


async def test_a_suspect_that_waited_long_runs_beside_what_still_runs_and_nothing_is_claimed_meanwhile(rig: Rig):
    stage = Stage(rig)
    long = rig.add("k")
    async with rig.working() as worker:
        await turns(rig, worker)
        suspect, later = add_suspect(rig), rig.add("k")
        rig.sql("UPDATE background_service_jobs SET priority = -1 WHERE id = ?", later)
        await turns(rig, worker)
        rig.clock.advance(PATIENCE)
        await turns(rig, worker)
        assert stage.on >= {long, suspect}
        newest = rig.add("k", priority=99)
        await turns(rig, worker)
        assert newest not in stage.on
        stage.let_go(long, suspect, later, newest)
        await rig.finish(worker)
    assert stage.beside[suspect] <= {long, later}


async def test_a_suspect_that_waited_long_runs_even_where_its_queue_has_no_room(rig: Rig):
    stage = Stage(rig)
    long = rig.add("k")
    async with rig.working(concurrency=1) as worker:
        await turns(rig, worker)
        suspect = add_suspect(rig)
        await turns(rig, worker)
        rig.clock.advance(PATIENCE)
        await turns(rig, worker)
        assert stage.on == {long, suspect}
        stage.let_go(long, suspect)
        await rig.finish(worker)
        assert not worker._suspicion.pending
    assert rig.status(suspect) == "COMPLETED"


async def test_suspects_run_one_after_the_other(rig: Rig):
    stage = Stage(rig)
    suspects = [add_suspect(rig) for _ in range(3)]
    stage.let_go(*suspects)
    async with rig.working() as worker:
        await rig.finish_until(worker, lambda: all(rig.status(job_id) == "COMPLETED" for job_id in suspects))
    assert set(stage.beside) == set(suspects)
    assert not any(stage.beside.values())


def test_a_suspect_that_cannot_be_claimed_does_not_hold_the_worker_up():
    seconds = [0.0]
    suspicion = Suspicion(lambda: seconds[0])
    suspicion.learn(Turn(suspects=True), Want(keys=frozenset("k")))
    assert suspicion.wants_it_now(nothing_runs=True)
    assert not suspicion.wants_it_now(nothing_runs=False)
    suspicion.learn(Turn(suspects=True), Want(keys=frozenset("k"), suspect=True))  # its queue is full
    suspicion.learn(Turn(suspects=True), Want(keys=frozenset("k")))
    assert not suspicion.pending
    seconds[0] += REST
    suspicion.learn(Turn(suspects=True), Want(keys=frozenset("k")))
    assert suspicion.pending


def test_a_suspect_that_another_worker_took_is_waited_for_no_longer_and_the_next_one_at_once():
    suspicion = Suspicion(lambda: 0.0)
    everything, alone = Want(keys=frozenset("k")), Want(keys=frozenset("k"), suspect=True)
    suspicion.learn(Turn(suspects=True), everything)
    suspicion.learn(Turn(suspects=False), everything)
    assert not suspicion.pending
    suspicion.learn(Turn(suspects=True), everything)
    suspicion.learn(Turn(suspects=False), alone)  # another one was faster
    assert not suspicion.pending
    suspicion.learn(Turn(suspects=True), everything)
    assert suspicion.wants_it_now(nothing_runs=True)


async def test_jobs_claimed_ahead_are_not_begun_while_a_suspect_waits_or_runs(rig: Rig):
    stage = Stage(rig)
    async with rig.working(concurrency=1) as worker:
        worker._bench._lane("default").worth_having = 2
        first, second = rig.add("k"), rig.add("k")
        await turns(rig, worker, 1)
        assert (stage.on, [job.id for job in worker._bench._lane("default").ready]) == ({first}, [second])
        suspect = add_suspect(rig)
        await turns(rig, worker)
        stage.let_go(first)
        await turns(rig, worker)
        assert (stage.on, rig.status(second)) == ({suspect}, "RUNNING")
        stage.let_go(suspect)
        await turns(rig, worker)
        assert stage.on == {second}
        stage.let_go(second)
        await rig.finish(worker)
    assert not any(stage.beside.values())


def test_only_the_end_of_the_suspect_itself_ends_the_suspicion():
    suspicion = Suspicion(lambda: 0.0)
    suspect, other = (
        ClaimedJob(
            claim=Claim(number, 1), key="k", payload=None, queue="q", priority=0, attempts=0, max_attempts=3, crashes=1,
            created_at="",
        )
        for number in (1, 2)
    )  # fmt: skip
    suspicion.learn(Turn(suspects=True), Want(keys=frozenset("k")))
    suspicion.learn(Turn(claimed=[suspect]), Want(keys=frozenset("k"), suspect=True))
    assert suspicion.pending
    suspicion.ended(other)
    assert suspicion.pending
    suspicion.ended(suspect)
    assert not suspicion.runs


def test_suspects_run_in_a_row_but_not_for_ever():
    seconds = [0.0]
    suspicion = Suspicion(lambda: seconds[0])
    everything, alone = Want(keys=frozenset("k")), Want(keys=frozenset("k"), suspect=True)
    suspects = [
        ClaimedJob(
            claim=Claim(number, 1), key="k", payload=None, queue="q", priority=0, attempts=0, max_attempts=3, crashes=1,
            created_at="",
        )
        for number in range(3)
    ]  # fmt: skip
    suspicion.learn(Turn(suspects=True), everything)
    for number, expected in enumerate((True, True, False)):
        suspicion.learn(Turn(claimed=[suspects[number]], suspects=True), alone)
        seconds[0] += LONGEST_ROW / 2.5
        suspicion.ended(suspects[number])
        assert suspicion.wants_it_now(nothing_runs=True) is expected
    suspicion.learn(Turn(suspects=True), everything)  # others were claimed; now it is their turn again
    assert suspicion.wants_it_now(nothing_runs=True)
    suspicion.learn(Turn(), alone)
    assert not suspicion.pending


def test_a_job_that_kills_its_worker_fails_after_three_crashes_and_its_99_neighbours_complete(rig: Rig):
    program = textwrap.dedent(f"""
        import os
        from sidework import BackgroundService

        service = BackgroundService({rig.database!r}, concurrency=100)

        @service.handler(backoff=0)
        async def kill():
            os._exit(9)

        @service.handler(backoff=0)
        async def live():
            return "lived"

        service.run_until_idle()
    """)
    killer = rig.add("kill", priority=1, options='{"backoff": 0}')
    neighbours = rig.add_many("live", 99)
    ends = []
    while 0 not in ends:
        ends.append(subprocess.run([sys.executable, "-c", program], timeout=4 * DEADLINE, check=False).returncode)
        assert len(ends) < 10
    assert ends == [9, 9, 9, 0]
    assert {rig.job(job_id).result for job_id in neighbours} == {"lived"}
    job = rig.job(killer)
    assert (job.status.value, job.crashes, job.attempts) == ("FAILED", 3, 0)
    assert "died 3 times" in (job.last_error or "")


def test_a_job_that_was_not_begun_when_its_worker_died_is_given_back_as_it_was(rig: Rig):
    """Also one that may run once only; what ran beside it is charged, or could not be run again."""
    program = textwrap.dedent(f"""
        import os, threading
        from sidework import BackgroundService

        service = BackgroundService({rig.database!r}, concurrency=4)

        @service.handler
        async def first():
            pass

        @service.handler
        async def kill():
            os._exit(9)

        @service.handler
        async def last():
            pass

        service.run_until_idle()
    """)
    done = rig.add("first", priority=3, max_attempts=1)
    killer = rig.add("kill", priority=2)
    waiting = [rig.add("last", priority=1, max_attempts=1), rig.add("last", max_attempts=3)]
    subprocess.run([sys.executable, "-c", program], timeout=4 * DEADLINE, check=False)
    [happened] = {each.worker for each in rig.storage.lost(limit=10)}
    assert happened is not None
    rig.handler("none")(lambda: None)

    async def rescue() -> None:
        async with rig.working():
            pass

    asyncio.run(rescue())
    known = rig.database.startswith("/")
    back = ("PENDING", 0)
    assert (rig.status(killer), rig.job(killer).crashes) == ("PENDING", 1)
    assert rig.status(done) == "FAILED"  # it had ended, and that was not written: it is not run again
    found = [(rig.status(job_id), rig.job(job_id).crashes) for job_id in waiting]
    assert found == ([back, back] if known else [("FAILED", 1), ("PENDING", 1)])
