"""A handler's `db` on PostgreSQL: a psycopg connection whose transaction belongs to the service."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from tests.storage.crew import NOON, Hand, ended, given_back, job, put, status

from sidework.errors import JobLost, TransactionOwned
from sidework.model.job import JobStatus
from sidework.storage.open import open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidework.model.job import ClaimedJob
    from sidework.storage.contract import JobTransaction, Storage


@pytest.fixture
def storage(postgres_database: str) -> Iterator[Storage]:
    store = open_storage(postgres_database)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def raw(storage: Storage, postgres_database: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection of the application's own."""
    assert storage.name
    with closing(psycopg.connect(postgres_database, autocommit=True)) as connection:
        connection.execute("CREATE TABLE effects (n int)")
        yield connection


@pytest.fixture
def hand(storage: Storage) -> Iterator[Hand]:
    hand = Hand(storage)
    yield hand
    hand.seat.leave()


@pytest.fixture
def held(storage: Storage, raw: psycopg.Connection[Any], hand: Hand) -> ClaimedJob:
    raw.execute("DELETE FROM effects")
    put(storage)
    return hand.claim_one()


@pytest.fixture
def attempt(storage: Storage, held: ClaimedJob) -> Iterator[JobTransaction]:
    transaction = storage.transaction(held.claim)
    yield transaction
    transaction.close()


def effects(raw: psycopg.Connection[Any]) -> list[int]:
    return [n for (n,) in raw.execute("SELECT n FROM effects ORDER BY n")]


def test_it_is_a_connection_of_psycopg(attempt: JobTransaction) -> None:
    assert isinstance(attempt.connection, psycopg.Connection)


def test_reads_alone_see_what_others_commit_and_begin_nothing(
    attempt: JobTransaction, raw: psycopg.Connection[Any]
) -> None:
    db = attempt.connection
    assert db.execute("SELECT count(*) FROM effects").fetchone() == (0,)
    raw.execute("INSERT INTO effects VALUES (1)")
    assert db.execute("SELECT count(*) FROM effects").fetchone() == (1,)
    assert not attempt.begun
    raw.execute("DROP TABLE effects")  # nobody holds a lock on it


@pytest.mark.parametrize(
    "write",
    [
        "INSERT INTO effects VALUES (1)",
        "WITH new AS (INSERT INTO effects VALUES (1) RETURNING n) SELECT n FROM new",
        "SELECT put_one()",
        "DO $$ BEGIN INSERT INTO effects VALUES (1); END $$",
        "CREATE TABLE more AS SELECT 1 AS n",
    ],
)
def test_what_the_server_takes_for_a_write_begins_and_is_undone_with_the_job(
    attempt: JobTransaction, raw: psycopg.Connection[Any], write: str
) -> None:
    raw.execute("CREATE FUNCTION put_one() RETURNS int LANGUAGE sql AS 'INSERT INTO effects VALUES (1) RETURNING 1'")
    attempt.connection.execute(write)
    assert attempt.begun
    attempt.abort()
    assert effects(raw) == []
    assert raw.execute("SELECT to_regclass('more')").fetchone() == (None,)


def test_a_write_with_parameters_executemany_copy_and_a_row_factory_work(
    attempt: JobTransaction, held: ClaimedJob, raw: psycopg.Connection[Any]
) -> None:
    db = attempt.connection
    db.execute("INSERT INTO effects VALUES (%s)", (1,))
    db.cursor().executemany("INSERT INTO effects VALUES (%s)", [(2,), (3,)])
    with db.cursor().copy("COPY effects FROM STDIN") as copy:
        copy.write_row((4,))
    assert db.cursor(row_factory=dict_row).execute("SELECT max(n) AS most FROM effects").fetchone() == {"most": 4}
    assert attempt.commit(ended(held), now=NOON)
    assert effects(raw) == [1, 2, 3, 4]


@pytest.mark.parametrize("first", ["executemany", "copy", "stream", "named cursor", "pipeline", "transaction"])
def test_what_cannot_be_tried_first_begins_at_once(
    attempt: JobTransaction, held: ClaimedJob, raw: psycopg.Connection[Any], first: str
) -> None:
    db = attempt.connection
    insert = "INSERT INTO effects VALUES (1)"
    match first:
        case "executemany":
            db.cursor().executemany("INSERT INTO effects VALUES (%s)", [(1,)])
        case "copy":
            with db.cursor().copy("COPY effects FROM STDIN") as copy:
                copy.write_row((1,))
        case "stream":
            assert list(db.cursor().stream(f"{insert} RETURNING n")) == [(1,)]
        case "named cursor":
            with db.cursor("mine") as cursor:
                assert cursor.execute("SELECT n FROM effects").fetchall() == []
            db.execute(insert)
        case "pipeline":
            with db.pipeline():
                db.execute(insert)
        case _:
            with db.transaction():
                db.execute(insert)
    assert effects(raw) == []
    assert attempt.commit(ended(held), now=NOON)
    assert effects(raw) == [1]


