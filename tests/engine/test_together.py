"""Handlers whose jobs commit together: each job ends as it would alone, once what several wrote is durable."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import asynccontextmanager, closing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from tests.engine.rig import DEADLINE

from sidework.clock import SystemClock
from sidework.engine.attempt import Attempt
from sidework.engine.context import JobContext
from sidework.engine.events import AbandonedHandlerEnded, HandlerAbandoned, JobEnded
from sidework.model.job import Reached
from sidework.model.pace import QUICK_RUNS, Pace
from sidework.storage.sqlite.marks import read_marks
from sidework.storage.sqlite.pool import GuardedConnection, Kind
from sidework.storage.sqlite.store import SqliteMembership, SqliteStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.engine.rig import Rig

    from sidework.engine.worker import Worker
    from sidework.model.lifecycle import Returned

pytestmark = pytest.mark.sqlite

WRITE = "INSERT INTO effects VALUES (?)"
variable: ContextVar[str] = ContextVar("variable", default="unset")


class Act:
    """What the handler of one job does after its first write: wait until let go, then this."""

    def __init__(self, then: Callable[[Any, JobContext], object] = lambda _db, _job: None) -> None:
        self.then = then
        self.reached = threading.Event()
        self.may_go = threading.Event()

    def __call__(self, db: Any, job: JobContext) -> object:
        self.reached.set()
        assert self.may_go.wait(4 * DEADLINE)
        return self.then(db, job)


class Play:
    """Handlers that are known to be quick, and what each of their jobs does."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.acts: dict[int, Act] = {}
        self.shared: list[int] = []
        """Jobs whose handlers were called as such that may share, in order."""
        rig.sql("CREATE TABLE effects (word TEXT)")
        rig.sql("CREATE TABLE parents (name TEXT PRIMARY KEY)")
        rig.sql("CREATE TABLE children (name TEXT REFERENCES parents DEFERRABLE INITIALLY DEFERRED)")
        self._know_the_statement()
        rig.handler("k", backoff=(1.0,))(self._handle)

    def _handle(self, db: sqlite3.Connection, job: JobContext) -> object:
        if job._attempt.shared is not None:
            self.shared.append(job.id)
        db.execute(WRITE, (f"{job.id}",))
        act = self.acts.get(job.id)
        return None if act is None else act(db, job)

    def _know_the_statement(self) -> None:
        """Let every connection know that it is a write, so that it joins, and check constraints."""
        assert isinstance(self.rig.storage, SqliteStorage)
        pool = self.rig.storage._pool
        open_one = pool._open

        def open_prepared() -> GuardedConnection:
            connection = open_one()
            connection._run_ours("PRAGMA foreign_keys = ON")
            connection.kinds[WRITE] = Kind.WRITE
            return connection

        pool._open = open_prepared  # type: ignore[method-assign]

    def add(self, act: Act | None = None, **columns: Any) -> int:
        job_id = self.rig.add("k", **columns)
        if act is not None:
            self.acts[job_id] = act
        return job_id

    def effects(self) -> list[int]:
        return [int(word) for (word,) in self.rig.sql("SELECT word FROM effects ORDER BY rowid")]

    def ended(self) -> list[int]:
        return [event.job_id for event in self.rig.of(JobEnded)]


@pytest.fixture
def play(rig: Rig) -> Play:
    return Play(rig)


@asynccontextmanager
async def worker_of(play: Play, **options: Any) -> AsyncIterator[Worker]:
    async with play.rig.working(**options) as worker:
        worker._runner._paces["k"] = Pace(quick_runs=QUICK_RUNS)
        yield worker


async def on(event: threading.Event) -> None:
    await asyncio.to_thread(event.wait, DEADLINE)
    assert event.is_set()


async def begin_together(play: Play, worker: Worker, first: Act, second: Act) -> None:
    """Return when the first has ended, and the second has written into the same transaction."""
    await play.rig.turn(worker)
    await on(first.reached)
    first.may_go.set()
    await on(second.reached)


async def test_ends_are_told_when_what_they_shared_is_durable(play: Play):
    first, second = Act(), Act()
    jobs = [play.add(first), play.add(second)]
    async with worker_of(play) as worker:
        await begin_together(play, worker, first, second)
        assert play.effects() == []
        assert play.ended() == []
        assert {play.rig.status(job) for job in jobs} == {"RUNNING"}
        second.may_go.set()
        await play.rig.finish(worker)
        assert play.effects() == jobs
        assert play.ended() == jobs
        assert {play.rig.status(job) for job in jobs} == {"COMPLETED"}
        assert play.shared == jobs


