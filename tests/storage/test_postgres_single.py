"""One job in one write, and the ring behind it: who has been quiet rings along, who is busy lets the thread do it."""

from __future__ import annotations

import asyncio
import math
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from tests.storage.crew import NOON, everything, job

from sidework.errors import SideworkError
from sidework.storage.postgres.doorbell import QUIET_FOR, Ringer
from sidework.storage.postgres.store import PostgresStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 20.0


@pytest.fixture
def storage(postgres_database: str) -> Iterator[PostgresStorage]:
    store = PostgresStorage(postgres_database)
    store.migrate()
    yield store
    store.close()


def insert_after_a_pause(storage: PostgresStorage) -> int:
    storage._ringer._rung_at = -math.inf
    (job_id,) = storage.insert([job()], now=NOON)
    return job_id


def kept(storage: PostgresStorage) -> Any:
    """Return the connection that is used next."""
    return storage._database.connections._idle[-1]


def test_a_job_after_a_pause_is_heard_of_though_no_thread_rings(storage: PostgresStorage) -> None:
    bell = storage.doorbell()
    for _ in range(3):
        insert_after_a_pause(storage)
        assert asyncio.run(bell.wait(LONG))
    assert storage._ringer._thread is None
    bell.close()


def test_jobs_that_follow_at_once_share_the_rings_of_the_thread(
    storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidework.storage.postgres.doorbell.QUIET_FOR", math.inf)
    rung: list[None] = []
    monkeypatch.setattr(Ringer, "ring", lambda _: rung.append(None))
    insert_after_a_pause(storage)
    assert not rung
    storage.insert([job()], now=NOON)
    storage.insert([job()], now=NOON)
    assert len(rung) == 2


def test_a_process_that_rings_is_quiet_only_after_a_while(
    storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = [100.0]
    monkeypatch.setattr(type(storage._address.clock), "monotonic", lambda _: time[0])
    ringer = storage._ringer
    assert [ringer.is_quiet(), ringer.is_quiet()] == [True, False]
    time[0] += QUIET_FOR
    assert ringer.is_quiet()
    time[0] += QUIET_FOR
    ringer.ring()
    assert not ringer.is_quiet()


def test_what_is_owed_is_taken_in_before_the_connection_is_used_again(storage: PostgresStorage) -> None:
    first = insert_after_a_pause(storage)
    connection = kept(storage)
    assert connection.owes_an_answer
    found = storage.get(first)
    assert found is not None
    assert kept(storage) is connection
    assert not connection.owes_an_answer
    assert connection.pgconn.pipeline_status == psycopg.pq.PipelineStatus.OFF


def test_a_connection_that_breaks_while_it_owes_is_replaced(storage: PostgresStorage, postgres_database: str) -> None:
    first = insert_after_a_pause(storage)
    connection = kept(storage)
    with closing(psycopg.connect(postgres_database, autocommit=True)) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [connection.info.backend_pid])
    second = insert_after_a_pause(storage)
    assert [each.id for each in everything(storage)] == [first, second]
    assert kept(storage) is not connection
    assert connection.closed


def test_an_owing_connection_is_closed_with_the_storage(storage: PostgresStorage) -> None:
    insert_after_a_pause(storage)
    connection = kept(storage)
    storage.close()
    assert connection.closed


@pytest.mark.parametrize("pause", [False, True])
def test_what_was_deallocated_is_prepared_again(storage: PostgresStorage, pause: bool) -> None:
    insert_after_a_pause(storage)
    storage._database.read(lambda connection: connection.execute("DEALLOCATE ALL"))
    job_id = insert_after_a_pause(storage) if pause else storage.insert([job()], now=NOON)[0]
    assert job_id in [each.id for each in everything(storage)]


def test_a_job_that_is_refused_leaves_the_connection_as_it_was(storage: PostgresStorage) -> None:
    insert_after_a_pause(storage)
    connection = kept(storage)
    storage._ringer._rung_at = -math.inf
    with pytest.raises(SideworkError, match="invalid byte sequence"):
        storage.insert([job(payload='{"a":"\x00"}')], now=NOON)
    assert insert_after_a_pause(storage) in [each.id for each in everything(storage)]
    assert kept(storage) is connection
