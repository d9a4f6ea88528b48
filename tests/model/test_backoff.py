"""When to try again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sidework.model.backoff import delay_before_retry

ALMOST_ONE = 1 - 2**-53


@pytest.mark.parametrize(
    ("failures", "bound"), [(1, 1), (2, 2), (3, 4), (11, 1024), (12, 2048), (13, 3600), (10_000, 3600)]
)
def test_the_bound_doubles_from_one_second_to_an_hour(failures: int, bound: float) -> None:
    assert delay_before_retry(failures, None, ALMOST_ONE) == timedelta(seconds=bound)


def test_the_delay_is_drawn_evenly_below_the_bound() -> None:
    assert delay_before_retry(5, None, 0.0) == timedelta(0)
    assert delay_before_retry(5, None, 0.5) == timedelta(seconds=8)


def test_a_number_is_the_first_bound() -> None:
    assert delay_before_retry(3, 10.0, 0.5) == timedelta(seconds=20)
    assert delay_before_retry(3, 0.0, 0.5) == timedelta(0)


def test_a_list_is_the_delays_themselves_the_last_one_repeated() -> None:
    delays = [delay_before_retry(failures, (1.0, 5.0, 30.0), 0.0) for failures in (1, 2, 3, 4, 99)]
    assert [delay.total_seconds() for delay in delays] == [1, 5, 30, 30, 30]
