"""Options of a handler and of one job: what is allowed, and what the error says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sidework.errors import InvalidHandler
from sidework.model.options import HandlerOptions, check_key, handler_options, job_options


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert handler_options({}) == HandlerOptions(
        queue="default",
        priority=0,
        max_attempts=3,
        timeout=None,
        backoff=None,
        max_crashes=3,
        unique=False,
        retention=None,
    )


def test_times_are_seconds_or_timedeltas_and_kept_as_seconds() -> None:
    options = handler_options({"timeout": timedelta(minutes=1), "retention": 5, "backoff": [1, timedelta(seconds=2)]})
    assert (options.timeout, options.retention, options.backoff) == (60.0, 5.0, (1.0, 2.0))
    assert handler_options({"backoff": timedelta(seconds=3)}).backoff == 3.0


def test_none_means_the_default() -> None:
    assert handler_options({"timeout": None, "queue": None}) == HandlerOptions()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("queue", "", "1 to 200 characters"),
        ("queue", "a" * 201, "1 to 200 characters"),
        ("queue", "a\nb", "control characters"),
        ("queue", "caf\udce9", "control characters"),
        ("queue", 7, "must be text"),
        ("priority", "high", "whole number"),
        ("priority", 1.5, "whole number"),
        ("priority", True, "whole number"),
        ("priority", 2**63, "64 bits"),
        ("max_attempts", 0, "at least 1"),
        ("timeout", 0, "longer than zero"),
        ("timeout", -1, "not negative"),
        ("timeout", float("nan"), "not negative and not infinite"),
        ("timeout", float("inf"), "not infinite"),
        ("timeout", "5", "seconds or a timedelta"),
        ("timeout", True, "seconds or a timedelta"),
        ("backoff", (), "at least one delay"),
        ("backoff", [1, -1], "not negative"),
        ("backoff", "fast", "seconds or a timedelta"),
        ("max_crashes", 0, "at least 1"),
        ("unique", 1, "True or False"),
        ("executor", "process", "'thread' or 'loop'"),
        ("executor", [], "'thread' or 'loop'"),
        ("retention", -1, "not negative"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(option: str, value: object, words: str) -> None:
    with pytest.raises(InvalidHandler, match=words) as caught:
        handler_options({option: value})
    assert str(caught.value).startswith(f"{option}=")


@pytest.mark.parametrize("priority", [-(2**63), 2**63 - 1])
def test_a_priority_has_64_bits(priority: int) -> None:
    assert handler_options({"priority": priority}).priority == priority


@pytest.mark.parametrize(
    ("check", "name", "words"),
    [
        (handler_options, "max_attempt", "did you mean 'max_attempts'?"),
        (handler_options, "delay", "there are: "),
        (job_options, "prio", "did you mean 'priority'?"),
        (job_options, "grace", "there are: db, queue, priority"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_one(check: Any, name: str, words: str) -> None:
    with pytest.raises(InvalidHandler) as caught:
        check({name: 1})
    assert f"unknown option {name!r}" in str(caught.value)
    assert words in str(caught.value)


def test_run_at_must_be_aware_and_becomes_utc() -> None:
    at = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert job_options({"run_at": at}) == {"run_at": datetime(2026, 1, 1, 10, tzinfo=UTC)}
    with pytest.raises(InvalidHandler, match="has no time zone"):
        job_options({"run_at": datetime(2026, 1, 1)})  # noqa: DTZ001 - the naive one is the example
    with pytest.raises(InvalidHandler, match="datetime with a time zone"):
        job_options({"run_at": "2026-01-01"})


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-14))])
@pytest.mark.parametrize("at", [datetime.min, datetime(1, 1, 2, 3), datetime(9999, 12, 30, 22), datetime.max])  # noqa: DTZ001, DTZ901
def test_run_at_must_be_a_moment_that_every_time_zone_can_tell(at: datetime, zone: timezone) -> None:
    with pytest.raises(InvalidHandler, match="must lie between 1-01-03 and 9999-12-29"):
        job_options({"run_at": at.replace(tzinfo=zone)})


def test_delay_and_run_at_exclude_each_other() -> None:
    with pytest.raises(InvalidHandler, match="not both"):
        job_options({"delay": 1, "run_at": datetime(2026, 1, 1, tzinfo=UTC)})


@pytest.mark.parametrize("delay", [-1, timedelta(seconds=-1), float("inf"), 1e300])
def test_a_delay_is_not_negative_and_has_an_end(delay: object) -> None:
    with pytest.raises(InvalidHandler, match="delay="):
        job_options({"delay": delay})


@pytest.mark.parametrize("key", ["", "a\0", "x" * 201, None, 3])
def test_a_key_is_printable_text(key: object) -> None:
    with pytest.raises(InvalidHandler, match="key="):
        check_key(key)
