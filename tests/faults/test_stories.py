"""What happened to other queues, told again here: each must end well."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from tests.storage.crew import Crew, Hand, at, died, ended, ids, job, later, put, status

from sidework import BackgroundService
from sidework.errors import WorkerLost
from sidework.model.job import RetentionRule
from sidework.storage.contract import Want
from sidework.storage.sqlite.store import SqliteStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST = 30.0


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SqliteStorage]:
    storage = SqliteStorage(tmp_path / "app.db", wait=0.3)
    storage.migrate()
    yield storage
    storage.close()


@pytest.fixture
def crew(storage: SqliteStorage) -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.leave()


def take_for_dead(hand: Hand) -> None:
    """Remove a living worker's lock file: to everybody else it is dead now."""
    hand.seat._lock.path.unlink()  # type: ignore[attr-defined]


def rescue(storage: SqliteStorage, by: Hand) -> list[int]:
    lost = [each.job for each in storage.lost(limit=1000)]
    by.settle(*[died(each) for each in lost])
    return ids(lost)


@contextlib.contextmanager
def somebody_writes(storage: SqliteStorage) -> Iterator[None]:
    with closing(sqlite3.connect(storage.name, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        yield
        stranger.execute("ROLLBACK")


def test_s1_a_late_finish_releases_no_permit_twice(storage: SqliteStorage, crew: Crew):
    """solid_queue#761: a live worker was declared dead; a limit-1 job ran 11 times at once."""
    first, second, third = [crew.hire(storage, limits={"one": 1}) for _ in range(3)]
    put(storage, *[job(queue="one") for _ in range(5)])
    held = first.claim_one()
    take_for_dead(first)
    rescue(storage, second)
    again = second.claim(suspect=True)
    late = first.settle(ended(held))
    assert late.refused == {held.claim}
    assert ids(again) == [held.id]
    assert third.claim() == []
    second.settle(ended(again[0]))
    assert len(third.claim()) == 1
    assert first.claim() == []


def test_s2_a_token_never_comes_back_to_the_same_worker(storage: SqliteStorage, crew: Crew):
    """aegra#547: the fence was the worker's name; an old attempt passed its check against its successor."""
    hand = crew.hire(storage)
    put(storage)
    old = hand.claim_one()
    hand.settle(later(old, 0, attempts=old.attempts))
    new = hand.claim_one(time=1)
    assert (new.id, new.attempts) == (old.id, old.attempts)
    assert hand.settle(ended(old)).refused == {old.claim}
    assert status(storage, old.id) == "RUNNING"
    assert hand.settle(ended(new)).refused == frozenset()


def test_s3_a_revived_worker_is_told_what_it_lost(storage: SqliteStorage, crew: Crew):
    """lion-reader#917: a revived worker renewed a lease that it had lost."""
    first, second = crew.hire(storage), crew.hire(storage)
    put(storage)
    held = first.claim_one()
    take_for_dead(first)
    rescue(storage, second)
    assert first.storage.renew(first.id, [held.claim], now=at(1)).lost == {held.claim}
    with pytest.raises(WorkerLost):
        first.seat.check()


def test_s4_jobs_that_cannot_be_rescued_do_not_hide_those_that_can(storage: SqliteStorage, crew: Crew):
    """river#1318: the rescuer looked at the oldest rows only, and those were never to be rescued."""
    living, dead, keeper = crew.hire(storage), crew.hire(storage), crew.hire(storage)
    put(storage, *[job() for _ in range(300)])
    assert len(living.claim()) == 300
    [lost] = put(storage)
    dead.claim()
    dead.seat._lock.release()  # type: ignore[attr-defined]
    assert [each.job.id for each in storage.lost(limit=1)] == [lost]
    assert rescue(storage, keeper) == [lost]


def test_s5_a_locked_database_kills_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """solid_queue#385: "database is locked" on the heartbeat led to a false death."""
    monkeypatch.setattr("sidework.engine.worker.RENEW_INTERVAL", 0.05)
    path, may_end, runs = tmp_path / "app.db", threading.Event(), []

    def run() -> None:
        runs.append(1)
        may_end.wait(LONGEST)

    services = [BackgroundService(path, wait=0.1, listeners=()) for _ in range(2)]
    for service in services:
        service.register_job_handler("k", run)
    with services[0], services[1]:
        job_id = services[0].enqueue("k")
        while not runs:
            time.sleep(0.005)
        with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
            stranger.execute("BEGIN IMMEDIATE")
            time.sleep(0.8)
            stranger.execute("ROLLBACK")
        may_end.set()
        assert services[0].wait(job_id, LONGEST).status == "COMPLETED"
    assert runs == [1]


def test_s6_housekeeping_with_nothing_to_do_takes_no_lock(storage: SqliteStorage, crew: Crew):
    """oban 2.15.3: empty housekeeping transactions got into each other's way."""
    hand = crew.hire(storage)
    put(storage, job("nobody knows this one"))
    rule = RetentionRule(statuses=frozenset(), keep=at(1) - at(0))
    with somebody_writes(storage):
        turn = hand.turn(room=10)
        assert (turn.claimed, storage.lost(limit=10), storage.forget_dead_workers()) == ((), [], 0)
        assert storage.prune([rule], after=0, limit=10, now=at(1))[0] == 0


def test_s7_a_job_that_runs_for_days_is_run_once(storage: SqliteStorage, crew: Crew):
    """kombu#337: a visibility timeout shorter than the run, and the same job again and again."""
    first, second = crew.hire(storage), crew.hire(storage)
    put(storage)
    held = first.claim_one()
    days = 10 * 86_400.0
    assert storage.lost(limit=10) == []
    assert second.claim(time=days) == []
    assert first.turn(ended(held), time=days).refused == frozenset()


def test_s8_a_unique_job_is_not_given_up_for_one_that_is_rolled_back(storage: SqliteStorage):
    """oban#1093: the insert was skipped because of a transaction that then rolled back: no job at all."""
    patient = SqliteStorage(storage.name, wait=LONGEST)
    found = list[int]()
    with closing(sqlite3.connect(storage.name, isolation_level=None)) as application:
        application.execute("BEGIN IMMEDIATE")
        storage.insert_with(application, [job(unique_key="u")], now=at(0))
        second = threading.Thread(target=lambda: found.extend(put(patient, job(unique_key="u"))))
        second.start()
        second.join(0.2)
        application.execute("ROLLBACK")
        second.join(LONGEST)
    patient.close()
    assert [status(storage, each) for each in found] == ["PENDING"]


def test_s9_recovery_ends_before_the_first_claim(tmp_path: Path, crew: Crew, monkeypatch: pytest.MonkeyPatch):
    """solid_queue#735: claims began before the clean-up after a forced kill."""
    calls = list[str]()
    lost, exchange = SqliteStorage.lost, SqliteStorage.exchange

    def told_lost(self: SqliteStorage, *, limit: int) -> Any:
        found = lost(self, limit=limit)
        calls.append(f"lost {len(found)}")
        return found

    def told_exchange(self: SqliteStorage, worker: int, settle: Any, want: Want, *, now: Any) -> Any:
        calls.append("claim" if want.keys else "settle")
        return exchange(self, worker, settle, want, now=now)

    storage = SqliteStorage(tmp_path / "app.db")
    dead = crew.hire(storage)
    put(storage)
    dead.claim()
    dead.seat._lock.release()  # type: ignore[attr-defined]
    monkeypatch.setattr(SqliteStorage, "lost", told_lost)
    monkeypatch.setattr(SqliteStorage, "exchange", told_exchange)
    service = BackgroundService(tmp_path / "app.db")
    service.register_job_handler("k", lambda: None)
    service.run_until_idle()
    storage.close()
    assert calls[:3] == ["lost 1", "settle", "lost 0"]
    assert service.jobs.count(status="COMPLETED") == 1


def test_s10_the_log_stays_small_however_much_is_written(storage: SqliteStorage, crew: Crew):
    """opsqueue#85: a log beyond 850 MiB."""
    hand, largest = crew.hire(storage), 0
    log = storage._path + "-wal"
    payload = '{"text": "%s"}' % ("x" * 20_000)
    for _ in range(40):
        put(storage, *[job(payload=payload) for _ in range(25)])
        hand.turn(*[ended(each) for each in hand.claim()], keys=frozenset())
        with open(log, "rb") as file:  # noqa: PTH123 - the log, not the database: no lock is on it
            largest = max(largest, file.seek(0, 2))
    assert largest < 12 * 1024 * 1024


def test_s11_nothing_that_is_stored_is_imported_or_called(tmp_path: Path):
    """CVE-2026-31072, CVE-2021-23727: classes and exceptions were resolved from stored data."""
    service = BackgroundService(tmp_path / "app.db")
    called = list[object]()

    @service.handler
    def known(n: object) -> None:
        called.append(n)

    service.migrate()
    hostile = '{"py/object": "antigravity.Anything", "__reduce__": ["os.system", "false"]}'
    with closing(sqlite3.connect(tmp_path / "app.db")) as db, db:
        rows = [("antigravity.fly", None), ("os:system", '{"command": "false"}'), ("known", hostile)]
        db.executemany("INSERT INTO background_service_jobs (job_key, payload, max_attempts) VALUES (?, ?, 1)", rows)
        db.execute("UPDATE background_service_jobs SET last_error = 'antigravity.Error: x', result = ?", (hostile,))
    service.run_until_idle()
    jobs = {each.key: each for each in service.jobs.list()}
    assert (jobs["antigravity.fly"].status, jobs["os:system"].status) == ("PENDING", "PENDING")
    assert jobs["known"].status == "FAILED"
    assert called == []
    assert "antigravity" not in sys.modules
