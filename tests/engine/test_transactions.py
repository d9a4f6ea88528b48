"""What a handler writes through `db` commits with its job, or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import aiosqlite
import pytest
from tests.engine.rig import DEADLINE

from sidework.engine.context import JobContext, current_job
from sidework.engine.events import (
    AbandonedHandlerEnded,
    ClaimLost,
    HandlerAbandoned,
    JobEnded,
    LockHeldLong,
    RaisedAfterEnd,
)
from sidework.errors import Discard, JobLost, SideworkError
from sidework.model.job import JobStatus

if TYPE_CHECKING:
    from tests.engine.rig import Rig

BOTH = pytest.mark.parametrize("way", ["sync", "async"])


@pytest.fixture(autouse=True)
def table(rig: Rig) -> None:
    rig.sql("CREATE TABLE effects (word TEXT NOT NULL)")


def effects(rig: Rig) -> list[str]:
    return [word for (word,) in rig.sql("SELECT word FROM effects")]


async def run(rig: Rig, *job_ids: int) -> None:
    async with rig.working() as worker:
        await rig.finish(worker)
    assert not any(rig.status(job_id) == "RUNNING" for job_id in job_ids)


def register(rig: Rig, way: str, act=None, **options) -> None:
    """Register a handler that writes through db, then does `act`."""

    def write(db: sqlite3.Connection, job: JobContext):
        db.execute("INSERT INTO effects VALUES ('written')")
        return None if act is None else act(job)

    async def write_async(db: aiosqlite.Connection, job: JobContext):
        await db.execute("INSERT INTO effects VALUES ('written')")
        return None if act is None else act(job)

    rig.handler("k", **options)(write if way == "sync" else write_async)


def fail(_done: object) -> None:
    raise RuntimeError("inside")


def raising(error: BaseException):
    def act(_):
        raise error

    return act


# ------------------------------------------------------------------------------------------------------------------ db


@BOTH
async def test_writes_and_completion_commit_together(rig: Rig, way):
    register(rig, way, lambda _: "result")
    job_id = rig.add("k")
    await run(rig, job_id)
    assert effects(rig) == ["written"]
    assert rig.job(job_id).result == "result"
    assert [event.status for event in rig.of(JobEnded)] == [JobStatus.COMPLETED]


@BOTH
async def test_an_exception_rolls_the_writes_back(rig: Rig, way):
    register(rig, way, raising(ValueError("no")))
    job_id = rig.add("k")
    await run(rig, job_id)
    assert effects(rig) == []
    assert rig.status(job_id) == "SCHEDULED"


@BOTH
@pytest.mark.parametrize("act", [raising(Discard("no use")), lambda _: object()], ids=["discard", "bad result"])
async def test_a_failure_for_good_rolls_the_writes_back(rig: Rig, way, act):
    register(rig, way, act)
    job_id = rig.add("k")
    await run(rig, job_id)
    assert effects(rig) == []
    assert rig.status(job_id) == "FAILED"


@BOTH
async def test_a_superseded_attempt_commits_nothing(rig: Rig, way):
    @rig.handler("thief")
    def steal():
        """Take the job away between the handler's start and its first write."""

    def take_it_away():
        rig.sql("UPDATE background_service_jobs SET claims = claims + 1")

    def write(db: sqlite3.Connection):
        take_it_away()
        db.execute("INSERT INTO effects VALUES ('written')")

    async def write_async(db: aiosqlite.Connection):
        take_it_away()
        await db.execute("INSERT INTO effects VALUES ('written')")

    rig.handler("k")(write if way == "sync" else write_async)
    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.finish(worker)
        assert len(rig.of(ClaimLost)) == 1
    assert effects(rig) == []
    assert rig.status(job_id) == "RUNNING"  # for whoever holds it now


