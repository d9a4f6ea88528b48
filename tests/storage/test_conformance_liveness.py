"""What every store must know about workers that live, leave and die."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.storage.crew import NOON, Crew, Hand, at, died, ended, ids, job, later, look, put, status

from sidework.errors import WorkerLost
from sidework.model.job import JobStatus, LostJob, Reached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidework.storage.contract import Storage

CLAIM_AND_WAIT = """
import sys
from datetime import UTC, datetime
from sidework.model.job import NewWorker
from sidework.storage.contract import Want
from sidework.storage.open import open_storage

storage, noon, room = open_storage(sys.argv[1]), datetime(2026, 1, 1, 12, tzinfo=UTC), int(sys.argv[2])
seat = storage.join(NewWorker(keys=frozenset({"k"}), queues=None, concurrency=1), now=noon)
turn = storage.exchange(seat.worker, [], Want(keys=frozenset({"k"}), room=room), now=noon)
for job, what in zip(turn.claimed, sys.argv[3:]):
    seat.begun(job.id)
    if what == "ended":
        seat.ended(job.id, written=False)
print(seat.worker, flush=True)
sys.stdin.read()
"""


@contextmanager
def worker_process(database: str, *what: str, room: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a process that claims jobs and then does nothing; yield it with its worker's id.

    what: "begun" or "ended", for the first jobs that it claims.
    """
    command = [sys.executable, "-c", CLAIM_AND_WAIT, database, str(room), *what]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def killed_worker(database: str, *what: str, room: int) -> int:
    """Return the id of a worker that was killed while it held jobs."""
    with worker_process(database, *what, room=room) as (process, worker):
        process.kill()
        process.wait()
        return worker


def lost_ids(lost: list[LostJob]) -> list[int]:
    return sorted(each.job.id for each in lost)


def test_a_worker_is_shown_as_it_told_about_itself(storage: Storage, crew: Crew) -> None:
    hand = crew.hire(storage, keys={"a", "b"}, queues=("q", "r"))
    put(storage, job("a", queue="q"))
    hand.claim()
    (shown,) = storage.workers()
    assert (shown.id, shown.keys, shown.queues, shown.concurrency) == (hand.id, frozenset("ab"), ("q", "r"), 10)
    assert (shown.started_at, shown.running, shown.alive) == (NOON, 1, True)


def test_workers_are_told_apart(storage: Storage, second: Storage, crew: Crew) -> None:
    hands = crew.hire(storage), crew.hire(storage), crew.hire(second)
    assert len({hand.id for hand in hands}) == 3
    assert len({each.name for each in storage.workers()}) == 3
    assert all(each.alive for each in second.workers())


def test_a_seat_that_was_given_up_is_gone(storage: Storage, hand: Hand) -> None:
    hand.seat.check()
    hand.seat.leave()
    assert [each for each in storage.workers() if each.alive] == []
    with pytest.raises(WorkerLost):
        hand.seat.check()
    with pytest.raises(WorkerLost):
        hand.turn()


def test_a_worker_id_that_never_was_is_lost(storage: Storage, hand: Hand) -> None:
    put(storage)
    hand_id, held = hand.id, hand.claim_one()
    with pytest.raises(WorkerLost):
        storage.renew(hand_id + 1, [held.claim], now=at(1))


def test_jobs_of_a_killed_process_are_lost_and_those_of_the_living_are_not(
    storage: Storage, database: str, hand: Hand
) -> None:
    first, second, mine = put(storage, job(priority=2), job(priority=1, payload='{"n": 2}'), job())
    worker = killed_worker(database, room=2)
    assert ids(hand.claim()) == [mine]
    lost = storage.lost(limit=100)
    assert lost_ids(lost) == [first, second]
    assert {each.worker for each in lost} == {worker}
    assert {each.id: each.alive for each in storage.workers()} == {worker: False, hand.id: True}
    assert sorted((each.job.payload or "") for each in lost) == ["", '{"n": 2}']


def test_a_lost_job_says_how_far_its_worker_had_come_or_that_nobody_knows(storage: Storage, database: str) -> None:
    put(storage, *(job(priority=priority) for priority in (3, 2, 1)))
    killed_worker(database, "begun", "ended", room=3)
    reached = [each.reached for each in sorted(storage.lost(limit=100), key=lambda each: each.job.id)]
    known = [Reached.BEGUN, Reached.ENDED, Reached.NOTHING]
    assert reached == (known if storage.name.startswith("/") else [Reached.UNKNOWN] * 3)


def test_a_process_that_stands_still_is_alive(storage: Storage, database: str) -> None:
    put(storage)
    with worker_process(database, room=1) as (process, worker):
        process.send_signal(signal.SIGSTOP)
        assert storage.lost(limit=100) == []
        assert [(each.id, each.alive) for each in storage.workers()] == [(worker, True)]


def test_jobs_that_a_leaving_worker_still_holds_are_lost(storage: Storage, second: Storage, hand: Hand) -> None:
    (job_id,) = put(storage)
    hand.claim_one()
    assert storage.lost(limit=100) == []
    hand.seat.leave()
    assert lost_ids(second.lost(limit=100)) == [job_id]


def test_of_two_keepers_only_one_brings_a_lost_job_back(
    storage: Storage, second: Storage, database: str, crew: Crew
) -> None:
    (job_id,) = put(storage)
    killed_worker(database, room=1)
    keepers = crew.hire(storage), crew.hire(second)
    seen = [keeper.storage.lost(limit=100)[0].job for keeper in keepers]
    turns = [keeper.settle(died(lost)) for keeper, lost in zip(keepers, seen, strict=True)]
    assert [turn.refused for turn in turns] == [frozenset(), {seen[1].claim}]
    kept = look(storage, job_id)
    assert (kept.status, kept.crashes, kept.worker) == (JobStatus.PENDING, 1, None)
    assert storage.lost(limit=100) == []