WAYS_TO_END_IT: dict[str, Callable[[Any], object]] = {
    "commit()": lambda db: db.commit(),
    "rollback()": lambda db: db.rollback(),
    "close()": lambda db: db.close(),
    "with db": lambda db: db.__enter__(),
    "autocommit": lambda db: setattr(db, "autocommit", False),
    "COMMIT": lambda db: db.execute("COMMIT"),
    "commit in lower case": lambda db: db.execute(" commit work"),
    "END": lambda db: db.execute("END"),
    "ROLLBACK": lambda db: db.execute("ROLLBACK"),
    "ABORT": lambda db: db.execute("ABORT"),
    "BEGIN": lambda db: db.execute("BEGIN"),
    "START TRANSACTION": lambda db: db.execute("START TRANSACTION"),
    "PREPARE TRANSACTION": lambda db: db.execute("PREPARE TRANSACTION 'x'"),
    "behind a comment": lambda db: db.execute("/* a /* nested */ one */ -- and\n ; COMMIT"),
    "composed": lambda db: db.execute(sql.SQL("{}").format(sql.SQL("COMMIT"))),
    "bytes": lambda db: db.execute(b"COMMIT"),
    "prepared": lambda db: db.execute("COMMIT", prepare=True),
    "executemany": lambda db: db.cursor().executemany("COMMIT", [()]),
    "stream": lambda db: list(db.cursor().stream("COMMIT")),
}


@pytest.mark.parametrize("way", WAYS_TO_END_IT)
def test_only_the_service_ends_the_transaction(
    attempt: JobTransaction, held: ClaimedJob, raw: psycopg.Connection[Any], way: str
) -> None:
    db = attempt.connection
    db.execute("INSERT INTO effects VALUES (1)")
    with pytest.raises(TransactionOwned, match="SAVEPOINT"):
        WAYS_TO_END_IT[way](db)
    assert effects(raw) == []
    db.execute("INSERT INTO effects VALUES (2)")
    assert attempt.commit(ended(held), now=NOON)
    assert effects(raw) == [1, 2]


def test_a_commit_behind_another_statement_is_refused_by_the_server(
    attempt: JobTransaction, raw: psycopg.Connection[Any]
) -> None:
    with pytest.raises(psycopg.errors.SyntaxError, match="multiple commands"):
        attempt.connection.execute("INSERT INTO effects VALUES (1); COMMIT")
    attempt.close()
    assert effects(raw) == []


def test_a_part_can_be_undone(attempt: JobTransaction, held: ClaimedJob, raw: psycopg.Connection[Any]) -> None:
    db = attempt.connection
    db.execute("INSERT INTO effects VALUES (1)")
    db.execute("SAVEPOINT here")
    db.execute("INSERT INTO effects VALUES (2)")
    db.execute("ROLLBACK TO SAVEPOINT here")
    with db.transaction(force_rollback=True):
        db.execute("INSERT INTO effects VALUES (3)")
    with db.transaction():
        db.execute("INSERT INTO effects VALUES (4)")
    assert attempt.commit(ended(held), now=NOON)
    assert effects(raw) == [1, 4]


def test_an_error_that_was_swallowed_still_fails_the_attempt(
    storage: Storage, attempt: JobTransaction, held: ClaimedJob, raw: psycopg.Connection[Any]
) -> None:
    db = attempt.connection
    db.execute("INSERT INTO effects VALUES (1)")
    with pytest.raises(psycopg.errors.UndefinedTable):
        db.execute("SELECT * FROM nowhere")
    with pytest.raises(psycopg.errors.UndefinedTable):
        attempt.commit(ended(held), now=NOON)
    assert (effects(raw), status(storage, held.id)) == ([], JobStatus.RUNNING)


def test_a_superseded_attempt_is_told_at_its_first_write(
    attempt: JobTransaction, held: ClaimedJob, hand: Hand, raw: psycopg.Connection[Any]
) -> None:
    hand.settle(given_back(held))
    hand.claim_one()
    assert attempt.connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(JobLost):
        attempt.connection.execute("INSERT INTO effects VALUES (1)")
    assert not attempt.begun
    assert effects(raw) == []


def test_a_job_that_is_given_away_after_the_first_write_is_not_completed(
    attempt: JobTransaction, held: ClaimedJob, hand: Hand, raw: psycopg.Connection[Any]
) -> None:
    attempt.connection.execute("INSERT INTO effects VALUES (1)")
    hand.settle(given_back(held))  # nobody waits for who lost it
    again = hand.claim_one()
    assert not attempt.commit(ended(held), now=NOON)
    assert (effects(raw), hand.settle(ended(again)).refused) == ([], frozenset())