async def test_marks_tell_who_ran_from_who_had_ended_and_was_not_written_yet(play: Play):
    first, second = Act(), Act()
    jobs = [play.add(first), play.add(second)]
    async with worker_of(play) as worker:
        await begin_together(play, worker, first, second)
        assert isinstance(worker._membership, SqliteMembership)
        marks = read_marks(worker._membership._lock.path)
        assert marks == {jobs[0]: Reached.ENDED, jobs[1]: Reached.BEGUN}
        second.may_go.set()
        await play.rig.finish(worker)
        assert read_marks(worker._membership._lock.path) == {}


async def test_a_job_counts_as_running_until_its_result_is_encoded(play: Play, monkeypatch: pytest.MonkeyPatch):
    """What kills the worker there, such as a result that is too big for it, is to be suspected, and nobody else."""
    jobs = [play.add(), play.add()]
    encode, seen = Attempt.returned, list[Reached | None]()
    async with worker_of(play) as worker:
        assert isinstance(worker._membership, SqliteMembership)
        path = worker._membership._lock.path

        def encode_and_look(attempt: Attempt, value: object) -> Returned:
            seen.append((read_marks(path) or {}).get(attempt.job.id))
            return encode(attempt, value)

        monkeypatch.setattr(Attempt, "returned", encode_and_look)
        await play.rig.turn(worker)
        await play.rig.finish(worker)
    assert play.shared == jobs
    assert seen == [Reached.BEGUN, Reached.BEGUN]


async def test_who_raises_undoes_its_own_part_and_is_tried_again(play: Play):
    def fail(_db: Any, _job: JobContext) -> object:
        raise RuntimeError("inside")

    first, second = Act(), Act(fail)
    jobs = [play.add(first), play.add(second), play.add()]
    async with worker_of(play) as worker:
        await begin_together(play, worker, first, second)
        second.may_go.set()
        await play.rig.finish(worker)
        assert play.effects() == [jobs[0], jobs[2]]
        assert [play.rig.status(job) for job in jobs] == ["COMPLETED", "SCHEDULED", "COMPLETED"]
        assert play.rig.job(jobs[1]).attempts == 1


async def test_a_commit_that_fails_costs_no_attempt_and_the_next_try_is_alone(play: Play):
    def violate(db: Any, _job: JobContext) -> None:
        db.execute("INSERT INTO children VALUES ('nobody''s')")

    first, second = Act(), Act(violate)
    jobs = [play.add(first), play.add(second)]
    async with worker_of(play) as worker:
        await begin_together(play, worker, first, second)
        second.may_go.set()
        await play.rig.finish(worker)
        assert play.shared == jobs  # and not once more
        assert play.effects() == [jobs[0]]
        innocent, guilty = (play.rig.job(job) for job in jobs)
        assert (innocent.status.value, innocent.attempts) == ("COMPLETED", 1)
        assert (guilty.status.value, guilty.attempts) == ("SCHEDULED", 1)
        assert "FOREIGN KEY" in (guilty.last_error or "")
        assert worker._ledger.given_back == 0


async def test_a_handler_out_of_time_leaves_what_others_wrote(play: Play):
    first, second = Act(), Act()
    jobs = [play.add(first), play.add(second, options='{"timeout": 5.0}')]
    async with worker_of(play) as worker:
        await begin_together(play, worker, first, second)
        play.rig.timer.ring(5.0)
        await play.rig.told(HandlerAbandoned)
        await play.rig.finish(worker)
        assert play.effects() == [jobs[0]]
        assert [play.rig.status(job) for job in jobs] == ["COMPLETED", "SCHEDULED"]
        second.may_go.set()
        await play.rig.told(AbandonedHandlerEnded)
        assert play.effects() == [jobs[0]]


async def test_nobody_waits_for_a_handler_that_has_not_written_and_takes_long(rig: Rig):
    play = Play(rig)
    slow_one = Act()

    def read_slowly(db: sqlite3.Connection, job: JobContext) -> None:
        slow_one(db, job)
        db.execute(WRITE, (f"{job.id}",))

    rig.handler("slow")(read_slowly)
    first = Act()
    jobs = [play.add(first), rig.add("slow")]
    clock = SystemClock()
    async with worker_of(play, clock=clock) as worker:
        worker._runner._paces["slow"] = Pace(quick_runs=QUICK_RUNS)
        await begin_together(play, worker, first, slow_one)
        await rig.told(JobEnded)  # while the other one waits
        assert play.effects() == [jobs[0]]
        assert not slow_one.may_go.is_set()
        slow_one.may_go.set()
        await rig.finish(worker)
        assert play.effects() == jobs


