"""What the SQLite store must bear from others in the same file: their rows, triggers, constraints and locks."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest
from tests.storage.crew import NOON, Crew, Hand, at, ended, ids, job, look, put, status

from sidework.errors import DatabaseBusy
from sidework.model.job import EndedJob, JobStatus, NewJob, RetentionRule
from sidework.storage.contract import Want
from sidework.storage.open import open_storage
from sidework.storage.sqlite import rows
from sidework.storage.sqlite.store import SqliteStorage
from sidework.storage.sqlite.turn import Turning
from sidework.storage.statements import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidework.storage.contract import Storage

SEED_INSERT = (
    "INSERT INTO background_service_jobs (job_key, payload, priority, max_attempts, status) "
    "VALUES (?, ?, ?, ?, 'PENDING')"
)
REFUSE = """
CREATE TRIGGER refuse_some BEFORE UPDATE ON background_service_jobs WHEN NEW.result = '"bad"'
BEGIN SELECT RAISE(ABORT, 'the application forbids this'); END
"""


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Return the address of a SQLite file; what PostgreSQL must bear stands with its own tests."""
    return str(tmp_path / "app.db")


@pytest.fixture
def raw(storage: Storage, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Yield the application's own connection to the file of the store."""
    assert storage.name
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        yield connection


def test_a_row_from_any_program_is_a_job(storage: Storage, raw: sqlite3.Connection, hand: Hand) -> None:
    raw.execute(SEED_INSERT, ("k", '{"a": 1}', 5, 2))
    claimed = hand.claim_one()
    assert (claimed.payload, claimed.priority, claimed.max_attempts, claimed.claim.number) == ('{"a": 1}', 5, 2, 1)
    assert look(storage, claimed.id).payload == {"a": 1}


def test_an_outcome_that_the_database_refuses_does_not_hold_up_its_neighbours(
    storage: Storage, raw: sqlite3.Connection, hand: Hand
) -> None:
    given = put(storage, *(job() for _ in range(5)))
    raw.execute(REFUSE)
    held = hand.claim()
    results = ['"ok"', '"ok"', '"bad"', '"ok"', '"ok"']
    (more,) = put(storage)
    turn = hand.turn(*(ended(each, result=text) for each, text in zip(held, results, strict=True)), room=1)
    assert list(turn.failed) == [held[2].claim]
    assert "the application forbids this" in turn.failed[held[2].claim]
    assert turn.refused == frozenset()
    assert ids(turn.claimed) == [more]
    expected = [JobStatus.RUNNING if n == 2 else JobStatus.COMPLETED for n in range(5)]
    assert [status(storage, job_id) for job_id in given] == expected
    assert hand.settle(ended(held[2], JobStatus.FAILED)).failed == {}


def test_a_refused_and_a_stale_outcome_are_told_apart_in_one_batch(
    storage: Storage, raw: sqlite3.Connection, hand: Hand
) -> None:
    put(storage, job(), job(), job())
    raw.execute(REFUSE)
    good, bad, stale = hand.claim()
    hand.settle(ended(stale))
    turn = hand.settle(ended(good), ended(bad, result='"bad"'), ended(stale))
    assert (set(turn.failed), turn.refused) == ({bad.claim}, frozenset({stale.claim}))


def test_a_constraint_of_the_user_that_two_outcomes_break_fails_only_the_second(
    storage: Storage, raw: sqlite3.Connection, hand: Hand
) -> None:
    put(storage, job(), job(), job())
    raw.execute("CREATE UNIQUE INDEX one_result ON background_service_jobs (result)")
    held = hand.claim()
    turn = hand.settle(*(ended(each, result=text) for each, text in zip(held, ["1", "1", "2"], strict=True)))
    assert len(turn.failed) == 1
    assert set(turn.failed) < {held[0].claim, held[1].claim}
    assert storage.counts()[JobStatus.COMPLETED] == 2


def test_of_jobs_put_in_together_all_or_none_exist(storage: Storage, raw: sqlite3.Connection) -> None:
    raw.execute(
        "CREATE TRIGGER no_odd BEFORE INSERT ON background_service_jobs WHEN NEW.priority = 13 "
        "BEGIN SELECT RAISE(ABORT, 'bad luck'); END"
    )
    with pytest.raises(Exception, match="bad luck"):
        put(storage, job(), job(priority=13), job())
    assert storage.counts()[JobStatus.PENDING] == 0
    assert len(put(storage, job(), job(priority=14))) == 2


def test_a_turn_with_nothing_to_write_asks_for_no_lock(
    storage: Storage, raw: sqlite3.Connection, tmp_path: Path, crew: Crew
) -> None:
    impatient = open_storage(str(tmp_path / "app.db"), wait=0.01)
    hand = crew.hire(impatient)
    put(storage, job("other"), job(run_at=at(60)))
    raw.execute("BEGIN IMMEDIATE")
    turn = hand.turn(room=5)
    assert (list(turn.claimed), turn.next_due) == ([], at(60))
    assert impatient.prune([], after=0, limit=100, now=NOON) == (0, None)
    assert impatient.lost(limit=10) == []
    assert impatient.forget_dead_workers() == 0
    raw.execute("ROLLBACK")
    hand.seat.leave()
    impatient.close()


def test_jobs_that_must_not_be_taken_in_advance_are_no_reason_to_ask_for_the_lock(
    storage: Storage, raw: sqlite3.Connection, tmp_path: Path, crew: Crew
) -> None:
    impatient = open_storage(str(tmp_path / "app.db"), wait=0.01)
    hand = crew.hire(impatient)
    put(storage, *(job(max_attempts=1) for _ in range(3)))
    raw.execute("BEGIN IMMEDIATE")
    assert hand.claim(0, ahead={"default": 3}) == []
    with pytest.raises(DatabaseBusy):  # the control: with room for them the lock is needed
        hand.claim(1, ahead={"default": 3})
    raw.execute("ROLLBACK")
    hand.seat.leave()
    impatient.close()


def test_one_that_may_be_taken_in_advance_is_found_behind_those_that_must_not(storage: Storage, hand: Hand) -> None:
    *_once, more = put(storage, job(max_attempts=1), job(max_attempts=1), job())
    assert hand.claim(0, ahead={"default": 2}) == []
    assert ids(hand.claim(0, ahead={"default": 3})) == [more]


def test_what_a_store_writes_is_stamped_with_the_time_it_is_told(
    storage: Storage, raw: sqlite3.Connection, hand: Hand
) -> None:
    put(storage, job(), job(run_at=at(60)), time=1)
    claimed, _ = hand.claim(time=61)
    hand.settle(ended(claimed), time=62)
    storage.cancel(put(storage, time=3), now=at(63))
    columns = "created_at, last_attempt_at, finished_at, run_at"
    stamps = {text for row in raw.execute(f"SELECT {columns} FROM background_service_jobs") for text in row if text}
    assert stamps <= {f"2026-01-01T12:{n // 60:02}:{n % 60:02}.000Z" for n in (1, 3, 60, 61, 62, 63)}


def test_a_claim_number_is_not_lowered_by_anything_the_store_does(
    storage: Storage, raw: sqlite3.Connection, hand: Hand
) -> None:
    (job_id,) = put(storage)

    def claims() -> int:
        (number,) = raw.execute("SELECT claims FROM background_service_jobs").fetchone()
        assert isinstance(number, int)
        return number

    hand.settle(ended(hand.claim_one(), JobStatus.FAILED))
    storage.retry([job_id], now=NOON)
    storage.set_priority([job_id], 3, now=NOON)
    storage.cancel([job_id], now=NOON)
    storage.retry([job_id], now=NOON)
    assert claims() == 1
    hand.claim_one()
    assert claims() == 2


def test_a_row_with_strange_values_is_shown_and_harms_nobody(
    storage: Storage, raw: sqlite3.Connection, hand: Hand
) -> None:
    raw.execute("INSERT INTO background_service_jobs (job_key, payload, result) VALUES ('k', x'ff00', 'not json')")
    raw.execute("INSERT INTO background_service_jobs (job_key, payload) VALUES ('k', CAST(x'ff' AS TEXT))")
    storage.insert([NewJob(key="k")], now=NOON)
    assert len(hand.claim()) == 3
    assert look(storage, 1).result == "not json"
    assert look(storage, 3).payload is None


@pytest.mark.parametrize("crashes", [0, 1])
@pytest.mark.parametrize(("column", "value"), [("queue", "x'6162'"), ("queue", "x''"), ("job_key", "x'6b'")])
def test_a_name_that_is_no_text_holds_up_nobody_else(
    storage: Storage, raw: sqlite3.Connection, hand: Hand, column: str, value: str, crashes: int
) -> None:
    raw.execute("INSERT INTO background_service_jobs (job_key, crashes) VALUES ('k', ?)", [crashes])
    raw.execute("INSERT INTO background_service_jobs (job_key, crashes) VALUES ('k', ?)", [crashes])
    raw.execute(f"UPDATE background_service_jobs SET {column} = {value} WHERE id = 1")
    assert ids(hand.claim(suspect=bool(crashes))) == [2]
    raw.execute("UPDATE background_service_jobs SET status = 'RUNNING', worker = 77")
    assert [lost.job.id for lost in storage.lost(limit=10)] == [1, 2]


def test_a_claim_number_that_is_not_whole_is_made_so(raw: sqlite3.Connection, hand: Hand) -> None:
    raw.execute("INSERT INTO background_service_jobs (job_key, claims) VALUES ('k', 1.5)")
    claimed = hand.claim_one()
    hand.settle(ended(claimed))
    assert (claimed.claim.number, status(hand.storage, claimed.id)) == (2, JobStatus.COMPLETED)


def test_what_the_dead_held_is_found_even_if_it_is_too_long_for_one_text_of_sqlite(
    storage: Storage, raw: sqlite3.Connection, hand: Hand
) -> None:
    given = put(storage, *(job(payload=f'{{"text": "{"x" * 5000}"}}') for _ in range(8)))
    assert ids(hand.claim()) == given
    raw.execute("UPDATE background_service_jobs SET worker = 77")
    assert isinstance(storage, SqliteStorage)
    storage._read(lambda reader: reader.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 20_000))
    assert [lost.job.id for lost in storage.lost(limit=10)] == given


