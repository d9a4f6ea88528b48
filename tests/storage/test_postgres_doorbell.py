"""The doorbell of PostgreSQL: a hint that comes with a commit, and never with a rollback."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from tests.storage.crew import NOON, job, put

from sidework.storage.open import open_storage
from sidework.storage.postgres.connect import Address
from sidework.storage.postgres.doorbell import PostgresDoorbell, Ringer
from sidework.storage.postgres.listening import CHANNEL, Listening
from sidework.storage.postgres.store import PostgresStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidework.storage.contract import Doorbell, Storage

LONG = 20.0


@pytest.fixture
def storage(postgres_database: str) -> Iterator[Storage]:
    store = open_storage(postgres_database)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def other(storage: Storage, postgres_database: str) -> Iterator[Storage]:
    assert storage.name
    store = open_storage(postgres_database)
    yield store
    store.close()


@pytest.fixture
def bell(storage: Storage) -> Iterator[Doorbell]:
    doorbell = storage.doorbell()
    yield doorbell
    doorbell.close()


@pytest.fixture
def raw(storage: Storage, postgres_database: str) -> Iterator[psycopg.Connection[Any]]:
    assert storage.name
    with closing(psycopg.connect(postgres_database)) as connection:
        yield connection


def heard(bell: Doorbell, seconds: float = LONG) -> bool:
    return asyncio.run(bell.wait(seconds))


def test_it_rings_for_a_job_of_another_process(bell: Doorbell, other: Storage) -> None:
    assert bell.mechanism == "LISTEN/NOTIFY"
    put(other)
    assert heard(bell)


def test_it_rings_while_somebody_waits(bell: Doorbell, other: Storage) -> None:
    async def wait() -> bool:
        waiting = asyncio.create_task(bell.wait(LONG))
        await asyncio.to_thread(put, other)
        return await waiting

    assert asyncio.run(wait())


def test_what_is_committed_while_a_ring_is_under_way_is_rung_for_once(
    postgres_database: str, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, go_on = threading.Event(), threading.Event()
    connect = Address.connect

    def held_up(self: Address, **options: Any) -> Any:
        under_way.set()
        assert go_on.wait(LONG)
        return connect(self, **options)

    monkeypatch.setattr(Address, "connect", held_up)
    raw.autocommit = True
    raw.execute(f"LISTEN {CHANNEL}")
    ringer = Ringer(Address(postgres_database))
    ringer.ring()
    assert under_way.wait(LONG)
    for _ in range(50):
        ringer.ring()
    thread = ringer.end()
    go_on.set()
    assert thread is not None
    thread.join(LONG)
    raw.execute("SELECT 1")  # what was sent until now is here
    assert len(list(raw.notifies(timeout=0))) == 2


def test_it_rings_when_the_callers_transaction_commits_and_only_then(
    bell: Doorbell, storage: Storage, raw: psycopg.Connection[Any]
) -> None:
    storage.insert_with(raw, [job()], now=NOON)
    assert not heard(bell, 0.05)
    raw.rollback()
    assert not heard(bell, 0.05)
    storage.insert_with(raw, [job()], now=NOON)
    raw.commit()
    assert heard(bell)


def test_it_can_be_rung_and_closed_by_hand(bell: Doorbell) -> None:
    bell.ring()
    assert heard(bell)

    async def close_while_waiting() -> bool:
        waiting = asyncio.create_task(bell.wait(LONG))
        asyncio.get_running_loop().call_soon(bell.close)
        return await waiting

    assert not asyncio.run(close_while_waiting())
    assert not heard(bell)


def test_without_listening_it_lets_the_waiter_look_by_itself(postgres_database: str, other: Storage) -> None:
    store = open_storage(postgres_database)
    address = store._address  # type: ignore[attr-defined]
    bell = PostgresDoorbell(address, listen=False)
    assert "switched off" in bell.mechanism
    assert bell.changed()
    assert asyncio.run(bell.wait(LONG))
    bell.close()
    assert other.name


def test_it_listens_again_after_its_connection_was_lost(
    bell: Doorbell, other: Storage, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidework.storage.postgres.doorbell.POLL_EVERY", 0.01)
    raw.autocommit = True
    raw.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sidework'")

    async def wait_until_it_listens() -> None:
        assert await bell.wait(LONG)  # a loss is told: whoever waits looks
        while bell.mechanism != "LISTEN/NOTIFY":
            await bell.wait(LONG)

    asyncio.run(asyncio.wait_for(wait_until_it_listens(), LONG))
    while bell.changed():
        pass
    put(other)
    assert heard(bell)


def test_it_listens_elsewhere_if_told_to_and_rings_there(postgres_database: str, other: Storage) -> None:
    store = open_storage(postgres_database, listen_url=postgres_database)
    bell = store.doorbell()
    assert bell.mechanism == "LISTEN/NOTIFY by listen_url"
    bell.changed()
    put(other)
    assert heard(bell)
    bell.close()
    store.close()


@pytest.mark.parametrize(
    ("path", "words"),
    [("/postgres", "leads to another database"), ("/nowhere_at_all", "listen_url cannot be used")],
)
def test_a_listen_url_that_does_not_hear_our_rings_is_told_and_not_used(
    storage: Storage, postgres_database: str, path: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidework.storage.postgres.listening.PROBE", 0.1)
    assert storage.name
    elsewhere = urlunsplit(urlsplit(postgres_database)._replace(path=path))
    store = open_storage(postgres_database, listen_url=elsewhere)
    bell = store.doorbell()
    assert bell.mechanism.startswith("polling")
    assert words in bell.mechanism
    assert asyncio.run(bell.wait(LONG))
    bell.close()
    store.close()


def test_nobody_is_rung_by_who_was_told_not_to(bell: Doorbell, postgres_database: str) -> None:
    silent = open_storage(postgres_database, notify=False)
    put(silent)
    with closing(psycopg.connect(postgres_database)) as connection:
        silent.insert_with(connection, [job()], now=NOON)
        connection.commit()
    silent.close()
    assert not heard(bell, 0.1)


def test_a_connection_that_comes_after_the_doorbell_was_closed_is_closed_too(postgres_database: str) -> None:
    address = Address(postgres_database)
    bell = PostgresDoorbell(address, listen=False)
    begun, gate = threading.Event(), threading.Event()

    class Late(Listening):
        def begin(self) -> psycopg.Connection[Any] | None:
            begun.set()
            assert gate.wait(LONG)
            return super().begin()

    async def come_and_go() -> None:
        bell._listening = Late(address, wanted=True, listens_at=None)
        bell._looks_left = 1
        listening = asyncio.create_task(bell._listen_anew())
        await asyncio.to_thread(begun.wait, LONG)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        bell.close()
        gate.set()

    asyncio.run(come_and_go())
    assert bell._connection is not None
    assert bell._connection.closed


FORKS = """
import os, sys
from datetime import UTC, datetime

