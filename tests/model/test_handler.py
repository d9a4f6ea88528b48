"""A handler: what its jobs look like, what one job overrides, and where they are sent."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidework.errors import InvalidHandler, InvalidPayload
from sidework.model.handler import JobHandler
from sidework.model.job import Claim, ClaimedJob, NewJob
from sidework.model.lifecycle import Policy
from sidework.model.options import HandlerOptions, handler_options

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Post:
    """A sender that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[NewJob, object]] = []
        self.asked: list[tuple[int, object, float | None]] = []

    def now(self) -> datetime:
        return NOW

    def send(self, job: NewJob, db: object) -> int:
        self.sent.append((job, db))
        return len(self.sent)

    async def asend(self, job: NewJob, db: object) -> int:
        await asyncio.sleep(0)
        return self.send(job, db)

    def result(self, job_id: int, into: object, timeout: float | None) -> object:
        self.asked.append((job_id, into, timeout))
        return "result"

    async def aresult(self, job_id: int, into: object, timeout: float | None) -> object:
        await asyncio.sleep(0)
        return self.result(job_id, into, timeout)


def greet(name: str, loud: bool = False) -> int:
    """Say hello."""
    return len(name) + loud


def handler(post: Post | None = None, **options: Any) -> JobHandler[..., Any]:
    return JobHandler("greet", greet, handler_options(options), post or Post())


def claimed(options: str | None = None) -> ClaimedJob:
    return ClaimedJob(
        claim=Claim(1, 1),
        key="greet",
        payload=None,
        queue="default",
        priority=0,
        attempts=0,
        max_attempts=3,
        crashes=0,
        created_at="2026-01-01T12:00:00.000Z",
        options=options,
    )


def test_a_handler_is_still_its_function() -> None:
    greeting = handler()
    assert greeting("ada", loud=True) == 4
    assert (greeting.__name__, greeting.__doc__) == ("greet", "Say hello.")
    assert "greet" in repr(greeting)


def test_a_new_job_has_the_columns_of_the_handlers_options() -> None:
    assert handler(queue="mail", priority=5, max_attempts=9).new("ada") == NewJob(
        key="greet", payload='{"name":"ada"}', queue="mail", priority=5, max_attempts=9
    )


def test_options_of_the_handler_that_have_no_column_are_not_kept_with_the_job() -> None:
    assert handler(timeout=5, backoff=2, max_crashes=1, retention=60).new("ada").options is None


def test_using_overrides_for_its_own_jobs_only() -> None:
    plain = handler(queue="mail")
    special = plain.using(priority=7, queue="fast", max_attempts=1, unique_key="ada")
    assert special.new("ada") == NewJob(
        key="greet", payload='{"name":"ada"}', queue="fast", priority=7, max_attempts=1, unique_key="ada"
    )
    assert plain.new("ada") == NewJob(key="greet", payload='{"name":"ada"}', queue="mail")


def test_using_adds_up_and_the_last_word_counts() -> None:
    job = handler().using(priority=1, queue="a").using(priority=2).new("ada")
    assert (job.priority, job.queue) == (2, "a")


def test_a_delay_counts_from_now_and_nought_is_at_once() -> None:
    assert handler().using(delay=timedelta(minutes=1)).new("ada").run_at == NOW + timedelta(minutes=1)
    assert handler().using(delay=0).new("ada").run_at is None


def test_a_later_delay_replaces_an_earlier_moment() -> None:
    later = NOW + timedelta(days=1)
    assert handler().using(run_at=later).using(delay=5).new("ada").run_at == NOW + timedelta(seconds=5)
    assert handler().using(delay=5).using(run_at=later).new("ada").run_at == later


def test_what_has_no_column_is_kept_as_the_jobs_options() -> None:
    job = handler().using(timeout=timedelta(seconds=5), backoff=[1, 2], max_crashes=7, retention=60).new("ada")
    assert job.options == '{"timeout":5.0,"backoff":[1.0,2.0],"max_crashes":7,"retention":60.0}'


