"""Who lives on PostgreSQL: leases by the server's clock, and processes that can be seen to be gone."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.storage.crew import Hand, at, ended, put

from sidework.errors import WorkerLost
from sidework.storage.open import open_storage
from sidework.storage.postgres import place, seat
from sidework.storage.postgres.place import Place, here, is_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidework.storage.contract import Storage


@pytest.fixture
def storage(postgres_database: str) -> Iterator[Storage]:
    store = open_storage(postgres_database)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def raw(storage: Storage, postgres_database: str) -> Iterator[psycopg.Connection[Any]]:
    assert storage.name
    with closing(psycopg.connect(postgres_database, autocommit=True)) as connection:
        yield connection


@pytest.fixture
def hand(storage: Storage) -> Iterator[Hand]:
    worker = Hand(storage)
    yield worker
    worker.seat.leave()


ELSEWHERE = "UPDATE background_service_workers SET place = 'another machine'"
OVER = "UPDATE background_service_workers SET expires_at = clock_timestamp() - interval '1 ms'"


def test_a_worker_elsewhere_lives_as_long_as_its_lease(
    storage: Storage, hand: Hand, raw: psycopg.Connection[Any]
) -> None:
    (job_id,) = put(storage)
    hand.claim_one()
    raw.execute(ELSEWHERE)
    raw.execute("UPDATE background_service_workers SET pid = 2147483647")
    assert (storage.lost(limit=10), [each.alive for each in storage.workers()]) == ([], [True])
    raw.execute(OVER)
    assert [each.job.id for each in storage.lost(limit=10)] == [job_id]
    assert [each.alive for each in storage.workers()] == [False]


def test_a_lease_is_by_the_clock_of_the_server(hand: Hand, raw: psycopg.Connection[Any]) -> None:
    assert hand.id
    left = "SELECT EXTRACT(EPOCH FROM expires_at - clock_timestamp())::float8 FROM background_service_workers"
    row = raw.execute(left).fetchone()
    assert row is not None
    assert seat.LEASE - 10 < row[0] <= seat.LEASE  # though it joined at a noon long ago


def test_a_lease_that_is_over_is_not_renewed(
    storage: Storage, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seat, "RENEW_EVERY", 0.01)
    monkeypatch.setattr(seat, "LEASE", 30.0)
    hand = Hand(storage)
    raw.execute(OVER)
    while (hand.seat.time_left or 0) > 0:
        pass
    with pytest.raises(WorkerLost, match="could not renew"):
        hand.seat.check()
    assert raw.execute("SELECT expires_at < clock_timestamp() FROM background_service_workers").fetchone() == (True,)
    hand.seat.leave()


def test_a_worker_renews_its_lease_by_itself(
    storage: Storage, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seat, "RENEW_EVERY", 0.01)
    hand = Hand(storage)
    expires = "SELECT expires_at FROM background_service_workers"
    first = raw.execute(expires).fetchone()
    while raw.execute(expires).fetchone() == first:
        pass
    hand.seat.check()
    hand.seat.leave()


def test_a_worker_that_cannot_renew_knows_it_before_the_server_says_so(
    storage: Storage, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seat, "MARGIN", seat.LEASE)  # as if all of the lease but the margin had passed
    hand = Hand(storage)
    with pytest.raises(WorkerLost):
        hand.seat.check()
    assert [each.alive for each in storage.workers()] == [True]
    hand.seat.leave()


def test_a_renewal_goes_on_after_its_connection_was_lost(
    storage: Storage, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seat, "RENEW_EVERY", 0.01)
    monkeypatch.setattr(seat, "RETRY_AFTER", 0.01)
    hand = Hand(storage)
    raw.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sidework'")
    expires = "SELECT expires_at FROM background_service_workers"
    for _ in range(3):
        before = raw.execute(expires).fetchone()
        while raw.execute(expires).fetchone() == before:
            pass
    hand.seat.check()
    hand.seat.leave()


def test_what_a_worker_settles_counts_though_its_lease_is_over_if_nobody_took_the_job(
    storage: Storage, hand: Hand, raw: psycopg.Connection[Any]
) -> None:
    put(storage)
    held = hand.claim_one()
    raw.execute(OVER)
    assert hand.settle(ended(held), time=1).refused == frozenset()


@pytest.mark.parametrize("suspect", [False, True])
def test_whose_lease_is_over_claims_nothing(
    storage: Storage, hand: Hand, raw: psycopg.Connection[Any], suspect: bool
) -> None:
    put(storage)
    raw.execute("UPDATE background_service_jobs SET crashes = %s", (int(suspect),))
    raw.execute(OVER)
    assert hand.turn(room=1, suspect=suspect).claimed == []
    raw.execute("UPDATE background_service_workers SET expires_at = clock_timestamp() + interval '1 h'")
    assert len(hand.turn(room=1, suspect=suspect).claimed) == 1


def test_a_row_that_somebody_deleted_is_a_lost_seat(hand: Hand, raw: psycopg.Connection[Any]) -> None:
    raw.execute("DELETE FROM background_service_workers")
    with pytest.raises(WorkerLost):
        hand.seat.check()
    with pytest.raises(WorkerLost):
        hand.storage.renew(hand.id, [], now=at(1))


def test_a_process_that_has_ended_is_gone_even_before_its_parent_looks() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        _alive, born = place._look(process.pid)
        there = Place(host=here().host, pid=process.pid, born=born)
        assert not is_gone(there, here())
        process.kill()
        while not is_gone(there, here()):
            pass
        assert process.returncode is None  # a zombie still
    assert is_gone(there, here())


def test_a_later_process_with_the_same_number_is_another_one() -> None:
    me = here()
    assert me.born is not None
    assert not is_gone(me, me)
    assert is_gone(Place(host=me.host, pid=me.pid, born=me.born - 1), me)


@pytest.mark.parametrize("host", [None, "another machine"])
def test_what_cannot_be_seen_is_not_gone(host: str | None) -> None:
    assert not is_gone(Place(host=host, pid=2**31 - 1, born=1), here())
    assert here().pid == os.getpid()