@BOTH
async def test_a_deferred_constraint_that_fails_at_the_commit_is_a_failed_attempt(rig: Rig, way):
    rig.sql("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
    rig.sql("CREATE TABLE children (parent INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED)")

    def write(db: sqlite3.Connection):
        if "sqlite" in rig.database_kind:
            db.execute("PRAGMA foreign_keys = ON")
        db.execute("INSERT INTO children VALUES (99)")

    async def write_async(db: aiosqlite.Connection):
        if "sqlite" in rig.database_kind:
            await db.execute("PRAGMA foreign_keys = ON")
        await db.execute("INSERT INTO children VALUES (99)")

    rig.handler("k")(write if way == "sync" else write_async)
    job_id = rig.add("k")
    await run(rig, job_id)
    assert rig.status(job_id) == "SCHEDULED"
    assert "foreign key" in (rig.job(job_id).last_error or "").lower()
    assert rig.sql("SELECT * FROM children") == []


async def test_a_handler_that_only_reads_is_settled_with_the_others(rig: Rig):
    @rig.handler("k")
    def read(db: sqlite3.Connection):
        return db.execute("SELECT count(*) FROM effects").fetchone()[0]

    job_id = rig.add("k")
    await run(rig, job_id)
    assert rig.job(job_id).result == 0


@pytest.mark.sqlite
async def test_a_write_that_the_database_undid_never_counts_as_done_even_if_the_handler_hides_the_error(rig: Rig):
    rig.sql(
        "CREATE TRIGGER undo BEFORE INSERT ON effects WHEN NEW.word = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
    )

    @rig.handler("k")
    def write(db: sqlite3.Connection):
        db.execute("INSERT INTO effects VALUES ('good')")
        try:
            db.execute("INSERT INTO effects VALUES ('bad')")
        except sqlite3.Error:
            return "all is well"

    job_id = rig.add("k")
    await run(rig, job_id)
    assert effects(rig) == []
    assert rig.status(job_id) == "SCHEDULED"


# ------------------------------------------------------------------------------------------------------ enqueue inside


@BOTH
@pytest.mark.parametrize(("fails", "children"), [(False, 1), (True, 0)])
async def test_an_enqueue_in_a_handler_that_takes_db_joins_its_transaction(rig: Rig, way, fails, children):
    child = rig.handler("child")(lambda: None)

    def end():
        if fails:
            raise ValueError

    def parent(db: sqlite3.Connection):
        child.enqueue()
        end()

    async def parent_async(db: aiosqlite.Connection):
        await child.aenqueue()
        end()

    rig.handler("parent")(parent if way == "sync" else parent_async)
    job_id = rig.add("parent", max_attempts=1)
    await run(rig, job_id)
    assert rig.sql("SELECT count(*) FROM background_service_jobs WHERE job_key = 'child'") == [(children,)]


@BOTH
async def test_an_enqueue_in_a_handler_without_db_commits_at_once(rig: Rig, way):
    child = rig.handler("child", queue="elsewhere")(lambda: None)

    def parent():
        child.enqueue()
        raise ValueError

    async def parent_async():
        await child.aenqueue()
        raise ValueError

    rig.handler("parent")(parent if way == "sync" else parent_async)
    rig.add("parent", max_attempts=1)
    await run(rig)
    assert rig.sql("SELECT count(*) FROM background_service_jobs WHERE job_key = 'child'") == [(1,)]


async def test_an_enqueue_inside_the_block_joins_and_one_after_it_commits_at_once(rig: Rig):
    child = rig.handler("child")(lambda: None)

    @rig.handler("parent")
    def parent(job: JobContext):
        with pytest.raises(RuntimeError), job.transaction():
            fail(child.enqueue())
        child.enqueue()

    rig.add("parent")
    await run(rig)
    assert rig.sql("SELECT count(*) FROM background_service_jobs WHERE job_key = 'child'") == [(1,)]


# ----------------------------------------------------------------------------------------------------- job.transaction


def register_block(rig: Rig, way: str, after=lambda: None, **given) -> None:
    """Register a handler that writes in a block of its own, then does `after`."""

    def handle(job: JobContext):
        with job.transaction(**given) as db:
            db.execute("INSERT INTO effects VALUES ('in the block')")
            if not given:
                job.result = "set inside"
        return after()

    async def handle_async(job: JobContext):
        async with job.transaction(**given) as db:
            await db.execute("INSERT INTO effects VALUES ('in the block')")
            if not given:
                job.result = "set inside"
        return after()

    rig.handler("k")(handle if way == "sync" else handle_async)


@BOTH
@pytest.mark.parametrize(("given", "result"), [({"result": [1]}, [1]), ({}, "set inside")])
async def test_the_end_of_the_block_commits_and_completes_the_job(rig: Rig, way, given, result):
    seen = []
    register_block(rig, way, lambda: seen.append((effects(rig), rig.status(1))), **given)
    job_id = rig.add("k")
    await run(rig, job_id)
    assert seen == [(["in the block"], "COMPLETED")]
    assert rig.job(job_id).result == result


@BOTH
async def test_what_follows_the_block_changes_nothing_and_is_told(rig: Rig, way):
    def fail():
        raise ValueError("afterwards")

    register_block(rig, way, fail, result="kept")
    job_id = rig.add("k")
    await run(rig, job_id)
    assert rig.job(job_id).result == "kept"
    assert rig.job(job_id).attempts == 1
    assert [event.error_type for event in rig.of(RaisedAfterEnd)] == ["ValueError"]
    assert [event.status for event in rig.of(JobEnded)] == [JobStatus.COMPLETED]


@BOTH
async def test_an_exception_inside_the_block_rolls_back_and_comes_out(rig: Rig, way):
    seen = []

    def handle(job: JobContext):
        try:
            with job.transaction() as db:
                fail(db.execute("INSERT INTO effects VALUES ('never')"))
        except RuntimeError as error:
            seen.append(str(error))
        with job.transaction(result="second try") as db:
            db.execute("INSERT INTO effects VALUES ('second')")

    async def handle_async(job: JobContext):
        try:
            async with job.transaction() as db:
                fail(await db.execute("INSERT INTO effects VALUES ('never')"))
        except RuntimeError as error:
            seen.append(str(error))
        async with job.transaction(result="second try") as db:
            await db.execute("INSERT INTO effects VALUES ('second')")

    rig.handler("k")(handle if way == "sync" else handle_async)
    job_id = rig.add("k")
    await run(rig, job_id)
    assert seen == ["inside"]
    assert effects(rig) == ["second"]
    assert rig.job(job_id).result == "second try"


async def test_the_block_is_there_once_and_in_the_colour_of_its_handler(rig: Rig):
    refused = []

    @rig.handler("sync")
    def handle(job: JobContext):
        with job.transaction():
            pass
        with pytest.raises(SideworkError, match="once per attempt"), job.transaction():
            refused.append("never")

    @rig.handler("async")
    async def handle_async(job: JobContext):
        with pytest.raises(SideworkError, match="async with"), job.transaction():
            refused.append("never")

    ids = [rig.add("sync"), rig.add("async")]
    await run(rig, *ids)
    assert [rig.job(job_id).last_error for job_id in ids] == [None, None]
    assert refused == []


@BOTH
async def test_a_block_for_a_job_that_is_no_longer_held_raises_job_lost(rig: Rig, way):
    seen = []

    def handle(job: JobContext):
        rig.sql("UPDATE background_service_jobs SET claims = claims + 1")
        with pytest.raises(JobLost), job.transaction():
            seen.append("never")

    async def handle_async(job: JobContext):
        rig.sql("UPDATE background_service_jobs SET claims = claims + 1")
        with pytest.raises(JobLost):
            async with job.transaction():
                seen.append("never")

    rig.handler("k")(handle if way == "sync" else handle_async)
    rig.add("k")
    async with rig.working() as worker:
        await rig.finish(worker)
    assert seen == []
    assert len(rig.of(ClaimLost)) == 1


async def test_the_block_of_a_handler_that_takes_db_is_the_same_transaction(rig: Rig):
    @rig.handler("k")
    def handle(db: sqlite3.Connection, job: JobContext):
        db.execute("INSERT INTO effects VALUES ('before')")
        with job.transaction(result="done") as same:
            assert same is db
            db.execute("INSERT INTO effects VALUES ('inside')")

    job_id = rig.add("k")
    await run(rig, job_id)
    assert effects(rig) == ["before", "inside"]
    assert rig.job(job_id).result == "done"


async def test_a_lock_held_long_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sidework.engine.runner.LONG_LOCK_SECONDS", 0.0)
    register(rig, "sync")
    job_id = rig.add("k")
    await run(rig, job_id)
    [event] = rig.of(LockHeldLong)
    assert event.job_id == job_id
    assert event.seconds > 0


# ------------------------------------------------------------------------------------------------------- out of time


async def test_a_thread_out_of_time_frees_the_write_lock_and_can_commit_nothing_later(rig: Rig):
    wrote, gate, late = threading.Event(), threading.Event(), []

    @rig.handler("k", timeout=5, backoff=0)
    def handle(db: sqlite3.Connection, job: JobContext):
        if job.attempt > 1:
            db.execute("INSERT INTO effects VALUES ('successor')")
            return
        db.execute("INSERT INTO effects VALUES ('first')")
        wrote.set()
        assert gate.wait(DEADLINE)
        try:
            db.execute("INSERT INTO effects VALUES ('late')")
        except Exception as error:
            late.append(type(error))
        context = current_job.get()
        assert context is not None
        try:
            _ = context.joined_transaction
        except JobLost as error:
            late.append(type(error))

    job_id = rig.add("k")
    async with rig.working() as worker:
        await rig.turn(worker)
        assert await asyncio.to_thread(wrote.wait, DEADLINE)
        rig.timer.ring(5)
        await rig.told(HandlerAbandoned)
        await rig.finish(worker)
        assert rig.status(job_id) == "COMPLETED"  # the second attempt got the lock, and its writes are in
        gate.set()
        await rig.told(AbandonedHandlerEnded)
        await rig.finish(worker)
    assert effects(rig) == ["successor"]
    assert late == [JobLost, JobLost]
    assert rig.job(job_id).attempts == 2


# ------------------------------------------------------------------------------------------- the user's own session


@pytest.mark.sqlite
@pytest.mark.parametrize(("ends_by", "status", "words"), [("commit", "COMPLETED", ["own"]), ("raise", "SCHEDULED", [])])
async def test_a_job_completed_in_the_users_own_session_commits_with_it(rig: Rig, ends_by, status, words):
    @rig.handler("k")
    def handle(job: JobContext):
        with closing(sqlite3.connect(rig.path)) as session:
            session.execute("INSERT INTO effects VALUES ('own')")
            job.complete(db=session, result={"by": "session"})
            if ends_by == "raise":
                raise ValueError("before the commit")
            session.commit()

    job_id = rig.add("k")
    await run(rig, job_id)
    assert effects(rig) == words
    assert rig.status(job_id) == status
    assert rig.of(ClaimLost) == []


@pytest.mark.sqlite
async def test_a_job_completed_in_an_awaited_session_commits_with_it(rig: Rig):
    @rig.handler("k")
    async def handle(job: JobContext):
        async with aiosqlite.connect(rig.path) as session:
            await session.execute("INSERT INTO effects VALUES ('own')")
            await job.acomplete(db=session, result="by session")
            await session.commit()
        raise ValueError("too late to matter")

    job_id = rig.add("k")
    await run(rig, job_id)
    assert effects(rig) == ["own"]
    assert rig.job(job_id).result == "by session"
    assert [event.error_type for event in rig.of(RaisedAfterEnd)] == ["ValueError"]


@pytest.mark.sqlite
async def test_completing_a_job_that_is_no_longer_held_raises_job_lost(rig: Rig):
    seen = []

    @rig.handler("k")
    def handle(job: JobContext):
        rig.sql("UPDATE background_service_jobs SET claims = claims + 1")
        with closing(sqlite3.connect(rig.path)) as session, pytest.raises(JobLost):
            job.complete(db=session)
        seen.append(True)

    rig.add("k")
    async with rig.working() as worker:
        await rig.finish(worker)
    assert seen == [True]
