"""F1: a death is heard and not waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.running import campaign, percentile

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_killed_workers_job_runs_again_at_once(figures: Callable[[str], None]):
    found = campaign("recovery", "--kills", 30)
    p50, p99 = percentile(found["recoveries"], 0.5), percentile(found["recoveries"], 0.99)
    figures(f"F1 recovery: {found['kills']} kills inside a job, run again after {p50:.3f} s (p50) {p99:.3f} s (p99)")
    assert found["effects"] == found["kills"]
    # Four looks a second would give a median of 0.125 s and more; the bounds leave room for a machine that is busy.
    assert p50 < 0.5
    assert p99 < 3.0
