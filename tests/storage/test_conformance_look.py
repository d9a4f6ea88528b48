"""What every store must show of its jobs, queues and running handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.storage.crew import NOON, Crew, Hand, at, ended, everything, given_back, job, look, put

from sidework.model.job import Claim, JobFilter, JobStatus, LogLine, Progress, Report

if TYPE_CHECKING:
    from sidework.storage.contract import Storage


def listed(storage: Storage, **conditions: object) -> list[int]:
    return [each.id for each in everything(storage, **conditions)]


def page(storage: Storage, after: int | None, *, newest_first: bool) -> list[int]:
    return [each.id for each in storage.page(JobFilter(key="k"), after=after, limit=2, newest_first=newest_first)]


def test_an_unknown_job_is_none(storage: Storage) -> None:
    assert (storage.get(7), storage.facts(7), storage.log(7)) == (None, None, [])


def test_a_payload_that_is_no_json_is_shown_as_it_is(storage: Storage) -> None:
    (job_id,) = put(storage, job(payload="{half"))
    assert look(storage, job_id).payload == "{half"


def test_no_payload_is_none(storage: Storage) -> None:
    (job_id,) = put(storage)
    assert look(storage, job_id).payload is None


def test_pages_follow_one_another_in_both_directions(storage: Storage) -> None:
    first, _, second, third, fourth, fifth = put(storage, job(), job("other"), job(), job(), job(), job())
    assert page(storage, None, newest_first=False) == [first, second]
    assert page(storage, second, newest_first=False) == [third, fourth]
    assert page(storage, fourth, newest_first=False) == [fifth]
    assert page(storage, None, newest_first=True) == [fifth, fourth]
    assert page(storage, second, newest_first=True) == [first]


def test_every_condition_of_a_filter_counts(storage: Storage, hand: Hand) -> None:
    old, new, other, elsewhere, high = (
        put(storage, each, time=time)[0]
        for time, each in enumerate([job(), job(), job("other"), job(queue="q"), job(priority=3)])
    )
    hand.claim_one(time=9, queues=("default",))
    assert listed(storage, statuses=frozenset({JobStatus.RUNNING})) == [high]
    assert listed(storage, statuses=frozenset({JobStatus.RUNNING, JobStatus.PENDING})) == [
        old,
        new,
        other,
        elsewhere,
        high,
    ]
    assert listed(storage, key="other") == [other]
    assert listed(storage, queue="q") == [elsewhere]
    assert listed(storage, priority=3) == [high]
    assert listed(storage, created_before=at(1)) == [old]
    assert listed(storage, created_after=at(3)) == [high]
    assert listed(storage, key="k", queue="default", priority=0, statuses=frozenset({JobStatus.PENDING})) == [old, new]
    assert storage.count(JobFilter(key="k", queue="default")) == 3
    assert storage.count(JobFilter()) == 5


def test_counts_name_every_status(storage: Storage, hand: Hand) -> None:
    assert storage.counts() == dict.fromkeys(JobStatus, 0)
    put(storage, *(job() for _ in range(6)), job(run_at=at(60)))
    first, second, third, fourth, _ = hand.claim(5)
    hand.settle(ended(first), ended(second, JobStatus.FAILED), ended(third, JobStatus.CANCELLED), ended(fourth))
    assert storage.counts() == {
        JobStatus.PENDING: 1,
        JobStatus.SCHEDULED: 1,
        JobStatus.RUNNING: 1,
        JobStatus.COMPLETED: 2,
        JobStatus.FAILED: 1,
        JobStatus.CANCELLED: 1,
    }


def test_a_queue_is_shown_while_something_waits_in_it_or_is_set_for_it(
    storage: Storage, hand: Hand, crew: Crew
) -> None:
    put(storage, job(queue="done"), job(queue="a"), job(queue="a"), job(queue="b", run_at=at(60)))
    held = {each.queue: each for each in hand.claim(1)}
    hand.settle(ended(held["done"]))
    storage.pause("empty", now=NOON)
    crew.hire(storage, limits={"slow": 2})
    shown = [(q.name, q.pending, q.scheduled, q.running, q.paused, q.limit) for q in storage.queues()]
    assert sorted(shown) == [
        ("a", 1, 0, 1, False, None),
        ("b", 0, 1, 0, False, None),
        ("empty", 0, 0, 0, True, None),
        ("slow", 0, 0, 0, False, 2),
    ]


def test_a_queue_whose_jobs_wait_for_a_worker_to_die_or_not_is_shown(storage: Storage, hand: Hand) -> None:
    put(storage)
    hand.settle(ended(hand.claim_one(), JobStatus.PENDING, crashes=1))
    (queue,) = storage.queues()
    assert queue.pending == 1


def test_the_facts_of_a_job_say_what_it_waits_for(storage: Storage, hand: Hand) -> None:
    put(storage, job(priority=1), job(), job(queue="other", priority=9))
    (job_id,) = put(storage, job(payload='{"a": 1}'))
    put(storage, job())
    storage.pause("default", now=NOON)
    facts = storage.facts(job_id)
    assert facts is not None
    assert (facts.job, facts.ahead, facts.cancel_requested) == (look(storage, job_id), 2, False)
    assert (facts.queue.name, facts.queue.paused, facts.queue.pending) == ("default", True, 4)
    assert [(each.id, each.alive, each.keys) for each in facts.workers] == [(hand.id, True, frozenset({"k"}))]


def test_progress_and_log_are_kept_beside_the_job(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    claim = hand.claim_one().claim
    first, second, third = (LogLine(at=at(n), message=f"line {n}") for n in range(3))
    storage.report([Report(claim=claim, progress=Progress(done=1, total=4), lines=(first, second))], now=at(1))
    storage.report([Report(claim=claim, progress=Progress(done=3, total=4, message="soon"), lines=(third,))], now=at(2))
    assert look(storage, job_id).progress == Progress(done=3, total=4, message="soon")
    assert storage.log(job_id) == [first, second, third]


def test_log_lines_without_progress_leave_the_progress_as_it_is(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    claim = hand.claim_one().claim
    storage.report([Report(claim=claim, progress=Progress(done=1))], now=at(1))
    storage.report([Report(claim=claim, lines=(LogLine(at=at(2), message="x"),))], now=at(2))
    assert look(storage, job_id).progress == Progress(done=1)


def test_a_report_under_a_claim_that_no_longer_holds_is_dropped(storage: Storage, hand: Hand) -> None:
    old, good = put(storage, job(), job())
    held, other = hand.claim()
    hand.settle(given_back(held))
    again = hand.claim_one()
    late, now = (
        Report(claim=c, progress=Progress(done=9), lines=(LogLine(at=at(1), message="x"),))
        for c in (held.claim, other.claim)
    )
    unknown = Report(claim=Claim(job_id=999, number=1), progress=Progress(done=1))
    storage.report([late, unknown, now], now=at(1))
    assert (again.id, look(storage, old).progress, storage.log(old)) == (old, None, [])
    assert look(storage, good).progress == Progress(done=9)


def test_the_last_report_of_a_job_that_has_just_ended_is_kept(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    held = hand.claim_one()
    hand.settle(ended(held))
    storage.report([Report(claim=held.claim, progress=Progress(done=9))], now=at(1))
    assert look(storage, job_id).progress == Progress(done=9)


def test_whatever_text_a_report_holds_its_neighbours_are_kept(storage: Storage, hand: Hand) -> None:
    _, good = put(storage, job(), job())
    first, second = hand.claim()
    bad = "lone \ud800 and \x00"
    reports = [
        Report(claim=first.claim, progress=Progress(done=1, message=bad), lines=(LogLine(at=at(1), message=bad),)),
        Report(claim=second.claim, progress=Progress(done=2)),
    ]
    storage.report(reports, now=at(1))
    assert look(storage, good).progress == Progress(done=2)
    (line,) = storage.log(first.id)
    assert line.message.startswith("lone ")
