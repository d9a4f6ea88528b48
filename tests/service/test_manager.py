"""The manager: looking at jobs and steering them, one and many, on a real file."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.storage.crew import NOON, Hand, at, ended, job

from sidework import BackgroundJobManager, DatabaseMissing, FrozenClock, JobNotFound, JobStatus, NotMigrated
from sidework.manager import BATCH
from sidework.model.job import Claim, JobFilter, LogLine, Report, RetentionRule
from sidework.storage.open import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sidework.storage.contract import Storage


@pytest.fixture
def storage(database: str) -> Iterator[Storage]:
    store = open_storage(database)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON)


@pytest.fixture
def jobs(storage: Storage, clock: FrozenClock) -> BackgroundJobManager:
    return BackgroundJobManager(storage, clock=clock)


@pytest.fixture
def hand(storage: Storage) -> Iterator[Hand]:
    worker = Hand(storage)
    yield worker
    worker.seat.leave()


def put(storage: Storage, count: int = 1, *, time: float = 0, **fields: Any) -> list[int]:
    return storage.insert([job(**fields)] * count, now=at(time))


def finish(hand: Hand, status: JobStatus, *, time: float = 0) -> list[int]:
    """Run everything that is ready to this end."""
    claimed = hand.claim()
    hand.settle(*(ended(each, status) for each in claimed), time=time)
    return [each.id for each in claimed]


def ids(jobs: Sequence[Any]) -> list[int]:
    return [each.id for each in jobs]


# --------------------------------------------------------------------------------------------------------- look


def test_a_manager_needs_only_the_address(storage: Storage, path: Path) -> None:
    (one,) = put(storage, payload='{"a":1}')
    for address in (path, str(path), f"sqlite:///{path}"):
        found = BackgroundJobManager(address).get(one)
        assert (found.id, found.key, found.payload, found.status) == (one, "k", {"a": 1}, JobStatus.PENDING)


def test_looking_at_a_database_that_is_not_there_creates_none(path: Path) -> None:
    jobs = BackgroundJobManager(path)
    for look in (jobs.counts, jobs.list, jobs.workers, jobs.queues, jobs.prune, lambda: jobs.retry(1)):
        with pytest.raises(DatabaseMissing):
            look()
    assert not path.exists()


def test_looking_at_a_database_without_tables_says_so_until_they_are_there(path: Path) -> None:
    path.touch()
    jobs = BackgroundJobManager(path)
    with pytest.raises(NotMigrated):
        jobs.counts()
    open_storage(path).migrate()
    assert sum(jobs.counts().values()) == 0


def test_pages_follow_one_another_from_either_end(storage: Storage, jobs: BackgroundJobManager) -> None:
    all_ids = put(storage, 5)
    first = jobs.list(limit=2)
    assert ids(first) == all_ids[:-3:-1]
    assert ids(jobs.list(limit=2, after=first[-1].id)) == [all_ids[2], all_ids[1]]
    assert ids(jobs.list(limit=3, newest_first=False)) == all_ids[:3]
    assert ids(jobs.list(limit=3, newest_first=False, after=all_ids[2])) == all_ids[3:]


def test_every_condition_narrows(storage: Storage, jobs: BackgroundJobManager, hand: Hand) -> None:
    old = put(storage, time=-100)
    done = finish(hand, JobStatus.COMPLETED)
    mail = put(storage, queue="mail", priority=5)
    other = put(storage, key="other")
    for conditions, expected in (
        ({}, old + mail + other),
        ({"key": "other"}, other),
        ({"queue": "mail"}, mail),
        ({"priority": 5}, mail),
        ({"status": "COMPLETED"}, done),
        ({"status": JobStatus.PENDING}, mail + other),
        ({"statuses": ["completed", JobStatus.FAILED]}, done),
        ({"created_before": at(-50)}, old),
        ({"created_after": at(-50)}, mail + other),
        ({"older_than": 50}, old),
        ({"older_than": timedelta(seconds=50)}, old),
        ({"older_than": 50, "created_before": at(-200)}, []),
        ({"queue": "mail", "key": "other"}, []),
    ):
        assert ids(jobs.list(newest_first=False, **conditions)) == expected, conditions
        assert jobs.count(**conditions) == len(expected), conditions


@pytest.mark.parametrize(
    ("conditions", "error", "words"),
    [
        ({"state": "FAILED"}, TypeError, "unknown condition state; known: status"),
        ({"status": "DONE"}, ValueError, "statuses are PENDING, SCHEDULED"),
        ({"created_before": datetime(2026, 1, 1)}, ValueError, "no time zone"),  # noqa: DTZ001 - the naive one is meant
    ],
)
def test_a_condition_that_is_none_is_refused(
    jobs: BackgroundJobManager, conditions: Any, error: type[Exception], words: str
) -> None:
    for act in (jobs.list, jobs.count, jobs.retry_many, jobs.cancel_many, jobs.delete_many):
        with pytest.raises(error, match=words):
            act(**conditions)


def test_counts_name_every_status(storage: Storage, jobs: BackgroundJobManager, hand: Hand) -> None:
    put(storage, 2)
    finish(hand, JobStatus.FAILED)
    put(storage, run_at=at(60))
    assert jobs.counts() == dict.fromkeys(JobStatus, 0) | {JobStatus.FAILED: 2, JobStatus.SCHEDULED: 1}


def test_what_asks_for_one_job_says_when_there_is_none(jobs: BackgroundJobManager) -> None:
    for act in (
        jobs.get,
        jobs.log,
        jobs.explain,
        jobs.retry,
        jobs.cancel,
        jobs.delete,
        lambda job_id: jobs.set_priority(job_id, 1),
    ):
        with pytest.raises(JobNotFound, match="no job 404"):
            act(404)


def test_the_log_of_a_job_is_in_order_and_may_be_empty(
    storage: Storage, jobs: BackgroundJobManager, hand: Hand
) -> None:
    put(storage)
    claimed = hand.claim_one()
    assert list(jobs.log(claimed.id)) == []
    lines = tuple(LogLine(at=at(second), message=f"line {second}") for second in (1, 2))
    storage.report([Report(claim=claimed.claim, lines=lines)], now=at(3))
    assert list(jobs.log(claimed.id)) == list(lines)


def test_explain_reads_the_facts_of_this_database(storage: Storage, jobs: BackgroundJobManager, hand: Hand) -> None:
    (one,) = put(storage, key="unknown", queue="mail")
    jobs.pause("mail")
    assert [reason.code for reason in jobs.explain(one).reasons] == ["unknown_key", "queue_paused"]
    (later,) = put(storage, run_at=at(90))
    assert "due in 1 min 30 s" in jobs.explain(later).reasons[0].text
    assert [worker.id for worker in jobs.workers()] == [hand.id]


# ---------------------------------------------------------------------------------------------------- steer one


def test_retry_makes_a_failed_job_new_again(storage: Storage, jobs: BackgroundJobManager, hand: Hand) -> None:
    (one,) = put(storage)
    finish(hand, JobStatus.FAILED)
    assert jobs.retry(one)
    again = jobs.get(one)
    assert (again.status, again.attempts) == (JobStatus.PENDING, 0)
    assert not jobs.retry(one)


def test_cancel_ends_a_waiting_job_and_asks_a_running_one(
    storage: Storage, jobs: BackgroundJobManager, hand: Hand
) -> None:
    (running,) = put(storage)
    claim = hand.claim_one().claim
    (waiting,) = put(storage)
    assert jobs.cancel(waiting)
    assert jobs.get(waiting).status is JobStatus.CANCELLED
    assert not jobs.cancel(waiting)
    assert jobs.cancel(running)
    assert jobs.get(running).status is JobStatus.RUNNING
    assert hand.turn().cancel == {Claim(running, claim.number)}


def test_a_running_job_is_not_deleted(storage: Storage, jobs: BackgroundJobManager, hand: Hand) -> None:
    (running,) = put(storage)
    hand.claim_one()
    (waiting,) = put(storage)
    assert not jobs.delete(running)
    assert jobs.delete(waiting)
    with pytest.raises(JobNotFound):
        jobs.get(waiting)


def test_a_priority_changes_while_a_job_waits(storage: Storage, jobs: BackgroundJobManager, hand: Hand) -> None:
    first, second = put(storage, 2)
    assert jobs.set_priority(second, 9)
    assert hand.claim_one().id == second
    assert not jobs.set_priority(second, 1)
    assert (jobs.get(first).priority, jobs.get(second).priority) == (0, 9)


# --------------------------------------------------------------------------------------------------- steer many


class Spy:
    """A storage that counts how many ids each act is given."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._storage, name)
        if name not in {"retry", "cancel", "delete", "set_priority"}:
            return act

        def counted(given: Sequence[int], *args: Any, **kwargs: Any) -> Any:
            self.batches.append(len(given))
            return act(given, *args, **kwargs)

        return counted


