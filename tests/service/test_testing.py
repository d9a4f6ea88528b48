"""What users get for their own tests."""

from __future__ import annotations

import pytest

from sidework import BackgroundService, JobStatus, Retry
from sidework.testing import (
    FrozenClock,
    assert_enqueued,
    assert_not_enqueued,
    drain,
    enqueued,
    frozen_clock,  # noqa: F401 - a fixture
    job_database,  # noqa: F401 - a fixture
    run_due,
)


@pytest.fixture
def shop(job_database, frozen_clock):  # noqa: F811
    return BackgroundService(job_database, clock=frozen_clock)


def register(shop):
    @shop.handler
    def send_mail(to: str, subject: str = "hello") -> None: ...

    @shop.handler(max_attempts=3, backoff=[60, 600])
    def flaky() -> None:
        raise Retry

    return send_mail, flaky


def test_run_due_runs_what_is_due_and_returns_it(shop):
    send_mail, _ = register(shop)
    first = send_mail.enqueue(to="a")
    send_mail.using(delay=10).enqueue(to="b")
    assert [(job.id, job.status) for job in run_due(shop)] == [(first, JobStatus.COMPLETED)]
    assert run_due(shop) == []


def test_drain_moves_the_time_to_whatever_is_due(shop):
    _, flaky = register(shop)
    job_id = flaky.enqueue()
    start = shop.clock.now()
    assert [(job.id, job.status, job.attempts) for job in drain(shop)] == [(job_id, JobStatus.FAILED, 3)]
    assert (shop.clock.now() - start).total_seconds() == 660


def test_drain_needs_a_frozen_clock_and_gives_up_on_a_job_that_never_ends(tmp_path):
    with pytest.raises(TypeError, match="FrozenClock"):
        drain(BackgroundService(tmp_path / "a.db"))
    shop = BackgroundService(tmp_path / "b.db", clock=FrozenClock())

    @shop.handler
    def again() -> None:
        again.using(delay=1).enqueue()

    again.enqueue()
    with pytest.raises(AssertionError, match="still scheduled"):
        drain(shop, most_rounds=3)


def test_assert_enqueued_finds_by_key_payload_and_columns(shop):
    send_mail, _ = register(shop)
    send_mail.enqueue(to="a")
    wanted = send_mail.using(queue="mail", priority=5).enqueue(to="b", subject="x")
    assert assert_enqueued(shop, "send_mail", {"to": "b"}, queue="mail", priority=5).id == wanted
    assert len(enqueued(shop)) == 2
    assert_not_enqueued(shop, "send_mail", {"to": "c"})
    with pytest.raises(AssertionError, match="'to': 'a'"):
        assert_enqueued(shop, "send_mail", {"to": "c"})
    with pytest.raises(AssertionError, match="is waiting"):
        assert_not_enqueued(shop, "send_mail", {"to": "a"})
    run_due(shop)
    with pytest.raises(AssertionError):
        assert_enqueued(shop, "send_mail")
