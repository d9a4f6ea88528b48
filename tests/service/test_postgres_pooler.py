"""A whole service behind a pooler in transaction mode: a connection keeps nothing from one transaction to the next."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.pgbouncer import pooler, program

from sidework import BackgroundService, JobContext

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(program() is None, reason="pgbouncer is not installed")

LONG = 20.0
RAW = "INSERT INTO background_service_jobs (job_key, payload) VALUES ('add', '{\"n\": 7}')"


@pytest.fixture
def pooled(postgres_database: str) -> Iterator[str]:
    with pooler(postgres_database) as url:
        yield url


@pytest.fixture
def raw(postgres_database: str) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(postgres_database, autocommit=True)) as connection:
        connection.execute("CREATE TABLE sums (n bigint)")
        yield connection


def make_service(url: str, **options: object) -> BackgroundService:
    service = BackgroundService(url, **options)  # type: ignore[arg-type]

    @service.handler
    def add(db: psycopg.Connection, n: int) -> None:
        db.execute("INSERT INTO sums VALUES (%s)", [n])

    @service.handler
    async def nothing(job: JobContext) -> None:
        job.log("nothing was done")

    return service


def total(raw: psycopg.Connection) -> int:
    ((found,),) = raw.execute("SELECT COALESCE(SUM(n), 0)::bigint FROM sums").fetchall()
    return int(found)


def test_everything_works_through_it(pooled: str, raw: psycopg.Connection) -> None:
    """Several workers and many who enqueue share a pool that is smaller than their number."""
    workers = [make_service(pooled) for _ in range(2)]
    sender = make_service(pooled)
    ids = sender.enqueue_many([("nothing", None)] * 300)
    threads = [threading.Thread(target=lambda: [sender.enqueue("add", {"n": 1}) for _ in range(20)]) for _ in range(6)]
    with workers[0], workers[1]:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with closing(psycopg.connect(pooled)) as own:
            kept = sender.enqueue("add", {"n": 100}, db=own)
            own.commit()
            sender.enqueue("add", {"n": 1000}, db=own)
            own.rollback()
        assert sender.wait(kept, LONG).status == "COMPLETED"
        assert sender.wait(ids[-1], LONG).status == "COMPLETED"
    assert sender.run_until_idle()
    assert total(raw) == 220
    assert set(sender.jobs.counts().items()) >= {("COMPLETED", 421), ("FAILED", 0), ("RUNNING", 0)}
    sender.close()


def test_nobody_listens_there_and_the_service_says_so(pooled: str, postgres_database: str) -> None:
    service = make_service(pooled)
    service.migrate()
    assert "a pooler stands before the server" in service.describe()["wake-up"]
    apart = make_service(pooled, listen_url=postgres_database)
    assert apart.describe()["wake-up"] == "LISTEN/NOTIFY by listen_url"
    for each in (service, apart):
        each.close()


def test_a_row_of_somebody_else_is_found_within_a_second(pooled: str, raw: psycopg.Connection) -> None:
    service = make_service(pooled)
    with service:
        ((job_id,),) = raw.execute(RAW + " RETURNING id").fetchall()
        assert service.wait(job_id, 1 + LONG).status == "COMPLETED"
    ((seconds,),) = raw.execute(
        "SELECT EXTRACT(EPOCH FROM last_attempt_at - created_at)::float8 FROM background_service_jobs"
    ).fetchall()
    assert seconds < 1.5
    assert total(raw) == 7


def test_a_ring_comes_through_it_to_who_listens_apart(pooled: str, postgres_database: str) -> None:
    service = make_service(pooled, listen_url=postgres_database)
    sender = make_service(pooled)
    sender.migrate()
    bell = service._storage.doorbell()
    try:
        sender.enqueue("add", {"n": 1})
        assert asyncio.run(bell.wait(LONG))
        assert bell.mechanism == "LISTEN/NOTIFY by listen_url"
    finally:
        bell.close()
        service.close()
        sender.close()
