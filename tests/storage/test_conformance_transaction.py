"""What every store must do with the transaction of an attempt: effects and completion together, or neither."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.storage.crew import NOON, Crew, Hand, at, ended, given_back, ids, job, later, look, put, status

from sidework.errors import JobLost
from sidework.model.job import JobStatus

if TYPE_CHECKING:
    from sidework.storage.contract import Storage


@pytest.fixture
def hand(storage: Storage, crew: Crew) -> Hand:
    """Return a worker, with a table that its handlers write to."""
    worker = crew.hire(storage, keys={"k", "setup", "read"})
    put(storage, job("setup"))
    held = worker.claim_one()
    transaction = storage.transaction(held.claim)
    transaction.connection.execute("CREATE TABLE effects (n INTEGER)")
    assert transaction.commit(ended(held), now=NOON)
    transaction.close()
    return worker


def effects(hand: Hand) -> list[int]:
    """Return what handlers have written, as a handler sees it."""
    (job_id,) = put(hand.storage, job("read", priority=99))
    held = hand.claim_one()
    assert held.id == job_id
    transaction = hand.storage.transaction(held.claim)
    rows = transaction.connection.execute("SELECT n FROM effects ORDER BY n").fetchall()
    transaction.close()
    hand.settle(ended(held))
    return [row[0] for row in rows]


def test_effects_and_completion_are_committed_together(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    held = hand.claim_one()
    transaction = storage.transaction(held.claim)
    transaction.connection.execute("INSERT INTO effects VALUES (1)")
    assert transaction.begun
    assert status(storage, job_id) is JobStatus.RUNNING
    assert transaction.commit(ended(held, result='"done"'), now=at(4))
    transaction.close()
    kept = look(storage, job_id)
    assert (kept.status, kept.result, kept.attempts, kept.finished_at) == (JobStatus.COMPLETED, "done", 1, at(4))
    assert effects(hand) == [1]


def test_nothing_is_visible_before_the_commit_and_nothing_remains_after_an_abort(storage: Storage, hand: Hand) -> None:
    put(storage)
    held = hand.claim_one()
    transaction = storage.transaction(held.claim)
    transaction.connection.execute("INSERT INTO effects VALUES (1)")
    transaction.abort()
    transaction.abort()
    assert effects(hand) == []
    assert not hand.settle(later(held, 60)).refused


def test_closing_without_an_outcome_rolls_back(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    transaction = storage.transaction(hand.claim_one().claim)
    transaction.connection.execute("INSERT INTO effects VALUES (1)")
    transaction.close()
    assert (effects(hand), status(storage, job_id)) == ([], JobStatus.RUNNING)


def test_a_superseded_attempt_cannot_begin(storage: Storage, hand: Hand) -> None:
    put(storage)
    held = hand.claim_one()
    hand.settle(given_back(held))
    hand.claim_one()
    transaction = storage.transaction(held.claim)
    with pytest.raises(JobLost):
        transaction.begin()
    transaction.close()


def test_a_superseded_attempt_that_only_read_cannot_complete(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    held = hand.claim_one()
    transaction = storage.transaction(held.claim)
    transaction.connection.execute("SELECT n FROM effects").fetchall()
    hand.settle(given_back(held))
    hand.claim_one()
    assert not transaction.begun
    assert not transaction.commit(ended(held), now=NOON)
    transaction.close()
    assert (effects(hand), status(storage, job_id)) == ([], JobStatus.RUNNING)


def test_an_attempt_that_loses_its_job_inside_its_own_transaction_leaves_nothing(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    held = hand.claim_one()
    transaction = storage.transaction(held.claim)
    transaction.connection.execute("INSERT INTO effects VALUES (1)")
    transaction.connection.execute("UPDATE background_service_jobs SET claims = claims + 1")
    assert not transaction.commit(ended(held), now=NOON)
    transaction.close()
    assert (effects(hand), status(storage, job_id)) == ([], JobStatus.RUNNING)


def test_jobs_put_in_through_a_transaction_exist_if_and_only_if_it_commits(storage: Storage, hand: Hand) -> None:
    put(storage, job(priority=2), job(priority=1))
    first, second = hand.claim()
    aborted = storage.transaction(first.claim)
    (never,) = aborted.insert([job()], now=NOON)
    aborted.abort()
    assert storage.get(never) is None
    committed = storage.transaction(second.claim)
    given = committed.insert([job(priority=1), job(run_at=at(60))], now=NOON)
    assert committed.begun
    assert committed.commit(ended(second), now=NOON)
    committed.close()
    assert ids(hand.claim()) == given[:1]
    assert [status(storage, job_id) for job_id in given] == [JobStatus.RUNNING, JobStatus.SCHEDULED]


def test_a_unique_key_holds_inside_a_transaction_too(storage: Storage, hand: Hand) -> None:
    (holder,) = put(storage, job("other", unique_key="u"))
    put(storage)
    held = hand.claim_one()
    transaction = storage.transaction(held.claim)
    assert transaction.insert([job("other", unique_key="u")], now=NOON) == [holder]
    transaction.close()


def test_an_outcome_that_is_no_completion_is_written_too(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    held = hand.claim_one()
    transaction = storage.transaction(held.claim)
    transaction.begin()
    assert transaction.commit(later(held, 60), now=NOON)
    transaction.close()
    assert (status(storage, job_id), look(storage, job_id).run_at) == (JobStatus.SCHEDULED, at(60))


def test_a_job_that_was_asked_to_end_is_cancelled_though_its_transaction_wants_it_back(
    storage: Storage, hand: Hand
) -> None:
    (job_id,) = put(storage)
    commit_though_asked_to_end(hand, JobStatus.SCHEDULED)
    assert hand.claim(time=100) == []
    assert status(storage, job_id) is JobStatus.CANCELLED


@pytest.mark.parametrize("end", [JobStatus.SCHEDULED, JobStatus.FAILED])
def test_an_operator_who_retries_the_job_after_its_transaction_takes_the_request_back(
    storage: Storage, hand: Hand, end: JobStatus
) -> None:
    (job_id,) = put(storage)
    commit_though_asked_to_end(hand, end)
    assert storage.retry([job_id], now=NOON) == [job_id]
    turn = hand.turn(room=1)
    assert (ids(turn.claimed), turn.cancel) == ([job_id], frozenset())


def commit_though_asked_to_end(hand: Hand, end: JobStatus) -> None:
    held = hand.claim_one()
    hand.storage.cancel([held.id], now=NOON)
    transaction = hand.storage.transaction(held.claim)
    transaction.begin()
    assert transaction.commit(ended(held, end, run_at=at(60) if end is JobStatus.SCHEDULED else None), now=NOON)
    transaction.close()


def test_an_async_attempt_commits_its_effects_with_its_completion(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    held = hand.claim_one()

    async def attempt() -> int:
        transaction = storage.async_transaction(held.claim)
        await transaction.connection.execute("INSERT INTO effects VALUES (1)")
        (inserted,) = await transaction.insert([job("other")], now=NOON)
        assert transaction.begun
        assert storage.get(inserted) is None
        assert await transaction.commit(ended(held), now=NOON)
        await transaction.close()
        return inserted

    other = asyncio.run(attempt())
    assert (effects(hand), status(storage, job_id)) == ([1], JobStatus.COMPLETED)
    assert status(storage, other) is JobStatus.PENDING


def test_an_async_attempt_that_is_aborted_leaves_nothing(storage: Storage, hand: Hand) -> None:
    put(storage)
    held = hand.claim_one()

    async def attempt() -> bool:
        transaction = storage.async_transaction(held.claim)
        await transaction.connection.execute("INSERT INTO effects VALUES (1)")
        transaction.abort()
        committed = await transaction.commit(ended(held), now=NOON)
        await transaction.close()
        return committed

    assert not asyncio.run(attempt())
    assert effects(hand) == []


def test_a_superseded_async_attempt_cannot_begin(storage: Storage, hand: Hand) -> None:
    put(storage)
    held = hand.claim_one()
    hand.settle(given_back(held))
    hand.claim_one()

    async def attempt() -> None:
        transaction = storage.async_transaction(held.claim)
        with pytest.raises(JobLost):
            await transaction.begin()
        await transaction.close()

    asyncio.run(attempt())
