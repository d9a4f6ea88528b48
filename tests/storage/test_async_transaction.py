"""An async handler's `db` on SQLite: an aiosqlite.Connection under the same rules."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import aiosqlite
import pytest
from tests.storage.crew import NOON, Hand, ended, given_back, job, put, status
from tests.storage.threads import LONG, until

from sidework.errors import JobLost, TransactionOwned
from sidework.model.job import JobStatus
from sidework.storage.sqlite.store import SqliteStorage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

    from sidework.model.job import ClaimedJob

INSERT = "INSERT INTO effects (n) VALUES (1)"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "app.db")


@pytest.fixture
def store(path: str) -> Iterator[SqliteStorage]:
    store = SqliteStorage(path, wait=LONG)
    store.migrate()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE effects (id INTEGER PRIMARY KEY, n)")
    yield store
    store.close()


@pytest.fixture
def hand(store: SqliteStorage) -> Iterator[Hand]:
    worker = Hand(store)
    yield worker
    worker.seat.leave()


def claim(hand: Hand) -> ClaimedJob:
    put(hand.storage)
    return hand.claim_one()


def count(path: str) -> int:
    with closing(sqlite3.connect(path)) as other:
        (number,) = other.execute("SELECT COUNT(*) FROM effects").fetchone()
    assert isinstance(number, int)
    return number


def run(handler: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(handler, LONG))


def test_reads_stand_alone_and_the_first_write_begins(store: SqliteStorage, hand: Hand, path: str) -> None:
    async def handler() -> None:
        held = claim(hand)
        transaction = store.async_transaction(held.claim)
        db = transaction.connection
        assert isinstance(db, aiosqlite.Connection)
        db.row_factory = sqlite3.Row
        async with db.execute("SELECT COUNT(*) AS many FROM effects") as cursor:
            assert [row["many"] async for row in cursor] == [0]
        assert (db.in_transaction, transaction.begun) == (False, False)
        await db.executemany("INSERT INTO effects (n) VALUES (?)", [(n,) for n in range(3)])
        assert (db.in_transaction, transaction.begun) == (True, True)
        assert count(path) == 0
        (given,) = await transaction.insert([job()], now=NOON)
        assert await transaction.commit(ended(held), now=NOON)
        await transaction.close()
        assert (count(path), status(store, held.id)) == (3, JobStatus.COMPLETED)
        assert status(store, given) is JobStatus.PENDING
        assert transaction.held_for > 0

    run(handler())


def test_a_read_that_is_half_done_goes_on_over_the_first_write(store: SqliteStorage, hand: Hand, path: str) -> None:
    async def handler() -> None:
        transaction = store.async_transaction(claim(hand).claim)
        numbers = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 500) SELECT i FROM n"
        async with transaction.connection.execute(numbers) as cursor:
            seen = [await cursor.fetchone()]
            put(store)
            await transaction.connection.execute(INSERT)
            seen += [row async for row in cursor]
        assert seen == [(number,) for number in range(1, 501)]
        await transaction.close()

    run(handler())


async def _with(db: aiosqlite.Connection) -> None:
    async with db:
        pass


REFUSED: dict[str, Callable[[aiosqlite.Connection], Awaitable[object]]] = {
    "commit()": lambda db: db.commit(),
    "rollback()": lambda db: db.rollback(),
    "close()": lambda db: db.close(),
    "executescript": lambda db: db.executescript("SELECT 1"),
    "async with db": _with,
    "COMMIT": lambda db: db.execute("COMMIT"),
    "set_authorizer": lambda db: db.set_authorizer(None),
}


@pytest.mark.parametrize("how", REFUSED)
@pytest.mark.parametrize("begun", [False, True])
def test_ending_the_transaction_is_refused_and_ends_nothing(
    store: SqliteStorage, hand: Hand, path: str, how: str, begun: bool
) -> None:
    async def handler() -> None:
        held = claim(hand)
        transaction = store.async_transaction(held.claim)
        db = transaction.connection
        if begun:
            await db.execute(INSERT)
        with pytest.raises(TransactionOwned):
            await REFUSED[how](db)
        with pytest.raises(TransactionOwned):
            db.isolation_level = "DEFERRED"
        assert count(path) == 0
        await db.execute(INSERT)
        assert await transaction.commit(ended(held), now=NOON)
        assert count(path) == 1 + begun

    run(handler())


def test_awaiting_it_as_one_awaits_a_new_connection_is_no_harm(store: SqliteStorage, hand: Hand) -> None:
    async def handler() -> None:
        transaction = store.async_transaction(claim(hand).claim)
        db = await transaction.connection
        assert db is transaction.connection
        await db.execute("SELECT 1")
        await transaction.close()

    run(handler())


def test_the_fence_is_checked_by_the_first_write(store: SqliteStorage, hand: Hand, path: str) -> None:
    async def handler() -> None:
        held = claim(hand)
        hand.settle(given_back(held))
        hand.claim_one()
        transaction = store.async_transaction(held.claim)
        with pytest.raises(JobLost):
            await transaction.connection.execute(INSERT)
        with pytest.raises(JobLost):
            await transaction.begin()
        assert not await transaction.commit(ended(held), now=NOON)
        assert count(path) == 0

    run(handler())


def test_after_the_end_nothing_can_be_done_with_it(store: SqliteStorage, hand: Hand, path: str) -> None:
    async def handler() -> None:
        held = claim(hand)
        transaction = store.async_transaction(held.claim)
        cursor = await transaction.connection.execute("SELECT 1 UNION SELECT 2")
        assert await transaction.commit(ended(held), now=NOON)
        for act in (transaction.connection.execute(INSERT), cursor.fetchone()):
            with pytest.raises(sqlite3.ProgrammingError):
                await act
        assert count(path) == 0

    run(handler())


def test_an_abort_ends_a_statement_that_runs_and_frees_the_gate(store: SqliteStorage, hand: Hand, path: str) -> None:
    async def handler() -> None:
        transaction = store.async_transaction(claim(hand).claim)
        db = transaction.connection
        running = threading.Event()
        await db.create_function("started", 0, running.set)
        await db.execute(INSERT)
        endless = "WITH RECURSIVE n (i) AS (SELECT started() UNION ALL SELECT 1 FROM n) SELECT MAX(i) FROM n"
        task = asyncio.ensure_future(db.execute_fetchall(endless))
        assert await asyncio.to_thread(running.wait, LONG)
        transaction.abort()
        with pytest.raises(JobLost):
            await task
        put(store)
        assert count(path) == 0

    run(handler())


def test_a_cancelled_handler_can_be_aborted_and_leaves_nothing(store: SqliteStorage, hand: Hand, path: str) -> None:
    async def handler() -> None:
        held = claim(hand)
        transaction = store.async_transaction(held.claim)
        hold = store._gate.hold()
        task = asyncio.ensure_future(transaction.connection.execute(INSERT))
        await asyncio.to_thread(_until_it_waits, transaction)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        transaction.abort()
        hold.release()
        await asyncio.to_thread(put, store)
        assert count(path) == 0
        assert not await transaction.commit(ended(held), now=NOON)

    run(handler())


def _until_it_waits(transaction: Any) -> None:
    until(lambda: transaction._transaction._waiting)


def test_who_holds_the_gate_finds_a_thread_however_many_wait_for_it(
    store: SqliteStorage, hand: Hand, path: str
) -> None:
    async def handler() -> None:
        many = 60
        put(store, *[job() for _ in range(many)])
        all_held = hand.claim(many)
        transactions = [store.async_transaction(held.claim) for held in all_held]
        await transactions[0].connection.execute(INSERT)

        async def one(number: int) -> bool:
            await transactions[number].connection.execute(INSERT)
            await transactions[number].connection.execute("SELECT COUNT(*) FROM effects")
            return await transactions[number].commit(ended(all_held[number]), now=NOON)

        others = [asyncio.ensure_future(one(number)) for number in range(1, many)]
        await asyncio.to_thread(_until_they_wait, store, many - 1)
        assert await one(0)
        assert all(await asyncio.gather(*others))
        assert count(path) == many + 1

    run(handler())


def _until_they_wait(store: SqliteStorage, many: int) -> None:
    until(lambda: len(store._gate._turnstile._tickets) == many)


def test_a_thread_that_served_the_holder_may_wait_for_another_job(store: SqliteStorage, hand: Hand, path: str) -> None:
    async def handler() -> None:
        put(store, job(), job())
        first_held, second_held = hand.claim(2)
        first, second = store.async_transaction(first_held.claim), store.async_transaction(second_held.claim)
        await first.connection.execute(INSERT)
        # The pool has one idle thread now: the one in which the first job has taken the gate.
        waiting = asyncio.ensure_future(second.connection.execute(INSERT))
        await asyncio.to_thread(_until_they_wait, store, 1)
        assert await first.commit(ended(first_held), now=NOON)
        await waiting
        assert await second.commit(ended(second_held), now=NOON)
        assert count(path) == 2

    run(handler())


def test_operations_of_several_tasks_run_in_the_order_in_which_they_came(
    store: SqliteStorage, hand: Hand, path: str
) -> None:
    async def handler() -> None:
        held = claim(hand)
        transaction = store.async_transaction(held.claim)
        db = transaction.connection
        await asyncio.gather(*(db.execute("INSERT INTO effects (n) VALUES (?)", (n,)) for n in range(50)))
        async with db.execute("SELECT n FROM effects ORDER BY id") as cursor:
            assert [n for (n,) in await cursor.fetchall()] == list(range(50))
        assert await transaction.commit(ended(held), now=NOON)

    run(handler())


def test_a_job_without_a_write_is_settled_by_the_commit_alone(store: SqliteStorage, hand: Hand) -> None:
    async def handler() -> None:
        held = claim(hand)
        transaction = store.async_transaction(held.claim)
        assert await transaction.commit(ended(held), now=NOON)
        assert status(store, held.id) is JobStatus.COMPLETED

    run(handler())


def test_closing_what_was_never_used_starts_no_thread(store: SqliteStorage, hand: Hand) -> None:
    async def handler() -> None:
        await store.async_transaction(claim(hand).claim).close()
        assert store._pool._threads is None

    run(handler())


def test_db_can_be_passed_on_as_db(store: SqliteStorage, hand: Hand) -> None:
    async def handler() -> None:
        held = claim(hand)
        transaction = store.async_transaction(held.claim)
        ids = await store.ainsert_with(transaction.connection, [job(), job(unique_key="u")], now=NOON)
        assert transaction.begun
        assert store.get(ids[0]) is None
        assert await transaction.commit(ended(held), now=NOON)
        assert [status(store, job_id) for job_id in ids] == [JobStatus.PENDING] * 2

    run(handler())
