"""Jobs of many callers: one commit for all who wait, an answer of its own for each, and ids that are right."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.storage.crew import NOON, at, job
from tests.storage.threads import LONG, in_thread, until

from sidework.clock import FrozenClock
from sidework.errors import DatabaseBusy, DatabaseUnavailable, SideworkError
from sidework.storage.sqlite.intake import Request, gathered
from sidework.storage.sqlite.store import SqliteStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from sidework.model.job import NewJob


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "app.db")


@pytest.fixture
def store(path: str) -> Iterator[SqliteStorage]:
    store = SqliteStorage(path, wait=LONG)
    store.migrate()
    yield store
    store.close()


def run(path: str, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def kept(path: str) -> dict[int, str]:
    """Return the ids of all jobs with their keys, as somebody else sees them."""
    with closing(sqlite3.connect(path)) as other:
        return dict(other.execute("SELECT id, job_key FROM background_service_jobs ORDER BY id").fetchall())


def statements_of(store: SqliteStorage) -> list[str]:
    """Return a list to which every statement on the connection for writing is added from now on."""
    seen: list[str] = []
    store._gate.write(lambda connection: connection.set_trace_callback(seen.append))
    seen.clear()
    return seen


def queue_up(store: SqliteStorage, *callers: list[NewJob]) -> list[Future[list[int]]]:
    """Let each caller wait behind the one before, each in a thread of its own. Somebody must hold the gate."""

    def behind(number: int) -> bool:
        # The writer thread takes the first of them off its queue, and stands before the gate in its stead.
        return len(store._gate._turnstile._tickets) == 1 and store._intake._requests.qsize() == number

    futures = []
    for number, jobs in enumerate(callers):
        futures.append(in_thread(partial(store.insert, jobs, now=at(number))))
        until(partial(behind, number))
    return futures


# ----------------------------------------------------------------------------------------- alone and together


def test_no_thread_is_started_before_somebody_has_to_wait(store: SqliteStorage) -> None:
    store.insert([job()], now=NOON)
    assert store._intake._writer is None


def test_those_who_wait_share_one_statement_and_one_commit(store: SqliteStorage, path: str) -> None:
    statements = statements_of(store)
    with store._gate.hold():
        futures = queue_up(store, [job("a")], [job("b"), job("c")], [], [job("d")])
    assert [future.result(LONG) for future in futures] == [[1], [2, 3], [], [4]]
    assert kept(path) == {1: "a", 2: "b", 3: "c", 4: "d"}
    assert len([each for each in statements if each.startswith("INSERT INTO background_service_jobs")]) == 1
    assert statements.count("COMMIT") == 1


def test_nobody_is_answered_before_the_commit(store: SqliteStorage) -> None:
    answered_before_commit: list[bool] = []
    futures: list[Future[Any]] = []

    def trace(statement: str) -> None:
        if statement == "COMMIT":
            answered_before_commit.extend(future.done() for future in futures)

    store._gate.write(lambda connection: connection.set_trace_callback(trace))
    with store._gate.hold():
        futures = queue_up(store, [job()], [job()], [job()])
    assert [future.result(LONG) for future in futures] == [[1], [2], [3]]
    assert answered_before_commit == [False, False, False]


def test_unique_keys_of_those_who_wait_are_one_job(store: SqliteStorage, path: str) -> None:
    with store._gate.hold():
        first, plain, again = queue_up(store, [job(unique_key="u")], [job("plain")], [job(unique_key="u")])
    assert (first.result(LONG), again.result(LONG)) == ([1], [1])
    assert kept(path)[plain.result(LONG)[0]] == "plain"


def test_many_threads_at_once_lose_nothing_and_mix_up_nothing(store: SqliteStorage, path: str) -> None:
    def send_some(n: int) -> list[tuple[int, str]]:
        keys = [f"{n}-{i}" for i in range(40)]
        return [(store.insert([job(key)], now=NOON)[0], key) for key in keys]

    futures = [in_thread(partial(send_some, n)) for n in range(8)]
    told = [pair for future in futures for pair in future.result(LONG)]
    assert len(told) == 320
    assert dict(told) == kept(path)


# ------------------------------------------------------------------------------------- one that cannot be had


BAD = "CREATE TRIGGER no BEFORE INSERT ON background_service_jobs WHEN new.job_key = 'bad' BEGIN SELECT RAISE({}); END"


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        ([BAD.format("ABORT, 'not this'")], "not this"),
        ([BAD.format("ROLLBACK, 'not this'")], "not this"),
        ([BAD.format("IGNORE")], "swallowed"),
        (
            [
                "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
                "CREATE TABLE child (p REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
                (
                    "CREATE TRIGGER orphan AFTER INSERT ON background_service_jobs WHEN new.job_key = 'bad' "
                    "BEGIN INSERT INTO child VALUES (7); END"
                ),
            ],
            "FOREIGN KEY",
        ),
    ],
    ids=["ABORT", "ROLLBACK", "IGNORE", "a COMMIT that fails"],
)
def test_one_that_the_database_refuses_is_told_apart_from_the_others(
    store: SqliteStorage, path: str, prepare: list[str], says: str
) -> None:
    run(path, *prepare)
    store.insert([job("zero")], now=NOON)
    assert store._gate._connection is not None
    store._gate._connection.execute("PRAGMA foreign_keys = ON")
    with store._gate.hold():
        first, broken, last = queue_up(store, [job("first")], [job("fine"), job("bad")], [job("last")])
    ids = {first.result(LONG)[0]: "first", last.result(LONG)[0]: "last", 1: "zero"}
    with pytest.raises((DatabaseUnavailable, SideworkError), match=says):
        broken.result(LONG)
    assert kept(path) == ids


def test_who_finds_the_database_locked_is_refused_at_its_own_time(store: SqliteStorage, path: str) -> None:
    clock = FrozenClock()
    store._gate._clock = clock  # type: ignore[assignment]
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with store._gate.hold():
            futures = queue_up(store, [job()], [job()])
            clock.advance(LONG - 0.01)
        for future in futures:
            with pytest.raises(DatabaseBusy):
                future.result(LONG)
        other.execute("ROLLBACK")
    assert kept(path) == {}


def test_a_caller_that_waited_too_long_gets_an_error_and_its_job_never_comes(path: str) -> None:
    store = SqliteStorage(path, wait=0.05)
    store.migrate()
    with store._gate.hold(), pytest.raises(DatabaseBusy, match=r"no turn to write within 0\.05 s"):
        in_thread(partial(store.insert, [job("never")], now=NOON)).result(LONG)
    store.insert([job("next")], now=NOON)
    store.close()
    assert list(kept(path).values()) == ["next"]


def test_a_request_that_was_taken_on_is_waited_for_though_its_time_is_over() -> None:
    request = Request([job()], NOON, 0.0)
    assert request.begin()
    waits = in_thread(partial(request.wait, 0.0))
    request.succeed([7])
    request.wake()
    assert waits.result(LONG)
    assert request.answer() == [7]


def test_a_request_whose_caller_has_gone_is_not_taken_on(store: SqliteStorage) -> None:
    gone, there = Request([job()], NOON, 0.0), Request([job()], NOON, 0.0)
    assert not gone.wait(0.0)
    for each in (gone, there, None):
        store._intake._requests.put(each)
    assert gathered(store._intake._requests) == [there]
    assert store._intake._requests.get_nowait() is None, "the sign to end was swallowed"


def test_who_holds_the_gate_is_not_left_waiting_for_itself(store: SqliteStorage) -> None:
    with store._gate.hold():
        with pytest.raises(SideworkError, match="would wait for itself"):
            store.insert([job()], now=NOON)
        with pytest.raises(SideworkError, match="would wait for itself"):
            store.close()


def test_after_closing_the_next_who_waits_starts_another_thread(store: SqliteStorage, path: str) -> None:
    with store._gate.hold():
        (first,) = queue_up(store, [job("first")])
    first.result(LONG)
    writer = store._intake._writer
    assert writer is not None
    store.close()
    assert not writer.is_alive()
    with store._gate.hold():
        (second,) = queue_up(store, [job("second")])
    assert second.result(LONG) == [2]
    assert kept(path) == {1: "first", 2: "second"}


# ------------------------------------------------------------------------------------------------- which ids


WRITES_ELSEWHERE = (
    "CREATE TABLE audit (what TEXT)",
    "CREATE TRIGGER audit AFTER INSERT ON background_service_jobs BEGIN INSERT INTO audit VALUES (new.job_key); END",
)
FOLLOWS_EACH = (
    (
        "CREATE TRIGGER follow AFTER INSERT ON background_service_jobs WHEN new.job_key <> 'follower' "
        "BEGIN INSERT INTO background_service_jobs (job_key) VALUES ('follower'); END"
    ),
)
SWAPS = (
    (
        "CREATE TRIGGER swap BEFORE INSERT ON background_service_jobs WHEN new.job_key = 'k3' "
        "BEGIN INSERT INTO background_service_jobs (job_key) VALUES ('k3-instead'); END"
    ),
)


@pytest.mark.parametrize("triggers", [(), WRITES_ELSEWHERE, FOLLOWS_EACH, SWAPS])
@pytest.mark.parametrize("many", [1, 7, 1500])
def test_each_id_is_that_of_its_job_whatever_triggers_do(
    store: SqliteStorage, path: str, triggers: tuple[str, ...], many: int
) -> None:
    run(path, *triggers)
    keys = [f"k{n}" for n in range(many)]
    for _ in range(2):
        ids = store.insert([job(key) for key in keys], now=NOON)
        with closing(sqlite3.connect(path)) as other:
            there = kept(path)
            assert [there[job_id] for job_id in ids] == keys
            count = other.execute("SELECT COUNT(*) FROM background_service_jobs WHERE job_key GLOB 'k[0-9]*'")
            assert count.fetchone()[0] >= many
    assert len(kept(path)) == 2 * many * (1 + (triggers == FOLLOWS_EACH)) + 2 * (triggers == SWAPS and many > 3)


def test_a_caller_on_its_own_connection_gets_the_right_ids_too(store: SqliteStorage, path: str) -> None:
    run(path, *FOLLOWS_EACH)
    with closing(sqlite3.connect(path)) as connection:
        ids = store.insert_with(connection, [job(key) for key in "abc"], now=NOON)
        connection.commit()
    assert [kept(path)[job_id] for job_id in ids] == ["a", "b", "c"]
    assert len(kept(path)) == 6


def test_ids_go_on_after_the_largest_that_was_ever_given(store: SqliteStorage, path: str) -> None:
    run(path, "INSERT INTO background_service_jobs (id, job_key) VALUES (1000, 'far')")
    run(path, "DELETE FROM background_service_jobs")
    assert store.insert([job("a"), job("b")], now=NOON) == [1001, 1002]
    assert kept(path) == {1001: "a", 1002: "b"}


def test_who_comes_while_it_is_closed_is_served_and_does_not_keep_it_from_closing(
    store: SqliteStorage, path: str
) -> None:
    with store._gate.hold():
        (first,) = queue_up(store, [job("first")])
        writer = store._intake._writer
        assert writer is not None
        closing_it = in_thread(store._intake.close)
        until(lambda: store._intake._writer is None)
        late = in_thread(partial(store.insert, [job("late")], now=NOON))
        until(lambda: store._intake._writer is not None)
    closing_it.result(LONG)
    assert not writer.is_alive()
    ids = {first.result(LONG)[0]: "first", late.result(LONG)[0]: "late"}
    assert kept(path) == ids
