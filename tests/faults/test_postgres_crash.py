"""F13: the server crashes during load, and comes back: no job is lost, no effect is there twice.

`SIDEWORK_RESTARTS=200 pytest tests/faults/test_postgres_crash.py` is the long run.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.faults.running import campaign, campaigns, percentile

if TYPE_CHECKING:
    from collections.abc import Callable

RESTARTS = int(os.environ.get("SIDEWORK_RESTARTS", "3"))
PATIENCE = 120 + RESTARTS * 20


@pytest.mark.timeout(PATIENCE + 30)
def test_a_crash_of_the_server_loses_no_job_and_doubles_no_effect(figures: Callable[[str], None]) -> None:
    found = campaign("crashes", "--restarts", RESTARTS, timeout=PATIENCE)
    findings, again = found["findings"], found["recoveries"]
    figures(
        f"F13 crashes: {found['restarts']}, {found['inside']} of them within a handler's transaction; "
        f"{findings['jobs']} jobs, {found['unanswered']} enqueues repeated; lost {findings['lost']}, doubled "
        f"{findings['doubled']}; a handler wrote again {percentile(again, 0.5):.2f} s (p50) "
        f"{percentile(again, 0.99):.2f} s (p99) after the server was back"
    )
    assert findings["wrongs"] == []
    assert found["restarts"] == RESTARTS
    assert found["inside"] > 0


@pytest.mark.timeout(300)
def test_what_the_server_has_not_synced_is_lost_by_the_same_crashes() -> None:
    """The control."""
    runs = campaigns("crashes", "--restarts", 2, "--relaxed", seeds=range(1, 4))
    assert any(found["findings"]["lost"] for found in runs)