from sidework.model.job import NewJob
from sidework.storage.open import open_storage

store = open_storage(sys.argv[1])
store.insert([NewJob(key="k"), NewJob(key="k")], now=datetime.now(UTC))
child = os.fork()
if child == 0:
    inherited = store._ringer._thread
    store.insert([NewJob(key="k"), NewJob(key="k")], now=datetime.now(UTC))
    ringer = store._ringer._thread
    os._exit(0 if ringer is not inherited and ringer.is_alive() else 1)
_, status = os.waitpid(child, 0)
alive = store._ringer._thread.is_alive()
store.close()
sys.exit(os.waitstatus_to_exitcode(status) if alive else 2)
"""


def test_a_forked_child_rings_by_a_thread_of_its_own(storage: Storage, postgres_database: str) -> None:
    assert storage.name
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, postgres_database]
    subprocess.run(command, check=True, timeout=60)


def test_who_rings_while_the_ringer_is_closed_does_not_keep_its_thread_from_ending(postgres_database: str) -> None:
    ringer = Ringer(Address(postgres_database))
    ringer.ring()
    ended, lock = ringer._ended, ringer._lock

    class RingsWhenReleased:
        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()
            ringer._lock = lock
            ringer.ring()

    ringer._lock = RingsWhenReleased()  # type: ignore[assignment]
    ringer.close()
    assert ended.is_set()
    ringer.close()


def test_the_ringer_of_a_forgotten_storage_ends_and_closes_its_connection(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[psycopg.Connection[Any]] = []
    connect = Address.connect

    def noted(self: Address, **options: Any) -> Any:
        connection = connect(self, **options)
        if threading.current_thread().name == "sidework-ringer":
            opened.append(connection)
        return connection

    monkeypatch.setattr(Address, "connect", noted)
    store = PostgresStorage(postgres_database)
    store.migrate()
    store.insert([job(), job()], now=NOON)
    thread = store._ringer._thread
    assert thread is not None
    del store
    thread.join(LONG)
    assert not thread.is_alive()
    assert [connection.closed for connection in opened] == [True]


def test_a_connection_that_fails_before_it_is_known_is_closed(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[psycopg.Connection[Any]] = []

    def fail(_address: Address, connection: psycopg.Connection[Any]) -> None:
        opened.append(connection)
        raise psycopg.OperationalError("silent")

    monkeypatch.setattr(Address, "_get_to_know", fail)
    with pytest.raises(psycopg.OperationalError, match="silent"):
        Address(postgres_database).connect()
    assert [connection.closed for connection in opened] == [True]
