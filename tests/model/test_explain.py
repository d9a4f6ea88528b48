"""Why a job is not running: every cause with its sentence, and its remedy where there is one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidework.model.explain import Explanation, explain
from sidework.model.job import Job, JobFacts, JobStatus, QueueInfo, WorkerInfo

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def job(**fields: Any) -> Job:
    given: dict[str, Any] = {
        "id": 7,
        "key": "send_mail",
        "payload": None,
        "status": JobStatus.PENDING,
        "queue": "mail",
        "priority": 0,
        "attempts": 0,
        "max_attempts": 3,
        "crashes": 0,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Job(**(given | fields))


def worker(**fields: Any) -> WorkerInfo:
    given: dict[str, Any] = {
        "id": 1,
        "name": "w",
        "host": "box",
        "pid": 4711,
        "version": "1",
        "concurrency": 10,
        "queues": None,
        "keys": frozenset({"send_mail"}),
        "started_at": NOW,
        "seen_at": NOW,
        "running": 0,
        "alive": True,
    }
    return WorkerInfo(**(given | fields))


def why(
    *workers: WorkerInfo,
    ahead: int = 0,
    paused: bool = False,
    limit: int | None = None,
    running: int = 0,
    cancel_requested: bool = False,
    **fields: Any,
) -> Explanation:
    queue = QueueInfo(name="mail", pending=1, scheduled=0, running=running, paused=paused, limit=limit)
    facts = JobFacts(job=job(**fields), queue=queue, ahead=ahead, workers=workers, cancel_requested=cancel_requested)
    return explain(facts, NOW)


def test_a_ready_job_with_a_worker_just_waits_for_its_turn() -> None:
    explanation = why(worker())
    assert explanation.runs
    assert [(reason.code, reason.remedy) for reason in explanation.reasons] == [("ready", None)]


SCHEDULED: dict[str, Any] = {"status": JobStatus.SCHEDULED, "run_at": NOW + timedelta(hours=2, minutes=5, seconds=9)}


@pytest.mark.parametrize(
    ("explanation", "runs", "code", "words", "remedy"),
    [
        (why(), False, "no_worker", "No worker is alive.", "start a worker"),
        (why(worker(alive=False)), False, "no_worker", "No worker is alive.", "start a worker"),
        (
            why(worker(keys=frozenset({"send_mails", "resize"}))),
            False,
            "unknown_key",
            "No live worker has a handler for 'send_mail'. The nearest that they know: 'send_mails'",
            "registers 'send_mail'",
        ),
        (why(worker(keys=frozenset({"x"}))), False, "unknown_key", "handler for 'send_mail'.", "delete the job"),
        (
            why(worker(queues=("default", "slow"))),
            False,
            "queue_not_served",
            "serves the queue 'mail'; they serve default, slow.",
            "--queues mail",
        ),
        (why(worker(), paused=True), False, "queue_paused", "The queue 'mail' is paused.", "sidework resume mail"),
        (why(worker(), limit=2, running=2), True, "queue_limit", "may run 2 jobs at once; 2 are running", None),
        (why(worker(), limit=1, running=1), True, "queue_limit", "may run 1 job at once", None),
        (why(worker(), ahead=1), True, "behind_others", "1 job of the queue 'mail' comes before it", None),
        (why(worker(), ahead=1200), True, "behind_others", "1,200 jobs of the queue 'mail' come before it", None),
        (why(worker(), crashes=1), True, "runs_alone", "A worker died once while it ran", None),
        (why(worker(), crashes=2), True, "runs_alone", "A worker died 2 times while it ran", None),
        (
            why(worker(), **SCHEDULED),
            True,
            "not_due",
            "due in 2 h 5 min, at 2026-01-01 14:05:09 UTC.",
            "sidework retry 7",
        ),
        (
            why(worker(), **SCHEDULED, attempts=1, last_error="ValueError: x"),
            True,
            "not_due",
            "Attempt 1 of 3 failed.",
            "sidework retry 7",
        ),
        (why(worker(), status=JobStatus.SCHEDULED, run_at=NOW), True, "due", "due since 2026-01-01 12:00:00", None),
        (why(worker(), cancel_requested=True), True, "cancel_requested", "cancelled at the next turn", None),
        (
            why(worker(), status=JobStatus.RUNNING, worker=1, last_attempt_at=NOW - timedelta(seconds=61)),
            True,
            "running",
            "running for 1 min 1 s on worker 1 (process 4711 on box).",
            None,
        ),
        (
            why(worker(), status=JobStatus.RUNNING, worker=1, cancel_requested=True),
            True,
            "cancel_requested",
            "its handler has not ended yet",
            None,
        ),
        (
            why(worker(alive=False), worker(id=2), status=JobStatus.RUNNING, worker=1),
            True,
            "worker_dead",
            "its worker, worker 1 (process 4711 on box), died; a live worker will run it again",
            None,
        ),
        (
            why(worker(id=2), status=JobStatus.RUNNING, worker=1),
            True,
            "worker_dead",
            "when its worker died",
            None,
        ),
        (
            why(worker(alive=False), status=JobStatus.RUNNING, worker=1),
            False,
            "worker_dead_no_other",
            "no worker is alive to run it again",
            "start a worker",
        ),
        (
            why(status=JobStatus.COMPLETED, attempts=2, finished_at=NOW),
            False,
            "completed",
            "completed at 2026-01-01 12:00:00 UTC, at attempt 2",
            None,
        ),
        (
            why(status=JobStatus.FAILED, attempts=3, finished_at=NOW, last_error="ValueError: no\nTraceback"),
            False,
            "failed",
            "failed at 2026-01-01 12:00:00 UTC after 3 attempts: ValueError: no",
            "sidework retry 7",
        ),
        (
            why(status=JobStatus.FAILED, attempts=1),
            False,
            "failed",
            "after 1 attempt: no reason was kept",
            "sidework retry 7",
        ),
        (why(status=JobStatus.CANCELLED), False, "cancelled", "It was cancelled.", "sidework retry 7"),
    ],
)
def test_every_cause_has_its_sentence(
    explanation: Explanation, runs: bool, code: str, words: str, remedy: str | None
) -> None:
    reason = next(reason for reason in explanation.reasons if reason.code == code)
    assert words in reason.text
    assert "\n" not in reason.text
    assert (remedy is None and reason.remedy is None) or (remedy or "") in (reason.remedy or "")
    assert explanation.runs is runs


def test_all_causes_are_named_what_needs_somebody_first() -> None:
    explanation = why(paused=True, limit=1, running=1, ahead=3, crashes=1, **SCHEDULED)
    codes = [reason.code for reason in explanation.reasons]
    assert codes == ["no_worker", "queue_paused", "queue_limit", "not_due", "runs_alone"]


def test_a_worker_that_knows_the_key_but_not_the_queue_does_not_hide_one_that_knows_both() -> None:
    assert why(worker(queues=("other",)), worker(id=2, queues=("mail",))).reasons[0].code == "ready"


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (timedelta(milliseconds=300), "less than a second"),
        (timedelta(seconds=5), "5 s"),
        (timedelta(minutes=3), "3 min"),
        (timedelta(days=2, hours=3, minutes=59), "2 d 3 h"),
        (timedelta(hours=1, seconds=5), "1 h 5 s"),
    ],
)
def test_lengths_of_time_are_written_for_people(length: timedelta, words: str) -> None:
    reason = why(worker(), status=JobStatus.SCHEDULED, run_at=NOW + length).reasons[0]
    assert f"due in {words}, at" in reason.text
