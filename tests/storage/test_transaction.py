"""A handler's `db` on SQLite: reads alone, the first write begins, and only the service ends it."""

from __future__ import annotations

import inspect
import re
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.storage.crew import NOON, Hand, at, ended, given_back, job, look, put, status
from tests.storage.threads import LONG, in_thread, until

from sidework.errors import DatabaseBusy, DatabaseUnavailable, JobLost, SideworkError, TransactionOwned
from sidework.model.job import JobStatus
from sidework.storage.sqlite import pool
from sidework.storage.sqlite.store import SqliteStorage
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidework.model.job import ClaimedJob
    from sidework.storage.sqlite.transaction import SqliteJobTransaction

TABLES = """
CREATE TABLE accounts (name TEXT PRIMARY KEY, cents INTEGER);
INSERT INTO accounts VALUES ('a', 100), ('b', 200), ('c', 300);
CREATE TABLE effects (id INTEGER PRIMARY KEY, n, data BLOB);
CREATE TABLE child (p REFERENCES accounts (name) DEFERRABLE INITIALLY DEFERRED);
CREATE VIRTUAL TABLE words USING fts5 (n);
CREATE TRIGGER all_or_nothing BEFORE INSERT ON effects WHEN new.n = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'not this'); END;
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "app.db")


@pytest.fixture
def store(path: str) -> Iterator[SqliteStorage]:
    store = SqliteStorage(path, wait=LONG)
    store.migrate()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLES)
    yield store
    store.close()


@pytest.fixture
def hand(store: SqliteStorage) -> Iterator[Hand]:
    worker = Hand(store)
    yield worker
    worker.seat.leave()


@pytest.fixture
def held(hand: Hand) -> ClaimedJob:
    return claim(hand)


@pytest.fixture
def transaction(store: SqliteStorage, held: ClaimedJob) -> Iterator[SqliteJobTransaction]:
    transaction = store.transaction(held.claim)
    yield transaction
    transaction.close()
    assert_the_gate_is_free(store)


@pytest.fixture
def db(transaction: SqliteJobTransaction) -> sqlite3.Connection:
    return as_handlers_see_it(transaction)


def as_handlers_see_it(transaction: SqliteJobTransaction) -> sqlite3.Connection:
    connection: Any = transaction.connection
    assert isinstance(connection, sqlite3.Connection)
    return connection


def has_begun(transaction: SqliteJobTransaction) -> bool:
    return transaction.begun


def claim(hand: Hand) -> ClaimedJob:
    put(hand.storage)
    return hand.claim_one()


def assert_the_gate_is_free(store: SqliteStorage) -> None:
    assert store._gate._turnstile.take_if_free(), "the write gate is still held"
    store._gate._turnstile.give()


def seen_by_others(path: str, sql: str = "SELECT COUNT(*) FROM effects") -> Any:
    with closing(sqlite3.connect(path)) as other:
        rows = other.execute(sql).fetchall()
    return rows[0][0] if len(rows) == 1 and len(rows[0]) == 1 else rows


def somebody_commits(path: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE accounts SET cents = cents + 1")
        other.commit()


# ------------------------------------------------------------------------------------------------ reads alone


def test_each_read_stands_alone_and_sees_the_newest_data(
    store: SqliteStorage, path: str, transaction: SqliteJobTransaction, db: sqlite3.Connection
) -> None:
    read = "SELECT cents FROM accounts WHERE name = ?"
    assert db.execute(read, ("a",)).fetchone() == (100,)
    somebody_commits(path)
    assert db.execute(read, ("a",)).fetchone() == (101,)
    assert not transaction.begun
    assert not db.in_transaction
    assert_the_gate_is_free(store)


@pytest.mark.parametrize(
    "sql",
    [
        "WITH n AS (SELECT 1 AS x) SELECT x FROM n",
        "SELECT COUNT(*), MAX(cents) FROM accounts WHERE json_extract('[1]', '$[0]') = 1",
        "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 5) SELECT i FROM n",
        "EXPLAIN QUERY PLAN SELECT * FROM accounts",
        "PRAGMA user_version",
        "PRAGMA table_info(accounts)",
        "SELECT name FROM pragma_table_info('accounts')",
        "SELECT value FROM json_each('[1, 2]')",
        "SELECT n FROM words WHERE words MATCH 'one'",
        "PRAGMA foreign_keys = ON",
    ],
)
def test_what_only_reads_does_not_begin(transaction: SqliteJobTransaction, db: sqlite3.Connection, sql: str) -> None:
    db.execute(sql).fetchall()
    assert not transaction.begun


def test_others_may_commit_between_a_read_and_the_first_write(
    transaction: SqliteJobTransaction, held: ClaimedJob, path: str, db: sqlite3.Connection
) -> None:
    (before,) = db.execute("SELECT cents FROM accounts WHERE name = 'a'").fetchone()
    somebody_commits(path)
    db.execute("UPDATE accounts SET cents = cents + ? WHERE name = 'a'", (before,))
    assert transaction.commit(ended(held), now=NOON)
    assert seen_by_others(path, "SELECT cents FROM accounts WHERE name = 'a'") == 201


FETCHES: dict[str, Callable[[sqlite3.Cursor], list[Any]]] = {
    "iteration": list,
    "fetchone": lambda cursor: list(iter(cursor.fetchone, None)),
    "fetchmany": lambda cursor: [*cursor.fetchmany(1), *cursor.fetchmany(99), *cursor.fetchmany()],
    "fetchall": lambda cursor: [*cursor.fetchall(), *cursor.fetchall()],
}


@pytest.mark.parametrize("how", FETCHES)
def test_a_read_that_is_half_done_goes_on_over_the_first_write(
    transaction: SqliteJobTransaction, held: ClaimedJob, path: str, db: sqlite3.Connection, how: str
) -> None:
    cursor = db.execute("SELECT name, cents FROM accounts ORDER BY name")
    first = next(cursor)
    somebody_commits(path)
    db.execute("UPDATE accounts SET cents = 0 WHERE name = ?", (first[0],))
    assert FETCHES[how](cursor) == [("b", 200), ("c", 300)]
    with pytest.raises(StopIteration):
        next(cursor)
    assert db.execute("SELECT cents FROM accounts WHERE name = 'b'").fetchone() == (201,)
    assert transaction.commit(ended(held), now=NOON)


def test_a_cursor_that_was_read_ahead_can_be_used_anew(db: sqlite3.Connection) -> None:
    cursor = db.execute("SELECT name FROM accounts ORDER BY name")
    next(cursor)
    db.execute("INSERT INTO effects (n) VALUES (1)")
    assert cursor.execute("SELECT 7").fetchall() == [(7,)]


# ---------------------------------------------------------------------------------- the first write begins

INSERT = "INSERT INTO effects (n) VALUES (1)"


def write_blob(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO effects (id, data) VALUES (77, zeroblob(4))")
    with db.blobopen("effects", "data", 77) as blob:
        blob.write(b"abcd")


WRITES: dict[str, Callable[[sqlite3.Connection], object]] = {
    "INSERT": lambda db: db.execute(INSERT),
    "a cursor": lambda db: db.cursor().execute(INSERT),
    "WITH ... INSERT": lambda db: db.execute("WITH v (x) AS (SELECT 9) INSERT INTO effects (n) SELECT x FROM v"),
    "a comment before": lambda db: db.execute("/* SELECT */ -- 1\n  insert into effects (n) values (1)"),
    "UPDATE": lambda db: db.execute("UPDATE accounts SET cents = 0"),
    "DELETE": lambda db: db.execute("DELETE FROM accounts"),
    "REPLACE": lambda db: db.execute("REPLACE INTO accounts VALUES ('a', 5)"),
    "RETURNING": lambda db: db.execute("INSERT INTO effects (n) VALUES (1) RETURNING id").fetchone(),
    "executemany": lambda db: db.executemany("INSERT INTO effects (n) VALUES (?)", [(1,), (2,)]),
    "executemany of a generator": lambda db: db.executemany("INSERT INTO effects (n) VALUES (?)", ((n,) for n in "ab")),
    "CREATE TABLE": lambda db: db.execute("CREATE TABLE made (x)"),
    "ALTER TABLE": lambda db: db.execute("ALTER TABLE effects ADD COLUMN more"),
    "DROP TABLE": lambda db: db.execute("DROP TABLE child"),
    "CREATE INDEX": lambda db: db.execute("CREATE INDEX i ON effects (n)"),
    "ANALYZE": lambda db: db.execute("ANALYZE"),
    "PRAGMA user_version": lambda db: db.execute("PRAGMA user_version = 5"),
    "PRAGMA optimize": lambda db: db.execute("PRAGMA optimize"),
    "SAVEPOINT": lambda db: (db.execute("SAVEPOINT s"), db.execute(INSERT), db.execute("RELEASE s")),
    "a blob": write_blob,
}


def dump(path: str) -> tuple[list[str], int]:
    """Return all that handlers of these tests can change."""
    with closing(sqlite3.connect(path)) as other:
        lines = [line for line in other.iterdump() if "background_service" not in line]
        return lines, other.execute("PRAGMA user_version").fetchone()[0]


@pytest.mark.parametrize("how", WRITES)
def test_whatever_writes_begins_and_is_undone_or_kept_with_the_job(
    store: SqliteStorage, hand: Hand, path: str, how: str
) -> None:
    before = dump(path)
    # The second one finds the statement in the cache of the connection that the first one used.
    for _ in range(2):
        undone = store.transaction(claim(hand).claim)
        WRITES[how](as_handlers_see_it(undone))
        assert undone.begun
        assert dump(path) == before
        undone.close()
        assert dump(path) == before
    held = claim(hand)
    kept = store.transaction(held.claim)
    WRITES[how](as_handlers_see_it(kept))
    assert kept.begun
    assert kept.commit(ended(held), now=NOON)
    assert how in {"ANALYZE", "PRAGMA optimize"} or dump(path) != before
    assert status(store, held.id) is JobStatus.COMPLETED


def test_opening_a_blob_for_writing_begins(store: SqliteStorage, hand: Hand, path: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("INSERT INTO effects (id, data) VALUES (7, 'abcd')")
        other.commit()
    transaction = store.transaction(claim(hand).claim)
    db = as_handlers_see_it(transaction)
    with db.blobopen("effects", "data", 7, readonly=True) as blob:
        assert blob.read() == b"abcd"
    assert not has_begun(transaction)
    with db.blobopen("effects", "data", 7) as blob:
        assert has_begun(transaction)
        blob.write(b"wxyz")
    transaction.close()
    assert seen_by_others(path, "SELECT data FROM effects") == "abcd"


@pytest.mark.parametrize("breaks", ["the parameters", "a generator"])
def test_a_write_that_failed_after_it_was_prepared_still_begins_the_next_time(
    store: SqliteStorage, hand: Hand, path: str, breaks: str
) -> None:
    sql = "INSERT INTO effects (n) VALUES (?)"

    def broken() -> Iterator[tuple[int]]:
        yield from {"": ()}["nothing here"]

    first = store.transaction(claim(hand).claim)
    db = as_handlers_see_it(first)
    first.begin()
    with pytest.raises((sqlite3.Error, KeyError)):
        db.execute(sql, (object(),)) if breaks == "the parameters" else db.executemany(sql, broken())
    first.close()
    second = store.transaction(claim(hand).claim)
    as_handlers_see_it(second).execute(sql, (1,))
    assert second.begun
    second.close()
    assert seen_by_others(path) == 0


def test_a_statement_within_a_statement_does_not_hide_that_the_outer_one_writes(
    store: SqliteStorage, hand: Hand
) -> None:
    sql = "INSERT INTO effects (n) SELECT inner_read()"
    held = claim(hand)
    first = store.transaction(held.claim)
    db = as_handlers_see_it(first)
    db.create_function("inner_read", 0, lambda: db.execute("SELECT 1").fetchone()[0])
    first.begin()
    db.execute(sql)
    assert first._underneath is not None
    assert first._underneath.kinds[sql] is pool.Kind.WRITE
    first.close()


def test_savepoints_undo_a_part(
    transaction: SqliteJobTransaction, held: ClaimedJob, db: sqlite3.Connection, path: str
) -> None:
    db.execute("INSERT INTO effects (n) VALUES (1)")
    db.execute("SAVEPOINT part")
    db.execute("INSERT INTO effects (n) VALUES (2)")
    db.execute("ROLLBACK TO part")
    db.execute("RELEASE part")
    assert transaction.commit(ended(held), now=NOON)
    assert seen_by_others(path, "SELECT n FROM effects") == 1


def test_the_fence_is_checked_by_the_first_write(store: SqliteStorage, hand: Hand, held: ClaimedJob, path: str) -> None:
    hand.settle(given_back(held))
    hand.claim_one()
    transaction = store.transaction(held.claim)
    db = as_handlers_see_it(transaction)
    assert db.execute("SELECT COUNT(*) FROM accounts").fetchone() == (3,)
    for _ in range(2):
        with pytest.raises(JobLost, match="no longer held by this attempt"):
            db.execute(INSERT)
        assert not transaction.begun
        assert_the_gate_is_free(store)
    assert not transaction.commit(ended(held), now=NOON)
    assert seen_by_others(path) == 0


def test_a_locked_database_is_said_to_be_busy_and_the_handler_may_try_again(
    path: str, store: SqliteStorage, hand: Hand
) -> None:
    held = claim(hand)
    hasty = SqliteStorage(path, wait=0.02)
    transaction = hasty.transaction(held.claim)
    db = as_handlers_see_it(transaction)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for act in (lambda: db.execute(INSERT), transaction.begin, lambda: transaction.commit(ended(held), now=NOON)):
            with pytest.raises(DatabaseBusy, match="This process itself holds the write lock"):
                act()
            assert_the_gate_is_free(hasty)
        other.execute("ROLLBACK")
    db.execute(INSERT)
    assert transaction.commit(ended(held), now=NOON)
    assert seen_by_others(path) == 1
    hasty.close()


# ------------------------------------------------------------------------------------ only the service ends it


def by_name(name: str) -> Callable[[sqlite3.Connection], object]:
    return lambda db: getattr(db, name)()


REFUSED: dict[str, Callable[[sqlite3.Connection], object]] = {
    "commit()": by_name("commit"),
    "rollback()": by_name("rollback"),
    "close()": by_name("close"),
    "with db": by_name("__enter__"),
    "executescript": lambda db: db.executescript("SELECT 1"),
    "executescript of a cursor": lambda db: db.cursor().executescript("SELECT 1"),
    "COMMIT": lambda db: db.execute("COMMIT"),
    "commit, commented": lambda db: db.execute(" /* now */ commit transaction"),
    "END": lambda db: db.execute("END"),
    "ROLLBACK": lambda db: db.execute("ROLLBACK"),
    "BEGIN": lambda db: db.execute("BEGIN"),
    "BEGIN IMMEDIATE": lambda db: db.execute("BEGIN IMMEDIATE"),
    "COMMIT by a cursor": lambda db: db.cursor().execute("COMMIT"),
    "COMMIT by executemany": lambda db: db.executemany("COMMIT", [()]),
    "isolation_level": lambda db: setattr(db, "isolation_level", "DEFERRED"),
    "autocommit": lambda db: setattr(db, "autocommit", True),
    "ATTACH": lambda db: db.execute("ATTACH ':memory:' AS other"),
    "DETACH": lambda db: db.execute("DETACH main"),
    "journal_mode": lambda db: db.execute("PRAGMA journal_mode = DELETE"),
    "synchronous": lambda db: db.execute("PRAGMA main.synchronous = OFF"),
    "query_only": lambda db: db.execute("PRAGMA Query_Only(1)"),
    "set_authorizer": lambda db: db.set_authorizer(None),
    "deserialize": lambda db: db.deserialize(b""),
    "a cursor of another class": lambda db: db.cursor(type("Mine", (sqlite3.Cursor,), {})),
}


@pytest.mark.parametrize("how", REFUSED)
@pytest.mark.parametrize("begun", [False, True], ids=["before a write", "after a write"])
def test_ending_the_transaction_is_refused_and_ends_nothing(
    store: SqliteStorage, hand: Hand, path: str, how: str, begun: bool
) -> None:
    # Twice: what SQLite's parser is not asked again, because the statement is cached, is refused as well.
    for _ in range(2):
        held = claim(hand)
        transaction = store.transaction(held.claim)
        db = as_handlers_see_it(transaction)
        if begun:
            db.execute(INSERT)
        with pytest.raises(TransactionOwned):
            REFUSED[how](db)
        assert transaction.begun == begun
        assert seen_by_others(path) == 0
        transaction.close()
        assert seen_by_others(path) == 0
        assert status(store, held.id) is JobStatus.RUNNING


@pytest.mark.parametrize("begun", [False, True], ids=["before a write", "after a write"])
def test_a_vacuum_is_refused(store: SqliteStorage, hand: Hand, path: str, begun: bool) -> None:
    transaction = store.transaction(claim(hand).claim)
    db = as_handlers_see_it(transaction)
    if begun:
        db.execute(INSERT)
    with pytest.raises((TransactionOwned, sqlite3.OperationalError)):
        db.execute("VACUUM")
    transaction.close()
    assert seen_by_others(path) == 0


def test_after_a_refusal_the_handler_may_go_on(
    transaction: SqliteJobTransaction, held: ClaimedJob, db: sqlite3.Connection, path: str
) -> None:
    db.execute(INSERT)
    with pytest.raises(TransactionOwned, match=r"committed with the job when the handler returns.*SAVEPOINT works"), db:
        pass
    db.execute(INSERT)
    assert transaction.commit(ended(held), now=NOON)
    assert seen_by_others(path) == 2


def test_the_statements_of_the_service_are_refused_to_handlers_word_by_word(
    transaction: SqliteJobTransaction, held: ClaimedJob, db: sqlite3.Connection
) -> None:
    transaction.begin()
    for name in ("begin", "commit", "roll_back"):
        with pytest.raises(TransactionOwned):
            db.execute(pool.SQL[name])
    assert transaction.commit(ended(held), now=NOON)


# ---------------------------------------------------------------------------------------------------- the end


def test_a_job_without_a_write_is_settled_by_the_commit_alone(
    store: SqliteStorage, transaction: SqliteJobTransaction, held: ClaimedJob
) -> None:
    assert transaction.commit(ended(held, result="[1]"), now=at(3))
    assert look(store, held.id).result == [1]


@pytest.mark.parametrize(
    "changes",
    [
        {"status": JobStatus.COMPLETED, "result": '{"a": 1}'},
        {"status": JobStatus.FAILED, "error": "it broke \udcff"},
        {"status": JobStatus.CANCELLED, "error": "cancelled"},
        {"status": JobStatus.SCHEDULED, "run_at": at(60.0001), "error": "again"},
        {"status": JobStatus.SCHEDULED, "run_at": at(60), "error": None},
        {"status": JobStatus.PENDING, "attempts": 0, "crashes": 2},
    ],
)
def test_an_outcome_is_written_as_the_engines_turn_writes_it(
    store: SqliteStorage, hand: Hand, path: str, changes: dict[str, Any]
) -> None:
    put(store, job(priority=2), job(priority=1))
    by_turn, by_transaction = hand.claim()
    for each in (by_turn, by_transaction):
        hand.settle(ended(each, JobStatus.SCHEDULED, run_at=at(1), error="the error before"))
    by_turn, by_transaction = hand.claim(time=1)
    hand.settle(ended(by_turn, **changes), time=7)
    transaction = store.transaction(by_transaction.claim)
    assert transaction.commit(ended(by_transaction, **changes), now=at(7))
    with closing(sqlite3.connect(path)) as other:
        other.row_factory = sqlite3.Row
        first, second = (dict(row) for row in other.execute("SELECT * FROM background_service_jobs ORDER BY id"))
    assert {**first, "id": 0, "priority": 0} == {**second, "id": 0, "priority": 0}


def test_both_ways_of_settling_set_the_same_columns_by_the_same_rules() -> None:
    def rules(sql: str, end: str) -> list[str]:
        (found,) = re.findall(rf"SET (.*?)\n{end}", sql, re.DOTALL)
        return re.sub(r"\bo\.", ":", found).split(",\n    ")

    folder = Path(inspect.getfile(pool)).parent
    many, one = load(folder / "queries.sql")["settle"], load(folder / "transaction.sql")["settle_one"]
    assert rules(one, "WHERE") == rules(many, "FROM")


def test_a_commit_that_the_database_refuses_undoes_everything(
    store: SqliteStorage, transaction: SqliteJobTransaction, held: ClaimedJob, db: sqlite3.Connection, path: str
) -> None:
    db.execute("PRAGMA foreign_keys = ON")
    db.execute(INSERT)
    db.execute("INSERT INTO child VALUES ('nobody')")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        transaction.commit(ended(held), now=NOON)
    assert_the_gate_is_free(store)
    assert seen_by_others(path) == 0
    assert status(store, held.id) is JobStatus.RUNNING


def test_a_handler_cannot_go_on_after_the_database_has_undone_its_writes(
    store: SqliteStorage, transaction: SqliteJobTransaction, held: ClaimedJob, db: sqlite3.Connection, path: str
) -> None:
    db.execute(INSERT)
    with pytest.raises(sqlite3.IntegrityError, match="not this"):
        db.execute("INSERT INTO effects (n) VALUES ('bad')")
    assert_the_gate_is_free(store)
    assert transaction.held_for > 0
    for act in (lambda: db.execute(INSERT), lambda: db.execute("SELECT 1"), transaction.begin):
        with pytest.raises(DatabaseUnavailable, match="undone the whole transaction"):
            act()
    with pytest.raises(sqlite3.IntegrityError, match="not this"):
        transaction.commit(ended(held), now=NOON)
    assert seen_by_others(path) == 0
    assert status(store, held.id) is JobStatus.RUNNING


def test_a_first_write_that_undoes_everything_is_noticed_too(
    store: SqliteStorage, transaction: SqliteJobTransaction, db: sqlite3.Connection
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="not this"):
        db.execute("INSERT INTO effects (n) VALUES ('bad')")
    assert not transaction.begun
    with pytest.raises(DatabaseUnavailable):
        db.execute(INSERT)


USES: dict[str, Callable[[sqlite3.Connection, sqlite3.Cursor], object]] = {
    "execute": lambda db, _: db.execute("DELETE FROM effects"),
    "a read": lambda db, _: db.execute("SELECT 1"),
    "executemany": lambda db, _: db.executemany("DELETE FROM effects WHERE n = ?", [(1,)]),
    "a new cursor": lambda db, _: db.cursor(),
    "an old cursor": lambda _, cursor: cursor.execute("DELETE FROM effects"),
    "its next row": lambda _, cursor: next(cursor),
    "its rows": lambda _, cursor: cursor.fetchall(),
    "a blob": lambda db, _: db.blobopen("effects", "data", 1),
    "a function": lambda db, _: db.create_function("f", 0, int),
}


@pytest.mark.parametrize("how", USES)
@pytest.mark.parametrize("end", ["commit", "close", "abort"])
def test_after_the_end_nothing_can_be_done_with_what_the_handler_kept(
    store: SqliteStorage, hand: Hand, path: str, how: str, end: str
) -> None:
    held = claim(hand)
    transaction = store.transaction(held.claim)
    db = as_handlers_see_it(transaction)
    db.execute("INSERT INTO effects (n) VALUES (1)")
    cursor = db.execute("SELECT name FROM accounts")
    next(cursor)
    transaction.commit(ended(held), now=NOON) if end == "commit" else getattr(transaction, end)()
    # The next job uses the same connection underneath, unless the attempt was aborted.
    following = claim(hand)
    successor = store.transaction(following.claim)
    as_handlers_see_it(successor).execute("INSERT INTO effects (n) VALUES (2)")
    with pytest.raises(JobLost if end == "abort" else sqlite3.ProgrammingError):
        USES[how](db, cursor)
    assert successor.commit(ended(following), now=NOON)
    assert seen_by_others(path) == (2 if end == "commit" else 1)


def test_ending_twice_changes_nothing(store: SqliteStorage, hand: Hand, path: str) -> None:
    held = claim(hand)
    transaction = store.transaction(held.claim)
    as_handlers_see_it(transaction).execute(INSERT)
    assert transaction.commit(ended(held), now=NOON)
    transaction.close()
    transaction.abort()
    assert not transaction.commit(ended(held), now=NOON)
    assert seen_by_others(path) == 1
    assert_the_gate_is_free(store)


def test_a_read_left_half_done_does_not_pin_the_log(store: SqliteStorage, hand: Hand, path: str) -> None:
    held = claim(hand)
    transaction = store.transaction(held.claim)
    kept_by_the_handler = as_handlers_see_it(transaction).execute("SELECT name FROM accounts")
    next(kept_by_the_handler)
    assert transaction.commit(ended(held), now=NOON)
    somebody_commits(path)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def test_a_write_whose_rows_were_not_all_read_does_not_keep_the_job_from_being_committed(
    transaction: SqliteJobTransaction, held: ClaimedJob, db: sqlite3.Connection, path: str
) -> None:
    kept_by_the_handler = db.execute("INSERT INTO effects (n) VALUES (1), (2) RETURNING id")
    next(kept_by_the_handler)
    assert transaction.commit(ended(held), now=NOON)
    assert seen_by_others(path) == 2


def test_how_long_the_write_lock_was_held_is_told(
    transaction: SqliteJobTransaction, held: ClaimedJob, db: sqlite3.Connection
) -> None:
    db.execute("SELECT 1").fetchone()
    assert transaction.held_for == 0
    db.execute(INSERT)
    during = transaction.held_for
    assert 0 < during <= transaction.held_for
    assert transaction.commit(ended(held), now=NOON)
    after = transaction.held_for
    assert after > during
    assert transaction.held_for == after


# ------------------------------------------------------------------------------------------------------ abort

ENDLESS = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) {} SELECT MAX(i) FROM n"


@pytest.mark.parametrize("sql", [ENDLESS.format(""), ENDLESS.format("INSERT INTO effects (n)")], ids=["read", "write"])
def test_an_abort_ends_a_statement_that_runs(store: SqliteStorage, held: ClaimedJob, path: str, sql: str) -> None:
    transaction = store.transaction(held.claim)
    db = as_handlers_see_it(transaction)
    running = threading.Event()
    db.create_function("started", 0, running.set)
    db.execute(INSERT)
    handler = in_thread(lambda: db.execute(sql.replace("VALUES (1)", "SELECT 1 + (started() IS NOT NULL)")).fetchall())
    assert running.wait(LONG)
    transaction.abort()
    with pytest.raises(JobLost):
        handler.result(LONG)
    until(lambda: not transaction.begun)
    assert_the_gate_is_free(store)
    assert seen_by_others(path) == 0


def test_an_abort_reaches_who_waits_for_its_turn_to_write(store: SqliteStorage, held: ClaimedJob, path: str) -> None:
    transaction = store.transaction(held.claim)
    hold = store._gate.hold()
    handler = in_thread(lambda: as_handlers_see_it(transaction).execute(INSERT))
    until(lambda: transaction._waiting)
    transaction.abort()
    transaction.abort()
    assert not handler.done()
    hold.release()
    with pytest.raises(JobLost):
        handler.result(LONG)
    assert_the_gate_is_free(store)
    assert seen_by_others(path) == 0


def test_an_abort_frees_the_lock_of_a_thread_that_does_something_else(
    store: SqliteStorage, hand: Hand, held: ClaimedJob, path: str
) -> None:
    transaction = store.transaction(held.claim)
    wrote, go_on = threading.Event(), threading.Event()

    def handler() -> None:
        db = as_handlers_see_it(transaction)
        cursor = db.execute("SELECT name FROM accounts")
        next(cursor)
        db.execute(INSERT)
        wrote.set()
        assert go_on.wait(LONG)
        for act in (partial(db.execute, INSERT), partial(next, cursor), partial(transaction.insert, [job()], now=NOON)):
            with pytest.raises(JobLost):
                act()
        assert not transaction.commit(ended(held), now=NOON)

    abandoned = in_thread(handler)
    assert wrote.wait(LONG)
    in_thread(transaction.abort).result(LONG)
    assert_the_gate_is_free(store)
    assert seen_by_others(path) == 0
    # The job was taken back and is run again, while the old thread still lives: only the second one counts.
    hand.settle(given_back(held))
    again = hand.claim_one()
    successor = store.transaction(again.claim)
    as_handlers_see_it(successor).execute(INSERT)
    go_on.set()
    abandoned.result(LONG)
    assert successor.commit(ended(again), now=NOON)
    assert (seen_by_others(path), status(store, held.id)) == (1, JobStatus.COMPLETED)


def test_an_abort_that_comes_late_does_not_touch_the_next_job(store: SqliteStorage, hand: Hand, path: str) -> None:
    held = claim(hand)
    first = store.transaction(held.claim)
    as_handlers_see_it(first).execute(INSERT)
    underneath = first._underneath
    assert first.commit(ended(held), now=NOON)
    following = claim(hand)
    second = store.transaction(following.claim)
    as_handlers_see_it(second).execute(INSERT)
    assert second._underneath is underneath
    first.abort()
    assert second.commit(ended(following), now=NOON)
    assert seen_by_others(path) == 2


def test_an_abort_from_within_a_statement_waits_for_its_end(store: SqliteStorage, held: ClaimedJob, path: str) -> None:
    transaction = store.transaction(held.claim)
    db = as_handlers_see_it(transaction)
    db.create_function("give_up", 0, transaction.abort)
    db.execute(INSERT)
    with pytest.raises(JobLost):
        db.execute("SELECT give_up() FROM accounts, accounts AS b, accounts AS c").fetchall()
    assert_the_gate_is_free(store)
    assert seen_by_others(path) == 0


def test_aborts_at_any_time_leave_all_or_nothing(store: SqliteStorage, hand: Hand, path: str) -> None:
    for number in range(60):
        held = claim(hand)
        transaction = store.transaction(held.claim)

        def handler(transaction: SqliteJobTransaction = transaction, held: ClaimedJob = held) -> bool:
            db = as_handlers_see_it(transaction)
            for row in db.execute("SELECT name FROM accounts"):
                db.execute("INSERT INTO effects (n, data) VALUES (?, ?)", (held.id, row[0]))
            return transaction.commit(ended(held), now=NOON)

        running = in_thread(handler)
        for _ in range(number * 20):
            pass
        transaction.abort()
        try:
            committed = running.result(LONG)
        except JobLost:
            committed = False
        written = seen_by_others(path, f"SELECT COUNT(*) FROM effects WHERE n = {held.id}")
        expected = (3, JobStatus.COMPLETED) if committed else (0, JobStatus.RUNNING)
        assert (written, status(store, held.id)) == expected
        assert_the_gate_is_free(store)


# ------------------------------------------------------------------------------------ jobs of the handler's own


def test_jobs_are_inserted_in_the_transaction_and_begin_it(
    store: SqliteStorage, transaction: SqliteJobTransaction, held: ClaimedJob, db: sqlite3.Connection
) -> None:
    ids = transaction.insert([job(), job(unique_key="u")], now=NOON)
    assert transaction.begun
    assert store.get(ids[0]) is None
    (row,) = (db.execute("SELECT COUNT(*) FROM background_service_jobs WHERE status = 'PENDING'").fetchone(),)
    assert row == (2,)
    assert transaction.commit(ended(held), now=NOON)
    assert [status(store, job_id) for job_id in ids] == [JobStatus.PENDING] * 2


def test_a_list_of_jobs_that_the_database_refuses_leaves_the_rest_of_the_transaction(
    store: SqliteStorage, transaction: SqliteJobTransaction, held: ClaimedJob, db: sqlite3.Connection, path: str
) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON background_service_jobs WHEN new.job_key = 'bad' "
            "BEGIN SELECT RAISE(ABORT, 'no bad jobs'); END"
        )
    db.execute(INSERT)
    with pytest.raises(DatabaseUnavailable, match="no bad jobs"):
        transaction.insert([job(), job(unique_key="u"), job("bad")], now=NOON)
    assert transaction.commit(ended(held), now=NOON)
    assert seen_by_others(path) == 1
    assert seen_by_others(path, "SELECT COUNT(*) FROM background_service_jobs") == 1


def test_db_can_be_passed_on_as_db(
    store: SqliteStorage, hand: Hand, held: ClaimedJob, transaction: SqliteJobTransaction, db: sqlite3.Connection
) -> None:
    ids = store.insert_with(db, [job(), job(unique_key="u")], now=NOON)
    assert transaction.begun
    assert store.get(ids[0]) is None
    assert transaction.commit(ended(held), now=NOON)
    assert status(store, ids[0]) is JobStatus.PENDING


def test_writing_beside_the_transaction_is_refused_instead_of_waiting_for_itself(
    store: SqliteStorage, transaction: SqliteJobTransaction, db: sqlite3.Connection
) -> None:
    db.execute(INSERT)
    with pytest.raises(SideworkError, match="would wait for itself"):
        put(store)


# ----------------------------------------------------------------------------------------------- connections


def test_a_connection_is_used_for_the_next_job(store: SqliteStorage, hand: Hand) -> None:
    used = set()
    for _ in range(3):
        held = claim(hand)
        transaction = store.transaction(held.claim)
        as_handlers_see_it(transaction).execute(INSERT)
        used.add(transaction._underneath)
        assert transaction.commit(ended(held), now=NOON)
    assert len(used) == 1


CHANGES: dict[str, Callable[[sqlite3.Connection], object]] = {
    "text_factory": lambda db: setattr(db, "text_factory", bytes),
    "a function": lambda db: db.create_function("f", 0, int),
    "a collation": lambda db: db.create_collation("c", lambda *_: 0),
    "a trace": lambda db: db.set_trace_callback(print),
    "a progress handler": lambda db: db.set_progress_handler(lambda: 0, 1000),
    "a pragma": lambda db: db.execute("PRAGMA foreign_keys = ON"),
    "a temporary table": lambda db: db.execute("CREATE TEMP TABLE x (y)"),
    "a temporary view": lambda db: db.execute("CREATE TEMP VIEW x AS SELECT 1"),
    "a temporary virtual table": lambda db: db.execute("CREATE VIRTUAL TABLE temp.x USING rtree (a, b, c)"),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_connection_that_a_handler_has_changed_is_not_used_again(store: SqliteStorage, hand: Hand, how: str) -> None:
    held = claim(hand)
    first = store.transaction(held.claim)
    CHANGES[how](as_handlers_see_it(first))
    underneath = first._underneath
    assert first.commit(ended(held), now=NOON)
    second = store.transaction(claim(hand).claim)
    as_handlers_see_it(second).execute("SELECT 1")
    assert second._underneath is not underneath
    second.close()


def test_a_row_factory_is_the_handlers_own(store: SqliteStorage, hand: Hand) -> None:
    held = claim(hand)
    first = store.transaction(held.claim)
    db = as_handlers_see_it(first)
    db.row_factory = sqlite3.Row
    assert db.execute("SELECT cents FROM accounts WHERE name = 'a'").fetchone()["cents"] == 100
    db.execute(INSERT)
    assert first.insert([job()], now=NOON)
    underneath = first._underneath
    assert first.commit(ended(held), now=NOON)
    second = store.transaction(claim(hand).claim)
    assert as_handlers_see_it(second).execute("SELECT 1").fetchone() == (1,)
    assert second._underneath is underneath
    second.close()


def test_a_connection_that_has_seen_very_many_texts_is_given_up(
    store: SqliteStorage, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_MOST_TEXTS", 10)
    held = claim(hand)
    first = store.transaction(held.claim)
    for number in range(20):
        as_handlers_see_it(first).execute(f"INSERT INTO effects (n) VALUES ({number})")
    assert first._underneath is not None
    assert first._underneath.changed
    assert first.commit(ended(held), now=NOON)


def test_a_closed_store_gives_up_its_connections_and_opens_them_again(store: SqliteStorage, hand: Hand) -> None:
    held = claim(hand)
    first = store.transaction(held.claim)
    as_handlers_see_it(first).execute(INSERT)
    underneath = first._underneath
    assert first.commit(ended(held), now=NOON)
    store.close()
    assert underneath is not None
    with pytest.raises(sqlite3.ProgrammingError):
        sqlite3.Connection.execute(underneath, "SELECT 1")
    following = claim(hand)
    second = store.transaction(following.claim)
    as_handlers_see_it(second).execute(INSERT)
    assert second.commit(ended(following), now=NOON)


def test_nothing_is_opened_for_a_handler_that_does_not_use_it(store: SqliteStorage, held: ClaimedJob) -> None:
    transaction = store.transaction(held.claim)
    assert transaction.connection is transaction.connection
    assert not transaction.used
    transaction.close()


def test_it_does_what_a_connection_does(transaction: SqliteJobTransaction, db: sqlite3.Connection) -> None:
    cursor = db.execute("INSERT INTO effects (n) VALUES ('x')")
    assert (cursor.lastrowid, cursor.rowcount, db.total_changes > 0) == (1, 1, True)
    assert cursor.connection is db
    assert db.execute("SELECT n AS named FROM effects").description[0][0] == "named"
    with closing(db.cursor()) as closed:
        closed.execute("SELECT 1")
    with pytest.raises(db.ProgrammingError):
        closed.fetchone()
    with pytest.raises(db.IntegrityError):
        db.execute("INSERT INTO accounts VALUES ('a', 1)")
    with pytest.raises(db.OperationalError, match="no such table"):
        db.execute("INSERT INTO nowhere VALUES (1)")
    with pytest.raises(AttributeError):
        db.nothing_of_the_kind  # type: ignore[attr-defined] # noqa: B018
    assert any("effects" in line for line in db.iterdump())
    assert db.text_factory is str
    assert db.isolation_level is None
    db.interrupt()
    assert transaction.begun


def test_a_backup_can_be_taken_before_the_first_write_and_does_not_hang_after_it(
    transaction: SqliteJobTransaction, db: sqlite3.Connection, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        db.backup(copy)
        assert copy.execute("SELECT COUNT(*) FROM accounts").fetchone() == (3,)
        db.execute(INSERT)
        with pytest.raises(TransactionOwned, match="before the handler's first write"):
            db.backup(copy)


FORK = """
import os, sys
from sidework.errors import SideworkError
from sidework.model.job import Claim
from sidework.storage.sqlite.store import SqliteStorage

