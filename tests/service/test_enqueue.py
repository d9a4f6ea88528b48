"""Enqueueing through the service: the seed's way, the typed way, and the transaction that a job goes into."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import aiosqlite
import pytest

from sidework import (
    BackgroundService,
    DatabaseBusy,
    FrozenClock,
    InvalidPayload,
    JobNotFound,
    JobStatus,
    NotMigrated,
    UnknownJobKey,
    WrongDatabase,
)


def register(service):
    @service.handler
    def sync_user(user_id: str, force: bool = False) -> int:
        return len(user_id)

    return sync_user


def rows(path, sql="SELECT job_key, payload, priority, max_attempts, status FROM background_service_jobs ORDER BY id"):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_constructing_does_no_io(tmp_path):
    BackgroundService(tmp_path / "no" / "such" / "folder" / "app.db")
    assert list(tmp_path.iterdir()) == []


def test_the_first_enqueue_makes_the_tables(service, path):
    job_id = register(service).enqueue(user_id="123", force=True)
    assert job_id == 1
    assert rows(path) == [("sync_user", '{"user_id":"123","force":true}', 0, 3, "PENDING")]


def test_the_seeds_call_returns_the_id_and_not_a_row_count(service, path):
    register(service)
    first = service.job(job_key="sync_user", payload={"user_id": "1"})
    second = service.job(job_key="sync_user", payload={"user_id": "2"}, priority=7, max_attempts=1)
    assert (first, second) == (1, 2)
    assert rows(path)[1] == ("sync_user", '{"user_id":"2"}', 7, 1, "PENDING")


def test_the_seeds_call_for_an_unknown_key_returns_none_and_logs(service, caplog):
    register(service)
    with caplog.at_level(logging.WARNING):
        assert service.job(job_key="sync_usr", payload={}) is None
    assert "sync_usr" in caplog.text


def test_the_seeds_call_never_raises_and_leaves_the_transaction_usable(service, path):
    register(service)
    service.migrate()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.execute("INSERT INTO orders VALUES (1)")
    assert service.job(db=connection, job_key="sync_user", payload={"user_id": 5}) is None
    assert service.job(db=connection, job_key="sync_user", payload={"user_id": "5"}) == 1
    connection.commit()
    connection.close()
    assert rows(path, "SELECT count(*) FROM orders") == [(1,)]
    assert len(rows(path)) == 1


def test_an_unknown_key_names_the_nearest(service):
    register(service)
    with pytest.raises(UnknownJobKey, match="sync_user") as caught:
        service.enqueue("sync_usr", {"user_id": "1"})
    assert caught.value.close_matches == ("sync_user",)


def test_a_payload_that_does_not_fit_is_refused_and_nothing_is_inserted(service, path):
    register(service)
    service.migrate()
    with pytest.raises(InvalidPayload) as caught:
        service.enqueue("sync_user", {"user_id": 1})
    assert caught.value.field == "user_id"
    with pytest.raises(InvalidPayload):
        service.enqueue_many([("sync_user", {"user_id": "1"}), ("sync_user", {})])
    assert rows(path) == []


def test_a_job_exists_if_and_only_if_the_callers_transaction_commits(service, path):
    handler = register(service)
    service.migrate()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.execute("INSERT INTO orders VALUES (1)")
    handler.using(db=connection).enqueue(user_id="rolled back")
    assert rows(path) == []
    connection.rollback()
    assert rows(path) == []
    connection.execute("INSERT INTO orders VALUES (2)")
    service.enqueue("sync_user", {"user_id": "kept"}, db=connection)
    service.enqueue_many([("sync_user", {"user_id": "a"}), handler.new(user_id="b")], db=connection)
    assert rows(path) == []
    connection.commit()
    connection.close()
    assert [payload for _, payload, *_ in rows(path)] == [
        '{"user_id":"kept"}',
        '{"user_id":"a"}',
        '{"user_id":"b"}',
    ]


def test_an_aiosqlite_connection_takes_the_job_with_it(service, path):
    handler = register(service)
    service.migrate()

    async def enqueue(*, commit: bool) -> None:
        async with aiosqlite.connect(path) as db:
            await handler.using(db=db).aenqueue(user_id="1")
            await service.aenqueue_many([("sync_user", {"user_id": "2"})], db=db)
            await (db.commit() if commit else db.rollback())

    asyncio.run(enqueue(commit=False))
    assert rows(path) == []
    asyncio.run(enqueue(commit=True))
    assert len(rows(path)) == 2


def test_a_connection_to_another_database_is_refused(service, tmp_path):
    handler = register(service)
    service.migrate()
    for other in (tmp_path / "other.db", ":memory:"):
        with closing(sqlite3.connect(other)) as db, pytest.raises(WrongDatabase):
            handler.using(db=db).enqueue(user_id="1")


def test_an_unmigrated_database_says_so_at_once(service, path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id INTEGER)")
    with pytest.raises(NotMigrated):
        register(service).using(db=connection).enqueue(user_id="1")
    connection.close()


def test_who_holds_the_lock_elsewhere_is_told_so(path):
    service = BackgroundService(path, wait=0.05)
    handler = register(service)
    service.migrate()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.execute("INSERT INTO orders VALUES (1)")
    with pytest.raises(DatabaseBusy, match="db="):
        handler.enqueue(user_id="1")
    connection.commit()
    assert handler.enqueue(user_id="1") == 1
    connection.close()


def test_a_unique_key_is_held_until_the_job_ends(service):
    handler = register(service)
    first = handler.using(unique_key="user-1").enqueue(user_id="1")
    assert handler.using(unique_key="user-1").enqueue(user_id="1") == first
    service.run_until_idle()
    assert service.jobs.get(first).status is JobStatus.COMPLETED
    assert handler.using(unique_key="user-1").enqueue(user_id="1") != first


def test_a_delay_and_a_moment_make_a_job_wait(database):
    clock = FrozenClock()
    service = BackgroundService(database, clock=clock)
    handler = register(service)
    later = handler.using(delay=60).enqueue(user_id="1")
    at = handler.using(run_at=clock.now() + timedelta(hours=1)).enqueue(user_id="2")
    assert service.jobs.get(later).run_at == clock.now() + timedelta(seconds=60)
    service.run_until_idle()
    assert service.jobs.get(later).status is JobStatus.SCHEDULED
    clock.advance(60)
    service.run_until_idle()
    assert service.jobs.get(later).status is JobStatus.COMPLETED
    assert service.jobs.get(at).status is JobStatus.SCHEDULED


def test_a_declared_handler_runs_in_another_program(database):
    web = BackgroundService(database)
    job_id = web.declare("sync_user").enqueue(user_id="123")
    worker = BackgroundService(database)
    register(worker)
    worker.run_until_idle()
    assert web.declare("sync_user").result(job_id, timeout=5) == 3


def test_enqueue_many_is_all_or_nothing_and_keeps_the_order(service):
    handler = register(service)
    ids = service.enqueue_many(handler.using(priority=i % 3).new(user_id=str(i)) for i in range(1500))
    assert ids == list(range(1, 1501))
    assert service.jobs.get(700).payload == {"user_id": "699"}


def test_created_at_comes_from_the_services_clock(database):
    clock = FrozenClock(datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC))
    service = BackgroundService(database, clock=clock)
    job_id = register(service).enqueue(user_id="1")
    assert service.jobs.get(job_id).created_at == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_job_may_override_where_it_runs_and_how_long_it_is_kept(database):
    clock = FrozenClock()
    service = BackgroundService(database, clock=clock)
    threads = []

    @service.handler
    def where() -> None:
        threads.append(threading.current_thread())

    on_loop = where.using(executor="loop", retention=60).enqueue()
    where.enqueue()
    service.run_until_idle()
    assert sum(thread is threading.main_thread() for thread in threads) == 1
    clock.advance(61)
    assert service.jobs.count_prunable() == 1
    assert service.jobs.prune() == 1
    with pytest.raises(JobNotFound):
        service.jobs.get(on_loop)
