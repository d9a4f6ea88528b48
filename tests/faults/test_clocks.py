"""F10: whatever the wall clock does, who lives is not taken for dead, and nothing is lost or done twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.faults.running import campaign

from sidework import BackgroundService
from sidework.clock import FrozenClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_clocks_that_jump_by_an_hour_kill_nobody_and_lose_nothing(shim: Path, figures: Callable[[str], None]):
    found = campaign("clocks", "--seconds", 3, preload=shim)
    figures(
        f"F10 clock jumps: {found['jumps']} by an hour, {found['findings']['jobs']} jobs, lost "
        f"{found['findings']['lost']}, doubled {found['findings']['doubled']}, taken for dead {found['taken_for_dead']}"
    )
    assert found["findings"]["wrongs"] == []
    assert found["taken_for_dead"] == 0
    assert found["jumps"] > 50


def test_a_delayed_job_runs_once_across_the_hour_that_a_clock_repeats(tmp_path: Path):
    """The end of summer time: times are kept in UTC, and a clock that is set back does not make a job due twice."""
    clock = FrozenClock(datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
    service = BackgroundService(tmp_path / "app.db", clock=clock)
    ran = []
    service.register_job_handler("k", lambda: ran.append(clock.now()))
    service._registry.get("k").using(delay=1800).enqueue()
    service.run_until_idle()
    assert ran == []
    for step in (timedelta(hours=1), timedelta(hours=-1), timedelta(hours=1)):
        clock._now += step
        service.run_until_idle()
    assert ran == [datetime(2026, 10, 25, 1, 30, tzinfo=UTC)]
