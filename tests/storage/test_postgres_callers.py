"""Enqueueing and completing in the caller's own transaction on PostgreSQL, with the libraries that people use."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from tests.postgres_server import new_database
from tests.storage.crew import NOON, Hand, ended, everything, given_back, job, put, status

from sidework.errors import NotMigrated, SideworkError, WrongDatabase
from sidework.model.job import JobStatus
from sidework.storage.open import open_storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sidework.storage.contract import Storage


@pytest.fixture
def storage(postgres_database: str) -> Iterator[Storage]:
    store = open_storage(postgres_database)
    store.migrate()
    with closing(psycopg.connect(postgres_database, autocommit=True)) as connection:
        connection.execute("CREATE TABLE orders (n int)")
    yield store
    store.close()


class Caller:
    """What an application does with a connection or session of some library."""

    def __init__(self, db: Any, execute: Any, commit: Any, rollback: Any) -> None:
        self.db, self.execute, self.commit, self.rollback = db, execute, commit, rollback


def alchemy_url(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://")


@contextmanager
def engine(url: str, driver: str) -> Iterator[sqlalchemy.Engine]:
    made = sqlalchemy.create_engine(alchemy_url(url, driver))
    yield made
    made.dispose()


@contextmanager
def django(url: str) -> Iterator[Caller]:
    from django.db.backends.postgresql.base import DatabaseWrapper

    parts = urlsplit(url)
    settings: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:],
        "USER": parts.username,
        "PASSWORD": "",
        "HOST": parts.hostname,
        "PORT": parts.port,
        "OPTIONS": {},
        "TIME_ZONE": None,
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": False,
        "AUTOCOMMIT": True,
        "ATOMIC_REQUESTS": False,
    }
    django_settings()
    connection = DatabaseWrapper(settings, "default")
    connection.set_autocommit(False)

    def execute(sql: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else None

    yield Caller(connection, execute, connection.commit, connection.rollback)
    connection.close()


def django_settings() -> None:
    import django as library
    from django.conf import settings

    if not settings.configured:
        settings.configure(USE_TZ=True)
        library.setup()


@contextmanager
def opened(kind: str, url: str) -> Iterator[Caller]:
    """Yield a caller with a transaction of its own; what it leaves open is rolled back."""
    with ExitStack() as stack:
        match kind:
            case "psycopg" | "psycopg, dict rows":
                factory: Any = {"row_factory": dict_row} if "dict" in kind else {}
                db: Any = stack.enter_context(closing(psycopg.connect(url, **factory)))
                yield Caller(db, db.execute, db.commit, db.rollback)
            case "psycopg2":
                db = stack.enter_context(closing(psycopg2.connect(url)))
                yield Caller(db, lambda sql: db.cursor().execute(sql), db.commit, db.rollback)
            case "django":
                yield stack.enter_context(django(url))
            case _:
                driver, _, what = kind.partition(" ")
                made = stack.enter_context(engine(url, driver))
                db = stack.enter_context(Session(made) if what == "session" else made.connect())
                yield Caller(db, lambda sql: db.execute(sqlalchemy.text(sql)), db.commit, db.rollback)


@asynccontextmanager
async def aopened(kind: str, url: str) -> AsyncIterator[Caller]:
    """Yield an async caller with a transaction of its own."""
    async with AsyncExitStack() as stack:
        match kind:
            case "psycopg":
                db: Any = await psycopg.AsyncConnection.connect(url)
                stack.push_async_callback(db.close)
                yield Caller(db, db.execute, db.commit, db.rollback)
            case "asyncpg" | "asyncpg pool":
                if kind == "asyncpg":
                    db = await asyncpg.connect(url)
                    stack.push_async_callback(db.close)
                else:
                    pool = await asyncpg.create_pool(url, min_size=1, max_size=1)
                    stack.push_async_callback(pool.close)
                    db = await stack.enter_async_context(pool.acquire())
                transaction = db.transaction()
                await transaction.start()
                yield Caller(db, db.execute, transaction.commit, transaction.rollback)
            case _:
                driver, what = kind.split()
                made = create_async_engine(alchemy_url(url, driver))
                stack.push_async_callback(made.dispose)
                db = await stack.enter_async_context(AsyncSession(made) if what == "session" else made.connect())
                yield Caller(db, lambda sql: db.execute(sqlalchemy.text(sql)), db.commit, db.rollback)


SYNC = [
    "psycopg",
    "psycopg, dict rows",
    "psycopg2",
    "django",
    "psycopg connection",
    "psycopg session",
    "psycopg2 connection",
    "psycopg2 session",
]
ASYNC = [
    "psycopg",
    "asyncpg",
    "asyncpg pool",
    "asyncpg connection",
    "asyncpg session",
    "psycopg connection",
    "psycopg session",
]

MANY = [job(), job(unique_key="u"), job(payload='{"a": "100 %"}'), job(unique_key="u")]


def orders(url: str) -> int:
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        row = connection.execute("SELECT count(*) FROM orders").fetchone()
    assert row is not None
    number: int = row[0]
    return number


@pytest.mark.parametrize("kind", SYNC)
def test_jobs_exist_if_and_only_if_the_callers_transaction_commits(
    storage: Storage, postgres_database: str, kind: str
) -> None:
    with opened(kind, postgres_database) as caller:
        caller.execute("INSERT INTO orders VALUES (1)")
        (never,) = storage.insert_with(caller.db, [job()], now=NOON)
        assert storage.get(never) is None
        caller.rollback()
        assert (everything(storage), orders(postgres_database)) == ([], 0)
        caller.execute("INSERT INTO orders VALUES (1)")
        (one,) = storage.insert_with(caller.db, [job()], now=NOON)
        given = storage.insert_with(caller.db, MANY, now=NOON)
        assert (given[1], len(set(given))) == (given[3], 3)
        assert everything(storage) == []
        caller.commit()
    assert [each.id for each in everything(storage)] == [one, *given[:3]]
    assert orders(postgres_database) == 1


@pytest.mark.parametrize("kind", SYNC)
def test_a_savepoint_that_is_rolled_back_takes_its_jobs_with_it(
    storage: Storage, postgres_database: str, kind: str
) -> None:
    with opened(kind, postgres_database) as caller:
        (outer,) = storage.insert_with(caller.db, [job()], now=NOON)
        caller.execute("SAVEPOINT mine")
        storage.insert_with(caller.db, MANY, now=NOON)
        caller.execute("ROLLBACK TO SAVEPOINT mine")
        caller.commit()
    assert [each.id for each in everything(storage)] == [outer]


@pytest.mark.parametrize("kind", SYNC)
def test_a_job_is_completed_with_the_callers_transaction(storage: Storage, postgres_database: str, kind: str) -> None:
    (job_id,) = put(storage)
    hand = Hand(storage)
    held = hand.claim_one()
    with opened(kind, postgres_database) as caller:
        caller.execute("INSERT INTO orders VALUES (1)")
        assert storage.complete_with(caller.db, ended(held, result='"done"'), now=NOON)
        assert status(storage, job_id) is JobStatus.RUNNING
        caller.rollback()
        assert status(storage, job_id) is JobStatus.RUNNING
        assert storage.complete_with(caller.db, ended(held), now=NOON)
        caller.commit()
        assert not storage.complete_with(caller.db, ended(held), now=NOON)
    assert status(storage, job_id) is JobStatus.COMPLETED
    hand.seat.leave()


@pytest.mark.parametrize("kind", SYNC)
def test_what_goes_wrong_leaves_the_callers_transaction_usable(
    storage: Storage, postgres_server: str, kind: str
) -> None:
    with new_database(postgres_server) as elsewhere:
        with opened(kind, elsewhere) as caller:
            caller.execute("CREATE TABLE orders (n int)")
            with pytest.raises(NotMigrated, match="never done inside your transaction"):
                storage.insert_with(caller.db, [job()], now=NOON)
            caller.execute("INSERT INTO orders VALUES (1)")
            caller.commit()
        other = open_storage(elsewhere)
        other.migrate()
        other.close()
        with opened(kind, elsewhere) as caller:
            caller.execute("INSERT INTO orders VALUES (2)")
            with pytest.raises(WrongDatabase):
                storage.insert_with(caller.db, [job()], now=NOON)
            caller.commit()
        assert orders(elsewhere) == 2


@pytest.mark.parametrize("kind", ASYNC)
def test_awaited_connections_take_part_too(storage: Storage, postgres_database: str, kind: str) -> None:
    put(storage, job(priority=9))
    hand = Hand(storage)
    held = hand.claim_one()

    async def application() -> list[int]:
        async with aopened(kind, postgres_database) as caller:
            await caller.execute("INSERT INTO orders VALUES (1)")
            (never,) = await storage.ainsert_with(caller.db, [job()], now=NOON)
            assert storage.get(never) is None
            await caller.rollback()
        async with aopened(kind, postgres_database) as caller:
            (one,) = await storage.ainsert_with(caller.db, [job()], now=NOON)
            await caller.execute("SAVEPOINT mine")
            await storage.ainsert_with(caller.db, [job()], now=NOON)
            await caller.execute("ROLLBACK TO SAVEPOINT mine")
            given = await storage.ainsert_with(caller.db, MANY, now=NOON)
            assert await storage.acomplete_with(caller.db, ended(held), now=NOON)
            assert status(storage, held.id) is JobStatus.RUNNING
            await caller.commit()
        return [one, *given[:3]]

    given = asyncio.run(application())
    assert [each.id for each in everything(storage, statuses=frozenset({JobStatus.PENDING}))] == given
    assert (status(storage, held.id), orders(postgres_database)) == (JobStatus.COMPLETED, 0)
    hand.seat.leave()


@pytest.mark.parametrize("kind", ASYNC)
def test_what_goes_wrong_leaves_an_awaited_transaction_usable(
    storage: Storage, postgres_server: str, kind: str
) -> None:
    async def application(url: str) -> None:
        async with aopened(kind, url) as caller:
            await caller.execute("CREATE TABLE orders (n int)")
            with pytest.raises(NotMigrated):
                await storage.ainsert_with(caller.db, [job()], now=NOON)
            await caller.execute("INSERT INTO orders VALUES (1)")
            await caller.commit()

    with new_database(postgres_server) as elsewhere:
        asyncio.run(application(elsewhere))
        assert orders(elsewhere) == 1


@pytest.mark.parametrize("kind", ASYNC)
def test_what_has_to_be_awaited_is_not_taken_by_the_sync_call(
    storage: Storage, postgres_database: str, kind: str
) -> None:
    async def application() -> None:
        async with aopened(kind, postgres_database) as caller:
            with pytest.raises(SideworkError, match="aenqueue"):
                storage.insert_with(caller.db, [job()], now=NOON)

    asyncio.run(application())


def test_a_connection_that_commits_each_statement_enqueues_at_once(storage: Storage, postgres_database: str) -> None:
    with closing(psycopg.connect(postgres_database, autocommit=True)) as db:
        given = storage.insert_with(db, MANY, now=NOON)
    assert len(everything(storage)) == len(set(given)) == 3


def test_a_transaction_that_has_failed_already_says_so(storage: Storage, postgres_database: str) -> None:
    with closing(psycopg.connect(postgres_database)) as db:
        with pytest.raises(psycopg.errors.UndefinedTable):
            db.execute("SELECT * FROM nowhere")
        with pytest.raises(SideworkError, match="has failed already"):
            storage.insert_with(db, [job()], now=NOON)


def test_a_unique_key_that_a_repeatable_read_cannot_see_is_told_with_the_remedy(
    storage: Storage, postgres_database: str
) -> None:
    with closing(psycopg.connect(postgres_database)) as db:
        db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        db.execute("SELECT count(*) FROM orders")
        put(storage, job(unique_key="u"))
        with pytest.raises(SideworkError, match="roll it back and try again"):
            storage.insert_with(db, [job(unique_key="u")], now=NOON)
        db.execute("INSERT INTO orders VALUES (1)")  # still usable
        db.rollback()
        assert storage.insert_with(db, [job(unique_key="u")], now=NOON) == [everything(storage)[0].id]


def test_a_superseded_attempt_completes_nothing(storage: Storage, postgres_database: str) -> None:
    put(storage)
    hand = Hand(storage)
    held = hand.claim_one()
    hand.settle(given_back(held))
    with closing(psycopg.connect(postgres_database)) as db:
        assert not storage.complete_with(db, ended(held), now=NOON)
    hand.seat.leave()


@pytest.mark.parametrize("thing", [object(), "a text"])
def test_something_else_is_told_what_would_do(storage: Storage, thing: object) -> None:
    with pytest.raises(SideworkError, match="psycopg"):
        storage.insert_with(thing, [job()], now=NOON)


def test_a_connection_to_sqlite_is_the_wrong_database(storage: Storage) -> None:
    import sqlite3

    with closing(sqlite3.connect(":memory:")) as db, pytest.raises(WrongDatabase):
        storage.insert_with(db, [job()], now=NOON)
