"""The judgement of doctor: what is well, what is good to know, what is ill."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sidework.model.health import Examination, Finding, Level, RunningJob, diagnose
from sidework.model.job import WorkerInfo

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def worker(
    number: int = 1, *, alive: bool = True, running: int = 0, silent_for: float = 1, keys: str = "mail"
) -> WorkerInfo:
    return WorkerInfo(
        id=number,
        name=f"w{number}",
        host="here",
        pid=100 + number,
        version="0.1.0",
        concurrency=10,
        queues=None,
        keys=frozenset(keys.split()),
        started_at=NOW - timedelta(hours=1),
        seen_at=NOW - timedelta(seconds=silent_for),
        running=running,
        alive=alive,
    )


def found(subject: str, examination: Examination, *workers: WorkerInfo) -> Finding:
    [finding] = [finding for finding in diagnose(examination, workers, NOW) if finding.subject == subject]
    return finding


NOTHING = Examination(findings=[])


def test_what_the_database_found_comes_first() -> None:
    own = Finding(subject="log", level=Level.NOTICE, text="large")
    assert diagnose(Examination(findings=[own]), [], NOW)[0] is own


def test_of_tables_that_cannot_be_used_nothing_more_is_said() -> None:
    own = Finding(subject="tables", level=Level.ILL, text="missing")
    assert diagnose(Examination(findings=[own], usable=False), [], NOW) == [own]


def test_living_workers_are_well() -> None:
    assert found("workers", NOTHING, worker(1), worker(2)).text == "2 at work"


def test_a_dead_worker_that_holds_jobs_is_ill_while_nobody_takes_them_over() -> None:
    finding = found("workers", NOTHING, worker(alive=False, running=3))
    assert finding.level is Level.ILL
    assert "still hold: 3" in finding.text
    assert finding.remedy


def test_a_dead_worker_is_only_noticed_while_another_lives() -> None:
    assert found("workers", NOTHING, worker(1, alive=False, running=3), worker(2)).level is Level.NOTICE


def test_a_dead_worker_without_jobs_is_no_matter() -> None:
    assert found("workers", NOTHING, worker(alive=False)).level is Level.WELL


@pytest.mark.parametrize(("seconds", "level"), [(59, Level.WELL), (61, Level.ILL)])
def test_a_living_worker_that_is_silent_for_more_than_a_minute_is_ill(seconds: float, level: Level) -> None:
    assert found("workers", NOTHING, worker(silent_for=seconds)).level is level


def test_ready_jobs_that_a_living_worker_knows_are_well() -> None:
    assert found("ready jobs", Examination(findings=[], ready={"mail": 7}), worker()).level is Level.WELL


def test_ready_jobs_that_only_a_dead_worker_knows_are_ill() -> None:
    finding = found(
        "ready jobs",
        Examination(findings=[], ready={"mail": 1, "pay": 1234}),
        worker(1),
        worker(2, alive=False, keys="pay"),
    )
    assert finding.level is Level.ILL
    assert "'pay' (1,234)" in finding.text
    assert "mail" not in finding.text


def test_of_many_unknown_keys_only_some_are_named() -> None:
    finding = found("ready jobs", Examination(findings=[], ready={f"key{n}": 1 for n in range(9)}))
    assert "and 4 more keys" in finding.text


@pytest.mark.parametrize(("hours", "level"), [(0.9, Level.WELL), (1.1, Level.NOTICE)])
def test_a_job_that_runs_for_more_than_an_hour_is_noticed(hours: float, level: Level) -> None:
    oldest = RunningJob(id=17, key="train", since=NOW - timedelta(hours=hours))
    finding = found("oldest running job", Examination(findings=[], oldest_running=oldest))
    assert finding.level is level
    assert "job 17" in finding.text
