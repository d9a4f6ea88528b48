"""The clock by which jobs on PostgreSQL are due: the server's, whatever this machine's says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sidework import BackgroundService, JobStatus
from sidework.clock import SystemClock
from sidework.storage.postgres.connect import is_behind_a_pooler
from sidework.storage.postgres.server_clock import ServerClock

HOUR = timedelta(hours=1)
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_it_is_corrected_by_what_the_server_says() -> None:
    clock = ServerClock()
    clock.learn(NOW + HOUR, asked=NOW, answered=NOW + timedelta(milliseconds=10))
    ahead = clock.now() - clock.machine_now()
    assert timedelta(0) <= HOUR - ahead < timedelta(seconds=1)


@pytest.mark.parametrize("took", [timedelta(seconds=2), timedelta(seconds=-1)])
def test_an_answer_that_says_too_little_changes_nothing(took: timedelta) -> None:
    clock = ServerClock()
    clock.learn(NOW + HOUR, asked=NOW, answered=NOW + took)
    assert abs(clock.now() - clock.machine_now()) < timedelta(seconds=1)


def test_a_machine_whose_clock_is_wrong_runs_jobs_when_they_are_due(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = BackgroundService(postgres_database)
    handler = right.declare("k")
    handler.using(delay=600).enqueue()
    (later,) = right.jobs.list()

    machine = SystemClock().now

    def wrong(_: SystemClock) -> datetime:
        return machine() + HOUR

    monkeypatch.setattr("sidework.clock.SystemClock.now", wrong)
    service = BackgroundService(postgres_database)
    service.handler("k")(lambda: None)
    due = service.enqueue("k")
    service.run_until_idle()
    assert {job.id: job.status for job in right.jobs.list()} == {
        later.id: JobStatus.SCHEDULED,
        due: JobStatus.COMPLETED,
    }
    (_, created) = sorted(job.created_at for job in right.jobs.list())
    assert created - later.created_at < timedelta(minutes=5)
    right.close()


def test_a_pooler_is_known_by_the_process_that_it_makes_up() -> None:
    assert is_behind_a_pooler(announced=7, answers=4711)
    assert not is_behind_a_pooler(announced=7, answers=7)
