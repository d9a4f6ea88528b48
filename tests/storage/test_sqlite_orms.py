"""Enqueueing and completing in the session or connection of SQLAlchemy and Django on a SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from tests.storage.crew import NOON, Hand, ended, everything, job, put, status
from tests.storage.test_postgres_callers import Caller, django_settings

from sidework.errors import SideworkError, WrongDatabase
from sidework.model.job import JobStatus
from sidework.storage.open import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidework.storage.contract import Storage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def storage(path: Path) -> Iterator[Storage]:
    store = open_storage(path)
    store.migrate()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (n)")
    yield store
    store.close()


@contextmanager
def opened(kind: str, path: Path) -> Iterator[Caller]:
    """Yield a caller with a transaction of its own."""
    with ExitStack() as stack:
        if kind == "django":
            yield stack.enter_context(django(path))
            return
        engine = sqlalchemy.create_engine(f"sqlite:///{path}")
        stack.callback(engine.dispose)
        db: Any = stack.enter_context(Session(engine) if kind == "session" else engine.connect())
        yield Caller(db, lambda sql: db.execute(sqlalchemy.text(sql)), db.commit, db.rollback)


@contextmanager
def django(path: Path) -> Iterator[Caller]:
    from django.db.backends.sqlite3.base import DatabaseWrapper

    django_settings()
    names = ("USER", "PASSWORD", "HOST", "PORT")
    settings: dict[str, Any] = dict.fromkeys(names, "")
    settings |= {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": {}, "TIME_ZONE": None}
    settings |= {"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": False, "AUTOCOMMIT": True, "ATOMIC_REQUESTS": False}
    connection = DatabaseWrapper(settings, "default")
    connection.set_autocommit(False)

    def execute(sql: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql)

    yield Caller(connection, execute, connection.commit, connection.rollback)
    connection.close()


KINDS = ["connection", "session", "django"]


def orders(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        number: int = connection.execute("SELECT count(*) FROM orders").fetchone()[0]
    return number


@pytest.mark.parametrize("first", ["orders", "jobs"])
@pytest.mark.parametrize("kind", KINDS)
def test_jobs_exist_if_and_only_if_the_callers_transaction_commits(
    storage: Storage, path: Path, kind: str, first: str
) -> None:
    def act(caller: Caller) -> list[int]:
        if first == "orders":
            caller.execute("INSERT INTO orders VALUES (1)")
        given = storage.insert_with(caller.db, [job(), job(unique_key="u")], now=NOON)
        if first == "jobs":
            caller.execute("INSERT INTO orders VALUES (1)")
        return given

    with opened(kind, path) as caller:
        act(caller)
        assert everything(storage) == []
        caller.rollback()
        assert (everything(storage), orders(path)) == ([], 0)
        given = act(caller)
        caller.commit()
    assert ([each.id for each in everything(storage)], orders(path)) == (given, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_is_completed_with_the_callers_transaction(storage: Storage, path: Path, kind: str) -> None:
    (job_id,) = put(storage)
    hand = Hand(storage)
    held = hand.claim_one()
    with opened(kind, path) as caller:
        assert storage.complete_with(caller.db, ended(held), now=NOON)
        caller.execute("INSERT INTO orders VALUES (1)")
        caller.rollback()
        assert (status(storage, job_id), orders(path)) == (JobStatus.RUNNING, 0)
        caller.execute("INSERT INTO orders VALUES (1)")
        assert storage.complete_with(caller.db, ended(held), now=NOON)
        caller.commit()
    assert (status(storage, job_id), orders(path)) == (JobStatus.COMPLETED, 1)
    hand.seat.leave()


@pytest.mark.parametrize("kind", KINDS)
def test_another_file_is_the_wrong_database(storage: Storage, tmp_path: Path, kind: str) -> None:
    with opened(kind, tmp_path / "other.db") as caller, pytest.raises(WrongDatabase):
        storage.insert_with(caller.db, [job()], now=NOON)


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_awaited_sessions_take_part_too(storage: Storage, path: Path, kind: str) -> None:
    put(storage, job(priority=9))
    hand = Hand(storage)
    held = hand.claim_one()

    async def application() -> list[int]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        try:
            db: Any
            async with AsyncSession(engine) if kind == "session" else engine.connect() as db:
                with pytest.raises(SideworkError, match="aenqueue"):
                    storage.insert_with(db, [job()], now=NOON)
                await storage.ainsert_with(db, [job()], now=NOON)
                await db.rollback()
                given = await storage.ainsert_with(db, [job()], now=NOON)
                await db.execute(sqlalchemy.text("INSERT INTO orders VALUES (1)"))
                assert await storage.acomplete_with(db, ended(held), now=NOON)
                await db.commit()
            return given
        finally:
            await engine.dispose()

    given = asyncio.run(application())
    assert [each.id for each in everything(storage, statuses=frozenset({JobStatus.PENDING}))] == given
    assert (status(storage, held.id), orders(path)) == (JobStatus.COMPLETED, 1)
    hand.seat.leave()
