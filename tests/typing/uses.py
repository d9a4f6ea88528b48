"""Right and wrong uses of the public face. Every wrong one carries an ignore, which both checkers must need.

Never run; `test_types.py` has it read by mypy and pyright.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
# ruff: noqa: PGH003 - the two checkers call their rules by different names

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, assert_type

import aiosqlite

from sidework import BackgroundService, Job, JobContext, JobHandler, JobStatus, NewJob

service = BackgroundService("app.db")


@dataclass
class SyncUser:
    user_id: str
    force: bool = False


class Letter(TypedDict):
    to: str


class OtherDriver:
    """A connection as drivers of other databases have it."""

    async def execute(self, query: str, parameters: object = None) -> object: ...
    def cursor(self) -> object: ...
    async def commit(self) -> None: ...
    async def rollback(self) -> None: ...


# -------------------------------------------------------------------------------------------------- registering


@service.handler
async def bare(user_id: str, force: bool = False) -> int:
    return 1


@service.handler()
def called() -> str:
    return ""


@service.handler("with_db", max_attempts=5, timeout=timedelta(minutes=1), backoff=[1, 5, 30])
def with_db(db: sqlite3.Connection, invoice: int) -> None: ...


@service.handler("with_aiosqlite", queue="mail", priority=5, executor="loop")
async def with_aiosqlite(db: aiosqlite.Connection, invoice: int) -> str:
    return ""


@service.handler("with_other", unique=True, retention=60, max_crashes=1)
async def with_other(db: OtherDriver, invoice: int) -> None: ...


@service.handler("with_job")
async def with_job(job: JobContext, month: str, *, dry: bool = False) -> bytes:
    job.progress(1, 2, "half")
    job.log("half")
    assert_type(job.cancelled, bool)
    assert_type(job.idempotency_key, str)
    return b""


@service.handler("job_then_db")
def job_then_db(job: JobContext, db: sqlite3.Connection, x: int) -> None: ...


@service.handler("db_then_job")
def db_then_job(db: sqlite3.Connection, job: JobContext, x: int) -> None: ...


@service.handler("seed")
def seed(service: BackgroundService, payload: dict[str, Any] | None, db: sqlite3.Connection) -> None: ...


@service.handler("seed_without_any")
def seed_without_any(service: BackgroundService, payload: dict[str, object], db: sqlite3.Connection) -> list[int]:
    return []


@service.handler("db_last")
def db_last(x: int, db: sqlite3.Connection) -> None: ...


@service.handler("db_then_object")
def db_then_object(db: sqlite3.Connection, meta: dict[str, object]) -> None: ...


@service.handler("whole")
def whole(payload: SyncUser) -> Letter:
    return {"to": payload.user_id}


@service.handler("db_then_whole")
def db_then_whole(db: sqlite3.Connection, payload: Letter) -> None: ...


registered = service.register_job_handler("seed_again", seed)
remote = service.declare("train_model")

# --------------------------------------------------------------------------------------------------- right uses

assert_type(bare.enqueue(user_id="1", force=True), int)
assert_type(bare.new("1"), NewJob)
bare.enqueue("1")
bare.using(priority=10, delay=60, db=object()).enqueue(user_id="1")
bare.using(run_at=datetime(2026, 1, 1, tzinfo=UTC), unique_key="u", timeout=5, backoff=2.5).enqueue("1", force=True)
called.enqueue()
with_db.enqueue(invoice=7)
with_db.using(delay=timedelta(hours=1)).enqueue(7)
with_aiosqlite.enqueue(invoice=7)
with_other.enqueue(invoice=7)
with_job.enqueue(month="2026-10", dry=True)
job_then_db.enqueue(x=1)
db_then_job.enqueue(x=1)
seed.enqueue(userId="1")
seed.enqueue({"userId": "1"})
seed_without_any.enqueue(userId="1")
db_then_object.enqueue(meta={})
whole.enqueue(SyncUser("1"))
whole.enqueue(payload=SyncUser("1", force=True))
db_then_whole.enqueue({"to": "ada"})
registered.enqueue(userId="1")
remote.enqueue(model="x", epochs=3)
assert_type(service.enqueue("sync_user", {"user_id": "1"}, queue="mail", priority=1, unique_key="1"), int)
assert_type(service.job(job_key="seed", payload={"userId": "1"}, priority=0, max_attempts=3), int | None)
assert_type(service.enqueue_many([("seed", {"userId": "1"}), job_then_db.new(x=2)]), list[int])
assert_type(bare.result(1), int)
assert_type(bare.using(priority=1).result(1, timeout=10), int)
assert_type(called.result(1), str)
assert_type(with_aiosqlite.result(1), str)
assert_type(with_job.result(1), bytes)
assert_type(seed_without_any.result(1), list[int])
assert_type(whole.result(1), Letter)
handlers: list[JobHandler[..., Any]] = [bare, with_db, seed, whole, remote]
by_key: Mapping[str, JobHandler[..., Any]] = service.handlers


async def awaited() -> None:
    assert_type(await bare.aenqueue("1"), int)
    assert_type(await with_db.using(db=object()).aenqueue(invoice=1), int)
    assert_type(await bare.aresult(1), int)
    assert_type(await called.aresult(1, timeout=1.5), str)
    async with service:
        async for job in service.watch(1):
            assert_type(job, Job)


with service:
    assert_type(service.wait(1, timeout=5), Job)
assert_type(service.jobs.list(status="FAILED", queue="mail", limit=10), list[Job])
assert_type(service.jobs.list(statuses=[JobStatus.FAILED], older_than=timedelta(days=1)), list[Job])
assert_type(service.jobs.counts(), dict[JobStatus, int])
assert_type(service.jobs.retry_many(key="seed"), int)
assert_type(service.jobs.cancel(1), bool)

# --------------------------------------------------------------------------------------------------- wrong uses

bare.enqueue(userid="1")  # type: ignore
bare.enqueue(user_id=1)  # type: ignore
bare.enqueue()  # type: ignore
bare.new(user=1)  # type: ignore
bare.using(prio=1)  # type: ignore
bare.using(priority="high")  # type: ignore
bare.using(run_at="tomorrow")  # type: ignore
bare.using(executor="process")  # type: ignore
called.enqueue(1)  # type: ignore
with_db.enqueue(invoice="x")  # type: ignore
with_db.enqueue()  # type: ignore
with_db.enqueue(invoice=1, db=None)  # type: ignore
with_aiosqlite.enqueue(invoice="x")  # type: ignore
with_other.enqueue(invoice="x")  # type: ignore
with_job.enqueue(1)  # type: ignore
with_job.enqueue("2026-10", True)  # type: ignore
job_then_db.enqueue(x="1")  # type: ignore
db_then_job.enqueue(x="1")  # type: ignore
db_then_object.enqueue(mata={})  # type: ignore
db_last.enqueue(x=1)  # type: ignore
whole.enqueue("1")  # type: ignore
whole.enqueue(user_id="1")  # type: ignore
db_then_whole.enqueue({"to": 1})  # type: ignore
service.enqueue("sync_user", {}, prio=1)  # type: ignore
service.jobs.list(state="FAILED")  # type: ignore
service.handler("x", max_attempt=5)  # type: ignore
service.handler("x", timeout="long")  # type: ignore


async def wrongly_awaited() -> None:
    await bare.aenqueue(user_id=1)  # type: ignore
    text: str = await bare.aresult(1)  # type: ignore
    print(text)


number: int = called.result(1)  # type: ignore
