"""F19: the checker of histories finds what must not be, and nothing where all is well."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from tests.faults.history import COMMITTED, DIED, INVOKED, RETURNED, Check, Event, Log, read

if TYPE_CHECKING:
    from pathlib import Path

A, B = 101, 102


def events(*steps: tuple[str, int, int, int]) -> list[Event]:
    """Return events of the kinds, processes, jobs and claims given, one second apart."""
    return [Event(float(at), kind, who, job, claim, "q") for at, (kind, who, job, claim) in enumerate(steps)]


def test_a_job_that_was_run_again_after_a_death_is_well():
    check = Check(limits={"q": 1}).take(
        events((INVOKED, A, 1, 1), (DIED, A, 0, 0), (INVOKED, B, 1, 2), (RETURNED, B, 1, 2), (COMMITTED, B, 1, 2))
    )
    assert check.wrongs == []
    assert check.invocations == {1: 2}


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ([(INVOKED, A, 1, 1), (INVOKED, B, 1, 1)], "run twice under claim 1"),
        ([(INVOKED, A, 1, 2), (INVOKED, B, 1, 1)], "run twice under claim 1"),
        ([(INVOKED, A, 1, 1), (COMMITTED, A, 1, 1), (INVOKED, B, 1, 2)], "after claim 1 ended it"),
        ([(INVOKED, A, 1, 1), (COMMITTED, A, 1, 1), (COMMITTED, A, 1, 1)], "committed under claims 1 and 1"),
        ([(INVOKED, A, 1, 1), (INVOKED, B, 1, 2), (COMMITTED, A, 1, 1)], "superseded by 2"),
        ([(INVOKED, A, 1, 1), (INVOKED, A, 2, 1), (INVOKED, A, 3, 1)], "3 jobs of queue q ran at once"),
    ],
)
def test_what_must_not_be_is_found(steps: list[tuple[str, int, int, int]], wrong: str):
    check = Check(limits={"q": 2}).take(events(*steps))
    assert any(wrong in found for found in check.wrongs), check.wrongs


def test_what_was_written_is_read_in_the_order_of_its_times(tmp_path: Path):
    log = Log(tmp_path / "log")
    log.write(INVOKED, 7, 3, "mail")
    log.write_death(A)
    log.close()
    first, second = read(tmp_path / "log")
    assert (first.kind, first.job, first.number, first.queue) == (INVOKED, 7, 3, "mail")
    assert (second.kind, second.process) == (DIED, A)
    assert first.time <= second.time


def test_a_long_history_is_checked_in_a_time_that_grows_with_its_length():
    def seconds_for(jobs: int) -> float:
        history = [Event(float(job), kind, A, job, 1) for job in range(jobs) for kind in (INVOKED, RETURNED, COMMITTED)]
        began = time.process_time()
        assert Check().take(history).wrongs == []
        return time.process_time() - began

    assert min(seconds_for(20_000) for _ in range(3)) < 30 * min(seconds_for(2_000) for _ in range(3))