store = SqliteStorage(sys.argv[1])
first = store.transaction(Claim(1, 1))
first.connection.execute("SELECT 1").fetchall()
first.close()
child = os.fork()
if child == 0:
    for use in (lambda: store.transaction(Claim(1, 1)).connection.execute("SELECT 1"),):
        try:
            use()
        except SideworkError as error:
            os._exit(0 if "forked" in str(error) else 2)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_does_not_get_its_parents_connections(store: SqliteStorage, path: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORK, path], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "0\n"


# ------------------------------------------------------------------------------------------------ being killed

KILLED = """
import os, sqlite3, sys
from datetime import UTC, datetime
from pathlib import Path
from sidework.model.job import JobStatus, NewJob, NewWorker, Outcome
from sidework.storage.contract import Want
from sidework.storage.sqlite.store import SqliteStorage

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FOLDER, APART = Path(sys.argv[1]), sys.argv[2] == "apart"

def run(path, statement):
    store = SqliteStorage(path)
    store.migrate()
    setup = sqlite3.connect(path)
    setup.executescript("CREATE TABLE accounts (cents); INSERT INTO accounts VALUES (100); CREATE TABLE log (x)")
    seat = store.join(NewWorker(keys=frozenset("k"), queues=None, concurrency=1), now=NOW)
    store.insert([NewJob(key="k")], now=NOW)
    (held,) = store.exchange(seat.worker, (), Want(keys=frozenset("k"), room=1), now=NOW).claimed
    transaction = store.transaction(held.claim)
    seen = []

    def kill(sql):
        seen.append(sql)
        if len(seen) == statement:
            os._exit(9)

    effects = setup if APART else transaction.connection
    if APART:
        effects.isolation_level = None
    effects.set_trace_callback(kill)
    transaction.connection.set_trace_callback(kill)
    effects.execute("UPDATE accounts SET cents = cents - 30")
    effects.execute("INSERT INTO log VALUES (1)")
    done = Outcome(claim=held.claim, status=JobStatus.COMPLETED, attempts=1, crashes=0)
    assert transaction.commit(done, now=NOW)
    os._exit(0)

statement = 1
while True:
    child = os.fork()
    if child == 0:
        run(str(FOLDER / f"{statement:02}.db"), statement)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), code
    if code == 0:
        break
    statement += 1
print(statement - 1)
"""


