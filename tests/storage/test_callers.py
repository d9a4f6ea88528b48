"""Enqueueing and completing on the caller's own connection: inside its transaction, and harming nothing of it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
import warnings
from contextlib import closing
from typing import TYPE_CHECKING, Any

import aiosqlite
import pytest
from tests.storage.crew import NOON, Hand, at, ended, given_back, job, look, put, status

from sidework.errors import DatabaseBusy, DatabaseUnavailable, NotMigrated, SideworkError, WrongDatabase
from sidework.model.job import JobStatus
from sidework.storage.sqlite import callers
from sidework.storage.sqlite.callers import Callers
from sidework.storage.sqlite.store import SqliteStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

needs_autocommit = pytest.mark.skipif(sys.version_info < (3, 12), reason="Connection.autocommit came with Python 3.12")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "app.db")


@pytest.fixture
def store(path: str) -> Iterator[SqliteStorage]:
    store = SqliteStorage(path)
    store.migrate()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
        connection.commit()
    yield store
    store.close()


def as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def legacy(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path)


def immediate(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level="IMMEDIATE")


def with_dicts(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.row_factory = as_dict
    return connection


def with_rows(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    return connection


def with_bytes(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.text_factory = bytes
    return connection


def with_odd_texts(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.text_factory = lambda raw: ["text", raw]
    return connection


def with_converters(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, detect_types=sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES)


def from_another_thread(path: str) -> sqlite3.Connection:
    made: list[sqlite3.Connection] = []
    thread = threading.Thread(target=lambda: made.append(sqlite3.connect(path, check_same_thread=False)))
    thread.start()
    thread.join()
    return made[0]


def without_autocommit(path: str) -> sqlite3.Connection:
    connection: sqlite3.Connection = sqlite3.connect(path, autocommit=False)  # type: ignore[call-overload,unused-ignore]
    return connection


def driver_autocommit(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def with_autocommit(path: str) -> sqlite3.Connection:
    connection: sqlite3.Connection = sqlite3.connect(path, autocommit=True)  # type: ignore[call-overload,unused-ignore]
    return connection


TRANSACTIONAL = [
    legacy,
    immediate,
    with_dicts,
    with_rows,
    with_bytes,
    with_odd_texts,
    with_converters,
    from_another_thread,
    pytest.param(without_autocommit, marks=needs_autocommit),
]
"""Connections on which an INSERT begins a transaction that waits for a commit."""

AUTOCOMMIT = [driver_autocommit, pytest.param(with_autocommit, marks=needs_autocommit)]
"""Connections on which every statement commits by itself, unless the caller has begun."""


@pytest.fixture(autouse=True)
def converter_of_integers() -> Iterator[None]:
    """Let a program have a converter for INTEGER, as `with_converters` would use it."""
    sqlite3.register_converter("INTEGER", lambda raw: f"converted {raw!r}")
    yield
    del sqlite3.converters["INTEGER"]


def jobs_and_users(path: str) -> tuple[list[int], int]:
    """Return the ids of all jobs and the number of users, as somebody else sees them."""
    with closing(sqlite3.connect(path)) as other:
        ids = [job_id for (job_id,) in other.execute("SELECT id FROM background_service_jobs ORDER BY id")]
        return ids, other.execute("SELECT COUNT(*) FROM users").fetchone()[0]


def begun(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("BEGIN")
    return connection


THREE = [job(), job(unique_key="u"), job(payload='{"n": 3}')]


# --------------------------------------------------------------------------- with the caller's transaction


@pytest.mark.parametrize("open_it", TRANSACTIONAL)
@pytest.mark.parametrize("jobs", [THREE[:1], THREE], ids=["one", "many"])
@pytest.mark.parametrize("writes_before", [True, False])
def test_jobs_are_there_if_and_only_if_the_caller_commits(
    store: SqliteStorage, path: str, open_it: Callable[[str], sqlite3.Connection], jobs: list[Any], writes_before: bool
) -> None:
    with closing(open_it(path)) as connection:
        for number in (1, 2):
            if writes_before:
                connection.execute("INSERT INTO users VALUES ('a')")
            ids = store.insert_with(connection, jobs, now=NOON)
            assert ids == list(range(1, len(jobs) + 1))
            assert connection.in_transaction
            assert jobs_and_users(path) == ([], 0), "something was committed"
            if number == 1:
                connection.rollback()
                assert jobs_and_users(path) == ([], 0)
        connection.commit()
        assert jobs_and_users(path) == (ids, int(writes_before))


@pytest.mark.parametrize("open_it", AUTOCOMMIT)
@pytest.mark.parametrize("jobs", [THREE[:1], THREE], ids=["one", "many"])
def test_autocommit_commits_jobs_at_once_as_it_would_any_insert(
    store: SqliteStorage, path: str, open_it: Callable[[str], sqlite3.Connection], jobs: list[Any]
) -> None:
    with closing(open_it(path)) as connection:
        ids = store.insert_with(connection, jobs, now=NOON)
        assert not connection.in_transaction
        assert jobs_and_users(path) == (ids, 0)


@pytest.mark.parametrize("open_it", AUTOCOMMIT)
@pytest.mark.parametrize("jobs", [THREE[:1], THREE], ids=["one", "many"])
def test_a_transaction_that_the_caller_began_in_autocommit_stays_the_callers(
    store: SqliteStorage, path: str, open_it: Callable[[str], sqlite3.Connection], jobs: list[Any]
) -> None:
    with closing(open_it(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        store.insert_with(connection, jobs, now=NOON)
        assert connection.in_transaction
        connection.execute("ROLLBACK")
        assert jobs_and_users(path) == ([], 0)
        connection.execute("BEGIN")
        ids = store.insert_with(connection, jobs, now=NOON)
        connection.execute("COMMIT")
        assert jobs_and_users(path) == (ids, 0)


@pytest.mark.parametrize("open_it", TRANSACTIONAL + AUTOCOMMIT)
def test_the_settings_of_the_callers_connection_are_left_alone(
    store: SqliteStorage, path: str, open_it: Callable[[str], sqlite3.Connection]
) -> None:
    names = ("row_factory", "text_factory", "isolation_level", "autocommit")
    with closing(open_it(path)) as connection:
        before = [getattr(connection, name, None) for name in names]
        store.insert_with(connection, THREE, now=NOON)
        assert [getattr(connection, name, None) for name in names] == before


def test_no_transaction_of_nobody_is_left_open_for_an_empty_list(store: SqliteStorage, path: str) -> None:
    with closing(driver_autocommit(path)) as connection:
        assert store.insert_with(connection, [], now=NOON) == []
        assert not connection.in_transaction


# ------------------------------------------------------------------------------------------------ failures


def refuse_bad_jobs(path: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON background_service_jobs WHEN new.job_key = 'bad' "
            "BEGIN SELECT RAISE(ABORT, 'no bad jobs here'); END"
        )


BAD = [job(), job(unique_key="u"), job("bad")]


@pytest.mark.parametrize("open_it", TRANSACTIONAL)
def test_after_a_failure_the_callers_transaction_goes_on_without_the_jobs(
    store: SqliteStorage, path: str, open_it: Callable[[str], sqlite3.Connection]
) -> None:
    refuse_bad_jobs(path)
    with closing(open_it(path)) as connection:
        connection.execute("INSERT INTO users VALUES ('a')")
        with pytest.raises(DatabaseUnavailable, match="no bad jobs here"):
            store.insert_with(connection, BAD, now=NOON)
        connection.execute("INSERT INTO users VALUES ('b')")
        connection.commit()
        assert jobs_and_users(path) == ([], 2)


@pytest.mark.parametrize("open_it", [legacy, immediate, *AUTOCOMMIT])
def test_a_failure_leaves_no_transaction_open_that_was_not_open_before(
    store: SqliteStorage, path: str, open_it: Callable[[str], sqlite3.Connection]
) -> None:
    refuse_bad_jobs(path)
    with closing(open_it(path)) as connection:
        with pytest.raises(DatabaseUnavailable, match="no bad jobs here"):
            store.insert_with(connection, BAD, now=NOON)
        assert not connection.in_transaction
        assert jobs_and_users(path) == ([], 0)


def test_jobs_that_a_trigger_swallows_are_an_error_and_none_of_them_is_kept(store: SqliteStorage, path: str) -> None:
    with closing(driver_autocommit(path)) as connection:
        connection.execute(
            "CREATE TRIGGER swallow BEFORE INSERT ON background_service_jobs WHEN new.job_key = 'bad' "
            "BEGIN SELECT RAISE(IGNORE); END"
        )
        for jobs in ([job("bad")], BAD, [job("bad", unique_key="u")]):
            with pytest.raises(SideworkError, match="trigger on background_service_jobs"):
                store.insert_with(connection, jobs, now=NOON)
        assert jobs_and_users(path) == ([], 0)


def test_a_transaction_that_began_with_a_read_is_told_to_begin_immediate(store: SqliteStorage, path: str) -> None:
    with closing(begun(driver_autocommit(path))) as connection:
        connection.execute("SELECT COUNT(*) FROM users").fetchone()
        put(store)
        with pytest.raises(DatabaseBusy, match="BEGIN IMMEDIATE"):
            store.insert_with(connection, THREE, now=NOON)
        assert connection.in_transaction
        assert connection.execute("SELECT COUNT(*) FROM background_service_jobs").fetchone() == (0,)
        connection.execute("ROLLBACK")
        store.insert_with(connection, THREE, now=NOON)


def test_a_transaction_that_has_not_read_yet_is_not_made_to_by_our_checks(store: SqliteStorage, path: str) -> None:
    with closing(begun(driver_autocommit(path))) as connection:
        committed: list[str] = []

        def somebody_commits(statement: str) -> None:
            if statement.startswith("PRAGMA"):
                committed.append(statement)
                put(store)

        connection.set_trace_callback(somebody_commits)
        store.insert_with(connection, THREE, now=NOON)
        assert committed
        connection.execute("COMMIT")
    assert len(jobs_and_users(path)[0]) == len(committed) + 3


@pytest.mark.parametrize("open_it", [legacy, immediate, driver_autocommit])
def test_a_lock_held_by_somebody_else_is_waited_for_as_long_as_the_caller_says(
    store: SqliteStorage, path: str, open_it: Callable[[str], sqlite3.Connection]
) -> None:
    with closing(open_it(path)) as connection, closing(driver_autocommit(path)) as other:
        connection.execute("PRAGMA busy_timeout = 10")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy, match="is locked"):
            store.insert_with(connection, THREE, now=NOON)
        assert not connection.in_transaction
        other.execute("ROLLBACK")
        store.insert_with(connection, THREE, now=NOON)


# -------------------------------------------------------------------------------------- whose database it is


def test_another_database_is_refused_and_named(store: SqliteStorage, path: str, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    SqliteStorage(other).migrate()
    with closing(sqlite3.connect(other)) as connection:
        with pytest.raises(WrongDatabase, match=r"other\.db, but the service works on .*app\.db"):
            store.insert_with(connection, THREE, now=NOON)
        assert not connection.in_transaction
    assert jobs_and_users(path) == ([], 0)


@pytest.mark.parametrize("name", [":memory:", ""])
def test_a_database_in_memory_is_refused(store: SqliteStorage, name: str) -> None:
    with closing(sqlite3.connect(name)) as connection, pytest.raises(WrongDatabase, match="a database in memory"):
        store.insert_with(connection, THREE, now=NOON)


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("open_it", [legacy, with_bytes, with_odd_texts])
def test_the_same_file_under_another_name_is_no_other_database(
    store: SqliteStorage,
    path: str,
    tmp_path: Path,
    link: Callable[[str, Path], None],
    open_it: Callable[[str], sqlite3.Connection],
) -> None:
    link(path, tmp_path / "alias.db")
    ours = Callers(tmp_path / "alias.db", durability="full")
    with closing(open_it(path)) as connection:
        assert ours.insert(connection, [job()], now=NOON) == [1]


def test_the_main_database_counts_and_not_one_that_is_attached(store: SqliteStorage, path: str) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("ATTACH ? AS app", (path,))
        with pytest.raises(WrongDatabase):
            store.insert_with(connection, THREE, now=NOON)


SEEDS_TABLE = "CREATE TABLE background_service_jobs (id INTEGER PRIMARY KEY AUTOINCREMENT, job_key TEXT, payload TEXT)"


@pytest.mark.parametrize("ddl", ["CREATE TABLE unrelated (x)", SEEDS_TABLE])
@pytest.mark.parametrize("jobs", [THREE[:1], THREE[1:2], THREE], ids=["one", "unique", "many"])
def test_an_unmigrated_database_is_refused_at_once_and_left_as_it_is(path: str, ddl: str, jobs: list[Any]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(ddl)
        connection.execute("CREATE TABLE users (name TEXT)")
        connection.execute("INSERT INTO users VALUES ('a')")
        with pytest.raises(NotMigrated, match="migrate"):
            Callers(path, durability="full").insert(connection, jobs, now=NOON)
        connection.commit()
        tables = connection.execute("SELECT sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite%'").fetchall()
        assert tables == [(ddl,), ("CREATE TABLE users (name TEXT)",)]
        assert connection.execute("SELECT COUNT(*) FROM users").fetchone() == (1,)


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        (object(), r"builtins\.object.*takes a sqlite3\.Connection, or in async code an aiosqlite\.Connection"),
        ("app.db", r"builtins\.str"),
    ],
)
def test_what_is_no_connection_is_refused_with_what_is_accepted(store: SqliteStorage, thing: object, says: str) -> None:
    with pytest.raises(SideworkError, match=says):
        store.insert_with(thing, THREE, now=NOON)


def test_a_closed_connection_is_called_closed(store: SqliteStorage, path: str) -> None:
    connection = legacy(path)
    connection.close()
    with pytest.raises(SideworkError, match="is closed"):
        store.insert_with(connection, THREE, now=NOON)


def test_a_connection_bound_to_another_thread_is_refused_with_the_way_out(store: SqliteStorage, path: str) -> None:
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            store.insert_with(connection, THREE, now=NOON)
        except SideworkError as error:
            errors.append(error)

    with closing(legacy(path)) as connection:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert "check_same_thread=False" in str(errors[0])


# -------------------------------------------------------------------------------------------- how durable it is


@pytest.mark.parametrize(
    ("durability", "level", "warned"), [("full", 1, 1), ("full", 2, 0), ("relaxed", 1, 0), ("relaxed", 0, 1)]
)
def test_a_connection_that_promises_less_than_the_store_is_warned_about_once(
    store: SqliteStorage, path: str, durability: Any, level: int, warned: int
) -> None:
    ours = Callers(path, durability=durability)
    with closing(legacy(path)) as connection, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        connection.execute(f"PRAGMA synchronous = {level}")
        for _ in range(2):
            ours.insert(connection, THREE[:1], now=NOON)
    assert len(seen) == warned
    assert all("may be lost in a power cut" in str(warning.message) for warning in seen)


# ------------------------------------------------------------------------------------------------ what is kept


def test_every_field_of_a_job_is_kept_alone_and_in_bulk(store: SqliteStorage, path: str) -> None:
    plain = job(
        "mail", payload='{"a": "é\\u0007"}', priority=-(2**40), max_attempts=7, queue="q", options='{"timeout":1.5}'
    )
    due = job("mail", run_at=at(90.0004))
    with closing(driver_autocommit(path)) as connection:
        alone = store.insert_with(connection, [plain], now=at(5)) + store.insert_with(connection, [due], now=at(5))
        bulk = store.insert_with(connection, [plain, due], now=at(5))
        rows = connection.execute(
            "SELECT job_key, payload, priority, max_attempts, queue, options, status, run_at, created_at, updated_at, "
            "attempts, crashes, claims, typeof(payload), typeof(priority) FROM background_service_jobs ORDER BY id"
        ).fetchall()
    assert (alone, bulk) == ([1, 2], [3, 4])
    assert rows[:2] == rows[2:]
    five = "2026-01-01T12:00:05.000Z"
    given = ("mail", '{"a": "é\\u0007"}', -(2**40), 7, "q", '{"timeout":1.5}', "PENDING", None, five, five, 0, 0, 0)
    assert rows[0] == (*given, "text", "integer")
    assert rows[1][6:10] == ("SCHEDULED", "2026-01-01T12:01:30.001Z", five, five)


@pytest.mark.parametrize(("most_jobs", "most_characters"), [(1000, 4_000_000), (7, 4_000_000), (1000, 40)])
def test_ids_come_back_in_the_order_of_the_list_however_it_is_cut(
    store: SqliteStorage, path: str, monkeypatch: pytest.MonkeyPatch, most_jobs: int, most_characters: int
) -> None:
    monkeypatch.setattr(callers, "_MOST_JOBS_AT_ONCE", most_jobs)
    monkeypatch.setattr(callers, "_MOST_CHARACTERS_AT_ONCE", most_characters)
    jobs = [job(payload=f'{{"n": {n}}}', unique_key=f"u{n}" if n % 11 == 3 else None) for n in range(2345)]
    with closing(legacy(path)) as connection:
        ids = store.insert_with(connection, jobs, now=NOON)
        connection.commit()
        payloads = dict(connection.execute("SELECT id, payload FROM background_service_jobs"))
    assert ids == sorted(ids)
    assert [payloads[job_id] for job_id in ids] == [each.payload for each in jobs]


def test_a_list_is_cut_before_it_becomes_too_large_for_one_statement(path: str) -> None:
    ours = Callers(path, durability="full")
    many = ours.insertion([job()] * 2500, now=NOON)
    assert [step.count for step in many.steps if isinstance(step, callers.ManyJobs)] == [1000, 1000, 500]
    large = ours.insertion([job(payload='"' + "x" * 1_000_000 + '"')] * 10, now=NOON)
    assert [step.count for step in large.steps if isinstance(step, callers.ManyJobs)] == [4, 4, 2]


def test_one_unique_key_is_one_job_wherever_it_stands(store: SqliteStorage, path: str, hand: Hand) -> None:
    keyed = job(unique_key="u")
    with closing(legacy(path)) as connection:
        first, plain, again, other = store.insert_with(
            connection, [keyed, job(), keyed, job("other", unique_key="u")], now=NOON
        )
        connection.commit()
        assert first == again
        assert len({first, plain, other}) == 3
        before = look(store, first)
        held = hand.claim_one()
        assert held.id == first
        assert store.insert_with(connection, [keyed], now=at(60)) == [first], "it is RUNNING"
        connection.commit()
        hand.settle(ended(held, JobStatus.SCHEDULED, run_at=at(60)))
        assert store.insert_with(connection, [keyed], now=at(60)) == [first], "it is SCHEDULED"
        connection.commit()
        assert look(store, first).updated_at == before.updated_at


def test_a_unique_key_is_free_when_its_job_has_ended(store: SqliteStorage, path: str, hand: Hand) -> None:
    keyed = job(unique_key="u")
    with closing(driver_autocommit(path)) as connection:
        (first,) = store.insert_with(connection, [keyed], now=NOON)
        hand.settle(ended(hand.claim_one()))
        (second,) = store.insert_with(connection, [keyed], now=NOON)
        assert second > first


def test_a_held_unique_key_rewrites_nothing(store: SqliteStorage, path: str) -> None:
    with closing(driver_autocommit(path)) as connection:
        store.insert_with(connection, [job(unique_key="u", payload='"' + "x" * 100_000 + '"')], now=NOON)
        before = connection.execute("SELECT updated_at FROM background_service_jobs").fetchall()
        connection.execute("BEGIN")
        changes = connection.total_changes
        store.insert_with(connection, [job(unique_key="u")], now=at(60))
        assert connection.total_changes == changes
        connection.execute("COMMIT")
        assert connection.execute("SELECT updated_at FROM background_service_jobs").fetchall() == before


# --------------------------------------------------------------------------------------------------- aiosqlite


@pytest.mark.parametrize("isolation_level", ["", "IMMEDIATE", None])
@pytest.mark.parametrize("jobs", [THREE[:1], THREE], ids=["one", "many"])
def test_an_aiosqlite_connection_takes_part_too(
    store: SqliteStorage, path: str, isolation_level: Any, jobs: list[Any]
) -> None:
    async def enqueue() -> None:
        async with aiosqlite.connect(path, isolation_level=isolation_level) as connection:
            connection.row_factory = sqlite3.Row
            for end in (connection.rollback, connection.commit):
                if isolation_level is None:
                    await connection.execute("BEGIN")
                await connection.execute("INSERT INTO users VALUES ('a')")
                ids = await store.ainsert_with(connection, jobs, now=NOON)
                assert ids == list(range(1, len(jobs) + 1))
                assert jobs_and_users(path) == ([], 0)
                await end()
        assert jobs_and_users(path) == (ids, 1)

    asyncio.run(enqueue())


def test_the_async_way_takes_a_plain_connection_too(store: SqliteStorage, path: str) -> None:
    with closing(legacy(path)) as connection:
        assert asyncio.run(store.ainsert_with(connection, THREE, now=NOON)) == [1, 2, 3]
        connection.commit()
    assert jobs_and_users(path) == ([1, 2, 3], 0)


def test_the_sync_way_names_the_async_one_for_an_aiosqlite_connection(store: SqliteStorage, path: str) -> None:
    async def enqueue() -> None:
        async with aiosqlite.connect(path) as connection:
            store.insert_with(connection, THREE, now=NOON)

    with pytest.raises(SideworkError, match=r"Use aenqueue\(…, db=…\) instead"):
        asyncio.run(enqueue())


def test_errors_of_an_aiosqlite_connection_are_the_same(store: SqliteStorage, path: str, tmp_path: Path) -> None:
    async def enqueue(file: str, *, closed: bool = False) -> None:
        async with aiosqlite.connect(file) as connection:
            if closed:
                await connection.close()
            await store.ainsert_with(connection, THREE, now=NOON)

    with pytest.raises(WrongDatabase):
        asyncio.run(enqueue(str(tmp_path / "other.db")))
    with pytest.raises(SideworkError, match="not open"):
        asyncio.run(enqueue(path, closed=True))


# -------------------------------------------------------------------------------------------------- completing


@pytest.fixture
def hand(store: SqliteStorage) -> Iterator[Hand]:
    worker = Hand(store)
    yield worker
    worker.seat.leave()


@pytest.mark.parametrize("open_it", [*TRANSACTIONAL, driver_autocommit])
def test_a_completion_is_there_if_and_only_if_the_caller_commits(
    store: SqliteStorage, path: str, hand: Hand, open_it: Callable[[str], sqlite3.Connection]
) -> None:
    (job_id,) = put(store)
    held = hand.claim_one()
    with closing(open_it(path)) as connection:
        for end in ("ROLLBACK", "COMMIT"):
            if open_it is driver_autocommit:
                connection.execute("BEGIN")
            connection.execute("INSERT INTO users VALUES ('a')")
            assert store.complete_with(connection, ended(held, result="7"), now=at(9))
            assert status(store, job_id) is JobStatus.RUNNING
            connection.execute(end)
        kept = look(store, job_id)
        assert (kept.status, kept.result, kept.finished_at) == (JobStatus.COMPLETED, 7, at(9))
    assert jobs_and_users(path)[1] == 1


def test_a_completion_is_fenced(store: SqliteStorage, path: str, hand: Hand) -> None:
    (job_id,) = put(store)
    held = hand.claim_one()
    hand.settle(given_back(held))
    hand.claim_one()
    with closing(legacy(path)) as connection:
        assert not store.complete_with(connection, ended(held), now=NOON)
        connection.rollback()
    assert status(store, job_id) is JobStatus.RUNNING


def test_an_async_completion_is_the_same(store: SqliteStorage, path: str, hand: Hand) -> None:
    (job_id,) = put(store)
    held = hand.claim_one()

    async def complete() -> None:
        async with aiosqlite.connect(path) as connection:
            await connection.execute("INSERT INTO users VALUES ('a')")
            assert await store.acomplete_with(connection, ended(held), now=NOON)
            with pytest.raises(SideworkError, match="acomplete"):
                store.complete_with(connection, ended(held), now=NOON)
            await connection.commit()

    asyncio.run(complete())
    assert status(store, job_id) is JobStatus.COMPLETED
    assert jobs_and_users(path)[1] == 1