def test_an_unknown_or_impossible_option_is_refused_at_once() -> None:
    for options in ({"prio": 1}, {"delay": -1}, {"executor": "process"}):
        with pytest.raises(InvalidHandler):
            handler().using(**options)


def test_a_job_follows_its_handlers_options_and_its_own_before_them() -> None:
    greeting = handler(timeout=5, backoff=2, max_crashes=4)
    assert greeting.policy(claimed()) == Policy(backoff=2.0, max_crashes=4)
    assert greeting.timeout_of(claimed()) == 5.0
    own = greeting.using(timeout=1, backoff=(0.0,), max_crashes=9).new("ada").options
    assert greeting.policy(claimed(own)) == Policy(backoff=(0.0,), max_crashes=9)
    assert greeting.timeout_of(claimed(own)) == 1.0


def test_part_of_the_options_may_be_the_jobs_own() -> None:
    greeting = handler(timeout=5, backoff=2, max_crashes=4)
    own = claimed('{"max_crashes":9,"unknown":1}')
    assert greeting.policy(own) == Policy(backoff=2.0, max_crashes=9)
    assert greeting.timeout_of(own) == 5.0


@pytest.mark.parametrize("options", ["nope", "[]", '{"timeout":"long"}', "\ud800"])
def test_options_that_cannot_be_read_count_as_none(options: str) -> None:
    assert handler(backoff=2, timeout=3).policy(claimed(options)).backoff == 2.0
    assert handler(backoff=2, timeout=3).timeout_of(claimed(options)) == 3.0


def test_unique_gives_equal_payloads_one_key() -> None:
    once = handler(unique=True)
    key = once.new("ada", loud=True).unique_key
    assert key == once.new_from({"loud": True, "name": "ada"}).unique_key
    assert key != once.new("bob", loud=True).unique_key
    assert key is not None
    assert len(key) == 64


def test_a_unique_key_that_is_named_wins_and_unique_can_be_switched_off() -> None:
    once = handler(unique=True)
    assert once.using(unique_key="mine").new("ada").unique_key == "mine"
    assert once.using(unique=False).new("ada").unique_key is None
    assert handler().using(unique=True).new("ada").unique_key is not None


def test_enqueue_sends_the_job_with_the_callers_connection() -> None:
    post, db = Post(), object()
    greeting = handler(post)
    assert greeting.enqueue("ada") == 1
    assert greeting.using(db=db).enqueue(name="bob") == 2
    assert asyncio.run(greeting.using(db=db).aenqueue("eve")) == 3
    assert [(job.payload, given) for job, given in post.sent] == [
        ('{"name":"ada"}', None),
        ('{"name":"bob"}', db),
        ('{"name":"eve"}', db),
    ]


def test_nothing_is_sent_of_a_payload_that_does_not_fit() -> None:
    post = Post()
    with pytest.raises(InvalidPayload) as caught:
        handler(post).enqueue(name=7)
    assert caught.value.field == "name"
    with pytest.raises(InvalidPayload):
        asyncio.run(handler(post).aenqueue())
    assert post.sent == []


def test_a_result_is_asked_for_as_the_type_that_the_function_returns() -> None:
    post = Post()
    assert handler(post).result(3, timeout=1.5) == "result"
    assert asyncio.run(handler(post).aresult(4)) == "result"
    assert post.asked == [(3, int, 1.5), (4, int, None)]


def test_a_declared_handler_takes_any_object_and_cannot_be_called() -> None:
    remote: JobHandler[..., Any] = JobHandler("far.away", None, HandlerOptions(), Post())
    assert remote.new(a=1).payload == '{"a":1}'
    assert remote.new({"a": 1}).payload == '{"a":1}'
    assert remote.new().payload is None
    assert remote.using(queue="gpu").new(a=1).queue == "gpu"
    with pytest.raises(InvalidPayload):
        remote.new(a=float("nan"))
    with pytest.raises(TypeError, match="another program"):
        remote(a=1)
