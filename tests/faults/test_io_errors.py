"""F4: whichever write or sync fails, nothing acknowledged is lost and nothing hangs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.running import campaign

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_failing_writes_lose_nothing_and_hang_nobody(shim: Path, figures: Callable[[str], None]):
    found = campaign("io_errors", "--cases", 40, "--seconds", 30, "--seed", 4, preload=shim)
    figures(
        f"F4 failing writes and syncs: {found['cases']} runs at {found['positions']} of {found['calls']} calls, "
        f"{found['failures']} failures, {found['refused']} refused enqueues and starts, {found['findings']['jobs']} "
        f"jobs, lost {found['findings']['lost']}, doubled {found['findings']['doubled']}, hangs {found['hangs']}"
    )
    assert found["findings"]["wrongs"] == [], f"--seed {found['seed']} repeats it"
    assert found["cases"] >= 10
    assert found["failures"] > found["cases"]
