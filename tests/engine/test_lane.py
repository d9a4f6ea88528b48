"""One queue as one worker sees it."""

from __future__ import annotations

import pytest

from sidework.engine.lane import DESERTED_SECONDS, MOST_AHEAD, MOST_AHEAD_IN_A_CROWD, STALE_SECONDS, Lane
from sidework.model.job import Claim, ClaimedJob


def job(number: int, priority: int = 0) -> ClaimedJob:
    return ClaimedJob(
        claim=Claim(number, 1), key="k", payload=None, queue="q", priority=priority, attempts=0, max_attempts=3,
        crashes=0, created_at="",
    )  # fmt: skip


def run_through(lane: Lane, *, count: int, seconds_each: float, elapsed: float, at: float) -> float:
    """Run jobs that take so long, all of them within `elapsed`; return the time after it."""
    for number in range(count):
        lane.add([job(number)])
        assert lane.next(at) is not None
        lane.end(seconds_each)
    lane.measure(at + elapsed)
    return at + elapsed


def trained(concurrency: int, *, count: int, seconds_each: float, elapsed: float) -> Lane:
    lane, at = Lane(concurrency, 0.0), 0.0
    for _ in range(30):
        at = run_through(lane, count=count, seconds_each=seconds_each, elapsed=elapsed, at=at)
    return lane


def test_it_starts_no_more_than_the_concurrency_allows_and_in_order():
    lane = Lane(2, 0.0)
    lane.add([job(1), job(2), job(3)])
    assert [lane.next(0.0), lane.next(0.0), lane.next(0.0)] == [job(1), job(2), None]
    lane.end(1.0)
    assert lane.next(0.0) == job(3)


def test_jobs_of_higher_priority_go_before_those_that_came_earlier():
    lane = Lane(9, 0.0)
    lane.add([job(5, 1), job(6, 0)])
    lane.add([job(7, 9), job(4, 0), job(8, 0)])
    assert [one.id for one in lane.ready] == [7, 5, 4, 6, 8]


def test_room_is_what_neither_runs_nor_waits():
    lane = Lane(5, 0.0)
    lane.add([job(1), job(2), job(3)])
    lane.next(0.0)
    assert (lane.room, lane.held) == (2, 3)


def test_nothing_is_claimed_ahead_before_anything_was_measured():
    lane = Lane(10, 0.0)
    lane.add([job(1)])
    lane.next(0.0)
    lane.end(0.0)
    lane.measure(0.0)
    assert lane.ahead == 0


@pytest.mark.parametrize(
    ("concurrency", "count", "seconds_each", "elapsed", "worth"),
    [
        (10, 100, 0.0001, 0.01, 500),  # 10,000 a second: what 50 ms can run
        (10, 1000, 0.00001, 0.01, MOST_AHEAD),  # 100,000 a second: bounded
        (10, 10, 1.0, 0.001, 0),  # long jobs that happen to end together deceive nobody
        (10, 1, 0.01, 0.01, 5),  # handlers that never wait: one after the other, whatever the concurrency
    ],
)
def test_what_the_next_50_ms_can_run_is_worth_having(concurrency, count, seconds_each, elapsed, worth):
    lane = trained(concurrency, count=count, seconds_each=seconds_each, elapsed=elapsed)
    assert lane.worth_having == pytest.approx(worth, abs=1)


def test_what_is_at_hand_is_not_claimed_again():
    lane = trained(2, count=100, seconds_each=0.0001, elapsed=0.01)
    full = lane.worth_having
    lane.add([job(number) for number in range(100)])
    assert lane.ahead == full - 98


def test_jobs_that_cannot_be_started_for_long_are_handed_back_and_no_more_is_claimed_ahead():
    lane = trained(1, count=100, seconds_each=0.0001, elapsed=0.01)
    lane.add([job(1), job(2), job(3)])
    lane.next(10.0)
    assert lane.take_stale(10.0 + STALE_SECONDS - 0.01) == []
    assert lane.take_stale(10.0 + STALE_SECONDS) == [job(2), job(3)]
    assert (lane.held, lane.worth_having) == (1, 0)


def test_a_queue_where_nothing_happens_is_forgotten_after_a_while():
    lane = Lane(2, 0.0)
    lane.add([job(1)])
    lane.next(5.0)
    assert not lane.deserted(1000.0)
    lane.end(1.0)
    assert not lane.deserted(5.0 + DESERTED_SECONDS)
    assert lane.deserted(5.1 + DESERTED_SECONDS)


def test_a_job_that_is_dropped_is_not_started():
    lane = Lane(2, 0.0)
    lane.add([job(1), job(2)])
    lane.drop(job(1).claim)
    assert lane.next(0.0) == job(2)


def test_in_a_crowd_less_is_claimed_ahead_so_that_turns_are_short():
    lane = Lane(10, 0.0)
    for second in range(1, 30):
        lane.running += 50_000
        for _ in range(50_000):
            lane.end(0.0001)
        lane.measure(float(second))
    assert lane.worth_having == MOST_AHEAD
    lane.running += 1
    lane.end(0.0001)
    lane.measure(31.0, crowded=True)
    assert lane.worth_having == MOST_AHEAD_IN_A_CROWD