def test_jobs_too_long_for_one_text_of_sqlite_are_claimed_a_few_at_a_time(
    storage: Storage, raw: sqlite3.Connection, hand: Hand
) -> None:
    given = put(storage, *(job(payload=f'{{"text": "{"x" * 5000}"}}') for _ in range(8)))
    raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 20_000)
    turning = Turning(load(files("sidework.storage.sqlite") / "queries.sql"))
    found: list[int] = []
    while claimed := turning.take(raw, hand.id, (), Want(keys=hand.keys, room=8), NOON).claimed:
        assert len(claimed) < 4
        found += ids(claimed)
    assert found == given


def test_a_job_that_a_trigger_keeps_from_being_claimed_is_not_run(raw: sqlite3.Connection, hand: Hand) -> None:
    """Believed to be claimed, it would run while everybody else may claim it too."""
    given = put(hand.storage, *(job() for _ in range(4)))
    raw.execute(
        "CREATE TRIGGER pass_over BEFORE UPDATE ON background_service_jobs WHEN NEW.status = 'RUNNING' AND OLD.id % 2 "
        "BEGIN SELECT RAISE(IGNORE); END"
    )
    assert ids(hand.claim()) == [each for each in given if each % 2 == 0]
    raw.execute("DROP TRIGGER pass_over")
    assert ids(hand.claim()) == [each for each in given if each % 2]


