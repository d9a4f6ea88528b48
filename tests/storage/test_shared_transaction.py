"""Handlers that share a transaction on SQLite: each keeps its own part, and is told when that is durable."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.storage.crew import NOON, Hand, ended, given_back, put, status
from tests.storage.threads import LONG, in_thread, until

from sidework.errors import DatabaseUnavailable, JobLost, SideworkError, TransactionOwned
from sidework.model.job import JobStatus, NewJob
from sidework.storage.sqlite.store import SqliteStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidework.model.job import ClaimedJob
    from sidework.storage.sqlite.transaction import SqliteJobTransaction

TABLES = """
CREATE TABLE effects (word TEXT);
CREATE TABLE parents (name TEXT PRIMARY KEY);
CREATE TABLE children (name TEXT REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
CREATE TRIGGER all_or_nothing BEFORE INSERT ON effects WHEN new.word = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;
"""
WRITE = "INSERT INTO effects VALUES (?)"
VIOLATE = "INSERT INTO children VALUES ('nobody''s')"
"""What a constraint refuses at the commit."""


def back_up(db: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(":memory:")) as target:
        db.backup(target)


class Member:
    """One job's handler, and what it is told."""

    def __init__(self, party: Party) -> None:
        self.job: ClaimedJob = party.claim()
        self.told: list[tuple[Exception | None, bool]] = []
        self.transaction: SqliteJobTransaction = party.shared.transaction(self.job.claim, self._concluded)
        self.db: Any = self.transaction.connection

    def _concluded(self, error: Exception | None, *, at_fault: bool) -> None:
        self.told.append((error, at_fault))

    def write(self, word: str) -> None:
        self.db.execute(WRITE, (word,))

    def end(self) -> bool:
        return self.transaction.commit(ended(self.job), now=NOON)

    @property
    def is_durable(self) -> bool:
        return [error for error, _at_fault in self.told] == [None]


class Party:
    """A worker whose handlers share."""

    def __init__(self, store: SqliteStorage, path: str) -> None:
        self.store = store
        self.path = path
        self.hand = Hand(store)
        self.shared = store.shared_transaction()
        self.all: list[Member] = []

    def claim(self) -> ClaimedJob:
        put(self.store)
        return self.hand.claim_one()

    def members(self, number: int) -> list[Member]:
        members = [Member(self) for _ in range(number)]
        self.all += members
        return members

    def words(self) -> list[str]:
        """Return what others see."""
        with closing(sqlite3.connect(self.path)) as other:
            return [word for (word,) in other.execute("SELECT word FROM effects ORDER BY rowid")]

    def status(self, member: Member) -> JobStatus:
        return status(self.store, member.job.id)

    def warm_up(self) -> None:
        """Let the connection learn what the statements are: one that it does not know yet is never shared."""
        connection = self.store._pool.take()
        connection._run_ours("PRAGMA foreign_keys = ON")
        self.store._pool.give(connection)
        [first] = self.members(1)
        first.write("warm")
        first.db.execute(VIOLATE)
        first.transaction.close()

    def ended_and_not_ended(self) -> tuple[Member, Member]:
        """Return one that has ended in the transaction, and one that has not written yet."""
        first, second = self.members(2)
        first.write("first")
        assert first.end()
        assert not first.told
        return first, second


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "app.db")


@pytest.fixture
def party(path: str) -> Iterator[Party]:
    store = SqliteStorage(path, wait=LONG)
    store.migrate()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLES)
    party = Party(store, path)
    party.warm_up()
    yield party
    for member in party.all:
        member.transaction.close()
    party.shared.finish()
    assert store._gate._turnstile.take_if_free(), "the write gate is still held"
    store._gate._turnstile.give()
    party.hand.seat.leave()
    store.close()


def test_what_several_wrote_is_seen_and_told_when_it_is_committed(party: Party):
    first, second = party.ended_and_not_ended()
    second.write("second")
    assert second.end()
    assert party.words() == []
    assert party.status(first) is party.status(second) is JobStatus.RUNNING
    assert party.shared.waiting == 2
    party.shared.finish()
    assert party.words() == ["first", "second"]
    assert party.status(first) is party.status(second) is JobStatus.COMPLETED
    assert first.is_durable
    assert second.is_durable
    assert party.shared.waiting == 0


def test_to_finish_where_nothing_waits_does_nothing(party: Party):
    party.shared.finish()
    [member] = party.members(1)
    member.write("x")
    party.shared.finish()
    assert party.words() == []
    assert member.end()
    party.shared.finish()
    party.shared.finish()
    assert member.is_durable


