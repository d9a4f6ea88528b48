"""What every store must do when an operator cancels, retries, deletes or moves jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.storage.crew import Crew, Hand, at, died, ended, everything, given_back, ids, job, later, look, put, status

from sidework.model.job import JobStatus, LogLine, Outcome, Progress, Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidework.model.job import ClaimedJob
    from sidework.storage.contract import Storage

MORE_THAN_A_STATEMENT_TAKES = 40_000
ENDS = [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED]


def test_a_waiting_job_is_cancelled_at_once(storage: Storage, hand: Hand) -> None:
    waiting = put(storage, job(), job(run_at=at(60)))
    assert storage.cancel(waiting, now=at(3)) == waiting
    assert {(each.status, each.finished_at) for each in everything(storage)} == {(JobStatus.CANCELLED, at(3))}
    assert hand.claim(time=100) == []


def test_a_running_job_is_asked_to_end_through_the_worker_that_holds_it(
    storage: Storage, second: Storage, hand: Hand, crew: Crew
) -> None:
    asked, _ = put(storage, job(), job())
    first, other = hand.claim()
    assert second.cancel([asked], now=at(3)) == [asked]
    assert status(storage, asked) is JobStatus.RUNNING
    assert hand.turn(room=1).cancel == {first.claim}
    assert hand.settle().cancel == {first.claim}
    assert crew.hire(second).turn(room=1).cancel == frozenset()
    facts = storage.facts(asked), storage.facts(other.id)
    assert [each and each.cancel_requested for each in facts] == [True, False]


@pytest.mark.parametrize("outcome", [given_back, lambda held: later(held, 60), died, lambda held: later(held, 0)])
def test_a_running_job_that_was_asked_to_end_is_cancelled_when_it_comes_back(
    storage: Storage, hand: Hand, outcome: Callable[[ClaimedJob], Outcome]
) -> None:
    (asked,) = put(storage)
    held = hand.claim_one()
    storage.cancel([asked], now=at(1))
    turn = hand.turn(outcome(held), room=5, time=2)
    assert (list(turn.claimed), turn.cancel, turn.refused) == ([], frozenset(), frozenset())
    kept = look(storage, asked)
    assert (kept.status, kept.finished_at, kept.worker) == (JobStatus.CANCELLED, at(2), None)
    assert hand.claim(time=100) == hand.claim(time=100, suspect=True) == []


@pytest.mark.parametrize("end", ENDS)
def test_an_end_makes_the_request_void(storage: Storage, hand: Hand, end: JobStatus) -> None:
    (asked,) = put(storage)
    held = hand.claim_one()
    storage.cancel([asked], now=at(1))
    turn = hand.settle(ended(held, end))
    assert (status(storage, asked), turn.cancel) == (end, frozenset())
    facts = storage.facts(asked)
    assert facts is not None
    assert not facts.cancel_requested


def test_a_job_that_is_retried_does_not_remember_that_it_was_cancelled(storage: Storage, hand: Hand) -> None:
    (asked,) = put(storage)
    held = hand.claim_one()
    storage.cancel([asked], now=at(1))
    hand.settle(given_back(held))
    assert storage.retry([asked], now=at(2)) == [asked]
    turn = hand.turn(room=1, time=3)
    assert ids(turn.claimed) == [asked]
    assert hand.settle(time=4).cancel == frozenset()


@pytest.mark.parametrize("end", ENDS)
def test_cancelling_leaves_ended_jobs_alone(storage: Storage, hand: Hand, end: JobStatus) -> None:
    (job_id,) = put(storage)
    hand.settle(ended(hand.claim_one(), end), time=1)
    before = look(storage, job_id)
    assert storage.cancel([job_id, job_id + 99], now=at(9)) == []
    assert look(storage, job_id) == before


@pytest.mark.parametrize("end", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_retried_job_starts_afresh(storage: Storage, hand: Hand, end: JobStatus) -> None:
    (job_id,) = put(storage)
    hand.settle(ended(hand.claim_one(), end, attempts=3, crashes=2, error="no"))
    assert storage.retry([job_id], now=at(5)) == [job_id]
    kept = look(storage, job_id)
    assert (kept.status, kept.attempts, kept.crashes, kept.finished_at) == (JobStatus.PENDING, 0, 0, None)
    assert ids(hand.claim()) == [job_id]


def test_a_retried_job_does_not_wait_for_its_time(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage, job(run_at=at(600)))
    assert storage.retry([job_id], now=at(5)) == [job_id]
    assert ids(hand.claim(time=5)) == [job_id]


def test_retrying_leaves_waiting_running_and_completed_jobs_alone(storage: Storage, hand: Hand) -> None:
    done, running = put(storage, job(), job())
    hand.settle(ended(hand.claim_one()))
    hand.claim_one()
    (waiting,) = put(storage)
    before = everything(storage)
    assert storage.retry([done, running, waiting, 999], now=at(5)) == []
    assert everything(storage) == before


def test_retrying_does_not_take_a_unique_key_from_the_job_that_holds_it_now(storage: Storage, hand: Hand) -> None:
    (job_id, free) = put(storage, job(unique_key="u"), job(unique_key="v"))
    hand.settle(*(ended(each, JobStatus.FAILED) for each in hand.claim()))
    (holder,) = put(storage, job(unique_key="u"))
    assert storage.retry([job_id, free], now=at(5)) == [free]
    assert (status(storage, job_id), status(storage, holder)) == (JobStatus.FAILED, JobStatus.PENDING)


def test_of_two_ended_jobs_with_one_unique_key_only_one_is_retried(storage: Storage, hand: Hand) -> None:
    both = []
    for _ in range(2):
        both += put(storage, job(unique_key="u"))
        hand.settle(ended(hand.claim_one(), JobStatus.FAILED))
    (retried,) = storage.retry(both, now=at(5))
    assert [each.id for each in everything(storage, statuses=frozenset({JobStatus.PENDING}))] == [retried]


def test_deleting_takes_a_job_with_all_that_was_written_about_it(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    held = hand.claim_one()
    line = LogLine(at=at(1), message="half way")
    storage.report([Report(claim=held.claim, progress=Progress(done=1), lines=(line,))], now=at(1))
    hand.settle(ended(held))
    assert storage.delete([job_id]) == [job_id]
    assert (storage.get(job_id), storage.log(job_id)) == (None, [])


def test_a_running_job_is_not_deleted(storage: Storage, hand: Hand) -> None:
    running, waiting, delayed = put(storage, job(priority=1), job(), job(run_at=at(60)))
    hand.claim_one()
    assert sorted(storage.delete([running, waiting, delayed, 999])) == [waiting, delayed]
    assert [each.id for each in everything(storage)] == [running]


def test_a_new_priority_changes_the_order_of_those_that_wait(storage: Storage, hand: Hand) -> None:
    first, second, delayed = put(storage, job(), job(), job(run_at=at(60)))
    assert sorted(storage.set_priority([second, delayed], 5, now=at(1))) == [second, delayed]
    assert ids(hand.claim(time=60)) == [second, delayed, first]


def test_the_priority_of_jobs_that_run_or_ended_stays(storage: Storage, hand: Hand) -> None:
    done, running = put(storage, job(), job())
    hand.settle(ended(hand.claim_one()))
    hand.claim_one()
    assert storage.set_priority([done, running, 999], 5, now=at(1)) == []
    assert {each.priority for each in everything(storage)} == {0}


def test_more_ids_than_a_statement_takes_can_be_named(storage: Storage) -> None:
    (job_id,) = put(storage)
    named = list(range(1, MORE_THAN_A_STATEMENT_TAKES))
    assert storage.set_priority(named, 2, now=at(1)) == [job_id]
    assert storage.cancel(named, now=at(1)) == [job_id]
    assert storage.retry(named, now=at(1)) == [job_id]
    assert storage.delete(named) == [job_id]
