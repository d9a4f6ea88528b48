"""What every store must do to let old jobs go."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tests.storage.crew import Crew, Hand, at, ended, everything, ids, job, put

from sidework.model.job import JobStatus, LogLine, Progress, Report, RetentionRule

if TYPE_CHECKING:
    from sidework.storage.contract import Storage

BAD_ENDS = frozenset({JobStatus.FAILED, JobStatus.CANCELLED})


def keep(seconds: float, *statuses: JobStatus, key: str | None = None) -> RetentionRule:
    return RetentionRule(statuses=frozenset(statuses), keep=timedelta(seconds=seconds), key=key)


def end_all(hand: Hand, status: JobStatus, *, time: float) -> list[int]:
    claimed = hand.claim(time=time)
    hand.settle(*(ended(each, status) for each in claimed), time=time)
    return ids(claimed)


def prune(storage: Storage, *rules: RetentionRule, time: float) -> int:
    """Walk over all jobs, three at a time."""
    deleted, after = 0, 0
    while True:
        count, following = storage.prune(rules, after=after, limit=3, now=at(time))
        deleted += count
        if following is None:
            return deleted
        assert following > after
        after = following


def left(storage: Storage) -> list[int]:
    return [each.id for each in everything(storage)]


def test_jobs_go_when_they_ended_longer_ago_than_they_are_kept(storage: Storage, hand: Hand) -> None:
    put(storage, *(job() for _ in range(5)))
    end_all(hand, JobStatus.COMPLETED, time=0)
    put(storage, *(job() for _ in range(4)))
    newer = end_all(hand, JobStatus.COMPLETED, time=50)
    assert prune(storage, keep(60, JobStatus.COMPLETED), time=59) == 0
    assert prune(storage, keep(60, JobStatus.COMPLETED), time=61) == 5
    assert left(storage) == newer


def test_each_status_has_its_rule_and_jobs_without_a_rule_stay(storage: Storage, hand: Hand) -> None:
    put(storage)
    end_all(hand, JobStatus.COMPLETED, time=0)
    put(storage)
    failed = end_all(hand, JobStatus.FAILED, time=0)
    put(storage)
    cancelled = end_all(hand, JobStatus.CANCELLED, time=0)
    assert prune(storage, keep(10, JobStatus.COMPLETED), keep(100, *BAD_ENDS), time=50) == 1
    assert left(storage) == failed + cancelled
    assert prune(storage, keep(10, JobStatus.COMPLETED), keep(100, JobStatus.CANCELLED), time=500) == 1
    assert left(storage) == failed


def test_jobs_that_have_not_ended_stay_however_old(storage: Storage, hand: Hand) -> None:
    running, delayed, waiting = put(storage, job(priority=1), job(run_at=at(9999)), job())
    hand.claim_one()
    assert prune(storage, keep(0, *JobStatus), time=5000) == 0
    assert left(storage) == [running, delayed, waiting]


def test_a_rule_for_a_key_goes_before_the_rule_for_all(storage: Storage, crew: Crew) -> None:
    hand = crew.hire(storage, keys={"long", "short", "plain"})
    long, short, plain = put(storage, job("long"), job("short"), job("plain"))
    end_all(hand, JobStatus.COMPLETED, time=0)
    done = JobStatus.COMPLETED
    rules = [keep(600, done, key="long"), keep(6, done, key="short"), keep(60, done)]
    assert (prune(storage, *rules, time=30), left(storage)) == (1, [long, plain])
    assert (prune(storage, *rules, time=90), left(storage)) == (1, [long])
    assert (prune(storage, *rules, time=601), left(storage)) == (1, [])
    assert short not in left(storage)


def test_a_job_that_asked_for_less_time_than_the_rules_goes_when_it_is_over(storage: Storage, hand: Hand) -> None:
    put(storage, job(options='{"retention":5}'), job())
    _, without = end_all(hand, JobStatus.COMPLETED, time=0)
    assert prune(storage, keep(60, JobStatus.COMPLETED), time=4) == 0
    assert prune(storage, keep(60, JobStatus.COMPLETED), time=6) == 1
    assert left(storage) == [without]


def test_one_step_looks_at_so_many_jobs_and_says_where_to_go_on(storage: Storage, hand: Hand) -> None:
    given = put(storage, *(job() for _ in range(5)))
    end_all(hand, JobStatus.COMPLETED, time=0)
    rules = [keep(0, JobStatus.COMPLETED)]
    assert storage.prune(rules, after=0, limit=2, now=at(9)) == (2, given[1])
    deleted, following = storage.prune(rules, after=given[2], limit=10, now=at(9))
    assert (deleted, following) == (2, None)
    assert left(storage) == [given[2]]


def test_nothing_to_look_at_is_the_end(storage: Storage) -> None:
    assert storage.prune([keep(0, JobStatus.COMPLETED)], after=0, limit=10, now=at(9)) == (0, None)


def test_what_was_written_about_a_job_goes_with_it(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    held = hand.claim_one()
    line = LogLine(at=at(0), message="x")
    storage.report([Report(claim=held.claim, progress=Progress(done=1), lines=(line,))], now=at(0))
    hand.settle(ended(held))
    assert storage.log(job_id) == [line]
    prune(storage, keep(0, JobStatus.COMPLETED), time=9)
    assert storage.log(job_id) == []


def test_a_job_that_is_retried_while_it_is_looked_at_stays(storage: Storage, second: Storage, hand: Hand) -> None:
    class StatusesThatAnOperatorIsFasterThan(frozenset[JobStatus]):
        def __contains__(self, status: object) -> bool:
            second.retry([job_id], now=at(9))
            return super().__contains__(status)

    (job_id,) = put(storage)
    end_all(hand, JobStatus.FAILED, time=0)
    rule = RetentionRule(statuses=StatusesThatAnOperatorIsFasterThan([JobStatus.FAILED]), keep=timedelta(0))
    storage.prune([rule], after=0, limit=10, now=at(9))
    assert ids(hand.claim()) == [job_id]