async def test_a_block_is_durable_when_it_is_left(play: Play):
    seen = []

    def in_a_block(db: sqlite3.Connection, job: JobContext, n: int = 0) -> None:
        with job.transaction() as block:
            block.execute(WRITE, (f"{job.id}",))
        with closing(sqlite3.connect(play.rig.path)) as other:
            seen.append(other.execute("SELECT status FROM background_service_jobs WHERE id = ?", (job.id,)).fetchone())

    play.rig.handler("block")(in_a_block)
    first = Act()
    jobs = [play.add(first), play.rig.add("block")]
    async with worker_of(play) as worker:
        worker._runner._paces["block"] = Pace(quick_runs=QUICK_RUNS)
        await play.rig.turn(worker)
        await on(first.reached)
        first.may_go.set()
        await play.rig.finish(worker)
        assert seen == [("COMPLETED",)]
        assert play.effects() == jobs


async def test_what_a_handler_enqueues_exists_with_its_part_only(play: Play):
    other = play.rig.registry.declare("other")

    def enqueue(_db: Any, _job: JobContext) -> None:
        other.enqueue()

    def enqueue_and_fail(_db: Any, _job: JobContext) -> None:
        other.enqueue()
        raise RuntimeError("inside")

    first, second = Act(enqueue), Act(enqueue_and_fail)
    play.add(first)
    play.add(second)
    async with worker_of(play) as worker:
        await begin_together(play, worker, first, second)
        second.may_go.set()
        await play.rig.finish(worker)
        assert play.rig.sql("SELECT count(*) FROM background_service_jobs WHERE job_key = 'other'") == [(1,)]


async def test_each_handler_has_a_context_of_its_own(play: Play):
    seen = []

    def look_and_set(_db: Any, _job: JobContext) -> None:
        seen.append(variable.get())
        variable.set("of another one")

    first, second = Act(look_and_set), Act(look_and_set)
    play.add(first)
    play.add(second)
    async with worker_of(play) as worker:
        await begin_together(play, worker, first, second)
        second.may_go.set()
        await play.rig.finish(worker)
        assert seen == ["unset", "unset"]


@pytest.mark.parametrize("why", ["once only", "was there at a death", "not known to be quick"])
async def test_who_may_not_share(play: Play, why: str):
    job = play.add(max_attempts=1 if why == "once only" else 3)
    if why == "was there at a death":
        play.rig.sql("UPDATE background_service_jobs SET crashes = 1 WHERE id = ?", job)
    async with worker_of(play) as worker:
        if why == "not known to be quick":
            worker._runner._paces["k"] = Pace(quick_runs=QUICK_RUNS - 1)
        await play.rig.finish(worker)
        assert play.rig.status(job) == "COMPLETED"
        assert play.shared == []


async def test_a_handler_comes_to_share_by_being_quick_and_goes_back_by_being_slow(play: Play):
    jobs = play.rig.add_many("k", QUICK_RUNS)
    async with worker_of(play) as worker:
        worker._runner._paces.clear()
        await play.rig.finish(worker)
        assert play.shared == []
        slow = Act(lambda _db, _job: play.rig.clock.advance(60))
        slow.may_go.set()
        jobs.append(play.add(slow))
        await play.rig.finish(worker)
        jobs.append(play.add())
        await play.rig.finish(worker)
        assert play.shared == [jobs[QUICK_RUNS]]
        assert sorted(play.effects()) == jobs


async def test_a_stop_waits_for_what_was_begun_and_all_of_it_is_written(play: Play):
    first, second = Act(), Act()
    jobs = [play.add(first), play.add(second)]
    async with worker_of(play) as worker:
        await begin_together(play, worker, first, second)
        worker.stop()
        second.may_go.set()
        await play.rig.drain(worker)
        assert play.effects() == jobs
        assert {play.rig.status(job) for job in jobs} == {"COMPLETED"}


async def test_before_its_first_write_a_handler_may_wait_for_a_connection_of_its_own(rig: Rig):
    play = Play(rig)
    reached = threading.Event()

    def write_elsewhere(db: sqlite3.Connection, job: JobContext) -> None:
        reached.set()
        rig.sql(WRITE, 100 + job.id)  # waits for the lock that this very thread holds, until that is let go
        db.execute(WRITE, (f"{job.id}",))

    rig.handler("elsewhere")(write_elsewhere)
    first = Act()
    jobs = [play.add(first), rig.add("elsewhere")]
    async with worker_of(play, clock=SystemClock()) as worker:
        worker._runner._paces["elsewhere"] = Pace(quick_runs=QUICK_RUNS)
        await rig.turn(worker)
        await on(first.reached)
        first.may_go.set()
        await rig.finish(worker)
        assert play.effects() == [jobs[0], 100 + jobs[1], jobs[1]]
