"""A database that is locked, full, gone, or refuses one row: nothing is lost, and the others go on."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Literal

import pytest
from tests.engine.faulty import Faulty, failing
from tests.engine.rig import DEADLINE

from sidework.engine.context import JobContext
from sidework.engine.events import (
    ClaimLost,
    DatabaseTrouble,
    JobStarted,
    OutcomeRefused,
    StraysGivenBack,
    WorkerExpelled,
    WorkerStopped,
)
from sidework.engine.reporter import AFTER_TROUBLE
from sidework.engine.stopping import LAST_WAIT
from sidework.errors import DatabaseBusy, DatabaseUnavailable, WorkerLost

if TYPE_CHECKING:
    from tests.engine.rig import Rig


@pytest.mark.parametrize("error", [DatabaseBusy("locked"), DatabaseUnavailable("disk full"), OSError("what?")])
async def test_outcomes_are_kept_while_the_database_cannot_be_used_and_written_when_it_can(rig: Rig, error):
    rig.handler("k")(lambda: "kept")
    job_id = rig.add("k")
    storage = Faulty(rig.storage)
    async with rig.working(storage) as worker:
        await rig.turn(worker)
        await rig.woken(worker)
        storage.before["exchange"] = failing(3, error)
        assert [await rig.turn(worker) for _ in range(3)] == [0.1, 0.2, 0.4]
        assert rig.status(job_id) == "RUNNING"
        await rig.turn(worker)
    assert rig.job(job_id).result == "kept"
    assert [(event.kept, event.again_in) for event in rig.of(DatabaseTrouble)] == [(1, 0.1), (1, 0.2), (1, 0.4)]


async def test_the_wait_for_the_database_has_a_bound_and_begins_anew_after_a_success(rig: Rig):
    storage = Faulty(rig.storage)
    async with rig.working(storage) as worker:
        storage.before["exchange"] = failing(9, DatabaseBusy("locked"))
        waits = [await rig.turn(worker) for _ in range(9)]
        await rig.turn(worker)
        storage.before["exchange"] = failing(1, DatabaseBusy("locked"))
        waits.append(await rig.turn(worker))
    assert max(wait for wait in waits if wait is not None) == 5.0
    assert waits[-1] == 0.1


@pytest.mark.sqlite
async def test_an_outcome_that_the_database_refuses_does_not_hold_up_its_neighbours(rig: Rig):
    rig.sql(
        "CREATE TRIGGER no BEFORE UPDATE ON background_service_jobs WHEN NEW.result = '\"bad\"' "
        "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    )
    rig.handler("good")(lambda: "good")
    rig.handler("bad")(lambda: "bad")
    ids = [rig.add("good"), rig.add("bad"), rig.add("good")]
    async with rig.working() as worker:
        await rig.finish(worker)
    assert [rig.status(job_id) for job_id in ids] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "not this one" in (rig.job(ids[1]).last_error or "")
    assert [event.final for event in rig.of(OutcomeRefused)] == [False]


@pytest.mark.sqlite
async def test_a_job_whose_every_outcome_is_refused_stays_running_and_is_told_loudly(rig: Rig):
    rig.sql(
        "CREATE TRIGGER no BEFORE UPDATE ON background_service_jobs WHEN OLD.worker AND OLD.job_key = 'bad' "
        "BEGIN SELECT RAISE(ABORT, 'never'); END"
    )
    rig.handler("good")(lambda: "good")
    rig.handler("bad")(lambda: "bad")
    bad, good = rig.add("bad"), rig.add("good")
    async with rig.working() as worker:
        await rig.finish(worker)
        rig.clock.advance(60)
        await rig.finish(worker)  # a renewal does not take it for a stray
    assert rig.status(good) == "COMPLETED"
    assert rig.status(bad) == "RUNNING"
    assert [event.final for event in rig.of(OutcomeRefused)] == [False, True]
    assert rig.of(StraysGivenBack) == []


async def test_a_report_that_cannot_be_written_is_written_later_and_once(rig: Rig):
    gate = asyncio.Event()

    @rig.handler("k")
    async def handle(job):
        job.log("one line")
        await gate.wait()

    job_id = rig.add("k")
    storage = Faulty(rig.storage)
    storage.before["report"] = failing(2, DatabaseBusy("locked"))
    async with rig.working(storage) as worker:
        for _ in range(4):
            await rig.turn(worker)
            await asyncio.sleep(0)
            rig.clock.advance(AFTER_TROUBLE)
        assert [line.message for line in rig.storage.log(job_id)] == ["one line"]
        gate.set()
        await rig.finish(worker)
    assert [line.message for line in rig.storage.log(job_id)] == ["one line"]


@pytest.mark.parametrize("call", ["report", "renew", "idle"])
async def test_what_fails_again_and_again_beside_the_exchanges_is_not_tried_without_a_pause(rig: Rig, call):
    gate = asyncio.Event()

    @rig.handler("k")
    async def handle(job: JobContext):
        job.progress(1)
        await gate.wait()

    rig.add("k")
    storage = Faulty(rig.storage)
    storage.before[call] = failing(1000, DatabaseBusy("locked"))
    async with rig.working(storage) as worker:
        worker._until_idle = True
        rig.clock.advance(10)
        await rig.turn(worker)
        if call == "idle":
            gate.set()
            while worker._bench.running or worker._bench.has_ended:
                await rig.turn(worker)
        pauses = []
        for _ in range(5):
            pauses.append(await rig.turn(worker))
            await asyncio.sleep(0)
        gate.set()
        await rig.turn(worker)
        storage.before.clear()
    assert storage.calls.count(call) >= 1
    assert min(pause for pause in pauses[1:] if pause is not None) >= 0.1


async def test_a_worker_that_cannot_free_the_dead_does_not_keep_its_seat(rig: Rig):
    storage = Faulty(rig.storage)
    storage.before["lost"] = failing(1, DatabaseBusy("locked"))
    with pytest.raises(DatabaseBusy):
        await rig.worker(storage).run()
    assert rig.storage.workers() == []


async def test_outcomes_that_cannot_be_written_before_a_stop_are_told_and_their_jobs_run_again(rig: Rig):
    may_end = threading.Event()
    rig.handler("k")(lambda: "done" if may_end.wait(DEADLINE) else "late")
    job_id = rig.add("k")
    storage = Faulty(rig.storage)
    worker = rig.worker(storage, grace=25.0)
    started = asyncio.ensure_future(worker.run())
    await rig.told(JobStarted)
    storage.before["exchange"] = failing(10_000, DatabaseUnavailable("disk full"))
    may_end.set()
    while not worker._bench.has_ended:  # noqa: ASYNC110 - nobody tells of an end that is not written yet
        await asyncio.sleep(0)
    await rig.told(DatabaseTrouble)
    worker.stop()
    await rig.timer.was_set(25.0)
    rig.timer.ring(25.0)
    await rig.timer.was_set(LAST_WAIT)
    rig.timer.ring(LAST_WAIT)
    assert await started is False
    assert rig.of(WorkerStopped)[0].unwritten == 1
    assert [lost.job.id for lost in rig.storage.lost(limit=10)] == [job_id]


async def test_a_worker_that_has_lost_its_seat_aborts_everything_and_says_so(rig: Rig):
    begun, ended = asyncio.Event(), []

    @rig.handler("k")
    async def handle():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    job_id = rig.add("k")
    worker = rig.worker()
    life = asyncio.ensure_future(worker.run())
    await asyncio.wait_for(begun.wait(), DEADLINE)
    rig.sql("DELETE FROM background_service_workers")
    worker.wake()
    with pytest.raises(WorkerLost):
        await life
    assert ended == [True]
    assert rig.status(job_id) == "RUNNING"  # whoever comes next finds it, and nothing was written here
    assert len(rig.of(WorkerExpelled)) == 1


@pytest.mark.parametrize("executor", ["loop", "thread"])
async def test_no_handler_begins_when_the_lease_has_run_out_meanwhile(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, executor: Literal["loop", "thread"]
):
    """A process that stood still goes on with what it was about to do; somebody else may do that by now."""
    ran = []
    rig.handler("k", executor=executor)(lambda: ran.append(True))
    job_id = rig.add("k")
    async with rig.working() as worker:
        monkeypatch.setattr(type(worker._membership), "time_left", 0.0)
        await rig.finish(worker)
    assert ran == []
    assert rig.status(job_id) == "RUNNING"
    assert [event.job_id for event in rig.of(ClaimLost)] == [job_id]


async def test_renewal_gives_back_jobs_that_the_worker_holds_without_knowing(rig: Rig):
    rig.handler("k")(lambda: "ran")
    job_id = rig.add("k")
    async with rig.working() as worker:
        seat = worker._membership.worker
        rig.sql("UPDATE background_service_jobs SET status='RUNNING', claims=claims+1, worker=?", seat)
        await rig.finish(worker)
        assert rig.status(job_id) == "RUNNING"
        rig.clock.advance(10)
        await rig.finish(worker)
    assert rig.of(StraysGivenBack)[0].job_ids == (job_id,)
    assert rig.job(job_id).result == "ran"
    assert rig.job(job_id).attempts == 1


async def test_renewal_ends_handlers_whose_jobs_are_held_by_somebody_else(rig: Rig):
    ended = []

    @rig.handler("k")
    async def handle():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.turn(worker)
        await asyncio.sleep(0)
        rig.sql("UPDATE background_service_jobs SET claims=claims+1, worker=4711")
        rig.clock.advance(10)
        await rig.finish(worker)
    assert ended == [True]
    assert rig.status(job_id) == "RUNNING"


async def test_a_renewal_that_fails_is_tried_again_soon(rig: Rig):
    storage = Faulty(rig.storage)
    storage.before["renew"] = failing(1, DatabaseBusy("locked"))
    async with rig.working(storage) as worker:
        rig.clock.advance(10)
        await rig.turn(worker)
        await rig.turn(worker)
        assert storage.calls.count("renew") == 1
        rig.clock.advance(AFTER_TROUBLE)
        await rig.turn(worker)
        await rig.turn(worker)
    assert storage.calls.count("renew") == 2


async def test_an_exchange_that_was_begun_is_carried_through_when_its_caller_is_cancelled(rig: Rig):
    rig.handler("k")(lambda: "ran")
    job_id = rig.add("k")
    storage = Faulty(rig.storage)
    worker = rig.worker(storage)
    loop, inside = asyncio.get_running_loop(), asyncio.Event()
    storage.before["exchange"] = lambda: loop.call_soon_threadsafe(inside.set)
    life = asyncio.ensure_future(worker.run())
    await asyncio.wait_for(inside.wait(), DEADLINE)
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life
    assert rig.status(job_id) in {"PENDING", "COMPLETED"}
    assert rig.storage.workers() == []
