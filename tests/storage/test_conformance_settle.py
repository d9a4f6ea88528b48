"""What every store must do with the outcome of an attempt, and with one that comes too late."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.storage.crew import Crew, Hand, at, died, ended, everything, given_back, ids, job, later, look, put, status

from sidework.model.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidework.model.job import ClaimedJob
    from sidework.storage.contract import Storage


def test_a_completed_job_keeps_its_result(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    turn = hand.settle(ended(hand.claim_one(), result='{"sum": [1, "é"]}'), time=7)
    kept = look(storage, job_id)
    assert (kept.status, kept.result, kept.attempts, kept.last_error) == (
        JobStatus.COMPLETED,
        {"sum": [1, "é"]},
        1,
        None,
    )
    assert (kept.finished_at, kept.updated_at, kept.worker) == (at(7), at(7), None)
    assert (turn.refused, turn.failed) == (frozenset(), {})


@pytest.mark.parametrize("end", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_job_that_ended_badly_keeps_its_error(storage: Storage, hand: Hand, end: JobStatus) -> None:
    (job_id,) = put(storage)
    hand.settle(ended(hand.claim_one(), end, error="no such user", crashes=2), time=7)
    kept = look(storage, job_id)
    assert (kept.status, kept.last_error, kept.result, kept.attempts, kept.crashes) == (end, "no such user", None, 1, 2)
    assert kept.finished_at == at(7)


def test_a_job_that_is_tried_again_waits_for_its_time(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    hand.settle(later(hand.claim_one(), 60, error="timed out"))
    kept = look(storage, job_id)
    assert (kept.status, kept.run_at, kept.attempts, kept.last_error) == (JobStatus.SCHEDULED, at(60), 1, "timed out")
    assert (kept.finished_at, kept.worker) == (None, None)
    again = hand.claim_one(time=60)
    assert (again.id, again.attempts) == (job_id, 1)


def test_a_job_given_back_is_as_it_was(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    hand.settle(given_back(hand.claim_one()))
    kept = look(storage, job_id)
    assert (kept.status, kept.attempts, kept.worker, kept.finished_at) == (JobStatus.PENDING, 0, None, None)


def test_one_turn_settles_first_and_claims_into_the_room_that_this_makes(storage: Storage, hand: Hand) -> None:
    first, second = put(storage, job(), job())
    turn = hand.turn(ended(hand.claim_one()), room=1, time=1)
    assert (status(storage, first), ids(turn.claimed)) == (JobStatus.COMPLETED, [second])


def release(hand: Hand, held: ClaimedJob) -> None:
    hand.settle(given_back(held))


def release_and_claim_again(hand: Hand, held: ClaimedJob) -> None:
    hand.settle(given_back(held))
    hand.claim_one()


def snooze_and_claim_again(hand: Hand, held: ClaimedJob) -> None:
    hand.settle(later(held, 1, attempts=held.attempts))
    hand.claim_one(time=1)


def release_to_another_worker(hand: Hand, held: ClaimedJob) -> None:
    hand.settle(given_back(held))
    other = Hand(hand.storage)
    other.claim_one()
    other.seat.leave()


def complete(hand: Hand, held: ClaimedJob) -> None:
    hand.settle(ended(held))


def fail_and_retry(hand: Hand, held: ClaimedJob) -> None:
    hand.settle(ended(held, JobStatus.FAILED))
    hand.storage.retry([held.id], now=at(0))


def fail_retry_and_claim_again(hand: Hand, held: ClaimedJob) -> None:
    fail_and_retry(hand, held)
    hand.claim_one()


def die_and_be_claimed_as_a_suspect(hand: Hand, held: ClaimedJob) -> None:
    hand.settle(died(held))
    hand.claim(suspect=True)


def end_and_be_deleted(hand: Hand, held: ClaimedJob) -> None:
    hand.settle(ended(held))
    hand.storage.delete([held.id])


WAYS_TO_LOSE_A_JOB = [
    release,
    release_and_claim_again,
    release_to_another_worker,
    snooze_and_claim_again,
    complete,
    fail_and_retry,
    fail_retry_and_claim_again,
    die_and_be_claimed_as_a_suspect,
    end_and_be_deleted,
]


@pytest.mark.parametrize("lose", WAYS_TO_LOSE_A_JOB)
def test_a_claim_that_no_longer_holds_writes_nothing(
    storage: Storage, hand: Hand, lose: Callable[[Hand, ClaimedJob], None]
) -> None:
    (job_id,) = put(storage)
    held = hand.claim_one()
    lose(hand, held)
    before = storage.get(job_id)
    turn = hand.settle(ended(held, JobStatus.FAILED, error="too late"), time=500)
    assert turn.refused == {held.claim}
    assert storage.get(job_id) == before


def test_the_refused_are_told_one_by_one_and_the_others_are_written(storage: Storage, hand: Hand) -> None:
    put(storage, *(job() for _ in range(1000)))
    held = hand.claim()
    gone = held[::10]
    hand.settle(*map(given_back, gone))
    turn = hand.settle(*(ended(each) for each in held))
    assert turn.refused == {each.claim for each in gone}
    assert (storage.counts()[JobStatus.COMPLETED], storage.counts()[JobStatus.PENDING]) == (900, 100)


def test_of_two_claims_of_one_job_in_one_batch_only_the_latest_is_written(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    first = hand.claim_one()
    release(hand, first)
    second = hand.claim_one()
    turn = hand.settle(ended(first, JobStatus.FAILED, error="too late"), ended(second))
    assert turn.refused == {first.claim}
    assert status(storage, job_id) is JobStatus.COMPLETED


def test_outcomes_alike_and_not_alike_are_each_written_as_they_are(storage: Storage, hand: Hand) -> None:
    put(storage, *(job(max_attempts=9) for _ in range(6)))
    hand.settle(*(later(each, 0, error="not yet") for each in hand.claim(2)))
    held = hand.claim(time=1)
    assert [each.attempts for each in held] == [1, 1, 0, 0, 0, 0]
    ends = [ended(held[0]), given_back(held[1]), ended(held[2]), given_back(held[3])]
    hand.settle(*ends, ended(held[4], result="7"), later(held[5], 60, error="later"), time=2)
    seen = [
        (each.status.value, each.attempts, each.last_error, each.finished_at is None) for each in everything(storage)
    ]
    assert seen == [
        ("COMPLETED", 2, None, False),
        ("PENDING", 1, "not yet", True),
        ("COMPLETED", 1, None, False),
        ("PENDING", 0, None, True),
        ("COMPLETED", 1, None, False),
        ("SCHEDULED", 1, "later", True),
    ]


def test_the_number_of_a_claim_only_grows(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage, job(max_attempts=9))
    numbers = []
    ways = [release, lambda h, held: h.settle(later(held, 0, attempts=0)), fail_and_retry, release, fail_and_retry]
    for lose in ways:
        held = hand.claim_one()
        numbers.append(held.claim.number)
        lose(hand, held)
    numbers.append(hand.claim_one().claim.number)
    assert numbers == sorted(set(numbers))
    assert status(storage, job_id) is JobStatus.RUNNING


def test_an_outcome_may_be_handed_in_by_another_worker(
    storage: Storage, second: Storage, hand: Hand, crew: Crew
) -> None:
    (job_id,) = put(storage)
    assert not crew.hire(second).settle(ended(hand.claim_one())).refused
    assert status(storage, job_id) is JobStatus.COMPLETED


@pytest.mark.parametrize("text", ["lone \ud800 surrogate", "a NUL \x00 within", "quote ' \" \\ \U0001f600"])
def test_whatever_text_an_error_holds_the_job_ends_and_so_do_its_neighbours(
    storage: Storage, hand: Hand, text: str
) -> None:
    bad, neighbour = put(storage, job(), job())
    first, other = hand.claim()
    turn = hand.settle(ended(first, JobStatus.FAILED, error=text), ended(other, result='"fine"'))
    assert (turn.refused, turn.failed) == (frozenset(), {})
    assert (status(storage, bad), look(storage, neighbour).result) == (JobStatus.FAILED, "fine")
    error = look(storage, bad).last_error
    assert error is not None
    assert error.split()[:1] + error.split()[-1:] == text.split()[:1] + text.split()[-1:]


def test_a_large_result_comes_back_whole(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    text = "é" * 500_000
    hand.settle(ended(hand.claim_one(), result=f'"{text}"'))
    assert look(storage, job_id).result == text


def test_an_earlier_error_is_gone_when_the_job_completes_or_stays_but_never_becomes_the_result(
    storage: Storage, hand: Hand
) -> None:
    (job_id,) = put(storage)
    hand.settle(later(hand.claim_one(), 1, error="first try"))
    hand.settle(ended(hand.claim_one(time=1), result="42"))
    kept = look(storage, job_id)
    assert (kept.status, kept.result, kept.attempts, kept.run_at) == (JobStatus.COMPLETED, 42, 2, None)