def test_who_rolls_back_undoes_nothing_of_the_others(party: Party):
    first, second, third = party.members(3)
    first.write("first")
    first.end()
    second.write("second")
    second.transaction.close()
    third.write("third")
    third.end()
    party.shared.finish()
    assert party.words() == ["first", "third"]
    assert party.status(second) is JobStatus.RUNNING
    assert not second.told


def test_the_first_one_that_rolls_back_takes_the_transaction_with_it(party: Party):
    first, second = party.members(2)
    first.write("first")
    first.transaction.close()
    assert party.store._gate.free
    second.write("second")
    second.end()
    party.shared.finish()
    assert party.words() == ["second"]


def test_who_was_superseded_writes_nothing_and_the_others_do(party: Party):
    first, second = party.members(2)
    party.hand.settle(given_back(second.job))
    first.write("first")
    first.end()
    with pytest.raises(JobLost):
        second.write("second")
    assert not second.end()
    party.shared.finish()
    assert party.words() == ["first"]
    assert first.is_durable
    assert not second.told


# ------------------------------------------------------------------------------------- before its own first write


def test_a_read_before_the_first_write_sees_what_is_committed(party: Party):
    first, second = party.ended_and_not_ended()
    assert second.db.execute("SELECT word FROM effects").fetchall() == [("first",)]
    assert first.is_durable
    assert party.words() == ["first"]


def test_a_statement_that_is_not_known_yet_runs_outside(party: Party):
    first, second = party.ended_and_not_ended()
    second.db.execute("INSERT INTO effects VALUES ('never seen before')")
    assert first.is_durable
    second.transaction.close()
    assert party.words() == ["first"]


def test_a_setting_before_the_first_write_takes_effect(party: Party):
    first, second = party.ended_and_not_ended()
    second.db.execute("PRAGMA foreign_keys = ON")
    assert first.is_durable
    assert second.db.execute("PRAGMA foreign_keys").fetchone() == (1,)


@pytest.mark.parametrize(
    "act",
    [
        lambda db: db.create_function("f", 0, lambda: 1),
        lambda db: db.serialize(),
        lambda db: list(db.iterdump()),
        back_up,
    ],
    ids=["function", "serialize", "dump", "backup"],
)
def test_what_concerns_the_whole_connection_happens_outside(party: Party, act: Callable[[Any], object]):
    first, second = party.ended_and_not_ended()
    act(second.db)
    assert first.is_durable


def test_a_cursor_may_be_made_before_the_first_write(party: Party):
    first, second = party.ended_and_not_ended()
    cursor = second.db.cursor()
    assert not first.told
    cursor.execute(WRITE, ("second",))
    assert not first.told
    second.end()
    party.shared.finish()
    assert party.words() == ["first", "second"]


def test_what_waits_is_cut_off_before_one_that_has_not_written(party: Party):
    first, second = party.ended_and_not_ended()
    cursor = second.db.cursor()
    in_thread(party.shared.cut).result(LONG)
    assert first.is_durable
    assert party.words() == ["first"]
    cursor.execute(WRITE, ("second",))
    second.end()
    party.shared.finish()
    assert party.words() == ["first", "second"]


def test_nothing_is_cut_off_once_the_next_one_has_written(party: Party):
    first, second = party.ended_and_not_ended()
    second.write("second")
    in_thread(party.shared.cut).result(LONG)
    in_thread(party.shared.finish).result(LONG)
    assert not first.told
    assert party.words() == []
    second.transaction.close()


def test_before_its_first_write_a_handler_may_write_by_other_ways(party: Party):
    first, second = party.ended_and_not_ended()
    [job_id] = party.store.insert([NewJob(key="other")], now=NOON)
    assert first.is_durable
    second.write("second")
    with pytest.raises(SideworkError, match="would wait for itself"):
        party.store.insert([NewJob(key="other")], now=NOON)
    second.transaction.close()
    assert party.store.get(job_id) is not None


def test_a_block_shares_with_nobody(party: Party):
    first, second = party.ended_and_not_ended()
    second.transaction.begin()
    assert first.is_durable
    second.write("second")
    assert second.end()
    assert party.words() == ["first", "second"]
    assert not second.told


# ------------------------------------------------------------------------------------------------ when it goes wrong


def test_who_is_ended_from_outside_leaves_the_others_committed(party: Party):
    first, second = party.ended_and_not_ended()
    second.write("second")
    in_thread(second.transaction.abort).result(LONG)
    assert first.is_durable
    assert party.words() == ["first"]
    with pytest.raises(JobLost):
        second.write("more")
    assert not second.end()