@pytest.mark.parametrize("result", [None, '"done"'])
def test_an_outcome_that_a_trigger_passes_over_is_not_taken_for_written(
    raw: sqlite3.Connection, hand: Hand, result: str | None
) -> None:
    put(hand.storage, *(job() for _ in range(4)))
    held = hand.claim()
    raw.execute(
        "CREATE TRIGGER pass_over BEFORE UPDATE ON background_service_jobs "
        "WHEN NEW.status = 'COMPLETED' AND OLD.id % 2 "
        "BEGIN SELECT RAISE(IGNORE); END"
    )
    turn = hand.settle(*(ended(each, result=result) for each in held))
    assert turn.refused == {each.claim for each in held if each.id % 2}
    assert [status(hand.storage, each.id) is JobStatus.COMPLETED for each in held] == [
        each.id % 2 == 0 for each in held
    ]


def test_a_job_whose_time_is_no_time_is_let_go(storage: Storage, raw: sqlite3.Connection, hand: Hand) -> None:
    put(storage)
    hand.settle(ended(hand.claim_one()))
    raw.execute("UPDATE background_service_jobs SET finished_at = 'some day'")
    rule = RetentionRule(statuses=frozenset({JobStatus.COMPLETED}), keep=timedelta(days=1))
    assert storage.prune([rule], after=0, limit=10, now=at(0)) == (1, None)


def test_what_ended_too_lately_to_go_never_leaves_sqlite(
    storage: Storage, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(storage, *(job() for _ in range(3)))
    hand.settle(*(ended(each) for each in hand.claim(2)), time=0)
    hand.settle(ended(hand.claim_one()), time=50)
    seen: list[int] = []
    ended_job = rows.ended_job

    def note(row: rows.Row) -> EndedJob:
        seen.append(row[0])
        return ended_job(row)

    monkeypatch.setattr(rows, "ended_job", note)
    rule = RetentionRule(statuses=frozenset({JobStatus.COMPLETED}), keep=timedelta(seconds=60))
    assert storage.prunable([rule], after=0, limit=10, now=at(70)) == (seen, None)
    assert len(seen) == 2