def test_many_are_steered_in_small_batches_each_exactly_once(storage: Storage, clock: FrozenClock) -> None:
    spy: Any = Spy(storage)
    jobs = BackgroundJobManager(spy, clock=clock)
    put(storage, 2 * BATCH + 50, key="mine")
    put(storage, 3)
    assert jobs.set_priority_many(4, key="mine") == 2 * BATCH + 50
    assert jobs.cancel_many(key="mine") == 2 * BATCH + 50
    assert jobs.retry_many(key="mine") == 2 * BATCH + 50
    assert jobs.delete_many(key="mine", status="PENDING") == 2 * BATCH + 50
    assert spy.batches == [BATCH, BATCH, 50] * 4
    assert jobs.count() == 3


def test_jobs_that_come_in_meanwhile_are_not_chased(storage: Storage, clock: FrozenClock) -> None:
    class Busy(Spy):
        def __getattr__(self, name: str) -> Any:
            if name == "cancel":
                put(storage, 2)
            return super().__getattr__(name)

    busy: Any = Busy(storage)
    put(storage, BATCH + 1)
    assert BackgroundJobManager(busy, clock=clock).cancel_many() == BATCH + 1
    assert storage.count(JobFilter(statuses=frozenset({JobStatus.PENDING}))) == 4


