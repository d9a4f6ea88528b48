"""What every store must do when jobs are put in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.storage.crew import NOON, Crew, Hand, at, ended, everything, ids, job, later, look, put, status

from sidework.model.job import JobStatus

if TYPE_CHECKING:
    from sidework.storage.contract import Storage

MEBIBYTE = 1024 * 1024


def test_ids_come_in_the_order_of_the_input(storage: Storage) -> None:
    jobs = [job(payload=json.dumps({"n": n}), priority=n % 7) for n in range(300)]
    given = put(storage, *jobs)
    assert [look(storage, job_id).payload for job_id in given] == [{"n": n} for n in range(300)]
    assert given == sorted(set(given))


def test_nothing_put_in_is_nothing(storage: Storage) -> None:
    assert storage.insert([], now=NOON) == []
    assert everything(storage) == []


def test_a_job_is_kept_as_it_was_given(storage: Storage, crew: Crew) -> None:
    new = job(
        "mail",
        payload='{"to": "é\U0001f600\'"}',
        priority=-3,
        max_attempts=9,
        queue="post",
        unique_key="u",
        options='{"timeout":2.0}',
    )
    (job_id,) = put(storage, new, time=5)
    kept = look(storage, job_id)
    assert (kept.key, kept.payload, kept.priority, kept.max_attempts) == ("mail", {"to": "é\U0001f600'"}, -3, 9)
    assert (kept.queue, kept.unique_key, kept.status, kept.attempts) == ("post", "u", JobStatus.PENDING, 0)
    assert (kept.created_at, kept.updated_at, kept.run_at, kept.finished_at) == (at(5), at(5), None, None)
    claimed = crew.hire(storage, keys={"mail"}).claim_one(time=6)
    assert (claimed.options, claimed.payload) == (new.options, new.payload)


def test_a_job_with_a_time_is_scheduled_for_it(storage: Storage) -> None:
    (job_id,) = put(storage, job(run_at=at(60.123)))
    kept = look(storage, job_id)
    assert (kept.status, kept.run_at) == (JobStatus.SCHEDULED, at(60.123))


def test_another_store_sees_the_job_at_once(storage: Storage, second: Storage) -> None:
    (job_id,) = put(storage)
    assert status(second, job_id) is JobStatus.PENDING


def test_a_large_payload_comes_back_whole(storage: Storage, hand: Hand) -> None:
    payload = json.dumps({"text": "x" * (MEBIBYTE - 20)})
    put(storage, job(payload=payload))
    assert hand.claim_one().payload == payload


def test_a_unique_key_that_is_held_yields_the_job_that_holds_it(storage: Storage) -> None:
    (first,) = put(storage, job(unique_key="u", payload='{"n": 1}'))
    before, again, after = put(storage, job(), job(unique_key="u", payload='{"n": 2}'), job())
    assert again == first
    assert len({first, before, after}) == 3
    assert look(storage, first).payload == {"n": 1}
    assert len(everything(storage)) == 3


def test_a_unique_key_twice_in_one_batch_is_one_job(storage: Storage) -> None:
    one, other, same = put(storage, job(unique_key="u"), job(unique_key="v"), job(unique_key="u"))
    assert one == same != other
    assert len(everything(storage)) == 2


def test_a_unique_key_belongs_to_its_job_key(storage: Storage) -> None:
    one, other = put(storage, job("a", unique_key="u"), job("b", unique_key="u"))
    assert one != other


def test_jobs_without_a_unique_key_never_meet(storage: Storage) -> None:
    one, other = put(storage, job(), job())
    assert one != other


@pytest.mark.parametrize("waits", [JobStatus.PENDING, JobStatus.SCHEDULED, JobStatus.RUNNING])
def test_a_unique_key_is_held_until_the_end(storage: Storage, hand: Hand, waits: JobStatus) -> None:
    (first,) = put(storage, job(unique_key="u", run_at=at(60) if waits is JobStatus.SCHEDULED else None))
    if waits is JobStatus.RUNNING:
        hand.claim()
    assert status(storage, first) is waits
    assert put(storage, job(unique_key="u")) == [first]


@pytest.mark.parametrize("end", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_unique_key_is_free_after_the_end(storage: Storage, hand: Hand, end: JobStatus) -> None:
    (first,) = put(storage, job(unique_key="u"))
    hand.settle(ended(hand.claim_one(), end))
    (second,) = put(storage, job(unique_key="u"))
    assert second != first
    assert status(storage, second) is JobStatus.PENDING
    assert put(storage, job(unique_key="u")) == [second]


def test_a_unique_key_is_held_while_the_job_waits_to_be_tried_again(storage: Storage, hand: Hand) -> None:
    (first,) = put(storage, job(unique_key="u"))
    hand.settle(later(hand.claim_one(), 60))
    assert put(storage, job(unique_key="u")) == [first]


def test_ids_are_never_given_twice(storage: Storage) -> None:
    (first,) = put(storage)
    storage.delete([first])
    assert put(storage) > [first]


def test_many_jobs_are_put_in_at_once(storage: Storage, hand: Hand) -> None:
    given = put(storage, *(job(priority=n % 3) for n in range(20_000)))
    assert storage.counts()[JobStatus.PENDING] == len(set(given)) == 20_000
    assert ids(hand.claim(2)) == [given[2], given[5]]
