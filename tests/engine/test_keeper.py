"""The dead are buried, their jobs are free again, and ended jobs go when their time is over."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.engine.faulty import Faulty, failing
from tests.engine.rig import DEADLINE

from sidework.engine.events import JobsPruned, JobsRescued
from sidework.engine.keeper import AFTER_TROUBLE, FEWEST_AT_ONCE, FORGET_INTERVAL, PROBE_INTERVAL, SWEEP_INTERVAL
from sidework.errors import DatabaseBusy
from sidework.model.job import JobStatus, RetentionRule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.engine.rig import Rig


class Doomed:
    """Another process with a seat at the database and jobs in its hands, all of them begun."""

    def __init__(self, path: str, claims: int) -> None:
        program = textwrap.dedent(f"""
            import sys, time
            from datetime import UTC, datetime
            from sidework.model.job import NewWorker
            from sidework.storage.contract import Want
            from sidework.storage.open import open_storage

            storage, now = open_storage({path!r}), datetime(2026, 1, 1, 12, tzinfo=UTC)
            seat = storage.join(NewWorker(keys=frozenset("k"), queues=None, concurrency=100), now=now)
            turn = storage.exchange(seat.worker, [], Want(keys=frozenset({{"k"}}), room={claims}), now=now)
            for job in turn.claimed:
                seat.begun(job.id)
            print(len(turn.claimed), flush=True)
            sys.stdin.read()
        """)
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.claimed = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(DEADLINE)

    def close(self) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def doomed(rig: Rig) -> Iterator[list[Doomed]]:
    processes: list[Doomed] = []
    yield processes
    for process in processes:
        process.close()


async def test_jobs_of_a_dead_worker_are_free_before_the_first_claim_and_its_seat_is_cleared(rig: Rig, doomed):
    rig.handler("k")(lambda: "done")
    ids = rig.add_many("k", 3)
    doomed.append(Doomed(rig.database, 3))
    assert doomed[0].claimed == 3
    doomed[0].kill()
    async with rig.working() as worker:
        assert [rig.status(job_id) for job_id in ids] == ["PENDING"] * 3  # nothing was claimed yet
        assert len(rig.storage.workers()) == 1
        await rig.finish(worker)
    assert [(rig.status(job_id), rig.job(job_id).crashes) for job_id in ids] == [("COMPLETED", 1)] * 3
    assert rig.of(JobsRescued)[0].job_ids == tuple(ids)
    assert list(rig.path.parent.glob("*.worker-*")) == []  # the lock files of SQLite


async def test_a_death_is_seen_by_the_next_probe_and_a_living_workers_jobs_are_left_alone(rig: Rig, doomed):
    rig.handler("k")(lambda: "done")
    [job_id] = rig.add_many("k", 1)
    doomed.append(Doomed(rig.database, 1))
    async with rig.working() as worker:
        await worker._keeper.step()
        rig.clock.advance(PROBE_INTERVAL)
        await worker._keeper.step()
        assert rig.status(job_id) == "RUNNING"
        doomed[0].kill()
        await worker._keeper.step()
        assert rig.status(job_id) == "RUNNING"  # not yet time to look
        rig.clock.advance(PROBE_INTERVAL)
        await worker._keeper.step()
        await rig.finish(worker)
    assert rig.status(job_id) == "COMPLETED"


async def test_a_worker_that_died_idle_is_forgotten_too(rig: Rig, doomed):
    async with rig.working() as worker:
        await worker._keeper.step()
        doomed.append(Doomed(rig.database, 1))
        doomed[0].kill()
        await worker._keeper.step()
        assert len(rig.storage.workers()) == 2
        rig.clock.advance(FORGET_INTERVAL)
        await worker._keeper.step()
        assert len(rig.storage.workers()) == 1


async def test_only_jobs_that_crashed_before_are_charged_when_one_is_among_the_dead(rig: Rig, doomed):
    rig.handler("k")(lambda: "done")
    ids = rig.add_many("k", 3)
    doomed.append(Doomed(rig.database, 3))
    rig.sql("UPDATE background_service_jobs SET crashes = 1 WHERE id = ?", ids[1])
    doomed[0].kill()
    async with rig.working() as worker:
        assert [rig.job(job_id).crashes for job_id in ids] == [0, 2, 0]
        assert rig.status(ids[1]) == "SCHEDULED"  # its second death: it waits
        assert [rig.status(job_id) for job_id in (ids[0], ids[2])] == ["PENDING", "PENDING"]
        await rig.finish(worker)


async def test_each_of_several_dead_workers_is_judged_by_its_own_jobs(rig: Rig, doomed):
    rig.handler("k")(lambda: "done")
    ids = rig.add_many("k", 4)
    doomed += [Doomed(rig.database, 2), Doomed(rig.database, 2)]
    rig.sql("UPDATE background_service_jobs SET crashes = 1 WHERE id = ?", ids[0])
    for each in doomed:
        each.kill()
    async with rig.working():
        assert [rig.job(job_id).crashes for job_id in ids] == [2, 0, 1, 1]


async def test_a_job_that_may_run_once_only_fails_when_its_worker_dies(rig: Rig, doomed):
    rig.handler("k")(lambda: "done")
    job_id = rig.add("k", max_attempts=1)
    doomed.append(Doomed(rig.database, 1))
    doomed[0].kill()
    async with rig.working():
        pass
    assert rig.status(job_id) == "FAILED"
    assert "at most once" in (rig.job(job_id).last_error or "")


async def test_the_limit_of_crashes_is_an_option_of_the_handler(rig: Rig, doomed):
    rig.handler("k", max_crashes=1)(lambda: "done")
    [job_id] = rig.add_many("k", 1)
    doomed.append(Doomed(rig.database, 1))
    doomed[0].kill()
    async with rig.working():
        pass
    assert rig.status(job_id) == "FAILED"
    assert rig.job(job_id).crashes == 1


async def test_a_look_that_fails_is_repeated_and_ends_nothing(rig: Rig):
    storage = Faulty(rig.storage)
    async with rig.working(storage) as worker:
        storage.before["lost"] = failing(1, DatabaseBusy("locked"))
        assert await worker._keeper.step() == AFTER_TROUBLE
        assert await worker._keeper.step() < AFTER_TROUBLE


# ------------------------------------------------------------------------------------------------------------- pruning


def rule(*statuses: JobStatus, days: int, key: str | None = None) -> RetentionRule:
    return RetentionRule(statuses=frozenset(statuses), keep=timedelta(days=days), key=key)


async def test_ended_jobs_are_deleted_when_their_rule_lets_them_go(rig: Rig):
    rig.handler("good")(lambda: None)

    @rig.handler("bad")
    def fail():
        raise ValueError

    good, bad = rig.add("good"), rig.add("bad", max_attempts=1)
    rules = [rule(JobStatus.COMPLETED, days=7), rule(JobStatus.FAILED, days=30)]
    async with rig.working(retention=rules) as worker:
        await rig.finish(worker)
        waiting = rig.add("unknown")
        left = []
        for days in (6, 2, 21, 2):
            rig.clock.advance(timedelta(days=days))
            await worker._keeper.step()
            left.append({job_id for job_id in (good, bad, waiting) if rig.storage.get(job_id)})
    assert left == [{good, bad, waiting}, {bad, waiting}, {bad, waiting}, {waiting}]
    assert [event.count for event in rig.of(JobsPruned)] == [1, 1]


async def test_a_sweep_goes_on_where_the_last_step_ended_and_then_rests(rig: Rig):
    seen = []

    def prune(rules, *, after, limit, now):
        seen.append(after)
        return 1, (after + 100 if after < 300 else None)

    storage = Faulty(rig.storage)
    storage.instead["prune"] = prune
    async with rig.working(storage, retention=[rule(JobStatus.COMPLETED, days=7)]) as worker:
        for _ in range(6):
            await worker._keeper.step()
            rig.clock.advance(1)
        assert seen == [0, 100, 200, 300]
        rig.clock.advance(SWEEP_INTERVAL)
        await worker._keeper.step()
    assert seen == [0, 100, 200, 300, 0]


async def test_a_step_of_a_sweep_is_sized_by_the_time_it_takes(rig: Rig):
    limits = []

    def prune(rules, *, after, limit, now):
        limits.append(limit)
        rig.clock.advance(0.05 if len(limits) < 9 else 0.001)
        return 0, after + 1

    storage = Faulty(rig.storage)
    storage.instead["prune"] = prune
    async with rig.working(storage, retention=[rule(JobStatus.COMPLETED, days=7)]) as worker:
        while len(limits) < 12:
            await worker._keeper.step()
            rig.clock.advance(1)
    assert limits[:3] == [500, 250, 125]
    assert min(limits) == FEWEST_AT_ONCE
    assert limits[-3:] == [2 * FEWEST_AT_ONCE, 4 * FEWEST_AT_ONCE, 8 * FEWEST_AT_ONCE]


async def test_nothing_is_swept_without_rules(rig: Rig):
    storage = Faulty(rig.storage)
    async with rig.working(storage) as worker:
        await worker._keeper.step()
    assert "prune" not in storage.calls