def test_without_a_status_each_act_means_the_jobs_that_it_makes_sense_for(
    storage: Storage, jobs: BackgroundJobManager, hand: Hand
) -> None:
    put(storage)
    finish(hand, JobStatus.COMPLETED)
    put(storage)
    finish(hand, JobStatus.FAILED)
    put(storage)
    assert jobs.retry_many() == 1
    assert jobs.cancel_many() == 2
    assert jobs.delete_many(key="k") == 3
    assert jobs.count() == 0
    assert jobs.cancel_many() == 0


def test_a_scheduled_job_is_retried_only_when_asked_for(storage: Storage, jobs: BackgroundJobManager) -> None:
    (one,) = put(storage, run_at=at(60))
    assert jobs.retry_many() == 0
    assert jobs.retry_many(status="SCHEDULED") == 1
    assert jobs.get(one).status is JobStatus.PENDING


def test_deleting_everything_must_be_said(storage: Storage, jobs: BackgroundJobManager, hand: Hand) -> None:
    put(storage)
    finish(hand, JobStatus.COMPLETED)
    with pytest.raises(ValueError, match="without a condition"):
        jobs.delete_many()
    assert jobs.count() == 1


# ------------------------------------------------------------------------------------------------ queues, prune


def test_a_paused_queue_gives_nothing_until_it_is_resumed(
    storage: Storage, jobs: BackgroundJobManager, hand: Hand
) -> None:
    put(storage, queue="mail")
    jobs.pause("mail")
    assert hand.claim() == []
    assert [(queue.name, queue.paused, queue.pending) for queue in jobs.queues()] == [("mail", True, 1)]
    jobs.resume("mail")
    assert len(hand.claim()) == 1


def test_prune_lets_go_what_is_old_enough_page_by_page(
    storage: Storage, jobs: BackgroundJobManager, hand: Hand, clock: FrozenClock
) -> None:
    put(storage, BATCH + 5)
    finish(hand, JobStatus.COMPLETED)
    put(storage)
    finish(hand, JobStatus.FAILED)
    (waiting,) = put(storage)
    clock.advance(timedelta(days=7) - timedelta(seconds=1))
    assert jobs.prune() == 0
    clock.advance(1)
    assert jobs.prune() == BATCH + 5
    clock.advance(timedelta(days=23))
    assert jobs.prune() == 1
    assert ids(jobs.list()) == [waiting]


def test_prune_takes_other_rules(storage: Storage, jobs: BackgroundJobManager, hand: Hand) -> None:
    put(storage)
    finish(hand, JobStatus.FAILED)
    at_once = RetentionRule(statuses=frozenset({JobStatus.FAILED}), keep=timedelta(0), key="k")
    assert jobs.prune([at_once]) == 1
