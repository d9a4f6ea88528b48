"""What every store must do when a worker asks for jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.storage.crew import Crew, Hand, at, died, ended, everything, given_back, ids, job, look, put, status

from sidework.errors import WorkerLost
from sidework.model.job import JobStatus

if TYPE_CHECKING:
    from sidework.storage.contract import Storage


def queue_of(storage: Storage, name: str) -> tuple[int, int, int, bool, int | None]:
    """Return pending, scheduled, running, paused and the limit of a queue."""
    (found,) = [each for each in storage.queues() if each.name == name]
    return found.pending, found.scheduled, found.running, found.paused, found.limit


def test_higher_priority_comes_first_then_the_older(storage: Storage, hand: Hand) -> None:
    low, high, middle, high_too, lowest = put(storage, *(job(priority=p) for p in (0, 9, 5, 9, -1)))
    assert ids(hand.claim(3)) == [high, high_too, middle]
    assert ids(hand.claim(3)) == [low, lowest]


def test_the_order_holds_over_keys_and_queues(storage: Storage, crew: Crew) -> None:
    places = [("a", "x", 1), ("b", "y", 2), ("a", "y", 0), ("b", "x", 1), ("c", "x", 2), ("c", "y", 1)]
    given = put(storage, *(job(key, queue=queue, priority=priority) for key, queue, priority in places))
    claimed = crew.hire(storage, keys={"a", "b", "c"}).claim()
    assert ids(claimed) == [given[n] for n in (1, 4, 0, 3, 5, 2)]


def test_one_queue_takes_the_first_over_all_keys(storage: Storage, crew: Crew) -> None:
    given = put(storage, *(job(key, priority=p) for key in "abc" for p in (0, 1, 2)))
    claimed = crew.hire(storage, keys={"a", "b", "c"}).claim(4)
    assert ids(claimed) == [given[n] for n in (2, 5, 8, 1)]


def test_a_claimed_job_is_told_as_it_stands_and_runs(storage: Storage, hand: Hand) -> None:
    (job_id,) = put(storage, job(payload='{"a": 1}', priority=4, max_attempts=7, queue="q"))
    claimed = hand.claim_one(time=9)
    assert (claimed.id, claimed.key, claimed.payload, claimed.queue) == (job_id, "k", '{"a": 1}', "q")
    assert (claimed.priority, claimed.attempts, claimed.max_attempts, claimed.crashes) == (4, 0, 7, 0)
    kept = look(storage, job_id)
    assert (kept.status, kept.worker, kept.last_attempt_at) == (JobStatus.RUNNING, hand.id, at(9))


def test_a_job_is_held_by_one_worker_only(storage: Storage, second: Storage, hand: Hand, crew: Crew) -> None:
    given = put(storage, job(), job(), job())
    other = crew.hire(second)
    assert ids(hand.claim(2) + other.claim(2)) == given
    assert hand.claim() == other.claim() == []


def test_jobs_of_unknown_keys_stay_and_stand_in_nobodys_way(storage: Storage, hand: Hand) -> None:
    *unknown, known = put(storage, *(job("other", priority=9) for _ in range(50)), job())
    assert ids(hand.claim(1)) == [known]
    assert {status(storage, job_id) for job_id in unknown} == {JobStatus.PENDING}


def test_no_keys_claim_nothing(storage: Storage, hand: Hand) -> None:
    put(storage)
    assert hand.claim(keys=frozenset()) == []


def test_no_room_claims_nothing(storage: Storage, hand: Hand) -> None:
    put(storage)
    assert hand.claim(0) == []


def test_each_queue_has_its_own_room(storage: Storage, hand: Hand) -> None:
    put(storage, *(job(queue=queue) for queue in "abc" for _ in range(4)))
    claimed = hand.claim(1, rooms={"b": 3, "c": 0})
    assert sorted(each.queue for each in claimed) == ["a", "b", "b", "b"]


def test_queues_that_the_worker_has_not_heard_of_are_found_beside_those_that_it_names(
    storage: Storage, hand: Hand
) -> None:
    put(storage, *(job(queue=queue) for queue in ("", "B", "a", "b", "c", "c0", "d", "e", "z")))
    claimed = hand.claim(1, rooms={"b": 1, "c": 0, "empty": 5}, ahead={"d": 1})
    assert sorted(each.queue for each in claimed) == ["", "B", "a", "b", "c0", "d", "e", "z"]


def test_only_the_queues_that_are_wanted_are_claimed_from(storage: Storage, hand: Hand) -> None:
    put(storage, *(job(queue=queue) for queue in "abcd"))
    assert [each.queue for each in hand.claim(queues=("d", "b", "nothing here"))] == ["b", "d"]


def test_prefetching_takes_more_than_the_room_but_never_what_may_run_only_once(storage: Storage, hand: Hand) -> None:
    first, once, more = put(storage, job(priority=3), job(priority=2, max_attempts=1), job(priority=1))
    claimed = ids(hand.claim(1, ahead={"default": 2}))
    assert claimed[0] == first
    assert once not in claimed
    assert set(claimed) <= {first, more}


def test_prefetching_takes_so_many_beyond_the_room_and_no_more(storage: Storage, hand: Hand) -> None:
    put(storage, *(job(queue=queue) for queue in "ab" for _ in range(9)))
    claimed = hand.claim(2, ahead={"a": 3})
    assert [sum(each.queue == queue for each in claimed) for queue in "ab"] == [5, 2]


def test_what_may_run_only_once_is_claimed_where_there_is_room(storage: Storage, hand: Hand) -> None:
    once, more, further = put(storage, job(priority=9, max_attempts=1), job(), job(max_attempts=1))
    assert ids(hand.claim(1, ahead={"default": 1})) == [once, more]
    assert ids(hand.claim(1)) == [further]


def test_a_limit_counts_what_runs_at_every_worker(storage: Storage, second: Storage, crew: Crew) -> None:
    put(storage, *(job(queue="slow") for _ in range(5)), job(queue="free"))
    one, other = crew.hire(storage, limits={"slow": 3}), crew.hire(second, limits={"slow": 3})
    first = one.claim(2, queues=("slow",))
    assert len(first) == 2
    assert [each.queue for each in other.claim(5)] == ["slow", "free"]
    assert one.claim(5) == []
    assert len(one.turn(ended(first[0]), room=5).claimed) == 1
    assert queue_of(storage, "slow") == (1, 0, 3, False, 3)


def test_nothing_is_prefetched_from_a_queue_with_a_limit(storage: Storage, crew: Crew) -> None:
    put(storage, *(job(queue="slow") for _ in range(5)))
    assert len(crew.hire(storage, limits={"slow": 4}).claim(1, ahead={"slow": 2})) == 1


def test_the_newest_limit_counts(storage: Storage, crew: Crew) -> None:
    put(storage, *(job(queue="slow") for _ in range(5)))
    one = crew.hire(storage, limits={"slow": 1})
    crew.hire(storage, limits={"slow": 2})
    assert len(one.claim()) == 2


def test_a_paused_queue_waits_while_the_others_go_on(storage: Storage, second: Storage, hand: Hand) -> None:
    paused, free = put(storage, job(queue="a", priority=9), job(queue="b"))
    second.pause("a", now=at(0))
    assert ids(hand.claim(ahead={"a": 1})) == [free]
    assert hand.claim(queues=("a",)) == []
    assert hand.claim(queues=("a",), suspect=True) == []
    assert queue_of(storage, "a")[3]
    second.resume("a", now=at(1))
    assert ids(hand.claim()) == [paused]
    assert not queue_of(storage, "a")[3]


def test_pausing_keeps_the_limit(storage: Storage, crew: Crew) -> None:
    put(storage, job(queue="slow"))
    crew.hire(storage, limits={"slow": 4})
    storage.pause("slow", now=at(0))
    storage.resume("slow", now=at(0))
    assert queue_of(storage, "slow") == (1, 0, 0, False, 4)


def test_a_job_becomes_ready_at_its_time_and_not_before(storage: Storage, hand: Hand) -> None:
    (due,) = put(storage, job(run_at=at(60)))
    early = hand.turn(room=1, time=59.999)
    assert (list(early.claimed), early.next_due) == ([], at(60))
    on_time = hand.turn(room=1, time=60)
    assert (ids(on_time.claimed), on_time.next_due) == ([due], None)


def test_a_time_between_two_milliseconds_is_never_early(storage: Storage, hand: Hand) -> None:
    put(storage, job(run_at=at(60.0004)))
    assert hand.claim(time=60.0003) == []
    assert len(hand.claim(time=60.001)) == 1


def test_the_next_time_is_the_earliest(storage: Storage, hand: Hand) -> None:
    put(storage, job(run_at=at(70)), job(run_at=at(60)), job(run_at=at(80)))
    assert hand.turn(room=1).next_due == at(60)
    assert hand.turn(room=1, time=65).next_due == at(70)


def test_a_job_that_became_due_takes_its_place_in_the_order(storage: Storage, hand: Hand) -> None:
    plain, due = put(storage, job(), job(priority=1, run_at=at(60)))
    assert ids(hand.claim(1, time=61)) == [due]
    assert ids(hand.claim(1, time=61)) == [plain]


def test_at_most_a_thousand_become_ready_in_one_turn_the_earliest_first(storage: Storage, hand: Hand) -> None:
    given = put(storage, *(job(run_at=at(2000 - n)) for n in range(1500)))
    turn = hand.turn(room=2000, time=9999)
    assert sorted(ids(turn.claimed)) == given[500:]
    assert turn.next_due == at(2000 - 499)
    assert sorted(ids(hand.claim(2000, time=9999))) == given[:500]


def test_what_is_due_becomes_ready_even_where_there_is_no_room(storage: Storage, hand: Hand) -> None:
    (due,) = put(storage, job(run_at=at(60)))
    hand.claim(0, time=61)
    assert status(storage, due) is JobStatus.PENDING


def test_a_suspect_runs_alone(storage: Storage, hand: Hand) -> None:
    low, high, _ = put(storage, job(), job(priority=5), job(priority=9))
    dead = {each.id: each for each in hand.claim()}
    plain = next(job_id for job_id in dead if job_id not in {low, high})
    hand.settle(died(dead[low]), died(dead[high]), given_back(dead[plain]))
    turn = hand.turn(room=0)
    assert turn.suspects
    assert ids(hand.claim(suspect=True)) == [high]
    assert ids(hand.claim(ahead={"default": 5})) == [plain]
    assert ids(hand.claim(room=0, suspect=True)) in ([low], [])
    assert not hand.turn(room=10, suspect=True).suspects


def test_a_claimed_suspect_says_how_often_its_worker_died(storage: Storage, hand: Hand) -> None:
    put(storage)
    hand.settle(died(hand.claim_one()))
    (suspect,) = hand.claim(suspect=True)
    assert (suspect.crashes, suspect.attempts) == (1, 0)


def test_suspects_that_this_worker_does_not_know_are_none_of_its_business(
    storage: Storage, hand: Hand, crew: Crew
) -> None:
    other = crew.hire(storage, keys={"other"})
    put(storage, job("other"))
    other.settle(died(other.claim_one()))
    assert not hand.turn(room=1).suspects
    assert hand.claim(suspect=True) == []
    assert other.turn(room=1).suspects


def test_a_suspect_does_not_break_the_limit_of_its_queue(storage: Storage, crew: Crew) -> None:
    hand, other = crew.hire(storage, limits={"slow": 1}), crew.hire(storage, keys={"other"})
    put(storage, job(queue="slow"), job("other", queue="slow"))
    hand.settle(died(hand.claim_one()))
    of_the_other = other.claim_one()  # it does not know the suspect
    assert hand.claim(suspect=True) == []
    other.settle(ended(of_the_other))
    assert len(hand.claim(suspect=True)) == 1


def test_a_place_of_a_limited_queue_is_kept_for_a_suspect(storage: Storage, crew: Crew) -> None:
    """Else the others, who need not be alone for it, would always be quicker, and it would never run."""
    hand, other = crew.hire(storage, limits={"slow": 2}), crew.hire(storage)
    suspect, *_ = put(storage, *(job(queue="slow") for _ in range(5)))
    dead, plain = hand.claim(2)
    hand.settle(died(dead))
    assert other.claim() == []
    hand.settle(ended(plain))
    assert len(other.claim()) == 1
    assert ids(hand.claim(suspect=True)) == [suspect]


def test_a_suspect_is_told_to_the_worker_that_makes_room_for_it_by_becoming_empty(storage: Storage, crew: Crew) -> None:
    hand = crew.hire(storage, limits={"slow": 2})
    put(storage, job(queue="slow"), job(queue="slow"))
    dead, _ = hand.claim(2)
    other = crew.hire(storage, limits={"slow": 1})
    hand.settle(died(dead))
    assert hand.turn(room=1).suspects
    assert not other.turn(room=1).suspects


def test_an_unknown_worker_claims_nothing(storage: Storage, hand: Hand) -> None:
    put(storage)
    hand.seat.leave()
    with pytest.raises(WorkerLost):
        hand.claim()
    assert [each.status for each in everything(storage)] == [JobStatus.PENDING]
