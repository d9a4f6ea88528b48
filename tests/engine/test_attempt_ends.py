"""Every way an attempt can end, through a worker and a real database."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from sidework.engine.attempt import waiting_time
from sidework.engine.context import JobContext, current_job
from sidework.engine.events import JobEnded, JobStarted
from sidework.errors import Discard, Retry, Snooze
from sidework.model.job import JobStatus

if TYPE_CHECKING:
    from tests.engine.rig import Rig

WAYS = pytest.mark.parametrize("way", ["async", "thread", "loop"])


def register(rig: Rig, way: str, act, key: str = "k", **options):
    """Register a handler that does `act` in one of the three places where handlers run."""

    async def on_the_loop(job: JobContext):
        await asyncio.sleep(0)
        return act(job)

    def blocking(job: JobContext):
        return act(job)

    if way != "async":
        options["executor"] = way
    return rig.handler(key, **options)(on_the_loop if way == "async" else blocking)


def raising(error: BaseException):
    def act(job):
        raise error

    return act


async def run_one(rig: Rig, job_id: int):
    async with rig.working() as worker:
        await rig.finish(worker)
    return rig.job(job_id)


@WAYS
async def test_a_return_completes_the_job_with_its_value(rig: Rig, way):
    register(rig, way, lambda job: {"done": [job.attempt, job.key]})
    job = await run_one(rig, rig.add("k"))
    assert job.status is JobStatus.COMPLETED
    assert job.result == {"done": [1, "k"]}
    assert job.attempts == 1
    assert job.last_error is None


@WAYS
async def test_an_exception_brings_the_job_back_after_the_back_off(rig: Rig, way):
    register(rig, way, raising(ValueError("no such user")), backoff=8)
    job = await run_one(rig, rig.add("k"))
    assert job.status is JobStatus.SCHEDULED
    assert job.run_at == rig.clock.now() + timedelta(seconds=4)  # half of the bound: the rig's chance is 0.5
    assert job.attempts == 1
    assert job.last_error is not None
    assert job.last_error.startswith("ValueError: no such user\n")
    assert "in act" in job.last_error


@WAYS
async def test_a_job_that_comes_back_is_pending_when_it_is_due_and_fails_when_its_attempts_are_used_up(rig: Rig, way):
    seen = []

    def act(job):
        seen.append((job.attempt, job.max_attempts, job.idempotency_key))
        raise ValueError(job.attempt)

    register(rig, way, act, backoff=(10, 20))
    job_id = rig.add("k", max_attempts=3)
    async with rig.working() as worker:
        for wait in (10, 20):
            await rig.finish(worker)
            assert rig.status(job_id) == "SCHEDULED"
            rig.clock.advance(wait - 0.001)
            await rig.finish(worker)
            assert rig.status(job_id) == "SCHEDULED"
            rig.clock.advance(0.001)
        await rig.finish(worker)
    job = rig.job(job_id)
    assert job.status is JobStatus.FAILED
    assert job.attempts == 3
    assert job.last_error is not None
    assert job.last_error.startswith("ValueError: 3")
    assert [one[:2] for one in seen] == [(1, 3), (2, 3), (3, 3)]
    assert len({one[2] for one in seen}) == 1


@WAYS
@pytest.mark.parametrize(("after", "seconds"), [(90, 90), (timedelta(minutes=2), 120), (1e300, 36_500 * 86_400)])
async def test_retry_says_when_and_uses_an_attempt(rig: Rig, way, after, seconds):
    register(rig, way, raising(Retry("the server is busy", after=after)))
    job = await run_one(rig, rig.add("k"))
    assert job.status is JobStatus.SCHEDULED
    assert job.run_at == rig.clock.now() + timedelta(seconds=seconds)
    assert job.attempts == 1
    assert "the server is busy" in (job.last_error or "")


@pytest.mark.parametrize("after", [-5, -1e300, timedelta(days=-1), float("-inf")])
def test_a_wait_is_never_negative(after):
    assert waiting_time(after) == timedelta(0)


@WAYS
async def test_a_snooze_uses_no_attempt(rig: Rig, way):
    register(rig, way, raising(Snooze(60)))
    job = await run_one(rig, rig.add("k", max_attempts=1))
    assert job.status is JobStatus.SCHEDULED
    assert job.run_at == rig.clock.now() + timedelta(seconds=60)
    assert job.attempts == 0


@WAYS
async def test_a_discard_fails_the_job_at_once(rig: Rig, way):
    register(rig, way, raising(Discard("the user is gone\0")))
    job = await run_one(rig, rig.add("k"))
    assert job.status is JobStatus.FAILED
    assert job.last_error == "the user is gone\\x00"


@WAYS
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_what_would_end_a_program_only_fails_the_attempt(rig: Rig, way, error):
    register(rig, way, raising(error), key="bad")
    register(rig, way, lambda _: "fine", key="good")
    bad, good = rig.add("bad"), rig.add("good")
    async with rig.working() as worker:
        await rig.finish(worker)
    assert rig.status(bad) == "SCHEDULED"
    assert type(error).__name__ in (rig.job(bad).last_error or "")
    assert rig.status(good) == "COMPLETED"


@WAYS
async def test_a_result_that_is_no_json_fails_the_job_with_the_reason(rig: Rig, way):
    register(rig, way, lambda _: {"made": object()})
    job = await run_one(rig, rig.add("k"))
    assert job.status is JobStatus.FAILED
    assert "cannot be kept as a result" in (job.last_error or "")


@pytest.mark.parametrize("payload", ["'{not json'", "CAST(x'22ff22' AS TEXT)", "'[1]'", "'\"text\"'"])
async def test_a_raw_row_whose_payload_is_no_json_object_fails_at_once_and_the_worker_goes_on(rig: Rig, payload):
    called = []

    @rig.handler("k")
    def handle(payload):
        called.append(payload)

    rig.sql(f"INSERT INTO background_service_jobs (job_key, payload) VALUES ('k', {payload})")
    good = rig.add("k", "{}")
    async with rig.working() as worker:
        await rig.finish(worker)
    assert rig.status(1) == "FAILED"
    assert "payload" in (rig.job(1).last_error or "")
    assert rig.status(good) == "COMPLETED"
    assert called == [{}]


async def test_a_payload_that_does_not_fit_is_an_ordinary_failure_naming_the_field(rig: Rig):
    @rig.handler("k")
    def handle(user_id: int): ...

    job = await run_one(rig, rig.add("k", '{"user_id": "x"}'))
    assert job.status is JobStatus.SCHEDULED
    assert "user_id" in (job.last_error or "")


async def test_what_the_service_gives_is_given_by_name(rig: Rig):
    seen = []

    @rig.handler("k")
    def handle(service, job: JobContext, payload, number: int):
        seen.append((service, job.id, payload, number))

    job_id = rig.add("k", '{"number": 7}')
    await run_one(rig, job_id)
    assert seen == [(rig, job_id, {"number": 7}, 7)]


async def test_a_key_that_nobody_here_knows_stays(rig: Rig):
    register(rig, "async", lambda _: None)
    unknown, known = rig.add("elsewhere"), rig.add("k")
    async with rig.working() as worker:
        await rig.finish(worker)
        rig.clock.advance(3600)
        await rig.finish(worker)
    assert rig.status(unknown) == "PENDING"
    assert rig.status(known) == "COMPLETED"


async def test_a_declared_handler_is_not_claimed_for(rig: Rig):
    rig.registry.declare("elsewhere")
    job_id = rig.add("elsewhere")
    async with rig.working() as worker:
        await rig.finish(worker)
    assert rig.status(job_id) == "PENDING"


async def test_a_handler_that_vanished_after_the_claim_fails_the_attempt(rig: Rig):
    register(rig, "async", lambda _: None)
    job_id = rig.add("k")
    async with rig.working() as worker:
        worker._handlers = dict(worker._handlers)
        worker._runner._handlers = {}
        await rig.finish(worker)
    assert rig.status(job_id) == "SCHEDULED"
    assert "UnknownJobKey" in (rig.job(job_id).last_error or "")


@WAYS
async def test_the_running_job_is_known_inside_its_handler_and_nowhere_else(rig: Rig, way):
    seen = []
    register(rig, way, lambda job: seen.append(current_job.get() is job))
    await run_one(rig, rig.add("k"))
    assert seen == [True]
    assert current_job.get() is None


async def test_events_tell_the_start_and_the_end_without_the_payload(rig: Rig):
    register(rig, "thread", lambda _: None)
    job_id = rig.add("k", '{"secret": "canary"}')
    await run_one(rig, job_id)
    [started] = rig.of(JobStarted)
    [ended] = rig.of(JobEnded)
    assert (started.job_id, started.key, started.queue, started.attempt) == (job_id, "k", "default", 1)
    assert (ended.job_id, ended.status) == (job_id, JobStatus.COMPLETED)
    assert "canary" not in "".join(map(str, rig.events))