def test_when_the_database_undoes_everything_all_are_told(party: Party):
    first, second = party.ended_and_not_ended()
    with pytest.raises(sqlite3.IntegrityError):
        second.write("bad")
    [(error, at_fault)] = first.told
    assert isinstance(error, sqlite3.IntegrityError)
    assert not at_fault
    with pytest.raises(DatabaseUnavailable, match="undone the whole transaction"):
        second.write("more")
    second.transaction.close()
    assert party.words() == []
    assert party.status(first) is JobStatus.RUNNING


def test_a_write_that_is_interrupted_from_outside_undoes_everything_and_all_are_told(party: Party):
    first, second = party.ended_and_not_ended()
    second.write("second")
    many = "INSERT INTO effects WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    endless = in_thread(lambda: second.db.execute(many))
    until(lambda: party.shared.depth > 0)  # it is about to run, and never ends by itself
    second.transaction.abort()
    with pytest.raises(JobLost):
        endless.result(LONG)
    [(error, at_fault)] = first.told
    assert error is not None
    assert not at_fault
    assert party.words() == []


def test_a_commit_that_fails_is_nobodys_fault_where_several_share(party: Party):
    first, second = party.ended_and_not_ended()
    second.db.execute(VIOLATE)
    second.end()
    party.shared.finish()
    for member in (first, second):
        [(error, at_fault)] = member.told
        assert isinstance(error, sqlite3.IntegrityError)
        assert not at_fault
    assert party.words() == []
    assert party.status(first) is party.status(second) is JobStatus.RUNNING


def test_a_commit_that_fails_is_the_fault_of_who_is_alone_in_it(party: Party):
    [member] = party.members(1)
    member.db.execute(VIOLATE)
    member.end()
    party.shared.finish()
    [(error, at_fault)] = member.told
    assert isinstance(error, sqlite3.IntegrityError)
    assert at_fault


def test_nothing_is_committed_into_a_file_that_was_replaced(party: Party):
    first, second = party.ended_and_not_ended()
    second.write("second")
    second.end()
    Path(party.path).rename(f"{party.path}.moved")
    party.shared.finish()
    for member in (first, second):
        [(error, _at_fault)] = member.told
        assert isinstance(error, DatabaseUnavailable)
    Path(f"{party.path}.moved").rename(party.path)
    assert party.words() == []


def test_a_forked_child_commits_nothing(party: Party, monkeypatch: pytest.MonkeyPatch):
    first, _second = party.ended_and_not_ended()
    with monkeypatch.context() as child:
        child.setattr(party.store._gate, "_process", -1)
        party.shared.finish()
        party.shared.cut()
        assert not first.told
    party.shared.finish()
    assert first.is_durable


# ----------------------------------------------------------------------------------------------- each on its own


@pytest.mark.parametrize("what", ["SAVEPOINT", "RELEASE", "ROLLBACK TO"])
@pytest.mark.parametrize("name", ["sidework_job", "SideWork_Job", '"sidework_job"'])
def test_the_savepoint_between_them_is_nobodys(party: Party, what: str, name: str):
    first, second = party.ended_and_not_ended()
    second.write("second")
    with pytest.raises(TransactionOwned):
        second.db.execute(f"{what} {name}")
    second.end()
    party.shared.finish()
    assert party.words() == ["first", "second"]
    assert first.is_durable


def test_savepoints_of_one_do_not_reach_the_next(party: Party):
    first, second = party.members(2)
    first.write("first")
    first.db.execute("SAVEPOINT mine")
    first.write("first again")
    first.end()
    second.write("second")
    with pytest.raises(sqlite3.OperationalError, match="no such savepoint"):
        second.db.execute("ROLLBACK TO mine")
    second.end()
    party.shared.finish()
    assert party.words() == ["first", "first again", "second"]


def test_the_last_ones_connection_and_cursors_are_shut(party: Party):
    first, second = party.members(2)
    cursor = first.db.execute(WRITE, ("first",))
    first.end()
    second.write("second")
    with pytest.raises(sqlite3.ProgrammingError):
        first.write("late")
    with pytest.raises(sqlite3.ProgrammingError):
        cursor.execute(WRITE, ("late",))
    second.end()
    party.shared.finish()
    assert party.words() == ["first", "second"]


def test_a_connection_that_was_changed_is_not_for_the_next(party: Party):
    first, second = party.members(2)
    first.write("first")
    first.db.create_function("of_the_first", 0, lambda: 1)
    first.end()
    assert first.is_durable
    with pytest.raises(sqlite3.OperationalError, match="no such function"):
        second.db.execute("SELECT of_the_first()")