def test_a_connection_that_was_kept_writes_nothing_after_the_end(
    storage: Storage, held: ClaimedJob, raw: psycopg.Connection[Any]
) -> None:
    transaction = storage.transaction(held.claim)
    db, cursor = transaction.connection, transaction.connection.cursor()
    cursor.execute("INSERT INTO effects VALUES (1)")
    assert transaction.commit(ended(held), now=NOON)
    for late in (db.execute, cursor.execute):
        with pytest.raises(psycopg.OperationalError, match="its attempt has ended"):
            late("INSERT INTO effects VALUES (2)")
    assert db.closed
    assert effects(raw) == [1]


def test_a_statement_that_runs_is_ended_from_outside(
    storage: Storage, held: ClaimedJob, raw: psycopg.Connection[Any]
) -> None:
    transaction = storage.transaction(held.claim)
    told: list[BaseException] = []

    def handler() -> None:
        try:
            transaction.connection.execute("INSERT INTO effects SELECT 1 FROM pg_sleep(60)")
        except BaseException as error:
            told.append(error)

    thread = threading.Thread(target=handler)
    thread.start()
    busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT%%pg_sleep%%' AND wait_event = 'PgSleep'"
    while raw.execute(busy).fetchone() == (0,):
        pass
    transaction.abort()
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(told[0], JobLost)
    assert not transaction.commit(ended(held), now=NOON)
    while raw.execute(busy).fetchone() != (0,):
        pass
    assert effects(raw) == []


def test_the_next_handler_meets_nothing_of_the_one_before(
    storage: Storage, hand: Hand, raw: psycopg.Connection[Any]
) -> None:
    put(storage, job(), job())
    first, second = hand.claim()
    one = storage.transaction(first.claim)
    one.connection.execute("SET lock_timeout = '7s'")
    pid = one.connection.execute("SELECT pg_backend_pid()").fetchone()
    one.connection.execute("SELECT pg_advisory_lock(7)")
    one.connection.execute("CREATE TEMP TABLE mine (n int)")
    assert one.commit(ended(first), now=NOON)
    other = storage.transaction(second.claim)
    db = other.connection
    assert db.execute("SELECT pg_backend_pid()").fetchone() == pid  # the very same session
    assert db.execute("SHOW lock_timeout").fetchone() == ("0",)
    assert db.execute("SELECT to_regclass('mine')").fetchone() == (None,)
    assert raw.execute("SELECT pg_try_advisory_lock(7)").fetchone() == (True,)
    assert [other.begun] == [False]
    db.execute("INSERT INTO effects VALUES (1)")
    assert other.begun
    other.close()


def test_async_handlers_live_by_the_same_rules(
    storage: Storage, held: ClaimedJob, raw: psycopg.Connection[Any]
) -> None:
    async def handler() -> bool:
        transaction = storage.async_transaction(held.claim)
        db = transaction.connection
        assert isinstance(db, psycopg.AsyncConnection)
        assert await (await db.execute("SELECT count(*) FROM effects")).fetchone() == (0,)
        assert [transaction.begun] == [False]
        await db.execute("INSERT INTO effects VALUES (%s)", (1,))
        assert transaction.begun
        for refused in (db.commit(), db.rollback(), db.close(), db.execute("COMMIT"), db.__aenter__()):
            with pytest.raises(TransactionOwned):
                await refused
        async with db.transaction():
            await db.cursor().executemany("INSERT INTO effects VALUES (%s)", [(2,), (3,)])
        async with db.cursor("named") as cursor:
            await cursor.execute("SELECT count(*) FROM effects")
            assert await cursor.fetchone() == (3,)
        committed = await transaction.commit(ended(held), now=NOON)
        with pytest.raises(psycopg.OperationalError, match="its attempt has ended"):
            await db.execute("SELECT 1")
        return committed

    assert asyncio.run(handler())
    assert effects(raw) == [1, 2, 3]


def test_an_async_statement_that_runs_is_ended_from_outside(
    storage: Storage, held: ClaimedJob, raw: psycopg.Connection[Any]
) -> None:
    busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"

    async def handler() -> None:
        transaction = storage.async_transaction(held.claim)
        running = asyncio.create_task(transaction.connection.execute("INSERT INTO effects SELECT 1 FROM pg_sleep(60)"))
        while (await asyncio.to_thread(raw.execute, busy)).fetchone() == (0,):
            pass
        transaction.abort()
        with pytest.raises(JobLost):
            await asyncio.wait_for(running, 20)
        assert not await transaction.commit(ended(held), now=NOON)

    asyncio.run(handler())
    assert effects(raw) == []
