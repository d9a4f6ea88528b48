"""The rules of a job's life, without any database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from sidework.model.job import Claim, ClaimedJob, EndedJob, JobStatus, LostJob, Reached, RetentionRule
from sidework.model.lifecycle import (
    DEFAULT_POLICY,
    MOVES,
    Cancelled,
    Discarded,
    GivenBack,
    Happening,
    Policy,
    Raised,
    Returned,
    Snoozed,
    WorkerDied,
    after_death,
    decide,
    may_go,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HALF = 0.5


def job(**fields: Any) -> ClaimedJob:
    given: dict[str, Any] = {
        "claim": Claim(7, 4),
        "attempts": 0,
        "max_attempts": 3,
        "crashes": 0,
        "queue": "default",
        "priority": 0,
        "payload": None,
    } | fields
    return ClaimedJob(key="k", created_at="2026-01-01T11:00:00.000Z", **given)


def outcome(happened: Happening, policy: Policy = DEFAULT_POLICY, **fields: Any) -> Any:
    return decide(job(**fields), happened, policy, now=NOW, chance=HALF)


def test_a_return_completes_and_counts_the_attempt() -> None:
    end = outcome(Returned("42"), attempts=1)
    assert (end.status, end.attempts, end.result, end.error, end.run_at) == (JobStatus.COMPLETED, 2, "42", None, None)
    assert end.claim == Claim(7, 4)


def test_a_failure_with_attempts_left_is_tried_again_by_back_off() -> None:
    end = outcome(Raised("ValueError: x"), attempts=1)
    assert (end.status, end.attempts, end.error) == (JobStatus.SCHEDULED, 2, "ValueError: x")
    assert end.run_at == NOW + timedelta(seconds=2 * HALF)


def test_the_last_failure_is_the_end() -> None:
    end = outcome(Raised("ValueError: x"), attempts=2)
    assert (end.status, end.attempts, end.error, end.run_at) == (JobStatus.FAILED, 3, "ValueError: x", None)


def test_a_wait_that_the_handler_names_replaces_the_back_off() -> None:
    assert outcome(Raised("x", timedelta(minutes=5))).run_at == NOW + timedelta(minutes=5)
    assert outcome(Raised("x", timedelta(minutes=5)), attempts=2).status is JobStatus.FAILED


def test_back_off_follows_the_policy() -> None:
    assert outcome(Raised("x"), Policy(backoff=(10.0, 60.0)), attempts=1).run_at == NOW + timedelta(seconds=60)


def test_a_snooze_uses_no_attempt() -> None:
    end = outcome(Snoozed(timedelta(seconds=9)), attempts=2)
    assert (end.status, end.attempts, end.run_at) == (JobStatus.SCHEDULED, 2, NOW + timedelta(seconds=9))


def test_a_discard_fails_at_once() -> None:
    end = outcome(Discarded("no such user"))
    assert (end.status, end.attempts, end.error) == (JobStatus.FAILED, 1, "no such user")


def test_a_cancelled_attempt_ends_the_job_without_using_an_attempt() -> None:
    end = outcome(Cancelled("cancelled by request"), attempts=1)
    assert (end.status, end.attempts) == (JobStatus.CANCELLED, 1)


def test_what_is_given_back_is_ready_as_before() -> None:
    end = outcome(GivenBack(), attempts=1, crashes=1)
    assert (end.status, end.attempts, end.crashes, end.run_at) == (JobStatus.PENDING, 1, 1, None)


def test_the_first_death_counts_as_a_crash_and_not_as_an_attempt() -> None:
    end = outcome(WorkerDied(suspected=True), attempts=1)
    assert (end.status, end.attempts, end.crashes, end.run_at) == (JobStatus.PENDING, 1, 1, None)
    assert end.error == "its worker died while it ran"


def test_later_deaths_wait_by_back_off() -> None:
    assert outcome(WorkerDied(suspected=True), crashes=1).run_at == NOW + timedelta(seconds=HALF)


def test_the_third_death_fails_the_job_with_the_reason() -> None:
    end = outcome(WorkerDied(suspected=True), crashes=2)
    assert (end.status, end.crashes) == (JobStatus.FAILED, 3)
    assert "died 3 times" in end.error


def test_how_many_deaths_are_borne_is_an_option() -> None:
    assert outcome(WorkerDied(suspected=True), Policy(max_crashes=5), crashes=3).status is JobStatus.SCHEDULED
    assert outcome(WorkerDied(suspected=True), Policy(max_crashes=1)).status is JobStatus.FAILED


def test_an_innocent_neighbour_is_ready_again_uncharged() -> None:
    end = outcome(WorkerDied(suspected=False), attempts=1)
    assert (end.status, end.attempts, end.crashes) == (JobStatus.PENDING, 1, 0)


def test_at_most_once_means_no_second_start_after_a_death() -> None:
    for suspected in (True, False):
        end = outcome(WorkerDied(suspected=suspected), max_attempts=1)
        assert end.status is JobStatus.FAILED
        assert "at most once" in end.error


def test_a_death_carries_out_a_cancel_request() -> None:
    assert outcome(WorkerDied(suspected=True, cancel_requested=True), max_attempts=1).status is JobStatus.CANCELLED


BEGUN, ENDED, NOTHING, UNKNOWN = Reached.BEGUN, Reached.ENDED, Reached.NOTHING, Reached.UNKNOWN
CHARGED, SPARED, BACK = WorkerDied(suspected=True), WorkerDied(suspected=False), GivenBack()


def lost(reached: Reached, crashes: int = 0, *, number: int = 1, cancel: bool = False) -> LostJob:
    held = job(claim=Claim(number, 1), crashes=crashes)
    return LostJob(job=held, worker=1, cancel_requested=cancel, reached=reached)


@pytest.mark.parametrize(
    ("dead", "happened"),
    [
        ([], []),
        ([(UNKNOWN, 0)], [CHARGED]),
        ([(UNKNOWN, 0), (UNKNOWN, 0)], [CHARGED, CHARGED]),
        ([(UNKNOWN, 0), (UNKNOWN, 1), (UNKNOWN, 2)], [SPARED, CHARGED, CHARGED]),
        ([(BEGUN, 0), (NOTHING, 0), (ENDED, 0)], [CHARGED, BACK, SPARED]),
        ([(BEGUN, 0), (BEGUN, 1), (NOTHING, 0)], [SPARED, CHARGED, BACK]),
        ([(BEGUN, 0), (NOTHING, 1), (ENDED, 1)], [CHARGED, BACK, SPARED]),
        ([(ENDED, 0), (NOTHING, 0), (ENDED, 0)], [CHARGED, BACK, CHARGED]),
        ([(ENDED, 0), (ENDED, 1)], [SPARED, CHARGED]),
        ([(NOTHING, 0), (NOTHING, 2)], [BACK, BACK]),
    ],
)
def test_only_what_ran_may_have_killed_its_worker_and_who_was_there_before_takes_the_blame(
    dead: list[tuple[Reached, int]], happened: list[Happening]
) -> None:
    assert after_death([lost(*each, number=number) for number, each in enumerate(dead)]) == happened


def test_a_job_that_was_to_be_cancelled_ends_with_its_worker_though_it_never_began() -> None:
    [happened] = after_death([lost(NOTHING, cancel=True)])
    end = outcome(happened, attempts=1, max_attempts=1)
    assert (end.status, end.attempts, end.crashes) == (JobStatus.CANCELLED, 1, 0)
    assert after_death([lost(BEGUN, cancel=True)]) == [WorkerDied(suspected=True, cancel_requested=True)]


def test_a_job_that_may_run_once_only_and_never_began_is_ready_as_before() -> None:
    [happened] = after_death([lost(NOTHING)])
    end = outcome(happened, max_attempts=1)
    assert (end.status, end.attempts, end.crashes, end.run_at, end.error) == (JobStatus.PENDING, 0, 0, None, None)


HAPPENINGS: tuple[Happening, ...] = (
    Returned(None),
    Raised("x"),
    Snoozed(timedelta(1)),
    Discarded("x"),
    Cancelled("x"),
    GivenBack(),
    WorkerDied(suspected=True),
    WorkerDied(suspected=False),
)


@pytest.mark.parametrize(("happened", "attempts", "crashes"), [*product(HAPPENINGS, range(3), range(3))])
def test_every_outcome_is_an_allowed_move_that_never_counts_backwards(
    happened: Happening, attempts: int, crashes: int
) -> None:
    end = outcome(happened, attempts=attempts, crashes=crashes)
    assert end.status in MOVES[JobStatus.RUNNING]
    assert (end.status is JobStatus.SCHEDULED) == (end.run_at is not None)
    assert attempts <= end.attempts <= attempts + 1
    assert crashes <= end.crashes <= crashes + 1


def test_nothing_but_a_retry_leads_out_of_an_end() -> None:
    assert MOVES[JobStatus.COMPLETED] == frozenset()
    assert MOVES[JobStatus.FAILED] == MOVES[JobStatus.CANCELLED] == {JobStatus.PENDING}


KEPT_A_DAY = RetentionRule(statuses=frozenset({JobStatus.COMPLETED}), keep=timedelta(days=1))
KEPT_AN_HOUR = RetentionRule(statuses=frozenset({JobStatus.COMPLETED}), keep=timedelta(hours=1), key="ping")


@pytest.mark.parametrize(
    ("key", "status", "age", "goes"),
    [
        ("any", JobStatus.COMPLETED, timedelta(days=1), True),
        ("any", JobStatus.COMPLETED, timedelta(days=1, milliseconds=-1), False),
        ("any", JobStatus.FAILED, timedelta(days=999), False),
        ("ping", JobStatus.COMPLETED, timedelta(hours=1), True),
        ("ping", JobStatus.COMPLETED, timedelta(minutes=59), False),
    ],
)
def test_the_first_rule_for_key_and_status_says_when_a_job_may_go(
    key: str, status: JobStatus, age: timedelta, goes: bool
) -> None:
    rules = [KEPT_AN_HOUR, KEPT_A_DAY]
    ended = EndedJob(key=key, status=status, at=NOW - age)
    assert may_go(rules, ended, now=NOW) is goes
    assert not may_go([], ended, now=NOW)


def test_what_a_completed_job_asked_for_itself_goes_before_the_rules() -> None:
    completed = EndedJob(key="any", status=JobStatus.COMPLETED, at=NOW - timedelta(hours=2), keep=timedelta(hours=1))
    assert may_go([KEPT_A_DAY], completed, now=NOW)
    assert not may_go([KEPT_A_DAY], completed, now=NOW - timedelta(hours=1.5))