def kill_at_every_statement(folder: Path, how: str) -> list[tuple[int, int, str]]:
    """Return, for each statement at whose beginning the process was killed, the balance, the log and the status."""
    command = [sys.executable, "-c", KILLED, str(folder), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    seen = []
    for file in sorted(folder.glob("*.db")):
        with closing(sqlite3.connect(file)) as connection:
            (cents,) = connection.execute("SELECT cents FROM accounts").fetchone()
            (lines,) = connection.execute("SELECT COUNT(*) FROM log").fetchone()
            (state,) = connection.execute("SELECT status FROM background_service_jobs").fetchone()
            seen.append((cents, lines, state))
    assert len(seen) == int(done.stdout) + 1, "the last one was not killed"
    return seen


NEITHER, BOTH = (100, 0, "RUNNING"), (70, 1, "COMPLETED")


def test_a_process_killed_at_any_statement_leaves_both_or_neither(tmp_path: Path) -> None:
    *killed, finished = kill_at_every_statement(tmp_path, "together")
    assert finished == BOTH
    assert set(killed) == {NEITHER}
    assert len(killed) >= len(["BEGIN", "fence", "UPDATE", "INSERT", "settle", "COMMIT"])


def test_the_same_kills_do_show_effects_that_were_committed_apart(tmp_path: Path) -> None:
    *killed, finished = kill_at_every_statement(tmp_path, "apart")
    assert finished == BOTH
    assert not set(killed) <= {NEITHER, BOTH}