def test_a_lost_job_that_was_to_be_cancelled_says_so_and_is_cancelled(
    storage: Storage, database: str, hand: Hand
) -> None:
    asked, other = put(storage, job(), job())
    killed_worker(database, room=2)
    storage.cancel([asked], now=at(1))
    lost = storage.lost(limit=100)
    assert {each.job.id: each.cancel_requested for each in lost} == {asked: True, other: False}
    turn = hand.settle(*(later(each.job, 60) for each in lost), time=2)
    assert (turn.refused, turn.cancel) == (frozenset(), frozenset())
    assert (status(storage, asked), status(storage, other)) == (JobStatus.CANCELLED, JobStatus.SCHEDULED)


def test_lost_jobs_come_whole_workers_at_a_time(storage: Storage, crew: Crew) -> None:
    given = put(storage, *(job() for _ in range(6)))
    for _ in range(3):
        leaver = crew.hire(storage)
        leaver.claim(2)
        leaver.seat.leave()
    lost = storage.lost(limit=3)
    by_worker = [sum(each.worker == worker for each in lost) for worker in {each.worker for each in lost}]
    assert set(by_worker) == {2}
    assert len(lost) < 6
    assert lost_ids(storage.lost(limit=100)) == given


def test_a_worker_with_more_lost_jobs_than_asked_for_does_not_hold_them_back(
    storage: Storage, hand: Hand, crew: Crew
) -> None:
    put(storage, *(job() for _ in range(6)))
    hand.claim()
    hand.seat.leave()
    keeper = crew.hire(storage)
    for _ in range(6):
        keeper.settle(*(ended(each.job, JobStatus.FAILED) for each in storage.lost(limit=2)))
    assert storage.counts()[JobStatus.FAILED] == 6


def test_a_dead_worker_is_forgotten_when_it_holds_nothing_more(storage: Storage, database: str, hand: Hand) -> None:
    put(storage)
    worker = killed_worker(database, room=1)
    assert storage.forget_dead_workers() == 0
    assert {each.id for each in storage.workers()} == {worker, hand.id}
    hand.settle(*(died(each.job) for each in storage.lost(limit=100)))
    assert storage.forget_dead_workers() == 1
    assert [each.id for each in storage.workers()] == [hand.id]
    hand.seat.check()


def test_renewing_tells_what_is_lost_and_what_is_held_without_knowing(storage: Storage, hand: Hand) -> None:
    put(storage, job(), job(), job())
    kept, gone, forgotten = hand.claim()
    hand.settle(ended(gone))
    renewal = storage.renew(hand.id, [kept.claim, gone.claim], now=at(9))
    assert (renewal.lost, list(renewal.stray)) == (frozenset({gone.claim}), [forgotten])
    assert [each.seen_at for each in storage.workers()] == [at(9)]


def test_a_job_that_another_worker_holds_now_is_lost_to_the_first(storage: Storage, hand: Hand, crew: Crew) -> None:
    put(storage)
    held = hand.claim_one()
    hand.settle(ended(held, JobStatus.PENDING))
    other = crew.hire(storage)
    other.claim_one()
    renewal = storage.renew(hand.id, [held.claim], now=at(9))
    assert (renewal.lost, list(renewal.stray)) == (frozenset({held.claim}), [])


def test_a_job_claimed_again_by_the_same_worker_is_lost_under_the_old_claim(storage: Storage, hand: Hand) -> None:
    put(storage)
    held = hand.claim_one()
    hand.settle(ended(held, JobStatus.PENDING))
    again = hand.claim_one()
    renewal = storage.renew(hand.id, [held.claim], now=at(9))
    assert (renewal.lost, [each.claim for each in renewal.stray]) == (frozenset({held.claim}), [again.claim])


def test_a_store_is_idle_when_nothing_of_ours_is_ready_due_or_running(storage: Storage, hand: Hand) -> None:
    def idle(*, time: float = 0, queues: tuple[str, ...] | None = None) -> bool:
        return storage.idle(frozenset({"k"}), queues, now=at(time))

    assert idle()
    put(storage, job("other"), job(run_at=at(60)))
    assert idle(time=59)
    assert not idle(time=60)
    put(storage, job(queue="q"))
    assert not idle()
    assert idle(queues=("default",))
    held = hand.claim_one()
    assert not idle()
    hand.settle(died(held))
    assert not idle()
    hand.settle(*(ended(each) for each in hand.claim(suspect=True)))
    assert idle()


def test_what_other_queues_do_leaves_a_store_idle(storage: Storage, hand: Hand) -> None:
    put(storage, job(queue="q"), job(queue="q", run_at=at(60)))
    hand.claim_one()
    assert storage.idle(frozenset({"k"}), ("default",), now=at(70))
    assert not storage.idle(frozenset({"k"}), ("default", "q"), now=at(0))


def test_a_store_is_not_idle_while_a_ready_job_waits_for_the_limit_of_its_queue(
    storage: Storage, hand: Hand, crew: Crew
) -> None:
    other = crew.hire(storage, keys={"other"}, limits={"slow": 1})
    put(storage, job("other", queue="slow"), job(queue="slow"))
    other.claim_one()
    assert hand.claim() == []
    assert not storage.idle(frozenset({"k"}), None, now=NOON)
